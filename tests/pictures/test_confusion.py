"""The picture of a confusion matrix."""

import io

import matplotlib
import numpy as np
import pytest

from ssl_keras.pictures.confusion import MAX_NAME, class_labels, confusion_figure

ODD = ["T-shirt/top", "中文类别", "$\\frac$", "", "line\nbreak", "العربية", "\ud800", "=1", "😀", "a" * 99]


def draw(figure):
    """Draws a figure with all warnings as errors, such as those about characters without a glyph."""
    figure.savefig(io.BytesIO(), format="png", dpi=30, bbox_inches="tight")


def texts(axes):
    return [text.get_text() for text in axes.texts]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [2, 16, 101])
def test_cells_are_percent_of_the_true_class(count, rng):
    matrix = rng.integers(1, 9, (count, count))
    matrix[1] = 0  # a class without examples
    figure = confusion_figure(matrix, [f"name {i}" for i in range(count)])
    draw(figure)
    axes = figure.axes[0]
    percent = axes.images[0].get_array()
    np.testing.assert_allclose(percent[0], 100 * matrix[0] / matrix[0].sum())
    assert percent.mask[1].all()
    assert not percent.mask[0].any()
    assert bool(texts(axes)) == (count <= 15)
    assert len(figure.axes) == 1 + (count > 15)  # the color bar
    named = [label.get_text() for label in axes.get_yticklabels()]
    assert (named == [f"name {i}" for i in range(count)]) == (count <= 100)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_rows_are_true_classes():
    figure = confusion_figure(np.array([[3, 1], [0, 2]]), ["a", "b"])
    assert {text.get_position(): text.get_text() for text in figure.axes[0].texts} == {
        (0, 0): "75",
        (1, 0): "25",  # x is the predicted class
        (1, 1): "100",
    }


def test_only_all_is_100_and_only_nothing_is_0():
    figure = confusion_figure(np.array([[999, 1], [0, 1]]), ["a", "b"])
    assert texts(figure.axes[0]) == [">99", "<1", "100"]


@pytest.mark.filterwarnings("error")
def test_odd_names():
    labels = class_labels(ODD)
    assert labels[:5] == ["T-shirt/top", "class 1", "$\\frac$", "class 3", "line\\nbreak"]
    assert labels[6:8] == ["\\ud800", "=1"]
    assert len(labels[9]) == MAX_NAME
    draw(confusion_figure(np.eye(len(ODD), dtype=int), ODD))


def test_shortened_names_differ():
    same = [f"{'a' * 30}{i}{'b' * 30}" for i in range(3)]
    assert class_labels([*same, "c"]) == ["class 0", "class 1", "class 2", "c"]
    assert class_labels([f"n0144{i}, {'of the same kind ' * 3}number {i}" for i in range(2)]) == [
        "n01440, of the …number 0",
        "n01441, of the …number 1",
    ]


def test_fonts_that_are_set_are_used():
    """A character that only the second font of the setting has."""
    only = "⌚"
    assert class_labels([only]) == ["class 0"]
    with matplotlib.rc_context({"font.family": ["DejaVu Sans", "STIXGeneral"]}):
        assert class_labels([only]) == [only]
        draw(confusion_figure(np.eye(2, dtype=int), [only, "b"]))
