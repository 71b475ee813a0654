"""Pictures of images side by side."""

import io
import math

import numpy as np
import tensorflow as tf

from ssl_keras.data.images import unit_range
from ssl_keras.evaluation.features import normalize, spread

PICTURES, NEIGHBOURS = 8, 5


def picture_grid(rows):
    """R rows of images, each (B, H, W, C) float in [0, 1] -> one image (R·H, B·W, C)."""
    return tf.concat([tf.concat(tf.unstack(row), axis=1) for row in rows], axis=0)


def enlarged(image, pixels, frame=0):
    """(B, H, W, C) -> larger images: each pixel a square of `pixels` a side, and around all a grey frame."""
    image = tf.repeat(tf.repeat(image, pixels, axis=1), pixels, axis=2)
    return tf.pad(image, [[0, 0], [frame, frame], [frame, frame], [0, 0]], constant_values=0.5)


def neighbours(images, features):
    """Rows for `picture_grid`: some of the images (N, H, W, C), then the nearest to each by cosine, best first.

    Args:
        images: uint8, or float in [0, 1].
        features: (N, D).
    """
    unit = normalize(features)
    some = spread(len(unit), PICTURES)
    similarity = unit[some] @ unit.T
    similarity[np.arange(len(some)), some] = -np.inf  # itself
    order = np.argsort(-similarity, axis=1)[:, : min(NEIGHBOURS, len(unit) - 1)]
    return [unit_range(tf.constant(images[rows])) for rows in (some, *order.T)]


def grid_of(images):
    """Rows of a square picture of images (N, H, W, C), the last one filled up with black."""
    side = math.ceil(math.sqrt(len(images)))
    filled = tf.pad(images, [(0, -len(images) % side), (0, 0), (0, 0), (0, 0)])
    return tf.split(filled, len(filled) // side)


def png(rows):
    """Rows of images, each (N, H, W, C) float in [0, 1], as the bytes of a PNG file."""
    from PIL import Image

    grid, content = as_uint8(picture_grid(rows)), io.BytesIO()
    Image.fromarray(grid[..., 0] if grid.shape[-1] < 3 else grid[..., :3]).save(content, "png")
    return content.getvalue()


def as_uint8(images):
    """uint8 from [0, 1]."""
    return np.rint(np.asarray(images) * 255).astype(np.uint8)
