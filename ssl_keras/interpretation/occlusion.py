"""Occlusion (Zeiler & Fergus 2014): attributes a score by how much it falls where a window of the input is absent.

An absent position has the value of the baseline (`gradients.Explained.baseline`). A position's attribution is the mean
fall over the windows that cover it; it is not divided by the size of the window.

Shapes: `B` batch, `M` windows, `U` units.
"""

import numpy as np

from ssl_keras.interpretation import units as parts
from ssl_keras.interpretation.gradients import MAX_ROWS


def occlude_windows(explained, inputs, index, size, stride=None):
    """Attributes scores by sliding windows over images, samples or spectrograms.

    Args:
        explained: an `Explained`.
        inputs: (B, …) as the network takes them.
        index: (B,) the score of each example.
        size: the sides of a window, in positions; one number is for all axes.
        stride: positions between windows; by default half of the sides, at least 1.

    Returns:
        (B, *positions) float32, 0 at padding.

    Raises:
        ValueError: a window is larger than the input, or its stride larger than the window.
    """
    valid = explained.valid(inputs)
    masks = windows(valid.shape[1:], size, stride)
    falls = _falls(explained, inputs, index, np.broadcast_to(masks, (len(valid), *masks.shape)))  # (B, M)
    weights = masks.reshape(len(masks), -1).astype(np.float32)
    made = (falls @ weights / weights.sum(0)).reshape(valid.shape)
    return np.where(valid, made, 0).astype(np.float32)


def occlude_units(explained, inputs, index, units):
    """Attributes scores by removing each unit, such as a word: (B, *positions) float32.

    The fall of a unit is shared equally by its positions, so that its sum over the unit is the fall.

    Args:
        explained, inputs, index: as in `occlude_windows`.
        units: (B, *positions) int, see `interpretation/units.py`.
    """
    numbers = np.arange(units.max(initial=-1) + 1)
    masks = units[:, None] == numbers.reshape(-1, *[1] * (units.ndim - 1))  # (B, M, *positions)
    return parts.spread(_falls(explained, inputs, index, masks), units)


def windows(shape, size, stride=None):
    """Returns the windows over positions of a shape: bool (M, *shape). The last ones are cut off at the edge."""
    sizes = tuple(np.broadcast_to(size, len(shape)))
    strides = tuple(np.broadcast_to([max(1, side // 2) for side in sizes] if stride is None else stride, len(shape)))
    for side, window, step in zip(shape, sizes, strides):
        if not 1 <= step <= window <= side:
            raise ValueError(
                f"Expected windows of 1 to {side} positions, with a stride of at most the window. Received: a window "
                f"of {window}, a stride of {step}. Change size or stride."
            )
    masks = np.ones((1, *[1] * len(shape)), bool)
    for axis, (side, window, step) in enumerate(zip(shape, sizes, strides)):
        starts = np.arange(-(-(side - window) // step) + 1) * step
        place = np.arange(side)
        inside = (place >= starts[:, None]) & (place < starts[:, None] + window)  # (m, side)
        inside = inside.reshape(len(starts), *[side if a == axis else 1 for a in range(len(shape))])
        masks = (masks[:, None] & inside[None]).reshape(-1, *np.broadcast_shapes(masks.shape[1:], inside.shape[1:]))
    return masks


def _falls(explained, inputs, index, masks):
    """Returns how much each example's score falls where a mask is absent, (B, M); masks (B, M, *positions)."""
    inputs, index = np.asarray(inputs), np.asarray(index)
    x, baseline = explained.represent(inputs), explained.baseline(inputs)
    count, rows = masks.shape[1], np.arange(len(x))
    whole = explained.scores(inputs, x)[rows, index]
    falls = np.zeros((len(x), count), np.float32)
    pairs = np.stack(np.divmod(np.arange(len(x) * count), count), 1)
    empty = ~masks.reshape(len(x), count, -1).any(2)
    pairs = pairs[~empty[pairs[:, 0], pairs[:, 1]]]
    for start in range(0, len(pairs), MAX_ROWS):
        row, mask = pairs[start : start + MAX_ROWS].T
        changed = np.where(masks[row, mask][..., None], baseline[row], x[row])
        scores = explained.scores(inputs[row], changed)[np.arange(len(row)), index[row]]
        falls[row, mask] = whole[row] - scores
    return falls
