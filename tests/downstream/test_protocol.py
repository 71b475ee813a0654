"""The evaluation's protocol: what each column may choose by, and what a killed evaluation keeps."""

import dataclasses

import keras
import numpy as np
import pytest

from ssl_keras import encoders
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Source, Splits
from ssl_keras.downstream import report
from ssl_keras.downstream.columns import ALL, validation_rows
from ssl_keras.downstream.grids import Grid
from ssl_keras.downstream.measured import Measured
from ssl_keras.downstream.table import Prober, evaluate
from ssl_keras.downstream.trained_rows import Trainer
from ssl_keras.networks import Network

GRID = Grid((1e-5, 1e-2), (5, 20), (1,), 32, 64)


@pytest.fixture(scope="module")
def digits():
    return load("digits", 8)


def disturbed(splits, kept):
    """The splits with images of the next class for all validation examples but those kept.

    On these, what has learned most is wrong most often.
    """
    image, label = (splits.validation.column(name) for name in ("image", "label"))
    first = np.array([np.flatnonzero(label == (each + 1) % 10)[0] for each in label])
    first[kept] = kept
    changed = dataclasses.replace(splits.validation, arrays={"image": image[first], "label": label}, rows=None)
    return Splits(splits.train, changed, splits.test)


def test_a_choice_uses_no_more_labels_than_training(digits):
    label = digits.validation.column("label")
    rows = validation_rows(digits.validation, 3, seed=1)
    assert np.bincount(label[rows]).max() == 3
    assert np.bincount(label[rows]).min() == 3
    assert list(rows) == sorted(set(rows))
    assert list(rows) != list(validation_rows(digits.validation, 3, seed=2))
    assert list(validation_rows(digits.validation, 3, seed=1)) == list(rows)
    assert len(validation_rows(digits.validation, 1000, 0)) == len(label)  # a class has no more
    assert len(validation_rows(digits.validation, ALL, 0)) == len(label)


def test_probes_choose_by_few_labels(digits):
    prober = Prober((3,), (0, 1), None)
    images = [part.column("image").reshape(len(part), -1) / 255 for part in digits]
    kept = np.union1d(*(validation_rows(digits.validation, 3, seed) for seed in (0, 1)))
    first, probabilities = prober.features(images, digits)
    validation = disturbed(digits, kept).validation.column("image").reshape(len(images[1]), -1) / 255
    other, _ = prober.features([images[0], validation, images[2]], digits)
    assert first["3 per class"] == other["3 per class"]
    assert len(first["3 per class"]) == 2
    assert first["3 per class, whole validation"] != other["3 per class, whole validation"]
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert np.mean(probabilities.argmax(1) == digits.test.column("label")) == first[ALL][0]


@pytest.mark.fit
def test_training_chooses_by_few_labels(digits):
    keras.utils.set_random_seed(1)
    encoder = Network("dense", image_shape=(8, 8, 1), widths=(16,)).build()
    card = {"features": 16, "input": {"image": {}}}
    kept = np.union1d(*(validation_rows(digits.validation, 1, seed) for seed in (0, 1)))
    trainer = Trainer(encoder, card, digits, GRID)
    first, none = trainer.row(1, (0, 1))
    trainer.splits = disturbed(digits, kept)
    other, _ = trainer.row(1, (0, 1))  # from the same weights again
    assert first["1 per class"] == other["1 per class"]
    assert first.keys() == {"1 per class", "1 per class, whole validation"}
    assert first["1 per class, whole validation"] != other["1 per class, whole validation"]
    assert none is None
    row, probabilities = trainer.row(ALL, (0,))
    assert row.keys() == {ALL, "noise", "shift"}
    assert np.mean(probabilities.argmax(1) == digits.test.column("label")) == row[ALL][0]


def test_measured_rows_are_kept(tmp_path):
    calls = []

    def measure():
        calls.append(1)
        return {"all": [0.5], "3 per class": [0.1, 0.3]}, np.full((4, 2), 0.5)

    for digest, expected in (("a", 1), ("a", 1), ("b", 2)):
        measured = Measured(tmp_path / "progress", digest)
        measured.add("pixels", "probes", measure)
        assert len(calls) == expected
        few = (pytest.approx(0.2), pytest.approx(0.1414, abs=1e-4))
        assert measured.table() == {"pixels": {"all": (0.5, 0.0), "3 per class": few}}
        np.testing.assert_array_equal(measured.predictions["pixels"], np.full((4, 2), 0.5, np.float32))
    other = Measured(tmp_path / "progress", "a", writes=False)
    other.add("pixels", "probes", measure)
    assert Measured(tmp_path / "progress", "b").done  # who does not write leaves the file as it is


@pytest.mark.parametrize("name", ["rows.json", "*.npy"])
def test_damaged_rows_are_measured_again(name, tmp_path, caplog):
    measured = Measured(tmp_path / "progress", "a")
    measured.add("pixels", "probes", lambda: ({"all": [0.5]}, np.full((4, 2), 0.5)))
    [path] = (tmp_path / "progress").glob(name)
    path.write_bytes(path.read_bytes()[:-9])
    again = Measured(tmp_path / "progress", "a")
    assert not again.done
    assert not again.predictions
    assert "damaged" in caplog.text


def test_differences_are_paired_by_label_seed():
    measured = Measured()
    scores = {"tuned, fine-tuned": [0.8, 0.6, 0.7], "scratch": [0.7, 0.5, 0.6], "pixels": [0.2, 0.3, 0.1]}
    for row, column in scores.items():
        measured.add(row, "all", lambda column=column: ({"3 per class": column, "all": column[:1]}, None))
    found = measured.differences()
    assert found.keys() == {"tuned, fine-tuned", "pixels"}
    assert found["tuned, fine-tuned"]["3 per class"].mean == pytest.approx(0.1)
    low, high = found["tuned, fine-tuned"]["3 per class"].interval
    assert low == pytest.approx(high)  # the rows differ by seed, their difference does not
    text = report.differences(found)
    assert "| tuned, fine-tuned | +10.0 [+10.0, +10.0] |" in text
    assert "all" not in text.partition("\n")[0]  # a single seed has no interval
    assert report.differences({}) == ""


@pytest.mark.slow
@pytest.mark.fit
def test_a_killed_evaluation_resumes(digits, tmp_path, monkeypatch):
    """`test_measured_rows_are_kept` covers the files."""
    encoder = Network("dense", image_shape=(8, 8, 1), widths=(16,)).build()
    encoders.save_encoder(tmp_path / "small", encoder, spec=digits.train.spec())
    grid = Grid((1e-2,), (5,), (1,), 32, 64)
    whole = evaluate(tmp_path / "small", digits, (2,), (0,), grid=grid, whole_validation=True)
    row, calls = Trainer.row, []

    def dies(trainer, budget, seeds):
        calls.append(budget)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return row(trainer, budget, seeds)

    monkeypatch.setattr(Trainer, "row", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path / "small", digits, (2,), (0,), grid=grid, measured=Measured(tmp_path / "progress", "a"))
    again = evaluate(
        tmp_path / "small",
        digits,
        (2,),
        (0,),
        grid=grid,
        whole_validation=True,
        measured=Measured(tmp_path / "progress", "a"),
    )
    assert calls == [ALL, 2, ALL, ALL, 2]
    assert again == whole


def test_the_norm_of_text_features_plays_no_part(rng):
    """Only the direction of the features of texts is probed."""
    label = np.tile([0, 1], 60)
    x = rng.normal(size=(120, 4)) + label[:, None]
    scaled = x * rng.uniform(0.1, 10, (120, 1))
    rows = np.arange(40), np.arange(40, 80), np.arange(80, 120)
    source = Source("texts", {"tokens": np.zeros((120, 1), np.int32), "label": label}, ("a", "b"))
    splits = Splits(*(source.take(part) for part in rows))
    prober = Prober((3,), (0, 1), None)
    first, other = (prober.features([each[part] for part in rows], splits)[0] for each in (x, scaled))
    for name in ("kNN", ALL, "3 per class", "feature sd"):
        assert first[name] == pytest.approx(other[name])
    assert first["RankMe"] != pytest.approx(other["RankMe"])
