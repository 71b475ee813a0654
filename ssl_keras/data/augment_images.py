"""Stateless augmentation of image batches: the same (seed, step, position) gives the same view.

Crop, resize, flip, shift and blur are separable, so together they are one pair of matrices per image,
`R · image · Cᵀ`. Brightness, contrast, saturation, hue and grayscale together are one affine map of the colors.

Departures from Chen et al. 2020 ("A simple framework for contrastive learning", appendix A): color
changes have a fixed order and are clipped once, at the end; hue rotates in the YIQ plane instead of
HSV; a crop that does not fit is clipped to the image's side instead of drawn again.

Shapes: `B` batch, `H W C` image, `N` pixels along one side.
"""

import dataclasses
import math
from typing import Annotated

import numpy as np
import tensorflow as tf

from ssl_keras.data.images import unit_range
from ssl_keras.data.ranges import Range, check_fields

MAX_ASPECT = 4 / 3  # largest ratio of a crop's sides
JITTER_PROBABILITY = 0.8
# At strength 1: brightness, contrast and saturation change by up to JITTER, hue by up to HUE turns.
JITTER, HUE = 0.8, 0.2
MIN_SIGMA, MAX_SIGMA, MAX_SIGMA_FRACTION = 0.1, 1.0, 0.01  # of the blur: in pixels; as a fraction of large sides
LUMA = (0.299, 0.587, 0.114)  # weights of red, green, blue in gray (ITU-R BT.601)
NUMBERS = {"geometry": 9, "colour": 6, "cutout": 2}  # uniform numbers per image, by the name of their stream
YIQ = np.array([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Image augmentations; all are off by default."""

    crop: Annotated[float, Range(0, 1, open="low")] = 1.0
    """Minimum area of a random crop, as a fraction of the image area; the crop is resized to the image's size.
    1 disables cropping."""
    flip: bool = False
    """Flip each image horizontally with probability 0.5."""
    shift: Annotated[float, Range(0, 1)] = 0.0
    """Maximum random shift along each side, as a fraction of the side. Uncovered pixels are black. 0 disables it."""
    color: Annotated[float, Range(0, 1 / JITTER)] = 0.0
    """Strength of color jitter of brightness and contrast and, for RGB images, saturation and hue. 0 disables it."""
    gray: Annotated[float, Range(0, 1)] = 0.0
    """Probability of converting an RGB image to grayscale. 0 disables it."""
    blur: Annotated[float, Range(0, 1)] = 0.0
    """Probability of Gaussian blur. 0 disables it."""
    cutout: Annotated[float, Range(0, 1)] = 0.0
    """Cutout: side length of a random square that is set to gray, as a fraction of the image's side. 0 disables it."""

    def __post_init__(self):
        check_fields(self)


def augment(image, random, options, stream="view", size=None, most=1.0):
    """Returns a random view of every image: (B, H, W, C) uint8, or float in [0, 1] -> float32 in [0, 1], same shape.

    Args:
        image: the batch.
        random: the `BatchRandom` of the batch's rows.
        options: an `Augmentation`.
        stream: name of the view; different names give independent views.
        size: (height, width) of the views in pixels, if it is not that of the images.
        most: largest area of a random crop, as a fraction of the image area.
    """
    x = unit_range(image)
    height, width, channels = image.shape[1:]
    if options.crop < 1 or options.flip or options.shift or options.blur or size:
        numbers = _numbers(random, stream, "geometry")
        x = apply_matrices(x, *_matrices(numbers, options, height, width, size, most))
    if options.color or options.gray:
        x = _colors(x, _numbers(random, stream, "colour"), options)
    if options.cutout:
        x = _cutout(x, _numbers(random, stream, "cutout"), options.cutout)
    return tf.ensure_shape(x, (None, *(size or (height, width)), channels))


def _numbers(random, stream, part):
    return random.uniform(f"{stream}/{part}", (NUMBERS[part],))  # (B, numbers)


def draw_numbers(random, stream="view"):
    """Draws all numbers that `augment` needs for a batch; with `ReplayedRandom` they augment images made in a step."""
    return {f"{stream}/{part}": _numbers(random, stream, part) for part in NUMBERS}


def apply_matrices(image, rows, columns):
    """Returns R · image · Cᵀ (B, h, w, C) for images (B, H, W, C), row maps R (B, h, H) and column maps C (B, w, W)."""
    height, width, channels = image.shape[1:]
    high, wide = rows.shape[1], columns.shape[1]
    x = tf.reshape(rows @ tf.reshape(image, (-1, height, width * channels)), (-1, high, width, channels))
    if channels == 1:
        return tf.matmul(x[..., 0], columns, transpose_b=True)[..., None]
    x = tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, width, high * channels))
    return tf.transpose(tf.reshape(columns @ x, (-1, wide, high, channels)), (0, 2, 1, 3))


def _matrices(geometry, options, height, width, size=None, most=1.0):
    """Returns the row maps (B, h, H) and column maps (B, w, W) of crop, flip, shift and blur."""
    new_height, new_width = size or (height, width)
    area, aspect, y, x, flip, down, right, blurred, sigma = tf.unstack(geometry, axis=1)
    area = options.crop + (most - options.crop) * area
    bound = math.log(MAX_ASPECT) if options.crop < 1 else 0.0
    aspect = tf.exp((2 * aspect - 1) * bound)
    high, wide = tf.minimum(tf.sqrt(area / aspect), 1.0), tf.minimum(tf.sqrt(area * aspect), 1.0)
    top = y * (1 - high) - (2 * down - 1) * options.shift
    left = x * (1 - wide) - (2 * right - 1) * options.shift
    mirrored = (flip < 0.5) & options.flip
    rows = interpolation_matrix(height, top, high, new_height)
    columns = interpolation_matrix(width, left, wide, new_width)
    columns = tf.where(mirrored[:, None, None], tf.reverse(columns, [1]), columns)
    if options.blur:
        max_sigma = max(MAX_SIGMA, MAX_SIGMA_FRACTION * max(new_height, new_width))
        sigma = MIN_SIGMA + (max_sigma - MIN_SIGMA) * sigma
        sigma = tf.where(blurred < options.blur, sigma, 1e-3)
        rows, columns = blur_matrix(new_height, sigma) @ rows, blur_matrix(new_width, sigma) @ columns
    return rows, columns


def interpolation_matrix(size, start, fraction, new=None):
    """Returns (B, n, N) weights that resize the part `start .. start + fraction` of a side of N to n pixels.

    Bilinear, with pixel centers at half-integers: each row weighs two neighbors. Pixels outside the image are 0.

    Args:
        size: N.
        start, fraction: (B,) the part, as fractions of the side.
        new: n; None is N.
    """
    new = new or size
    pixels = (tf.range(new, dtype=tf.float32) + 0.5) * (size / new)
    source = start[:, None] * size + pixels * fraction[:, None] - 0.5  # (B, n)
    inside = (source > -0.5 - 1e-4) & (source < size - 0.5 + 1e-4)
    source = tf.clip_by_value(source, 0.0, size - 1.0)
    weights = tf.nn.relu(1.0 - tf.abs(source[..., None] - tf.range(size, dtype=tf.float32)))  # (B, n, N)
    return weights * tf.cast(inside, tf.float32)[..., None]


def blur_matrix(size, sigma):
    """Returns (B, N, N) Gaussian weights of standard deviation `sigma` (B,) in pixels; each row sums to 1."""
    distance = tf.range(size, dtype=tf.float32)[:, None] - tf.range(size, dtype=tf.float32)
    return tf.nn.softmax(-0.5 * tf.square(distance / sigma[:, None, None]))


def _colors(x, numbers, options):
    """Applies one affine map to the colors of each image."""
    channels = x.shape[-1]
    jittered, brightness, contrast, saturation, hue, gray = tf.unstack(numbers, axis=1)
    strength = options.color * tf.cast(jittered < JITTER_PROBABILITY, tf.float32)
    brightness, contrast, saturation = (1 + JITTER * strength * (2 * u - 1) for u in (brightness, contrast, saturation))
    luma = tf.constant(LUMA if channels == 3 else [1 / channels] * channels, tf.float32)
    mean = brightness * tf.tensordot(tf.reduce_mean(x, (1, 2)), luma, 1)  # (B,)
    offset = ((1 - contrast) * mean)[:, None, None, None]  # a gray, which saturation and hue leave unchanged
    gain = brightness * contrast
    if channels != 3:
        return tf.clip_by_value(gain[:, None, None, None] * x + offset, 0.0, 1.0)
    to_gray = tf.ones((3, 1)) * luma  # (3, 3): every output channel is the luma
    saturation = tf.where(gray < options.gray, 0.0, saturation)[:, None, None]
    matrix = saturation * tf.eye(3) + (1 - saturation) * to_gray  # (B, 3, 3)
    angle = 2 * math.pi * HUE * strength * (2 * hue - 1)
    matrix = gain[:, None, None] * _turn(angle) @ matrix
    y = tf.reshape(x, (-1, x.shape[1] * x.shape[2], 3)) @ tf.transpose(matrix, (0, 2, 1))
    return tf.clip_by_value(tf.reshape(y, (-1, *x.shape[1:])) + offset, 0.0, 1.0)


def _turn(angle):
    """Returns (B, 3, 3) matrices that rotate colors around the gray axis by an angle (B,) in radians."""
    one, zero = tf.ones_like(angle), tf.zeros_like(angle)
    sine, cosine = tf.sin(angle), tf.cos(angle)
    rotation = tf.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], axis=1)
    back = tf.constant(np.linalg.inv(YIQ), tf.float32)
    return back @ tf.reshape(rotation, (-1, 3, 3)) @ tf.constant(YIQ, tf.float32)


def _cutout(x, center, fraction):
    """Sets a square with its center anywhere in the image to gray 0.5 (DeVries & Taylor 2017)."""
    inside = []
    for axis in (1, 2):
        size = x.shape[axis]
        distance = tf.abs(tf.range(size, dtype=tf.float32) + 0.5 - center[:, axis - 1, None] * size)  # (B, N)
        inside.append(distance < fraction * size / 2)
    hidden = inside[0][:, :, None] & inside[1][:, None, :]
    return tf.where(hidden[..., None], 0.5, x)
