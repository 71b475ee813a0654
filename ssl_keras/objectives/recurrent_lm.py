"""Recurrent language model (GRU or LSTM): predict the token a fixed distance ahead.

The tutorial's section 4.3. A recurrent network g reads x₁…x_t, and P(x_{t+h} | x₁…x_t) is the softmax over the
vocabulary of the inner products ⟨g(x₁…x_t), embedding of x⟩. The horizon h is 2 as in the tutorial; with 1 it
is an ordinary language model. The loss is −log P, averaged over tokens. The objective `seq2seq` adds a decoder.

Departure: dropout has one mask for all positions of an example (Gal & Ghahramani 2016).

Shapes: `B` batch, `T` context, `W` window, `D` width, `V` vocabulary, `P` dropout masks per example.

Metrics: `loss`, nats per target token, with label smoothing in training; `accuracy`, top-1 on target tokens, in
[0, 1]; `gradient_norm` (training only).
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
    """The recurrent network, its tokenizer, and the token to predict."""

    horizon: Annotated[int, Range(1, recurrent_text.MAX_CONTEXT)] = 2
    """Distance to the predicted token, in tokens. 1 predicts the next token."""
    context: Annotated[int, Range(2, recurrent_text.MAX_CONTEXT)] = 64
    """Length of a training window, in tokens."""


def prepare(settings, splits, init=None):
    """Turns text into windows of tokens; completes the settings from the tokenizer and `init`.

    Raises:
        ValueError: the tokenizer has no end-of-text token; `init` was saved by another objective.
    """
    splits = tokens.drop_targets(splits)
    if init is not None:
        kept, _ = start_from(
            init,
            settings,
            ("recurrent",),
            recurrent_text.NETWORK,
            "is not a unidirectional recurrent encoder. Expected an encoder saved by recurrent_lm.",
            bidirectional=False,
        )
        settings = dataclasses.replace(settings, tokenizer=str(init), **kept)
    tokenizer = tokenizer_of(settings, init, lambda: tokens.training_texts(splits.train))
    if tokenizer.end < 0:
        raise ValueError("The tokenizer has no end-of-text token. Train one that has it, such as --tokenizer bpe.")
    settings = dataclasses.replace(settings, vocabulary=tokenizer.vocabulary)
    return settings, tokens.corpus(splits, tokenizer, settings.context, target=settings.horizon)


def encoder(settings, spec):
    """Returns the unidirectional encoder, tokens (B, T) -> states (B, T, D), as a `Network`."""
    return Network(
        "recurrent",
        vocabulary=settings.vocabulary,
        width=settings.width,
        layers=settings.layers,
        cell=settings.cell,
        bidirectional=False,
    )


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be a functional graph or a function (settings, spec) that makes one."""
    return RecurrentLM(settings, recurrent_text.chosen_encoder(settings, spec, encoder))


class RecurrentLM(Objective):
    """Holds `encoder`; trains it to predict each token of `batch["tokens"]` from those at least `horizon` before it."""

    def __init__(self, settings, encoder):
        super().__init__(name="recurrent_lm")
        self.settings, self.encoder, self.context = settings, encoder, settings.context
        self.accuracy = keras.metrics.Mean("accuracy")

    def preprocess(self, batch, random):
        """Returns `preprocess_eval`'s batch, with random numbers for dropout."""
        batch = self.preprocess_eval(batch, random)
        if self.settings.dropout:
            batch["dropout"] = recurrent_text.draw_dropout([self.encoder], self.settings.width, random)
        return batch

    def preprocess_eval(self, batch, random):
        """Crops (B, T + h) tokens from each window at random; a held-out window has exactly these."""
        return masking.crop_windows(batch, random, self.settings.context + self.settings.horizon)

    def train_step(self, batch):
        self.descend(self.smoothed_loss, batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, self.logits(batch)))

    def smoothed_loss(self, batch):
        """Returns `batch_loss` with dropout and label smoothing, if they are set."""
        drop = recurrent_text.dropout(batch, self.settings.dropout)
        return self.batch_loss(batch, self.logits(batch, drop), self.settings.label_smoothing)

    def batch_loss(self, batch, logits, label_smoothing=0.0):
        """Returns the summed loss and the weighted number of target tokens; updates `accuracy`."""
        target = batch["tokens"][:, self.settings.horizon :]  # (B, T)
        return recurrent_text.token_loss(target, logits, example_weight(batch), self.accuracy, label_smoothing)

    def logits(self, batch, drop=None):
        """Returns logits (B, T, V) float32 of the token `horizon` ahead; `drop` is applied to layers' inputs."""
        tokens = batch["tokens"][:, : -self.settings.horizon]
        states = recurrent.encode(self.encoder, tokens, drop) if drop else self.encoder(tokens)
        return recurrent.logits(self.encoder, states)

    def report(self, batch, examples, splits):
        """Token embeddings."""
        return Report(embeddings=language.projections(recurrent.parts(self.encoder).embeddings, splits.train.tokenizer))
