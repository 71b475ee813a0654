"""Augmentation of whole batches of images, stateless: the same (seed, step, position) gives the same view.

Crop, resize, flip, shift and blur act on rows and columns separately, so all of them together
are one pair of matrices an image, `R · image · Cᵀ`; brightness, contrast, saturation, hue and gray
together are one affine map of its colors. Two small matrix products then make a view.

Departures from Chen et al. 2020 ("A simple framework for contrastive learning", appendix A): the
color changes come in one order and are clipped once, at the end; hue turns in the YIQ plane
instead of HSV; a crop that does not fit is cut to the image's side instead of drawn again.

Shapes: `B` batch, `H W C` image, `N` pixels along one side.
"""

import dataclasses
import math
from typing import Annotated

import numpy as np
import tensorflow as tf

from ssl_keras.data.images import unit_range
from ssl_keras.data.ranges import Range, check_fields

ASPECT = 4 / 3  # a crop's width over its height is between the inverse of this and this
COLOR_CHANCE = 0.8  # of color jitter, where there is any
# Of strength 1: brightness, contrast, saturation; hue in turns.
JITTER, HUE = 0.8, 0.2
BLUR_LEAST, BLUR_MOST, BLUR_SHARE = 0.1, 1.0, 0.01  # standard deviation: pixels; of a large image, a share of its side
LUMA = (0.299, 0.587, 0.114)  # gray of red, green, blue (ITU-R BT.601)
NUMBERS = {"geometry": 9, "colour": 6, "cutout": 2}  # uniform ones, that an image is changed by
YIQ = np.array([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to an image to make a view of it; everything is off by default."""

    crop: Annotated[float, Range(0, 1, open="low")] = 1.0
    """The least share of the area that a random crop keeps, before it is resized to the whole; 1 is no crop."""
    flip: bool = False
    """Mirror half of the images."""
    shift: Annotated[float, Range(0, 1)] = 0.0
    """The largest shift along each side, as a share of it; what comes in is black."""
    color: Annotated[float, Range(0, 1 / JITTER)] = 0.0
    """Strength of changes of brightness, contrast and, of RGB images, saturation and hue."""
    gray: Annotated[float, Range(0, 1)] = 0.0
    """Probability that the colors of an RGB image are taken away."""
    blur: Annotated[float, Range(0, 1)] = 0.0
    """Probability of Gaussian blur."""
    cutout: Annotated[float, Range(0, 1)] = 0.0
    """Side of a square set to gray, as a share of the image's side."""

    def __post_init__(self):
        check_fields(self)


def augment(image, random, options, stream="view"):
    """A view of every image: (B, H, W, C) uint8, or float in [0, 1] -> float32 in [0, 1], same shape.

    Args:
        image: the batch.
        random: `BatchRandom` of its rows.
        options: `Augmentation`.
        stream: names the view; other names give independent ones.
    """
    x = unit_range(image)
    height, width, channels = image.shape[1:]
    if options.crop < 1 or options.flip or options.shift or options.blur:
        x = mapped(x, *_matrices(_numbers(random, stream, "geometry"), options, height, width))
    if options.color or options.gray:
        x = _colors(x, _numbers(random, stream, "colour"), options)
    if options.cutout:
        x = _cutout(x, _numbers(random, stream, "cutout"), options.cutout)
    return tf.ensure_shape(x, (None, height, width, channels))


def _numbers(random, stream, part):
    return random.uniform(f"{stream}/{part}", (NUMBERS[part],))  # (B, numbers)


def drawn(random, stream="view"):
    """All the numbers that `augment` takes, for a batch: with `ReplayedRandom` it changes images that a step makes."""
    return {f"{stream}/{part}": _numbers(random, stream, part) for part in NUMBERS}


def mapped(image, rows, columns):
    """R · image · Cᵀ: images (B, H, W, C) and maps of their rows (B, H, H) and columns (B, W, W) -> the same shape."""
    height, width, channels = image.shape[1:]
    x = tf.reshape(rows @ tf.reshape(image, (-1, height, width * channels)), (-1, height, width, channels))
    if channels == 1:
        return tf.matmul(x[..., 0], columns, transpose_b=True)[..., None]
    x = tf.reshape(tf.transpose(x, (0, 2, 1, 3)), (-1, width, height * channels))
    return tf.transpose(tf.reshape(columns @ x, (-1, width, height, channels)), (0, 2, 1, 3))


def _matrices(geometry, options, height, width):
    """The row (B, H, H) and column (B, W, W) maps of crop, flip, shift and blur."""
    area, aspect, y, x, flip, down, right, blurred, sigma = tf.unstack(geometry, axis=1)
    area = options.crop + (1 - options.crop) * area
    bound = math.log(ASPECT) if options.crop < 1 else 0.0
    aspect = tf.exp((2 * aspect - 1) * bound)
    high, wide = tf.minimum(tf.sqrt(area / aspect), 1.0), tf.minimum(tf.sqrt(area * aspect), 1.0)
    top = y * (1 - high) - (2 * down - 1) * options.shift
    left = x * (1 - wide) - (2 * right - 1) * options.shift
    mirrored = (flip < 0.5) & options.flip
    rows = interpolation(height, top, high)
    columns = interpolation(width, left, wide)
    columns = tf.where(mirrored[:, None, None], tf.reverse(columns, [1]), columns)
    if options.blur:
        most = max(BLUR_MOST, BLUR_SHARE * max(height, width))
        sigma = BLUR_LEAST + (most - BLUR_LEAST) * sigma
        sigma = tf.where(blurred < options.blur, sigma, 1e-3)
        rows, columns = blurring(height, sigma) @ rows, blurring(width, sigma) @ columns
    return rows, columns


def interpolation(size, start, share):
    """(B, N, N): each row gives a pixel of `size` as a mean of two neighbors of the part that is kept.

    Bilinear, with pixel centers at half-integers. The part is `start .. start + share` of the
    side; what lies beyond the image is 0.
    """
    source = start[:, None] * size + (tf.range(size, dtype=tf.float32) + 0.5) * share[:, None] - 0.5  # (B, N)
    inside = (source > -0.5 - 1e-4) & (source < size - 0.5 + 1e-4)
    source = tf.clip_by_value(source, 0.0, size - 1.0)
    weights = tf.nn.relu(1.0 - tf.abs(source[..., None] - tf.range(size, dtype=tf.float32)))  # (B, N, N)
    return weights * tf.cast(inside, tf.float32)[..., None]


def blurring(size, sigma):
    """(B, N, N): Gaussian weights of standard deviation `sigma` (B,) pixels, each row's sum 1."""
    distance = tf.range(size, dtype=tf.float32)[:, None] - tf.range(size, dtype=tf.float32)
    return tf.nn.softmax(-0.5 * tf.square(distance / sigma[:, None, None]))


def _colors(x, drawn, options):
    """One affine map of each image's colors."""
    channels = x.shape[-1]
    changed, brightness, contrast, saturation, hue, gray = tf.unstack(drawn, axis=1)
    strength = options.color * tf.cast(changed < COLOR_CHANCE, tf.float32)
    brightness, contrast, saturation = (1 + JITTER * strength * (2 * u - 1) for u in (brightness, contrast, saturation))
    luma = tf.constant(LUMA if channels == 3 else [1 / channels] * channels, tf.float32)
    mean = brightness * tf.tensordot(tf.reduce_mean(x, (1, 2)), luma, 1)  # (B,)
    offset = ((1 - contrast) * mean)[:, None, None, None]  # the same for every color, which all below leave alone
    gain = brightness * contrast
    if channels != 3:
        return tf.clip_by_value(gain[:, None, None, None] * x + offset, 0.0, 1.0)
    to_gray = tf.ones((3, 1)) * luma  # (3, 3): every color is the gray
    saturation = tf.where(gray < options.gray, 0.0, saturation)[:, None, None]
    matrix = saturation * tf.eye(3) + (1 - saturation) * to_gray  # (B, 3, 3)
    angle = 2 * math.pi * HUE * strength * (2 * hue - 1)
    matrix = gain[:, None, None] * _turn(angle) @ matrix
    y = tf.reshape(x, (-1, x.shape[1] * x.shape[2], 3)) @ tf.transpose(matrix, (0, 2, 1))
    return tf.clip_by_value(tf.reshape(y, (-1, *x.shape[1:])) + offset, 0.0, 1.0)


def _turn(angle):
    """(B, 3, 3): turns the colors by an angle (B,) round the gray axis."""
    one, zero = tf.ones_like(angle), tf.zeros_like(angle)
    sine, cosine = tf.sin(angle), tf.cos(angle)
    rotation = tf.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], axis=1)
    back = tf.constant(np.linalg.inv(YIQ), tf.float32)
    return back @ tf.reshape(rotation, (-1, 3, 3)) @ tf.constant(YIQ, tf.float32)


def _cutout(x, center, share):
    """A square of gray 0.5 with its center anywhere (DeVries & Taylor 2017)."""
    inside = []
    for axis in (1, 2):
        size = x.shape[axis]
        distance = tf.abs(tf.range(size, dtype=tf.float32) + 0.5 - center[:, axis - 1, None] * size)  # (B, N)
        inside.append(distance < share * size / 2)
    hidden = inside[0][:, :, None] & inside[1][:, None, :]
    return tf.where(hidden[..., None], 0.5, x)
