"""Towers: features of an image and a caption's tokens, both in one space.

Shapes: `B` batch, `T` tokens, `D` features, `Z` the common space.
"""

import math
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.ranges import Range
from ssl_keras.networks.transformer import ARCHITECTURES, MAX_CONTEXT, MAX_LAYERS, Pool, transformer

LOSSES = {"clip": (0.07, 0.0), "sigmoid": (0.1, -10.0)}  # the papers' first temperature, and bias
MAX_SCALE = 100.0
FIRST_TABLE = 0.05  # of a fresh table of embeddings, times what a language model begins with


def towers(
    features: Annotated[int, Range(1, 1 << 24)],
    vocabulary: Annotated[int, Range(1, 1 << 24)],
    context: Annotated[int, Range(1, MAX_CONTEXT)],
    text_layers: Annotated[int, Range(0, MAX_LAYERS)],
    text_heads: Annotated[int, Range(1, 1 << 10)],
    text_width: Annotated[int, Range(1, 1 << 16)],
    *,
    text_architecture: Literal[*ARCHITECTURES] = "modern",
    text_hidden: Annotated[int, Range(0, 1 << 20)] = 0,
    causal: bool = False,
    epsilon: Annotated[float, Range(0, 1, open="both")] = 1e-5,
    projection: Annotated[int, Range(0, 1 << 16)] = 128,
    loss: Literal[*LOSSES] = "clip",
    temperature: Annotated[float, Range(0, 1 << 10)] = 0.0,
    name="towers",
):
    """Image features (B, D) and tokens (B, T) -> both in the common space, (B, Z) float32 each.

    Args:
        features: D.
        vocabulary, context, text_layers, text_heads, text_width, text_hidden, causal, epsilon: see
            `transformer.transformer`; so `text_architecture`.
        projection: Z; 0 is that of the text as it is, without a projection.
        loss: clip or sigmoid, see `Similarity`.
        temperature: where the learned one starts; 0 is the paper's.
    """
    inputs = keras.Input((features,), name="features")
    ids = keras.Input((None,), dtype="int32", name="tokens")
    text = transformer(
        vocabulary,
        context,
        text_layers,
        text_heads,
        text_width,
        architecture=text_architecture,
        causal=causal,
        hidden=text_hidden,
        epsilon=epsilon,
    )
    pooled = Pool(dtype="float32", name="pool")(text(ids), ids)
    width = projection or text_width
    made = [keras.layers.Dense(width, use_bias=False, dtype="float32", name="of_image")(inputs), pooled]
    if projection:
        made[1] = keras.layers.Dense(width, use_bias=False, dtype="float32", name="of_text")(pooled)
    similarity = Similarity(loss, temperature, name="similarity")
    return keras.Model([inputs, ids], similarity(*made), name=name)


def text_network(network):
    """The transformer within a graph of `towers`."""
    return next(layer for layer in network.layers if isinstance(layer, keras.Model))


def shrink_embeddings(network):
    """Makes the fresh token embeddings of a graph of `towers` smaller than a language model's.

    Its norm takes the size of the table out again; beside a smaller one Adam's steps are longer, and a word that few
    captions have can leave the place that chance gave it.
    """
    table = text_network(network).get_layer("embeddings").tokens
    table.assign(FIRST_TABLE * tf.convert_to_tensor(table))


@keras.saving.register_keras_serializable("ssl_keras")
class Similarity(keras.layers.Layer):
    """Keeps what similarities are multiplied by (`log_scale`) and, of sigmoid, what is added (`bias`); both embeddings
    pass as they are."""

    def __init__(self, loss, temperature=0.0, **kwargs):
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self.loss, self.first_temperature = loss, temperature

    def build(self, *shapes):
        temperature, bias = LOSSES[self.loss]
        first = keras.initializers.Constant(-math.log(self.first_temperature or temperature))
        self.log_scale = self.add_weight(
            (), first, name="log_scale", constraint=lambda value: tf.minimum(value, math.log(MAX_SCALE))
        )
        self.bias = None
        if self.loss == "sigmoid":
            self.bias = self.add_weight((), keras.initializers.Constant(bias), name="bias")

    def call(self, image, text):
        return image, text

    def get_config(self):
        return super().get_config() | {"loss": self.loss, "temperature": self.first_temperature}
