"""Arrays, labels and class names from Python: what is converted, noted or refused, with advice."""

import numpy as np
import pytest

from ssl_keras.data import audio
from ssl_keras.data.labels import class_names
from ssl_keras.data.readers.text import from_texts
from ssl_keras.data.splits import few_labels, from_arrays, images

IMAGE, LABEL = np.zeros((20, 4, 4), np.float32), np.arange(20) % 2
TEXTS = [f"word {i}" for i in range(20)]


def masked(array):
    return np.ma.masked_equal(array, array.flat[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: from_arrays(masked(IMAGE)),
        lambda: from_arrays([masked(one) for one in IMAGE]),
        lambda: from_arrays(IMAGE, masked(LABEL)),
        lambda: from_arrays(IMAGE, test=(masked(IMAGE), None)),
        lambda: from_texts(TEXTS, masked(LABEL)),
        lambda: audio.clips("c", [masked(np.arange(800, dtype=np.int16))], 8_000),
    ],
)
def test_masked_values_are_an_error(make):
    with pytest.raises(ValueError, match=r"some values are masked. .*\.filled\(value\), or drop"):
        make()


def test_a_mask_of_nothing_is_dropped():
    splits = from_arrays(np.ma.array(IMAGE), np.ma.array(LABEL))
    assert type(splits.train.arrays["image"]) is type(splits.train.arrays["label"]) is np.ndarray


@pytest.mark.parametrize(
    "classes",
    [np.array(["a", "b"]), ["a", "b"], ("a", "b"), np.array(["a", "b"], object), (each for each in "ab")],
)
def test_any_sequence_of_class_names(classes):
    assert from_arrays(IMAGE, LABEL, classes=classes).test.classes == ("a", "b")


def test_class_names_of_other_kinds():
    assert class_names("it", [3, np.int64(7)]) == ("3", "7")
    for classes, received in [
        (["a", "a"], "'a' twice"),
        (["1", 1], "'1' twice"),
        ("ab", "str"),
        ({0: "a", 1: "b"}, "dict"),
        ({"a", "b"}, "set"),
        (2, "int"),
        (["a", None], "None"),
        ([True, False], "True"),
        ([0.5, 1.5], "0.5"),
    ]:
        with pytest.raises(ValueError, match=f"expected class names as a list .* Received: {received}"):
            from_texts(TEXTS, LABEL, classes=classes)


@pytest.mark.parametrize(
    ("label", "advice"),
    [
        (np.array(["cat", "dog"])[LABEL], r"np.unique\(label, return_inverse=True\)"),
        (np.eye(2)[LABEL], r"label.argmax\(axis=1\)"),
        (LABEL[:, None], r"label\[:, 0\]"),
        (LABEL == 1, r"label.astype\(int\)"),
        (LABEL.astype(float), r"label.astype\(int\)"),
        (LABEL + 0.5, "np.unique"),
        (LABEL + 1_000, "np.unique"),
        (LABEL[:3], r"Received: dtype int64, shape \(3,\)"),
        ([[0], [0, 1]] * 3, "sequences of different lengths, .* in a list. Convert them"),
    ],
)
def test_the_error_tells_how_to_convert_labels(label, advice):
    for make in (lambda: from_arrays(IMAGE, label), lambda: from_texts(TEXTS, label)):
        with pytest.raises(ValueError, match=f"expected .*label.*{advice}"):
            make()


@pytest.mark.parametrize(
    ("image", "advice"),
    [
        (IMAGE.astype(np.int32) + 255, r"image.astype\(np.uint8\)"),
        (IMAGE.astype(bool), r"image.astype\(np.float32\)"),
        (IMAGE.astype(np.int32) + 1_000, "from 1000 to 1000: rescale"),
    ],
)
def test_the_error_tells_how_to_convert_images(image, advice):
    with pytest.raises(ValueError, match=f"expected uint8 images.*{advice}"):
        images("mine", image)


def test_labels_without_examples_are_noted():
    splits = from_arrays(IMAGE, np.array([1, 2, 5, 2] * 5))
    assert (
        "3 of the labels 0 to 5 have no examples: 0, 3, 4. To leave them out: classes, label" in splits.train.notes[0]
    )
    assert not from_arrays(IMAGE, LABEL).train.notes
    assert not from_arrays(IMAGE, LABEL, classes=["a", "b", "c"]).train.notes
    with pytest.raises(ValueError, match="class '0' has too few .* Received: 0. Leave out classes without examples"):
        few_labels(splits.train, 1, 0)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (IMAGE, r"expected test=\(examples, labels\).* Received: ndarray"),
        ((IMAGE,), "Received: tuple of length 1"),
        (["a", "b"], "Received: list of length 2"),
        ((IMAGE, LABEL), "Received: labels of the test split only"),
    ],
)
@pytest.mark.parametrize(
    "make", [lambda test: from_arrays(IMAGE, test=test), lambda test: from_texts(TEXTS, test=test)]
)
def test_a_test_split_is_a_pair(make, test, message):
    with pytest.raises(ValueError, match=message):
        make(test)


def test_labels_of_the_training_split_only_are_an_error():
    for make in (
        lambda: from_arrays(IMAGE, LABEL, test=(IMAGE, None)),
        lambda: from_texts(TEXTS, LABEL, test=(TEXTS, None)),
    ):
        with pytest.raises(ValueError, match="Received: labels of the training split only"):
            make()


def test_texts_of_other_kinds(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    assert len(from_texts(text for text in TEXTS).train) == 15
    for texts, received in [
        (tmp_path / "a.txt", "PosixPath"),
        (b"words", "bytes"),
        ({"a": "b"}, "dict"),
        (None, "NoneType"),
        (5, "int"),
        (np.array([["a", "b"]]), "ndarray at index 0"),
        ([["a"], ["b"]], "list at index 0"),
        (["a", None], "NoneType at index 1"),
        (np.ma.masked_equal(["a", "b"], "a"), "MaskedConstant at index 0"),
    ]:
        with pytest.raises(ValueError, match=f"expected (a list of )?strings. Received: {received}"):
            from_texts(texts)
