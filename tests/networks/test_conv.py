"""Convolutional networks: shapes, sizes, and batch normalization against Keras'."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.networks import conv


def num_features(network, width):
    """Returns the channels of the last stage."""
    return {"cnn": 4, "resnet18": 8, "resnet34": 8, "resnet50": 32, "resnet101": 32}[network] * width


@pytest.mark.parametrize(
    ("network", "shape", "parameters"),
    [
        ("resnet18", (224, 224, 3), 11_689_512 - 513_000),  # the paper's sizes, as torchvision counts them,
        ("resnet50", (224, 224, 3), 25_557_032 - 2_049_000),  # without the classifier
    ],
)
def test_the_papers_sizes(network, shape, parameters):
    with tf.Graph().as_default():
        encoder = conv.builder_of(network)(shape)
        assert sum(int(np.prod(v.shape)) for v in encoder.trainable_variables) == parameters
        assert encoder.output_shape == (None, num_features(network, 64))


@pytest.mark.parametrize(
    "network",
    [
        # The deeper ones have the same blocks as those of 18 and 50 layers, only more of them.
        pytest.param(name, marks=[pytest.mark.slow] if name in ("resnet34", "resnet101") else [])
        for name in conv.BLOCKS
    ],
)
@pytest.mark.parametrize("places", [1, 2])
def test_every_network_makes_features_of_any_size(network, places, rng):
    encoder = conv.builder_of(network)((32, 32, 3), 4, places)
    assert encoder.output_shape == (None, places**2 * num_features(network, 4))
    for side in (32, 23):
        features = encoder(rng.random((2, side, side, 3), np.float32), training=False)
        assert features.dtype == tf.float32
        assert np.isfinite(features).all()
    stages = [layer.name for layer in encoder.layers if layer.name.removeprefix("stage_").isdigit()]
    assert len(stages) == len(conv.BLOCKS[network][1])


@pytest.mark.parametrize(
    ("stem", "side", "large"), [("by_size", 64, False), ("by_size", 65, True), ("small", 65, False), ("large", 8, True)]
)
def test_the_stem_follows_the_size_unless_it_is_named(stem, side, large):
    with tf.Graph().as_default():
        encoder = conv.builder_of("resnet18")((side, side, 3), 2, stem=stem)
    assert ("stem_pool" in {layer.name for layer in encoder.layers}) == large
    assert encoder.get_layer("stem_conv").kernel_size == ((7, 7) if large else (3, 3))


@pytest.mark.parametrize("side", [2, 5, 8])
def test_places_are_means_over_cells(side, rng):
    x = rng.random((2, side, side, 3), np.float32)
    ours = conv.PlacePool(2)(x).numpy().reshape(2, 2, 2, 3)
    low, high = side // 2, -(-side // 2)  # cells of an odd side share its middle
    for i, rows in enumerate((slice(0, high), slice(low, None))):
        for j, columns in enumerate((slice(0, high), slice(low, None))):
            np.testing.assert_allclose(ours[:, i, j], x[:, rows, columns].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(conv.PlacePool(1)(x), x.mean((1, 2)), rtol=1e-5)


def test_a_residual_block_starts_as_its_shortcut(rng):
    x = keras.Input((None, None, 8))
    block = keras.Model(x, conv.basic_block(x, 8, 1, "same", "block", "out"))
    image = rng.normal(size=(2, 6, 6, 8)).astype(np.float32)
    np.testing.assert_allclose(block(image, training=False), np.maximum(image, 0), atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 5, 7, 3), (16, 3)])
def test_batch_norm_equals_keras(rng, shape):
    x = tf.constant(rng.normal(2.0, 3.0, shape), tf.float32)
    ours, theirs = conv.BatchNorm(), keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    for layer in (ours, theirs):
        layer.build(shape)
        layer.gamma.assign([0.5, 1.0, 2.0])
        layer.beta.assign([-1.0, 0.0, 1.0])
    for training in (True, True, False):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            a, b = (layer(x, training=training) for layer in (ours, theirs))
            sums = [tf.reduce_sum(y**3) for y in (a, b)]
        np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(tape.gradient(sums[0], x), tape.gradient(sums[1], x), atol=2e-4)
        for mine, other in zip(ours.variables, theirs.variables):
            np.testing.assert_allclose(mine, other, rtol=1e-5, err_msg=mine.path)


def test_a_frozen_norm_keeps_its_statistics(rng):
    layer = conv.BatchNorm()
    layer(rng.normal(size=(4, 3)).astype(np.float32), training=True)
    kept = layer.moving_mean.numpy()
    layer.trainable = False
    layer(rng.normal(5.0, size=(4, 3)).astype(np.float32), training=True)
    np.testing.assert_array_equal(layer.moving_mean, kept)


def test_mixed_precision_keeps_statistics_in_float32(rng):
    keras.config.set_dtype_policy("mixed_bfloat16")
    encoder = conv.builder_of("cnn")((8, 8, 1), width=4)
    features = encoder(rng.random((4, 8, 8, 1), np.float32), training=True)
    assert features.dtype == tf.float32
    assert all(v.dtype == "float32" for v in encoder.variables)
