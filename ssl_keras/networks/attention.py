"""Attention and norms as functions: what the blocks of all transformers compute.

Shapes: `B` batch, `T` tokens, `S` keys, `D` width, `H` heads, `d = D/H`, `K` heads of keys and values.
"""

import math

import numpy as np
import tensorflow as tf

HIDDEN = -1e9  # bias of a masked score; finite, so that a row of padding gives no NaN
ROTARY_BASE = 10_000.0


def layer_norm(x, epsilon, scale=None, shift=None):
    """Applies layer normalization over the last axis, in float32 (Ba et al. 2016)."""
    dtype, x = x.dtype, tf.cast(x, tf.float32)
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    x = (x - mean) * tf.math.rsqrt(variance + epsilon)
    return tf.cast(x * tf.cast(scale, tf.float32) + tf.cast(shift, tf.float32), dtype)


def rms_norm(x, epsilon):
    """Divides x by its root mean square over the last axis, in float32."""
    dtype, x = x.dtype, tf.cast(x, tf.float32)
    return tf.cast(x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + epsilon), dtype)


def rotary_rates(features, base=ROTARY_BASE, scaling=()):
    """Returns the angle per position of each pair of features, base^(-2i/d), float32 (d/2,) (Su et al. 2021).

    Args:
        features: d, the features of a head.
        base: the base of the angles.
        scaling: () for none; (factor,) divides all rates by a factor (Chen et al. 2023, "Extending context window of
            large language models via positional interpolation"); (factor, low, high, context) is that of Llama 3.1
            (Grattafiori et al. 2024). It divides the rates of pairs that turn fewer than `low` times in `context`
            positions, keeps those that turn more than `high` times, and interpolates in between.
    """
    half = features // 2
    rates = base ** (-np.arange(half, dtype=np.float32) / half)
    if len(scaling) == 1:
        rates = rates / np.float32(scaling[0])
    elif scaling:
        factor, low, high, context = scaling
        turns = context * rates / (2 * np.pi)
        kept = np.clip((turns - low) / (high - low), 0, 1)
        rates = kept * rates + (1 - kept) * rates / factor
    return rates.astype(np.float32)


def rotate(x, position, rates=None):
    """Applies rotary positions (T,) to x (B, T, H, d): rotates pairs (i, i + d/2) by position·rate.

    `rates` (d/2,) are those of `rotary_rates`, by default without scaling.
    """
    half = x.shape[-1] // 2
    rates = rotary_rates(x.shape[-1]) if rates is None else rates
    angle = tf.cast(position, tf.float32)[:, None, None] * rates  # (T, 1, d/2)
    cos, sin = tf.cast(tf.cos(angle), x.dtype), tf.cast(tf.sin(angle), x.dtype)
    first, second = x[..., :half], x[..., half:]
    return tf.concat([first * cos - second * sin, first * sin + second * cos], -1)


def attention_weights(q, k, bias):
    """Returns softmax(q·kᵀ/√d + bias) (Vaswani et al. 2017): (B, T, H, d), (B, S, H, d) -> (B, H, T, S) float32."""
    scores = tf.cast(tf.einsum("bthd,bshd->bhts", q, k), tf.float32) / math.sqrt(q.shape[-1])
    return tf.nn.softmax(scores if bias is None else scores + bias)


def attend(q, k, v, bias):
    """Averages the values by the attention weights: (B, T, H, d), (B, S, H, d), (B, S, H, d) -> (B, T, D)."""
    return average(attention_weights(q, k, bias), v)


def average(weights, v):
    """Averages the values by weights: (B, H, T, S), (B, S, H, d) -> (B, T, D)."""
    y = tf.einsum("bhts,bshd->bthd", tf.cast(weights, v.dtype), v)
    return tf.reshape(y, (tf.shape(y)[0], tf.shape(y)[1], v.shape[-2] * v.shape[-1]))


def dense(x, kernel, bias):
    """Returns x·kernel + bias, (B, T, D) -> (B, T, columns); `bias` may be None."""
    # Flattened to a matrix, since a product with a batch axis is slower on a CPU.
    flat = tf.reshape(x, (-1, kernel.shape[0])) @ tf.cast(kernel, x.dtype)
    if bias is not None:
        flat += tf.cast(bias, x.dtype)
    return tf.reshape(flat, (tf.shape(x)[0], tf.shape(x)[1], kernel.shape[1]))


def attention_bias(position, keys, causal, valid=None):
    """Returns the bias that masks scores: positions of queries (T,), S keys, valid (B, S) -> (B or 1, 1, T, S)."""
    bias = None
    if causal:
        ahead = tf.range(keys)[None] > position[:, None]  # (T, S)
        bias = tf.where(ahead, HIDDEN, 0.0)[None, None]
    if valid is not None:
        padding = tf.where(valid, 0.0, HIDDEN)[:, None, None]  # (B, 1, 1, S)
        bias = padding if bias is None else bias + padding
    return bias


def empty_cache(batch, room, heads, features, dtype):
    """Returns an empty cache of keys and values for `room` tokens: two tensors (B, room, K, d)."""
    return (tf.zeros((batch, room, heads, features), dtype),) * 2


def extend_cache(cache, new, place):
    """Puts new keys and values (B, n, K, d) at the consecutive places (n,) of a cache."""
    room, count = cache[0].shape[1], tf.shape(place)[0]
    index = tf.range(room) - place[0]  # index among the n new positions of each place
    taken = ((index >= 0) & (index < count))[None, :, None, None]
    index = tf.clip_by_value(index, 0, count - 1)
    return tuple(tf.where(taken, tf.gather(n, index, axis=1), old) for n, old in zip(new, cache))
