"""An output matrix that is not tied to the token embeddings, as in most Llama models (Touvron et al. 2023)."""

from typing import Annotated

import keras
import tensorflow as tf

from ssl_keras.data.ranges import Range
from ssl_keras.networks.transformer import token_logits


def untied_head(vocabulary: Annotated[int, Range(1, 1 << 24)], width: Annotated[int, Range(1, 1 << 16)], name="head"):
    """Returns the head: hidden (M, D), token embeddings (V, D), which it ignores -> logits (M, V) float32.

    It takes the embeddings since every head of a language model does, see `transformer.masked_head`.
    """
    hidden = keras.Input((width,), name="hidden")
    table = keras.Input(batch_shape=(vocabulary, width), name="table")
    return keras.Model([hidden, table], UntiedOutput(name="output")(hidden, table), name=name)


@keras.saving.register_keras_serializable("ssl_keras")
class UntiedOutput(keras.layers.Layer):
    """Inner products of hidden states with a matrix of the table's shape."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def build(self, hidden_shape, table_shape):
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.embeddings = self.add_weight(table_shape, normal, name="embeddings")

    def call(self, hidden, table):
        return token_logits(hidden, tf.convert_to_tensor(self.embeddings), self.compute_dtype)

    def compute_output_spec(self, hidden, table):
        return keras.KerasTensor((hidden.shape[0], table.shape[0]), "float32")
