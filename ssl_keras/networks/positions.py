"""Positions of image patches: fixed sines, and the interpolation of a table of positions for other image sizes.

Interpolation is a product with one fixed matrix per side, because libraries disagree: PyTorch's bicubic kernel
(Keys 1981, equation 4) has a = −0.75, TensorFlow's −0.5, and PyTorch's with antialiasing −0.5. A model computes
the same at another image size only with the matrix that it was trained with.

Shapes: `h w` grid of patches, `D` width.
"""

import numpy as np
import tensorflow as tf

CUBIC, CUBIC_ANTIALIASED = -0.75, -0.5  # Keys' a in PyTorch, without and with antialiasing
TAPS = 2  # neighbors on each side of the bicubic kernel
SINE_BASE = 10_000.0


def sine_positions(height, width, features):
    """Returns fixed positions (h·w, D) float32: sines and cosines of the column, then of the row (He et al. 2022).

    Raises:
        ValueError: D is not a multiple of 4.
    """
    if features % 4:
        raise ValueError(f"width must be a multiple of 4 for sine positions. Received: {features}")
    rate = SINE_BASE ** (-np.arange(features // 4, dtype=np.float64) / (features / 4))
    row, column = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    parts = []
    for place in (column, row):
        angle = place.reshape(-1, 1) * rate
        parts += [np.sin(angle), np.cos(angle)]
    return np.concatenate(parts, 1).astype(np.float32)


def cubic(distance, a):
    """Returns Keys' cubic kernel at distances in pixels, with parameter `a`; it is 0 from 2 on."""
    x = tf.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return tf.where(x <= 1, near, tf.where(x < TAPS, far, 0.0))


def interpolation(old, new, antialias=False):
    """Returns the bicubic weights (new, old) float32 that resize a side; both sizes may be int32 scalar tensors.

    Pixel centers are at half-integers. Without antialiasing, pixels beyond the border repeat the last one. With it,
    the kernel widens as the side shrinks, and its weights are normalized inside the border.
    """
    scale = tf.cast(old, tf.float32) / tf.cast(new, tf.float32)
    center = (tf.range(new, dtype=tf.float32) + 0.5) * scale - 0.5  # (new,), in pixels of the old side
    if antialias:
        weights = cubic((center[:, None] - tf.range(old, dtype=tf.float32)) / tf.maximum(scale, 1.0), CUBIC_ANTIALIASED)
        return weights / tf.reduce_sum(weights, 1, keepdims=True)
    place = tf.range(-TAPS, old + TAPS)  # the old pixels, and those beyond the border
    weights = cubic(center[:, None] - tf.cast(place, tf.float32), CUBIC)
    return weights @ tf.one_hot(tf.clip_by_value(place, 0, old - 1), old)


def resize(grid, height, width, antialias=False):
    """Resizes grids (…, h, w, D) to (…, height, width, D), bicubic, in float32."""
    rows = interpolation(grid.shape[-3] or tf.shape(grid)[-3], height, antialias)
    columns = interpolation(grid.shape[-2] or tf.shape(grid)[-2], width, antialias)
    return tf.einsum("ih,jw,...hwd->...ijd", rows, columns, tf.cast(grid, tf.float32))
