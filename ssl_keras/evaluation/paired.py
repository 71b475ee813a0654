"""Paired difference of two rows of a table, which were measured with the same label seeds."""

from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """A mean difference, and what is known about it."""

    mean: float
    """Mean over seeds of first − second, in the unit of the numbers compared."""
    interval: tuple[float, float] | None
    """Lower and upper end of the confidence interval of the mean, or None for one seed."""
    count: int
    """Number of seeds."""


def paired_difference(first, second, confidence=0.95):
    """Returns the mean of first − second over seeds, with its interval by Student's t distribution for pairs.

    The interval covers only what differs between the seeds, such as the choice of labels. It does not cover the choice
    of test examples, nor the seed of pretraining if all have the same. Differences that are all equal have an
    interval of zero width.

    Args:
        first, second: accuracies or other numbers, one for each seed, (N,); place i of both has the same seed.
        confidence: the probability, in (0, 1), with which such intervals contain the true mean.

    Returns:
        A `Difference`.

    Raises:
        ValueError: the numbers are not finite, not in pairs, or there are none.
    """
    from scipy import stats

    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(
            "Expected two lists of equal length, with a number for each seed. "
            f"Received: shapes {first.shape} and {second.shape}. Measure both rows with the same seeds."
        )
    differences = first - second
    if not np.isfinite(differences).all():
        raise ValueError(
            f"Expected finite numbers. Received: {first.tolist()} and {second.tolist()}. Leave out rows that failed."
        )
    mean, count = float(differences.mean()), len(differences)
    if count == 1:
        return Difference(mean, None, count)
    # The interval of `stats.ttest_rel`, which warns, and divides by zero, where all differences are equal.
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1) * stats.sem(differences))
    return Difference(mean, (mean - half, mean + half), count)
