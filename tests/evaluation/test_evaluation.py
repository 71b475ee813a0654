"""Evaluation against slow references, closed forms and invariances."""

import numpy as np
import pytest

from ssl_keras.data.splits import Source, images
from ssl_keras.evaluation import collapse, probes, retrieval
from ssl_keras.evaluation.features import (
    NOISE,
    add_noise,
    compile_network,
    crop_images,
    evenly_spaced,
    extract_features,
    length_groups,
    pixels,
    shift_images,
)
from ssl_keras.networks import Network
from ssl_keras.networks.dense import dense_encoder


def test_knn_equals_a_slow_loop(rng):
    train_x, train_y = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    test_x, test_y = rng.normal(size=(20, 5)), rng.integers(0, 3, 20)
    hits = 0
    for x, y in zip(test_x, test_y):
        cosine = [np.dot(x, t) / np.linalg.norm(x) / np.linalg.norm(t) for t in train_x]
        votes = np.bincount(train_y[np.argsort(cosine)[-7:]], minlength=3)
        hits += int(np.argmax(votes)) == y
    assert probes.knn(train_x, train_y, test_x, test_y, k=7) == hits / 20
    # The length of a vector plays no part in cosine similarity.
    scaled = train_x * rng.uniform(0.1, 10, (60, 1))
    assert probes.knn(scaled, train_y, test_x, test_y, k=7) == hits / 20


def test_rankme_closed_forms(rng):
    assert collapse.rankme(np.eye(8)) == pytest.approx(8, rel=1e-4)
    assert collapse.rankme(np.outer(rng.normal(size=50), rng.normal(size=8))) == pytest.approx(1, rel=1e-3)
    assert collapse.rankme(np.zeros((5, 3))) == 0
    half = np.diag([1.0, 1, 1, 0, 0, 0])
    assert collapse.rankme(half) == pytest.approx(3, rel=1e-3)
    x = rng.normal(size=(40, 6))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert collapse.rankme(x @ rotation) == pytest.approx(collapse.rankme(3 * x), rel=1e-4)


def test_feature_sd_closed_forms(rng):
    assert collapse.feature_sd(np.ones((9, 4))) == pytest.approx(0, abs=1e-7)
    assert collapse.feature_sd(rng.normal(size=(20_000, 16))) == pytest.approx(1, abs=0.02)
    assert collapse.feature_sd(np.concatenate([np.eye(4), -np.eye(4)])) == pytest.approx(1)


def test_linear_probe(rng):
    def sample(count):
        y = rng.integers(0, 3, count)
        return rng.normal(size=(count, 6)) + 4 * np.eye(6)[y], y

    parts = [a for count in (200, 50, 500) for a in sample(count)]
    accuracy, strength = probes.linear_probe(*parts)
    assert accuracy > 0.95
    assert strength in probes.PROBE_STRENGTHS
    # Labels that mean nothing are not learned: the test part was not seen.
    parts[5] = rng.permutation(parts[5])
    assert probes.linear_probe(*parts)[0] < 0.5


def test_the_probe_is_chosen_on_the_validation_part(rng):
    """With a validation part whose labels are turned round, the weakest probe looks best."""
    x, y = rng.normal(size=(400, 30)), rng.integers(0, 2, 400)
    x[:, 0] += 3 * y
    _, honest = probes.linear_probe(x[:100], y[:100], x[100:200], y[100:200], x[200:], y[200:])
    _, fooled = probes.linear_probe(x[:100], y[:100], x[100:200], 1 - y[100:200], x[200:], y[200:])
    assert honest != fooled


def test_features_are_in_order_and_complete(rng):
    source = images("mine", rng.integers(0, 256, (23, 6, 6, 1), np.uint8))
    network = dense_encoder((6, 6, 1), (5,))
    expected = network(source.column("image") / np.float32(255))
    for network_or_function in (network, compile_network(network)):
        np.testing.assert_allclose(extract_features(network_or_function, source, 10), expected, atol=1e-6)
    np.testing.assert_allclose(pixels(source), source.column("image").reshape(23, 36) / 255, atol=1e-7)


@pytest.mark.parametrize("causal", [False, True])
def test_features_of_texts_do_not_depend_on_their_batch(rng, causal):
    """Texts of like length share a batch, without the padding; the result is that of each text alone."""
    sizes = [40, 1, 8, 9, 16, 17, 3, 33, 8, 2]
    tokens = np.full((len(sizes), 40), -1, np.int32)
    for row, size in zip(tokens, sizes):
        row[:size] = rng.integers(0, 30, size)
    source = Source("mine", {"tokens": tokens}, rows=np.arange(len(sizes))[::-1])
    groups = length_groups(source)
    assert [sorted(sizes[::-1][index] for index in group) for group in groups] == [
        [1, 2, 3, 8, 8],
        [9, 16],
        [17],
        [33, 40],
    ]
    shape = {"vocabulary": 30, "context": 40, "layers": 1, "heads": 2, "width": 8}
    network = Network("transformer", architecture="bert", causal=causal, **shape).build()
    run = compile_network(network)
    alone = [run(tokens[index : index + 1, : sizes[index]])[0] for index in source.rows]
    np.testing.assert_allclose(extract_features(network, source, 4), alone, atol=1e-5)
    head = Network("classifier_head", features=8, classes=3).build()
    logits = extract_features(compile_network(network, head, each_token=True), source, 4)
    assert logits.shape == (len(sizes), 40, 3)
    for row, index in zip(logits, source.rows):
        expected = head(network(tokens[index : index + 1])[0, : sizes[index]])
        np.testing.assert_allclose(row[: sizes[index]], expected, atol=1e-5)


def test_the_probe_on_random_labels_is_at_chance(rng):
    x, y = rng.normal(size=(900, 20)), rng.integers(0, 10, 900)
    accuracy, _ = probes.linear_probe(x[:300], y[:300], x[300:500], y[300:500], x[500:], y[500:])
    assert accuracy == pytest.approx(0.1, abs=0.06)


def test_alignment_closed_forms(rng):
    x = rng.normal(size=(50, 6))
    assert collapse.alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert collapse.alignment(x, -x) == pytest.approx(4)
    assert collapse.alignment(np.eye(4), np.roll(np.eye(4), 1, 0)) == pytest.approx(2)


def test_uniformity_equals_a_slow_loop_and_its_closed_forms(rng):
    x = rng.normal(size=(12, 5))
    unit = [row / np.linalg.norm(row) for row in x]
    pairs = [np.exp(-2 * np.sum((unit[i] - unit[j]) ** 2)) for i in range(12) for j in range(i)]
    assert collapse.uniformity(x) == pytest.approx(np.log(np.mean(pairs)))
    assert collapse.uniformity(np.ones((9, 3))) == pytest.approx(0, abs=1e-9)  # collapsed
    assert collapse.uniformity(np.zeros((9, 3))) == pytest.approx(0, abs=1e-9)
    assert collapse.uniformity(np.eye(6)) == pytest.approx(-4)  # all at right angles


def disturbed(source, views):
    """What a network gets: (N, H, W, C)."""
    flat = pixels(source, views)
    return flat.reshape(len(flat), *source.spec()["image"][0])


def test_disturbed_images(rng):
    source = images("mine", np.full((400, 28, 28, 1), 128, np.uint8))
    some = source.take(np.arange(10, 310))
    noise = disturbed(some, add_noise)
    assert noise.std() == pytest.approx(NOISE, rel=0.01)
    black = disturbed(some, shift_images)[..., 0] == 0
    assert set(black.all(2).sum(1)) == set(black.all(1).sum(1)) == {2}  # two rows and two columns came in
    top, left = black[:, 0].all(1), black[:, :, 0].all(1)
    assert 0.4 < top.mean() < 0.6
    assert 0.4 < left.mean() < 0.6
    for views in (add_noise, shift_images, crop_images):
        np.testing.assert_array_equal(disturbed(some, views), disturbed(some, views))


def test_a_shift_moves_what_is_there(rng):
    source = images("mine", rng.integers(1, 256, (40, 14, 14, 3), np.uint8))
    before, after = source.column("image") / np.float32(255), disturbed(source, shift_images)
    for one, moved in zip(before, after):
        wanted = [np.roll(one, (down, right), (0, 1)) for down in (1, -1) for right in (1, -1)]
        inside = np.s_[1:-1, 1:-1]
        assert any(np.allclose(moved[inside], w[inside], atol=1e-6) for w in wanted)


def test_some_are_taken_from_all_over():
    assert evenly_spaced(100, 5).tolist() == [0, 24, 49, 74, 99]
    assert evenly_spaced(3, 5).tolist() == [0, 1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_of_features_that_are_not_finite_none_is_best(bad, rng):
    x, y = rng.random((30, 4)).astype(np.float32), np.arange(30) % 3
    broken = x.copy()
    broken[3, 1] = bad
    for train, other in ((broken, x), (x, broken)):
        with pytest.raises(ValueError, match="Received: 1 values that are not finite"):
            probes.fit_probe(train, y, other, y)
        with pytest.raises(ValueError, match="Received: 1 values that are not finite"):
            probes.knn(train, y, other, y)
        with pytest.raises(ValueError, match="Expected finite embeddings"):
            retrieval.recall_at_k(train, other, y)


def slow_lidar(views, ridge):
    """LiDAR by loops and the definition: the square root of the inverse, then the eigenvalues."""
    count, number, width = views.shape
    means = np.array([sum(views[i]) / number for i in range(count)])
    center = sum(means) / count
    between, within = np.zeros((width, width)), ridge * np.eye(width)
    for i in range(count):
        between += np.outer(means[i] - center, means[i] - center) / count
        for j in range(number):
            within += np.outer(views[i, j] - means[i], views[i, j] - means[i]) / (count * number)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    found = np.maximum(np.linalg.eigvalsh(root @ between @ root), 0)
    p = found / found.sum()
    return np.exp(-sum(each * np.log(each) for each in p if each > 1e-12))


@pytest.mark.parametrize(("count", "number", "width"), [(12, 4, 5), (6, 3, 10)], ids=["many", "wide"])
def test_lidar_equals_a_slow_loop(count, number, width, rng):
    views = rng.normal(size=(count, 1, width)) + 0.5 * rng.normal(size=(count, number, width))
    assert collapse.lidar(views, 0.01) == pytest.approx(slow_lidar(views, 0.01), rel=1e-4)


def test_lidar_closed_forms(rng):
    noise = np.concatenate([np.eye(6), -np.eye(6)])  # the same in every direction
    spread = np.concatenate([np.eye(6)[:3], -np.eye(6)[:3]])  # means along three of six directions
    assert collapse.lidar(spread[:, None] + noise) == pytest.approx(3, rel=1e-3)
    assert collapse.lidar(np.eye(6)[[0, 0, 1, 1]][:, None] + noise) == pytest.approx(1, rel=1e-3)  # two places: a line
    assert collapse.lidar(np.zeros((6, 1, 6)) + noise) == 0  # all examples alike
    assert collapse.lidar(np.ones((6, 3, 4))) == 0  # collapsed
    with pytest.raises(ValueError, match=r"Expected views \(N, V, D\).*Received: shape \(6, 4\)"):
        collapse.lidar(np.ones((6, 4)))


def test_lidar_does_not_change_under_linear_maps(rng):
    """RankMe changes under such a map, which stretches one direction."""
    views = rng.normal(size=(30, 1, 5)) + 0.3 * rng.normal(size=(30, 8, 5))
    change = rng.normal(size=(5, 5)) + 2 * np.eye(5)
    assert collapse.lidar(views @ change + 3, 1e-12) == pytest.approx(collapse.lidar(views, 1e-12), rel=1e-6)
    rotation, _ = np.linalg.qr(change)
    assert collapse.lidar(views @ rotation) == pytest.approx(collapse.lidar(views), rel=1e-6)
    assert collapse.rankme(views.mean(1) @ change) != pytest.approx(collapse.rankme(views.mean(1)), rel=1e-2)
