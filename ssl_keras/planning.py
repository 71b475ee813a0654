"""What pretraining a language model costs, before it is begun: parameters, memory, operations, hours.

Sources of the formulas:

- operations: 6 for each weight of a matrix product and token, 12·L·T·D for attention (Chowdhery et al. 2022, PaLM,
  appendix B; a causal network is counted in full, as there);
- activations: Korthikanti et al. 2022, equation 2, without the masks of dropout, which ours has none of;
- tokens that a budget of operations is best spent on: Hoffmann et al. 2022 (Chinchilla), section 3.3, with the
  constants that Besiroglu et al. 2024 found in the same data;
- adding up gradients: a ring sends 2·(n−1)/n of them (Patarasuk & Yuan 2009). Ours begins when all gradients are there:
  its time comes on top of the computing's;
- checkpoints: the interval at which as much is lost to writing as to failures (Young 1974).

Shapes: `L` layers, `D` width, `H` hidden, `T` tokens of a window, `V` vocabulary, `B` windows of a global batch.
"""

import dataclasses
import math

BYTES = {"float32": 4, "mixed_bfloat16": 2, "mixed_float16": 2}
# Dense operations/s in 16 bit and in 32 (of GPUs: TF32); bytes of memory; bytes/s of a GPU to its neighbours, and of a
# node of eight to the others: the makers' figures for A100 SXM with 8 × 200 Gb/s, H100 SXM with 8 × 400 Gb/s.
GPUS = {
    "a100": {"16": 312e12, "32": 156e12, "memory": 80e9, "neighbours": 300e9, "node": 200e9},
    "h100": {"16": 989e12, "32": 494e12, "memory": 80e9, "neighbours": 450e9, "node": 400e9},
}
NODE = 8  # GPUs
HOURS_TO_FAILURE = 50_000.0  # of a GPU: 419 interruptions of 16,384 in 54 days (Dubey et al. 2024, Llama 3, table 5)
CHINCHILLA = {"A": 482.01, "B": 2085.43, "E": 1.8172, "alpha": 0.3478, "beta": 0.3658}


@dataclasses.dataclass(frozen=True)
class Plan:
    """On what, and how long."""

    gpus: int = 8
    """Replicas, in nodes of eight."""
    gpu: str = "h100"
    """a100 or h100."""
    windows: int = 512
    """B, the global batch: windows of T tokens."""
    tokens: float = 0.0
    """To be trained on; 0 is what is best for a network of this size."""
    precision: str = "mixed_bfloat16"
    """float32, mixed_bfloat16 or mixed_float16."""
    utilisation: float = 0.4
    """Of the peak, what computing comes to (MFU): measure yours with a short run."""
    disk: float = 1e9
    """Bytes/s to the shared storage."""

    def __post_init__(self):
        if self.gpu not in GPUS:
            raise ValueError(f"gpu must be one of {', '.join(GPUS)}. Received: {self.gpu!r}")
        if self.precision not in BYTES:
            raise ValueError(f"precision must be one of {', '.join(BYTES)}. Received: {self.precision!r}")
        if self.gpus < 1 or self.windows < 1 or self.windows % self.gpus:
            raise ValueError(f"windows must be a multiple of gpus. Received: {self.windows}, {self.gpus}")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation must be in (0, 1]. Received: {self.utilisation}")
        if not (0 <= self.tokens < math.inf and 0 < self.disk < math.inf):
            raise ValueError(f"tokens and disk must be positive. Received: {self.tokens}, {self.disk}")


def parameters(settings, masked=False):
    """(all weights, those of them that each token is multiplied by) of a filled `language.Settings`.

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
    seen = settings.share if masked else 1.0
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
    layer = windows * t * d * size * (16 + (settings.hidden / d) * 2)
    scores = 2 * windows * settings.heads * t * t * 4  # in float32, before and after the softmax
    layers = settings.layers * windows * t * d * size + layer + scores if settings.remat else (
        settings.layers * (layer + scores)
    )
    logits = 3 * windows * t * settings.vocabulary * 4 * (settings.share if masked else 1.0)
    state = {"weights": 4 * count, "gradients": 4 * count, "Adam's moments": 8 * count}
    if size == 2:
        state["weights in 16 bit"] = 2 * count
    return state | {"activations": layers, "logits": logits}


def plan(settings, asked, masked=False):
    """{what: number} of a filled `language.Settings` and a `Plan`; seconds, bytes and hours."""
    gpu, n = GPUS[asked.gpu], asked.gpus
    count, _ = parameters(settings, masked)
    step_tokens = asked.windows * settings.length
    tokens = asked.tokens or best_tokens(count)
    peak = gpu["32" if asked.precision == "float32" else "16"]
    computing = step_tokens * operations(settings, masked) / (n * peak * asked.utilisation)
    link = gpu["neighbours"] if n <= NODE else gpu["node"]
    adding = 2 * (n - 1) / n * 4 * count / link
    held = memory(settings, asked.windows // n, asked.precision, masked)
    checkpoint = 12 * count
    hours_to_failure = HOURS_TO_FAILURE / n
    interval = math.sqrt(2 * (checkpoint / asked.disk) * hours_to_failure * 3600)
    steps = tokens / step_tokens
    step = computing + adding
    lost = checkpoint / asked.disk / interval + interval / 2 / (hours_to_failure * 3600)
    return {
        "parameters": count, "tokens": tokens, "steps": steps, "operations": tokens * operations(settings, masked),
        "bytes of a GPU": sum(held.values()), "bytes that a GPU has": gpu["memory"],
        "seconds of a step": step, "of them adding up gradients": adding / step,
        "tokens/s": step_tokens / step, "MFU": asked.utilisation * computing / step,
        "hours": steps * step / 3600 * (1 + lost), "bytes of a checkpoint": checkpoint,
        "hours to a failure": hours_to_failure, "minutes between checkpoints": interval / 60,
        "lost to checkpoints and failures": lost, "loss by the law": loss(count, tokens),
    }


def shown(made):
    """The plan, a line for each number, as people read them."""
    lines = []
    for name, value in made.items():
        if name.startswith("bytes"):
            text = f"{value / 1e9:,.2f} GB"
        elif name in ("of them adding up gradients", "MFU", "lost to checkpoints and failures"):
            text = f"{value:.1%}"
        elif value >= 1e12:
            text = f"{value:.2e}"
        else:
            text = f"{value:,.0f}" if value >= 1000 else f"{value:,.3g}"
        lines.append(f"{name:34} {text}")
    if made["bytes of a GPU"] > made["bytes that a GPU has"]:
        lines.append(
            "It does not fit: fewer --windows for each GPU, --remat, --precision mixed_bfloat16, or a smaller network. "
            "What no replica can hold needs its weights spread over GPUs (FSDP, tensor parallelism), which is not here."
        )
    return "\n".join(lines)
