"""The power law of quality over time: exact data, noise, and data that have none."""

import numpy as np
import pytest

from ssl_keras.choosing import curve

TIMES = np.array([1.0, 2.0, 4.0, 8.0, 16.0])


def law(t, a=0.9, b=0.4, c=0.7):
    return a - b * t**-c


def test_an_exact_power_law_is_found():
    found, reason = curve.fit(TIMES, law(TIMES))
    assert not reason
    assert found[:3] == pytest.approx((0.9, 0.4, 0.7), rel=1e-3)
    value, half = found.at(160.0)
    assert value == pytest.approx(law(160.0), abs=1e-4)
    assert half < 1e-3


def test_the_unit_of_time_does_not_matter():
    seconds, hours = (curve.fit(scale * TIMES, law(TIMES))[0] for scale in (60.0, 1 / 60))
    assert seconds.at(60 * 160.0)[0] == pytest.approx(hours.at(160.0 / 60)[0], abs=1e-3)


def test_the_interval_covers_the_truth(rng):
    errors, inside = np.full(len(TIMES), 0.01), []
    for _ in range(100):
        found, _ = curve.fit(TIMES, law(TIMES) + rng.normal(0, 0.01, len(TIMES)), errors)
        if found is not None and np.isfinite(found.at(32.0)[1]):
            value, half = found.at(32.0)
            inside.append(abs(value - law(32.0)) <= half)
    assert len(inside) > 60
    assert np.mean(inside) > 0.8


@pytest.mark.parametrize(
    ("t", "quality", "words"),
    [
        ([1, 2, 4], [0.1, 0.2, 0.3], "A curve needs 4 points, and there are 3"),
        ([1, 2, 4, 8], [0.5, 0.6, 0.5, 0.4], "did not rise"),
    ],
)
def test_a_sentence_says_why_there_is_no_curve(t, quality, words):
    assert words in curve.expectation(t, quality)


def test_expectations_are_sentences():
    shown = curve.expectation(TIMES, law(TIMES), np.full(len(TIMES), 1e-3))
    assert f"{100 * law(16.0):.1f}% now" in shown
    assert "at 10 times the steps" in shown
    # An error of 10 points at each time makes 25 at twice the last one, by the delta method.
    assert "too wide" in curve.expectation(TIMES, law(TIMES), np.full(len(TIMES), 0.1))
    assert "%" not in curve.expectation(TIMES, 10 * law(TIMES), most=np.inf, percent=False)[:12]
