"""The block of Llama (Touvron et al. 2023): pre-norm with RMS norm, rotary positions, SwiGLU, no biases.

- The RMS norms (Zhang & Sennrich 2019) have weights.
- Several heads of queries share one head of keys and values (Ainslie et al. 2023, "GQA").
- The MLP is (SiLU(x·W_gate) ⊙ x·W_in)·W_out (Shazeer 2020, "GLU variants improve transformer").

Shapes: `B` batch, `T` tokens, `D` width, `H` heads, `d = D/H`, `K` heads of keys and values.
"""

import functools
import math
import typing

import keras
import tensorflow as tf

from ssl_keras.networks.attention import (
    ROTARY_BASE,
    attend,
    attention_bias,
    attention_weights,
    average,
    dense,
    empty_cache,
    extend_cache,
    rms_norm,
    rotary_rates,
    rotate,
)
from ssl_keras.networks.dropout import current_masks, drop

MLP_MULTIPLE = 8  # of the default hidden size of the MLP
DEVIATION = 0.02  # of initial weights


class Rotary(typing.NamedTuple):
    """Base and scaling of rotary positions, see `attention.rotary_rates`."""

    base: float = ROTARY_BASE
    scaling: tuple = ()


def mlp_width(architecture, width):
    """Returns the default number of hidden units of an MLP: 4·width, or as many weights in the three matrices of Llama.

    The latter is 8/3·width, rounded up to a multiple of 8.
    """
    if architecture != "llama":
        return 4 * width
    return -(-8 * width // (3 * MLP_MULTIPLE)) * MLP_MULTIPLE


@keras.saving.register_keras_serializable("ssl_keras")
class LlamaBlock(keras.layers.Layer):
    """A block of Llama: (B, T, D), tokens (B, T) -> (B, T, D).

    Raises:
        ValueError: `heads` is not a multiple of `kv_heads`, or the scaling of rotary positions is not valid.
    """

    def __init__(self, heads, kv_heads, hidden, layers, causal, epsilon, rotary, remat=False, **kwargs):
        super().__init__(autocast=False, **kwargs)
        rotary = Rotary(rotary[0], tuple(rotary[1]))  # a configuration has lists
        if heads % kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads. Received: {heads} heads, {kv_heads} kv_heads")
        if len(rotary.scaling) not in (0, 1, 4) or (
            len(rotary.scaling) == 4 and rotary.scaling[1] >= rotary.scaling[2]
        ):
            raise ValueError(
                "rotary_scaling must be (), (factor,) or (factor, low, high, context) with low < high. Received: "
                f"{rotary.scaling}"
            )
        self.options = {
            "heads": heads,
            "kv_heads": kv_heads,
            "hidden": hidden,
            "layers": layers,
            "causal": causal,
            "epsilon": epsilon,
            "rotary": rotary,
            "remat": remat,
        }
        self.heads, self.kv_heads, self.hidden, self.layers = heads, kv_heads, hidden, layers
        self.causal, self.epsilon, self.rotary, self.remat = causal, epsilon, rotary, remat

    def build(self, x_shape, tokens_shape):
        width = x_shape[-1]
        self.features = width // self.heads  # d
        shared = self.kv_heads * self.features
        # The residual stream is a sum of 2·layers branches.
        out = DEVIATION / math.sqrt(2 * self.layers)
        self.query = self._matrix("query", width, width)
        self.key = self._matrix("key", width, shared)
        self.value = self._matrix("value", width, shared)
        self.attention_out = self._matrix("attention_out", width, width, out)
        self.mlp_gate = self._matrix("mlp_gate", width, self.hidden)
        self.mlp_in = self._matrix("mlp_in", width, self.hidden)
        self.mlp_out = self._matrix("mlp_out", self.hidden, width, out)
        self.norms = {
            part: self.add_weight((width,), "ones", name=f"{part}_norm_scale") for part in ("attention", "mlp")
        }
        self.rates = rotary_rates(self.features, *self.rotary)

    def _matrix(self, name, rows, columns, deviation=DEVIATION):
        return self.add_weight((rows, columns), keras.initializers.RandomNormal(stddev=deviation), name=name)

    def call(self, x, tokens, training=False):
        forward = functools.partial(self._forward, masks=current_masks(training))
        return (tf.recompute_grad(forward) if self.remat else forward)(x, tokens)

    def _forward(self, x, tokens, masks):
        q, k, v = self._queries_keys_values(x, tf.range(tf.shape(x)[1]))
        return self._finish(x, attend(q, self._repeat(k), self._repeat(v), self._bias(tokens)), masks)

    def with_weights(self, x, tokens, change=0.0):
        """Returns the output and the attention weights, see `transformer.Block.with_weights`."""
        q, k, v = self._queries_keys_values(x, tf.range(tf.shape(x)[1]))
        weights = attention_weights(q, self._repeat(k), self._bias(tokens)) + change
        return self._finish(x, average(weights, self._repeat(v))), weights

    def attention_weights(self, x, tokens):
        """Returns the attention weights (B, H, T, T) float32, queries in rows and keys in columns."""
        return self.with_weights(x, tokens)[1]

    def cache(self, batch, room):
        """Returns an empty cache of keys and values for `room` tokens: two tensors (B, room, K, d)."""
        return empty_cache(batch, room, self.kv_heads, self.features, self.compute_dtype)

    def extend(self, x, cache, position):
        """Computes `call` for n positions from `position` on, see `transformer.Block.extend`."""
        place = position + tf.range(tf.shape(x)[1])
        q, *new = self._queries_keys_values(x, place)
        cache = extend_cache(cache, new, place)
        bias = attention_bias(place, cache[0].shape[1], causal=True)
        return self._finish(x, attend(q, *map(self._repeat, cache), bias)), cache

    def _bias(self, tokens):
        length = tf.shape(tokens)[1]
        # Padding comes last, where the causal mask hides it anyway.
        return attention_bias(tf.range(length), length, self.causal, None if self.causal else tokens >= 0)

    def _queries_keys_values(self, x, position):
        """Returns queries (B, T, H, d), and keys and values (B, T, K, d)."""
        h = self._norm("attention", x)
        q, k, v = (
            tf.reshape(dense(h, kernel, None), (tf.shape(x)[0], tf.shape(x)[1], -1, self.features))
            for kernel in (self.query, self.key, self.value)
        )
        q, k, v = (
            tf.ensure_shape(part, (None, None, heads, self.features))
            for part, heads in ((q, self.heads), (k, self.kv_heads), (v, self.kv_heads))
        )
        return rotate(q, position, self.rates), rotate(k, position, self.rates), v

    def _repeat(self, x):
        """Repeats heads of keys or values for the heads of queries that share them, (B, S, K, d) -> (B, S, H, d)."""
        return x if self.kv_heads == self.heads else tf.repeat(x, self.heads // self.kv_heads, axis=2)

    def _finish(self, x, attended, masks=None):
        """Adds the output of attention, (B, T, D), and then the MLP's, to x, with the `Masks` of dropout or None."""
        x += drop(dense(attended, self.attention_out, None), masks, f"{self.name}/attention")
        h = self._norm("mlp", x)
        h = tf.nn.silu(dense(h, self.mlp_gate, None)) * dense(h, self.mlp_in, None)
        return x + drop(dense(h, self.mlp_out, None), masks, f"{self.name}/mlp")

    def _norm(self, part, x):
        return rms_norm(x, self.epsilon) * tf.cast(self.norms[part], x.dtype)

    def compute_output_spec(self, x, tokens, training=False):
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def get_config(self):
        return super().get_config() | self.options
