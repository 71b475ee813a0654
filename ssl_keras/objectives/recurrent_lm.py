"""Recurrent language model: predict the token h places on. The tutorial's section 4.3; was `seq2seq --task next`.

One recurrent network g reads x₁…x_t, and P(x_{t+h} | x₁…x_t) = softmax over the vocabulary of the inner
products ⟨g(x₁…x_t), embedding of x⟩; the horizon h is 2, as in the tutorial; 1 is a language model. The
loss is −log P, averaged over tokens. `seq2seq` has the encoder and the decoder.

Departure: dropout has one mask for all positions of an example (Gal & Ghahramani 2016).

Shapes: `B` batch, `T` context, `W` window, `D` width, `V` vocabulary, `P` places of dropout.

Metrics: `loss`, nats per target token (smoothed, if so asked, while training); `accuracy`, the share of
target tokens that the likeliest token hits; `gradient_norm` (training only).
"""

import dataclasses
from typing import Annotated

import keras

from ssl_keras.data import masking, tokens
from ssl_keras.data.ranges import Range
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.modalities import language, recurrent_text
from ssl_keras.modalities.settings import start_from, tokenizer_of
from ssl_keras.networks import Network, recurrent

DEFAULTS = Training(
    data="pydoc",
    steps=2000,
    batch_size=128,
    learning_rate=2e-3,
    schedule="cosine",
    final_rate=0.01,
    warmup=100,
    clip_norm=1.0,
    eval_every=100,
    report_every=5,
)


@dataclasses.dataclass(frozen=True)
class Settings(recurrent_text.Settings):
    """A recurrent network, its tokenizer, and how far ahead it looks."""

    horizon: Annotated[int, Range(1, recurrent_text.MAX_CONTEXT)] = 2
    """How many places on the predicted token is; 1 is the very next one."""
    context: Annotated[int, Range(2, recurrent_text.MAX_CONTEXT)] = 64
    """Tokens of a training window."""


def prepare(settings, splits, init=None):
    """Text -> windows over its tokens; the settings with what the tokenizer and `init` decide.

    Raises:
        ValueError: a tokenizer without a token for the end of a text; an `init` of another objective.
    """
    splits = tokens.drop_targets(splits)
    if init is not None:
        kept, _ = start_from(
            init,
            settings,
            ("recurrent",),
            recurrent_text.NETWORK,
            "is no encoder of recurrent_lm, which reads one way. Expected one that pretraining with recurrent_lm "
            "saved.",
            bidirectional=False,
        )
        settings = dataclasses.replace(settings, tokenizer=str(init), **kept)
    tokenizer = tokenizer_of(settings, init, lambda: tokens.training_texts(splits.train))
    if tokenizer.end < 0:
        raise ValueError("The tokenizer needs a token for the end of a text.")
    settings = dataclasses.replace(settings, vocabulary=tokenizer.vocabulary)
    return settings, tokens.corpus(splits, tokenizer, settings.context, target=settings.horizon)


def encoder(settings, spec):
    """The encoder, tokens (B, T) -> states (B, T, D), each of the tokens up to it, as a `Network`."""
    return Network(
        "recurrent",
        vocabulary=settings.vocabulary,
        width=settings.width,
        layers=settings.layers,
        cell=settings.cell,
        bidirectional=False,
    )


def build(settings, spec, encoder=encoder):
    """The objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    return RecurrentLM(settings, recurrent_text.chosen_encoder(settings, spec, encoder))


class RecurrentLM(Objective):
    """Holds `encoder`; trains it to predict `batch["tokens"]` from those at least `horizon` places before."""

    def __init__(self, settings, encoder):
        super().__init__(name="recurrent_lm")
        self.settings, self.encoder, self.context = settings, encoder, settings.context
        self.accuracy = keras.metrics.Mean("accuracy")

    def preprocess(self, batch, random):
        """As `preprocess_eval`, and the numbers that dropout needs."""
        made = self.preprocess_eval(batch, random)
        if self.settings.dropout:
            made["dropout"] = recurrent_text.draw_dropout([self.encoder], self.settings.width, random)
        return made

    def preprocess_eval(self, batch, random):
        """Cuts (B, T + h) tokens out of each window at random; a held-out window has just these."""
        return masking.crop_windows(batch, random, self.settings.context + self.settings.horizon)

    def train_step(self, batch):
        self.descend(self.smoothed_loss, batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, self.logits(batch)))

    def smoothed_loss(self, batch):
        """`batch_loss` with dropout and smoothing, where they are asked for."""
        drop = recurrent_text.dropout(batch, self.settings.dropout)
        return self.batch_loss(batch, self.logits(batch, drop), self.settings.label_smoothing)

    def batch_loss(self, batch, logits, label_smoothing=0.0):
        """Summed loss and (weighted) number of target tokens; updates `accuracy`."""
        target = batch["tokens"][:, self.settings.horizon :]  # (B, T)
        return recurrent_text.token_loss(target, logits, example_weight(batch), self.accuracy, label_smoothing)

    def logits(self, batch, drop=None):
        """(B, T, V) float32, of the token `horizon` places after each; `drop` is done to what layers take."""
        tokens = batch["tokens"][:, : -self.settings.horizon]
        states = recurrent.encode(self.encoder, tokens, drop) if drop else self.encoder(tokens)
        return recurrent.logits(self.encoder, states)

    def report(self, batch, examples, splits):
        """The token embeddings."""
        return Report(embeddings=language.projections(recurrent.parts(self.encoder).embeddings, splits.train.tokenizer))
