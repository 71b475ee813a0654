"""`Training`: how to train; shared by pretraining and fine-tuning."""

import dataclasses
from typing import Annotated, Literal

from ssl_keras.data.ranges import Range, check_fields


@dataclasses.dataclass(frozen=True)
class Training:
    """How to train; shared by pretraining and fine-tuning."""

    data: str = "digits"
    """digits, folder:PATH (images), captions:FILE, emoji:FOLDER (images with captions), pydoc, text:PATH (text),
    table:FILE (text with labels), pairs:FILE, cmudict (texts with targets), audio:PATH, transcripts:FILE,
    connected:DATA, espeak (sound), tfds:NAME."""
    image_size: int | None = None
    """Of images: side length in pixels to resize to."""
    epochs: Annotated[int, Range(0)] = 0
    """Passes over the training data; 0, where steps is 0 too, is 100."""
    steps: Annotated[int, Range(0)] = 0
    """Updates in all, instead of epochs."""
    batch_size: Annotated[int, Range(1)] = 256
    """Global batch: over all replicas."""
    optimizer: Literal["adam", "muon"] = "adam"
    """adam; or muon, with adam for what is no matrix."""
    learning_rate: Annotated[float, Range(0, open="low")] = 1e-3
    """The highest learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """constant; or cosine, which falls to final_rate of it at the end."""
    final_rate: Annotated[float, Range(0, 1)] = 0.1
    """With cosine: the last learning rate over the highest."""
    warmup: Annotated[int, Range(0)] = 0
    """Steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Range(0)] = 0.0
    """Decoupled weight decay, times the learning rate; norms and biases are spared."""
    beta_1: Annotated[float, Range(0, 1, open="high")] = 0.9
    """Adam's decay of gradients."""
    beta_2: Annotated[float, Range(0, 1, open="high")] = 0.999
    """Adam's decay of squared gradients."""
    clip_norm: Annotated[float, Range(0, open="low")] | None = None
    """Largest global gradient norm."""
    accumulate: Annotated[int, Range(1)] = 1
    """Micro-batches per update, to save memory; the update stays the same. (Not with batch normalization.)"""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """float32, mixed_bfloat16 or mixed_float16."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Keys weights, order, and every draw."""
    eval_every: Annotated[int, Range(0)] = 0
    """Steps between evaluations and checkpoints; 0 is an epoch, or a hundredth of the run if that is longer."""
    checkpoint_minutes: Annotated[float, Range(0)] = 5.0
    """Of training, what a kill may cost: a checkpoint is written after so long also between evaluations; 0 is never."""
    patience: Annotated[int, Range(0)] = 0
    """Stop after so many intervals without a better validation loss; 0 is never."""
    report_every: Annotated[int, Range(0)] = 10
    """Intervals between label-free and kNN measurements of the features; 0 is never."""
    tensorboard: bool = True
    """Write TensorBoard events to RUN/tensorboard."""
    init: str | None = None
    """Start from this saved encoder (a name or folder)."""
    strategy: str = "auto"
    """auto (all local GPUs), one, mirrored, or multi_worker: as TF_CONFIG or Slurm's variables say."""
    replicas: Annotated[int, Range(0)] = 0
    """With mirrored: how many replicas (logical CPUs where there is no GPU)."""
    steps_per_execution: Annotated[int, Range(1)] = 32
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
        check_fields(self)
        if self.epochs and self.steps:
            raise ValueError(
                f"Expected epochs or steps, not both. Received: epochs={self.epochs}, steps={self.steps}. "
                "Set the other one to 0."
            )


def total_steps(training, splits):
    """Updates in the whole run."""
    return training.steps or (training.epochs or 100) * (len(splits.train) // training.batch_size)
