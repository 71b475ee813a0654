"""The measure of all rows: which labels it reads, and what it finds in features that are known."""

import numpy as np
import pytest

from ssl_keras.choosing.yardstick import Yardstick
from ssl_keras.data.splits import Source, Splits, few_label_indices, from_arrays
from ssl_keras.downstream.columns import validation_rows
from ssl_keras.evaluation import probes

CLASSES, PER_CLASS, SEEDS = 4, 5, (0, 1, 2)


@pytest.fixture
def splits(rng):
    """400 images whose first pixels tell the class."""
    label = rng.integers(0, CLASSES, 400)
    image = rng.integers(0, 60, (400, 6, 6, 1), np.uint8)
    image[np.arange(400), 0, label] = 255
    return from_arrays(image, label)


def test_rows_are_those_of_the_label_seeds(splits):
    found = Yardstick(splits, PER_CLASS, SEEDS)
    for seed, learned, predicted in zip(SEEDS, found.learned, found.predicted):
        for source, used, rows in (
            (splits.train, found.splits.train.take(learned), few_label_indices(splits.train, PER_CLASS, seed)),
            (
                splits.validation,
                found.splits.validation.take(predicted),
                validation_rows(splits.validation, PER_CLASS, seed),
            ),
        ):
            np.testing.assert_array_equal(used.column("image"), source.column("image")[rows])
            np.testing.assert_array_equal(used.column("label"), source.column("label")[rows])
        assert len(predicted) <= len(learned) == PER_CLASS * CLASSES


def test_the_test_split_is_not_read(splits):
    class Unread(Source):
        def gather(self, *_, **__):
            raise AssertionError("the test split was read")

        column = gather

    blind = splits._replace(test=Unread("test", splits.test.arrays, splits.test.classes))
    row, measured = Yardstick(blind, PER_CLASS, SEEDS).of_baseline()
    assert row == "pixels"
    assert set(measured) == {"probe", "kNN", "RankMe"}


def test_features_that_tell_the_class_and_features_that_do_not(splits, rng):
    yardstick = Yardstick(splits, PER_CLASS, SEEDS)
    good = [np.eye(CLASSES)[source.column("label")] for source in yardstick.splits[:2]]
    measured = yardstick.of_features(*good, free=np.eye(CLASSES)[yardstick.splits.test.column("label")])
    assert measured["probe"] == measured["kNN"] == [1.0] * len(SEEDS)
    assert measured["RankMe"] == pytest.approx(CLASSES, rel=0.05)
    bad = [rng.normal(size=(len(source), 8)) for source in yardstick.splits[:2]]
    measured = yardstick.of_features(*bad)
    assert np.mean(measured["probe"]) == pytest.approx(1 / CLASSES, abs=0.2)
    assert "RankMe" not in measured
    bad[0][0, 0] = np.nan
    with pytest.raises(ValueError, match="Expected finite features"):
        yardstick.of_features(*bad)


def test_the_regularization_is_not_chosen_on_what_it_is_measured_on(splits, monkeypatch):
    """The accuracy of a seed is over all its validation labels, each by a probe that was chosen on the other half."""
    yardstick, calls = Yardstick(splits, PER_CLASS, (0,)), []

    def linear_probe(train_x, train_y, validation_x, validation_y, test_x, test_y):
        calls.append((validation_x[:, 0].tolist(), test_x[:, 0].tolist()))
        return len(calls) / 4, 1.0

    monkeypatch.setattr(probes, "linear_probe", linear_probe)
    numbered = [np.arange(len(source))[:, None] + 1.0 for source in yardstick.splits[:2]]
    measured = yardstick.of_features(*numbered)
    (first, second), (third, fourth) = calls
    assert (first, second) == (fourth, third)
    assert sorted(first + second) == (yardstick.predicted[0] + 1.0).tolist()
    classes = [
        np.bincount(yardstick.splits.validation.column("label")[np.array(half, int) - 1]) for half in (first, second)
    ]
    assert np.abs(classes[0] - classes[1]).max() <= 1
    assert measured["probe"] == [pytest.approx((0.25 * len(second) + 0.5 * len(first)) / (len(first) + len(second)))]


def test_without_labels_no_label_is_read(splits):
    bare = Splits(*(Source(source.name, {"image": source.column("image")}) for source in splits))
    yardstick = Yardstick(bare, 0, SEEDS)
    measured = yardstick.of_network(lambda image: image[:, 0, :, 0])
    assert set(measured) == {"RankMe", "LiDAR"}
    assert set(Yardstick(splits, PER_CLASS, SEEDS).of_network(lambda image: image[:, 0, :, 0])) == {
        "probe",
        "kNN",
        "RankMe",
    }
    assert 0 < measured["LiDAR"] <= 6


def test_a_class_with_too_few_labels_is_refused(splits):
    with pytest.raises(ValueError, match="has too few examples. Expected at least 300"):
        Yardstick(splits, 300, SEEDS)
