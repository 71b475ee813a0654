"""Calibration against a slow loop, scikit-learn, closed forms and invariances."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from ssl_keras.evaluation.calibration import BINS, negative_log_likelihood, reliability


@pytest.fixture
def predictions(rng):
    """Overconfident probabilities (400, 5) and labels."""
    logits, labels = rng.normal(size=(400, 5)), rng.integers(0, 5, 400)
    logits[np.arange(400), labels] += 1
    odds = np.exp(3 * logits)
    return odds / odds.sum(1, keepdims=True), labels


def test_equals_a_slow_loop(predictions):
    probabilities, labels = predictions
    found, error = reliability(probabilities, labels), 0.0
    for k in range(BINS):
        rows = [i for i in range(400) if k / BINS < max(probabilities[i]) <= (k + 1) / BINS]
        assert found.counts[k] == len(rows)
        if not rows:
            assert np.isnan([found.accuracy[k], found.confidence[k]]).all()
            continue
        accuracy = sum(np.argmax(probabilities[i]) == labels[i] for i in rows) / len(rows)
        confidence = sum(max(probabilities[i]) for i in rows) / len(rows)
        assert found.accuracy[k] == pytest.approx(accuracy)
        assert found.confidence[k] == pytest.approx(confidence)
        error += len(rows) / 400 * abs(accuracy - confidence)
    assert 0.05 < error < 0.6
    assert found.expected_calibration_error == pytest.approx(error)
    assert found.mean_accuracy == np.mean(probabilities.argmax(1) == labels)
    assert found.mean_confidence == pytest.approx(probabilities.max(1).mean())
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(
        -sum(np.log(probabilities[i, labels[i]]) for i in range(400)) / 400
    )


def test_equals_scikit_learn(predictions):
    probabilities, labels = predictions
    found = reliability(probabilities, labels)
    correct = probabilities.argmax(1) == labels
    accuracy, confidence = calibration_curve(correct, probabilities.max(1), n_bins=BINS)
    used = found.counts > 0
    np.testing.assert_allclose(found.accuracy[used], accuracy)
    np.testing.assert_allclose(found.confidence[used], confidence)


def test_closed_forms():
    certain = np.eye(4)[[0, 1, 2, 3]]
    assert reliability(certain, np.array([1, 2, 3, 0])).expected_calibration_error == 1  # always wrong
    assert reliability(certain, np.arange(4)).expected_calibration_error == 0
    assert negative_log_likelihood(certain, np.arange(4)) == pytest.approx(0, abs=1e-12)
    assert negative_log_likelihood(certain, np.array([1, 2, 3, 0])) == pytest.approx(52 * np.log(2))  # 2.2e-16
    even = np.full((6, 3), 1 / 3)
    assert reliability(even, np.array([0, 1, 2] * 2)).expected_calibration_error == pytest.approx(0, abs=1e-12)
    assert negative_log_likelihood(even, np.zeros(6, int)) == pytest.approx(np.log(3))
    # 8 of 10 are right at 0.8, and 3 of 10 at 0.6: half of the examples are off by 0.3.
    mixed = np.array([[0.8, 0.2]] * 10 + [[0.6, 0.4]] * 10)
    labels = np.array([0] * 8 + [1] * 2 + [0] * 3 + [1] * 7)
    assert reliability(mixed, labels).expected_calibration_error == pytest.approx(0.15)
    # 10 of 10 are right at 0.8, and 4 of 10 at 0.6: errors of both signs do not cancel.
    labels = np.array([0] * 14 + [1] * 6)
    assert reliability(mixed, labels).expected_calibration_error == pytest.approx(0.2)


def test_a_bin_contains_its_upper_edge():
    edges = np.linspace(0, 1, BINS + 1)[8:]  # from 8/15, since the higher of two probabilities is above a half
    found = reliability(np.stack([edges, 1 - edges], 1), np.zeros(len(edges), int))
    assert found.counts.tolist() == [0] * 7 + [1] * 8
    np.testing.assert_allclose(found.confidence[7:], edges)


def test_labels_drawn_from_the_probabilities_are_calibrated(rng):
    probabilities = rng.dirichlet(np.full(4, 0.5), 100_000)
    labels = (rng.uniform(size=(100_000, 1)) > probabilities.cumsum(1)[:, :-1]).sum(1)
    assert reliability(probabilities, labels).expected_calibration_error < 0.01
    sharpened = probabilities**3 / (probabilities**3).sum(1, keepdims=True)
    assert reliability(sharpened, labels).expected_calibration_error > 0.1


def test_order_does_not_matter(predictions, rng):
    probabilities, labels = predictions
    order, classes = rng.permutation(400), rng.permutation(5)
    expected, nll = reliability(probabilities, labels), negative_log_likelihood(probabilities, labels)
    for p, y in ((probabilities[order], labels[order]), (probabilities[:, classes], np.argsort(classes)[labels])):
        found = reliability(p, y)
        np.testing.assert_array_equal(found.counts, expected.counts)
        np.testing.assert_allclose(found.accuracy, expected.accuracy)
        assert found.expected_calibration_error == pytest.approx(expected.expected_calibration_error)
        assert negative_log_likelihood(p, y) == pytest.approx(nll)


@pytest.mark.filterwarnings("error")
def test_single_and_half_precision(predictions):
    """Rows whose sum is off by rounding, and confidences above 1, are taken as they are."""
    probabilities, labels = predictions
    for dtype in (np.float32, np.float16):
        found = reliability(probabilities.astype(dtype), labels)
        assert found.expected_calibration_error == pytest.approx(
            reliability(probabilities, labels).expected_calibration_error, abs=0.02
        )
        assert np.isfinite(negative_log_likelihood(probabilities.astype(dtype), labels))
    above = np.array([[np.nextafter(np.float32(1), np.float32(2)), 0]], np.float32)
    assert reliability(above, np.array([0])).counts.tolist() == [0] * 14 + [1]


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[2.0, -1.0], [0.5, 0.5]], [0, 1], r"Received: row 0 is \[ 2. -1.\]. Pass the softmax"),
        ([[0.5, 0.5], [0.5, np.nan]], [0, 1], r"Received: row 1 is \[0.5 nan\]"),
        ([[0.7, 0.7]], [0], "sum to 1 in each row"),
        ([0.5, 0.5], [0, 1], r"Received: shape \(2,\)"),
        (np.zeros((0, 3)), np.zeros(0, int), r"Received: shape \(0, 3\)"),
        ([[1.0]], [0], r"Received: shape \(1, 1\)"),
        ([[0.5, 0.5]], [0, 1], r"one integer label for each of 1 rows. Received: dtype int64, shape \(2,\)"),
        ([[0.5, 0.5]], [0.0], "Received: dtype float64"),
        ([[0.5, 0.5]] * 2, [0, 2], r"Expected labels in 0..1. Received: labels from 0 to 2"),
        ([[0.5, 0.5]], [-1], "Received: labels from -1 to -1"),
    ],
)
def test_bad_input_is_refused(probabilities, labels, message):
    for measure in (reliability, negative_log_likelihood):
        with pytest.raises(ValueError, match=message):
            measure(np.array(probabilities), np.array(labels))
