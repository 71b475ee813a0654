"""The report of a classifier by class, against slow loops and scikit-learn."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

from ssl_keras.downstream import classes
from ssl_keras.evaluation.calibration import negative_log_likelihood, reliability

NAMES = ("=SUM(A1)", "中文", "never there", "never predicted", "b")


@pytest.fixture
def predictions(rng):
    """Labels (300,) without class 2, and probabilities (300, 5) whose highest is never class 3."""
    labels = rng.choice([0, 1, 3, 4], 300)
    logits = rng.normal(size=(300, 5))
    logits[np.arange(300), labels] += 2
    logits[:, 3] = -9
    odds = np.exp(logits)
    return labels, (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def read(folder):
    return list(csv.DictReader(io.StringIO((folder / "classes.csv").read_text("utf-8"))))


@pytest.mark.filterwarnings("error")
def test_the_numbers_equal_slow_loops(predictions, tmp_path):
    labels, probabilities = predictions
    outcome = classes.save(tmp_path / "new" / "folder", NAMES, labels, probabilities)
    rows, predicted = read(tmp_path / "new" / "folder"), probabilities.argmax(1)
    assert [row["class"] for row in rows] == ["'=SUM(A1)", *NAMES[1:]]
    for row in rows:
        label = int(row["label"])
        true, asked = [p for y, p in zip(labels, predicted) if y == label], np.sum(predicted == label)
        assert int(row["examples"]) == len(true)
        hits = true.count(label)
        assert row["accuracy"] == (str(hits / len(true)) if true else "")
        assert row["precision"] == (str(hits / asked) if asked else "")
        mistakes = [true.count(other) if other != label else 0 for other in range(5)]
        if not any(mistakes):
            assert row["confused_with"] == row["confused_fraction"] == ""
            continue
        assert row["confused_with"] == rows[int(np.argmax(mistakes))]["class"]
        assert float(row["confused_fraction"]) == pytest.approx(max(mistakes) / len(true))
    assert rows[2]["accuracy"] == rows[3]["precision"] == ""
    assert rows[2]["precision"] == rows[3]["accuracy"] == "0.0"
    assert outcome == {
        "accuracy": pytest.approx(np.mean(labels == predicted)),
        "balanced_accuracy": pytest.approx(np.mean([np.mean(predicted[labels == y] == y) for y in (0, 1, 3, 4)])),
        "expected_calibration_error": reliability(probabilities, labels).expected_calibration_error,
        "nll": negative_log_likelihood(probabilities, labels),
    }
    assert {type(value) for value in outcome.values()} == {float}


def test_balanced_accuracy_is_that_of_scikit_learn(predictions, tmp_path):
    labels, probabilities = predictions
    kept = np.flatnonzero(probabilities.argmax(1) != 2)  # where scikit-learn does not warn
    outcome = classes.save(tmp_path, NAMES, labels[kept], probabilities[kept])
    expected = balanced_accuracy_score(labels[kept], probabilities[kept].argmax(1))
    assert outcome["balanced_accuracy"] == pytest.approx(expected)


def test_the_files_are_pictures_and_are_replaced(predictions, tmp_path):
    for _ in range(2):
        classes.save(tmp_path, NAMES, *predictions)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(classes.FILES)
    for name in ("confusion.png", "reliability.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 300


def test_a_perfect_classifier(tmp_path):
    outcome = classes.save(tmp_path, ["a", "b"], np.array([0, 1, 1]), np.eye(2)[[0, 1, 1]])
    assert outcome == pytest.approx(
        {"accuracy": 1, "balanced_accuracy": 1, "expected_calibration_error": 0, "nll": 0}, abs=1e-12
    )
    assert [(row["accuracy"], row["confused_with"]) for row in read(tmp_path)] == [("1.0", ""), ("1.0", "")]


def test_order_of_classes_does_not_matter(predictions, tmp_path, rng):
    labels, probabilities = predictions
    order = rng.permutation(5)
    names = [NAMES[i] for i in order]
    first = classes.save(tmp_path, NAMES, labels, probabilities)
    before = {row["class"]: (row["examples"], row["accuracy"], row["precision"]) for row in read(tmp_path)}
    assert classes.save(tmp_path, names, np.argsort(order)[labels], probabilities[:, order]) == pytest.approx(first)
    assert {row["class"]: (row["examples"], row["accuracy"], row["precision"]) for row in read(tmp_path)} == before


def test_bad_input_is_refused_before_anything_is_written(predictions, tmp_path):
    labels, probabilities = predictions
    with pytest.raises(ValueError, match="Expected a name for each of 5 classes. Received: 2 names"):
        classes.save(tmp_path / "folder", ["a", "b"], labels, probabilities)
    with pytest.raises(ValueError, match="Pass the softmax of logits"):
        classes.save(tmp_path / "folder", NAMES, labels, np.log(probabilities))
    assert not (tmp_path / "folder").exists()
