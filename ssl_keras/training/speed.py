"""How fast a run is: examples, tokens and operations a second, and which share of what the devices could do."""

from ssl_keras.planning import flops


def rates(objective, training, seconds):
    """{name: number} of a run whose steps take so many seconds.

    `examples_per_second`, of windows of text also `tokens_per_second`, both of all replicas; and, where the shapes of
    batches do not change, `mfu`: the operations of this process over what its devices could do
    (`planning/flops.py`). Logical CPUs are one device.
    """
    made = {"examples_per_second": training.batch_size / seconds}
    if objective.tokens:
        made["tokens_per_second"] = training.batch_size * objective.tokens / seconds
    count = None if objective.step_graph is None else flops.operations(objective.step_graph)
    if count:
        devices = flops.devices(objective.distribute_strategy)
        made["mfu"] = count / seconds / (devices * flops.peak(training.precision)[0])
    return made


class Clock:
    """The seconds of a run's steps, without evaluation and what is done at the end of an interval; the first execution,
    which is traced and compiled, is left out."""

    def __init__(self):
        self.seconds, self.steps, self.before = 0.0, 0, None

    def tick(self, step, seconds):
        """An execution has ended at this step, and took so long."""
        if self.before is not None:
            self.seconds += seconds
            self.steps += step - self.before
        self.before = step

    def per_step(self):
        """Seconds, or None where nothing was timed."""
        return self.seconds / self.steps if self.steps else None
