"""A training run, in a folder with its settings, metrics and checkpoints, from which it resumes exactly.

    RUN/settings.json   the settings; a run with other settings cannot use the folder
    RUN/data.json       a summary of the data (`data/summary.py`)
    RUN/metrics.csv     a row for each evaluation, identical to the last digit after a resume
    RUN/checkpoints/    the last two checkpoints and the best
    RUN/tensorboard/    TensorBoard events, unless turned off
    RUN/encoder/        the saved encoder, once the run has ended
    RUN/summary.json    the outcome
    RUN/.lock           names the process that trains in the folder, while there is one

A Keras "epoch" here is an evaluation interval: some steps, then an evaluation and a checkpoint. The
step alone determines the position in the data.
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
from ssl_keras.networks import split_by_depth
from ssl_keras.training import checkpoint
from ssl_keras.training.callbacks import RunCallback
from ssl_keras.training.optimizer import level_ratios
from ssl_keras.training.optimizer import make as make_optimizer
from ssl_keras.training.workers import Workers

log = logging.getLogger(__name__)


@contextlib.contextmanager
def conditions(training):
    """Sets the seed, the precision and, if requested, deterministic ops of a run inside the context."""
    with seeded(training.seed, training.deterministic), dtype_policy(training.precision):
        yield


def summarize_data(loaded, splits):
    """Summarizes a run's data before and after preparation, logs a short version, and returns the summary.

    Raises:
        ValueError: all training examples are equal.
    """
    about = summary.summarize(loaded, splits)
    summary.check(about)
    for line in summary.lines(about):
        log.info("%s", line)
    return about


def train(objective, splits, training, folder, strategy, callbacks=()):
    """Trains a compiled objective on `splits.train`, and leaves it with its best weights.

    Each interval ends with an evaluation on the same batches of `splits.validation`, and a
    checkpoint. The best weights are those with the lowest validation loss, or as `objective.best_metric` says.

    Returns:
        A dict: the last row of metrics.csv with the best step and loss.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint is from before that step.
        ValueError: no checkpoint can be used, or the workers see different ones.
        KeyboardInterrupt, SystemExit(143): on Ctrl-C and SIGTERM, after saving.
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

    run_callback = RunCallback(folder, training, total, interval, Workers(strategy))
    step = run_callback.restore(objective)
    objective.rows = training.batch_size // strategy.num_replicas_in_sync
    validation = held_out.dataset(0, held_out.steps_per_epoch, strategy)
    with run_callback.signals(), run_callback.progress(step):
        while step < total and not run_callback.stop:
            intervals = (total - step) // interval if step % interval == 0 else 0
            steps = interval if intervals else min(interval - step % interval, total - step)
            objective.fit(
                batches.dataset(step, None, strategy),
                steps_per_epoch=steps,
                verbose=0,
                initial_epoch=step // interval,
                epochs=step // interval + max(intervals, 1),
                validation_data=validation,
                validation_steps=held_out.steps_per_epoch,
                callbacks=[*callbacks, run_callback],
            )
            step = int(objective.step.numpy())
            if objective.stop_training:  # set by a callback
                break
    return run_callback.finish(objective)


def train_and_save(objective, splits, training, folder, strategy, asked, about, callbacks, save):
    """Trains, evaluates on the test split, and saves the encoder and the outcome. Only the chief worker writes.

    Args:
        objective, splits, training, folder, strategy, callbacks: as in `train`.
        asked: the run's settings, a flat dict.
        about: the summary of its data.
        save: function of the outcome that saves the encoder.

    Returns:
        The outcome: a dict that includes the run's `folder`.
    """
    workers = Workers(strategy)
    workers.raise_together(_disk_space_error(objective, folder) if workers.is_chief else None)
    if workers.is_chief:
        files.write_json(folder / "data.json", about)
    boards = []
    if workers.is_chief and training.tensorboard:
        from ssl_keras.training.tensorboard import TensorBoard  # imported here because it takes seconds

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


def _disk_space_error(objective, folder):
    """Returns an OSError if the disk has no room for the run's checkpoints and encoder, else None."""
    checkpoints, encoder = checkpoint.variables(objective), objective.encoder.variables
    if any((folder / "checkpoints").glob("*.safetensors")):  # a resumed run has its checkpoints already
        return None
    # The best and the last checkpoint, and the encoder twice: as safetensors and as a .keras file.
    needed = 2 * (_bytes(checkpoints.values()) + _bytes(encoder))
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return OSError(
        f"Not enough disk space in {folder}: the run needs at least {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are "
        "free. Free some space, or choose another folder for runs (--runs, runs=)."
    )


def _bytes(variables):
    return sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in variables)


def compile_objective(objective, training, splits, *optimizers):
    """Compiles the objective with a run's settings; by default with the objective's own `optimizers`.

    Raises:
        ValueError: the batch size, the validation split or the test split is too small for the objective, or the
            objective does not support `accumulate` or `patience`.
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
                f"{objective.min_batch_size}. Received: {len(part)}. Use more data, or a larger held-out split."
            )
    if training.patience and objective.keep_last_checkpoint:
        raise ValueError(
            f"patience must be 0 for {objective.name}, whose validation loss does not measure its quality. "
            f"Received: {training.patience}"
        )

    objective.total_steps = total = total_steps(training, splits)
    if training.warmup >= total:
        log.warning(
            "warmup is %d steps, but the run has only %d: the learning rate never reaches its peak. Lower --warmup.",
            training.warmup,
            total,
        )

    def make(variables, share=1.0, updates=1):
        scaled = dataclasses.replace(training, warmup=training.warmup * updates)
        return make_optimizer(scaled, total * updates, variables, share)

    objective.compile(
        *(optimizers or _by_depth(objective, make) or objective.optimizers(make)),
        clip_norm=training.clip_norm,
        accumulate=training.accumulate,
        steps_per_execution=training.steps_per_execution,
        jit_compile=training.jit,
    )
    if objective.jit_compile and splits.train.lengths is not None:
        log.warning(
            "XLA compiles the step again for each batch length, and %s has many lengths. A short run is faster without "
            "--jit.",
            splits.train.name,
        )


def _by_depth(objective, make):
    """Returns optimizers with lower rates for lower layers of the encoder, or () without the setting `layer_decay`."""
    decay = getattr(objective.settings, "layer_decay", 1.0)
    if decay == 1.0:
        return ()
    encoder = getattr(objective, "student", objective).encoder
    levels, others = split_by_depth(encoder, objective.trainable_variables)
    return make(others), *(make(level, ratio) for level, ratio in zip(levels, level_ratios(levels, decay)))


def held_out(objective, source, batch_size, strategy, preprocess=None):
    """Evaluates a compiled objective on a whole source; returns {metric: value}.

    `preprocess` replaces the objective's `preprocess_eval`.
    """
    batches = Batches(
        source, batch_size, preprocess=preprocess or objective.preprocess_eval, shuffle=False, longest=objective.longest
    )
    dataset = batches.dataset(0, batches.steps_per_epoch, strategy)
    result = objective.evaluate(dataset, steps=batches.steps_per_epoch, verbose=0, return_dict=True)
    return {key: float(value) for key, value in result.items()}
