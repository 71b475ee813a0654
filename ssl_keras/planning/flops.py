"""How many operations a step takes, and how many a device could do: model FLOPs utilization (Chowdhery et al. 2022,
PaLM, appendix B).

Counted are products of matrices and convolutions, two operations for each multiplication and addition; all else is a
few percent of them. What is counted is what the graph does: with `remat` that is a third more than the network needs,
with Muon there are the products that make its updates orthogonal.
"""

import functools
import math
import time

import tensorflow as tf

CONVOLUTIONS = {  # type: the index of its filter's (or its sizes') input, and of the tensor whose places are summed over
    "Conv2D": (1, None),
    "Conv2DBackpropInput": (1, 2),
    "Conv2DBackpropFilter": (None, 2),
    "DepthwiseConv2dNative": (1, None),
    "DepthwiseConv2dNativeBackpropInput": (1, 2),
    "DepthwiseConv2dNativeBackpropFilter": (None, 2),
}
# Dense operations/s in 16 bit and in 32 (of GPUs: TF32); bytes of memory; bytes/s of a GPU to its neighbors, and of a
# node of eight to the others: the makers' figures for A100 SXM with 8 × 200 Gb/s, H100 and H200 SXM with 8 × 400 Gb/s.
GPUS = {
    "a100": {"16": 312e12, "32": 156e12, "memory": 80e9, "neighbors": 300e9, "node": 200e9},
    "h100": {"16": 989e12, "32": 494e12, "memory": 80e9, "neighbors": 450e9, "node": 400e9},
    "h200": {"16": 989e12, "32": 494e12, "memory": 141e9, "neighbors": 450e9, "node": 400e9},
}
OTHERS = ("pcie", "nvl")  # cards of these names that are slower than SXM's
ALIASES = {"Identity", "IdentityN", "Reshape", "ExpandDims", "Squeeze", "StopGradient", "EnsureShape"}
SIDE, TRIES = 1024, 5  # of the product that a CPU's peak is measured with


def operations(graph):
    """Of one run of a graph; None where a shape in it, or how often a loop runs, is known only as it runs."""
    total = 0
    for op in graph.get_operations():
        if op.type in ("MatMul", "BatchMatMulV2", "BatchMatMul"):
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            count = _product(op.outputs[0].shape, op.inputs[0].shape[-2 if transposed else -1])
        elif op.type == "Einsum":
            count = _einsum(op)
        elif op.type in CONVOLUTIONS:
            count = _convolution(op)
        elif op.type in ("While", "StatelessWhile"):
            count = _loop(op, graph)
        elif op.type in ("If", "StatelessIf"):
            branches = [operations(_body(op, graph, name)) for name in ("then_branch", "else_branch")]
            count = None if None in branches else max(branches)
        elif op.type in ("PartitionedCall", "StatefulPartitionedCall"):
            count = operations(_body(op, graph, "f"))
        else:
            continue
        if count is None:
            return None
        total += count
    return total


def _body(op, graph, attribute):
    return graph._get_function(op.get_attr(attribute).name).graph


def _product(*sides):
    """Twice the product of shapes and numbers; None where one of them is not known."""
    total = 2
    for side in sides:
        whole = side.num_elements() if isinstance(side, tf.TensorShape) else side
        if whole is None:
            return None
        total *= whole
    return total


def _einsum(op):
    if len(op.inputs) == 1:  # a transposition or a sum
        return 0
    inputs = op.get_attr("equation").decode().partition("->")[0]
    sides = {}
    for labels, tensor in zip(inputs.split(","), op.inputs):
        if "..." in labels or tensor.shape.rank is None:
            return None
        sides |= {label: side for label, side in zip(labels, tensor.shape) if sides.get(label) is None}
    return _product(*sides.values())


def _convolution(op):
    """The forward pass and both gradients multiply alike: each place of the output with the whole filter."""
    filter_at, places_at = CONVOLUTIONS[op.type]
    kernel = op.outputs[0].shape if filter_at is None else op.inputs[filter_at].shape
    places = (op.outputs[0] if places_at is None else op.inputs[places_at]).shape
    if kernel.rank is None or places.rank is None:
        return None
    channels_last = op.get_attr("data_format") == b"NHWC"
    where = (0, 1, 2) if channels_last else (0, 2, 3)
    return _product(*(places[axis] for axis in where), kernel)


def _loop(op, graph):
    """A loop's body, as often as `maximum_iterations` allows."""
    inside = operations(_body(op, graph, "body"))
    if not inside:
        return inside
    most = tf.get_static_value(op.inputs[1])
    return None if most is None or most < 0 else inside * int(most)


def live_bytes(graph):
    """The most bytes of tensors that are needed at a time where a graph runs in the order in which it was made: of a
    step, the activations at the end of the forward pass and what joins them.

    Variables are not among them, nor what a loop keeps for its gradient, nor tensors whose shape is known only as they
    are made.
    """
    last, source, size = {}, {}, {}
    order = graph.get_operations()
    for place, op in enumerate(order):
        aliased = op.type in ALIASES and op.inputs
        for output in op.outputs:
            # What only looks at another tensor has that one's memory.
            source[output.ref()] = source[op.inputs[0].ref()] if aliased else output.ref()
            if aliased or op.type in ("ReadVariableOp", "Const") or output.dtype in (tf.resource, tf.variant):
                continue
            size[output.ref()] = (output.shape.num_elements() or 0) * output.dtype.size
            last[output.ref()] = place
        for tensor in op.inputs:
            last[source[tensor.ref()]] = place
    ends = {}
    for ref, place in last.items():
        ends.setdefault(place, []).append(size.get(ref, 0))
    now = most = 0
    for place, op in enumerate(order):
        now += sum(size.get(output.ref(), 0) for output in op.outputs)
        most = max(most, now)
        now -= sum(ends.get(place, ()))
    return most


def learns(tensor):
    """Whether a tensor depends on a variable in a way that a gradient can take back."""
    seen, waiting = set(), [tensor]
    while waiting:
        op = waiting.pop().op
        if op.type == "ReadVariableOp":
            return True
        if op.name not in seen and op.type != "StopGradient":
            seen.add(op.name)
            waiting += [each for each in op.inputs if each.dtype.is_floating or each.dtype == tf.resource]
    return False


def devices(strategy):
    """How many GPUs of this process a strategy uses; 1 where there are none."""
    if not tf.config.list_physical_devices("GPU") or strategy.num_replicas_in_sync == 1:
        return 1
    return len(strategy.extended.worker_devices)


@functools.cache
def peak(precision="float32"):
    """(operations/s that a GPU of this machine could do, or its CPU; where the number is from).

    Of a known GPU the maker's figure; else what a large product of matrices reaches here.
    """
    gpus = tf.config.list_physical_devices("GPU")
    sixteen = precision != "float32"
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "")
        for key, figures in GPUS.items():
            if key in name.lower() and not any(other in name.lower() for other in OTHERS):
                return figures["16" if sixteen else "32"], f"{name}, as its maker says"
    dtype = {"mixed_bfloat16": tf.bfloat16, "mixed_float16": tf.float16}.get(precision, tf.float32)
    side = 8 * SIDE if gpus else SIDE
    matrix = tf.random.stateless_normal((side, side), (0, 0), dtype=dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)))
    product()
    best = math.inf
    for _ in range(TRIES):
        start = time.perf_counter()
        product().numpy()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best, "measured: a large product of matrices"
