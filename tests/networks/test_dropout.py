"""Dropout: against a slow loop, its statistics, and what masks depend on; test_strategies.py has replicas."""

import itertools
import zlib

import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.readers import text
from ssl_keras.modalities.classification import Pair
from ssl_keras.networks import Network, dropout
from ssl_keras.networks.dropout import current_masks, draw_keys, drop

RATE = 0.1


def masks(step=0, first=0, rows=64, seed=0, rate=RATE):
    """The `Masks` of some rows of a batch."""
    with dropout.dropout(draw_keys(BatchRandom(seed, step, first, rows), rate), rate):
        return current_masks(training=True)


def dropped(name="block_0/mlp", elements=4096, **options):
    """Which elements of each example are dropped, (rows, elements) bool."""
    found = masks(**options)
    return drop(tf.ones((found.keys.shape[0], elements)), found, name).numpy() == 0


def slow_hash(keys, name, index):
    """`dropout.hash_indices` with Python's integers."""

    def multiply(x, factor):
        return x * factor % 2**32

    def mix(x):
        x = multiply(x ^ (x >> 16), 0x85EBCA6B)
        x = multiply(x ^ (x >> 13), 0xC2B2AE35)
        return x ^ (x >> 16)

    name = zlib.crc32(name.encode())
    x = multiply(index ^ mix(keys[0] ^ name), 0x85EBCA6B)
    x = multiply(x ^ (x >> 16) ^ mix((keys[1] + name) % 2**32 ^ name), 0xC2B2AE35)
    return multiply(x ^ (x >> 15), 0x9E3779B1)


def test_the_hash_equals_a_slow_loop():
    keys = masks(rows=3).keys
    ours = dropout.hash_indices(keys, "block_1/attention", 7).numpy()
    for row, index in np.ndindex(3, 7):
        expected = slow_hash([int(key) for key in keys.numpy()[row]], "block_1/attention", index)
        assert int(ours[row, index]) == expected


def test_kept_elements_are_scaled_up():
    x = drop(tf.ones((64, 5000)), masks(), "a").numpy()
    np.testing.assert_allclose(np.unique(x), [0, 1 / (1 - RATE)], rtol=1e-6)
    assert drop(tf.ones((64, 8), tf.bfloat16), masks(), "a").dtype == tf.bfloat16
    assert x.mean() == pytest.approx(1, abs=5 * np.sqrt(RATE / (1 - RATE) / x.size))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_holds_for_every_example_and_element(rate):
    found = np.concatenate([dropped(rate=rate, step=step, elements=1024) for step in range(8)]).astype(float)
    for axis in (0, 1):
        count = found.shape[axis]
        score = (found.mean(axis) - rate) / np.sqrt(rate * (1 - rate) / count)
        assert np.abs(score).max() < 6  # with so few dropped, the tail is not quite normal
        assert score.std() == pytest.approx(1, abs=0.1)


def test_masks_of_other_layers_steps_seeds_and_examples_are_independent():
    same = dropped()
    others = {
        "layer": dropped("block_1/mlp"),
        "place": dropped("block_0/attention"),
        "step": dropped(step=1),
        "seed": dropped(seed=1),
        "example": np.roll(same, 1, axis=0),
        "element": np.roll(same, 1, axis=1),
    }
    variance = RATE * (1 - RATE)
    for name, other in others.items():
        score = np.mean((same - RATE) * (other - RATE)) / variance * np.sqrt(same.size)
        assert abs(score) < 4.5, name
    np.testing.assert_array_equal(same, dropped())


def test_part_of_a_batch_has_the_same_masks():
    np.testing.assert_array_equal(dropped(rows=8)[5:], dropped(first=5, rows=3))


def test_copies_of_a_row_have_different_masks():
    with dropout.dropout(draw_keys(BatchRandom(0, 0, 0, 4), 0.5, copies=2), 0.5):
        both = drop(tf.ones((8, 64)), current_masks(True), "a").numpy()  # all rows of the first copy first
    with dropout.dropout(draw_keys(BatchRandom(0, 0, 2, 2), 0.5, copies=2), 0.5):
        later = drop(tf.ones((4, 64)), current_masks(True), "a").numpy()
    assert all(np.mean(a == b) < 0.8 for a, b in itertools.combinations(both, 2))
    np.testing.assert_array_equal(later, both[[2, 3, 6, 7]])


def test_a_longer_sequence_begins_with_the_same_mask():
    long = drop(tf.ones((64, 9, 16)), masks(), "a")
    np.testing.assert_array_equal(drop(tf.ones((64, 5, 16)), masks(), "a"), long[:, :5])


def test_a_resumed_run_draws_the_same_keys():
    source = text.documents("texts", [str(number) for number in range(40)])
    source.arrays["label"] = np.arange(40)
    batches = Batches(source, 8, seed=3, preprocess=lambda batch, random: draw_keys(random, RATE, copies=2))
    whole = [batch["dropout_keys"].numpy() for batch in batches.dataset(0, 7)]
    resumed = [batch["dropout_keys"].numpy() for batch in batches.dataset(5, 7)]
    np.testing.assert_array_equal(whole[5:], resumed)
    assert len(np.unique(whole)) == np.size(whole)


def transformer(architecture="bert", **options):
    sizes = {"vocabulary": 11, "context": 12, "layers": 2, "heads": 2, "width": 8}
    return Network("transformer", architecture=architecture, causal=False, **sizes, **options).build()


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "modern"])
def test_it_is_on_in_training_and_inside_of_its_context_only(architecture, rng):
    network, ids = transformer(architecture), rng.integers(0, 11, (4, 9)).astype(np.int32)
    plain = network(ids).numpy()
    batch = draw_keys(BatchRandom(0, 0, 0, 4), 0.5)
    assert draw_keys(BatchRandom(0, 0, 0, 4), 0) == {}
    with dropout.dropout(batch, 0.5):
        np.testing.assert_array_equal(network(ids), plain)
        assert np.abs(network(ids, training=True) - plain).max() > 0.01
    with dropout.dropout(batch, 0):
        np.testing.assert_array_equal(network(ids, training=True), plain)
    np.testing.assert_array_equal(network(ids, training=True), plain)


def test_each_place_of_the_network_has_its_own_mask(rng, monkeypatch):
    places = []
    monkeypatch.setattr("ssl_keras.networks.transformer.drop", lambda x, masks, name: places.append(name) or x)
    network = transformer()
    places.clear()
    network(rng.integers(0, 11, (4, 9)).astype(np.int32), training=True)
    assert places == ["embeddings", *(f"block_{index}/{part}" for index in (0, 1) for part in ("attention", "mlp"))]


def test_rematerialization_recomputes_with_the_same_masks(rng):
    """The backward pass runs after the context has ended."""
    ids, gradients = rng.integers(0, 11, (2, 9)).astype(np.int32), []
    weights = transformer().get_weights()
    for remat in (False, True):
        network = transformer(remat=remat)
        network.set_weights(weights)
        with tf.GradientTape() as tape, dropout.dropout(draw_keys(BatchRandom(0, 0, 0, 2), 0.3), 0.3):
            loss = tf.reduce_sum(tf.square(network(ids, training=True)[..., 0]))
        gradients.append(tape.gradient(loss, [v.value for v in network.trainable_variables]))
    for a, b in zip(*gradients):
        np.testing.assert_allclose(tf.convert_to_tensor(a), tf.convert_to_tensor(b), rtol=1e-4, atol=1e-5)


def test_a_frozen_encoder_has_none_and_its_head_has(rng):
    head = Network("classifier_head", features=8, classes=3).build()
    pair, ids = Pair(transformer(), head), rng.integers(0, 11, (4, 9)).astype(np.int32)
    features, found = Pair(pair.encoder, lambda x, training: x), {}
    with dropout.dropout(draw_keys(BatchRandom(0, 0, 0, 4), 0.5), 0.5):
        for frozen in (True, False):
            found[frozen] = features.logits(ids, True, frozen).numpy()
        mask = drop(tf.ones((4, 8)), current_masks(True), "head")
        np.testing.assert_array_equal(features.logits(ids, False), features.logits(ids, False, True))
    np.testing.assert_allclose(found[True], features.logits(ids, False) * mask, rtol=1e-6)
    np.testing.assert_array_equal(found[False] == 0, mask == 0)
    assert np.abs(found[True] - found[False]).max() > 0.01
