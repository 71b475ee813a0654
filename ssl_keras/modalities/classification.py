"""Shared by the objectives that train an encoder with a classification head: `Pair`, and its optimizers.

Shapes: `B` batch, `D` features, `Y` classes.
"""

import typing

import keras

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
