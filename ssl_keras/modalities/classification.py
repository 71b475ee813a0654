"""Shared by the objectives that train an encoder with a head on labels: `Pair`, and `PairObjective` that averages one.

Shapes: `B` batch, `D` features, `Y` outputs.
"""

import typing

import keras

from ssl_keras.engine import moving_average
from ssl_keras.engine.objective import Objective
from ssl_keras.networks import copy_of, depth_groups, pooled_features
from ssl_keras.networks.dropout import current_masks, drop


class Pair(typing.NamedTuple):
    """An encoder, input -> features (B, D) or states (B, T, D), and a head, features (B, D) -> logits (B, Y)."""

    encoder: keras.Model
    head: keras.Model

    def logits(self, x, training, frozen=False):
        """Returns logits (B, Y) of a batch of inputs; a `frozen` encoder is in inference mode."""
        features = pooled_features(self.encoder, x, training=training and not frozen)
        return self.head(drop(features, current_masks(training), "head"), training=training)

    def copy(self):
        """Returns a new pair with the same weights."""
        return Pair(copy_of(self.encoder), copy_of(self.head))

    def optimizer_groups(self, optimizer, encoder_optimizers):
        """Returns the (optimizer, variables) pairs to train.

        Args:
            optimizer: that of the head and, without `encoder_optimizers`, also of the encoder.
            encoder_optimizers: one for the whole encoder, or one for each of its `depth_groups`, from input to output.
        """
        head, encoder = self.head.trainable_variables, self.encoder.trainable_variables
        if not encoder_optimizers or not encoder:
            return [(optimizer, [*encoder, *head])]
        levels = depth_groups(self.encoder) if len(encoder_optimizers) > 1 else [encoder]
        return [(optimizer, head), *zip(encoder_optimizers, levels, strict=True)]


class PairObjective(Objective):
    """Trains `student`, a pair; `encoder` and `head`, the pair `averaged`, are its moving average or itself.

    Args:
        encoder: functional graph, input -> features (B, D) or states (B, T, D).
        head: functional graph, features (B, D) -> outputs (B, Y).
        ema_decay: decay of the moving average of the weights; 0 disables it.
        name: name of the objective.
    """

    def __init__(self, encoder, head, ema_decay, name):
        super().__init__(name=name)
        self.encoder, self.head, self.ema_decay = encoder, head, ema_decay
        self.averaged = Pair(encoder, head)
        self.student = self.averaged.copy() if ema_decay else self.averaged

    def optimizer_groups(self):
        return self.student.optimizer_groups(self.optimizer, self.encoder_optimizers)

    def on_weights_loaded(self):
        for trained, loaded in zip(self.student, self.averaged):
            trained.set_weights(loaded.get_weights())

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)
        if self.ema_decay:
            moving_average.update(self.averaged, self.student, self.ema_decay, self)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))
