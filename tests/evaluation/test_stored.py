"""Stored features: computed once, identified by weights and data, and rebuilt if damaged."""

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
import teachers
from contract import small_digits

from ssl_keras import encoders
from ssl_keras.data import cache
from ssl_keras.data.splits import Splits, from_arrays
from ssl_keras.evaluation import features, stored
from ssl_keras.evaluation.stored import Features


@pytest.fixture
def few():
    return Splits(*(part.take(np.arange(30)) for part in small_digits()))


@pytest.fixture
def computed(monkeypatch):
    """The sizes of the sources whose features are computed."""
    sizes = []

    def extract(network, source):
        sizes.append(len(source))
        return features.extract_features(network, source)

    monkeypatch.setattr(stored, "extract_features", extract)
    return sizes


def entries():
    return sorted(path for path in cache.cache_folder().iterdir() if path.is_dir())


def test_features_are_computed_once_in_chunks(few, computed, monkeypatch):
    monkeypatch.setattr(stored, "CHUNK", 20)
    name = teachers.saved("image")
    first = stored.compute(name, few)
    assert computed == [20, 10] * 3
    again = stored.compute(name, few)
    assert computed == [20, 10] * 3
    network = encoders.load_encoder(name)
    for source, (values, content), (same, same_content) in zip(few, first, again):
        np.testing.assert_allclose(values, features.extract_features(network, source), atol=1e-6)
        np.testing.assert_array_equal(values, same)
        assert content == same_content
    assert len(entries()) == 3


def test_another_teacher_and_other_data_have_files_of_their_own(few, computed, tmp_path):
    stored.compute(teachers.saved("image"), few)
    stored.compute(teachers.save(tmp_path / "copy", "image"), few)
    assert len(entries()) == len(computed) == 3  # the same weights, under another name
    stored.compute(teachers.save(tmp_path / "other", "image", seed=1), few)
    assert len(entries()) == len(computed) == 6
    changed = few.train.column("image").copy()
    changed[0, 0, 0] += 1
    train = dataclasses.replace(few.train, arrays=few.train.arrays | {"image": changed}, rows=None)
    train = dataclasses.replace(train, arrays={"image": changed, "label": few.train.column("label")})
    stored.compute(teachers.saved("image"), few._replace(train=train))
    assert len(entries()) == len(computed) == 7


def test_a_damaged_file_is_rebuilt(few, computed, caplog):
    name = teachers.saved("image")
    expected = [np.array(values) for values, _ in stored.compute(name, few)]
    path = entries()[0] / "features.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for (values, _), right in zip(stored.compute(name, few), expected):
        np.testing.assert_array_equal(values, right)
    assert len(computed) == 4
    assert "is damaged (features.npy has changed). Rebuilding it." in caplog.text


def test_features_that_are_not_finite_are_refused(few, monkeypatch):
    def broken(network, source):
        made = np.ones((len(source), 24), np.float32)
        made[7, 3] = np.nan
        return made

    monkeypatch.setattr(stored, "extract_features", broken)
    with pytest.raises(ValueError, match=r"Received: 1 of 30 examples with NaN or infinity, the first at index 7"):
        stored.compute(teachers.saved("image"), few)
    assert not entries()


def test_a_custom_architecture_is_refused(few, tmp_path):
    inputs = keras.Input((16, 16, 1))
    network = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    encoders.save_encoder(tmp_path / "own", network, spec=teachers.SPECS["image"])
    with pytest.raises(ValueError, match="has a custom architecture"):
        stored.compute(str(tmp_path / "own"), few)


def test_a_column_of_a_part_of_the_rows(rng):
    values = rng.random((3, 2), np.float32)
    column = Features(values, ["key"], np.array([4, 0, 2]), 6)
    assert (column.shape, len(column), column.dtype) == ((6, 2), 6, np.float32)
    np.testing.assert_array_equal(column[np.array([2, 4])], values[[2, 0]])
    with pytest.raises(IndexError):
        column[np.array([1])]
    assert column.digest() != Features(values, ["other"], None, 3).digest()
    np.testing.assert_array_equal(Features(values, ["key"], None, 3)[:2], values[:2])


def test_examples_of_memory_mapped_images_keep_their_place(computed):
    whole = from_arrays(np.arange(40 * 256, dtype=np.uint32).reshape(40, 16, 16).astype(np.uint8))
    made = stored.compute(teachers.saved("image"), whole)
    part = stored.with_features(whole.test, *made[2])
    assert part.rows is not None
    np.testing.assert_array_equal(part.column("features"), made[2][0])
    assert pathlib.Path(made[2][0].filename).parent in entries()
