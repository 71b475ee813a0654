"""Exponential moving average (EMA) of a network's weights, for a teacher or a saved generator.

Update it after `descend`, once for all replicas. A failed step leaves it unchanged. (After an overflow of float16
gradients it still moves, towards the unchanged weights.)
"""

import tensorflow as tf

WARM_UP = 10.0  # the step at which the warmed-up decay is 1/2


def warmed_up(decay, step):
    """Returns the decay at a step: min(`decay`, step / (step + 10)), small at first to forget the initial weights."""
    step = tf.cast(step, tf.float32)
    return tf.minimum(decay, step / (step + WARM_UP))


def update(averages, networks, decay, objective):
    """Moves each of the networks `averages` towards the network of `networks` with the same position.

    Call it in a `train_step`. The decay is warmed up over the objective's steps.
    """
    # Without the states of seed generators, which are integers.
    means, values = ([v for network in group for v in network.weights] for group in (averages, networks))
    decay = warmed_up(decay, objective.step)
    replica = tf.distribute.get_replica_context()
    replica.merge_call(lambda strategy: follow(strategy, means, values, decay, objective.failed_step))


def follow(strategy, averages, variables, decay, failed_step):
    """Updates the averages in cross-replica context: average ← decay·average + (1 − decay)·variable.

    Args:
        strategy: the strategy that `merge_call` passes.
        averages, variables: lists of floating-point Keras variables of the same shapes: the `variables` of two
            networks, or their `trainable_variables` to leave the batch statistics out.
        decay: scalar in [0, 1].
        failed_step: the objective's `failed_step`; the averages change only if it is −1.
    """

    def move():
        for mean, value in zip(averages, variables, strict=True):
            strategy.extended.update(
                mean.value, lambda m, v, decay: m.assign(decay * m + (1 - decay) * v), args=(value.value, decay)
            )

    tf.cond(failed_step < 0, move, lambda: None)
