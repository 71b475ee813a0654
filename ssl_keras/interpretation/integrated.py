"""Integrated gradients (Sundararajan et al. 2017, equation 1): the gradient along the straight path from the baseline.

The path is cut into intervals, each with the gradient at its middle. The scores at an interval's ends tell what its
gradient should sum to, so intervals that are wrong are halved until the attributions sum to the difference of scores
(their axiom of completeness). This needs about half of the gradients of equal intervals.

Shapes: `B` examples, `n` intervals.
"""

import logging

import numpy as np

from ssl_keras.interpretation.gradients import MAX_NUMBERS, completeness_error

STEPS, MAX_STEPS, TOLERANCE = 16, 512, 0.01
log = logging.getLogger(__name__)


def integrated_gradients(explained, inputs, index, steps=STEPS, tolerance=TOLERANCE, most=MAX_STEPS):
    """Attributes scores by integrated gradients: (B, *positions) float32, 0 at padding.

    Args:
        explained: an `Explained`.
        inputs: (B, …) as the network takes them.
        index: (B,) the score of each example.
        steps: number of equal intervals at first.
        tolerance: the largest `completeness_error`. Intervals are halved until it is reached; infinity keeps the equal
            ones.
        most: largest number of gradients of an example. Examples that are incomplete then are counted in a warning.
    """
    inputs, index = np.asarray(inputs), np.asarray(index)
    positions = max(1, explained.valid(inputs[:1]).size)
    together, made, missed = max(1, 16 * MAX_NUMBERS // (steps * 4 * positions)), [], 0
    for start in range(0, len(inputs), together):  # the gradients of all intervals are in memory
        part = slice(start, start + together)
        found, incomplete = _integrate(explained, inputs[part], index[part], steps, tolerance, most)
        made.append(found)
        missed += incomplete
    if missed:
        log.warning(
            "integrated gradients: the sums of %d of %d examples differ from the difference of scores by more than %g "
            "after %d gradients",
            missed,
            len(inputs),
            tolerance,
            most,
        )
    return np.concatenate(made)


def _integrate(explained, inputs, index, steps, tolerance, most):
    """Returns (attributions (B, *positions), number of examples that are incomplete)."""
    baseline = explained.baseline(inputs)
    step = explained.represent(inputs) - baseline

    def measure(row, left, right):
        """Returns (scores at the middles (n,), the gradients' contributions (n, *positions))."""
        middle = np.float32((left + right) / 2).reshape(-1, *[1] * (step.ndim - 1))
        score, slope = explained.gradient(inputs[row], baseline[row] + middle * step[row], index[row])
        width = (right - left).reshape(-1, *[1] * (step.ndim - 2))
        return score, np.float32(width * (slope * step[row]).sum(-1))

    ends, count = np.linspace(0, 1, steps + 1), len(inputs)
    row, left, right = np.repeat(np.arange(count), steps), np.tile(ends[:-1], count), np.tile(ends[1:], count)
    at_ends = _scores_at(explained, inputs, index, baseline, step, ends if tolerance < np.inf else ends[[0, -1]])
    middle, parts = measure(row, left, right)
    if tolerance == np.inf:
        return parts.reshape(count, steps, *parts.shape[1:]).sum(1), 0
    low, high = at_ends[:, :-1].ravel(), at_ends[:, 1:].ravel()
    used = np.full(count, steps)
    while True:
        error = np.abs(high - low - parts.reshape(len(parts), -1).sum(1))
        totals = np.stack([parts[row == each].sum(0) for each in range(count)])
        wrong = completeness_error(totals, at_ends[:, -1], at_ends[:, 0]) > tolerance
        halved = [_largest(error, row == each) for each in np.flatnonzero(wrong)]
        halved = [each for each in halved if used[row[each[0]]] + 2 * len(each) <= most]
        if not halved:
            return totals, int(wrong.sum())
        split = np.concatenate(halved)
        kept = np.setdiff1d(np.arange(len(row)), split)
        center = (left[split] + right[split]) / 2
        new = [np.tile(row[split], 2), np.r_[left[split], center], np.r_[center, right[split]]]
        new_low, new_high = np.r_[low[split], middle[split]], np.r_[middle[split], high[split]]
        scores, contributions = measure(*new)
        used += np.bincount(new[0], minlength=count)
        row, left, right = (np.r_[old[kept], one] for old, one in zip((row, left, right), new))
        low, high, middle = np.r_[low[kept], new_low], np.r_[high[kept], new_high], np.r_[middle[kept], scores]
        parts = np.concatenate([parts[kept], contributions])


def _largest(error, own):
    """Returns the half of an example's intervals with the largest errors, at least one."""
    own = np.flatnonzero(own)
    return own[np.argsort(-error[own])[: max(1, len(own) // 2)]]


def _scores_at(explained, inputs, index, baseline, step, places):
    """Returns the chosen scores at places of the path, (B, places)."""
    rows = np.repeat(np.arange(len(inputs)), len(places))
    where = np.float32(np.tile(places, len(inputs))).reshape(-1, *[1] * (step.ndim - 1))
    scores = explained.scores(inputs[rows], baseline[rows] + where * step[rows])
    return scores[np.arange(len(rows)), index[rows]].reshape(len(inputs), -1)
