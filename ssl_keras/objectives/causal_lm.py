"""Causal language model (GPT-2, Radford et al. 2019): predict each token from the tokens before it.

The tutorial's section 4.1: P(x_{t+1} | x₁…x_t) is the softmax over the vocabulary of the inner products
⟨f(x₁…x_t), embedding of x⟩. f is a causal transformer, and shares its input embeddings with the output
(Press & Wolf 2017). The loss is −log P, averaged over tokens.

Departures: the tutorial's f is "feed-forward"; here it is a transformer. The default architecture, `modern`, changes
GPT-2's network as described in `networks/transformer.py`; `gpt2` is the original, and `llama` the network of Touvron et
al. 2023, whose output may be untied from the embeddings. The loss of `modern` starts above
log V: its embeddings have elements of unit size, so it first predicts that each token repeats, and unlearns this within
about fifty steps. Dropout is off by default, since a run keeps its best checkpoint.

Shapes: `B` batch, `T` context, `W ≥ T + 1` window, `D` width, `V` vocabulary.

Metrics: `loss`, nats per token; `perplexity`, its exponential; `bits_per_byte`, the loss in bits per
byte of UTF-8 text, which is comparable between tokenizers; `gradient_norm` (training only).
"""

import dataclasses
import math
from typing import Annotated, ClassVar, Literal

import keras
import numpy as np
import tensorflow as tf

from ssl_keras.data import masking, tokens
from ssl_keras.data.ranges import Range
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import find
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.inference import generation
from ssl_keras.modalities import language
from ssl_keras.networks import Network, transformer
from ssl_keras.networks.dropout import draw_keys, dropout

DEFAULTS = Training(
    data="pydoc",
    steps=2000,
    batch_size=16,
    optimizer="muon",
    learning_rate=0.01,
    schedule="cosine",
    warmup=100,
    clip_norm=1.0,
    beta_2=0.99,
    jit=True,
    eval_every=100,
    report_every=5,
)


@dataclasses.dataclass(frozen=True)
class Settings(language.Settings):
    """The causal transformer and its tokenizer."""

    ARCHITECTURES: ClassVar = ("modern", "gpt2", "llama")
    CAUSAL: ClassVar = True

    architecture: Literal[*ARCHITECTURES] = "modern"
    """Transformer architecture: gpt2 and llama as published, or modern (RMS norm, rotary positions, squared ReLU, no
    biases)."""
    kv_heads: Annotated[int, Range(0)] = 0
    """Number of heads of keys and values per block, which heads of queries share (grouped-query attention; llama only).
    0 uses the value of --heads."""
    untied: bool = False
    """Give the output a matrix of its own, instead of that of the token embeddings (llama only)."""

    def __post_init__(self):
        super().__post_init__()
        given = ", ".join(name for name in ("kv_heads", "untied") if getattr(self, name))
        if given and self.architecture != "llama":
            raise ValueError(
                f"{given}: expected the architecture llama. Received: {self.architecture}. Leave {given} out, or use "
                "llama."
            )


def prepare(settings, splits, init=None):
    """Turns text into windows of tokens; completes the settings from the tokenizer and `init`.

    Raises:
        ValueError: the settings contradict the encoder `init`.
    """
    asked, (settings, tokenizer) = settings.untied, language.prepare(settings, splits, init)
    if init is not None:
        saved = cards.is_a(cards.read(find(init)), "untied_head")
        if asked and not saved:
            raise ValueError(f"{init} has no output matrix of its own, which untied asks for. Leave untied out.")
        settings = dataclasses.replace(settings, untied=saved)
    tables = {"bytes": tokenizer.byte_lengths()}
    return settings, tokens.corpus(splits, tokenizer, settings.length, target=1, tables=tables)


def encoder(settings, spec):
    """Returns the encoder, tokens (B, T) -> hidden states (B, T, D), as a `Network`."""
    return language.trunk(settings, causal=True)


def head(settings, spec=None):
    """Returns the untied output, hidden states (M, D), token embeddings (V, D) -> logits (M, V), as a `Network`."""
    settings = settings.filled()
    return Network("untied_head", vocabulary=settings.vocabulary, width=settings.width)


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    network = language.chosen_encoder(settings, spec, encoder)
    return CausalLM(settings, network, head(settings).build() if settings.untied else None)


class Perplexity(keras.metrics.Mean):
    """The exponential of the mean loss."""

    def result(self):
        return tf.exp(super().result())


class CausalLM(Objective):
    """Holds `encoder` and, if it is untied, `head`; trains them to predict each token from those before it."""

    def __init__(self, settings, encoder, head=None):
        super().__init__(name="causal_lm")
        self.settings, self.encoder, self.head = settings, encoder, head
        self.tokens = settings.filled().length
        self.generator = generation.Generator(encoder, head=head)
        self.perplexity = Perplexity("perplexity")
        self.bits_per_byte = keras.metrics.Mean("bits_per_byte")

    def preprocess(self, batch, random):
        """Crops (B, T + 1) tokens from each window at random; a held-out window has exactly these."""
        cropped = masking.crop_windows(batch, random, self.settings.filled().length + 1)
        return cropped | draw_keys(random, self.settings.dropout)

    def train_step(self, batch):
        mean, count = self.descend(lambda batch: self.batch_loss(batch, training=True), batch)
        self.track(mean, count, self.bytes(batch))

    def test_step(self, batch):
        mean, count = self.score(*self.batch_loss(batch, training=False))
        self.track(mean, count, self.bytes(batch))

    def track(self, mean, count, text_bytes):
        """Updates `perplexity` and, if the number of bytes is known, `bits_per_byte`."""
        self.perplexity.update_state(mean, count)
        if text_bytes is not None:
            bits = mean * count / math.log(2)
            self.bits_per_byte.update_state(tf.math.divide_no_nan(bits, text_bytes), text_bytes)

    def bytes(self, batch):
        """Returns the weighted number of bytes of UTF-8 text in the targets; None if it is unknown."""
        if "bytes" not in batch:
            return None
        lengths = tf.cast(batch["bytes"][:, 1:], tf.float32)
        return tf.reduce_sum(lengths * self.target_weight(batch))

    def target_weight(self, batch):
        """Returns the targets' weights, float32 (B, T): the example's weight, and 0 for padding."""
        return tf.cast(batch["tokens"][:, 1:] >= 0, tf.float32) * example_weight(batch)[:, None]

    def batch_loss(self, batch, training=False):
        """Returns the summed loss and the weighted number of tokens; drops elements in training."""
        weight = self.target_weight(batch)  # (B, T)
        target = tf.maximum(batch["tokens"][:, 1:], 0)
        with dropout(batch, self.settings.dropout if training else 0):
            logits = self.logits(batch["tokens"][:, :-1], training)  # (B, T, V)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)  # (B, T)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def logits(self, tokens, training=False):
        """Returns logits of the next token, (B, T) int32 -> (B, T, V) float32."""
        return language.logits(self.encoder, self.encoder(tokens, training=training), self.head)

    def report(self, batch, examples, splits):
        """Attention maps, continuations of held-out windows, and token embeddings."""
        return Report(
            images=language.attention_pictures(self.encoder, batch["tokens"][:, :-1]),
            texts={"samples": self._samples(batch, splits.train.tokenizer)},
            embeddings=language.projections(transformer.parts(self.encoder).embeddings, splits.train.tokenizer),
        )

    def _samples(self, batch, tokenizer):
        """Markdown of prompts from held-out windows, in bold, and their continuations."""
        context = self.generator.context
        start = min(16, context // 2)
        prompts = np.maximum(batch["tokens"][:3, :start].numpy(), 0)
        length = min(context, 128) - start
        generated = self.generator(prompts, length, temperature=0.8)
        rows = [(tokenizer.decode(a), generation.continuation(tokenizer, a, b)) for a, b in zip(prompts, generated)]
        return "\n\n".join(f"**{_code(a)}** {_code(b)}" for a, b in rows)


def _code(text):
    return "`" + text.replace("`", "'").replace("\n", "⏎") + "`"
