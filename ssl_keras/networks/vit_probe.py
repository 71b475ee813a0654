"""Attention pooling with a learned probe, the last layer of SigLIP's image tower (Zhai et al. 2023; Lee et al. 2019).

Shapes: `B` batch, `T` tokens, `D` width.
"""

import keras
import tensorflow as tf

from ssl_keras.networks.attention import attend, dense, layer_norm
from ssl_keras.networks.vit_block import GELU, glorot_limit


@keras.saving.register_keras_serializable("ssl_keras")
class ProbePool(keras.layers.Layer):
    """A learned query attends to all states, and an MLP with a residual connection follows: (B, T, D) -> (B, D)."""

    def __init__(self, heads, hidden, gelu, epsilon, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.options = {"heads": heads, "hidden": hidden, "gelu": gelu, "epsilon": epsilon}
        self.heads, self.hidden, self.gelu, self.epsilon = heads, hidden, gelu, epsilon

    def build(self, shape):
        width = shape[-1]
        self.probe = self.add_weight((width,), keras.initializers.RandomNormal(stddev=0.02), name="probe")
        self.attention_in = self._matrix("attention_in", width, 3 * width)
        self.attention_out = self._matrix("attention_out", width, width)
        self.scale = self.add_weight((width,), "ones", name="norm_scale")
        self.shift = self.add_weight((width,), "zeros", name="norm_shift")
        self.mlp_in = self._matrix("mlp_in", width, self.hidden)
        self.mlp_out = self._matrix("mlp_out", self.hidden, width)

    def _matrix(self, name, rows, columns):
        limit = glorot_limit(name, rows, columns)
        kernel = self.add_weight((rows, columns), keras.initializers.RandomUniform(-limit, limit), name=name)
        return kernel, self.add_weight((columns,), "zeros", name=f"{name}_bias")

    def call(self, states):
        states = tf.cast(states, self.compute_dtype)
        width = states.shape[-1]
        probe = tf.cast(tf.convert_to_tensor(self.probe), states.dtype)[None, None]
        probe = tf.tile(probe, (tf.shape(states)[0], 1, 1))
        (kernel, bias), heads = self.attention_in, (self.heads, width // self.heads)
        q = dense(probe, kernel[:, :width], bias[:width])
        k, v = tf.split(dense(states, kernel[:, width:], bias[width:]), 2, axis=2)
        q, k, v = (tf.reshape(part, (-1, tf.shape(part)[1], *heads)) for part in (q, k, v))
        x = dense(attend(q, k, v, None), *self.attention_out)
        h = GELU[self.gelu](dense(layer_norm(x, self.epsilon, self.scale, self.shift), *self.mlp_in))
        return (x + dense(h, *self.mlp_out))[:, 0]

    def compute_output_spec(self, states):
        return keras.KerasTensor((states.shape[0], states.shape[-1]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | self.options
