"""`descend`: one gradient step on the weighted mean loss of a batch.

Replicas, micro-batches, loss scaling, gradient clipping and non-finite losses are all handled here.
The functions need no model, only a `State`, variables and their optimizers.

Shapes: `B` examples in this replica's part of the batch, `K` micro-batches.
"""

import typing

import numpy as np
import tensorflow as tf

# Dynamic loss scaling (Micikevicius et al. 2018, section 3.2) with the usual constants.
INITIAL_LOSS_SCALE = 2.0**15
LOSS_SCALE_GROWTH_STEPS = 2000  # finite steps after which the scale is doubled


class State:
    """The state of `descend` besides weights and optimizers; create it inside the strategy's scope.

    Attributes:
        step: int64 scalar variable, the number of finished steps. `descend` only reads it.
        failed_step: int64 scalar variable: the step whose loss or gradient was not finite, or -1.
        loss_scale: float32 scalar variable; 1 except under float16.
        finite_steps: int64 scalar variable, the number of finite updates since the scale last changed.
        scales_loss: bool, whether the loss is scaled (float16 only).
        clip_norm: maximum global gradient norm, applied to each player of a game (such as a GAN) separately; or None.
        accumulate: number of micro-batches per update.
    """

    def __init__(self, scales_loss=False):
        def scalar(value, dtype, name):
            first = tf.VariableAggregation.ONLY_FIRST_REPLICA
            return tf.Variable(value, dtype=dtype, trainable=False, aggregation=first, name=name)

        self.step = scalar(0, tf.int64, "step")
        self.failed_step = scalar(-1, tf.int64, "failed_step")
        self.loss_scale = scalar(INITIAL_LOSS_SCALE if scales_loss else 1.0, tf.float32, "loss_scale")
        self.finite_steps = scalar(0, tf.int64, "finite_steps")
        self.scales_loss, self.clip_norm, self.accumulate = scales_loss, None, 1

    def set(self, clip_norm=None, accumulate=1):
        """Sets clipping and accumulation. Raises ValueError if a value is out of range."""
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1. Received: {accumulate}")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive or None. Received: {clip_norm}")
        self.clip_norm, self.accumulate = clip_norm, accumulate


class Update(typing.NamedTuple):
    """The results of `descend`: float32 scalars, except for `finite`.

    A mean metric updated with `mean` and `weight` on every replica holds the global mean and the global weight.
    """

    mean: typing.Any  # the loss over the global batch; a list if the loss returned a list
    weight: typing.Any  # this replica's part of the weight that the loss is divided by
    norms: list  # global gradient norms before clipping: one, or one for each player of a game
    finite: typing.Any  # bool: whether the loss and all gradients are finite


def build_optimizers(groups):
    """Builds the optimizers of `groups`, a list of (optimizer, variables); call it inside the strategy's scope.

    Raises:
        ValueError: an optimizer has gradient clipping or accumulation of its own.
    """
    for optimizer, variables in groups:
        for option in ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps"):
            if getattr(optimizer, option, None):
                raise ValueError(
                    f"The optimizer must not set {option}, which would act on each replica separately. "
                    f"Use compile(clip_norm=..., accumulate=...). Received: {getattr(optimizer, option)}"
                )
        if not optimizer.built:
            optimizer.build(variables)
        # `descend` has already summed the gradients over replicas, to compute their norm. If the
        # optimizer summed them again, two replicas would take a step of twice the size.
        optimizer._all_reduce_sum_gradients = list


def descend(state, loss, batch, groups):
    """Updates the variables in `groups` once, with the same result on any number of replicas.

    Call it in replica context. The gradient is that of Σ total / Σ weight, where both sums are over replicas and
    micro-batches. The mean of the replicas' means would differ from it if replicas have different weights.

    If the loss or a gradient is not finite, no trainable weight and no optimizer state changes, and
    `state.failed_step` is set. Later updates in the same step change nothing either. If only the scaled
    gradients overflow, the update is skipped and the scale is halved.

    Args:
        state: `State`.
        loss: function of this replica's part of the batch that returns two float32 scalars, (total, weight): the
            summed loss, and the number to divide it by (examples, target tokens, masked frames). In a game,
            `total` is a list with one loss for each group; one forward pass gives the gradient of each.
        batch: dict of tensors (B, …); B must be a multiple of `state.accumulate`.
        groups: list of (optimizer, variables), built by `build_optimizers`.

    Returns:
        An `Update`.
    """
    replica = tf.distribute.get_replica_context()
    gradients, totals, local_weight = mean_gradients(state, loss, batch, groups)
    is_game = isinstance(totals, list)
    *totals, weight = replica.all_reduce(tf.distribute.ReduceOp.SUM, [*tf.nest.flatten(totals), local_weight])
    if replica.num_replicas_in_sync > 1:
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)

    scale = 1.0 / state.loss_scale if state.scales_loss else tf.constant(1.0)
    players = split_by_group(gradients, groups) if len(totals) > 1 else [gradients]
    norms = [tf.linalg.global_norm(own) * scale for own in players]
    loss_is_finite = tf.reduce_all(tf.math.is_finite(totals))
    finite = loss_is_finite & tf.reduce_all(tf.math.is_finite(norms))
    if state.scales_loss or state.clip_norm is not None:
        max_norm = state.clip_norm or np.inf
        factors = [scale * tf.minimum(1.0, tf.math.divide_no_nan(max_norm, norm)) for norm in norms]
        gradients = [gradient * factor for factor, own in zip(factors, players) for gradient in own]
    # Only cross-replica context can skip the update on all replicas at once.
    replica.merge_call(_apply, args=(state, groups, gradients, loss_is_finite, finite))
    means = [tf.math.divide_no_nan(total, weight) for total in totals]
    return Update(means if is_game else means[0], local_weight, norms, finite)


def mean_gradients(state, loss, batch, groups):
    """Returns this replica's (gradients of loss_scale · Σ total / Σ weight as a flat list, Σ total, Σ weight)."""
    if state.accumulate == 1:
        return _gradients(state, loss, batch, groups, _sum_over_replicas)

    def split(x):  # (B, …) -> (K, B/K, …)
        sides = [side or tf.shape(x)[axis] for axis, side in enumerate(x.shape) if axis]
        return tf.reshape(x, [state.accumulate, -1, *sides])

    micro = tf.nest.map_structure(split, batch)

    def micro_sums(k):
        part = tf.nest.map_structure(lambda x: x[k], micro)
        gradients, totals, weight = _gradients(state, loss, part, groups, tf.identity)
        return [g * weight for g in gradients], totals, weight

    _, (gradients, totals, weight) = tf.while_loop(
        lambda k, _: k < state.accumulate,
        lambda k, sums: (k + 1, tf.nest.map_structure(lambda total, new: total + new, sums, micro_sums(k))),
        (1, micro_sums(0)),
        parallel_iterations=1,
        maximum_iterations=state.accumulate - 1,
    )
    global_weight = _sum_over_replicas(weight)
    return [tf.math.divide_no_nan(g, global_weight) for g in gradients], totals, weight


def split_by_group(gradients, groups):
    """Splits a flat list of gradients into one list for each group."""
    gradients = iter(gradients)
    return [[next(gradients) for _ in variables] for _, variables in groups]


def _sum_over_replicas(weight):
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return weight
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, weight)


def _gradients(state, loss, batch, groups, reduce_weight):
    """Returns (gradients of total / `reduce_weight`(weight) as a flat list, total, weight) of one micro-batch."""
    variables = [variable for _, members in groups for variable in members]
    with tf.GradientTape(persistent=len(groups) > 1) as tape:
        totals, weight = loss(batch)
    players = [members for _, members in groups] if isinstance(totals, list) else [variables]
    # The gradient of the mean, unlike that of the sum, stays in float16's range. It is divided by the global
    # weight already here, because gradients also flow between replicas (through gathered negatives or batch
    # statistics) and must all have the same scale.
    unit = tf.math.divide_no_nan(tf.identity(state.loss_scale), reduce_weight(weight))
    gradients = []
    for total, members in zip(tf.nest.flatten(totals), players):
        gradients += tape.gradient(total, [v.value for v in members], output_gradients=unit)
    missing = [v.path for v, g in zip(variables, gradients) if g is None]
    if missing:
        raise ValueError(f"The loss does not depend on these trainable variables: {missing}. Use or freeze them.")
    return [tf.convert_to_tensor(g) for g in gradients], totals, weight


def _apply(strategy, state, groups, gradients, loss_is_finite, finite):
    """Applies the gradients in cross-replica context if all are finite; skips all optimizers otherwise."""
    loss_is_finite = strategy.experimental_local_results(loss_is_finite)[0]
    finite = strategy.experimental_local_results(finite)[0]
    finite &= state.failed_step < 0  # an earlier update in this step may have failed

    def optimize(gradients):
        for (optimizer, variables), own in zip(groups, split_by_group(gradients, groups)):
            optimizer.apply(own, variables)

    def update():
        strategy.extended.call_for_each_replica(optimize, args=(gradients,))
        if state.scales_loss:
            grow = state.finite_steps + 1 >= LOSS_SCALE_GROWTH_STEPS
            state.loss_scale.assign(tf.where(grow, 2.0 * state.loss_scale, state.loss_scale))
            state.finite_steps.assign(tf.where(grow, tf.zeros_like(state.finite_steps), state.finite_steps + 1))

    def skip():
        failed = tf.constant(True)
        if state.scales_loss:  # float16 gradients overflow now and then: halve the scale and continue
            failed = ~loss_is_finite | (state.loss_scale <= 1.0)
            state.loss_scale.assign(tf.maximum(state.loss_scale / 2.0, 1.0))
            state.finite_steps.assign(tf.zeros_like(state.finite_steps))
        state.failed_step.assign(tf.where(failed, state.step, state.failed_step))

    tf.cond(finite, update, skip)
