"""What pretraining costs, before it is begun: parameters, memory, operations, hours.

Of a language model all follows from formulas, so that networks can be planned that no machine here holds. Any other
objective is built, and one step of it traced on examples of the data, but not run.

Sources of the formulas:

- operations: 6 for each weight of a matrix product and token, 12·L·T·D for attention (Chowdhery et al. 2022, PaLM,
  appendix B; a causal network is counted in full, as there);
- activations: Korthikanti et al. 2022, equation 2, without the masks of dropout, which ours has none of;
- tokens that a budget of operations is best spent on: Hoffmann et al. 2022 (Chinchilla), section 3.3, with the
  constants that Besiroglu et al. 2024 found in the same data;
- adding up: a ring sends 2·(n−1)/n of what is added (Patarasuk & Yuan 2009). Of gradients it begins when all are there:
  its time comes on top of the computing's. What replicas see of each other's examples (contrastive losses) is added up
  twice, forward and back;
- checkpoints: the interval at which as much is lost to writing as to failures (Young 1974).

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
FEW = 4  # examples that say of what shape all are
OUTSIDE = ("weights", "Adam's moments")  # what the graph of a step holds no copy of
HOURS_TO_FAILURE = 50_000.0  # of a GPU: 419 interruptions of 16,384 in 54 days (Dubey et al. 2024, Llama 3, table 5)
CHINCHILLA = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}


@dataclasses.dataclass(frozen=True)
class Plan:
    """On what, and how long."""

    gpus: Annotated[int, Range(1)] = 8
    """Replicas, in nodes of eight."""
    gpu: Literal[*GPUS] = "h100"
    """a100, h100 or h200."""
    batch_size: Annotated[int, Range(1)] = 512
    """B, the global batch."""
    precision: Literal[*BYTES] = "mixed_bfloat16"
    """float32, mixed_bfloat16 or mixed_float16."""
    utilization: Annotated[float, Range(0, 1, open="low")] = 0.4
    """Of the peak, what computing comes to (MFU): measure yours with a short run, which tells it at its end."""
    disk: Annotated[float, Range(0, open="low")] = 1e9
    """Bytes/s to the shared storage."""

    def __post_init__(self):
        check_fields(self)
        if self.batch_size % self.gpus:
            raise ValueError(f"batch_size must be a multiple of gpus. Received: {self.batch_size}, {self.gpus}")


@dataclasses.dataclass(frozen=True)
class Tokens:
    """How long a language model is trained."""

    tokens: Annotated[float, Range(0)] = 0.0
    """To be trained on; 0 is what is best for a network of this size."""

    def __post_init__(self):
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Passes:
    """How long any other network is trained, and on what."""

    data: str = "digits"
    """As of pretrain: its examples say what a step takes."""
    image_size: int | None = None
    """Of images: side length in pixels to resize to."""
    image_channels: Annotated[int, Range(0)] = 0
    """Of gray images: as if they had so many, 3 for color."""
    examples: Annotated[int, Range(0)] = 0
    """How many there will be; 0 is as many as in this data."""
    epochs: Annotated[float, Range(0, open="low")] = 100.0
    """Passes over them."""

    def __post_init__(self):
        check_fields(self)

    def load(self):
        """The data, `Splits`."""
        return load(self.data, self.image_size)


class Work(typing.NamedTuple):
    """What training asks of each GPU: counts of `rows` examples, a GPU's part of the batch."""

    parameters: int
    operations: float  # of an example
    examples: float  # in the whole run
    memory: dict  # {what: bytes} of rows, and of what does not depend on them
    read: float  # bytes of an example, as it comes from the disk
    seen: float = 0.0  # bytes of an example that all replicas see
    returned: float = 0.0  # of these, bytes whose gradient comes back
    tokens: int = 0  # of an example
    twice: float = 1.0  # operations done over those needed: rematerialisation does the forward pass again


def parameters(settings, masked=False):
    """(all weights, those of them that each token is multiplied by) of a filled `modalities.language.Settings`.

    Args:
        masked: whether BERT's head is there, which sees only the chosen tokens; the second number counts it by their
            share.
    """
    d, h, v = settings.width, settings.hidden, settings.vocabulary
    products = settings.layers * (4 * d * d + 2 * d * h)
    count = products + v * d
    if settings.architecture == "modern":
        count += 2 * d  # token shift, last scale
    else:
        count += settings.context * d + settings.layers * (3 * d + d + h + d + 4 * d)  # positions, biases, norms
        count += 2 * d  # of gpt2 the last norm, of bert the first
        count += 2 * d * (settings.architecture == "bert")  # segments
    if masked:
        count += d * d + 3 * d + v
    seen = settings.mask_ratio if masked else 1.0
    return count, products + seen * (v * d + d * d * masked)


def operations(settings, masked=False):
    """Of training, for each token."""
    attention = 12 * settings.layers * settings.length * settings.width
    return 6 * parameters(settings, masked)[1] + attention


def best_tokens(count):
    """Tokens D at which a network of so many parameters N is the best for its operations, 6·N·D."""
    c = CHINCHILLA
    # The optimum of N at a budget C is G·(C/6)^a, with a = β/(α+β) and G = (αA/βB)^(1/(α+β)): solved for C.
    a = c["beta"] / (c["alpha"] + c["beta"])
    g = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / (c["alpha"] + c["beta"]))
    return (count / g) ** (1 / a) / count


def loss(count, tokens):
    """The law's loss, nats per token of its own text and tokenizer: to compare plans by, no promise."""
    c = CHINCHILLA
    return c["E"] + c["A"] / count ** c["alpha"] + c["B"] / tokens ** c["beta"]


def memory(settings, windows, precision, masked=False):
    """Bytes of a replica with so many windows at a time: {what: bytes}."""
    count, _ = parameters(settings, masked)
    size, d, t = BYTES[precision], settings.width, settings.length
    layer = windows * t * d * size * (8 + (settings.hidden / d) * 2)
    scores = 2 * windows * settings.heads * t * t * 4  # in float32, before and after the softmax
    layers = (
        settings.layers * windows * t * d * size + layer + scores
        if settings.remat
        else (settings.layers * (layer + scores))
    )
    logits = 3 * windows * t * settings.vocabulary * 4 * (settings.mask_ratio if masked else 1.0)
    return state(count, precision) | {"activations": layers, "logits": logits}


def state(count, precision):
    """Bytes of a replica whatever it computes, {what: bytes}."""
    kept = {"weights": 4 * count, "gradients": 4 * count, "Adam's moments": 8 * count}
    return kept | ({"weights in 16 bit": 2 * count} if BYTES[precision] == 2 else {})


def of_language(settings, asked, tokens=0.0, masked=False):
    """The `Work` of a filled `modalities.language.Settings`; tokens 0 are the best number."""
    count, _ = parameters(settings, masked)
    return Work(
        count,
        settings.length * operations(settings, masked),
        (tokens or best_tokens(count)) / settings.length,
        memory(settings, asked.batch_size // asked.gpus, asked.precision, masked),
        read=4 * settings.length,
        tokens=settings.length,
        twice=4 / 3 if settings.remat else 1.0,
    )


def of_traced(module, settings, splits, asked, passes):
    """The `Work` of any objective: of one step, traced on as many examples as each GPU has."""
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
        raise ValueError(f"{objective.name} cannot be planned on {source.name}: its shapes vary as it runs.")
    weights = sum(v.shape.num_elements() for v in objective.trainable_variables)
    gathered = [
        op.outputs[0]
        for op in graph.get_operations()
        if op.type == "Identity" and losses.GATHERED in op.name.rpartition("/")[2]
    ]
    seen, returned = (
        sum(x.shape.num_elements() * x.dtype.size for x in tensors) / rows
        for tensors in (gathered, [x for x in gathered if flops.learns(x)])
    )
    read = sum(x.nbytes for x in raw.values()) / some.batch_size
    held = {"activations": flops.live_bytes(graph)}
    held |= {what: size for what, size in state(weights, asked.precision).items() if what in OUTSIDE}
    return Work(weights, count / rows, (passes.examples or len(source)) * passes.epochs, held, read, seen, returned)


def _colored(source, channels):
    """A source of gray images, with so many channels, all alike."""
    images = source.column("image")
    if images.shape[-1] != 1:
        raise ValueError(f"image_channels is for gray images. {source.name} has {images.shape[-1]} channels.")
    return dataclasses.replace(source, arrays=source.arrays | {"image": np.repeat(images, channels, -1)})


def plan(work, asked):
    """{what: number} of a `Work` and a `Plan`; seconds, bytes and hours."""
    gpu, n = GPUS[asked.gpu], asked.gpus
    peak = gpu["32" if asked.precision == "float32" else "16"]
    computing = asked.batch_size * work.operations * work.twice / (n * peak * asked.utilization)
    link = gpu["neighbors"] if n <= NODE else gpu["node"]
    ring = 2 * (n - 1) / n / link  # seconds for each byte that is added up
    adding, seeing = ring * 4 * work.parameters, ring * asked.batch_size * (work.seen + work.returned)
    checkpoint = 12 * work.parameters
    hours_to_failure = HOURS_TO_FAILURE / n
    interval = math.sqrt(2 * (checkpoint / asked.disk) * hours_to_failure * 3600)
    steps = work.examples / asked.batch_size
    step = computing + adding + seeing
    lost, usual = (
        checkpoint / asked.disk / seconds + seconds / 2 / (hours_to_failure * 3600)
        for seconds in (interval, 60 * Training.checkpoint_minutes)
    )
    rate = asked.batch_size / step
    made = {"parameters": work.parameters}
    if work.tokens:
        made |= {"tokens": work.examples * work.tokens, "tokens/s": rate * work.tokens}
    made |= {
        "examples": work.examples,
        "examples/s": rate,
        "steps": steps,
        "operations": work.examples * work.operations,
        "bytes of a GPU": sum(work.memory.values()),
        "bytes that a GPU has": gpu["memory"],
        "seconds of a step": step,
        "of them adding up gradients": adding / step,
        "of them seeing other replicas' examples": seeing / step,
        "bytes/s of examples": rate * work.read,
        "MFU": asked.utilization * computing / work.twice / step,
        "hours": steps * step / 3600 * (1 + lost),
        "bytes of a checkpoint": checkpoint,
        "hours to a failure": hours_to_failure,
        "best --checkpoint-minutes": interval / 60,
        "lost to checkpoints and failures": lost,
        f"the same with --checkpoint-minutes {Training.checkpoint_minutes:g}": usual,
    }
    return made | ({"loss by the law": loss(work.parameters, made["tokens"])} if work.tokens else {})


SHARES = ("of them", "MFU", "lost", "the same")  # how the names of shares begin


def shown(made, remat=False):
    """The plan, a line for each number, as people read them; `remat` says whether there is such a setting."""
    lines = []
    for name, value in made.items():
        if name.startswith("bytes"):
            text = f"{value / 1e9:,.3g} GB" + "/s" * ("/s" in name)
        elif name.startswith(SHARES):
            text = f"{value:.1%}"
        elif value >= 1e12:
            text = f"{value:.2e}"
        else:
            text = f"{value:,.0f}" if value >= 1000 else f"{value:,.3g}"
        lines.append(f"{name:40} {text}")
    if made["bytes of a GPU"] > made["bytes that a GPU has"]:
        lines.append(
            f"It does not fit: a smaller --batch-size, --precision mixed_bfloat16, {'--remat, ' if remat else ''}or a "
            "smaller network. What no replica can hold needs its weights spread over GPUs (FSDP, tensor parallelism), "
            "which is not here."
        )
    return "\n".join(lines)
