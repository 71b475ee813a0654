"""Sentence embeddings (SimCSE, Gao et al. 2021): a text passes the encoder twice, and finds itself in the batch.

The two passes differ in their dropout masks only (the paper's section 3). With labeled pairs (`--data pairs:FILE`), the
second pass takes the text's partner instead (section 4, without hard negatives). The loss is NT-Xent over the batch,
with cosine similarities of the pooled states over a temperature.

Departures: NT-Xent is SimCLR's (`losses.nt_xent`), whose candidates are both passes of all other texts, and which is
averaged over both directions; equation 4 has one direction, and the second pass as candidates. There is no MLP
between the pooled states and the loss. Attention weights have no dropout. Held-out losses have dropout as well, since
the masks are what makes the two views; evaluated and saved features have none.

Shapes: `B` batch (`b` a replica's part), `T` tokens, `D` features.

Metrics: `loss`, nats per text; `top1`, accuracy of retrieving a text's second pass by its first from the batch, in
[0, 1]; `alignment`, mean squared distance between the two passes' normalized features, in [0, 4], and `uniformity`, the
log of the mean of exp(−2·squared distance) over pairs of texts, at most 0 (Wang & Isola 2020); `gradient_norm`
(training only). Loss, top-1 and uniformity depend on the batch size.
"""

import dataclasses
from typing import Annotated, Literal

import keras
import numpy as np
import tensorflow as tf
import tyro

from ssl_keras import encoders, losses
from ssl_keras.data import masking, tokens
from ssl_keras.data.passages import cut_into_passages
from ssl_keras.data.ranges import Range
from ssl_keras.encoders import card as cards
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.modalities import language
from ssl_keras.networks import pooled_features, transformer
from ssl_keras.networks.dropout import draw_keys, dropout

DEFAULTS = Training(
    data="pydoc",
    steps=1000,
    batch_size=64,
    learning_rate=3e-4,
    schedule="cosine",
    warmup=100,
    clip_norm=1.0,
    eval_every=100,
    report_every=5,
)
COLLAPSED, FAILED = -0.05, 0.05  # uniformity above, and top-1 below which all texts have nearly the same features
SHOWN, NEAREST = 5, 3  # texts in the report, and neighbors of each


@dataclasses.dataclass(frozen=True)
class Settings(language.Settings):
    """The text encoder, its pooling, and the loss."""

    architecture: Literal[*transformer.ARCHITECTURES] = "bert"
    """Transformer architecture: gpt2 and bert are as published, modern is described in `networks/transformer.py`. All
    tokens attend to both sides, unless the --init encoder is causal."""
    tokenizer: str = "wordpiece"
    """Kind of tokenizer to train on the run's text, or the path of a tokenizer.json."""
    length: Annotated[int, Range(0)] = 0
    """Maximum length of a text in training, in tokens; longer ones are truncated. 0 uses the value of --context."""
    dropout: Annotated[float, Range(0, 1, open="high")] = 0.1
    """Dropout rate of the embeddings and of each transformer block's two outputs, those of attention and of the MLP.
    The two passes of a text differ in it alone, so it can be 0 only with labeled pairs."""
    pooling: Literal[*transformer.POOLINGS] = "mean"
    """Features of a text: mean of the tokens' states, or state of the first token (the class token of BERT) or of the
    last one. It is saved with the encoder. With --init, mean stands for the pooling of that encoder."""
    temperature: Annotated[float, Range(0, open="low")] = 0.05
    """Temperature, which divides the cosine similarities."""
    passage: Annotated[int, Range(16)] = 200
    """Maximum length of a text, in characters. Longer ones are cut into passages, each of which is an example. Labeled
    pairs are not cut."""
    causal: Annotated[bool, tyro.conf.Suppress] = False  # of the --init encoder: `prepare` sets it


def prepare(settings, splits, init=None):
    """Turns texts, or pairs of them, into tokens; completes the settings from the tokenizer and `init`.

    Raises:
        ValueError: no text; no dropout without pairs; a pooling that does not fit the tokenizer or the attention.
    """
    paired = "target" in splits.train.arrays
    if not settings.dropout and not paired:
        raise ValueError(
            "dropout must be above 0 without labeled pairs, since the two passes of a text would be equal. "
            "Received: dropout=0. Use --dropout 0.1, or --data pairs:FILE."
        )
    settings, tokenizer = language.prepare(settings, splits, init, targets=paired)
    if init is not None:
        network = cards.network(cards.read(encoders.find(init))).keywords  # with the mean, if the card has no pooling
        pooling = settings.pooling if settings.pooling != Settings.pooling else network["pooling"]
        settings = dataclasses.replace(settings, causal=network["causal"], pooling=pooling)
    if settings.pooling == "first" and (settings.causal or not tokens.special_tokens(tokenizer)[0]):
        raise ValueError(
            "pooling first needs a token before the text, such as [CLS], that attends to all of it. Received: "
            f"{'causal attention' if settings.causal else 'a tokenizer without such a token'}. Use --pooling "
            f"{'last' if settings.causal else 'mean, or --tokenizer wordpiece'}."
        )
    if not paired:
        splits = cut_into_passages(splits, settings.passage)
    made = tokens.tokenize_texts(splits, tokenizer, settings.length)
    return settings, _with_partners(made, splits, tokenizer, settings.length) if paired else made


def _with_partners(made, splits, tokenizer, length):
    """Returns the tokenized splits with the column "partner" (N, T): the tokens of the second texts of the pairs."""
    second = type(splits)(
        *(dataclasses.replace(part, arrays={"text": part.column("target")}, rows=None) for part in splits)
    )
    second = tokens.tokenize_texts(second, tokenizer, length)
    return type(made)(
        *(
            dataclasses.replace(part, arrays=part.arrays | {"partner": other.arrays["tokens"]})
            for part, other in zip(made, second)
        )
    )


def encoder(settings, spec):
    """Returns the encoder, tokens (B, T) -> hidden states (B, T, D), as a `Network` with the pooling."""
    return language.trunk(settings, settings.causal, settings.pooling)


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    return Sentence(settings, language.chosen_encoder(settings, spec, encoder))


class Sentence(Objective):
    """Holds `encoder`; trains it on `batch["tokens"]` and, if there are pairs, `batch["partner"]`."""

    batch_coupled, min_batch_size = True, 2

    def __init__(self, settings, encoder):
        super().__init__(name="sentence")
        self.settings, self.encoder = settings, encoder
        self.top1 = keras.metrics.Mean("top1")
        self.alignment = keras.metrics.Mean("alignment")
        self.uniformity = keras.metrics.Mean("uniformity")

    def preprocess(self, batch, random):
        """Trims both texts to the longest of the batch, and draws the dropout masks of both passes."""
        texts = {name: masking.trim(batch[name]) for name in ("tokens", "partner") if name in batch}
        return texts | {"weight": batch["weight"]} | draw_keys(random, self.settings.dropout, copies=2)

    def train_step(self, batch):
        self.descend(self.batch_loss, batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch))

    def batch_loss(self, batch):
        """Returns the summed loss and the number of texts; updates the metrics."""
        weight = example_weight(batch)  # (b,)
        first, second = self.passes(batch)
        loss = losses.nt_xent(first, second, weight, self.settings.temperature)
        self._measure(losses.l2_normalize(first), losses.l2_normalize(second), weight)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def passes(self, batch):
        """Returns the features of both passes of a batch, (b, D) each."""
        texts = [batch["tokens"], batch.get("partner", batch["tokens"])]
        longest = tf.maximum(*(tf.shape(text)[1] for text in texts))
        texts = [tf.pad(x, [[0, 0], [0, longest - tf.shape(x)[1]]], constant_values=-1) for x in texts]
        with dropout(batch, self.settings.dropout):
            return tf.split(pooled_features(self.encoder, tf.concat(texts, 0), training=True), 2)

    def _measure(self, first, second, weight):
        self.top1.update_state(losses.top1(first, second, weight), weight)
        self.alignment.update_state(tf.reduce_sum(tf.square(first - second), axis=1), weight)
        self.uniformity.update_state(losses.uniformity(first, weight), tf.reduce_sum(weight))

    def warnings(self, logs):
        """Warns of collapse, by the validation metrics where there are any."""
        uniformity, top1 = (logs.get(f"val_{name}", logs.get(name)) for name in ("uniformity", "top1"))
        if uniformity < COLLAPSED or top1 > FAILED:
            return []
        return [
            f"All texts have nearly the same features (uniformity {uniformity:.2g}, top-1 {top1:.2g}): the encoder has "
            "collapsed. Lower --learning-rate, or use a larger --batch-size."
        ]

    def report(self, batch, examples, splits):
        """Held-out texts and those nearest to them, attention maps, and token embeddings."""
        return Report(
            images=language.attention_pictures(self.encoder, batch["tokens"]),
            texts={"nearest": self._nearest(examples()["tokens"], splits.train.tokenizer)},
            embeddings=language.projections(transformer.parts(self.encoder).embeddings, splits.train.tokenizer),
        )

    def _nearest(self, ids, tokenizer):
        """Markdown of the first texts, in bold, each with a list of those that are most similar to it."""
        features = losses.l2_normalize(pooled_features(self.encoder, ids)).numpy()
        similarity, lines = features[:SHOWN] @ features.T, []
        np.fill_diagonal(similarity, -np.inf)
        for row, scores in enumerate(similarity):
            lines.append(f"**{_code(tokenizer, ids[row])}**\n")
            nearest = np.argsort(-scores, kind="stable")[: min(NEAREST, len(features) - 1)]
            lines += [f"- {scores[each]:.3f} {_code(tokenizer, ids[each])}" for each in nearest]
            lines.append("")
        return "\n".join(lines)


def _code(tokenizer, ids):
    text = tokenizer.decode(ids.numpy()[ids.numpy() >= 0])
    return "`" + text.replace("`", "'").replace("\n", "⏎") + "`"
