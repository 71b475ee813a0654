"""Paired differences against SciPy's paired t test, a slow loop, closed forms and invariances."""

import numpy as np
import pytest
from scipy import stats

from ssl_keras.evaluation.paired import paired_difference


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_equals_the_paired_t_test(count, rng):
    first, second = rng.uniform(size=(2, count))
    for confidence in (0.95, 0.8):
        found = paired_difference(first, second, confidence)
        expected = stats.ttest_rel(first, second).confidence_interval(confidence)
        assert found.interval == pytest.approx((expected.low, expected.high))
        assert found.mean == pytest.approx(np.mean(first) - np.mean(second))
        assert found.count == count


def test_closed_form_and_slow_loop():
    first, second = [0.75, 0.5, 0.25], [0.5, 0.5, 0.5]  # differences 0.25, 0, -0.25: mean 0, sd 0.25
    found = paired_difference(first, second)
    low, high = found.interval
    assert found.mean == 0
    assert high == -low == pytest.approx(4.302653 * 0.25 / 3**0.5, rel=1e-6)  # the 97.5% quantile of t, 2 degrees
    mean = sum(a - b for a, b in zip(first, second)) / 3
    variance = sum((a - b - mean) ** 2 for a, b in zip(first, second)) / 2
    assert high == pytest.approx(4.302653 * (variance / 3) ** 0.5, rel=1e-6)


def test_one_seed_has_no_interval():
    assert paired_difference([0.75], [0.5]) == (0.25, None, 1)


@pytest.mark.filterwarnings("error")
def test_constant_differences_have_no_width():
    assert paired_difference([0.5, 0.25, 0.75], [0.25, 0, 0.5]) == (0.25, (0.25, 0.25), 3)
    assert paired_difference([0.1, 0.2], [0.1, 0.2]) == (0, (0, 0), 2)
    rounded = paired_difference([0.5, 0.6, 0.7], [0.4, 0.5, 0.6])
    assert rounded.interval == pytest.approx((0.1, 0.1), abs=1e-12)


def test_swaps_and_shifts(rng):
    first, second = rng.uniform(size=(2, 5))
    found, order = paired_difference(first, second), rng.permutation(5)
    assert paired_difference(second, first).interval == pytest.approx([-end for end in found.interval[::-1]])
    assert paired_difference(first[order], second[order]).interval == pytest.approx(found.interval)
    both = rng.uniform(size=5)  # a seed that is easier for both rows changes nothing
    assert paired_difference(first + both, second + both).interval == pytest.approx(found.interval)


def test_the_interval_contains_the_true_mean_as_often_as_it_says(rng):
    samples = rng.normal(0.02, 0.01, (500, 5))
    intervals = [paired_difference(sample, np.zeros(5)).interval for sample in samples]
    assert np.mean([low <= 0.02 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([0.1, 0.2], [0.1], r"Received: shapes \(2,\) and \(1,\). Measure both rows"),
        ([], [], r"Received: shapes \(0,\)"),
        (0.1, 0.2, r"Received: shapes \(\)"),
        ([0.1, np.nan], [0.1, 0.2], "Expected finite numbers. Received: .0.1, nan."),
    ],
)
def test_bad_input_is_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(first, second)
