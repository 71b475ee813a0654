"""Cost of a pretraining run, estimated before it starts: parameters, memory, FLOPs, hours.

For language models all numbers come from formulas, so a network may be larger than any machine at hand. Every other
objective is built, and one training step is traced on examples of the data, without running it.

Sources of the formulas:

- FLOPs: 6 for each token and weight of a matrix product, plus 12·L·T·D per token for attention (Chowdhery et al. 2022,
  PaLM, appendix B). As there, a causal network counts in full.
- Activations: Korthikanti et al. 2022, equation 2. The two dropout masks of a block have the computation's precision.
- Compute-optimal number of tokens: Hoffmann et al. 2022 (Chinchilla), section 3.3, with the constants that
  Besiroglu et al. 2024 fitted to the same data.
- Communication: a ring all-reduce sends 2·(n−1)/n of the data (Patarasuk & Yuan 2009). The gradients' all-reduce is
  assumed to start after the backward pass, so its time is added to that of the computation. Examples that replicas
  gather from each other (in contrastive losses) are sent twice, in the forward and the backward pass.
- Checkpoints: the interval at which writing costs as much as failures (Young 1974).

Shapes: `L` layers, `D` width, `H` hidden, `T` tokens of a window, `V` vocabulary, `B` examples of a global batch.
"""

import dataclasses
import math
import typing
from typing import Annotated, Literal

import keras
import numpy as np
import tensorflow as tf

from ssl_keras import losses
from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.ranges import Range, check_fields
from ssl_keras.data.sources import load
from ssl_keras.engine.config import Training
from ssl_keras.engine.precision import dtype_policy
from ssl_keras.planning import flops
from ssl_keras.planning.flops import GPUS

BYTES = {"float32": 4, "mixed_bfloat16": 2, "mixed_float16": 2}
NODE = 8  # GPUs
FEW = 4  # examples whose shapes are taken as those of all
OUTSIDE = ("weights", "Adam's moments")  # memory that is not among the tensors of a step's graph
# Of one GPU: 419 interruptions of 16,384 GPUs in 54 days (Dubey et al. 2024, Llama 3, table 5).
HOURS_TO_FAILURE = 50_000.0
CHINCHILLA = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The hardware and the batch of a planned run."""

    gpus: Annotated[int, Range(1)] = 8
    """Number of GPUs, in nodes of eight. Each GPU has one replica."""
    gpu: Literal[*GPUS] = "h100"
    """GPU model."""
    batch_size: Annotated[int, Range(1)] = 512
    """Global batch size: number of examples per step, over all replicas. Must be a multiple of --gpus."""
    precision: Literal[*BYTES] = "mixed_bfloat16"
    """Precision of the computation, as a Keras dtype policy."""
    utilization: Annotated[float, Range(0, 1, open="low")] = 0.4
    """Assumed fraction of the GPU's peak FLOP/s that the computation reaches (MFU).
    Every run reports its MFU when it ends, so a short run measures that of your network."""
    disk: Annotated[float, Range(0, open="low")] = 1e9
    """Write speed of the shared storage, in bytes per second."""

    def __post_init__(self):
        check_fields(self)
        if self.batch_size % self.gpus:
            raise ValueError(
                f"batch_size must be a multiple of gpus. Received: batch_size={self.batch_size}, gpus={self.gpus}"
            )


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The length of training."""

    tokens: Annotated[float, Range(0)] = 0.0
    """Number of tokens to train on. 0 uses the compute-optimal number for the network (Hoffmann et al. 2022)."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Passes:
    """The data and the length of training."""

    data: str = "digits"
    """Dataset, named as for pretrain. Its examples give the shapes of the training step."""
    image_size: int | None = None
    """Side length, in pixels, of the square to which images are resized. None keeps their size."""
    image_channels: Annotated[int, Range(0)] = 0
    """Number of channels to assume for grayscale images, such as 3 for RGB. 0 uses the channels of the data."""
    examples: Annotated[int, Range(0)] = 0
    """Number of training examples to assume. 0 uses the number in the data."""
    epochs: Annotated[float, Range(0, open="low")] = 100.0
    """Number of passes over the training examples."""

    def __post_init__(self):
        check_fields(self)

    def load(self):
        """Loads the data as `Splits`."""
        return load(self.data, self.image_size)


class Work(typing.NamedTuple):
    """The computation, memory and communication that training needs."""

    parameters: int
    operations: float  # FLOPs per example
    examples: float  # in the whole run
    memory: dict  # {what: bytes} on each GPU
    data_bytes: float  # per example, as read from the disk
    gathered: float = 0.0  # bytes per example that all replicas gather
    gathered_gradients: float = 0.0  # bytes per example whose gradients are sent back
    tokens: int = 0  # per example
    recompute: float = 1.0  # FLOPs done relative to those needed; rematerialization repeats the forward pass


def parameters(settings, masked=False):
    """Counts the weights of a filled `modalities.language.Settings`.

    Args:
        settings: the settings.
        masked: whether to include BERT's head. It processes only the selected tokens, so its weights count in the
            second number times the mask ratio.

    Returns:
        (all weights, weights that each token is multiplied by).
    """
    d, h, v = settings.width, settings.hidden, settings.vocabulary
    if settings.architecture == "llama":
        shared = (settings.kv_heads or settings.heads) / settings.heads  # grouped-query attention
        products = settings.layers * round(2 * (1 + shared) * d * d + 3 * d * h)
        count = products + v * d * (1 + getattr(settings, "untied", False)) + settings.layers * 2 * d + d  # norms
    else:
        products = settings.layers * (4 * d * d + 2 * d * h)
        count = products + v * d
    if settings.architecture == "modern":
        count += 2 * d  # token shift, last scale
    elif settings.architecture != "llama":
        count += settings.context * d + settings.layers * (3 * d + d + h + d + 4 * d)  # positions, biases, norms
        count += 2 * d  # the last norm of gpt2, the first of bert
        count += settings.segments * d * (settings.architecture == "bert")
    if masked:
        count += d * d + 3 * d + v
    ratio = settings.mask_ratio if masked else 1.0
    return count, products + ratio * (v * d + d * d * masked)


def operations(settings, masked=False):
    """Returns the training FLOPs per token."""
    attention = 12 * settings.layers * settings.length * settings.width
    return 6 * parameters(settings, masked)[1] + attention


def best_tokens(count):
    """Returns the number of tokens D at which a network with N = `count` parameters is optimal for its 6·N·D FLOPs."""
    c = CHINCHILLA
    # The optimal N for C FLOPs is G·(C/6)^a, with a = β/(α+β) and G = (αA/βB)^(1/(α+β)). This is solved for C.
    a = c["beta"] / (c["alpha"] + c["beta"])
    g = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / (c["alpha"] + c["beta"]))
    return (count / g) ** (1 / a) / count


def loss(count, tokens):
    """Returns the loss by the scaling law, in nats per token of its own data and tokenizer: only to compare plans."""
    c = CHINCHILLA
    return c["E"] + c["A"] / count ** c["alpha"] + c["B"] / tokens ** c["beta"]


def memory(settings, windows, precision, masked=False):
    """Returns the memory of a replica that processes `windows` windows at a time, {what: bytes}."""
    count, _ = parameters(settings, masked)
    size, d, t = BYTES[precision], settings.width, settings.length
    layer = windows * t * d * size * (8 + 2 * (settings.dropout > 0) + (settings.hidden / d) * 2)
    scores = 2 * windows * settings.heads * t * t * 4  # in float32, before and after the softmax
    layers = (
        settings.layers * windows * t * d * size + layer + scores
        if settings.remat
        else (settings.layers * (layer + scores))
    )
    logits = 3 * windows * t * settings.vocabulary * 4 * (settings.mask_ratio if masked else 1.0)
    return state(count, precision) | {"activations": layers, "logits": logits}


def state(count, precision):
    """Returns the memory of a replica that does not depend on its batch, {what: bytes}."""
    sizes = {"weights": 4 * count, "gradients": 4 * count, "Adam's moments": 8 * count}
    return sizes | ({"weights in 16 bit": 2 * count} if BYTES[precision] == 2 else {})


def of_language(settings, asked, tokens=0.0, masked=False):
    """Returns the `Work` for a filled `modalities.language.Settings`; 0 tokens mean the compute-optimal number."""
    count, _ = parameters(settings, masked)
    return Work(
        count,
        settings.length * operations(settings, masked),
        (tokens or best_tokens(count)) / settings.length,
        memory(settings, asked.batch_size // asked.gpus, asked.precision, masked),
        data_bytes=4 * settings.length,
        tokens=settings.length,
        recompute=4 / 3 if settings.remat else 1.0,
    )


def of_traced(module, settings, splits, asked, passes):
    """Returns the `Work` for any objective, from one step that is traced with a GPU's part of the batch."""
    rows = asked.batch_size // asked.gpus
    source = splits.train if not passes.image_channels else _colored(splits.train, passes.image_channels)
    with dtype_policy(asked.precision):
        objective = module.build(settings, source.spec())
        objective.compile(*objective.optimizers(lambda variables, *_, **__: keras.optimizers.SGD()))
    some = Batches(source, min(FEW, len(source)), shuffle=False)
    raw = some.numpy(0)
    tensors = {key: tf.constant(value) for key, value in raw.items()}
    batch = objective.preprocess(tensors, BatchRandom(0, 0, 0, some.batch_size))
    specs = {key: tf.TensorSpec((rows, *x.shape[1:]), x.dtype) for key, x in batch.items()}
    graph = tf.function(objective.train_step, autograph=False).get_concrete_function(specs).graph
    count = flops.operations(graph)
    if count is None:
        raise ValueError(
            f"{objective.name} cannot be planned on {source.name}: the shapes of its tensors are known only at run "
            "time. Choose other --data."
        )
    weights = sum(v.shape.num_elements() for v in objective.trainable_variables)
    gathered = [
        op.outputs[0]
        for op in graph.get_operations()
        if op.type == "Identity" and losses.GATHERED in op.name.rpartition("/")[2]
    ]
    gathered_bytes, gradient_bytes = (
        sum(x.shape.num_elements() * x.dtype.size for x in tensors) / rows
        for tensors in (gathered, [x for x in gathered if flops.learns(x)])
    )
    data_bytes = sum(x.nbytes for x in raw.values()) / some.batch_size
    sizes = {"activations": flops.live_bytes(graph)}
    sizes |= {what: size for what, size in state(weights, asked.precision).items() if what in OUTSIDE}
    examples = (passes.examples or len(source)) * passes.epochs
    return Work(weights, count / rows, examples, sizes, data_bytes, gathered_bytes, gradient_bytes)


def _colored(source, channels):
    """Returns a source of gray images with their channel repeated `channels` times."""
    images = source.column("image")
    if images.shape[-1] != 1:
        raise ValueError(
            f"image_channels is for images with 1 channel. Received: {images.shape[-1]} from {source.name}. "
            "Leave it out."
        )
    return dataclasses.replace(source, arrays=source.arrays | {"image": np.repeat(images, channels, -1)})


def plan(work, asked):
    """Returns the plan for a `Work` and a `Plan`, {what: number}; times are in seconds or hours, sizes in bytes."""
    gpu, n = GPUS[asked.gpu], asked.gpus
    peak = gpu["32" if asked.precision == "float32" else "16"]
    computation = asked.batch_size * work.operations * work.recompute / (n * peak * asked.utilization)
    link = gpu["neighbors"] if n <= NODE else gpu["node"]
    ring = 2 * (n - 1) / n / link  # seconds per byte of an all-reduce
    all_reduce = ring * 4 * work.parameters
    gathering = ring * asked.batch_size * (work.gathered + work.gathered_gradients)
    checkpoint = 12 * work.parameters
    hours_to_failure = HOURS_TO_FAILURE / n
    interval = math.sqrt(2 * (checkpoint / asked.disk) * hours_to_failure * 3600)
    steps = work.examples / asked.batch_size
    step = computation + all_reduce + gathering
    lost, lost_by_default = (
        checkpoint / asked.disk / seconds + seconds / 2 / (hours_to_failure * 3600)
        for seconds in (interval, 60 * Training.checkpoint_minutes)
    )
    rate = asked.batch_size / step
    result = {"parameters": work.parameters}
    if work.tokens:
        result |= {"tokens": work.examples * work.tokens, "tokens/s": rate * work.tokens}
    result |= {
        "examples": work.examples,
        "examples/s": rate,
        "steps": steps,
        "FLOPs": work.examples * work.operations,
        "memory per GPU": sum(work.memory.values()),
        "memory of the GPU": gpu["memory"],
        "seconds per step": step,
        "time in gradient all-reduce": all_reduce / step,
        "time in gathering examples": gathering / step,
        "data/s": rate * work.data_bytes,
        "MFU": asked.utilization * computation / work.recompute / step,
        "hours": steps * step / 3600 * (1 + lost),
        "size of a checkpoint": checkpoint,
        "hours between failures": hours_to_failure,
        "best --checkpoint-minutes": interval / 60,
        "time lost to checkpoints and failures": lost,
        f"time lost at --checkpoint-minutes {Training.checkpoint_minutes:g}": lost_by_default,
    }
    return result | ({"loss by scaling law": loss(work.parameters, result["tokens"])} if work.tokens else {})


SIZES = ("memory", "data", "size")  # beginnings of the names of numbers in bytes
FRACTIONS = ("time", "MFU")  # and of fractions


def shown(made, remat=False):
    """Formats the plan for people, one number per line; `remat` tells whether the objective has that setting."""
    lines = []
    for name, value in made.items():
        if name.startswith(SIZES):
            text = f"{value / 1e9:,.3g} GB" + "/s" * ("/s" in name)
        elif name.startswith(FRACTIONS):
            text = f"{value:.1%}"
        elif value >= 1e12:
            text = f"{value:.2e}"
        else:
            text = f"{value:,.0f}" if value >= 1000 else f"{value:,.3g}"
        lines.append(f"{name:40} {text}")
    if made["memory per GPU"] > made["memory of the GPU"]:
        lines.append(
            f"This does not fit into the GPU. Use a smaller --batch-size, --precision mixed_bfloat16, "
            f"{'--remat, ' if remat else ''}or a smaller network. Weights that do not fit into one GPU need to be "
            "sharded (FSDP, tensor parallelism), which ssl_keras does not support."
        )
    return "\n".join(lines)
