"""Every kind of network that is saved can be explained; what a network lacks is named."""

import keras
import numpy as np
import pytest

from ssl_keras.data import tokenizer as tokenizers
from ssl_keras.data.splits import from_arrays
from ssl_keras.interpretation import (
    Explained,
    available,
    features_of_layers,
    grad_cam,
    layers,
    of_features,
    place_features,
    rollout,
    units_of,
)
from ssl_keras.interpretation import units as parts
from ssl_keras.networks import Network, realize

IMAGES = np.random.default_rng(0).uniform(0, 1, (2, 16, 16, 1)).astype(np.float32)
TOKENS = np.array([[3, 4, 5, 6], [3, 4, -1, -1]], np.int32)
WAVES = np.full((2, 2_000), -1, np.float32)
WAVES[0], WAVES[1, :1_000] = np.sin(np.arange(2_000)) / 2, np.sin(np.arange(1_000)) / 3
ALWAYS = ["integrated gradients", "gradient × input", "SmoothGrad", "occlusion"]
SPEECH = {"rate": 8_000, "width": 8, "layers": 1, "heads": 2, "channels": 4}


def sequential():
    """A network of one's own: a Sequential of images."""
    return realize(keras.Sequential([keras.Input((16, 16, 1)), keras.layers.Conv2D(3, 3, 2), keras.layers.Flatten()]))


KINDS = {  # network, inputs, methods beside ALWAYS, shape of the maps, shape of the places
    "dense": (lambda: Network("dense", image_shape=(16, 16, 1), widths=(6, 4)).build(), IMAGES, [], (16, 16), None),
    "own": (sequential, IMAGES, ["Grad-CAM"], (16, 16), (7, 7, 3)),
    "recurrent": (lambda: Network("recurrent", vocabulary=9, width=4, layers=1).build(), TOKENS, [], (4,), (4, 4)),
    "cnn": (
        lambda: Network("cnn", image_shape=(16, 16, 1), width=2, pool_grid=2).build(),
        IMAGES,
        ["Grad-CAM"],
        (16, 16),
        (2, 2, 8),
    ),
    "resnet50": (
        lambda: Network("resnet50", image_shape=(16, 16, 1), width=2).build(),
        IMAGES,
        ["Grad-CAM"],
        (16, 16),
        (2, 2, 64),
    ),
    "dcgan_trunk": (
        lambda: Network("dcgan_trunk", image_shape=(16, 16, 1), width=2).build(),
        IMAGES,
        ["Grad-CAM"],
        (16, 16),
        (4, 4, 4),
    ),
    "vit": (
        lambda: Network("vit", image_shape=(16, 16, 1), width=8, layers=2, heads=2, registers=1).build(),
        IMAGES,
        ["attention rollout", "gradient rollout"],
        (16, 16),
        (4, 4, 8),
    ),
    "samples": (
        lambda: Network("waveform", **SPEECH).build(),
        WAVES,
        ["Grad-CAM", "attention rollout", "gradient rollout"],
        (2_000,),
        (13, 8),
    ),
    "bands": (
        lambda: Network("waveform", **SPEECH, frontend="mel", context="recurrent").build(),
        WAVES,
        [],
        (13, 40),
        (13, 8),
    ),
}
SLOW = ("vit", "resnet50", "dcgan_trunk", "cnn", "bands", "samples")  # what they have is tested with toys and `own`


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in KINDS]
)
def test_each_kind_has_its_methods(kind):
    """The part of `make test` has dense, recurrent and own networks; `test_toys.py` has transformers and mel bands."""
    build, inputs, more, shape, places = KINDS[kind]
    network = build()
    explained = Explained(of_features(network).graph)
    units = units_of(explained)
    found = available(explained, units)
    assert list(found) == [*ALWAYS, *more]
    padding = ~explained.valid(inputs)
    for method in found.values():
        maps = method.quick(inputs, np.array([0, 1]))
        assert maps.shape == (2, *shape)
        assert np.isfinite(maps).all()
        assert (maps[padding] == 0).all()
    assert (units(inputs)[padding] == -1).all()
    if places is None:
        with pytest.raises(ValueError, match="Dense features need places"):
            place_features(network, inputs)
    else:
        assert place_features(network, inputs)[0].shape == (2, *places)


def test_what_a_network_lacks_is_named():
    dense = KINDS["dense"][0]()
    with pytest.raises(ValueError, match="Grad-CAM needs a network with convolutions.*Use integrated gradients"):
        grad_cam(dense)
    with pytest.raises(ValueError, match="rollout needs a transformer.*without attention.*Use integrated gradients"):
        rollout(dense)
    with pytest.raises(ValueError, match='at="bands" needs a network with a mel front end'):
        Explained(dense, at="bands")
    with pytest.raises(ValueError, match="at must be one of pixels, vectors, samples, bands"):
        Explained(dense, at="words")


def test_layers_are_extracted_in_one_pass():
    source = from_arrays(np.repeat(IMAGES, 5, 0)).train
    network = KINDS["dense"][0]()
    (found,) = features_of_layers(network, source)
    assert list(found) == layers.names(network) == ["dense_0", "dense_1", "features"]
    assert [each.shape[1] for each in found.values()] == [6, 4, 4]
    np.testing.assert_allclose(found["features"], network(source.column("image")), atol=1e-6)
    np.testing.assert_allclose(found["dense_1"], found["features"], atol=1e-6)


def test_tokens_become_whole_words():
    tokenizer = tokenizers.train("wordpiece", ["playing players played", "who is who"] * 4, 40, "words")
    tokens = np.array([tokenizer.encode(["who is playing"], special=True)[0] + [-1]], np.int32)
    units = parts.words(tokens, tokenizer)
    assert parts.texts(tokens, units, tokenizer)[0] == ["[CLS]", "who", "is", "playing", "[SEP]"]
    assert units[0, -1] == -1
    values = parts.totals(np.ones(tokens.shape), units)
    assert values.sum() == tokens.shape[1] - 1
    assert values[0, 3] == (units == 3).sum() > 1
