"""`Training`: the training settings, shared by pretraining and fine-tuning."""

import dataclasses
from typing import Annotated, Literal

from ssl_keras.data.ranges import Range, check_fields

Strategy = Literal["auto", "one", "mirrored", "multi_worker"]


@dataclasses.dataclass(frozen=True)
class Training:
    """Training settings, shared by pretraining and fine-tuning."""

    data: str = "digits"
    """Dataset, by name.
    Images: digits, folder:PATH. Images with captions: captions:FILE, emoji:FOLDER.
    Text: pydoc, text:PATH. Text with labels: table:FILE. Texts with targets: pairs:FILE, cmudict.
    Audio: audio:PATH, espeak. Audio with transcripts: transcripts:FILE, connected:DATA.
    TensorFlow Datasets: tfds:NAME."""
    image_size: int | None = None
    """Side length, in pixels, of the square to which images are resized. None is that of the saved encoder
    that is fine-tuned, or else keeps their size (28 for digits).
    Images of different sizes are then resized to the size of at least half of them, or else to the median size."""
    epochs: Annotated[int, Range(0)] = 0
    """Number of passes over the training data. If --epochs and --steps are both 0, the run has 100 epochs."""
    steps: Annotated[int, Range(0)] = 0
    """Total number of training steps (updates), as an alternative to --epochs. 0 means that --epochs sets the
    length."""
    batch_size: Annotated[int, Range(1)] = 256
    """Global batch size: number of examples per step, over all replicas."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Optimizer. muon uses Muon for weight matrices, and Adam for embeddings, norms and biases."""
    learning_rate: Annotated[float, Range(0, open="low")] = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate schedule after the warmup. cosine decays to --final-rate times the peak at the last step."""
    final_rate: Annotated[float, Range(0, 1)] = 0.1
    """Final learning rate of the cosine schedule, as a fraction of the peak."""
    warmup: Annotated[int, Range(0)] = 0
    """Number of steps in which the learning rate increases linearly from 0 to its peak. 0 disables warmup."""
    weight_decay: Annotated[float, Range(0)] = 0.0
    """Decoupled weight decay, scaled by the learning rate. Norms and biases are excluded. 0 disables it."""
    beta_1: Annotated[float, Range(0, 1, open="high")] = 0.9
    """Adam's decay rate for the moving average of gradients."""
    beta_2: Annotated[float, Range(0, 1, open="high")] = 0.999
    """Adam's decay rate for the moving average of squared gradients."""
    clip_norm: Annotated[float, Range(0, open="low")] | None = None
    """Maximum global gradient norm; larger gradients are scaled down to it. None disables clipping."""
    accumulate: Annotated[int, Range(1)] = 1
    """Number of micro-batches per step (gradient accumulation). More micro-batches need less memory and give the same
    update. Must be 1 with batch normalization, and with losses that compare the examples of a batch."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Precision of the computation, as a Keras dtype policy. Variables are always float32."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of the initial weights, the data order and all other random numbers."""
    eval_every: Annotated[int, Range(0)] = 0
    """Number of steps between evaluations on the validation split. A checkpoint follows each evaluation.
    0 means an epoch, or 1% of the run if that is longer."""
    checkpoint_minutes: Annotated[float, Range(0)] = 5.0
    """Minutes between additional checkpoints, written between evaluations. 0 disables them."""
    patience: Annotated[int, Range(0)] = 0
    """Early stopping: number of consecutive evaluations without a lower validation loss (for classes: without a higher
    accuracy), after which training stops. 0 disables it."""
    report_every: Annotated[int, Range(0)] = 10
    """Number of evaluations between TensorBoard reports of samples, weights and feature quality (kNN, RankMe, …).
    0 writes one report, at the end of the run."""
    tensorboard: bool = True
    """Write TensorBoard events to the folder tensorboard in the run's folder."""
    init: str | None = None
    """Name or path of a saved encoder whose weights pretraining starts from (warm start). None starts from random
    weights. Must be None for finetune, which starts from ENCODER."""
    keep_start: bool = False
    """Save the encoder of --init instead of the trained one, if the features are worse at the end: lower kNN accuracy
    or, without labels, less than half the effective rank (RankMe). For images."""
    strategy: Strategy = "auto"
    """Distribution strategy. auto uses all local GPUs, or the CPU. one uses the first GPU, or the CPU.
    mirrored uses --replicas local devices. multi_worker uses the cluster described by TF_CONFIG or Slurm's
    variables."""
    replicas: Annotated[int, Range(0)] = 0
    """Number of replicas for the strategies auto and mirrored: GPUs or, on a machine without GPUs, logical CPUs (for
    tests). 0 means all GPUs."""
    steps_per_execution: Annotated[int, Range(1)] = 32
    """Number of training steps per call of the compiled graph. Larger values are faster; smaller values update the
    progress more often."""
    jit: bool = False
    """Compile training steps with XLA. Has no effect with several replicas or with --deterministic."""
    deterministic: bool = False
    """Use deterministic TensorFlow ops, which make repeated runs bit-identical, at some cost in speed."""
    run: str = ""
    """Name of the run, and of its folder in --runs. If empty, it is OBJECTIVE-DATA or, for finetune,
    finetune-ENCODER-DATA."""
    runs: str = "runs"
    """Folder that contains all runs."""
    resume: bool = False
    """Resume the run from its last checkpoint. A run without a checkpoint starts from step 0. At a constant learning
    rate it may get more --steps than before."""

    def __post_init__(self):
        check_fields(self)
        if self.keep_start and self.init is None:
            raise ValueError("keep_start needs init, the encoder to keep. Received: init=None. Leave keep_start out.")
        if self.epochs and self.steps:
            raise ValueError(
                f"Expected epochs or steps, not both. Received: epochs={self.epochs}, steps={self.steps}. "
                "Set one of them to 0."
            )


def total_steps(training, splits):
    """Returns the number of updates in the whole run."""
    return training.steps or (training.epochs or 100) * (len(splits.train) // training.batch_size)
