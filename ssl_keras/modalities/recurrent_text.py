"""Shared by the recurrent text objectives: settings of the network, dropout, and the token loss.

Shapes: `B` batch, `T` tokens, `U` target tokens, `V` their vocabulary, `D` width, `P` dropout masks per example.
"""

import dataclasses
from typing import Annotated, Literal

import tensorflow as tf

from ssl_keras import losses
from ssl_keras.data.ranges import Range, check_fields
from ssl_keras.networks import realize, recurrent

NETWORK = {"cell": "cell", "layers": "layers", "width": "width"}  # setting: keyword of the --init encoder's network
MAX_CONTEXT = 1 << 12


@dataclasses.dataclass(frozen=True)
class Settings:
    """The recurrent network and its tokenizer."""

    cell: Literal[*recurrent.GATES] = "gru"
    """Recurrent cell."""
    layers: Annotated[int, Range(1, recurrent.MAX_LAYERS)] = 2
    """Number of recurrent layers in the encoder and, if there is one, in the decoder."""
    width: Annotated[int, Range(2, 1 << 16)] = 256
    """Hidden size, in features per token. Must be even."""
    context: Annotated[int, Range(2, MAX_CONTEXT)] = 64
    """Maximum sequence length, in tokens."""
    tokenizer: str = "characters"
    """Kind of tokenizer to train on the run's text, or the path of a tokenizer.json."""
    vocabulary: Annotated[int, Range(2, 1 << 24)] = 2048
    """Maximum vocabulary size of a tokenizer that the run trains, in tokens."""
    dropout: Annotated[float, Range(0, 1, open="high")] = 0.0
    """Dropout rate between layers. 0 disables dropout."""
    label_smoothing: Annotated[float, Range(0, 1, open="high")] = 0.0
    """Label smoothing: fraction of the target distribution that is spread over all tokens. 0 disables it."""

    def __post_init__(self):
        check_fields(self)
        if self.width % 2:
            raise ValueError(f"width must be even. Received: {self.width}")


def chosen_encoder(settings, spec, encoder):
    """Returns the encoder given to `build` as a graph, see `realize`. Raises ValueError unless it is recurrent."""
    network = realize(encoder, settings, spec)
    recurrent.parts(network)
    return network


def draw_dropout(networks, width, random):
    """Draws (B, P, D) in [0, 1) for the masks of `dropout`: one per recurrent layer, and one per network's output."""
    masks = sum(1 + len(recurrent.layers_of(network, recurrent.Recurrent)) for network in networks)
    return random.uniform("dropout", (masks, width))


def dropout(batch, rate):
    """Returns a function that applies the next of the batch's masks to (B, ·, D) at each call; None if `rate` is 0.

    All positions of an example share a mask (Gal & Ghahramani 2016). It is keyed by the example's position in the
    batch, so the number of replicas does not change it.
    """
    if not rate:
        return None
    masks = iter(tf.unstack(tf.cast(batch["dropout"] >= rate, tf.float32) / (1 - rate), axis=1))  # P of (B, D)
    return lambda x: x * tf.cast(next(masks), x.dtype)[:, None]


def token_loss(target, logits, weight, accuracy, label_smoothing=0.0):
    """Returns the weighted sum of the target tokens' losses, and their weighted count; updates `accuracy`.

    Args:
        target: (B, U) int32, -1 for padding.
        logits: (B, U, V).
        weight: (B,) weights of the examples.
        accuracy: the metric to update.
        label_smoothing: fraction of the target that is spread over all tokens.
    """
    weight = tf.cast(target >= 0, tf.float32) * weight[:, None]
    hit = tf.equal(tf.argmax(logits, -1, tf.int32), target)
    accuracy.update_state(tf.cast(hit, tf.float32), weight)
    loss = losses.smoothed_cross_entropy(tf.maximum(target, 0), logits, label_smoothing)
    return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)
