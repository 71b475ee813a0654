"""`Training`: how to train; shared by pretraining and fine-tuning."""

import dataclasses
import math


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
    tensorboard: bool = True
    """Write TensorBoard events to RUN/tensorboard."""
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
    """Name of the run's folder in the folder of runs; default OBJECTIVE-DATA."""
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


def total_steps(training, splits):
    """Updates in the whole run."""
    return training.steps or (training.epochs or 100) * (len(splits.train) // training.batch_size)
