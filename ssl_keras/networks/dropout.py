"""Dropout (Srivastava et al. 2014) without a state: a mask is a function of (seed, step, position, layer).

`draw_keys` draws two integers for each example in the input pipeline, by (seed, step, position in the global batch). In
the network, an element of an example is dropped if a hash of these keys, the layer's name and the element's index is
small. So a mask does not depend on the number of replicas, on earlier steps, or on the padding of a sequence.

The hash multiplies three times, with an xor-shift after each of the first two; the constants are those of MurmurHash3's
finalizer (Appleby 2011) and of Fibonacci hashing. One key enters before the first product and the other one after it,
so the masks of two examples are not shifted copies of each other.

Shapes: `B` examples, `N` elements of an example.
"""

import contextlib
import contextvars
import typing
import zlib

import tensorflow as tf

FACTORS = (0x85EBCA6B, 0xC2B2AE35, 0x9E3779B1)  # odd, so that each product is invertible modulo 2³²


class Masks(typing.NamedTuple):
    """The masks of one pass: `keys` (B, 2) uint32, and the `rate` of elements that are dropped, in [0, 1)."""

    keys: typing.Any
    rate: float


_MASKS = contextvars.ContextVar("dropout", default=None)  # as the `Masks` that the layers of this replica use


def draw_keys(random, rate, copies=1):
    """Draws what the masks depend on, in the input pipeline.

    Args:
        random: `BatchRandom` of the batch's rows.
        rate: dropout rate; 0 draws nothing.
        copies: number of inputs that the network gets for each row.

    Returns:
        {"dropout_keys": (B, copies, 2) int32}, or {} if the rate is 0.
    """
    return {"dropout_keys": random.integers("dropout", (copies, 2))} if rate else {}


@contextlib.contextmanager
def dropout(batch, rate):
    """Lets the layers of a network drop elements at this rate, while it is called in training; 0 disables it.

    The batch is as `draw_keys` completed it. With several copies, the network's batch has all rows of the first copy
    first, as in a concatenation.
    """
    masks = None
    if rate:
        keys = tf.transpose(batch["dropout_keys"], (1, 0, 2))
        masks = Masks(tf.bitcast(tf.reshape(keys, (-1, 2)), tf.uint32), rate)
    token = _MASKS.set(masks)
    try:
        yield
    finally:
        _MASKS.reset(token)


def current_masks(training):
    """Returns the `Masks` in use, or None: in inference, and outside of `dropout`.

    A layer passes them on to `drop`, since the backward pass may compute the layer again after `dropout` has ended.
    """
    return _MASKS.get() if training else None


def drop(x, masks, layer):
    """Sets elements of x (B, …) to 0, and divides the others by the fraction that is kept.

    Args:
        x: floats, of any precision.
        masks: the result of `current_masks`; None returns x.
        layer: name of the place in the network. Different names have independent masks.
    """
    if masks is None:
        return x
    count = tf.reduce_prod(tf.shape(x)[1:])
    threshold = min(round(masks.rate * 2**32), 2**32 - 1)
    kept = tf.cast(hash_indices(masks.keys, layer, count) >= _uint(threshold), x.dtype) / (1 - threshold / 2**32)
    return x * tf.reshape(kept, tf.shape(x))


def hash_indices(keys, layer, count):
    """Hashes (key, layer, index) for the indices 0 … count − 1: (B, 2) uint32 -> (B, N = count) uint32."""
    name = _uint(zlib.crc32(layer.encode()))
    first, second = (_mix(key ^ name) for key in (keys[:, :1], keys[:, 1:] + name))  # (B, 1)
    x = (tf.cast(tf.range(count), tf.uint32) ^ first) * _uint(FACTORS[0])
    x = (_xor_shift(x, 16) ^ second) * _uint(FACTORS[1])
    return _xor_shift(x, 15) * _uint(FACTORS[2])  # the high bits decide, so no shift follows


def _mix(x):
    """Mixes the bits of integers of any shape: MurmurHash3's finalizer."""
    x = _xor_shift(x, 16) * _uint(FACTORS[0])
    return _xor_shift(_xor_shift(x, 13) * _uint(FACTORS[1]), 16)


def _xor_shift(x, bits):
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _uint(bits)))


def _uint(value):
    return tf.constant(value, tf.uint32)
