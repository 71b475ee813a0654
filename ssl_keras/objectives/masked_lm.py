"""Masked language model (BERT, Devlin et al. 2018): predict masked tokens from the text on both sides.

Task 1 of the paper's section 3.1. In each window 15% of the tokens are chosen; 80% of these become [MASK], 10% a random
token, and 10% stay. The loss is −log P of the chosen tokens, averaged over them. P is the softmax over inner products
with the token embeddings, after BERT's head (a dense layer, GELU and norm; a bias per token). The head is
applied to the chosen positions only.

Departures: no next-sentence task, which Liu et al. 2019 found of no benefit; tokens are chosen again at every
step; special tokens are never chosen; dropout is off by default. With `--whole-words` all tokens of a word are chosen
together.

Shapes: `B` batch, `T` tokens, `M` maximum number of chosen tokens in a window, `D` width, `V` vocabulary.

Metrics: `loss`, nats per chosen token; `accuracy`, top-1 on chosen tokens, in [0, 1]; `gradient_norm` (training only).
"""

import dataclasses
from typing import Annotated, ClassVar, Literal

import keras
import numpy as np
import tensorflow as tf

from ssl_keras.data import masking, tokens
from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.data.ranges import Range
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.modalities import language
from ssl_keras.networks import Network, transformer
from ssl_keras.networks.dropout import draw_keys, dropout

MASKED, RANDOM = 0.8, 0.1  # fractions of the chosen tokens; the rest stay
NEVER = 2.0  # sort key of a token that must not be chosen; all others are below 1
DEFAULTS = Training(
    data="pydoc",
    steps=2000,
    batch_size=16,
    optimizer="muon",
    learning_rate=0.003,
    schedule="cosine",
    warmup=100,
    clip_norm=1.0,
    beta_2=0.99,
    weight_decay=0.01,
    jit=True,
    eval_every=100,
    report_every=5,
)


@dataclasses.dataclass(frozen=True)
class Settings(language.Settings):
    """The bidirectional transformer, its tokenizer and the masking."""

    ARCHITECTURES: ClassVar = ("bert", "modern")

    architecture: Literal[*ARCHITECTURES] = "bert"
    """Transformer architecture: bert as published, or modern (RMS norm, rotary positions, squared ReLU, no biases)."""
    tokenizer: str = "wordpiece"
    """Kind of tokenizer to train on the run's text, or the path of a tokenizer.json."""
    mask_ratio: Annotated[float, Range(0, 1, open="both")] = 0.15
    """Fraction of tokens to predict. 80% of them are replaced by [MASK], 10% by a random token, and 10% are kept."""
    whole_words: bool = False
    """Whole-word masking: select all tokens of a word together."""

    def filled(self):
        bert = self.architecture == "bert" and self.epsilon == language.Settings.epsilon
        return dataclasses.replace(super().filled(), **({"epsilon": 1e-12} if bert else {}))


def prepare(settings, splits, init=None):
    """Turns text into windows of tokens; completes the settings from the tokenizer and `init`.

    Raises:
        ValueError: the tokenizer has no mask token.
    """
    settings, tokenizer = language.prepare(settings, splits, init)
    if tokenizer.mask < 0:
        raise ValueError(
            f"The tokenizer has no mask token. Expected one of {', '.join(tokenizers.MASKS)} among its special tokens. "
            "Train a tokenizer (--tokenizer wordpiece), or use causal_lm."
        )
    tables = {"starts": tokenizer.word_starts()} if settings.whole_words else {}
    special = np.zeros(tokenizer.vocabulary, bool)
    special[list(tokenizer.special.values())] = True
    return settings, tokens.corpus(splits, tokenizer, settings.length, target=0, tables=tables | {"special": special})


def encoder(settings, spec):
    """Returns the encoder, tokens (B, T) -> hidden states (B, T, D), as a `Network`."""
    return language.trunk(settings, causal=False)


def head(settings, spec=None):
    """Returns the head, hidden states (M, D) and token embeddings (V, D) -> logits (M, V), as a `Network`."""
    settings = settings.filled()
    return Network("masked_head", vocabulary=settings.vocabulary, width=settings.width, epsilon=settings.epsilon)


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    output = head(settings).build()
    if settings.filled().architecture == "modern":
        # Its token embeddings have elements of unit size: with a scale of 1 the logits would have a deviation of √D.
        output.get_layer("output").scale.assign(np.full(settings.filled().width, settings.filled().width ** -0.5))
    return MaskedLM(settings, language.chosen_encoder(settings, spec, encoder), output)


class MaskedLM(Objective):
    """Holds `encoder` and `head`; trains both to predict the chosen tokens of `batch["tokens"]`."""

    def __init__(self, settings, encoder, head):
        super().__init__(name="masked_lm")
        self.settings, self.encoder, self.head = settings.filled(), encoder, head
        self.tokens = self.settings.length
        self.accuracy = keras.metrics.Mean("accuracy")

    def preprocess(self, batch, random):
        """Masks `tokens`; adds `place` and `target` (B, M) int32; unused entries have target -1."""
        length = self.settings.length
        batch = masking.crop_windows(batch, random, length)
        tokens = batch["tokens"]  # (B, T)
        special = batch["special"] > 0
        allowed = (tokens >= 0) & ~special
        key = random.uniform("choice", (length,))  # (B, T) in [0, 1): the tokens with the lowest keys are chosen
        if self.settings.whole_words:
            after = tf.pad(special[:, :-1], [[0, 0], [1, 0]])  # a word starts after each special token
            key = masking.key_words(key, (batch["starts"] > 0) | after)
        key = tf.where(allowed, key, NEVER)
        max_chosen = max(1, round(self.settings.mask_ratio * length))
        count = tf.cast(tf.reduce_sum(tf.cast(allowed, tf.int32), axis=1), tf.float32)  # (B,)
        num_chosen = tf.maximum(tf.round(self.settings.mask_ratio * count), tf.minimum(count, 1.0))
        negative, place = tf.math.top_k(-key, max_chosen)  # (B, M), the lowest key first
        chosen = tf.range(max_chosen)[None] < tf.cast(num_chosen, tf.int32)[:, None]
        if self.settings.whole_words:
            chosen &= masking.fit_words(-negative, key, num_chosen)
        chosen &= -negative < NEVER
        target = tf.where(chosen, tf.gather(tokens, place, batch_dims=1), -1)
        kind = random.uniform("kind", (max_chosen,))
        random_token = tf.cast(random.uniform("token", (max_chosen,)) * self.settings.vocabulary, tf.int32)
        new = tf.where(kind < MASKED, self.settings.mask_token, tf.where(kind < MASKED + RANDOM, random_token, target))
        where = tf.where(chosen)  # (number, 2): row, slot
        indices = tf.stack([tf.cast(where[:, 0], tf.int32), tf.gather_nd(place, where)], axis=1)
        tokens = tf.tensor_scatter_nd_update(tokens, indices, tf.gather_nd(new, where))
        masked = {"tokens": tokens, "place": place, "target": target, "weight": batch["weight"]}
        return masked | draw_keys(random, self.settings.dropout)

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training=False):
        """Returns the summed loss and the weighted number of chosen tokens; updates `accuracy`."""
        target = tf.reshape(batch["target"], [-1])  # (B·M,)
        weight = tf.cast(batch["target"] >= 0, tf.float32) * example_weight(batch)[:, None]
        weight = tf.reshape(weight, [-1])
        with dropout(batch, self.settings.dropout if training else 0):
            hidden = self.encoder(batch["tokens"], training=training)  # (B, T, D)
        chosen = tf.gather(hidden, batch["place"], batch_dims=1)  # (B, M, D)
        logits = self.logits(tf.reshape(chosen, (-1, hidden.shape[-1])))  # (B·M, V)
        hit = tf.cast(tf.argmax(logits, -1, tf.int32) == target, tf.float32)
        self.accuracy.update_state(hit, weight)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(target, 0), logits)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def logits(self, hidden):
        """Applies the head to hidden states, (M, D) -> logits (M, V)."""
        return self.head([hidden, language.table(self.encoder)])

    def report(self, batch, examples, splits):
        """Attention maps, predictions in held-out windows, and token embeddings."""
        return Report(
            images=language.attention_pictures(self.encoder, batch["tokens"]),
            texts={"guesses": self._predictions(batch, splits.train.tokenizer)},
            embeddings=language.projections(transformer.parts(self.encoder).embeddings, splits.train.tokenizer),
        )

    def _predictions(self, batch, tokenizer):
        """Markdown of held-out windows, with true and predicted tokens in bold at the chosen positions."""
        lines = []
        for ids, place, target in zip(batch["tokens"][:3], batch["place"], batch["target"]):
            shown = [tokenizer.decode([i]) for i in ids.numpy()]
            predictions = tf.argmax(self.logits(tf.gather(self.encoder(ids[None])[0], place)), -1).numpy()
            for at, true, predicted in zip(place.numpy(), target.numpy(), predictions):
                if true >= 0:
                    right, wrong = tokenizer.decode([true]), tokenizer.decode([predicted])
                    shown[at] = f"**[{right}]**" if predicted == true else f"**[{right} → {wrong}]**"
            lines.append(" ".join(shown).replace("\n", "⏎"))
        return "\n\n".join(lines)
