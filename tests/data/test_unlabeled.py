"""Labeled and unlabeled images in one source."""

import dataclasses

import numpy as np
import pytest

from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import load
from ssl_keras.data.splits import few_labels, from_arrays
from ssl_keras.data.unlabeled import undivided, with_unlabeled, without_copies


@pytest.fixture(scope="module")
def digits():
    return load("digits", 8)


def test_an_epoch_has_each_unlabeled_image_once_and_all_labeled_ones_equally_often(digits):
    labeled = few_labels(digits.train, 3, 0)
    # Images that say who they are.
    numbers = np.arange(len(digits.train)).astype(np.uint16).view(np.uint8).reshape(-1, 1, 2, 1)
    unlabeled = dataclasses.replace(digits.train, arrays={"image": numbers}, rows=None)
    own = dataclasses.replace(
        labeled, arrays=labeled.arrays | {"image": np.tile(labeled.arrays["image"][:, :1, :2], 1)}
    )
    joined = with_unlabeled(own, unlabeled, 4, seed=0)
    assert joined.spec()["unlabeled"][0] == (4, 1, 2, 1)
    assert len(joined) == -(-len(digits.train) // 4)
    found = np.ascontiguousarray(joined.column("unlabeled")).reshape(-1, 2).view(np.uint16).ravel()
    assert len(set(found.tolist())) == len(digits.train)  # the last row is filled up with the first images
    np.testing.assert_array_equal(found[len(digits.train) :], found[: len(found) - len(digits.train)])
    assert not np.array_equal(found, np.sort(found))
    counts = np.bincount(joined.column("label"), minlength=10)
    assert counts.max() - counts.min() <= 3
    again = with_unlabeled(own, unlabeled, 4, seed=0)
    assert again.fingerprint() == joined.fingerprint() != with_unlabeled(own, unlabeled, 4, seed=1).fingerprint()


def test_images_keep_their_labels(digits):
    labeled = few_labels(digits.train, 2, 0)
    joined = with_unlabeled(labeled, digits.train, 3, seed=0)
    known = {image.tobytes(): label for image, label in zip(labeled.column("image"), labeled.column("label"))}
    batch = Batches(joined, 16, seed=1).numpy(5)
    assert batch["unlabeled"].shape == (16, 3, 8, 8, 1)
    assert [known[image.tobytes()] for image in batch["image"]] == list(batch["label"])


def test_all_images_of_a_pool_are_used_but_no_held_out_ones(digits):
    pool = undivided(digits)
    assert len(pool.train) == sum(map(len, digits))
    kept = without_copies(pool.train, digits[1:])
    held_out = {image.tobytes() for source in digits[1:] for image in source.column("image")}
    expected = [image for image in pool.train.column("image") if image.tobytes() not in held_out]
    np.testing.assert_array_equal(kept.column("image"), expected)
    assert len(digits.train) - 10 < len(kept) <= len(digits.train)


def test_splits_that_came_with_the_data_stay_apart(rng):
    image = rng.integers(0, 256, (50, 4, 4, 1), np.uint8)
    splits = from_arrays(image[:40], test=(image[40:], None))
    pool = undivided(splits)
    np.testing.assert_array_equal(pool.train.column("image"), image[:40])  # its validation split was held out of these
    assert pool.test is splits.test


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((40, 9, 8, 1), np.uint8), r"Expected unlabeled images \(8, 8, 1\) uint8. Received: \(9, 8, 1\)"),
        (np.zeros((40, 8, 8, 3), np.uint8), r"Received: \(8, 8, 3\) uint8"),
        (np.zeros((40, 8, 8, 1), np.float32), "Received: .* float32"),
        (np.zeros((3, 8, 8, 1), np.uint8), "too few images. Expected at least 7"),
    ],
)
def test_unlabeled_images_that_do_not_fit_are_refused(digits, image, message):
    with pytest.raises(ValueError, match=message):
        with_unlabeled(few_labels(digits.train, 2, 0), from_arrays(image).train, 7, seed=0)


def test_copies_are_found_whatever_the_memory_layout(rng):
    image = rng.integers(0, 256, (20, 6, 4, 3), np.uint8)
    plain, channels_first = (
        from_arrays(image).train,
        from_arrays(np.moveaxis(image.transpose(0, 3, 1, 2).copy(), 1, -1)),
    )
    assert not len(without_copies(plain, [channels_first.train]))
