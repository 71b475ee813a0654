"""Passages: no text is lost, none is too long, and labels follow."""

import numpy as np
import pytest

from ssl_keras.data.passages import cut_into_passages
from ssl_keras.data.readers.text import documents
from ssl_keras.data.splits import Splits


def cut(texts, most, **options):
    source = documents("texts", texts, **options)
    return cut_into_passages(Splits(source, source, source), most).train


def test_a_text_is_cut_at_spaces_and_line_ends():
    text = "one two three\nfour five " * 9 + "x" * 50
    made = list(cut([text, "short text "], 20).column("text"))
    assert made[-1] == "short text "
    assert max(map(len, made)) <= 20
    assert "".join("".join(made[:-1]).split()) == "".join(text.split())
    assert made[0] == "one two three\nfour"
    assert made[-3] == "x" * 20  # a word that is longer than a passage


def test_a_passage_has_the_label_of_its_text():
    made = cut(["a b c d e f g h", "i", " " * 30, "j k l m n o"], 6, label=[1, 0, 1, 0], classes=["x", "y"])
    text, label = made.column("text"), made.column("label")
    assert [label[list(text).index(first)] for first in ("a b c", "i", "j k l")] == [1, 0, 0]
    assert len(text) == len(label) == len(made)
    assert all(text)


def test_the_text_of_a_split_alone_is_cut():
    source = documents("texts", [f"text {index}" for index in range(9)])
    made = cut_into_passages(Splits(source.take([1, 3]), source.take(np.arange(4, 9)), source.take([0])), 20)
    assert [len(part) for part in made] == [2, 5, 1]
    assert list(made.train.column("text")) == ["text 1", "text 3"]


def test_data_without_text_are_refused(digits):
    with pytest.raises(ValueError, match="has no text"):
        cut_into_passages(digits, 20)
