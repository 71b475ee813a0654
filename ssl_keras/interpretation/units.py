"""Units of an input, which are shown, removed and ranked as wholes: pixels, words, frames of audio, bands of frames.

Units are int arrays (B, *positions): the number of each position's unit, from 0 in each example, and -1 for padding.

Shapes: `B` batch, `T` tokens, `U` the largest number of units of an example.
"""

import numpy as np


def pixels(valid, size=1):
    """Returns the units of images, squares of `size` pixels, or of any positions one by one.

    Args:
        valid: (B, *positions) bool, False for padding, which is in no unit.
        size: side of a unit along every axis, in positions.
    """
    cells = [np.arange(side) // size for side in valid.shape[1:]]
    numbers = np.zeros((), int)
    for axis, cell in enumerate(cells):
        numbers = numbers[..., None] * (cell[-1] + 1) + cell if axis else cell
    return _renumbered(np.where(valid, numbers, -1))


def frames(valid, size):
    """Returns the units of samples, or of the frames of a spectrogram: `size` positions of the first axis each."""
    numbers = np.arange(valid.shape[1]) // size
    return _renumbered(np.where(valid, numbers.reshape(-1, *[1] * (valid.ndim - 2)), -1))


def words(tokens, tokenizer):
    """Returns the units of tokens (B, T): whole words. Each special token, such as [MASK], is a word of its own."""
    starts = tokenizer.word_starts()
    special = np.isin(tokens, list(tokenizer.special.values()))
    first = starts[np.maximum(tokens, 0)] | special
    first[:, 1:] |= special[:, :-1]
    first[:, 0] = True
    return np.where(tokens >= 0, np.cumsum(first & (tokens >= 0), axis=1) - 1, -1)


def texts(tokens, units, tokenizer):
    """Returns the text of each unit of tokens (B, T): B lists of strings."""
    return [
        [tokenizer.decode(row[numbers == unit]).strip() or "␣" for unit in range(numbers.max(initial=-1) + 1)]
        for row, numbers in zip(tokens, units)
    ]


def totals(values, units):
    """Sums values (B, *positions) over units: float32 (B, U), 0 for units that an example does not have."""
    count = int(units.max(initial=-1)) + 1
    rows = np.arange(len(units)).reshape(-1, *[1] * (units.ndim - 1))
    flat = np.where(units >= 0, rows * count + units, len(units) * count)
    made = np.bincount(flat.ravel(), np.asarray(values, np.float64).ravel(), len(units) * count + 1)[:-1]
    return made.reshape(len(units), count).astype(np.float32)


def counts(units):
    """Returns the number of units of each example, (B,)."""
    return units.reshape(len(units), -1).max(1, initial=-1) + 1


def spread(values, units):
    """Shares the values of units (B, U) equally among their positions: float32 (B, *positions), 0 at padding."""
    sizes = np.maximum(totals(np.ones(units.shape), units), 1)
    rows = np.arange(len(units)).reshape(-1, *[1] * (units.ndim - 1))
    return np.where(units >= 0, (values / sizes)[rows, np.maximum(units, 0)], 0).astype(np.float32)


def _renumbered(units):
    """Renumbers the units of each example from 0, in order."""
    made = np.full(units.shape, -1)
    for row, numbers in zip(made, units):
        inside = numbers >= 0
        row[inside] = np.unique(numbers[inside], return_inverse=True)[1]
    return made
