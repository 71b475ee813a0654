"""Pictures for reports: grids of images, nearest neighbors, waveforms with spectrograms, PNG files."""

import io
import math

import numpy as np
import tensorflow as tf

from ssl_keras.data.images import unit_range
from ssl_keras.evaluation.features import evenly_spaced, normalize

PICTURES, NEIGHBORS = 8, 5
THUMBNAIL = 64  # side in pixels
CLIP, WINDOW, RANGE = (320, 64), 0.032, 60  # width and height in pixels of waveform and spectrogram; seconds; decibels


def picture_grid(rows):
    """Joins R rows of images, each (B, H, W, C) float in [0, 1], into one image (R·H, B·W, C)."""
    return tf.concat([tf.concat(tf.unstack(row), axis=1) for row in rows], axis=0)


def enlarged(image, pixels, frame=0):
    """Enlarges images (B, H, W, C): each pixel becomes a square with sides of `pixels`, within a gray frame."""
    image = tf.repeat(tf.repeat(image, pixels, axis=1), pixels, axis=2)
    return tf.pad(image, [[0, 0], [frame, frame], [frame, frame], [0, 0]], constant_values=0.5)


def neighbors(images, features):
    """Returns rows for `picture_grid`: some of the images (N, H, W, C), then their nearest neighbors by cosine.

    Args:
        images: uint8, or float in [0, 1].
        features: (N, D).
    """
    unit = normalize(features)
    queries = evenly_spaced(len(unit), PICTURES)
    similarity = unit[queries] @ unit.T
    similarity[np.arange(len(queries)), queries] = -np.inf  # an image is not its own neighbor
    order = np.argsort(-similarity, axis=1)[:, : min(NEIGHBORS, len(unit) - 1)]
    return [unit_range(tf.constant(images[rows])) for rows in (queries, *order.T)]


def square_grid(images):
    """Splits images (N, H, W, C) into rows for a square `picture_grid`, whose last row is padded with black."""
    side = math.ceil(math.sqrt(len(images)))
    filled = tf.pad(images, [(0, -len(images) % side), (0, 0), (0, 0), (0, 0)])
    return tf.split(filled, len(filled) // side)


def png(rows):
    """Encodes rows of images, each (N, H, W, C) float in [0, 1], as the bytes of a PNG file."""
    return _png(to_uint8(picture_grid(rows)))


def _png(grid):
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(grid[..., 0] if grid.shape[-1] < 3 else grid[..., :3]).save(content, "png")
    return content.getvalue()


def contact_sheet(images, columns):
    """Encodes images (N, H, W, C), uint8 or float in [0, 1], as the bytes of a PNG file, with `columns` images per row.

    Images are resized to about `THUMBNAIL` pixels a side.
    """
    x = unit_range(tf.constant(images))
    height, width = x.shape[1:3]
    if max(height, width) > THUMBNAIL:
        scale = THUMBNAIL / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        x = tf.clip_by_value(tf.image.resize(x, size, antialias=True), 0.0, 1.0)
    else:
        x = enlarged(x, THUMBNAIL // max(height, width))
    x = tf.pad(x, [(0, -len(images) % columns), (0, 0), (0, 0), (0, 0)], constant_values=0.5)
    return png(tf.split(x, len(x) // columns))


def waveform_picture(waveform, rate):
    """Encodes a clip (T,) int16 as the bytes of a PNG file: the waveform, and its spectrogram below."""
    width, height = CLIP
    edges = np.linspace(0, len(waveform), width + 1).astype(int)
    columns = [waveform[a : max(b, a + 1)] / 2**15 for a, b in zip(edges, edges[1:])]
    high, low = (np.array([reduce(column) for column in columns]) for reduce in (np.max, np.min))
    level = np.linspace(1, -1, height)[:, None]
    samples = np.where((level <= high + 1 / height) & (level >= low - 1 / height), 1.0, 0.0)
    window = int(min(WINDOW * rate, len(waveform)))
    starts = np.linspace(0, len(waveform) - window, width).astype(int)
    frames = waveform[starts[:, None] + np.arange(window)] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, 2 * max(window // 2, height))).T  # (F, width)
    rows = np.linspace(0, len(power), height + 1).astype(int)
    decibels = 20 * np.log10(np.stack([power[a:b].max(0) for a, b in zip(rows, rows[1:])]) + 1)[::-1]
    spectrogram = np.clip((decibels - decibels.max()) / RANGE + 1, 0, 1) if decibels.max() > 0 else 0 * decibels
    return _png(to_uint8(np.concatenate([samples, np.full((2, width), 0.5), spectrogram])[..., None]))


def to_uint8(images):
    """Converts images in [0, 1] to uint8."""
    return np.rint(np.asarray(images) * 255).astype(np.uint8)


def figure_png(figure):
    """Returns a Matplotlib figure as the bytes of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, bbox_inches="tight")
    return content.getvalue()
