"""Distances between sets of features: closed forms, and what must not change them."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ssl_keras.data.splits import from_arrays
from ssl_keras.evaluation import generative


def test_frechet_of_one_set_with_itself_is_zero(rng):
    x = rng.normal(size=(200, 8))
    assert generative.frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    few = rng.normal(size=(5, 8))  # a covariance without full rank
    assert generative.frechet_distance(few, few) == pytest.approx(0, abs=1e-6)


def test_frechet_of_gaussians_is_the_closed_form(rng):
    """Exact moments: ‖shift‖² + Σ (a − b)² for commuting covariances of standard deviations a and b."""
    x = rng.normal(size=(500, 4))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    a, b, shift = np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 1, 5]), np.array([1.0, 0, -2, 0.5])
    expected = np.sum(shift**2) + np.sum((a - b) ** 2)
    assert generative.frechet_distance(x * a, x * b + shift) == pytest.approx(expected, rel=1e-9)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert generative.frechet_distance(x * a @ turn, (x * b + shift) @ turn) == pytest.approx(expected, rel=1e-9)
    other = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4))  # covariances that do not commute
    covariances = [np.cov(z, rowvar=False) for z in (x * a, other)]
    plain = np.sum(((x * a).mean(0) - other.mean(0)) ** 2)
    plain += np.trace(covariances[0] + covariances[1] - 2 * sqrtm(covariances[0] @ covariances[1]).real)
    assert generative.frechet_distance(x * a, other) == pytest.approx(plain, rel=1e-7)


def test_kernel_distance_against_loops_and_unbiased(rng):
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 3)) + 1

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    def within(z):
        return np.mean([kernel(z[i], z[j]) for i in range(12) for j in range(12) if i != j])

    expected = within(x) + within(y) - 2 * np.mean([[kernel(a, b) for b in y] for a in x])
    assert generative.squared_mmd(x, y) == pytest.approx(expected, rel=1e-9)
    _, sd = generative.kernel_distance(x, y)  # draws of half of them: they differ
    assert sd > 0
    same = [generative.kernel_distance(*rng.normal(size=(2, 300, 4)))[0] for _ in range(20)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(20)
    assert generative.kernel_distance(rng.normal(size=(300, 4)), rng.normal(size=(300, 4)) + 1)[0] > 10 * np.std(same)


def test_precision_and_recall(rng):
    x = rng.normal(size=(400, 2))
    assert generative.precision_recall(x, x) == (1.0, 1.0)
    far = x + 100
    assert generative.precision_recall(x, far) == (0.0, 0.0)
    one = np.repeat(x[:1], 400, axis=0) + 1e-3 * rng.normal(size=(400, 2))  # sharp, and all alike
    precision, recall = generative.precision_recall(x, one)
    assert precision == 1.0
    assert recall < 0.05


def test_modes():
    real = np.repeat(np.arange(4), 25)
    assert generative.class_coverage(real, real, 4) == (4, pytest.approx(1.0))
    covered, most = generative.class_coverage(real, np.array([0] * 98 + [1] * 2), 4)
    assert covered == 1  # two in a hundred are less than a tenth of a quarter
    assert most == pytest.approx(0.98 / 0.25)
    absent = generative.class_coverage(np.zeros(10, int), np.repeat(np.arange(4), 25), 4)
    assert absent == (1, pytest.approx(0.25))  # what is no class of the real images does not count


def test_a_generator_that_has_learned_by_heart_is_seen(rng):
    """Features are the pixels here."""

    class Eye:
        card = {"classes": ["a", "b"]}

        def features(self, image):
            return image.reshape(len(image), -1)

        def classes(self, features):
            return (features[:, 0] > 0.5).astype(int)

    images = rng.random((300, 2, 2, 1)).astype(np.float32)
    splits = from_arrays(images)
    table = generative.measure(Eye(), splits.train.column("image"), splits)
    assert table["made"]["distance to the nearest learned"] == 0
    assert table["real"]["distance to the nearest learned"] > 0.01
    table = generative.measure(Eye(), rng.random((300, 2, 2, 1)).astype(np.float32), splits)
    made, real = (table[row]["distance to the nearest learned"] for row in ("made", "real"))
    assert made == pytest.approx(real, rel=0.3)
    with pytest.raises(ValueError, match="Expected more than 6 generated images"):
        generative.measure(Eye(), images[:3], splits)


def test_nearest(rng):
    known = rng.normal(size=(50, 3))
    distance, index = generative.nearest_neighbors(known, known[[7, 9]] + 1e-6, 2)
    assert index[:, 0].tolist() == [7, 9]
    assert (distance[:, 0] < distance[:, 1]).all()
