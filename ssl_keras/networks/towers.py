"""Image and text towers: image features and captions, embedded in a joint space.

Shapes: `B` batch, `T` tokens, `D` features, `Z` joint space.
"""

import math
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.ranges import Range
from ssl_keras.networks.transformer import ARCHITECTURES, MAX_CONTEXT, MAX_LAYERS, Pool, transformer

LOSSES = {"clip": (0.07, 0.0), "sigmoid": (0.1, -10.0)}  # initial temperature and bias of the papers
MAX_SCALE = 100.0
EMBEDDING_SCALE = 0.05  # initial scale of token embeddings, relative to a language model's


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
    """Returns the towers: image features (B, D), tokens (B, T) -> embeddings in the joint space, (B, Z) float32 each.

    Args:
        features: D, size of the image features.
        vocabulary, context, text_layers, text_heads, text_width, text_architecture, text_hidden, causal, epsilon:
            see `transformer.transformer`.
        projection: Z, size of the joint space; 0 uses the text's mean state without a projection.
        loss: "clip" or "sigmoid", see `Similarity`.
        temperature: initial value of the learned temperature; 0 is the paper's.
        name: name of the graph.
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
    embeddings = [keras.layers.Dense(width, use_bias=False, dtype="float32", name="of_image")(inputs), pooled]
    if projection:
        embeddings[1] = keras.layers.Dense(width, use_bias=False, dtype="float32", name="of_text")(pooled)
    similarity = Similarity(loss, temperature, name="similarity")
    return keras.Model([inputs, ids], similarity(*embeddings), name=name)


def text_network(network):
    """Returns the text transformer of a graph of `towers`."""
    return next(layer for layer in network.layers if isinstance(layer, keras.Model))


def shrink_embeddings(network):
    """Scales the fresh token embeddings of a graph of `towers` down.

    The RMS norm after the table makes the scale irrelevant to the output, but Adam's steps are larger relative to a
    smaller table. A word that occurs in few captions can then move away from its random initial vector.
    """
    table = text_network(network).get_layer("embeddings").tokens
    table.assign(EMBEDDING_SCALE * tf.convert_to_tensor(table))


@keras.saving.register_keras_serializable("ssl_keras")
class Similarity(keras.layers.Layer):
    """Holds the learned log scale of similarities and, for the sigmoid loss, their bias.

    Both embeddings pass through unchanged.
    """

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
