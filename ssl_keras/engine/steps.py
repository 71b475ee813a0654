"""The loop over steps: functions for Keras' `fit` and `evaluate` that run many steps in one graph."""

import dataclasses

import keras
import tensorflow as tf


@dataclasses.dataclass
class StepCount:
    """Requested and finished steps. `fit` and `evaluate` set the former; the step functions count the latter."""

    train: int | None = None
    """Training steps per epoch; None runs until the data is exhausted."""
    test: int | None = None
    """Steps per evaluation; None runs until the data is exhausted."""
    done: int = 0
    """Finished steps of the current epoch or evaluation."""

    def limit(self, training, max_steps):
        """Returns the number of steps that the next execution may run: `max_steps` or fewer."""
        total = self.train if training else self.test
        return max_steps if total is None else min(max_steps, total - self.done)


def make_step_function(objective, step_function, training):
    """Makes a function that takes an iterator and runs up to `steps_per_execution` steps in one graph.

    Args:
        objective: a compiled `Objective`. The function writes its `step`, `step_graph` and `step_count`,
            and reads its `rows` and `failed_step`.
        step_function: the objective's `train_step` or `test_step`.
        training: bool, whether these are training steps.

    Returns:
        A function of an iterator that returns {metric name: current value}, as Keras' `fit` and `evaluate`
        expect. It raises StopIteration at the end of the data, and FloatingPointError with the
        step number if a loss or gradient is not finite.
    """
    strategy = objective.distribute_strategy
    metrics = [metric for metric in objective.metrics if objective.is_measured(metric, training)]

    @tf.autograph.experimental.do_not_convert
    def one_step(batch):
        strategy.run(replica_step, args=(as_batch(batch),))

    def replica_step(batch):
        if training and objective.rows is not None:  # a distributed iterator loses the static batch size
            batch = {key: tf.ensure_shape(x, (objective.rows, *x.shape[1:])) for key, x in batch.items()}
        step_function(batch)

    if objective.jit_compile and not objective.run_eagerly:
        one_step = tf.function(one_step, jit_compile=True, reduce_retracing=True)

    def body(done, iterator):
        optional = iterator.get_next_as_optional()

        def run():
            one_step(optional.get_value())
            if training:
                objective.step.assign_add(1)
                objective.step_graph = tf.compat.v1.get_default_graph()
            return tf.constant(1)

        ran = tf.cond(optional.has_value(), run, lambda: tf.constant(0))
        return done + ran, (ran > 0) & (objective.failed_step < 0)

    def steps(iterator, limit):
        done, _ = tf.while_loop(
            lambda done, more: more & (done < limit),
            lambda done, _: body(done, iterator),
            (tf.constant(0), tf.constant(True)),
            parallel_iterations=1,
        )
        return done, {metric.name: metric.result() for metric in metrics}

    if not objective.run_eagerly:
        steps = tf.function(steps, reduce_retracing=True, autograph=False)

    def execution(iterator):
        limit = objective.step_count.limit(training, objective.steps_per_execution)
        done, logs = steps(iterator, tf.constant(limit))
        objective.step_count.done += int(done)
        if int(objective.failed_step.numpy()) >= 0:
            raise FloatingPointError(
                f"The loss or its gradient is not finite at step {int(objective.failed_step.numpy())}. "
                "That update was not applied. Lower the learning rate, set clip_norm, or check the data of that batch."
            )
        if int(done) == 0:
            raise StopIteration
        return logs

    return execution


def as_batch(data):
    """Returns a batch as a dict. `fit` may pass a dict, (dict,) or (dict, labels, weights)."""
    batch, label, weight = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(batch, dict):
        raise ValueError(
            f'Expected batches that are dicts, such as {{"image": images}}. Received: {type(batch).__name__}'
        )
    extra = {"label": label, "weight": weight}
    return batch | {key: value for key, value in extra.items() if value is not None}
