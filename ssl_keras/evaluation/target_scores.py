"""Scores of predicted numbers, tags and labels. Arrays and lists in, numbers out.

Shapes: `N` examples, `K` labels, `W` tokens, `Y` tags.
"""

import importlib.util

import numpy as np
import scipy.special
import scipy.stats

from ssl_keras.data.readers.tags import OUTSIDE, iob2
from ssl_keras.data.word_pieces import tags_of_words

THRESHOLD = 0.0  # logit above which a label is predicted: probability 1/2


def number_scores(true, predicted):
    """Returns {"pearson", "spearman", "rmse"} of numbers (N,), in their own unit.

    A correlation is NaN if there is one example, or if all numbers on one side are equal.
    """
    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    varied = len(true) > 1 and np.ptp(true) > 0 and np.ptp(predicted) > 0
    return {
        "pearson": float(scipy.stats.pearsonr(true, predicted).statistic) if varied else np.nan,
        "spearman": float(scipy.stats.spearmanr(true, predicted).statistic) if varied else np.nan,
        "rmse": float(np.sqrt(np.mean((true - predicted) ** 2))),
    }


def label_scores(true, logits):
    """Returns {"f1_macro", "f1_micro"} of 0/1 labels (N, K); a label that is neither true nor predicted counts as 0."""
    from sklearn.metrics import f1_score

    predicted = np.asarray(logits) > THRESHOLD
    return {
        f"f1_{average}": float(f1_score(np.asarray(true) > 0.5, predicted, average=average, zero_division=0.0))
        for average in ("macro", "micro")
    }


def word_tags(texts, marks, logits, names):
    """Returns [(tags, probabilities (words, Y))] of the words of each text: those of its first piece.

    A word without a piece, because it is truncated or dropped, has the tag None and probabilities of NaN. Tags of
    spans are IOB2, as those that are learned.

    Args:
        texts: list of N strings. marks: (N, W) from `word_pieces.first_pieces`. logits: (N, W, Y). names: of Y tags.
    """
    made = []
    for text, mark, values in zip(texts, marks, logits):
        found = tags_of_words(text, mark, scipy.special.softmax(values.astype(np.float64), axis=-1))
        tags = [None if each is None else names[int(each.argmax())] for each in found]
        known = iter(iob2([tag for tag in tags if tag is not None]))
        missing = np.full(len(names), np.nan)
        probabilities = np.array([missing if each is None else each for each in found]).reshape(-1, len(names))
        made.append(([tag and next(known) for tag in tags], probabilities))
    return made


def check_span_scores():
    """Raises ValueError if the package that scores spans is not installed."""
    if importlib.util.find_spec("nervaluate") is None:
        raise ValueError("The F1 of spans needs the package nervaluate. Run: pip install nervaluate")


def span_scores(true, predicted):
    """Returns {"span_f1", "span_precision", "span_recall"} of IOB tags: spans count if their ends and kind are right.

    Args:
        true, predicted: lists of N lists of tags; None is O.
    """
    from nervaluate import Evaluator

    true, predicted = ([[tag or OUTSIDE for tag in line] for line in side] for side in (true, predicted))
    kinds = sorted({tag[2:] for line in true + predicted for tag in line} - {""})
    if not kinds:
        return dict.fromkeys(("span_f1", "span_precision", "span_recall"), np.nan)
    strict = Evaluator(true, predicted, tags=kinds, loader="list").evaluate()["overall"]["strict"]
    return {f"span_{name}": float(getattr(strict, name)) for name in ("f1", "precision", "recall")}
