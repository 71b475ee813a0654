"""What Keras' `fit` and `evaluate` call: many steps in one graph, under any strategy."""

import dataclasses

import keras
import tensorflow as tf


@dataclasses.dataclass
class StepCount:
    """Steps asked for and steps done: `fit` and `evaluate` set it, and the functions made here count."""

    train: int | None = None
    """Steps of training in an epoch; None is as many as there is data."""
    test: int | None = None
    """Steps of an evaluation; None is as many as there is data."""
    done: int = 0
    """Steps of the present epoch or evaluation that have run."""

    def limit(self, training, most):
        """Steps that the next execution may run, at most `most`."""
        total = self.train if training else self.test
        return most if total is None else min(most, total - self.done)


def make_step_function(objective, step_function, training):
    """A function of an iterator that runs at most `steps_per_execution` steps in one graph.

    Args:
        objective: a compiled `Objective`. Its `step`, `step_graph` and `step_count` are written here;
            `rows` and `failed_step` are read.
        step_function: its `train_step` or `test_step`.
        training: whether these are steps of training.

    Returns:
        function of an iterator to {metric name: value so far}, as Keras' `fit` and `evaluate`
        call it. It raises StopIteration where the data has ended, and FloatingPointError
        naming the step where a loss or gradient was not finite.
    """
    strategy = objective.distribute_strategy
    metrics = [m for m in objective.metrics if training or not m.name.endswith("gradient_norm")]

    @tf.autograph.experimental.do_not_convert
    def one_step(batch):
        strategy.run(replica_step, args=(as_batch(batch),))

    def replica_step(batch):
        if training and objective.rows is not None:  # a distributed iterator has forgotten how many there are
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
            lambda done, go_on: go_on & (done < limit),
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
                "Expected finite numbers; that update was not applied. Lower the learning rate, "
                "set clip_norm, or look at that batch."
            )
        if int(done) == 0:
            raise StopIteration
        return logs

    return execution


def as_batch(data):
    """The dict in whatever `fit` made of it: a dict, or (dict,), (dict, labels, weights)."""
    batch, label, weight = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(batch, dict):
        raise ValueError(
            'An objective expects batches that are dicts, such as {"image": images}. '
            f"Received: {type(batch).__name__}"
        )
    extra = {"label": label, "weight": weight}
    return batch | {key: value for key, value in extra.items() if value is not None}
