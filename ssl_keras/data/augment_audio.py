"""Changes of waveforms, on whole batches and stateless: speed, shift, gain, noise; and cutting to length.

Every draw is keyed by (seed, step, position), see `data/random.py`. Waveforms are float32 in (−1, 1), and
−1 is padding after the clip; no change touches it.

Shapes: `B` batch, `L` samples.
"""

import dataclasses
import math
from typing import Annotated

import tensorflow as tf

from ssl_keras.data import masking
from ssl_keras.data.audio import LEAST, MOST, PADDING
from ssl_keras.data.ranges import Range, check_fields

LOWEST, HIGHEST = LEAST / -PADDING, MOST / -PADDING  # what a sample may be
DECIBELS = 20.0  # for a factor of ten


@dataclasses.dataclass(frozen=True)
class AudioAugmentation:
    """How much a waveform is changed; 0 is not at all."""

    speed: Annotated[float, Range(0)] = 0.0
    """Play faster or slower, and higher or lower, by up to this factor more: 0.1 is 1/1.1 to 1.1."""
    shift: Annotated[float, Range(0)] = 0.0
    """Begin up to so many seconds later, in silence, or earlier, in the middle of the sound."""
    gain: Annotated[float, Range(0)] = 0.0
    """Louder or quieter by up to so many decibels."""
    noise: Annotated[float, Range(0)] = 0.0
    """Add white noise of up to this share of the clip's own standard deviation."""

    def __post_init__(self):
        check_fields(self)


def change(x, random, changes, rate, longest):
    """Waveforms (B, L) -> changed ones (B, L or more): first speed, then shift, gain, noise.

    Args:
        x: the batch. random: `BatchRandom` of its rows. changes: `AudioAugmentation`. rate: Hz.
        longest: int, the most that L can be.
    """
    if changes.speed:
        x, longest = faster(x, 1 + changes.speed, random), math.ceil(longest * (1 + changes.speed)) + 1
    if changes.shift:
        most = round(changes.shift * rate)
        x, longest = moved(x, most, random), longest + most
    if changes.gain:
        decibels = changes.gain * (2 * random.uniform("gain", (1,)) - 1)
        x = _kept(x, x * 10.0 ** (decibels / DECIBELS))
    if changes.noise:
        x = noisy(x, changes.noise, random, longest)
    return x


def lengths(x):
    """int32 (B, 1): the samples of each clip, of floats or of int16."""
    return tf.reduce_sum(tf.cast(x > (PADDING if x.dtype == tf.int16 else -1), tf.int32), axis=1, keepdims=True)


def trimmed(x):
    """(B, L) -> (B, the longest clip's samples, at least 1)."""
    return masking.trim(x, lengths(x))


def _kept(old, new):
    """`new` where there is a clip, clipped to what samples may be, and padding elsewhere."""
    return tf.where(old > -1, tf.clip_by_value(new, LOWEST, HIGHEST), -1.0)


def faster(x, most, random):
    """Each clip at a speed from 1/most to most, uniform in its logarithm, by linear interpolation."""
    factor = most ** (2 * random.uniform("speed", (1,)) - 1)  # (B, 1)
    count = lengths(x)
    longest = tf.cast(tf.math.ceil(tf.cast(tf.shape(x)[1], tf.float32) * most), tf.int32)
    place = tf.cast(tf.range(longest), tf.float32) * factor  # (B, L'), in the old clip
    before = tf.minimum(tf.cast(place, tf.int32), count - 1)
    share = tf.minimum(place - tf.cast(before, tf.float32), 1.0)
    after = tf.minimum(before + 1, count - 1)
    before, after = (tf.gather(x, tf.maximum(index, 0), batch_dims=1) for index in (before, after))
    inside = place < tf.cast(count, tf.float32)
    return tf.where(inside, before + share * (after - before), -1.0)


def moved(x, most, random):
    """Each clip later by up to `most` samples, silence before it, or earlier, and never all of it away."""
    count = lengths(x)
    room = tf.minimum(most, count // 2)  # what may go at its beginning
    u = random.uniform("shift", (1,))
    by = tf.cast(tf.floor(u * tf.cast(most + room + 1, tf.float32)), tf.int32) - room  # (B, 1) in −room … most
    place = tf.range(tf.shape(x)[1] + most) - by  # (B, L + most)
    taken = tf.gather(x, tf.clip_by_value(place, 0, tf.shape(x)[1] - 1), batch_dims=1)
    return tf.where(place < 0, 0.0, tf.where(place < count, taken, -1.0))


def noisy(x, most, random, longest):
    """White noise of 0 to `most` times each clip's standard deviation; `longest` is the most that L can be."""
    valid = tf.cast(x > -1, tf.float32)
    count = tf.maximum(tf.reduce_sum(valid, 1, keepdims=True), 1.0)
    mean = tf.reduce_sum(x * valid, 1, keepdims=True) / count
    deviation = tf.sqrt(tf.reduce_sum(tf.square((x - mean) * valid), 1, keepdims=True) / count)
    loud = most * random.uniform("loud", (1,)) * deviation
    return _kept(x, x + loud * random.normal("noise", (longest,))[:, : tf.shape(x)[1]])


def cut(x, most, random):
    """(B, L) -> (B, at most `most`): of longer clips a stretch at a place drawn for each; as short as the longest."""
    count = lengths(x)
    over = tf.maximum(count - most, 0)
    first = tf.cast(random.uniform("cut", (1,)) * tf.cast(over + 1, tf.float32), tf.int32)
    place = first + tf.range(tf.maximum(tf.minimum(most, tf.reduce_max(count)), 1))
    return tf.gather(x, tf.minimum(place, tf.shape(x)[1] - 1), batch_dims=1)
