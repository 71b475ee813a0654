"""Image augmentation: against slow references, closed forms and ranges; the same eagerly and inside tf.data."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.data import augment_images as module
from ssl_keras.data.augment_images import Augmentation, augment
from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.splits import images

EVERYTHING = Augmentation(crop=0.3, flip=True, shift=0.1, color=1.0, gray=0.3, blur=0.5, cutout=0.3)
ONE_EACH = [
    Augmentation(crop=0.2),
    Augmentation(flip=True),
    Augmentation(shift=0.25),
    Augmentation(color=1.0),
    Augmentation(gray=1.0),
    Augmentation(blur=1.0),
    Augmentation(cutout=0.5),
]


def some(rng, count=64, shape=(12, 10, 3)):
    return tf.constant(rng.integers(0, 256, (count, *shape), np.uint8))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("options", [Augmentation(), EVERYTHING, *ONE_EACH])
def test_shape_dtype_and_range(rng, options, channels):
    view = augment(some(rng, shape=(12, 10, channels)), BatchRandom(0, 1, 0, 64), options)
    assert view.dtype == tf.float32
    assert view.shape == (64, 12, 10, channels)
    assert view.numpy().min() >= 0
    assert view.numpy().max() <= 1.0 + 1e-6


def test_nothing_asked_for_changes_nothing(rng):
    image = some(rng)
    plain = image.numpy() / np.float32(255)
    np.testing.assert_array_equal(augment(image, BatchRandom(0, 1, 0, 64), Augmentation()), plain)


@pytest.mark.parametrize("options", [EVERYTHING, *ONE_EACH])
def test_a_view_belongs_to_seed_step_position_and_name(rng, options):
    image = some(rng)
    whole = augment(image, BatchRandom(5, 7, 0, 64), options, "view_a")
    part = augment(image[16:48], BatchRandom(5, 7, 16, 32), options, "view_a")
    np.testing.assert_array_equal(whole[16:48], part)
    if options.gray == 1.0:
        return  # every draw gives the same gray image
    for other in (BatchRandom(6, 7, 0, 64), BatchRandom(5, 8, 0, 64), BatchRandom(5, 7, 1, 64)):
        assert np.abs(augment(image, other, options, "view_a") - whole).max() > 0.01
    assert np.abs(augment(image, BatchRandom(5, 7, 0, 64), options, "view_b") - whole).max() > 0.01


@pytest.mark.parametrize("options", [EVERYTHING, *ONE_EACH])
def test_eager_equals_tf_data(rng, options):
    source = images("mine", some(rng, 32).numpy())
    batches = Batches(
        source, 16, seed=3, preprocess=lambda b, random: b | {"view": augment(b["image"], random, options)}
    )
    for step, batch in enumerate(batches.dataset(0, 4)):
        eager = augment(tf.constant(batches.numpy(step)["image"]), BatchRandom(3, step, 0, 16), options)
        np.testing.assert_allclose(batch["view"], eager, atol=1e-6)


def test_crop_equals_a_slow_loop(rng):
    """Bilinear interpolation with pixel centers at half-integers, one output pixel at a time."""
    size, start, share = 9, 0.2, 0.55
    line = rng.random(size)
    weights = module.interpolation_matrix(size, tf.constant([start]), tf.constant([share]))[0].numpy()
    for i in range(size):
        place = start * size + (i + 0.5) * share - 0.5
        low = int(np.floor(place))
        value = (1 - (place - low)) * line[max(low, 0)] + (place - low) * line[min(low + 1, size - 1)]
        assert weights[i] @ line == pytest.approx(value, abs=1e-6)


def test_crop_equals_tensorflows(rng):
    image = some(rng, 8, (14, 14, 3))
    options = Augmentation(crop=0.3)
    random = BatchRandom(0, 0, 0, 8)
    rows, columns = module._matrices(random.uniform("view/geometry", (9,)), options, 14, 14)
    view = augment(image, random, options).numpy()
    # The boxes, read from the first and last row of the two maps.
    place = np.arange(14)
    y1, y2 = (rows.numpy()[:, i] @ place for i in (0, -1))
    x1, x2 = (columns.numpy()[:, i] @ place for i in (0, -1))
    boxes = np.stack([y1, x1, y2, x2], 1) / 13
    theirs = tf.image.crop_and_resize(tf.cast(image, tf.float32) / 255, boxes, range(8), (14, 14)).numpy()
    # At the image's edges our bilinear repeats half a pixel; TensorFlow's does not.
    inside = (boxes.min(1) > 0) & (boxes.max(1) < 1)
    assert inside.any()
    np.testing.assert_allclose(view[inside], theirs[inside], atol=1e-5)


def test_crop_areas_and_aspects():
    random = BatchRandom(0, 0, 0, 4000).uniform("view/geometry", (9,))
    rows, columns = module._matrices(random, Augmentation(crop=0.25), 28, 28)
    place = np.arange(28)
    high, wide = ((m.numpy()[:, -2] @ place - m.numpy()[:, 1] @ place) / 25 for m in (rows, columns))
    area, aspect = high * wide, wide / high
    assert 0.24 < area.min() < 0.27
    assert 0.95 < area.max() <= 1.001
    assert aspect.min() > 0.74
    assert aspect.max() < 1.34
    assert np.corrcoef(area, aspect)[0, 1] == pytest.approx(0, abs=0.06)


def test_flip_mirrors_half(rng):
    image = some(rng, 400)
    view = augment(image, BatchRandom(0, 0, 0, 400), Augmentation(flip=True)).numpy()
    plain = image.numpy() / np.float32(255)
    same = np.array([np.abs(v - p).max() < 1e-6 for v, p in zip(view, plain)])
    mirrored = np.array([np.abs(v - p[:, ::-1]).max() < 1e-6 for v, p in zip(view, plain)])
    assert (same | mirrored).all()
    assert 0.4 < mirrored.mean() < 0.6


def test_shift_brings_in_black():
    view = augment(tf.ones((500, 20, 20, 1)), BatchRandom(0, 0, 0, 500), Augmentation(shift=0.2)).numpy()[..., 0]
    lost = (view == 0).all(2).sum(1)  # rows that the shift uncovered
    assert lost.max() == 4
    assert lost.min() == 0
    assert set(np.unique(view)) == {0.0, 1.0}


def test_colors_have_their_closed_forms(rng):
    image = rng.random((300, 6, 6, 3)).astype(np.float32) * 0.2 + 0.4
    gray = augment(tf.constant(image), BatchRandom(0, 0, 0, 300), Augmentation(gray=1.0)).numpy()
    np.testing.assert_allclose(gray, np.repeat(image @ np.float32(module.LUMA)[:, None], 3, 3), atol=1e-5)
    # A gray image has no hue to change.
    flat = np.repeat(image[..., :1], 3, 3)
    view = augment(tf.constant(flat), BatchRandom(0, 0, 0, 300), Augmentation(color=0.3)).numpy()
    np.testing.assert_allclose(view[..., 0], view[..., 2], atol=1e-5)
    # Brightness and contrast in one: the mean is multiplied by the brightness, distances by both.
    means, spreads = view.mean((1, 2, 3)) / flat.mean((1, 2, 3)), view.std((1, 2, 3)) / flat.std((1, 2, 3))
    assert 1 - 0.25 < means.min() < 0.8
    assert 1.2 < means.max() < 1.25
    assert spreads.min() > (1 - 0.25) ** 2
    assert spreads.max() < 1.25**2
    assert 0.1 < np.mean(np.abs(spreads - 1) < 1e-4) < 0.3  # a fifth has no jitter


def test_hue_turns_round_gray():
    turn = module._turn(tf.constant([0.0, 1.0, -1.0])).numpy()
    np.testing.assert_allclose(turn[0], np.eye(3), atol=1e-5)
    np.testing.assert_allclose(turn[1] @ turn[2], np.eye(3), atol=1e-5)
    for matrix in turn:
        np.testing.assert_allclose(matrix @ np.ones(3), np.ones(3), atol=1e-5)
        np.testing.assert_allclose(np.array(module.LUMA) @ matrix, module.LUMA, atol=1e-5)


def test_blur_keeps_the_mean_inside_and_lowers_the_spread(rng):
    matrix = module.blur_matrix(15, tf.constant([0.8])).numpy()[0]
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    center = np.exp(-0.5 * (np.arange(15) - 7) ** 2 / 0.8**2)
    np.testing.assert_allclose(matrix[7], center / center.sum(), atol=1e-6)
    image = some(rng, 200)
    view = augment(image, BatchRandom(0, 0, 0, 200), Augmentation(blur=1.0)).numpy()
    assert view.std() < 0.9 * (image.numpy() / 255).std()
    half = augment(image, BatchRandom(0, 0, 0, 200), Augmentation(blur=0.5)).numpy()
    untouched = [np.abs(v - i / 255).max() < 1e-5 for v, i in zip(half, image.numpy())]
    assert 0.35 < np.mean(untouched) < 0.65


def test_cutout_hides_at_most_its_square():
    view = augment(tf.ones((500, 20, 20, 1)), BatchRandom(0, 0, 0, 500), Augmentation(cutout=0.5)).numpy()[..., 0]
    hidden = (view == 0.5).sum((1, 2))
    assert set(np.unique(view)) == {0.5, 1.0}
    assert hidden.max() == 100
    assert 20 <= hidden.min() < 50


@pytest.mark.parametrize(
    "bad",
    [{"crop": 0.0}, {"crop": 1.5}, {"shift": -0.1}, {"color": 2.0}, {"gray": 1.1}, {"blur": -1.0}, {"cutout": 2.0}],
)
def test_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=rf"{next(iter(bad))} must be (in \(0, 1\]|0 to 1)"):
        Augmentation(**bad)
    assert dataclasses.asdict(Augmentation()).keys() >= bad.keys()
