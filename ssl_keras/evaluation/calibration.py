"""Calibration of a classifier (Guo et al. 2017, section 2): whether its confidence equals its accuracy.

Shapes: `N` examples, `Y` classes, `K` bins.
"""

import dataclasses

import numpy as np

BINS = 15  # as in the paper's tables
TOLERANCE = 0.01  # of the sum of probabilities, for those of half precision


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Accuracy by confidence, in bins of equal width: bin k has the confidences in (k / K, (k + 1) / K]."""

    counts: np.ndarray
    """Number of examples in each bin, int (K,)."""
    confidence: np.ndarray
    """Mean probability of the predicted class in each bin, float64 (K,), NaN in empty bins."""
    accuracy: np.ndarray
    """Fraction of correct predictions in each bin, float64 (K,), NaN in empty bins."""

    @property
    def expected_calibration_error(self):
        """The mean over examples of |accuracy − confidence| of their bins, in [0, 1] (equation 3)."""
        return self._mean(np.abs(self.accuracy - self.confidence))

    @property
    def mean_accuracy(self):
        """The fraction of correct predictions among all examples."""
        return self._mean(self.accuracy)

    @property
    def mean_confidence(self):
        """The mean probability of the predicted class over all examples."""
        return self._mean(self.confidence)

    def _mean(self, values):
        return float(np.sum(self.counts * np.nan_to_num(values)) / self.counts.sum())


def reliability(probabilities, labels, bins=BINS):
    """Compares the confidence of predictions with their accuracy, in bins (equations 1 and 2).

    The predicted class has the highest probability, and the lowest label among equals; this probability is the
    confidence.

    Args:
        probabilities: (N, Y) floats, whose rows sum to 1.
        labels: (N,) integers in 0..Y − 1.
        bins: K.

    Returns:
        A `Reliability`.

    Raises:
        ValueError: these are not probabilities, or not labels of them.
    """
    probabilities, labels = check_probabilities(probabilities, labels)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    counts = np.bincount(bin_of, minlength=bins)
    sums = [np.bincount(bin_of, values, bins) for values in (confidence, correct)]
    means = [np.divide(total, counts, out=np.full(bins, np.nan), where=counts > 0) for total in sums]
    return Reliability(counts, *means)


def negative_log_likelihood(probabilities, labels):
    """Returns the mean −log probability of the labels, in nats; probabilities below 2.2e-16 count as this number.

    Arguments and errors are those of `reliability`.
    """
    from sklearn.metrics import log_loss

    probabilities, labels = check_probabilities(probabilities, labels)
    probabilities = probabilities / probabilities.sum(1, keepdims=True)  # scikit-learn warns about float32 rounding
    return float(log_loss(labels, probabilities, labels=np.arange(probabilities.shape[1])))


def check_probabilities(probabilities, labels):
    """Returns probabilities (N, Y) as float64, and labels (N,) as int64.

    Raises:
        ValueError: these are not probabilities, or not labels of them.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    if probabilities.ndim != 2 or len(probabilities) == 0 or probabilities.shape[1] < 2:
        raise ValueError(
            "Expected probabilities of shape (examples, classes), at least 1 and 2. "
            f"Received: shape {probabilities.shape}. Pass one row for each example."
        )
    off = np.abs(probabilities.sum(1) - 1)
    wrong = ~((off <= TOLERANCE) & (probabilities >= 0).all(1))  # NaN is wrong too
    if wrong.any():
        raise ValueError(
            f"Expected probabilities of at least 0 that sum to 1 in each row. Received: row {np.argmax(wrong)} is "
            f"{np.array2string(probabilities[np.argmax(wrong)], precision=3, threshold=6)}. Pass the softmax of logits."
        )
    if labels.shape != probabilities.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Expected one integer label for each of {len(probabilities)} rows. "
            f"Received: dtype {labels.dtype}, shape {labels.shape}. Pass class indices."
        )
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(
            f"Expected labels in 0..{probabilities.shape[1] - 1}. Received: labels from {labels.min()} to "
            f"{labels.max()}. Number the classes as the columns of the probabilities."
        )
    return probabilities, labels.astype(np.int64)
