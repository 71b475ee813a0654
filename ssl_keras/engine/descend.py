"""`descend`: one update of weights by the gradient of a batch's weighted mean loss.

The one place that knows of replicas, micro-batches, loss scaling, clipping and failure. It needs no
model: a `State`, variables and their optimizers are enough.

Shapes: `B` examples in this replica's part of the batch, `K` micro-batches.
"""

import typing

import numpy as np
import tensorflow as tf

# Loss scaling as in Micikevicius et al. 2018 (section 3.2), with the usual constants.
LOSS_SCALE_START = 2.0**15
LOSS_SCALE_GROWS_AFTER = 2000  # finite steps


class State:
    """Holds what updates read and write besides weights; create it inside the strategy's scope.

    Attributes:
        step: int64 scalar variable, steps done so far. `descend` only reads it.
        failed_step: int64 scalar variable, -1, or the step whose loss or gradient was not finite.
        loss_scale: float32 scalar variable; 1 except under float16.
        finite_steps: int64 scalar variable, updates since the scale last changed.
        scales_loss: whether the loss is scaled.
        clip_norm: largest global gradient norm, of a game for each player, or None.
        accumulate: micro-batches per update.
    """

    def __init__(self, scales_loss=False):
        def scalar(value, dtype, name):
            first = tf.VariableAggregation.ONLY_FIRST_REPLICA
            return tf.Variable(value, dtype=dtype, trainable=False, aggregation=first, name=name)

        self.step = scalar(0, tf.int64, "step")
        self.failed_step = scalar(-1, tf.int64, "failed_step")
        self.loss_scale = scalar(LOSS_SCALE_START if scales_loss else 1.0, tf.float32, "loss_scale")
        self.finite_steps = scalar(0, tf.int64, "finite_steps")
        self.scales_loss, self.clip_norm, self.accumulate = scales_loss, None, 1

    def set(self, clip_norm=None, accumulate=1):
        """Sets how to descend. Raises ValueError where a value is out of range."""
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1. Received: {accumulate}")
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"clip_norm must be positive or None. Received: {clip_norm}")
        self.clip_norm, self.accumulate = clip_norm, accumulate


class Update(typing.NamedTuple):
    """Results of `descend`, float32 scalars but for `finite`.

    A metric updated with `mean` and `weight` sums up, over replicas, to the mean and the global weight.
    """

    mean: typing.Any  # the loss over the global batch; a list of them where the loss returned a list
    weight: typing.Any  # this replica's part of what the loss was divided by
    norms: list  # global norms of the gradients before clipping: one, or one for each player
    finite: typing.Any  # bool: whether loss and gradients were


def build_optimizers(groups):
    """Builds the optimizers of `groups`, (optimizer, variables) pairs, for `descend`; inside the strategy's scope.

    Raises:
        ValueError: an optimizer that clips or accumulates by itself.
    """
    for optimizer, variables in groups:
        for option in ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps"):
            if getattr(optimizer, option, None):
                raise ValueError(
                    f"The optimizer must not set {option}: it would act on each replica alone. "
                    f"Use compile(clip_norm=..., accumulate=...). Received: {getattr(optimizer, option)}"
                )
        if not optimizer.built:
            optimizer.build(variables)
        # `descend` has summed the gradients over replicas to know their norm; the
        # optimizer would sum them again. Two replicas would then take a doubled step.
        optimizer._all_reduce_sum_gradients = list


def descend(state, loss, batch, groups):
    """Updates the variables in `groups` once, alike for any number of replicas; call it in replica context.

    The gradient is that of Σ total / Σ weight, both sums taken over replicas and micro-batches. A
    mean of per-replica means would be another function as soon as the weights differ.

    Where the loss or a gradient is not finite, no trainable weight and no optimizer state changes and
    `state.failed_step` is set; later updates of that step change nothing either. An overflow of
    scaled gradients only halves the scale.

    Args:
        state: `State`.
        loss: function of a batch (its part here) to two float32 scalars, (total, weight): the
            summed loss and what to divide it by (examples, unmasked tokens, valid frames). Of a
            game, `total` is a list with one for each group: from one pass each group takes the
            gradient of its own.
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
    players = divided(gradients, groups) if len(totals) > 1 else [gradients]
    norms = [tf.linalg.global_norm(own) * scale for own in players]
    loss_is_finite = tf.reduce_all(tf.math.is_finite(totals))
    finite = loss_is_finite & tf.reduce_all(tf.math.is_finite(norms))
    if state.scales_loss or state.clip_norm is not None:
        most = state.clip_norm or np.inf
        factors = [scale * tf.minimum(1.0, tf.math.divide_no_nan(most, norm)) for norm in norms]
        gradients = [gradient * factor for factor, own in zip(factors, players) for gradient in own]
    # Whether to update at all can only be decided in cross-replica context.
    replica.merge_call(_apply, args=(state, groups, gradients, loss_is_finite, finite))
    means = [tf.math.divide_no_nan(total, weight) for total in totals]
    return Update(means if is_game else means[0], local_weight, norms, finite)


def mean_gradients(state, loss, batch, groups):
    """This replica's part of loss_scale · ∇(Σ total / Σ weight), a flat list, and its own Σ total and Σ weight."""
    if state.accumulate == 1:
        return _gradients(state, loss, batch, groups, _over_replicas)

    def split(x):  # (B, …) -> (K, B/K, …)
        sides = [side or tf.shape(x)[axis] for axis, side in enumerate(x.shape) if axis]
        return tf.reshape(x, [state.accumulate, -1, *sides])

    micro = tf.nest.map_structure(split, batch)

    def weighted(k):
        part = tf.nest.map_structure(lambda x: x[k], micro)
        gradients, totals, weight = _gradients(state, loss, part, groups, tf.identity)
        return [g * weight for g in gradients], totals, weight

    _, (gradients, totals, weight) = tf.while_loop(
        lambda k, _: k < state.accumulate,
        lambda k, sums: (k + 1, tf.nest.map_structure(lambda total, new: total + new, sums, weighted(k))),
        (1, weighted(0)),
        parallel_iterations=1,
        maximum_iterations=state.accumulate - 1,
    )
    everywhere = _over_replicas(weight)
    return [tf.math.divide_no_nan(g, everywhere) for g in gradients], totals, weight


def divided(gradients, groups):
    """The flat list of gradients, as one list for each group."""
    gradients = iter(gradients)
    return [[next(gradients) for _ in variables] for _, variables in groups]


def _over_replicas(weight):
    replica = tf.distribute.get_replica_context()
    if replica.num_replicas_in_sync == 1:
        return weight
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, weight)


def _gradients(state, loss, batch, groups, whole):
    """Gradients of total / `whole`(weight), a flat list, with total and weight, of one micro-batch."""
    variables = [variable for _, members in groups for variable in members]
    with tf.GradientTape(persistent=len(groups) > 1) as tape:
        totals, weight = loss(batch)
    players = [members for _, members in groups] if isinstance(totals, list) else [variables]
    # The mean's gradient, not the sum's: it stays in float16's range. And the mean over all
    # replicas already here: what one replica's loss owes to another's examples (gathered
    # negatives, batch statistics) must come back to it in that unit.
    unit = tf.math.divide_no_nan(tf.identity(state.loss_scale), whole(weight))
    gradients = []
    for total, members in zip(tf.nest.flatten(totals), players):
        gradients += tape.gradient(total, [v.value for v in members], output_gradients=unit)
    missing = [v.path for v, g in zip(variables, gradients) if g is None]
    if missing:
        raise ValueError(f"The loss does not depend on these trainable variables: {missing}")
    return [tf.convert_to_tensor(g) for g in gradients], totals, weight


def _apply(strategy, state, groups, gradients, loss_is_finite, finite):
    """Cross-replica: steps the optimizers, or, where something is not finite, none of them."""
    loss_is_finite = strategy.experimental_local_results(loss_is_finite)[0]
    finite = strategy.experimental_local_results(finite)[0]
    finite &= state.failed_step < 0  # of an earlier update in this step

    def optimize(gradients):
        for (optimizer, variables), own in zip(groups, divided(gradients, groups)):
            optimizer.apply(own, variables)

    def update():
        strategy.extended.call_for_each_replica(optimize, args=(gradients,))
        if state.scales_loss:
            grow = state.finite_steps + 1 >= LOSS_SCALE_GROWS_AFTER
            state.loss_scale.assign(tf.where(grow, 2.0 * state.loss_scale, state.loss_scale))
            state.finite_steps.assign(tf.where(grow, tf.zeros_like(state.finite_steps), state.finite_steps + 1))

    def skip():
        failed = tf.constant(True)
        if state.scales_loss:  # a gradient overflow is expected there: halve the scale and go on
            failed = ~loss_is_finite | (state.loss_scale <= 1.0)
            state.loss_scale.assign(tf.maximum(state.loss_scale / 2.0, 1.0))
            state.finite_steps.assign(tf.zeros_like(state.finite_steps))
        state.failed_step.assign(tf.where(failed, state.step, state.failed_step))

    tf.cond(finite, update, skip)
