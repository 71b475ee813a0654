"""What side-by-side measurements share."""

import numpy as np
import pytest
import scripts


@pytest.fixture(scope="module")
def contenders():
    return scripts.benchmark("contenders")


@pytest.mark.parametrize(("count", "left_out"), [(1, 0), (3, 0), (5, 0), (8, 0), (9, 1), (12, 2), (21, 5)])
def test_an_interval_leaves_out_as_many_as_its_confidence_allows(contenders, count, left_out, rng):
    ratios = list(rng.permutation(count))
    assert contenders.interval(ratios) == {"median": (count - 1) / 2, "low": left_out, "high": count - 1 - left_out}


@pytest.mark.parametrize("count", [5, 9, 21])
def test_an_interval_holds_the_true_median(contenders, count, rng):
    """Of a skewed law, in fifteen of sixteen draws or more."""
    random = rng.exponential(size=(4_000, count))
    held = [found["low"] <= np.log(2) <= found["high"] for found in map(contenders.interval, random)]
    assert np.mean(held) > 15 / 16 - 0.012  # three standard errors
