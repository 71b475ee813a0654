"""Dataset summaries, and the check that examples differ."""

import json

import numpy as np
import pytest

from ssl_keras.data import audio, summary, tokens
from ssl_keras.data.readers import captions, pairs, text
from ssl_keras.data.splits import Splits, from_arrays, hold_out, images
from ssl_keras.data.tokenizer import train


def summarized(splits, *prepared):
    made = summary.summarize(splits, *prepared)
    json.dumps(made)
    summary.lines(made), summary.table(made), summary.compact(made)
    return made["parts"]


def parts_of(whole, *counts):
    """Returns `Splits` of consecutive ranges of a source."""
    edges = np.cumsum([0, *counts])
    return Splits(*(whole.take(np.arange(a, b)) for a, b in zip(edges, edges[1:])))


def test_images_classes_and_duplicates(rng):
    image = rng.integers(1, 255, (20, 6, 4, 3), np.uint8)
    image[3] = image[4] = image[0]  # two duplicates in training
    image[12] = image[1]  # in validation
    image[17] = image[1]  # in test; also in training and validation
    image[5] = image[6, 0] = (7, 8, 255)  # one color; one color in the top row only
    label = np.arange(20) % 2
    label[10:] = 1
    made = summarized(parts_of(images("x", image, label, ("a", "b\n", "c")), 10, 5, 5))
    assert made["train"] == {
        "examples": 10,
        "looked_at": 10,
        "classes": {"a": 5, "b\\n": 5, "c": 0},
        "image": {
            "height": 6,
            "width": 4,
            "channels": 3,
            "dtype": "uint8",
            "least": int(image[:10].min()),
            "most": 255,
            "flat": 1,
        },
        "repeated": 2,
        "also_in": {},
        "notes": [],
    }
    assert made["validation"]["also_in"] == {"train": 1}
    assert made["test"]["also_in"] == {"train": 1, "validation": 1}
    assert ["images of one color", "1 (10.0%)", "–", "–"] in summary.table({"data": "x", "parts": made})
    assert made["test"]["classes"] == {"a": 0, "b\\n": 5, "c": 0}


def test_images_of_floats(rng):
    image = rng.uniform(0.25, 0.5, (9, 4, 4)).astype(np.float32)
    about = summarized(from_arrays(image))["train"]["image"]
    assert about["dtype"] == "float32"
    assert 0.25 <= about["least"] < about["most"] <= 0.5


def test_sound_is_not_padded(rng, monkeypatch):
    clips = [rng.integers(-9, 9, n).astype(np.int16) for n in (200, 8_000, 400, 400, 400, 400)]
    clips[3], clips[4], clips[5] = clips[2], np.zeros(400, np.int16), clips[0][:100]
    source = audio.clips("x", clips, 4_000)
    monkeypatch.setattr(audio.Clips, "__getitem__", None)
    made = summarized(parts_of(source, 4, 1, 1))
    assert made["train"]["waveform"] == {
        "rate": 4_000,
        "seconds": 2.25,
        "shortest": 0.05,
        "median": 0.1,
        "longest": 2.0,
        "silent": 0,
    }
    assert made["train"]["repeated"] == 1
    assert made["validation"]["waveform"]["silent"] == 1
    assert made["test"]["also_in"] == {"train": 0, "validation": 0}  # a prefix of a clip is not a duplicate of it


def test_texts_and_targets():
    source = pairs.named("x", ["a", "a", "a", "longer", "b", "c"], ["1", "2", "1", "3", "4", "5"])
    made = summarized(parts_of(source, 4, 1, 1))["train"]
    assert made["text"] == {"characters": 9, "shortest": 1, "median": 1, "longest": 6, "empty": 0}
    assert made["repeated"] == 1  # pairs of one text with different targets are not duplicates
    empty = text.documents("x", ["", " ", "words", "and words", "ends"])
    assert summarized(parts_of(empty, 3, 1, 1))["train"]["text"]["empty"] == 2


def test_captions(rng):
    source = captions.source("x", rng.integers(0, 255, (4, 4, 4), np.uint8), [["a", "two"], "b", "c", "d"])
    about = summarized(parts_of(source, 2, 1, 1))["train"]
    assert about["caption"] == {"captions": 3, "characters": 5, "shortest": 1, "median": 1, "longest": 3, "empty": 0}


def test_files_are_read_in_pieces(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("the same line\n" * 20_000)
    splits = text.load_text(tmp_path / "a.txt")
    read, most = text.Pieces.__getitem__, []
    monkeypatch.setattr(text.Pieces, "__getitem__", lambda self, rows: most.append(len(rows)) or read(self, rows))
    made = summary.summarize(splits)
    assert max(most) <= 64 < len(splits.train)
    train = made["parts"]["train"]
    assert train["text"]["pieces"]
    assert train["repeated"] > 0
    summary.check(made)  # equal pieces of a file are not an error


def test_unknown_tokens_and_windows():
    words = text.documents("x", [f"the words of number {n}" for n in range(30)])
    tokenizer = train("wordpiece", ["the words of number 1"] * 30, 60, "")
    splits = hold_out(words)
    made = summarized(splits, tokens.corpus(splits, tokenizer, 8, 0))
    about = made["train"]["tokens"]
    assert 0 < about["unknown"] < about["tokens"] / 2
    assert made["train"]["prepared"] != made["train"]["examples"]
    labeled = hold_out(text.documents("x", words.column("text"), np.arange(30) % 2))
    padded = summarized(labeled, tokens.tokenize_texts(labeled, tokenizer, 16))["train"]
    assert padded["tokens"]["unknown"] == about["unknown"]
    assert any("unknown" in note for note in padded["notes"])


def test_large_datasets_are_sampled(rng, monkeypatch):
    splits = from_arrays(rng.integers(0, 255, (400, 8, 8), np.uint8))
    for name, most in (("MAX_EXAMPLES", 50), ("MAX_BYTES", 50 * 64)):
        with monkeypatch.context() as patch:
            patch.setattr(summary, name, most)
            made = summary.summarize(splits)
        assert made["parts"]["train"]["looked_at"] == 50 < made["parts"]["train"]["examples"]
        assert "(50 examples checked)" in summary.lines(made)[1]
        assert ["checked, evenly spaced", "50", "–", "50"] in summary.table(made)


def test_notes_name_their_splits(rng):
    splits = from_arrays(rng.integers(0, 255, (40, 8, 8), np.uint8))
    splits = splits._replace(test=splits.test.with_notes("2 files are skipped"))
    made = summary.summarize(splits, splits._replace(train=splits.train.with_notes("cut")))
    assert summary.notes(made) == {"cut": ["train"], "2 files are skipped": ["test"]}
    assert summary.compact(made)["notes"] == ["cut", "2 files are skipped"]


@pytest.mark.parametrize(
    "splits",
    [
        from_arrays(np.full((20, 4, 4), 7, np.uint8)),
        hold_out(text.documents("x", ["the same"] * 20)),
        hold_out(audio.clips("x", [np.ones(800, np.int16)] * 20, 8_000)),
    ],
)
def test_equal_examples_are_an_error(splits):
    with pytest.raises(ValueError, match="examples of the training split are equal.*nothing to learn"):
        summary.check(summary.summarize(splits))


def test_some_duplicates_are_not_an_error():
    image = np.zeros((20, 4, 4), np.uint8)
    splits = from_arrays(image)
    image[splits.train.rows[0]] = 1
    summary.check(summary.summarize(splits))
    one = np.zeros((3, 4, 4), np.uint8)
    summary.check(summary.summarize(from_arrays(one)))


def test_a_log_has_two_to_six_lines(digits):
    assert summary.lines(summary.summarize(digits)) == [
        "digits: train 1,295, validation 143, test 359 examples",
        "images 28×28×1 uint8; values 0 to 255",
        "10 classes with 118 to 141 training examples",
        "exact duplicates: none",
    ]
