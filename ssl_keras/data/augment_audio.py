"""Stateless augmentation of waveform batches: speed, shift, gain and noise; and random crops.

Every draw is keyed by (seed, step, position), see `data/random.py`. Waveforms are float32 in (−1, 1); −1 is
padding after the clip, which no augmentation changes.

Shapes: `B` batch, `L` samples.
"""

import dataclasses
import math
from typing import Annotated

import tensorflow as tf

from ssl_keras.data import masking
from ssl_keras.data.audio import LEAST, MOST, PADDING
from ssl_keras.data.ranges import Range, check_fields

MIN_SAMPLE, MAX_SAMPLE = LEAST / -PADDING, MOST / -PADDING
DECIBELS = 20.0  # a tenfold amplitude, in decibels


@dataclasses.dataclass(frozen=True)
class AudioAugmentation:
    """Waveform augmentations; all are off by default."""

    speed: Annotated[float, Range(0)] = 0.0
    """Maximum random change of speed, and with it of pitch: 0.1 draws factors from 1/1.1 to 1.1. 0 disables it."""
    shift: Annotated[float, Range(0)] = 0.0
    """Maximum random time shift, in seconds: later, after silence, or earlier, without the beginning. 0 disables it."""
    gain: Annotated[float, Range(0)] = 0.0
    """Maximum random change of volume, in decibels. 0 disables it."""
    noise: Annotated[float, Range(0)] = 0.0
    """Maximum standard deviation of added white noise, as a fraction of that of the clip. 0 disables it."""

    def __post_init__(self):
        check_fields(self)


def change(x, random, changes, rate, longest):
    """Augments waveforms, (B, L) -> (B, L or more): first speed, then shift, gain and noise.

    Args:
        x, random: the batch, and the `BatchRandom` of its rows.
        changes: an `AudioAugmentation`.
        rate: the sampling rate in Hz.
        longest: int, an upper bound on L in all batches.
    """
    if changes.speed:
        x, longest = change_speed(x, 1 + changes.speed, random), math.ceil(longest * (1 + changes.speed)) + 1
    if changes.shift:
        largest = round(changes.shift * rate)
        x, longest = shift_in_time(x, largest, random), longest + largest
    if changes.gain:
        decibels = changes.gain * (2 * random.uniform("gain", (1,)) - 1)
        x = _within_clip(x, x * 10.0 ** (decibels / DECIBELS))
    if changes.noise:
        x = add_noise(x, changes.noise, random, longest)
    return x


def lengths(x):
    """Counts the samples of each clip, float or int16: int32 (B, 1)."""
    return tf.reduce_sum(tf.cast(x > (PADDING if x.dtype == tf.int16 else -1), tf.int32), axis=1, keepdims=True)


def trimmed(x):
    """Trims padding that all clips share: (B, L) -> (B, samples of the longest clip, at least 1)."""
    return masking.trim(x, lengths(x))


def _within_clip(old, new):
    """Returns `new`, clipped to the range of samples, with the padding of `old`."""
    return tf.where(old > -1, tf.clip_by_value(new, MIN_SAMPLE, MAX_SAMPLE), -1.0)


def change_speed(x, largest, random):
    """Resamples each clip linearly by a factor from 1/largest to largest, whose logarithm is uniform."""
    factor = largest ** (2 * random.uniform("speed", (1,)) - 1)  # (B, 1)
    count = lengths(x)
    longest = tf.cast(tf.math.ceil(tf.cast(tf.shape(x)[1], tf.float32) * largest), tf.int32)
    place = tf.cast(tf.range(longest), tf.float32) * factor  # (B, L'), positions in the old clip
    before = tf.minimum(tf.cast(place, tf.int32), count - 1)
    fraction = tf.minimum(place - tf.cast(before, tf.float32), 1.0)
    after = tf.minimum(before + 1, count - 1)
    before, after = (tf.gather(x, tf.maximum(index, 0), batch_dims=1) for index in (before, after))
    inside = place < tf.cast(count, tf.float32)
    return tf.where(inside, before + fraction * (after - before), -1.0)


def shift_in_time(x, largest, random):
    """Shifts each clip by up to `largest` samples: later, after silence, or earlier, by at most half of the clip."""
    count = lengths(x)
    room = tf.minimum(largest, count // 2)  # samples that may be cut off
    u = random.uniform("shift", (1,))
    by = tf.cast(tf.floor(u * tf.cast(largest + room + 1, tf.float32)), tf.int32) - room  # (B, 1) in −room … largest
    place = tf.range(tf.shape(x)[1] + largest) - by  # (B, L + largest)
    taken = tf.gather(x, tf.clip_by_value(place, 0, tf.shape(x)[1] - 1), batch_dims=1)
    return tf.where(place < 0, 0.0, tf.where(place < count, taken, -1.0))


def add_noise(x, largest, random, longest):
    """Adds white noise of 0 to `largest` times each clip's standard deviation; `longest` is an upper bound on L."""
    valid = tf.cast(x > -1, tf.float32)
    count = tf.maximum(tf.reduce_sum(valid, 1, keepdims=True), 1.0)
    mean = tf.reduce_sum(x * valid, 1, keepdims=True) / count
    deviation = tf.sqrt(tf.reduce_sum(tf.square((x - mean) * valid), 1, keepdims=True) / count)
    loud = largest * random.uniform("loud", (1,)) * deviation
    return _within_clip(x, x + loud * random.normal("noise", (longest,))[:, : tf.shape(x)[1]])


def cut(x, most, random):
    """Crops clips longer than `most` samples at random offsets: (B, L) -> (B, L'), L' = min(most, the longest clip)."""
    count = lengths(x)
    over = tf.maximum(count - most, 0)
    first = tf.cast(random.uniform("cut", (1,)) * tf.cast(over + 1, tf.float32), tf.int32)
    place = first + tf.range(tf.maximum(tf.minimum(most, tf.reduce_max(count)), 1))
    return tf.gather(x, tf.minimum(place, tf.shape(x)[1] - 1), batch_dims=1)
