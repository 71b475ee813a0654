"""Losses across views: against loops, closed forms and invariances; test_strategies.py has replicas."""

import numpy as np
import pytest
import tensorflow as tf

from ssl_keras import losses


def pair(rng, rows=7, width=5):
    return (tf.constant(rng.normal(size=(rows, width)), tf.float32) for _ in range(2))


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def slow_nt_xent(first, second, temperature):
    """Chen et al. 2020, equation 1, one anchor and one candidate at a time."""
    rows, result = len(first), []
    views = [*first, *second]
    for i in range(rows):
        both = []
        for anchor, partner in ((i, i + rows), (i + rows, i)):
            scores = {k: np.exp(cosine(views[anchor], views[k]) / temperature) for k in range(2 * rows) if k != anchor}
            both.append(-np.log(scores[partner] / sum(scores.values())))
        result.append(np.mean(both))
    return result


def test_nt_xent_equals_a_slow_loop(rng):
    first, second = pair(rng)
    ours = losses.nt_xent(first, second, tf.ones(7), 0.3)
    np.testing.assert_allclose(ours, slow_nt_xent(first.numpy(), second.numpy(), 0.3), rtol=1e-5)


def test_padding_is_no_candidate(rng):
    first, second = pair(rng)
    weight = tf.constant([1.0, 1, 1, 1, 1, 0, 0])
    ours = losses.nt_xent(first, second, weight, 0.3)[:5]
    np.testing.assert_allclose(ours, losses.nt_xent(first[:5], second[:5], tf.ones(5), 0.3), rtol=1e-5)
    vicreg = losses.vicreg(first, second, weight)[:5]
    np.testing.assert_allclose(vicreg, losses.vicreg(first[:5], second[:5], tf.ones(5)), rtol=1e-5)
    local = tf.constant(rng.normal(size=(7, 3, 5)), tf.float32)
    padded = losses.local_global(first, local, weight, 0.3)[:5]
    np.testing.assert_allclose(padded, losses.local_global(first[:5], local[:5], tf.ones(5), 0.3), rtol=1e-5)


@pytest.mark.parametrize("rows", [2, 9])
def test_identical_rows_give_the_log_of_the_number_of_candidates(rows):
    same = tf.ones((rows, 4))
    np.testing.assert_allclose(losses.nt_xent(same, same, tf.ones(rows), 0.5), np.log(2 * rows - 1), rtol=1e-6)
    local = tf.ones((rows, 3, 4))
    expected = np.log((rows - 1) * 3 + 1)  # the positive, and all positions of the others
    np.testing.assert_allclose(losses.local_global(same, local, tf.ones(rows), 0.5), expected, rtol=1e-6)


def test_orthogonal_examples_have_the_closed_form():
    eye, temperature = tf.eye(6), 0.25
    expected = np.log(np.exp(1 / temperature) + 10) - 1 / temperature
    np.testing.assert_allclose(losses.nt_xent(eye, eye, tf.ones(6), temperature), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss", [lambda a, b, w: losses.nt_xent(a, b, w, 0.2), losses.vicreg])
def test_invariances(rng, loss):
    first, second = pair(rng)
    plain = loss(first, second, tf.ones(7)).numpy()
    np.testing.assert_allclose(loss(second, first, tf.ones(7)), plain, rtol=1e-5)
    order = rng.permutation(7)
    permuted = loss(tf.gather(first, order), tf.gather(second, order), tf.ones(7))
    np.testing.assert_allclose(permuted, plain[order], rtol=1e-5)
    rotation = tf.constant(np.linalg.qr(rng.normal(size=(5, 5)))[0], tf.float32)
    if loss is not losses.vicreg:  # vicreg's variance is per feature
        np.testing.assert_allclose(loss(first @ rotation, second @ rotation, tf.ones(7)), plain, rtol=1e-4)
        np.testing.assert_allclose(loss(3 * first, second / 2, tf.ones(7)), plain, rtol=1e-5)


def test_positives_are_never_negatives(rng):
    """Closer partners lower the loss; if they were negatives too, it would have a limit above 0."""
    first, _ = pair(rng, 6, 64)
    assert losses.nt_xent(first, first, tf.ones(6), 0.01).numpy().max() < 1e-6
    local = tf.repeat(first[:, None], 4, axis=1)
    assert losses.local_global(first, local, tf.ones(6), 0.01).numpy().max() < 1e-6


def test_local_global_equals_a_slow_loop(rng):
    whole, local = rng.normal(size=(5, 4)), rng.normal(size=(5, 3, 4))
    expected = []
    for i in range(5):
        others = sum(np.exp(cosine(whole[i], local[j, q]) / 0.3) for j in range(5) if j != i for q in range(3))
        positive = [np.exp(cosine(whole[i], local[i, p]) / 0.3) for p in range(3)]
        expected.append(np.mean([-np.log(p / (p + others)) for p in positive]))
    ours = losses.local_global(tf.constant(whole), tf.constant(local), tf.ones(5), 0.3)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_vicreg_equals_a_slow_loop(rng):
    first, second = rng.normal(size=(8, 3)) * 0.5, rng.normal(size=(8, 3))
    apart = np.mean([(a - b) ** 2 for a, b in zip(first, second)])
    spread = together = 0.0
    for view in (first, second):
        spread += np.mean([max(0, 1 - np.sqrt(view[:, d].var(ddof=1) + 1e-4)) for d in range(3)]) / 2
        covariance = np.cov(view, rowvar=False)
        together += sum(covariance[i, j] ** 2 for i in range(3) for j in range(3) if i != j) / 3
    ours = losses.vicreg(tf.constant(first), tf.constant(second), tf.ones(8))
    assert np.mean(ours) == pytest.approx(25 * apart + 25 * spread + together, rel=1e-5)


def test_vicreg_is_zero_where_all_is_well():
    """The loss is 0 for equal views whose features have variance 1 and are decorrelated."""
    x = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    assert losses.vicreg(tf.constant(x), tf.constant(x), tf.ones(4)).numpy() == pytest.approx(np.zeros(4), abs=1e-6)
    collapsed = losses.vicreg(tf.ones((4, 2)), tf.ones((4, 2)), tf.ones(4)).numpy()
    assert collapsed == pytest.approx(25 * 0.99 * np.ones(4), rel=1e-5)  # the standard deviation is √1e-4


def slow_sigreg(views, slices):
    """The Epps-Pulley statistic, one view, slice and frequency at a time, in float64."""
    frequencies, found = np.linspace(-3, 3, 33), []
    for view in views:
        for direction in slices.T:
            x = view @ direction
            error = [abs(np.mean(np.exp(1j * t * x)) - np.exp(-(t**2) / 2)) ** 2 for t in frequencies]
            found.append(len(x) * np.trapezoid(error * np.exp(-(frequencies**2) / 2), frequencies))
    return np.mean(found)


def lejepa_case(rng, views=3, rows=7):
    slices = losses.unit_slices((1, 2), 5, 6)
    return tf.constant(rng.normal(size=(views, rows, 5)), tf.float32), slices


def test_sigreg_equals_a_slow_loop(rng):
    views, slices = lejepa_case(rng)
    ours = losses.sigreg(views, tf.ones(7), slices)
    np.testing.assert_allclose(ours, slow_sigreg(views.numpy().astype(float), slices.numpy().astype(float)), rtol=1e-4)


def test_sigreg_of_collapsed_features_has_the_closed_form():
    """All projections 0: the characteristic function is 1, and the integral of (1 − e^(−t²/2))²·e^(−t²/2) is left."""
    t = np.linspace(-3, 3, 33)
    expected = 9 * np.trapezoid((1 - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2), t)
    ours = losses.sigreg(tf.zeros((2, 9, 4)), tf.ones(9), losses.unit_slices((0, 0), 4, 3))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_sigreg_is_small_for_a_gaussian_and_does_not_depend_on_the_order(rng):
    views = tf.constant(rng.normal(size=(1, 2000, 5)), tf.float32)
    slices = losses.unit_slices((0, 1), 5, 20)
    ours = float(losses.sigreg(views, tf.ones(2000), slices))
    assert ours < 3  # its expectation does not grow with the number of examples
    assert float(losses.sigreg(3 * views, tf.ones(2000), slices)) > 20 * ours
    assert float(losses.sigreg(tf.reverse(views, [1]), tf.ones(2000), slices)) == pytest.approx(ours, rel=1e-3)


def test_lejepa_is_invariance_and_sigreg(rng):
    views, slices = lejepa_case(rng)
    weight = tf.constant([1.0, 1, 1, 1, 1, 0, 0])
    ours = losses.lejepa(views, 2, weight, slices, 0.3)
    x = views.numpy()
    invariance = ((x - x[:2].mean(0)) ** 2).mean((0, 2))
    regularizer = slow_sigreg(x[:, :5].astype(float), slices.numpy().astype(float))  # without padding
    np.testing.assert_allclose(ours[:5], (0.7 * invariance + 0.3 * regularizer)[:5], rtol=1e-4)
    same = tf.tile(views[:1], (3, 1, 1))
    only = losses.lejepa(same, 2, weight, slices, 1.0) * 0.3
    np.testing.assert_allclose(losses.lejepa(same, 2, weight, slices, 0.3), only, rtol=1e-5)


def test_slices_are_unit_columns_of_a_seed():
    slices = losses.unit_slices((3, 4), 8, 100)
    np.testing.assert_allclose(tf.norm(slices, axis=0), np.ones(100), rtol=1e-5)
    np.testing.assert_array_equal(slices, losses.unit_slices((3, 4), 8, 100))
    assert np.abs(slices - losses.unit_slices((3, 5), 8, 100)).max() > 0.1


@pytest.mark.slow  # test_sigreg_equals_a_slow_loop
def test_lightly_agrees_on_lejepa(rng, monkeypatch):
    torch = pytest.importorskip("torch")
    from lightly.loss.lejepa_loss import LeJEPALoss

    views, slices = tf.constant(rng.normal(size=(5, 32, 8)), tf.float32), losses.unit_slices((0, 7), 8, 64)
    theirs = LeJEPALoss(lambda_param=0.05, sigreg_num_vectors=64)
    given = torch.tensor(slices.numpy())
    monkeypatch.setattr(theirs.sigreg, "_generate_unit_vectors", lambda *arguments: given)
    x = torch.tensor(views.numpy())
    expected = theirs(local_proj=x[2:], global_proj=x[:2])
    ours = tf.reduce_mean(losses.lejepa(views, 2, tf.ones(32), slices, 0.05))
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_lightly_agrees(rng):
    torch = pytest.importorskip("torch")
    from lightly.loss import NTXentLoss, VICRegLoss

    first, second = rng.normal(size=(16, 32)).astype(np.float32), rng.normal(size=(16, 32)).astype(np.float32)
    a, b = tf.Variable(first), tf.Variable(second)
    p, q = (torch.tensor(x, requires_grad=True) for x in (first, second))
    for ours, theirs in (
        (lambda: losses.nt_xent(a, b, tf.ones(16), 0.2), NTXentLoss(temperature=0.2)),
        (lambda: losses.vicreg(a, b, tf.ones(16)), VICRegLoss()),
    ):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(ours())
        value = theirs(p, q)
        p.grad = q.grad = None
        value.backward()
        assert float(loss) == pytest.approx(float(value), rel=1e-5)
        for mine, other in zip(tape.gradient(loss, [a, b]), (p.grad, q.grad)):
            np.testing.assert_allclose(mine, other.numpy(), atol=1e-5)


def slow_uniformity(x):
    """Wang & Isola 2020, equation 4, one pair at a time."""
    pairs = [np.exp(-2 * np.sum((a - b) ** 2)) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    return np.log(np.mean(pairs))


def test_uniformity_equals_a_slow_loop(rng):
    x = losses.l2_normalize(tf.constant(rng.normal(size=(7, 5)), tf.float32))
    np.testing.assert_allclose(losses.uniformity(x, tf.ones(7)), slow_uniformity(x.numpy()), rtol=1e-5)
    padded = losses.uniformity(x, tf.constant([1.0, 2, 1, 1, 1, 0, 0]))
    np.testing.assert_allclose(padded, slow_uniformity(x[:5].numpy()), rtol=1e-5)


def test_uniformity_has_closed_forms():
    same, opposite = tf.constant([[0.6, 0.8]] * 4), tf.constant([[0.6, 0.8], [-0.6, -0.8]])
    np.testing.assert_allclose(losses.uniformity(same, tf.ones(4)), 0, atol=1e-5)
    np.testing.assert_allclose(losses.uniformity(opposite, tf.ones(2)), -8, rtol=1e-5)
    assert float(losses.uniformity(opposite, tf.constant([1.0, 0.0]))) == 0  # no pair
