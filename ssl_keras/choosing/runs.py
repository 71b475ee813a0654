"""The runs of a search: a short one that measures an arm's speed, and one that is resumed with more steps."""

import contextlib
import dataclasses
import logging
import shutil
import time

import keras
import numpy as np
import tensorflow as tf

from ssl_keras.choosing import arms
from ssl_keras.choosing.halving import Speed
from ssl_keras.evaluation.features import evenly_spaced
from ssl_keras.training.pretrain import pretrain

PILOT_STEPS = 100_000  # never reached: the stopwatch ends the run
EXECUTION = 4  # steps per call of the graph in a pilot, so that slow arms are timed too
EXECUTION_SECONDS, MAX_EXECUTION = 1.0, 32
HELD_OUT, TESTED = 500, 50  # examples of the held-out splits of a run
QUIET = ("tensorflow", "ssl_keras.training", "ssl_keras.data", "ssl_keras.encoders", "ssl_keras.downstream")


def light(splits):
    """Returns the `Splits` of the runs: all training examples, and few held-out ones, since each run evaluates often.

    Both held-out splits are of the validation split. Documents in pieces are kept whole, so all of theirs stay.
    """
    validation = splits.validation
    if np.all(validation.arrays.get("ends", True)):
        validation = validation.take(evenly_spaced(len(validation), HELD_OUT))
    return splits._replace(validation=validation, test=validation.take(evenly_spaced(len(validation), TESTED)))


@contextlib.contextmanager
def quiet():
    """Quiets the messages of a run inside the context, and frees the graphs of the runs before."""
    keras.backend.clear_session(free_memory=False)
    loggers = [logging.getLogger(name) for name in QUIET]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _trained(objective, settings, training, splits, callbacks=()):
    """Runs `pretrain`, and raises MemoryError where TensorFlow has an error of its own for it."""
    try:
        return pretrain(objective, settings, training, splits, callbacks=callbacks)
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError("out of memory") from error


class Stopwatch(keras.callbacks.Callback):
    """Ends a run after some seconds of steps, not counting the first execution, which traces the graph.

    Attributes:
        step: seconds per step. train: seconds of all steps, the first execution included.
    """

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.step, self.train, self.counted, self.first = seconds, 0.0, 0.0, 0.0, 0

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        took, step = time.monotonic() - self.began, int(self.model.step.numpy())
        self.train += took
        if not self.first:
            self.first = step
            return
        self.counted += took
        self.step = self.counted / (step - self.first)
        if self.counted > self.seconds:
            self.model.stop_training = True


class Runs:
    """The runs of the arms, in a folder.

    Args:
        folder: the search's folder; runs are below it.
        splits: `Splits`, as they were loaded.
        data, image_size: how they were named, for the commands.
        chosen: the [`Arm`].
        yardstick: `Yardstick`.
        seed: seed of the runs.
        pilot_seconds: seconds of steps by which an arm's speed is measured.
    """

    def __init__(self, folder, splits, data, image_size, chosen, yardstick, seed, pilot_seconds):
        self.folder, self.splits, self.data, self.image_size = folder, light(splits), data, image_size
        self.arms, self.yardstick = {arm.name: arm for arm in chosen}, yardstick
        self.seed, self.pilot_seconds, self.filled = seed, pilot_seconds, {}

    def encoder(self, name, pilot=False):
        """Returns the folder of an arm's encoder."""
        return self.folder / "runs" / (f"pilot-{name}" if pilot else name) / "encoder"

    def training(self, name, **changes):
        """Returns the (settings, `Training`) of an arm's run."""
        if name not in self.filled:  # once: text is tokenized for it
            arm = self.arms[name]
            self.filled[name] = arms.fill(arm, self.splits, self.seed, self.data, self.image_size)
        settings, training = self.filled[name]
        runs = str(self.folder / "runs")
        return settings, dataclasses.replace(training, tensorboard=False, runs=runs, run=name, **changes)

    def pilot(self, name):
        """Trains an arm for a few seconds; returns its `Speed`. Its encoder is kept, for the rows without training."""
        shutil.rmtree(self.encoder(name, pilot=True).parent, ignore_errors=True)
        began, watch = time.monotonic(), Stopwatch(self.pilot_seconds)
        settings, training = self.training(
            name, steps=PILOT_STEPS, eval_every=PILOT_STEPS, steps_per_execution=EXECUTION, warmup=0
        )
        training = dataclasses.replace(training, run=f"pilot-{name}")
        with quiet():
            _trained(self.arms[name].objective, settings, training, self.splits, [watch])
            self.yardstick.of_encoder(self.encoder(name, pilot=True))
        counted = watch.train if watch.first else 0.0
        traced = counted - watch.counted - watch.first * watch.step  # of the first execution, beyond its steps
        return Speed(watch.step, time.monotonic() - began - counted + max(traced, 0.0))

    def train(self, name, steps, every, seconds_per_step=None):
        """Trains an arm's run to `steps`, from where it is, and measures its saved encoder.

        Returns:
            What the `Yardstick` measures, with "loss" (held-out, of the saved weights), "seconds" of the call,
            "train_seconds" of the whole run, and "examples_per_second" and "step_seconds" (None if too few steps were
            timed).
        """
        began = time.monotonic()
        settings, training = self.settled(name, steps, every)
        execution = EXECUTION_SECONDS / seconds_per_step if seconds_per_step else MAX_EXECUTION
        training = dataclasses.replace(
            training, resume=True, steps_per_execution=int(min(max(execution, 1), MAX_EXECUTION))
        )
        with quiet():
            outcome = _trained(self.arms[name].objective, settings, training, self.splits)
            measured = self.yardstick.of_encoder(self.encoder(name))
        rate = outcome.get("examples_per_second")
        return measured | {
            "loss": outcome["best_val_loss"],
            "train_seconds": outcome["seconds"],
            "examples_per_second": rate,
            "step_seconds": rate and training.batch_size / rate,
            "seconds": time.monotonic() - began,
        }

    def settled(self, name, steps, every):
        """Returns the (settings, `Training`) of an arm's run to `steps`.

        The warmup takes at most half of the first rung, which has twice `every` steps.
        """
        settings, training = self.training(name, steps=steps, eval_every=every)
        return settings, dataclasses.replace(training, warmup=min(training.warmup, every))

    def command(self, name, steps, every):
        """Returns the words of the command that repeats an arm's run."""
        settings, training = self.settled(name, steps, every)
        return arms.flags(self.arms[name], settings, dataclasses.replace(training, run=f"chosen-{name}"))
