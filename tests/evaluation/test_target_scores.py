"""Scores of numbers, labels and spans: slow references, closed forms, and what is undefined."""

import sys

import numpy as np
import pytest

from ssl_keras.evaluation import target_scores as scores


def spans(tags):
    """The spans of a sentence, {(first, last, kind)}, found by looking at every pair of places."""
    found = set()
    for first, tag in enumerate(tags):
        if tag and tag.startswith("B-"):
            last = first
            while last + 1 < len(tags) and tags[last + 1] == f"I-{tag[2:]}":
                last += 1
            found.add((first, last, tag[2:]))
    return found


def test_span_scores_equal_a_count_of_spans(rng):
    pytest.importorskip("nervaluate")
    names = [None, "O", "O", "B-A", "I-A", "B-B", "I-B"]
    sides = []
    for _ in range(2):
        lines = [[names[i] or "O" for i in rng.integers(0, 7, 12)] for _ in range(60)]
        sides.append([scores.iob2(line) for line in lines])
    true, predicted = sides
    right = sum(len(spans(a) & spans(b)) for a, b in zip(true, predicted))
    precision, recall = (right / sum(len(spans(line)) for line in side) for side in (predicted, true))
    found = scores.span_scores(true, predicted)
    f1 = 2 * precision * recall / (precision + recall)
    assert found == pytest.approx({"span_f1": f1, "span_precision": precision, "span_recall": recall})
    assert scores.span_scores(true, true) == dict.fromkeys(found, 1.0)
    nothing = scores.span_scores(true, [[None] * len(line) for line in true])
    assert nothing == dict.fromkeys(found, 0.0)
    assert all(map(np.isnan, scores.span_scores([["O"]], [[None]]).values()))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nervaluate", None)
    monkeypatch.setattr(scores.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="^The F1 of spans needs the package nervaluate. Run: pip install nervaluate$"):
        scores.check_span_scores()


def test_numbers(rng):
    true = rng.normal(5, 2, 50)
    found = scores.number_scores(true, 3 * true + 1)
    assert (found["pearson"], found["spearman"]) == pytest.approx((1, 1))
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((2 * true + 1) ** 2)))
    assert scores.number_scores(true, -np.exp(true))["spearman"] == pytest.approx(-1)
    assert scores.number_scores(true, np.exp(true))["pearson"] < 1
    constant = scores.number_scores(true, np.ones(50))
    assert np.isnan([constant["pearson"], constant["spearman"]]).all()
    assert np.isfinite(constant["rmse"])
    assert np.isnan(scores.number_scores([1.0], [2.0])["pearson"])


def test_labels(rng):
    true, logits = rng.integers(0, 2, (40, 3)), rng.normal(size=(40, 3))
    predicted = logits > 0
    each = [2 * (true[:, k] * predicted[:, k]).sum() / (true[:, k].sum() + predicted[:, k].sum()) for k in range(3)]
    found = scores.label_scores(true, logits)
    assert found["f1_macro"] == pytest.approx(np.mean(each))
    assert found["f1_micro"] == pytest.approx(2 * (true * predicted).sum() / (true.sum() + predicted.sum()))
    assert scores.label_scores(np.zeros((4, 2)), -np.ones((4, 2))) == {"f1_macro": 0.0, "f1_micro": 0.0}


def test_words_get_the_tag_of_their_first_piece():
    marks = np.array([[-1, 0, -1, 2, -1]])
    logits = np.zeros((1, 5, 3), np.float32)
    logits[0, 1, 1] = logits[0, 3, 1] = 2.0  # I-A, twice: the first begins a span, as the word between has no piece
    logits[0, 2, 0] = 9.0
    ((tags, probabilities),) = scores.word_tags(["a b c"], marks, logits, ("B-A", "I-A", "O"))
    assert tags == ["B-A", None, "I-A"]
    expected = np.exp([0, 2, 0]) / np.exp([0, 2, 0]).sum()
    np.testing.assert_allclose(probabilities[0], expected, rtol=1e-6)
    assert np.isnan(probabilities[1]).all()
