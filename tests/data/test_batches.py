"""Batches and draws: pure functions of (seed, step, position)."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.data.batches import Batches, check_divisible, epoch_order
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.splits import images


def sorted_source(count, classes=10):
    """Returns images sorted by class, as from a folder, whose first pixel encodes their index."""
    image = np.zeros((count, 2, 2, 1), np.uint8)
    image[:, 0, 0, 0], image[:, 0, 1, 0] = np.arange(count) % 256, np.arange(count) // 256
    return images("sorted", image, np.sort(np.arange(count) % classes))


def numbers(batch):
    image = np.asarray(batch["image"])
    return image[:, 0, 0, 0] + 256 * image[:, 0, 1, 0].astype(int)


def noisy(batch, random):
    return batch | {"noise": random.normal("noise", (3,))}


def test_an_epoch_is_a_permutation_in_whole_batches():
    batches = Batches(sorted_source(103), 10, seed=7)
    assert batches.steps_per_epoch == 10
    for epoch in range(3):
        seen = np.concatenate([batches.indices(epoch * 10 + step) for step in range(10)])
        assert len(set(seen)) == 100
    assert not np.array_equal(batches.indices(0), batches.indices(10))
    assert not np.array_equal(batches.indices(0), Batches(sorted_source(103), 10, seed=8).indices(0))


def test_resuming_anywhere_gives_the_same_batches():
    batches = Batches(sorted_source(103), 10, seed=7, preprocess=noisy)
    whole = list(batches.dataset(0, 25))
    for first in (1, 9, 10, 23):
        again = Batches(sorted_source(103), 10, seed=7, preprocess=noisy).dataset(first, 25)
        for a, b in zip(whole[first:], again, strict=True):
            np.testing.assert_array_equal(numbers(a), numbers(b))
            np.testing.assert_array_equal(a["noise"], b["noise"])


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_workers_build_their_own_rows_of_the_same_batch(workers):
    batches = Batches(sorted_source(103), 30, seed=7, preprocess=noisy)
    rows = 30 // workers
    parts = [list(batches._rows(0, 4, worker * rows, rows)) for worker in range(workers)]
    for step, whole in enumerate(batches.dataset(0, 4)):
        for key in ("image", "label", "noise", "weight"):
            joined = np.concatenate([parts[worker][step][key] for worker in range(workers)])
            np.testing.assert_array_equal(joined, whole[key])


def chi_square(order, labels, batch):
    """Returns the chi-square of the class counts of each batch; with 10 classes, its expectation is 9."""
    classes = np.bincount(labels) / len(labels)
    whole = len(order) // batch * batch
    counts = np.stack([np.bincount(b, minlength=10) for b in labels[order[:whole]].reshape(-1, batch)])
    # Drawing without replacement shrinks the variance by the finite-population factor.
    expected = batch * classes
    shrink = (len(labels) - batch) / (len(labels) - 1)
    return ((counts - expected) ** 2 / expected).sum(1) / shrink


@pytest.mark.parametrize("size", [1797, 60_000])
def test_the_order_of_class_sorted_data_is_random(size):
    labels = np.sort(np.arange(size) % 10)
    means = [chi_square(epoch_order(size, 0, epoch), labels, 128).mean() for epoch in range(20)]
    truth = np.random.default_rng(1)
    true = [chi_square(truth.permutation(size), labels, 128).mean() for _ in range(20)]
    # Chi-square with 9 degrees of freedom: mean 9, sd √18 a batch.
    error = np.sqrt(18 / (size // 128) / 20)
    assert abs(np.mean(means) - 9) < 4 * error
    assert max(means) < max(true) + 8 * error * np.sqrt(20)
    # Negative control: batches in file order are far from random.
    assert chi_square(np.arange(size), labels, 128).mean() > 100


def test_evaluation_sees_each_example_once_and_pads_with_weight_0():
    batches = Batches(sorted_source(23), 10, shuffle=False)
    seen = list(batches.dataset(0, batches.steps_per_epoch))
    assert [len(b["image"]) for b in seen] == [10, 10, 10]
    weight = np.concatenate([b["weight"] for b in seen])
    assert weight.sum() == 23
    np.testing.assert_array_equal(np.concatenate([numbers(b) for b in seen])[weight > 0], np.arange(23))


def test_bad_batches():
    with pytest.raises(ValueError, match="5 examples, fewer than a batch of 8"):
        Batches(sorted_source(5), 8)
    with pytest.raises(ValueError, match="no examples"):
        Batches(sorted_source(5).take([]), 8)
    with pytest.raises(ValueError, match="batch of 10 does not divide among 2 replicas × 3"):
        check_divisible(10, 2, 3)


# ----- draws ---------------------------------------------------------------


def philox(key, counter):
    """Philox4x32-10 in plain Python (Salmon et al. 2011, section 3.3): four words of 32 bits."""
    k = [key & 0xFFFFFFFF, key >> 32]
    c = list(counter)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_uniform_draws_equal_a_slow_reference():
    import zlib

    seed, step, first, rows, size = 11, 5, 3, 2, 6
    key = (zlib.crc32(b"mask") << 32) | seed
    expected = []
    for position in range(first, first + rows):
        words = [w for block in range(2) for w in philox(key, [position * 2 + block, 0, step, 0])]
        expected.append([(w & 0x7FFFFF) / 2**23 for w in words[:size]])  # the low 23 bits are the mantissa
    drawn = BatchRandom(seed, step, first, rows).uniform("mask", (size,))
    np.testing.assert_array_equal(drawn, np.array(expected, np.float32))


@pytest.mark.parametrize("shape", [(7,), (28, 28, 1), ()])
def test_draws_depend_only_on_the_position(shape):
    whole = BatchRandom(1, 9, 0, 12)
    for kind in ("uniform", "normal"):
        drawn = getattr(whole, kind)("x", shape)
        part = getattr(BatchRandom(1, 9, 5, 4), kind)("x", shape)
        np.testing.assert_array_equal(drawn[5:9], part)
        for other in (BatchRandom(2, 9, 0, 12), BatchRandom(1, 8, 0, 12)):
            assert np.mean(getattr(other, kind)("x", shape) == drawn) < 0.1
        assert np.mean(getattr(whole, kind)("y", shape) == drawn) < 0.1
    assert len(np.unique(whole.uniform("x", (100,)).numpy())) > 1190  # no row repeats another


def test_draws_have_the_right_moments():
    random = BatchRandom(0, 0, 0, 1000)
    uniform, normal = random.uniform("u", (100,)).numpy(), random.normal("n", (100,)).numpy()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.005
    assert abs(normal.mean()) < 0.015
    assert abs(normal.std() - 1) < 0.015
    assert abs(np.corrcoef(normal[:-1].ravel(), normal[1:].ravel())[0, 1]) < 0.015


def test_draws_are_the_same_inside_tf_data():
    dataset = tf.data.Dataset.range(4, 6).map(lambda step: BatchRandom(3, step, 2, 5).normal("n", (4,)))
    for step, inside in zip((4, 5), dataset):
        np.testing.assert_array_equal(inside, BatchRandom(3, step, 2, 5).normal("n", (4,)))


def test_batches_are_bucketed_by_length():
    lengths = np.random.default_rng(0).integers(1, 30, 20_000)
    source = dataclasses.replace(sorted_source(20_000), lengths=lengths)
    batches = Batches(source, 32, seed=7)
    plain = Batches(sorted_source(20_000), 32, seed=7)
    first, second = ([batches.indices(e * 625 + s) for s in range(625)] for e in (0, 1))
    longest = np.array([lengths[rows].max() for rows in first])
    assert np.mean([longest[i] - lengths[rows].min() for i, rows in enumerate(first)]) < 1.5
    assert np.mean([np.ptp(lengths[plain.indices(step)]) for step in range(625)]) > 25  # negative control
    for epoch in (first, second):
        assert len(set(np.concatenate(epoch))) == 20_000
    # Batches differ between epochs, and lengths come in random order.
    assert not any(set(a) == set(b) for a in first[:50] for b in second)
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.15
    assert abs(np.corrcoef(longest, np.arange(625))[0, 1]) < 0.15
    # Batches of small sources differ between epochs too.
    small = dataclasses.replace(sorted_source(640), lengths=np.random.default_rng(1).permutation(640))
    batches = Batches(small, 32, seed=7)
    first, second = ([set(batches.indices(20 * epoch + step)) for step in range(20)] for epoch in (0, 1))
    assert max(len(a & b) for a in first for b in second) < 16
    assert np.mean([np.ptp(small.lengths[list(rows)]) for rows in first]) < 400
    # A subset keeps its lengths.
    part = Batches(source.take(np.arange(0, 20_000, 2)), 32, seed=7)
    assert np.mean([np.ptp(lengths[::2][part.indices(step)]) for step in range(312)]) < 1.5
