"""The masked autoencoder: a NumPy loop, closed forms, invariances and, in slow tests, `transformers`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contract import small_digits

from ssl_keras.data.random import BatchRandom
from ssl_keras.networks import Network
from ssl_keras.objectives import masked_autoencoder as mae

SMALL = {"width": 16, "layers": 1, "decoder_width": 8, "decoder_layers": 1, "crop": 1.0, "flip": False}
SPEC = {"image": ((16, 16, 3), tf.uint8)}


def build(seed=0, **options):
    keras.utils.set_random_seed(seed)
    return mae.build(mae.Settings(**SMALL | options), SPEC)


def batch_of(rng, size=3):
    return {
        "image": tf.constant(rng.random((size, 16, 16, 3)), tf.float32),
        "noise": tf.constant(rng.random((size, 16)), tf.float32),
    }


@pytest.mark.parametrize("normalize", [True, False])
def test_the_loss_equals_a_loop(rng, normalize):
    objective, batch = build(normalize_pixels=normalize), batch_of(rng)
    predicted, _ = objective.predict_patches(objective.pixels(batch["image"]), batch["noise"])
    total, losses = 0.0, []
    for image, noise, guess in zip(batch["image"].numpy(), batch["noise"].numpy(), predicted.numpy()):
        losses.append([])
        for patch in np.argsort(noise)[4:]:  # a quarter of 16 patches is visible
            row, column = divmod(patch, 4)
            x = (image[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].reshape(-1).astype(float) - 0.5) / 0.5
            if normalize:
                x = (x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-6)
            losses[-1].append(np.mean((guess[patch] - x) ** 2))
        total += np.mean(losses[-1])
    assert len(losses[0]) == 12
    loss, count = objective.batch_loss(batch, training=False)
    assert float(loss) == pytest.approx(total, rel=1e-5)
    assert float(count) == 3


def test_predicting_the_mean_costs_the_variance(rng):
    """A decoder of zeros predicts each patch's mean: K patch pixels with unbiased variance cost (K − 1)/K."""
    objective = build()
    for variable in objective.head.get_layer("pixels").variables:
        variable.assign(tf.zeros_like(variable))
    loss, count = objective.batch_loss(batch_of(rng), training=False)
    assert float(loss / count) == pytest.approx(47 / 48, rel=1e-4)


def test_the_encoder_sees_the_visible_patches_only(rng):
    objective, batch = build(), batch_of(rng)
    pixels = objective.pixels(batch["image"])
    states, place = objective.states(pixels, batch["noise"])
    assert states.shape == (3, 5, 16)
    hidden = (place.numpy() >= 4).reshape(3, 4, 4).repeat(4, 1).repeat(4, 2)[..., None]
    other = tf.where(hidden, -pixels, pixels)
    np.testing.assert_array_equal(objective.states(other, batch["noise"])[0], states)
    assert np.abs(objective.states(-other, batch["noise"])[0] - states).max() > 1e-3
    np.testing.assert_array_equal(hidden.mean((1, 2, 3)), [0.75] * 3)


def test_contrast_and_brightness_do_not_matter_to_targets(rng):
    objective, batch = build(), batch_of(rng)
    pixels = objective.pixels(batch["image"])
    target = objective.targets(pixels)[0]
    np.testing.assert_allclose(objective.targets(3 * pixels + 1)[0], target, atol=1e-4)
    plain = build(normalize_pixels=False)
    assert np.abs(plain.targets(3 * pixels + 1)[0] - plain.targets(pixels)[0]).max() > 1


def test_all_patches_visible_gives_the_encoders_features(rng):
    """The states of all patches in any order have the mean that the encoder returns."""
    objective, batch = build(), batch_of(rng)
    objective.visible = 16
    states, _ = objective.states(objective.pixels(batch["image"]), batch["noise"])
    np.testing.assert_allclose(tf.reduce_mean(states[:, 1:], 1), objective.encoder(batch["image"]), atol=1e-5)


def test_masks_depend_on_the_position_alone(rng):
    objective = build()
    image = {"image": tf.constant(rng.integers(0, 256, (8, 16, 16, 3)), tf.uint8)}
    whole = objective.preprocess(image, BatchRandom(0, 5, 0, 8))
    half = objective.preprocess({"image": image["image"][4:]}, BatchRandom(0, 5, 4, 4))
    for name in ("image", "noise"):
        np.testing.assert_array_equal(whole[name][4:], half[name])


def test_pictures(rng):
    objective, batch = build(), batch_of(rng)
    image, masked, rebuilt = objective.report(batch, None, None).images["reconstructions"]
    np.testing.assert_allclose(image, batch["image"], atol=1e-3)
    is_gray = (masked.numpy() == 0.5).all(-1)
    assert is_gray.mean() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_allclose(rebuilt.numpy()[~is_gray], image.numpy()[~is_gray], atol=1e-6)
    assert np.abs(rebuilt.numpy()[is_gray] - image.numpy()[is_gray]).max() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 5}, "sides are multiples of the patch of 5 pixels.*Received: 16×16. Use --image-size 15"),
        ({"patch": 8, "mask_ratio": 0.9}, "hides at least 1 of 4 patches.*Received: 0.9, which leaves 0"),
        ({"patch": 16}, "hides at least 1 of 1 patches"),
    ],
)
def test_masks_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mae.prepare(mae.Settings(**SMALL | options), small_digits())


def test_an_encoder_that_resizes_images_to_a_size_that_does_not_fit_names_the_remedy():
    encoder = Network("vit", image_shape=(20, 20, 3), width=16, layers=1, patch=5, resize=16)
    words = "16×16, the size that the encoder gives.*--keep-size, and use --image-size 15"
    with pytest.raises(ValueError, match=words):
        mae.build(mae.Settings(), {"image": ((20, 20, 3), tf.uint8)}, encoder=encoder)


def test_other_encoders_are_refused():
    with pytest.raises(ValueError, match="network must be vit. Received: 'cnn'"):
        mae.Settings(network="cnn")
    with pytest.raises(ValueError, match=r"must be a graph of networks.vit.vit"):
        mae.build(mae.Settings(), SPEC, encoder=Network("cnn", image_shape=(16, 16, 3), width=2))
    with pytest.raises(ValueError, match="continues from a vision transformer. Received: init='contrastive-fashion"):
        mae.prepare(mae.Settings(), small_digits(), init="contrastive-fashion_mnist")
    with pytest.raises(ValueError, match="decoder_width must be a multiple of 4. Received: 6"):
        mae.Settings(decoder_width=6)
    for ratio in (0, 1):
        with pytest.raises(ValueError, match=r"mask_ratio must be in \(0, 1\)"):
            mae.Settings(mask_ratio=ratio)
