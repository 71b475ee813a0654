"""`Training`: the training settings, shared by pretraining and fine-tuning."""

import dataclasses
from typing import Annotated, Literal

from ssl_keras.data.ranges import Range, check_fields

Strategy = Literal["auto", "one", "mirrored", "multi_worker"]


@dataclasses.dataclass(frozen=True)
class Training:
    """Training settings, shared by pretraining and fine-tuning."""

    data: str = "digits"
    """Data set, by name.
    Images: digits, folder:PATH. Images with captions: captions:FILE, emoji:FOLDER.
    Text: pydoc, text:PATH. Text with labels: table:FILE. Texts with targets: pairs:FILE, cmudict.
    Audio: audio:PATH, transcripts:FILE, connected:DATA, espeak. TensorFlow Datasets: tfds:NAME."""
    image_size: int | None = None
    """Side length in pixels to which images are resized. None keeps their size (28 for digits)."""
    epochs: Annotated[int, Range(0)] = 0
    """Number of passes over the training data. If epochs and steps are both 0, a run takes 100 epochs."""
    steps: Annotated[int, Range(0)] = 0
    """Total number of training steps (updates), as an alternative to epochs. 0 means that epochs sets the length."""
    batch_size: Annotated[int, Range(1)] = 256
    """Global batch size: the number of examples per step, over all replicas."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Optimizer. muon updates weight matrices with Muon, and embeddings, norms and biases with Adam."""
    learning_rate: Annotated[float, Range(0, open="low")] = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate schedule after the warmup. cosine decays to final_rate times the peak at the last step."""
    final_rate: Annotated[float, Range(0, 1)] = 0.1
    """Final learning rate of the cosine schedule, as a fraction of the peak."""
    warmup: Annotated[int, Range(0)] = 0
    """Number of steps of linear learning rate warmup from 0. 0 disables it."""
    weight_decay: Annotated[float, Range(0)] = 0.0
    """Decoupled weight decay, multiplied by the learning rate. Norms and biases are excluded. 0 disables it."""
    beta_1: Annotated[float, Range(0, 1, open="high")] = 0.9
    """Adam's decay rate for the moving average of gradients."""
    beta_2: Annotated[float, Range(0, 1, open="high")] = 0.999
    """Adam's decay rate for the moving average of squared gradients."""
    clip_norm: Annotated[float, Range(0, open="low")] | None = None
    """Maximum global gradient norm; larger gradients are scaled down to it. None disables clipping."""
    accumulate: Annotated[int, Range(1)] = 1
    """Number of micro-batches per step (gradient accumulation). Larger numbers save memory; the update is the same.
    Must be 1 with batch normalization, and with losses that compare the examples of a batch."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Precision of the computation, as a Keras dtype policy. Weights are always stored in float32."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of the initial weights, the data order and all other random numbers."""
    eval_every: Annotated[int, Range(0)] = 0
    """Number of steps between evaluations; each is followed by a checkpoint.
    0 means an epoch, or 1% of the run if that is longer."""
    checkpoint_minutes: Annotated[float, Range(0)] = 5.0
    """Minutes between checkpoints within an evaluation interval; limits what a crash loses. 0 disables them."""
    patience: Annotated[int, Range(0)] = 0
    """Early stopping: number of evaluations in a row without a lower validation loss. 0 disables it."""
    report_every: Annotated[int, Range(0)] = 10
    """Number of evaluations between TensorBoard reports of samples, weights and feature quality (kNN, RankMe, …).
    0 writes one report, at the end of the run."""
    tensorboard: bool = True
    """Write TensorBoard events to RUN/tensorboard."""
    init: str | None = None
    """Saved encoder, by name or path, to start pretraining from (warm start). None starts from random weights."""
    strategy: Strategy = "auto"
    """Distribution strategy. auto uses all local GPUs, or the CPU; one uses the default device.
    mirrored puts one replica on each local GPU; multi_worker uses the cluster in TF_CONFIG or Slurm's variables."""
    replicas: Annotated[int, Range(0)] = 0
    """Number of replicas of the mirrored strategy: GPUs, or logical CPUs on a machine without GPUs. 0 is all GPUs."""
    steps_per_execution: Annotated[int, Range(1)] = 32
    """Number of training steps per call of the compiled graph. A larger number is faster; metrics update less often."""
    jit: bool = False
    """Compile training steps with XLA. Has no effect with several replicas or with deterministic."""
    deterministic: bool = False
    """Use deterministic TensorFlow ops, which give bitwise identical results in every run, at some cost in speed."""
    run: str = ""
    """Name of the run's folder inside runs. Empty combines the names of the objective and the data."""
    runs: str = "runs"
    """Folder that contains all runs."""
    resume: bool = False
    """Resume the run of this name from its newest checkpoint. A run without checkpoints starts from step 0."""

    def __post_init__(self):
        check_fields(self)
        if self.epochs and self.steps:
            raise ValueError(
                f"Expected epochs or steps, not both. Received: epochs={self.epochs}, steps={self.steps}. "
                "Set one of them to 0."
            )


def total_steps(training, splits):
    """Returns the number of updates in the whole run."""
    return training.steps or (training.epochs or 100) * (len(splits.train) // training.batch_size)
