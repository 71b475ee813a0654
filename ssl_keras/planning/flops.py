"""FLOPs of a training step and peak FLOP/s of a device, for the model FLOPs utilization (MFU; Chowdhery et al. 2022,
PaLM, appendix B).

Matrix products and convolutions are counted, with two operations for each multiply-add. Everything else is a few
percent of these. The counts are those of the graph: `remat` adds a third to what the network needs, and Muon adds the
products that orthogonalize its updates.
"""

import functools
import math
import time

import tensorflow as tf

CONVOLUTIONS = {  # type: input index of the filter and of the tensor of output positions; None is the op's own output
    "Conv2D": (1, None),
    "Conv2DBackpropInput": (1, 2),
    "Conv2DBackpropFilter": (None, 2),
    "DepthwiseConv2dNative": (1, None),
    "DepthwiseConv2dNativeBackpropInput": (1, 2),
    "DepthwiseConv2dNativeBackpropFilter": (None, 2),
}
# Dense FLOP/s in 16 and 32 bits (TF32); bytes of memory; bytes/s from a GPU to the others of its node, and from a node
# of eight to other nodes. These are the vendors' specifications of A100 SXM with 8 × 200 Gb/s, and of H100 and H200 SXM
# with 8 × 400 Gb/s.
GPUS = {
    "a100": {"16": 312e12, "32": 156e12, "memory": 80e9, "neighbors": 300e9, "node": 200e9},
    "h100": {"16": 989e12, "32": 494e12, "memory": 80e9, "neighbors": 450e9, "node": 400e9},
    "h200": {"16": 989e12, "32": 494e12, "memory": 141e9, "neighbors": 450e9, "node": 400e9},
}
OTHERS = ("pcie", "nvl")  # in the names of variants that are slower than SXM
ALIASES = {"Identity", "IdentityN", "Reshape", "ExpandDims", "Squeeze", "StopGradient", "EnsureShape"}
SIDE, TRIES = 1024, 5  # of the matrix product that measures a CPU's peak


def operations(graph):
    """Returns the FLOPs of one run of a graph, or None if a shape or a loop count is known only at run time."""
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
    """Returns twice the product of shapes and numbers, or None if one of them is unknown."""
    total = 2
    for side in sides:
        size = side.num_elements() if isinstance(side, tf.TensorShape) else side
        if size is None:
            return None
        total *= size
    return total


def _einsum(op):
    if len(op.inputs) == 1:  # a transpose or a sum
        return 0
    inputs = op.get_attr("equation").decode().partition("->")[0]
    sides = {}
    for labels, tensor in zip(inputs.split(","), op.inputs):
        if tensor.shape.rank is None:
            return None
        before, dots, after = labels.partition("...")
        more = tensor.shape.rank - len(before) - len(after) if dots else 0  # axes of the ellipsis, aligned at their end
        names = [*before, *range(-more, 0), *after]
        sides |= {name: side for name, side in zip(names, tensor.shape) if sides.get(name) in (None, 1)}
    return _product(*sides.values())


def _convolution(op):
    """Returns the FLOPs of a convolution or one of its gradients: the filter's size for each position of the output."""
    filter_index, output_index = CONVOLUTIONS[op.type]
    kernel = op.outputs[0].shape if filter_index is None else op.inputs[filter_index].shape
    output = (op.outputs[0] if output_index is None else op.inputs[output_index]).shape
    if kernel.rank is None or output.rank is None:
        return None
    channels_last = op.get_attr("data_format") == b"NHWC"
    axes = (0, 1, 2) if channels_last else (0, 2, 3)
    return _product(*(output[axis] for axis in axes), kernel)


def _loop(op, graph):
    """Returns the FLOPs of a loop that runs `maximum_iterations` times."""
    body = operations(_body(op, graph, "body"))
    if not body:
        return body
    iterations = tf.get_static_value(op.inputs[1])
    return None if iterations is None or iterations < 0 else body * int(iterations)


def live_bytes(graph):
    """Returns the peak memory of a graph's tensors in bytes, if its ops run in the order of their creation.

    For a training step these are the activations at the end of the forward pass and the first gradients. Variables,
    the memory of a loop for its gradient, and tensors whose shape is known only at run time are not counted.
    """
    last, source, size = {}, {}, {}
    order = graph.get_operations()
    for index, op in enumerate(order):
        aliased = op.type in ALIASES and op.inputs
        for output in op.outputs:
            # The output of an alias shares the memory of its input.
            source[output.ref()] = source[op.inputs[0].ref()] if aliased else output.ref()
            if aliased or op.type in ("ReadVariableOp", "Const") or output.dtype in (tf.resource, tf.variant):
                continue
            size[output.ref()] = (output.shape.num_elements() or 0) * output.dtype.size
            last[output.ref()] = index
        for tensor in op.inputs:
            last[source[tensor.ref()]] = index
    freed = {}
    for ref, index in last.items():
        freed.setdefault(index, []).append(size.get(ref, 0))
    current = peak_bytes = 0
    for index, op in enumerate(order):
        current += sum(size.get(output.ref(), 0) for output in op.outputs)
        peak_bytes = max(peak_bytes, current)
        current -= sum(freed.get(index, ()))
    return peak_bytes


def learns(tensor):
    """Returns whether a gradient flows from a tensor to a variable."""
    seen, stack = set(), [tensor]
    while stack:
        op = stack.pop().op
        if op.type == "ReadVariableOp":
            return True
        if op.name not in seen and op.type != "StopGradient":
            seen.add(op.name)
            stack += [each for each in op.inputs if each.dtype.is_floating or each.dtype == tf.resource]
    return False


def devices(strategy):
    """Returns the number of GPUs of this process that a strategy uses, or 1 without GPUs."""
    if not tf.config.list_physical_devices("GPU") or strategy.num_replicas_in_sync == 1:
        return 1
    return len(strategy.extended.worker_devices)


@functools.cache
def peak(precision="float32"):
    """Returns (peak FLOP/s of one GPU of this machine, or of its CPUs; the source of the number).

    For a known GPU this is the vendor's specification, else the speed of a large matrix product.
    """
    gpus = tf.config.list_physical_devices("GPU")
    sixteen = precision != "float32"
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "")
        for key, figures in GPUS.items():
            if key in name.lower() and not any(other in name.lower() for other in OTHERS):
                return figures["16" if sixteen else "32"], f"{name}, specification"
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
    return 2 * side**3 / best, "measured with a large matrix product"
