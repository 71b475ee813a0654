"""Moving average of a network's weights over steps, for a generator that is saved or a teacher.

It is moved in the cross-replica context, after `descend`: once for all replicas, and not in a step that failed. (Where
float16 gradients overflow, it moves towards weights that stayed as they were.) In a `train_step`:

    tf.distribute.get_replica_context().merge_call(lambda strategy: follow(strategy, …))
"""

import tensorflow as tf

WARM_UP = 10.0  # steps; after so many half of the average is older than they are


def warmed_up(decay, step):
    """The decay at a step: the first steps count more, as they change more; `decay` at last."""
    step = tf.cast(step, tf.float32)
    return tf.minimum(decay, step / (step + WARM_UP))


def follow(strategy, averages, variables, decay, failed_step):
    """Moves variables towards others: average ← decay·average + (1 − decay)·variable.

    Args:
        strategy: as `merge_call` gives it.
        averages, variables: lists of floating-point Keras variables of the same shapes, such as two graphs'
            `variables`, or `trainable_variables` where batch statistics are to stay.
        decay: scalar in [0, 1].
        failed_step: the objective's; where it is not −1 nothing moves.
    """

    def move():
        for mean, value in zip(averages, variables, strict=True):
            strategy.extended.update(
                mean.value, lambda m, v, decay: m.assign(decay * m + (1 - decay) * v), args=(value.value, decay)
            )

    tf.cond(failed_step < 0, move, lambda: None)
