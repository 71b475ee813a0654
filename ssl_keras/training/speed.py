"""Throughput of a run: examples and tokens per second, and model FLOPs utilization (MFU)."""

from ssl_keras.planning import flops


def rates(objective, training, seconds):
    """Returns the throughput of a run, {name: number}, whose steps take `seconds` each.

    `examples_per_second` and, for windows of text, `tokens_per_second` count all replicas. If batches have a fixed
    shape there is also `mfu`: the operations of this process as a fraction of the peak of its devices
    (`planning/flops.py`). Logical CPUs count as one device.
    """
    result = {"examples_per_second": training.batch_size / seconds}
    if objective.tokens:
        result["tokens_per_second"] = training.batch_size * objective.tokens / seconds
    count = None if objective.step_graph is None else flops.operations(objective.step_graph)
    if count:
        devices = flops.devices(objective.distribute_strategy)
        result["mfu"] = count / seconds / (devices * flops.peak(training.precision)[0])
    return result


class Clock:
    """Measures the time of training steps, without evaluations and checkpoints.

    The first execution is not counted, because it includes tracing and compilation.
    """

    def __init__(self):
        self.seconds, self.steps, self.last_step = 0.0, 0, None

    def tick(self, step, seconds):
        """Records an execution that ended at `step` and took `seconds`."""
        if self.last_step is not None:
            self.seconds += seconds
            self.steps += step - self.last_step
        self.last_step = step

    def per_step(self):
        """Returns the mean seconds per step, or None before the second execution."""
        return self.seconds / self.steps if self.steps else None
