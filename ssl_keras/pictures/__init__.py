"""Pictures of images side by side."""

import io
import math

import numpy as np
import tensorflow as tf

from ssl_keras.data.images import unit_range
from ssl_keras.evaluation.features import normalize, spread

PICTURES, NEIGHBORS = 8, 5
THUMBNAIL = 64  # pixels a side
SOUND, WINDOW, RANGE = (320, 64), 0.032, 60  # pixels across and down of samples and spectrogram; seconds; decibels


def picture_grid(rows):
    """R rows of images, each (B, H, W, C) float in [0, 1] -> one image (R·H, B·W, C)."""
    return tf.concat([tf.concat(tf.unstack(row), axis=1) for row in rows], axis=0)


def enlarged(image, pixels, frame=0):
    """(B, H, W, C) -> larger images: each pixel a square of `pixels` a side, and around all a gray frame."""
    image = tf.repeat(tf.repeat(image, pixels, axis=1), pixels, axis=2)
    return tf.pad(image, [[0, 0], [frame, frame], [frame, frame], [0, 0]], constant_values=0.5)


def neighbors(images, features):
    """Rows for `picture_grid`: some of the images (N, H, W, C), then the nearest to each by cosine, best first.

    Args:
        images: uint8, or float in [0, 1].
        features: (N, D).
    """
    unit = normalize(features)
    some = spread(len(unit), PICTURES)
    similarity = unit[some] @ unit.T
    similarity[np.arange(len(some)), some] = -np.inf  # itself
    order = np.argsort(-similarity, axis=1)[:, : min(NEIGHBORS, len(unit) - 1)]
    return [unit_range(tf.constant(images[rows])) for rows in (some, *order.T)]


def grid_of(images):
    """Rows of a square picture of images (N, H, W, C), the last one filled up with black."""
    side = math.ceil(math.sqrt(len(images)))
    filled = tf.pad(images, [(0, -len(images) % side), (0, 0), (0, 0), (0, 0)])
    return tf.split(filled, len(filled) // side)


def png(rows):
    """Rows of images, each (N, H, W, C) float in [0, 1], as the bytes of a PNG file."""
    return _png(as_uint8(picture_grid(rows)))


def _png(grid):
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(grid[..., 0] if grid.shape[-1] < 3 else grid[..., :3]).save(content, "png")
    return content.getvalue()


def sheet(images, across):
    """Images (N, H, W, C), uint8 or float in [0, 1], as the bytes of a PNG file: `across` of them in a row, none
    with more than `THUMBNAIL` pixels a side or much less."""
    x = unit_range(tf.constant(images))
    height, width = x.shape[1:3]
    if max(height, width) > THUMBNAIL:
        share = THUMBNAIL / max(height, width)
        size = max(1, round(height * share)), max(1, round(width * share))
        x = tf.clip_by_value(tf.image.resize(x, size, antialias=True), 0.0, 1.0)
    else:
        x = enlarged(x, THUMBNAIL // max(height, width))
    x = tf.pad(x, [(0, -len(images) % across), (0, 0), (0, 0), (0, 0)], constant_values=0.5)
    return png(tf.split(x, len(x) // across))


def sound(waveform, rate):
    """A clip (T,) int16 as the bytes of a PNG file: its samples over time, below them its spectrogram."""
    across, down = SOUND
    edges = np.linspace(0, len(waveform), across + 1).astype(int)
    stretches = [waveform[a : max(b, a + 1)] / 2**15 for a, b in zip(edges, edges[1:])]
    high, low = (np.array([pick(each) for each in stretches]) for pick in (np.max, np.min))
    level = np.linspace(1, -1, down)[:, None]
    samples = np.where((level <= high + 1 / down) & (level >= low - 1 / down), 1.0, 0.0)
    window = int(min(WINDOW * rate, len(waveform)))
    starts = np.linspace(0, len(waveform) - window, across).astype(int)
    frames = waveform[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, 2 * max(window // 2, down))).T  # (F, across)
    rows = np.linspace(0, len(power), down + 1).astype(int)
    decibels = 20 * np.log10(np.stack([power[a:b].max(0) for a, b in zip(rows, rows[1:])]) + 1)[::-1]
    tones = np.clip((decibels - decibels.max()) / RANGE + 1, 0, 1) if decibels.max() > 0 else 0 * decibels
    return _png(as_uint8(np.concatenate([samples, np.full((2, across), 0.5), tones])[..., None]))


def as_uint8(images):
    """uint8 from [0, 1]."""
    return np.rint(np.asarray(images) * 255).astype(np.uint8)
