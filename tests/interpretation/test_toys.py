"""Toys whose attributions are known: linear models, one patch, word or band that decides, and padding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.interpretation import (
    Explained,
    completeness_error,
    enlarge,
    grad_cam,
    gradient_x_input,
    integrated_gradients,
    occlude_units,
    occlude_windows,
    of_features,
    rollout,
    score_difference,
    smooth_grad,
)
from ssl_keras.interpretation import units as parts
from ssl_keras.networks import Network
from ssl_keras.networks.transformer import Pool

METHODS = {
    "gradient × input": gradient_x_input,
    "integrated gradients": integrated_gradients,
    "SmoothGrad": smooth_grad,
    "occlusion": lambda *arguments: occlude_windows(*arguments, 1),
}
WORD, LOUD = 7, 20  # the token, and the band, that decides
TOKENS = np.array([[2, 3, WORD, 4, 5, -1, -1], [2, 4, 5, 6, WORD, 3, -1]], np.int32)


INDEX = np.array([0, 3, 1])


@pytest.fixture(scope="module")
def linear():
    """A linear model of images, explained against a baseline of 0.25, and its weights for INDEX."""
    image = keras.Input((6, 6, 2))
    layer = keras.layers.Dense(4)
    network = keras.Model(image, layer(keras.layers.Flatten()(image)))
    weights = layer.kernel.numpy().reshape(6, 6, 2, 4)[..., INDEX].transpose(3, 0, 1, 2)
    return Explained(network, missing=0.25), weights


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_model_is_attributed_exactly(method, linear, rng):
    explained, weights = linear
    images = rng.uniform(0.1, 1, (3, 6, 6, 2)).astype(np.float32)
    expected = (weights * (images - 0.25)).sum(-1)
    np.testing.assert_allclose(METHODS[method](explained, images, INDEX), expected, atol=1e-5)


@pytest.fixture(scope="module")
def patch():
    """A network whose score is a smooth function of the mean of the patch of rows 2 to 3, columns 4 to 5."""
    image = keras.Input((6, 6, 1))
    mean = keras.layers.GlobalAveragePooling2D()(image[:, 2:4, 4:6])
    network = keras.Model(image, keras.layers.Dense(2, activation="tanh", kernel_initializer="ones")(mean))
    return Explained(network)


@pytest.mark.parametrize("method", [*METHODS, "windows"])
def test_the_patch_that_decides_has_the_mass(method, patch, rng):
    images = rng.uniform(0.1, 1, (2, 6, 6, 1)).astype(np.float32)
    if method == "windows":  # of the patch's size and on its grid
        maps = occlude_windows(patch, images, [0, 0], 2, 2)
    else:
        maps = METHODS[method](patch, images, [0, 0])
    assert (np.abs(maps[:, 2:4, 4:6]).sum((1, 2)) >= 0.9 * np.abs(maps).sum((1, 2))).all()
    assert (maps[:, 2:4, 4:6] > 0).all()


def small(architecture, layers=1):
    """A small transformer."""
    keywords = {"vocabulary": 12, "context": 8, "heads": 2, "width": 8, "causal": False, "layers": layers}
    return Network("transformer", architecture=architecture, **keywords).build()


@pytest.fixture(scope="module")
def word():
    """A network whose score is a smooth function of the number of times that one word occurs."""
    tokens = keras.Input((None,), dtype="int32")
    embed = keras.layers.Embedding(13, 4)
    score = keras.layers.Dense(2, activation="tanh", kernel_initializer="ones")
    network = keras.Model(tokens, score(Pool()(embed(tokens), tokens)))
    table = np.zeros((13, 4), np.float32)
    table[WORD] = 1
    embed.set_weights([table])
    return Explained(network, missing=2, kept=[2])


@pytest.mark.parametrize("method", ["gradient × input", "integrated gradients", "SmoothGrad", "units"])
def test_the_word_that_decides_has_the_mass_and_padding_none(method, word):
    if method == "units":
        maps = occlude_units(word, TOKENS, [0, 0], parts.pixels(TOKENS >= 0))
    else:
        maps = METHODS[method](word, TOKENS, np.zeros(2, int))
    assert (np.abs(maps[TOKENS == WORD]) >= 0.9 * np.abs(maps).sum(1)).all()
    assert (maps[TOKENS < 0] == 0).all()


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "modern"])
def test_the_vectors_are_the_network(architecture, rng):
    """The two parts of a split network give its scores, and padding has no gradient."""
    network, tokens = small(architecture), TOKENS
    network.set_weights([rng.normal(0, 0.5, w.shape) for w in network.get_weights()])
    output = of_features(network)
    explained = Explained(output.graph, missing=1)
    np.testing.assert_allclose(explained.scores(tokens), output.graph(tokens), atol=1e-5)
    assert explained.represent(tokens).shape == (2, 7, 8)
    _, slope = explained.gradient(tokens, explained.represent(tokens), [1, 2])
    assert (slope[tokens < 0] == 0).all()
    assert (np.abs(slope[tokens >= 0]).sum(-1) > 0).all()
    maps = integrated_gradients(explained, tokens, [1, 2])
    assert (completeness_error(maps, *score_difference(explained, tokens, np.array([1, 2]))) <= 0.01).all()


def test_absent_vectors_are_those_of_the_missing_token():
    network, tokens = small("modern"), TOKENS
    explained = Explained(of_features(network).graph, missing=1, kept=[2])
    changed = np.where((tokens >= 0) & (tokens != 2), 1, tokens)
    np.testing.assert_allclose(
        explained.scores(tokens, explained.baseline(tokens)), explained.scores(changed), atol=1e-6
    )


@pytest.mark.parametrize("weighted", [False, True], ids=["rollout", "weighted"])
def test_rollout_points_to_the_word_that_is_attended_to(weighted):
    """All tokens attend to one word, and its value makes the score."""
    network, tokens = small("gpt2", 2), TOKENS
    values = {v.path.partition("/")[2]: v for v in network.variables}
    for name, variable in values.items():
        variable.assign(tf.zeros_like(variable) if "scale" not in name else tf.ones_like(variable))
    table = np.tile([3.0, -3.0, 0, 0, 0, 0, 0, 0], (12, 1))
    table[WORD] = [0, 0, 3.0, -3.0, 0, 0, 0, 0]
    block = [layer for layer in network.layers if layer.name.startswith("block")]
    network.get_layer("embeddings").tokens.assign(table)
    for each in block:
        joined = np.zeros((8, 24), np.float32)
        for head in range(2):
            joined[:2, 4 * head] = [5.0, -5.0]  # queries of all words
            joined[2, 4 * head] = 5.0  # query of the word
            joined[2:4, 8 + 4 * head] = [5.0, -5.0]  # the key of the word
            joined[2:4, 16 + 4 * head] = [1.0, -1.0]  # its value
        each.attention_in[0].assign(joined)
        each.attention_out[0].assign(np.eye(8)[:, [4, 5, 6, 7, 4, 5, 6, 7]])
    output = of_features(network)
    maps = rollout(output.graph, weighted)(tokens, [4, 4])
    assert (maps.argmax(1) == [2, 4]).all()
    assert (maps[tokens < 0] == 0).all()
    assert (maps >= 0).all()


def test_rollout_of_uniform_attention_is_uniform():
    """Zero weights attend equally, so rollout of pooled features is 1/T, for any number of layers."""
    network, tokens = small("bert", 2), TOKENS
    for variable in network.variables:
        variable.assign(tf.zeros_like(variable))
    maps = rollout(of_features(network).graph)(tokens, [0, 0])
    np.testing.assert_allclose(maps, np.where(tokens >= 0, 1 / (tokens >= 0).sum(1, keepdims=True), 0), atol=1e-6)


@pytest.mark.parametrize("features", ["mean", "class"])
def test_rollout_of_patches(features):
    """With uniform attention among six patches, a class and a register token, each patch gets 1/8 of what is passed on;
    if the class token alone is read, a quarter of the flow of two layers stays in it."""
    network = Network("vit", image_shape=(8, 12, 1), width=8, layers=2, heads=2, registers=1, features=features).build()
    for variable in network.variables:
        variable.assign(tf.zeros_like(variable))
    network.get_layer("norm").scale.assign(tf.ones(8))
    maps = rollout(of_features(network).graph)(np.ones((2, 8, 12, 1), np.float32), [0, 0])
    passed = 1 - 0.5**2  # what two layers of ½A + ½I take from other places
    expected = passed / 8 if features == "class" else passed / 8 + 0.5**2 / 6
    np.testing.assert_allclose(maps, np.full((2, 2, 3), expected), atol=1e-6)


def test_grad_cam_points_to_the_patch():
    """One convolution passes the image on, and the score is its mean: the map is the image's."""
    image = keras.Input((8, 8, 1))
    convolution = keras.layers.Conv2D(1, 2, 2, use_bias=False, kernel_initializer="ones", name="stage_0")
    network = keras.Model(image, keras.layers.GlobalAveragePooling2D()(convolution(image)))
    images = np.zeros((2, 8, 8, 1), np.float32)
    images[0, 2:4, 6:8], images[1, 4:6, 0:2] = 1, 1
    maps = grad_cam(network)(images, [0, 0])
    assert maps.shape == (2, 4, 4)
    assert [np.unravel_index(each.argmax(), (4, 4)) for each in maps] == [(1, 3), (2, 0)]
    np.testing.assert_allclose(maps, images[:, ::2, ::2, 0] * 4 / 16)  # ReLU(weight · map), the weight 1/16
    assert enlarge(maps, (8, 8)).shape == (2, 8, 8)


@pytest.fixture(scope="module")
def clips():
    """A waveform network with a mel front end that hears one band only, and clips of different lengths."""
    network = Network(
        "waveform", rate=8_000, width=8, layers=1, heads=2, channels=4, frontend="mel", pool_segments=1
    ).build()
    random = np.random.default_rng(0)
    waves = np.full((2, 3_200), -1, np.float32)
    for row, length in enumerate((3_200, 2_000)):
        waves[row, :length] = 0.1 * random.normal(size=length)
    front = network.get_layer("front")
    kernel = np.zeros(front.kernel.shape, np.float32)
    kernel[LOUD] = random.normal(size=4)
    front.kernel.assign(kernel)
    return network, waves


@pytest.fixture(scope="module")
def band(clips):
    return Explained(clips[0])


@pytest.mark.parametrize("method", ["gradient × input", "integrated gradients", "SmoothGrad", "windows"])
def test_the_band_that_decides_has_the_mass_and_padding_none(method, band, clips):
    waves, index = clips[1], np.array([0, 5])
    assert band.at == "bands"
    maps = occlude_windows(band, waves, index, (4, 1)) if method == "windows" else METHODS[method](band, waves, index)
    assert maps.shape == (2, 20, 40)
    assert (np.abs(maps[..., LOUD]).sum(1) >= 0.9 * np.abs(maps).sum((1, 2))).all()
    assert (maps[1, 13:] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("frontend", ["mel", "convolution"])
def test_samples_that_do_not_add_up_are_counted_and_padding_has_none(frontend, clips, caplog):
    """`test_each_kind_has_its_methods` is the part of `make test`.

    A network that normalizes its frames jumps next to silence, the baseline, so its sums need not be complete.
    """
    network = Network("waveform", rate=8_000, width=8, layers=1, heads=2, channels=4, frontend=frontend).build()
    waves = clips[1]
    explained, index = Explained(network, at="samples"), np.array([0, 5])
    np.testing.assert_allclose(explained.scores(waves), network(waves), atol=1e-5)
    maps = integrated_gradients(explained, waves, index)
    wrong = np.sum(completeness_error(maps, *score_difference(explained, waves, index)) > 0.01)
    assert ("the sums of" in caplog.text) == bool(wrong)
    assert not wrong or f"the sums of {wrong} of 2 examples" in caplog.text
    assert (maps[1, 2_000:] == 0).all()
    assert explained.at == "samples"
