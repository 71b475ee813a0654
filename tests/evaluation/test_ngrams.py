"""N-grams against counting by hand, and on a text whose next tokens are known."""

import collections

import numpy as np
import pytest

from ssl_keras.evaluation import ngrams

V = 4


def by_hand(train, test, place, n, horizon, start):
    """P_n of the test token at a place: the recursion of the docstring, with a dictionary."""
    if n == 0:
        return 1 / V

    def context(tokens, i):
        return tuple(tokens[i - horizon - n + 2 : i - horizon + 1])

    after = collections.Counter(train[i] for i in range(start, len(train)) if context(train, i) == context(test, place))
    lower = by_hand(train, test, place, n - 1, horizon, start)
    if not after:
        return lower
    return (after[test[place]] + len(after) * lower) / (sum(after.values()) + len(after))


@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_is_counting_by_hand(horizon):
    rng = np.random.default_rng(0)
    train, test = rng.choice(V, 60, p=[0.5, 0.3, 0.15, 0.05]).tolist(), rng.choice(V, 20).tolist()
    order = 3
    start = order - 2 + horizon
    losses = ngrams.cross_entropies(train, test, V, order, horizon)
    for n in range(order + 1):
        expected = [-np.log(by_hand(train, test, i, n, horizon, start)) for i in range(start, len(test))]
        assert losses[n] == pytest.approx(np.mean(expected))


def test_a_cycle_is_known_at_every_horizon():
    cycle = np.tile(np.arange(V), 500)
    for horizon in (1, 2, 5):
        uniform, unigram, bigram = ngrams.cross_entropies(cycle, cycle[:100], V, 2, horizon)
        assert unigram == pytest.approx(uniform, abs=0.01)
        assert bigram < 0.02


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(ValueError, match="Use a lower order"):
        ngrams.cross_entropies([0, 1], [0, 1], 1 << 20, 4)
    with pytest.raises(ValueError, match="more than"):
        ngrams.cross_entropies([0, 1], [0, 1], V, 3)
