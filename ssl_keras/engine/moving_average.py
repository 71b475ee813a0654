"""Moving average of a network's weights over steps, for a generator that is saved or a teacher.

It is moved in the cross-replica context, after `descend`: once for all replicas, and only where the step's update was
made. In a `train_step`:

    tf.distribute.get_replica_context().merge_call(lambda strategy: follow(strategy, …))
"""

import tensorflow as tf

WARM_UP = 10.0  # steps; after so many half of the average is older than they are


def warmed_up(decay, step):
    """The decay at a step: the first steps count more, as they change more; `decay` at last."""
    step = tf.cast(step, tf.float32)
    return tf.minimum(decay, step / (step + WARM_UP))


def follow(strategy, average, network, decay, failed_step):
    """Moves all variables of a network towards another's: average ← decay·average + (1 − decay)·network.

    Args:
        strategy: as `merge_call` gives it.
        average, network: graphs with the same variables, in the same order.
        decay: scalar in [0, 1].
        failed_step: the objective's; where it is not −1 nothing moves.
    """

    def move():
        for mean, value in zip(average.variables, network.variables):
            strategy.extended.update(
                mean.value, lambda m, v, decay: m.assign(decay * m + (1 - decay) * v), args=(value.value, decay)
            )

    tf.cond(failed_step < 0, move, lambda: None)
