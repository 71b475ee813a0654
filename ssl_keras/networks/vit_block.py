"""The block of a vision transformer, and stochastic depth.

Stochastic depth (Huang et al. 2016) skips a branch of a block for an image, if the number that `draw_depth` drew for
the image in the input pipeline is below the block's rate. The rate rises linearly up to the last block.

Shapes: `B` batch, `T` tokens, `D` width, `H` heads, `d = D/H`.
"""

import contextlib
import contextvars
import math
from typing import Annotated

import keras
import tensorflow as tf

from ssl_keras.data.ranges import Range
from ssl_keras.networks.attention import attend, attention_weights, average, dense, layer_norm

HEAD = 64  # features of an attention head by default
Rate = Annotated[float, Range(0, 1, open="high")]
GELU = {
    "exact": lambda x: tf.nn.gelu(x, approximate=False),
    "tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "quick": lambda x: x * tf.sigmoid(1.702 * x),
}


def num_heads(width):
    """Returns the largest number of heads of at least 64 features that divides the width."""
    return next(heads for heads in range(max(width // HEAD, 1), 0, -1) if width % heads == 0)


def glorot_limit(name, rows, columns):
    """Returns the limit of a uniform distribution of a matrix's initial weights (Glorot & Bengio 2010).

    Each of the three projections in `attention_in` is square, so its limit is that of (rows, rows).
    """
    return math.sqrt(6 / (rows + (rows if name == "attention_in" else columns)))


def blocks_of(encoder):
    """Returns the blocks of a vision transformer in order, or an empty list for another graph."""
    return [layer for layer in encoder.layers if isinstance(layer, VisionBlock)]


def draw_depth(encoder, random, copies=1):
    """Draws the numbers of stochastic depth in the input pipeline.

    Args:
        encoder: a graph.
        random: `BatchRandom` of the batch's rows.
        copies: number of images that the encoder gets for each row, such as its views.

    Returns:
        {"depth": (B, copies, 2·layers) float32 in [0, 1)}, or {} if the graph has no stochastic depth.
    """
    blocks = blocks_of(encoder)
    if not any(block.rate for block in blocks):
        return {}
    return {"depth": random.uniform("depth", (copies, 2 * len(blocks)))}


_DEPTH = contextvars.ContextVar("depth", default=None)  # as the numbers that the blocks of this replica use


@contextlib.contextmanager
def stochastic_depth(batch, copies_first=True):
    """Lets the blocks skip branches by `batch["depth"]`, if it is there, while the encoder is called in training.

    Args:
        batch: the batch, as `draw_depth` completed it.
        copies_first: whether the encoder's batch has all rows of the first copy first, as in a concatenation of views,
            or else all copies of the first row.
    """
    numbers = batch.get("depth")
    if numbers is not None:
        numbers = tf.transpose(numbers, (1, 0, 2)) if copies_first else numbers
        numbers = tf.reshape(numbers, (-1, numbers.shape[-1]))
    token = _DEPTH.set(numbers)
    try:
        yield
    finally:
        _DEPTH.reset(token)


@keras.saving.register_keras_serializable("ssl_keras")
class VisionBlock(keras.layers.Layer):
    """A pre-norm transformer block, attention and an MLP with residual connections: (B, T, D) -> (B, T, D)."""

    def __init__(self, heads, hidden, gelu, layer_scale, epsilon, rate, index, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.options = {
            "heads": heads,
            "hidden": hidden,
            "gelu": gelu,
            "layer_scale": layer_scale,
            "epsilon": epsilon,
            "rate": rate,
            "index": index,
        }
        self.heads, self.hidden, self.gelu, self.layer_scale = heads, hidden, gelu, layer_scale
        self.epsilon, self.rate, self.index = epsilon, rate, index

    def build(self, shape):
        width = shape[-1]
        self.norms, self.scales = {}, {}
        self.attention_in = self._matrix("attention_in", width, 3 * width)
        self.attention_out = self._matrix("attention_out", width, width)
        self.mlp_in = self._matrix("mlp_in", width, self.hidden)
        self.mlp_out = self._matrix("mlp_out", self.hidden, width)
        for part in ("attention", "mlp"):
            scale = self.add_weight((width,), "ones", name=f"{part}_norm_scale")
            self.norms[part] = scale, self.add_weight((width,), "zeros", name=f"{part}_norm_shift")
            if self.layer_scale:
                initial = keras.initializers.Constant(self.layer_scale)
                self.scales[part] = self.add_weight((width,), initial, name=f"{part}_layer_scale")

    def _matrix(self, name, rows, columns):
        limit = glorot_limit(name, rows, columns)
        kernel = self.add_weight((rows, columns), keras.initializers.RandomUniform(-limit, limit), name=name)
        return kernel, self.add_weight((columns,), "zeros", name=f"{name}_bias")

    def call(self, x, training=False):
        q, k, v = self._queries_keys_values(x)
        return self._finish(x, attend(q, k, v, None), training)

    def with_weights(self, x, change=0.0):
        """Returns the output and the attention weights, see `transformer.Block.with_weights`."""
        q, k, v = self._queries_keys_values(x)
        weights = attention_weights(q, k, None) + change
        return self._finish(x, average(weights, v), training=False), weights

    def _finish(self, x, attended, training):
        """Adds the output of attention, (B, T, D), and then the MLP's, to x."""
        x += self._branch("attention", dense(attended, *self.attention_out), 0, training)
        h = GELU[self.gelu](dense(layer_norm(x, self.epsilon, *self.norms["mlp"]), *self.mlp_in))
        return x + self._branch("mlp", dense(h, *self.mlp_out), 1, training)

    def attention_weights(self, x):
        """Returns the attention weights (B, H, T, T) float32, queries in rows and keys in columns."""
        q, k, _ = self._queries_keys_values(x)
        return attention_weights(q, k, None)

    def _queries_keys_values(self, x):
        """Returns queries, keys and values, (B, T, H, d) each."""
        h = dense(layer_norm(x, self.epsilon, *self.norms["attention"]), *self.attention_in)
        h = tf.reshape(h, (-1, tf.shape(x)[1], 3 * self.heads, x.shape[-1] // self.heads))
        return tf.split(tf.ensure_shape(h, (x.shape[0], x.shape[1], *h.shape[2:])), 3, axis=2)

    def _branch(self, part, y, place, training):
        """Applies LayerScale to a branch (B, T, D) and, in training, skips it for the images whose number is low."""
        if self.layer_scale:
            y *= tf.cast(self.scales[part], y.dtype)
        numbers = _DEPTH.get()
        if not (training and self.rate) or numbers is None:
            return y
        kept = tf.cast(numbers[:, 2 * self.index + place] >= self.rate, y.dtype) / (1 - self.rate)
        return y * kept[:, None, None]

    def compute_output_spec(self, x, training=False):
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def get_config(self):
        return super().get_config() | self.options
