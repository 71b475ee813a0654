"""A run: a folder that holds its settings, metrics and checkpoints, and can go on exactly.

    RUN/settings.json   what was asked for; another request is refused
    RUN/metrics.csv     a row per interval: the same to the last digit after a resume
    RUN/checkpoints/    the last two, and the best so far
    RUN/tensorboard/    events
    RUN/encoder/        the saved encoder, once the run has ended
    RUN/summary.json    the outcome

A Keras "epoch" here is an interval: so many steps, then evaluation and a checkpoint. The
data's epoch follows from the step.
"""

import contextlib
import csv
import dataclasses
import io
import json
import logging
import math
import pathlib
import signal
import sys
import threading
import time

import keras
import tensorflow as tf
from tqdm import tqdm

from ssl_keras import files
from ssl_keras.data.batches import Batches, check_divisible
from ssl_keras.training import checkpoint

# Exit codes of an interrupted run that has saved its state: 128 + the signal's number.
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM
SECONDS_BETWEEN_LINES = 10  # of progress, where the output is no terminal

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train; shared by pretraining and fine-tuning."""

    data: str = "digits"
    """digits, tfds:NAME, or folder:PATH."""
    image_size: int | None = None
    """Side length in pixels to resize to."""
    epochs: int = 100
    """Passes over the training data."""
    steps: int = 0
    """Updates in all, instead of epochs; 0 counts epochs."""
    batch_size: int = 256
    """Global batch: over all replicas."""
    learning_rate: float = 1e-3
    """Adam's learning rate."""
    clip_norm: float | None = None
    """Largest global gradient norm."""
    accumulate: int = 1
    """Micro-batches per update, to save memory; the update stays the same."""
    precision: str = "float32"
    """float32, mixed_bfloat16 or mixed_float16."""
    seed: int = 0
    """Keys weights, order, and every draw."""
    interval: int = 0
    """Steps between evaluations and checkpoints; 0 is an epoch, or a hundredth of the run if that is longer."""
    patience: int = 0
    """Stop after so many intervals without a better validation loss; 0 is never."""
    quality_every: int = 10
    """Intervals between label-free and kNN measurements of the features; 0 is never."""
    init: str | None = None
    """Start from this saved encoder (a name or folder)."""
    strategy: str = "one"
    """one, or mirrored: all local GPUs."""
    replicas: int = 0
    """With mirrored: how many replicas (logical CPUs where there is no GPU)."""
    steps_per_execution: int = 32
    """Steps in one call of the graph: more is faster, fewer shows progress more often."""
    jit: bool = False
    """Compile whole steps with XLA (one device only)."""
    deterministic: bool = False
    """Ops that give the same bits every time, at some cost in speed."""
    run: str = ""
    """Name of the run's folder; default OBJECTIVE-DATA."""
    runs: str = "runs"
    """Folder that holds the runs."""
    resume: bool = False
    """Go on with the run of that name, if it has begun."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "accumulate", "steps_per_execution"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1. Received: {getattr(self, name)}")
        for name in ("steps", "interval", "patience", "quality_every", "replicas"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0. Received: {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite. Received: {self.learning_rate}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive or None. Received: {self.clip_norm}")
        if self.jit and (self.deterministic or self.strategy != "one"):
            raise ValueError("jit works on one device and without deterministic. Leave out one of them.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in 0..2³²−1. Received: {self.seed}")
        if self.precision not in ("float32", "mixed_bfloat16", "mixed_float16"):
            raise ValueError(
                f"precision must be float32, mixed_bfloat16 or mixed_float16. Received: {self.precision!r}"
            )


# Settings that say where and how fast a run goes, not what it learns: they may change on resume.
HOW = {"strategy", "replicas", "steps_per_execution", "run", "runs", "resume"}


def open_run(training, splits, kind, settings, default_name):
    """Makes or reopens the run's folder.

    Args:
        training: `Training`.
        splits: `Splits`; its training part is part of what must agree on resume.
        kind: "pretrain autoencoder", "finetune", …: so is this.
        settings: JSON-able dict of the objective's settings.
        default_name: the folder's name where `training.run` is empty.

    Returns:
        `pathlib.Path`.

    Raises:
        ValueError: the folder belongs to other settings (the difference is shown), or the
            run has begun and `resume` is off.
        PermissionError: the folder cannot be written.
    """
    folder = pathlib.Path(training.runs) / (training.run or default_name)
    asked = {k: v for k, v in dataclasses.asdict(training).items() if k not in HOW}
    asked |= {"data": splits.train.base, "examples": len(splits.train), "fingerprint": splits.train.fingerprint()}
    asked = json.loads(json.dumps({"kind": kind, **asked, **settings}))
    path = folder / "settings.json"
    begun = any((folder / "checkpoints").glob("*.safetensors"))  # else a request that was refused later
    if path.exists() and begun:
        there = json.loads(path.read_text("utf-8"))
        keys = sorted(k for k in there.keys() | asked.keys() if there.get(k) != asked.get(k))
        if keys:
            difference = "".join(f"\n  {k}: there {there.get(k)!r}, asked for {asked.get(k)!r}" for k in keys)
            raise ValueError(f"{folder} belongs to a run with other settings:{difference}\nChoose another --run name.")
        if not training.resume:
            raise ValueError(f"{folder} has begun. Add --resume to go on with it, or choose another --run name.")
    files.make_folder(folder)
    files.write_json(path, asked)
    return folder


@contextlib.contextmanager
def conditions(training):
    """Seeds what creates weights, and sets precision and, if asked, deterministic ops, while it lasts."""
    keras.utils.set_random_seed(training.seed)
    if training.deterministic:
        tf.config.experimental.enable_op_determinism()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(training.precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def train(objective, splits, training, folder, strategy, callbacks=()):
    """Trains a compiled objective on `splits.train`, and leaves it with its best weights.

    After each interval it is evaluated on `splits.validation` (the same held-out batches
    every time) and saved; the best is the one with the lowest validation loss.

    Returns:
        The last row of metrics.csv with the best step and loss: a dict.

    Raises:
        FloatingPointError: a loss that is not finite; the last checkpoint is from before it.
        KeyboardInterrupt, SystemExit(143): after saving, on Ctrl-C and SIGTERM.
    """
    check_divisible(training.batch_size, strategy.num_replicas_in_sync, training.accumulate)
    views = objective.views
    batches = Batches(splits.train, training.batch_size, seed=training.seed, views=views)
    held_out = Batches(splits.validation, training.batch_size, views=views, shuffle=False)
    total = training.steps or training.epochs * batches.steps_per_epoch
    interval = training.interval or max(batches.steps_per_epoch, total // 100)

    keeper = Keeper(folder, training, total, interval)
    step = keeper.restore(objective)
    validation = held_out.dataset(0, held_out.steps_per_epoch, strategy)
    with keeper.signals(), keeper.progress(step):
        while step < total and not keeper.stop:
            whole = (total - step) // interval if step % interval == 0 else 0
            steps = interval if whole else min(interval - step % interval, total - step)
            objective.fit(
                batches.dataset(step, None, strategy), steps_per_epoch=steps, verbose=0,
                initial_epoch=step // interval, epochs=step // interval + max(whole, 1),
                validation_data=validation, validation_steps=held_out.steps_per_epoch,
                callbacks=[*callbacks, keeper],
            )
            step = int(objective.step.numpy())
            if objective.stop_training:  # a callback's wish
                break
    return keeper.finish(objective)


def held_out(objective, source, training, strategy):
    """{metric: value} of a compiled objective on all of a source."""
    batches = Batches(source, training.batch_size, views=objective.views, shuffle=False)
    dataset = batches.dataset(0, batches.steps_per_epoch, strategy)
    result = objective.evaluate(dataset, steps=batches.steps_per_epoch, verbose=0, return_dict=True)
    return {key: float(value) for key, value in result.items()}


class Keeper(keras.callbacks.Callback):
    """Writes metrics.csv and checkpoints, keeps the best, stops early, saves on signals."""

    def __init__(self, folder, training, total, interval):
        super().__init__()
        self.folder, self.training, self.total, self.interval = folder, training, total, interval
        self.checkpoints = checkpoint.Checkpoints(folder / "checkpoints")
        self.notes = {"best": None, "best_step": 0, "waited": 0, "seconds": 0.0}
        self.rows, self.metrics_to_restore = [], None
        self.stop, self.signal = False, None
        self.bar, self.started, self.last_line = None, time.monotonic(), 0.0

    def restore(self, objective):
        """Loads the newest checkpoint, if any; returns the step."""
        notes = self.checkpoints.restore(objective)
        step = int(objective.step.numpy())
        if notes is not None:
            self.notes = notes
            self.stop = self._patience_spent()
            if step % self.interval and step < self.total:  # `fit` resets the metrics; they go on after that
                self.metrics_to_restore = checkpoint.read(checkpoint.metric_variables(objective))
            log.info("Resuming %s at step %d of %d", self.folder, step, self.total)
        path = self.folder / "metrics.csv"
        if path.exists():  # rows from after the checkpoint are written again
            with open(path, newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        return step

    @contextlib.contextmanager
    def signals(self):
        """Saves before SIGINT or SIGTERM ends the run; handlers exist on the main thread alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number, _):
            self.signal = number
            signal.signal(number, before[number])  # a second one ends it at once
            log.warning("Caught %s: saving at the next step, then stopping.", signal.Signals(number).name)

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def progress(self, step):
        """A bar on a terminal, a line every few seconds elsewhere."""
        self.started, self.first_step = time.monotonic(), step
        quiet = not sys.stderr.isatty()
        with tqdm(total=self.total, initial=step, unit=" steps", desc=self.folder.name, disable=quiet) as bar:
            self.bar = bar
            yield

    def on_epoch_begin(self, epoch, logs=None):
        if self.metrics_to_restore is not None:
            checkpoint.assign(checkpoint.metric_variables(self.model), self.metrics_to_restore)
            self.metrics_to_restore = None

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.step.numpy())
        self._show(step, logs)
        if self.signal is not None and step % self.interval and step < self.total:
            self._save(best=False)
            self._leave()

    def on_epoch_end(self, epoch, logs=None):
        row = {"step": int(self.model.step.numpy())} | {k: float(v) for k, v in sorted(logs.items())}
        self.rows.append(row)
        table = io.StringIO()
        writer = csv.DictWriter(table, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        files.write(self.folder / "metrics.csv", table.getvalue())

        best = self.notes["best"] is None or row["val_loss"] < self.notes["best"]
        if best:
            self.notes |= {"best": row["val_loss"], "best_step": row["step"], "waited": 0}
        else:
            self.notes["waited"] += 1
        self._save(best)
        if self._patience_spent():
            self.stop = self.model.stop_training = True
        if self.signal is not None:
            self._leave()

    def finish(self, objective):
        """Loads the best weights; returns the outcome."""
        step = int(objective.step.numpy())
        try:
            self.checkpoints.load(objective, self.checkpoints.folder / "best.safetensors")
        except ValueError as error:
            log.warning("The best weights cannot be read, so the last ones are kept: %s", error)
        last = {k: float(v) for k, v in self.rows[-1].items()} if self.rows else {}
        return last | {
            "step": step, "best_step": self.notes["best_step"], "best_val_loss": self.notes["best"],
            "seconds": round(self.notes["seconds"], 1), "stopped_early": step < self.total,
        }

    def _patience_spent(self):
        return 0 < self.training.patience <= self.notes["waited"]

    def _save(self, best):
        now = time.monotonic()
        self.notes["seconds"] += now - self.started
        self.started = now
        self.checkpoints.save(self.model, self.notes, best)

    def _leave(self):
        log.warning("Saved %s at step %d; --resume goes on from there.", self.folder, int(self.model.step.numpy()))
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(EXIT_TERMINATED)

    def _show(self, step, logs):
        loss = float(logs["loss"])
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self.bar.update(step - self.bar.n if not self.bar.disable else 0)
        now = time.monotonic()
        if self.bar.disable and (now - self.last_line > SECONDS_BETWEEN_LINES or step == self.total):
            if self.last_line:
                rate = (step - self.last_step) / (now - self.last_line)
                left = (self.total - step) / rate if rate else math.inf
                log.info("step %d of %d, loss %.4f, %.0f steps/s, %.0f s left", step, self.total, loss, rate, left)
            self.last_line, self.last_step = now, step


def compare(root):
    """A Markdown table of the runs in a folder: outcomes, and the settings in which they differ.

    Raises:
        ValueError: no runs there.
    """
    found = sorted(path.parent for path in root.glob("*/settings.json") if (path.parent / "metrics.csv").exists())
    if not found:
        raise ValueError(f"No runs in {root}. Expected folders with a settings.json; pretrain makes them.")
    settings = [json.loads((folder / "settings.json").read_text("utf-8")) for folder in found]
    keys = list(dict.fromkeys(key for each in settings for key in each))
    differing = [key for key in keys if len({json.dumps(each.get(key)) for each in settings}) > 1]
    header = ["run", "step", "best val_loss", "at step", "test_loss", "test_accuracy", "seconds", *differing]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for folder, each in zip(found, settings):
        summary = folder / "summary.json"
        outcome = json.loads(summary.read_text("utf-8")) if summary.exists() else _unfinished(folder)
        names = ("step", "best_val_loss", "best_step", "test_loss", "test_accuracy", "seconds")
        cells = [folder.name] + [_cell(outcome.get(name)) for name in names] + [_cell(each.get(k)) for k in differing]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _unfinished(folder):
    """What metrics.csv tells of a run that has not ended."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    best = min(rows, key=lambda row: float(row["val_loss"]))
    step = f"{rows[-1]['step']} (unfinished)"
    return {"step": step, "best_val_loss": float(best["val_loss"]), "best_step": best["step"]}


def _cell(value):
    return "–" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
