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
import dataclasses
import json
import logging
import math
import pathlib

import keras
import tensorflow as tf

from ssl_keras import files
from ssl_keras.data.batches import Batches, check_divisible
from ssl_keras.precision import computing_in
from ssl_keras.tensorboard import TensorBoard
from ssl_keras.training.keeper import Keeper
from ssl_keras.training.optimizer import make as make_optimizer
from ssl_keras.training.workers import Workers

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train; shared by pretraining and fine-tuning."""

    data: str = "digits"
    """digits, folder:PATH (images), captions:FILE, emoji:FOLDER (images with captions), pydoc, text:PATH (text),
    table:FILE (text with labels), pairs:FILE, cmudict (texts with targets), audio:PATH, transcripts:FILE,
    connected:DATA, espeak (sound), tfds:NAME."""
    image_size: int | None = None
    """Of images: side length in pixels to resize to."""
    epochs: int = 0
    """Passes over the training data; 0, where steps is 0 too, is 100."""
    steps: int = 0
    """Updates in all, instead of epochs."""
    batch_size: int = 256
    """Global batch: over all replicas."""
    optimizer: str = "adam"
    """adam; or muon, with adam for what is no matrix."""
    learning_rate: float = 1e-3
    """The highest learning rate."""
    schedule: str = "constant"
    """constant; or cosine, which falls to final_rate of it at the end."""
    final_rate: float = 0.1
    """With cosine: the last learning rate over the highest."""
    warmup: int = 0
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """Decoupled weight decay, times the learning rate; norms and biases are spared."""
    beta_1: float = 0.9
    """Adam's decay of gradients."""
    beta_2: float = 0.999
    """Adam's decay of squared gradients."""
    clip_norm: float | None = None
    """Largest global gradient norm."""
    accumulate: int = 1
    """Micro-batches per update, to save memory; the update stays the same. (Not with batch normalisation.)"""
    precision: str = "float32"
    """float32, mixed_bfloat16 or mixed_float16."""
    seed: int = 0
    """Keys weights, order, and every draw."""
    interval: int = 0
    """Steps between evaluations and checkpoints; 0 is an epoch, or a hundredth of the run if that is longer."""
    save_minutes: float = 5.0
    """Of training, what a kill may cost: a checkpoint is written after so long also between evaluations; 0 is never."""
    patience: int = 0
    """Stop after so many intervals without a better validation loss; 0 is never."""
    quality_every: int = 10
    """Intervals between label-free and kNN measurements of the features; 0 is never."""
    init: str | None = None
    """Start from this saved encoder (a name or folder)."""
    strategy: str = "auto"
    """auto (all local GPUs), one, mirrored, or multi_worker: as TF_CONFIG or Slurm's variables say."""
    replicas: int = 0
    """With mirrored: how many replicas (logical CPUs where there is no GPU)."""
    steps_per_execution: int = 32
    """Steps in one call of the graph: more is faster, fewer shows progress more often."""
    jit: bool = False
    """Compile whole steps with XLA, where that works: on one device, and not with deterministic."""
    deterministic: bool = False
    """Ops that give the same bits every time, at some cost in speed."""
    run: str = ""
    """Name of the run's folder; default OBJECTIVE-DATA."""
    runs: str = "runs"
    """Folder that holds the runs."""
    resume: bool = False
    """Go on with the run of that name, if it has begun."""

    def __post_init__(self):
        if self.epochs and self.steps:
            raise ValueError(
                f"Expected epochs or steps, not both. Received: epochs={self.epochs}, steps={self.steps}. "
                "Set the other one to 0."
            )
        for name in ("batch_size", "accumulate", "steps_per_execution"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1. Received: {getattr(self, name)}")
        for name in (
            "epochs", "steps", "interval", "save_minutes", "patience", "quality_every", "replicas", "warmup",
            "weight_decay",
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0. Received: {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite. Received: {self.learning_rate}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive or None. Received: {self.clip_norm}")
        for name, choices in (("optimizer", ("adam", "muon")), ("schedule", ("constant", "cosine"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}. Received: {getattr(self, name)!r}")
        if not 0 <= self.final_rate <= 1:
            raise ValueError(f"final_rate must be in [0, 1]. Received: {self.final_rate}")
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1). Received: {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in 0..2³²−1. Received: {self.seed}")
        if self.precision not in ("float32", "mixed_bfloat16", "mixed_float16"):
            raise ValueError(
                f"precision must be float32, mixed_bfloat16 or mixed_float16. Received: {self.precision!r}"
            )


# Settings that say where and how fast a run goes, not what it learns: they may change on resume.
DATA = {"data", "examples", "fingerprint", "held_out", "tokenizer_sha256", "vocabulary"}
HOW = {"strategy", "replicas", "steps_per_execution", "save_minutes", "run", "runs", "resume"}


def open_run(training, splits, strategy, kind, settings, default_name):
    """Makes or reopens the run's folder.

    Args:
        training: `Training`.
        splits: `Splits`; its training part is part of what must agree on resume.
        strategy: the one to train under.
        kind: "pretrain autoencoder", "finetune", …: so is this.
        settings: JSON-able dict of the objective's settings.
        default_name: the folder's name where `training.run` is empty.

    Returns:
        (the folder, a `pathlib.Path`; the settings written there, a flat dict).

    Raises:
        ValueError: fewer examples than a batch, or a batch that does not divide; the folder
            belongs to other settings (the difference is shown), or the run has begun and
            `resume` is off; workers that differ in any of this.
        PermissionError: the folder cannot be written.
    """
    check_divisible(training.batch_size, strategy.num_replicas_in_sync, training.accumulate)
    Batches(splits.train, training.batch_size)  # refuses here what cannot be trained on
    folder = pathlib.Path(training.runs) / (training.run or default_name)
    asked = {k: v for k, v in dataclasses.asdict(training).items() if k not in HOW}
    asked |= {"data": splits.train.base, "examples": len(splits.train), "fingerprint": splits.train.fingerprint()}
    asked["held_out"] = [splits.validation.fingerprint(), splits.test.fingerprint()]
    if splits.train.tokenizer:
        asked["tokenizer_sha256"] = splits.train.tokenizer.sha256
    asked = json.loads(json.dumps({"kind": kind, **asked, **settings}))
    workers = Workers(strategy)
    # What may change on resume must still be the same for all of them: who reads metrics when the others do not waits.
    alike = [asked, folder.name, training.resume, training.steps_per_execution]
    workers.agree("settings and data", json.dumps(alike, sort_keys=True))
    path = folder / "settings.json"
    begun = any((folder / "checkpoints").glob("*.safetensors"))  # else a request that was refused later
    if path.exists() and begun:
        try:
            there = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}). Put it back from a copy; or, with the same flags as before, remove it."
            ) from error
        keys = sorted(k for k in there.keys() | asked.keys() if there.get(k) != asked.get(k))
        if keys:
            difference = "".join(f"\n  {k}: there {there.get(k)!r}, asked for {asked.get(k)!r}" for k in keys)
            what = "on other data" if set(keys) <= DATA else "with other settings"
            raise ValueError(f"{folder} belongs to a run {what}:{difference}\nChoose another --run name (run=).")
    if begun and not training.resume:
        raise ValueError(
            f"{folder} has begun. Add --resume (resume=True) to go on with it, or choose another --run name (run=)."
        )
    workers.wait()  # all have looked
    files.make_folder(folder)
    if workers.is_chief:
        files.write_json(path, asked)
    return folder, asked


@contextlib.contextmanager
def conditions(training):
    """Seeds what creates weights, and sets precision and, if asked, deterministic ops, while it lasts."""
    keras.utils.set_random_seed(training.seed)
    if training.deterministic:
        tf.config.experimental.enable_op_determinism()
    with computing_in(training.precision):
        yield


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
    batches = Batches(splits.train, training.batch_size, seed=training.seed, views=objective.views)
    held_out = Batches(splits.validation, training.batch_size, views=objective.held_out_views, shuffle=False)
    total = total_steps(training, splits)
    interval = training.interval or max(batches.steps_per_epoch, total // 100)

    keeper = Keeper(folder, training, total, interval, Workers(strategy))
    step = keeper.restore(objective)
    objective.rows = training.batch_size // strategy.num_replicas_in_sync
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


def train_and_save(objective, splits, training, folder, strategy, asked, callbacks, save):
    """Trains with TensorBoard, evaluates on held-out data, and leaves what the run has come to: of several workers the
    chief's doing.

    Args:
        objective, splits, training, folder, strategy, callbacks: as of `train`.
        asked: the run's settings, a flat dict.
        save: function of the outcome that saves the encoder.

    Returns:
        The outcome: a dict with the run's `folder`.
    """
    workers = Workers(strategy)
    boards = [TensorBoard(folder, splits, training, asked)] if workers.is_chief else []
    outcome = train(objective, splits, training, folder, strategy, [*boards, *callbacks])
    test = held_out(objective, splits.test, training.batch_size, strategy)
    outcome |= {f"test_{key}": value for key, value in test.items()}
    if workers.is_chief:
        save(outcome)
        boards[0].close(objective, outcome)
        files.write_json(folder / "summary.json", outcome)
    workers.wait()
    return outcome | {"folder": str(folder)}


def total_steps(training, splits):
    """Updates in the whole run."""
    return training.steps or (training.epochs or 100) * (len(splits.train) // training.batch_size)


def compile_objective(objective, training, splits, *optimizers):
    """Compiles it as a run asks for; by default with the objective's own `optimizers`.

    Raises:
        ValueError: a batch that is too small for the objective, or micro-batches or patience that
            it cannot have.
    """
    if training.batch_size < objective.least_batch:
        raise ValueError(
            f"{objective.name} compares the examples of a batch: batch_size must be at least "
            f"{objective.least_batch}. Received: {training.batch_size}"
        )
    if training.patience and objective.latest_is_best:
        raise ValueError(f"patience needs a loss that says how good it is; {objective.name} has none. Leave it out.")

    def make(variables, share=1.0, updates=1):
        often = dataclasses.replace(training, warmup=training.warmup * updates)
        return make_optimizer(often, total_steps(training, splits) * updates, variables, share)

    objective.compile(
        *(optimizers or objective.optimizers(make)), clip_norm=training.clip_norm, accumulate=training.accumulate,
        steps_per_execution=training.steps_per_execution, jit_compile=training.jit,
    )
    if objective.jit_compile and splits.train.lengths is not None:
        log.warning(
            "XLA compiles a step anew for each length of a batch, and %s has many: a run that is short is faster "
            "without jit.", splits.train.name,
        )


def held_out(objective, source, batch_size, strategy, views=None):
    """{metric: value} of a compiled objective on all of a source, by default through its `held_out_views`."""
    batches = Batches(source, batch_size, views=views or objective.held_out_views, shuffle=False)
    dataset = batches.dataset(0, batches.steps_per_epoch, strategy)
    result = objective.evaluate(dataset, steps=batches.steps_per_epoch, verbose=0, return_dict=True)
    return {key: float(value) for key, value in result.items()}
