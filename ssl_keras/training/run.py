"""A run: a folder that holds its settings, metrics and checkpoints, and can go on exactly.

    RUN/settings.json   what was asked for; another request is refused
    RUN/data.json       a summary of the data (`data/summary.py`)
    RUN/metrics.csv     a row per interval: the same to the last digit after a resume
    RUN/checkpoints/    the last two, and the best so far
    RUN/tensorboard/    events, if asked for
    RUN/encoder/        the saved encoder, once the run has ended
    RUN/summary.json    the outcome
    RUN/.lock           which process trains in it, as long as one does

A Keras "epoch" here is an interval: so many steps, then evaluation and a checkpoint. The
data's epoch follows from the step.
"""

import contextlib
import dataclasses
import logging
import math
import shutil

import tensorflow as tf

from ssl_keras import files
from ssl_keras.data import summary
from ssl_keras.data.batches import Batches
from ssl_keras.engine.config import total_steps
from ssl_keras.engine.precision import dtype_policy
from ssl_keras.engine.process import seeded
from ssl_keras.training import checkpoint
from ssl_keras.training.callbacks import RunCallback
from ssl_keras.training.optimizer import make as make_optimizer
from ssl_keras.training.workers import Workers

log = logging.getLogger(__name__)


@contextlib.contextmanager
def conditions(training):
    """Seeds what creates weights, and sets precision and, if asked, deterministic ops, while it lasts."""
    with seeded(training.seed, training.deterministic), dtype_policy(training.precision):
        yield


def summarized(loaded, splits):
    """The summary of a run's data, as they are and as it takes them, which is logged in short.

    Raises:
        ValueError: all examples to learn from are equal.
    """
    made = summary.summarize(loaded, splits)
    summary.check(made)
    for line in summary.lines(made):
        log.info("%s", line)
    return made


def train(objective, splits, training, folder, strategy, callbacks=()):
    """Trains a compiled objective on `splits.train`, and leaves it with its best weights.

    After each interval it is evaluated on `splits.validation` (the same held-out batches
    every time) and saved; the best is the one with the lowest validation loss.

    Returns:
        The last row of metrics.csv with the best step and loss: a dict.

    Raises:
        FloatingPointError: a loss that is not finite; the last checkpoint is from before it.
        ValueError: no checkpoint can be used, or workers do not see the same one.
        KeyboardInterrupt, SystemExit(143): after saving, on Ctrl-C and SIGTERM.
    """
    batches = Batches(
        splits.train,
        training.batch_size,
        seed=training.seed,
        preprocess=objective.preprocess,
        longest=objective.longest,
    )
    held_out = Batches(
        splits.validation,
        training.batch_size,
        preprocess=objective.preprocess_eval,
        shuffle=False,
        longest=objective.longest,
    )
    total = total_steps(training, splits)
    interval = training.eval_every or max(batches.steps_per_epoch, total // 100)

    keeper = RunCallback(folder, training, total, interval, Workers(strategy))
    step = keeper.restore(objective)
    objective.rows = training.batch_size // strategy.num_replicas_in_sync
    validation = held_out.dataset(0, held_out.steps_per_epoch, strategy)
    with keeper.signals(), keeper.progress(step):
        while step < total and not keeper.stop:
            whole = (total - step) // interval if step % interval == 0 else 0
            steps = interval if whole else min(interval - step % interval, total - step)
            objective.fit(
                batches.dataset(step, None, strategy),
                steps_per_epoch=steps,
                verbose=0,
                initial_epoch=step // interval,
                epochs=step // interval + max(whole, 1),
                validation_data=validation,
                validation_steps=held_out.steps_per_epoch,
                callbacks=[*callbacks, keeper],
            )
            step = int(objective.step.numpy())
            if objective.stop_training:  # a callback's wish
                break
    return keeper.finish(objective)


def train_and_save(objective, splits, training, folder, strategy, asked, about, callbacks, save):
    """Trains, with TensorBoard if asked for, evaluates on held-out data, and leaves what the run has come to.

    Of several workers the chief writes.

    Args:
        objective, splits, training, folder, strategy, callbacks: as of `train`.
        asked: the run's settings, a flat dict.
        about: the summary of its data.
        save: function of the outcome that saves the encoder.

    Returns:
        The outcome: a dict with the run's `folder`.
    """
    workers = Workers(strategy)
    workers.raise_together(_lack_of_space(objective, folder) if workers.is_chief else None)
    if workers.is_chief:
        files.write_json(folder / "data.json", about)
    boards = []
    if workers.is_chief and training.tensorboard:
        from ssl_keras.training.tensorboard import TensorBoard  # with what it needs it takes seconds to import

        boards = [TensorBoard(folder, splits, training, asked)]
    outcome = train(objective, splits, training, folder, strategy, [*boards, *callbacks])
    test = held_out(objective, splits.test, training.batch_size, strategy)
    outcome |= {f"test_{key}": value for key, value in test.items()}
    if workers.is_chief:
        if not math.isfinite(test["loss"]):
            log.warning("The loss on %s is not finite (%s).", splits.test.name, test["loss"])
        save(outcome)
        for board in boards:
            board.close(objective, outcome)
        files.write_json(folder / "summary.json", outcome)
    workers.wait()
    return outcome | {"folder": str(folder)}


def _lack_of_space(objective, folder):
    """The error of a disk that has no room for what a run is sure to write, or None."""
    checkpoints, encoder = checkpoint.variables(objective), objective.encoder.variables
    if any((folder / "checkpoints").glob("*.safetensors")):  # it goes on: they are there already
        return None
    # The best checkpoint and the last one; the encoder as safetensors and for plain Keras.
    needed = 2 * (_bytes(checkpoints.values()) + _bytes(encoder))
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return OSError(
        f"{folder}: the run will write {needed / 1e6:.0f} MB at least, and the disk has {free / 1e6:.0f} MB free. "
        "Make room, or choose another folder of runs (--runs, runs=)."
    )


def _bytes(variables):
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def compile_objective(objective, training, splits, *optimizers):
    """Compiles it as a run asks for; by default with the objective's own `optimizers`.

    Raises:
        ValueError: a batch or a held-out part that is too small for the objective, or micro-batches or
            patience that it cannot have.
    """
    if training.batch_size < objective.min_batch_size:
        raise ValueError(
            f"{objective.name} compares the examples of a batch: batch_size must be at least "
            f"{objective.min_batch_size}. Received: {training.batch_size}"
        )
    for part in (splits.validation, splits.test):
        if len(part) < objective.min_batch_size:
            raise ValueError(
                f"{objective.name} compares the examples of a batch: {part.name} must have at least "
                f"{objective.min_batch_size}. Received: {len(part)}. Use more data, or a larger held-out part."
            )
    if training.patience and objective.keep_last_checkpoint:
        raise ValueError(f"patience needs a loss that says how good it is; {objective.name} has none. Leave it out.")

    objective.total_steps = total_steps(training, splits)

    def make(variables, share=1.0, updates=1):
        often = dataclasses.replace(training, warmup=training.warmup * updates)
        return make_optimizer(often, objective.total_steps * updates, variables, share)

    objective.compile(
        *(optimizers or objective.optimizers(make)),
        clip_norm=training.clip_norm,
        accumulate=training.accumulate,
        steps_per_execution=training.steps_per_execution,
        jit_compile=training.jit,
    )
    if objective.jit_compile and splits.train.lengths is not None:
        log.warning(
            "XLA compiles a step anew for each length of a batch, and %s has many: a run that is short is faster "
            "without jit.",
            splits.train.name,
        )


def held_out(objective, source, batch_size, strategy, preprocess=None):
    """{metric: value} of a compiled objective on all of a source, by default through its `preprocess_eval`."""
    batches = Batches(
        source, batch_size, preprocess=preprocess or objective.preprocess_eval, shuffle=False, longest=objective.longest
    )
    dataset = batches.dataset(0, batches.steps_per_epoch, strategy)
    result = objective.evaluate(dataset, steps=batches.steps_per_epoch, verbose=0, return_dict=True)
    return {key: float(value) for key, value in result.items()}
