"""Images that differ from an encoder's training images are converted, and the conversion is logged."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ssl_keras import encoders
from ssl_keras.data.splits import from_arrays
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import inputs
from ssl_keras.networks import Network


def saved(folder, builder="dense", shape=(8, 8, 1), **keywords):
    """Saves a small encoder of images of this shape; returns its card."""
    network = Network(builder, image_shape=shape, **keywords)
    encoders.save_encoder(folder, network.build(), spec={"image": (shape, tf.uint8)})
    return cards.read(folder)


@pytest.fixture
def colored(rng):
    """`Splits` of 12×10 RGB images with labels."""
    return from_arrays(rng.integers(0, 256, (40, 12, 10, 3), np.uint8), np.arange(40) % 4)


def test_images_that_fit_are_not_converted(tmp_path, rng):
    card = saved(tmp_path / "e", widths=(4,))
    splits = from_arrays(rng.integers(0, 256, (20, 8, 8, 1), np.uint8))
    assert inputs.conversion(card, splits.train) == ""
    assert encoders.adapt(tmp_path / "e", card, splits) is splits


def test_images_are_converted_to_the_size_and_channels_of_the_encoder(tmp_path, colored, caplog):
    card = saved(tmp_path / "e", widths=(4,))
    with caplog.at_level(logging.INFO):
        made = encoders.adapt(tmp_path / "e", card, colored)
    assert made.train.converted == "12×10×3 → 8×8×1"
    assert "converting images for e: 12×10×3 → 8×8×1" in caplog.text
    assert "converting color images to gray, because e takes gray images" in caplog.text
    for old, new in zip(colored, made):
        assert new.spec()["image"] == ((8, 8, 1), tf.uint8)
        assert len(new) == len(old)
        assert (new.name, new.classes) == (old.name, old.classes)
        np.testing.assert_array_equal(new.column("label"), old.column("label"))


def test_conversion_equals_pillows(rng):
    """Gray uses the luma, and resizing the antialiased bilinear filter; only the rounding in between differs."""
    image = rng.integers(0, 256, (3, 40, 30, 3), np.uint8)
    gray = inputs.convert(image, (40, 30, 1))[..., 0].astype(int)
    for ours, one in zip(gray, image):
        assert np.abs(ours - np.asarray(Image.fromarray(one).convert("L"), int)).max() <= 1
    small = inputs.convert(image, (12, 9, 3)).astype(int)
    for ours, one in zip(small, image):
        theirs = np.asarray(Image.fromarray(one).resize((9, 12), Image.Resampling.BILINEAR), int)
        assert np.abs(ours - theirs).max() <= 2


def test_gray_becomes_rgb_and_floats_stay_floats(rng):
    image = rng.random((2, 8, 8, 1), np.float32)
    made = inputs.convert(image, (8, 8, 3))
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, np.repeat(image, 3, -1))


def test_an_encoder_of_any_size_keeps_that_of_the_data(tmp_path, colored):
    card = saved(tmp_path / "e", "cnn", (8, 8, 1), width=4)
    made = encoders.adapt(tmp_path / "e", card, colored)
    assert made.train.spec()["image"][0] == (12, 10, 1)
    assert made.train.converted == "12×10×3 → 12×10×1"


@pytest.mark.parametrize(
    ("builder", "shape", "options", "size"),
    [
        ("cnn", (8, 8, 1), {"width": 4}, 8),
        ("cnn", (8, 9, 1), {"width": 4}, None),
        ("dense", (8, 8, 1), {"widths": (4,)}, None),  # images are converted to its size anyway
        ("vit", (8, 8, 1), {"width": 8, "layers": 1}, 8),
        ("vit", (8, 8, 1), {"width": 8, "layers": 1, "resize": 16}, None),  # it resizes images itself
    ],
)
def test_an_encoder_of_any_size_gets_that_of_its_training(tmp_path, builder, shape, options, size):
    assert inputs.native_size(saved(tmp_path / "e", builder, shape, **options)) == size


def test_a_size_that_an_encoder_was_not_trained_on_is_said(tmp_path, rng, caplog):
    card = saved(tmp_path / "e", "cnn", (8, 8, 1), width=4)
    for side, warned in ((8, False), (12, True)):
        caplog.clear()
        encoders.adapt(tmp_path / "e", card, from_arrays(rng.integers(0, 256, (10, side, side, 1), np.uint8)))
        assert ("has images of 12×12, and e was trained on 8×8" in caplog.text) == warned


def test_enlarging_more_than_twice_logs_a_warning(tmp_path, rng, caplog):
    card = saved(tmp_path / "e", widths=(4,), shape=(20, 20, 1))
    for side, warned in ((10, False), (9, True)):
        caplog.clear()
        encoders.adapt(tmp_path / "e", card, from_arrays(rng.integers(0, 256, (10, side, side, 1), np.uint8)))
        assert ("are enlarged more than 2 times" in caplog.text) == warned


def test_other_numbers_of_channels_are_refused(tmp_path, rng):
    card = saved(tmp_path / "e", widths=(4,))
    splits = from_arrays(rng.integers(0, 256, (10, 8, 8, 4), np.uint8))
    with pytest.raises(ValueError, match="e takes images with 1 channels. Received: 4"):
        encoders.adapt(tmp_path / "e", card, splits)
