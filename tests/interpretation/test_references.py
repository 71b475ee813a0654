"""Methods against slow NumPy references, closed forms, and captum."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.evaluation.probes import fit_probe
from ssl_keras.interpretation import (
    Explained,
    areas,
    curves,
    gradient_x_input,
    integrated_gradients,
    most_exciting,
    occlude_windows,
    of_probe,
    of_similarity,
    principal_colors,
    random_areas,
    sanity_check,
    similarities,
)
from ssl_keras.interpretation import units as parts
from ssl_keras.interpretation.faithfulness import correlations
from ssl_keras.interpretation.occlusion import windows
from ssl_keras.interpretation.outputs import probabilities


@pytest.fixture(scope="module")
def network():
    """A small smooth network of images."""
    keras.utils.set_random_seed(3)
    image = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(3, 3, padding="same", activation="tanh", name="first")(image)
    x = keras.layers.Dense(8, activation="tanh", name="second")(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(3, name="third")(x))


@pytest.fixture(scope="module")
def explained(network):
    return Explained(network, missing=0.2)


@pytest.fixture
def images(rng):
    return rng.uniform(0, 1, (2, 6, 6, 2)).astype(np.float32)


INDEX = np.array([2, 0])


def test_gradients_are_differences(explained, images):
    """Central differences of the score along single pixels, in float32."""
    slope = explained.gradient(images, images, INDEX)[1]
    for row, column, channel in [(0, 0, 0), (3, 2, 1), (5, 5, 0)]:
        change = np.zeros_like(images)
        change[:, row, column, channel] = 1e-2
        up, down = (explained.scores(images, images + sign * change)[[0, 1], INDEX] for sign in (1, -1))
        np.testing.assert_allclose((up - down) / 2e-2, slope[:, row, column, channel], atol=1e-3)


def test_integrated_gradients_are_a_sum_over_the_path(explained, images):
    expected = np.zeros((2, 6, 6))
    for step in range(200):
        x = 0.2 + np.float32((step + 0.5) / 200) * (images - 0.2)
        expected += ((images - 0.2) * explained.gradient(images, x, INDEX)[1]).sum(-1) / 200
    np.testing.assert_allclose(integrated_gradients(explained, images, INDEX, 200, np.inf), expected, atol=1e-5)
    np.testing.assert_allclose(integrated_gradients(explained, images, INDEX, tolerance=1e-4), expected, atol=1e-3)


def test_methods_do_not_depend_on_the_batch(explained, images):
    for method in (gradient_x_input, integrated_gradients):
        both = method(explained, images, INDEX)
        alone = np.concatenate([method(explained, images[i : i + 1], INDEX[i : i + 1]) for i in range(2)])
        np.testing.assert_allclose(both, alone, atol=1e-5)


def test_occlusion_is_a_loop_over_windows(explained, images):
    whole, total, weight = explained.scores(images)[[0, 1], INDEX], np.zeros((2, 6, 6)), np.zeros((6, 6))
    for top in (0, 2, 4):
        for left in (0, 2, 4):
            changed = images.copy()
            changed[:, top : top + 3, left : left + 3] = 0.2
            fall = whole - explained.scores(changed)[[0, 1], INDEX]
            total[:, top : top + 3, left : left + 3] += fall[:, None, None]
            weight[top : top + 3, left : left + 3] += 1
    np.testing.assert_allclose(occlude_windows(explained, images, INDEX, 3, 2), total / weight, atol=1e-5)


def test_windows_cover_all_and_refuse_what_does_not_fit():
    assert windows((5,), 2, 2).sum(0).tolist() == [1] * 5
    for size, stride in ((7, 1), (2, 3), (0, 1)):
        with pytest.raises(ValueError, match="Expected windows of 1 to 6 positions"):
            windows((6, 6), size, stride)


def test_curves_of_a_sum_are_known():
    """Where the score is the sum of ten pixels with values 1 … 10, removing the largest first is the best order."""
    image = keras.Input((1, 10, 1))
    network = keras.Model(image, keras.layers.Dense(1, kernel_initializer="ones")(keras.layers.Flatten()(image)))
    x = np.float32(np.random.default_rng(0).permutation(10) + 1).reshape(1, 1, 10, 1)
    explained, units = Explained(network), parts.pixels(np.ones((1, 1, 10), bool))
    values = x.reshape(1, 10)
    found = curves(explained, x, [0], values, units, steps=10)
    expected = 55 - np.cumsum([0, *range(10, 0, -1)])
    np.testing.assert_allclose(found["deletion"], expected[None], atol=1e-4)
    np.testing.assert_allclose(found["insertion"], 55 - expected[None], atol=1e-4)
    worst, best = (areas(explained, x, [0], sign * values, units, steps=10) for sign in (-1, 1))
    drawn = random_areas(explained, x, [0], units, steps=10, orders=8)
    assert best["deletion"] < drawn["deletion"] < worst["deletion"]
    assert best["insertion"] > drawn["insertion"] > worst["insertion"]
    assert best["deletion"][0] == pytest.approx(np.trapezoid(expected) / 10)


def test_maps_that_ignore_the_weights_are_found(network, explained, images):
    before = [v.numpy() for v in network.variables]
    learned = sanity_check(network, lambda: gradient_x_input(explained, images, INDEX))
    fixed = sanity_check(network, lambda: np.abs(np.diff(images[..., 0], axis=1)))  # an edge detector
    assert list(learned) == ["third", "second", "first"]
    assert abs(learned["first"]) < 0.5
    assert fixed["first"] == pytest.approx(1)
    with pytest.raises(RuntimeError):
        sanity_check(network, lambda: (_ for _ in ()).throw(RuntimeError), reference=images)
    for variable, value in zip(network.variables, before):
        np.testing.assert_array_equal(variable, value)


def test_correlations_leave_out_what_is_0_in_both():
    a = np.array([[0, 0, 1, 2, 3], [0, 0, 1, 2, 3], [1, 1, 1, 1, 1]])
    b = np.array([[0, 0, 3, 2, 1], [0, 0, 10, 20, 90], [1, 2, 3, 4, 5]])
    np.testing.assert_allclose(correlations(a, b), [-1, 1, 0])


def test_units_are_shared_and_summed():
    units = np.array([[0, 0, 1, -1], [0, 1, 2, 2]])
    values = np.array([[1, 2, 3, 9], [1, 2, 3, 4]])
    np.testing.assert_array_equal(parts.totals(values, units), [[3, 3, 0], [1, 2, 7]])
    np.testing.assert_array_equal(
        parts.spread(parts.totals(values, units), units), [[1.5, 1.5, 3, 0], [1, 2, 3.5, 3.5]]
    )
    assert parts.counts(units).tolist() == [2, 3]
    valid = np.ones((1, 4, 4), bool)
    assert parts.pixels(valid, 2)[0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert parts.frames(np.array([[1, 1, 1, 1, 1, 0]], bool), 2)[0].tolist() == [0, 0, 1, 1, 2, -1]


def test_similarity_is_the_cosine(images, network):
    features = network(images).numpy()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    output = of_similarity(network, 5 * features)
    np.testing.assert_allclose(output.graph(images), unit @ unit.T, atol=1e-5)
    slope = Explained(output.graph).gradient(images, images, [0, 1])[1]
    assert np.abs(slope).max() < 1e-4  # an example is most similar to itself
    with pytest.raises(ValueError, match=r"Expected references of shape \(K, 3\)"):
        of_similarity(network, np.ones((2, 4)))


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 3]])
def test_a_probe_has_its_probabilities(classes, network, rng):
    """The graph's softmax is scikit-learn's, also for two classes and for a class without examples."""
    images, labels = rng.uniform(0, 1, (30, 6, 6, 2)).astype(np.float32), np.array(classes * 30)[:30]
    features = network(images).numpy()
    probe, _ = fit_probe(features, labels, features, labels, (1.0,))
    output = of_probe(network, probe, ["a", "b", "c", "d"])
    scores = output.graph(images).numpy()
    expected = np.zeros((30, 4))
    expected[:, classes] = probe.predict_proba(features)
    np.testing.assert_allclose(probabilities(output, scores), expected, atol=1e-4)
    assert (np.abs(Explained(output.graph).gradient(images, images, labels)[1]).max((1, 2, 3)) > 0).all()


def test_colors_of_places_have_one_basis(rng):
    """Two groups of places, over all images, differ in the first component; rotating the features changes nothing."""
    maps = rng.normal(0, 0.01, (4, 3, 3, 5)).astype(np.float32)
    maps[:2, ..., 2] += 1
    maps[2:, ..., 2] -= 1
    colors = principal_colors(maps)
    assert colors.shape == (4, 3, 3, 3)
    assert abs(colors[:2, ..., 0].mean() - colors[2:, ..., 0].mean()) > 0.9
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    turned = principal_colors(maps @ np.float32(rotation))
    same = np.minimum(np.abs(turned - colors).mean((0, 1, 2)), np.abs(1 - turned - colors).mean((0, 1, 2)))
    assert (same < 1e-3).all()  # up to the sign of each component
    valid = np.ones(maps.shape[:-1], bool)
    valid[0, 0, 0] = False
    assert (principal_colors(maps, valid)[0, 0, 0] == 0).all()
    alike = similarities(maps, 0, (1, 1))
    assert alike[0, 1, 1] == pytest.approx(1, abs=1e-6)
    assert (alike[:2] > 0.9).all()
    assert (alike[2:] < -0.9).all()


def test_the_most_exciting_come_first():
    features = np.array([[0.0, 5], [3, 1], [2, 9], [3, 0]])
    assert most_exciting(features, 0, 3).tolist() == [1, 3, 2]
    assert most_exciting(features, 1, 1).tolist() == [2]


@pytest.mark.slow
def test_captum_agrees(network, explained, images):
    """The same network in PyTorch; `test_integrated_gradients_are_a_sum_over_the_path` is the part of `make test`."""
    torch = pytest.importorskip("torch")
    attr = pytest.importorskip("captum.attr")
    first, second, third = (network.get_layer(name) for name in ("first", "second", "third"))

    class Same(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (
                torch.nn.Conv2d(2, 3, 3, 1, 1),
                torch.nn.Linear(108, 8),
                torch.nn.Linear(8, 3),
            )
            with torch.no_grad():
                self.first.weight.copy_(torch.tensor(first.kernel.numpy().transpose(3, 2, 0, 1)))
                self.first.bias.copy_(torch.tensor(first.bias.numpy()))
                for mine, theirs in ((second, self.second), (third, self.third)):
                    theirs.weight.copy_(torch.tensor(mine.kernel.numpy().T))
                    theirs.bias.copy_(torch.tensor(mine.bias.numpy()))

        def forward(self, x):
            x = torch.tanh(self.first(x)).permute(0, 2, 3, 1).reshape(len(x), -1)
            return self.third(torch.tanh(self.second(x)))

    same, x = Same().eval(), torch.tensor(images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(same(x).detach(), network(images), atol=1e-5)
    baseline, target = torch.full_like(x, 0.2), torch.tensor(INDEX)
    theirs = attr.IntegratedGradients(same).attribute(x, baseline, target, n_steps=64, method="riemann_middle")
    ours = integrated_gradients(explained, images, INDEX, 64, np.inf)
    np.testing.assert_allclose(ours, theirs.detach().sum(1), atol=1e-4)
    exact = attr.IntegratedGradients(same).attribute(x, baseline, target, n_steps=200)
    np.testing.assert_allclose(
        integrated_gradients(explained, images, INDEX, 64, 1e-6, 4096), exact.detach().sum(1), atol=1e-4
    )
    for size, stride in ((1, 1), (3, 2), (2, 2)):
        theirs = attr.Occlusion(same).attribute(x, (2, size, size), (2, stride, stride), baseline, target)
        ours = occlude_windows(explained, images, INDEX, size, stride)
        np.testing.assert_allclose(ours, theirs.detach()[:, 0], atol=1e-4)
    theirs = attr.InputXGradient(same).attribute(x.requires_grad_(), target)
    np.testing.assert_allclose(gradient_x_input(Explained(network), images, INDEX), theirs.detach().sum(1), atol=1e-4)


def test_a_network_without_scores_is_refused():
    tokens = keras.Input((None,), dtype="int32")
    states = keras.Model(tokens, keras.layers.Embedding(5, 4)(tokens))
    with pytest.raises(ValueError, match="Expected a network with scores"):
        Explained(states)
    assert tf.is_tensor(states(np.zeros((1, 2), np.int32)))
