"""Shared by the recurrent objectives for text: the network as settings, its check, dropout, the loss of tokens.

Shapes: `B` batch, `T` tokens, `U` target tokens, `V` their vocabulary, `D` width, `P` places of dropout.
"""

import dataclasses
from typing import Annotated, Literal

import tensorflow as tf

from ssl_keras import losses
from ssl_keras.data.ranges import Range, check_fields
from ssl_keras.networks import realize, recurrent

NETWORK = {"cell": "cell", "layers": "layers", "width": "width"}  # setting: keyword of what comes with `init`
MAX_CONTEXT = 1 << 12


@dataclasses.dataclass(frozen=True)
class Settings:
    """A recurrent network and its tokenizer."""

    cell: Literal[*recurrent.GATES] = "gru"
    """gru or lstm."""
    layers: Annotated[int, Range(1, recurrent.MAX_LAYERS)] = 2
    """Recurrent layers, of the encoder and of a decoder."""
    width: Annotated[int, Range(2, 1 << 16)] = 256
    """Features of a token."""
    context: Annotated[int, Range(2, MAX_CONTEXT)] = 64
    """The most tokens of a sequence."""
    tokenizer: str = "characters"
    """characters, bpe, wordpiece (trained on the run's text), or the path of a tokenizer.json."""
    vocabulary: Annotated[int, Range(2, 1 << 24)] = 2048
    """Tokens that a tokenizer may learn."""
    dropout: Annotated[float, Range(0, 1, open="high")] = 0.0
    """Share of features that are dropped, between layers."""
    label_smoothing: Annotated[float, Range(0, 1, open="high")] = 0.0
    """Label smoothing: the share of the target that is spread over all tokens."""

    def __post_init__(self):
        check_fields(self)
        if self.width % 2:
            raise ValueError(f"width must be even. Received: {self.width}")


def chosen_encoder(settings, spec, encoder):
    """The graph that `build` was given, see `realize`. Raises ValueError where its parts are not a recurrent one's."""
    network = realize(encoder, settings, spec)
    recurrent.parts(network)
    return network


def draw_dropout(networks, width, random):
    """Draws (B, P, D) in [0, 1): a number for each place of the networks where dropout may be, and each feature."""
    places = sum(1 + len(recurrent.layers_of(network, recurrent.Recurrent)) for network in networks)
    return random.uniform("dropout", (places, width))


def dropout(batch, rate):
    """Makes dropout, a function of (B, ·, D) that takes the next of the batch's masks at each call; of rate 0 None.

    One mask for all positions of an example (Gal & Ghahramani 2016), drawn by its position in the batch, so
    that replicas change nothing.
    """
    if not rate:
        return None
    masks = iter(tf.unstack(tf.cast(batch["dropout"] >= rate, tf.float32) / (1 - rate), axis=1))  # P of (B, D)
    return lambda x: x * tf.cast(next(masks), x.dtype)[:, None]


def token_loss(target, logits, weight, accuracy, label_smoothing=0.0):
    """Sums the loss of target tokens and counts them, weighted: (sum, count); updates the metric `accuracy`.

    Args:
        target: (B, U) int32, -1 for padding.
        logits: (B, U, V).
        weight: (B,) of examples.
    """
    weight = tf.cast(target >= 0, tf.float32) * weight[:, None]
    hit = tf.equal(tf.argmax(logits, -1, tf.int32), target)
    accuracy.update_state(tf.cast(hit, tf.float32), weight)
    loss = losses.smoothed_cross_entropy(tf.maximum(target, 0), logits, label_smoothing)
    return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)
