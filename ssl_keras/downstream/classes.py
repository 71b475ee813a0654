"""Report of a classifier by class: confusion matrix, reliability diagram, and a table of classes."""

import numpy as np

from ssl_keras import files
from ssl_keras.evaluation import calibration
from ssl_keras.files import tables
from ssl_keras.pictures import figure_png
from ssl_keras.pictures.confusion import confusion_figure
from ssl_keras.pictures.reliability import reliability_figure

FILES = ("confusion.png", "reliability.png", "classes.csv")
COLUMNS = ("label", "class", "examples", "accuracy", "precision", "confused_with", "confused_fraction")


def save(folder, classes, labels, probabilities, title=""):
    """Writes `FILES` about a classifier's predictions into a folder, which is created.

    A row of `classes.csv` has a class, the number of its examples, the fraction of them that is recognized (accuracy
    of the class, recall), the fraction of the predictions of this class that is right (precision), and the other class
    that most of its examples are predicted as, with their fraction. A cell is empty if there is nothing to divide by,
    or if no example is confused.

    Args:
        folder: a `pathlib.Path`.
        classes: Y names.
        labels: (N,) integers in 0..Y − 1.
        probabilities: (N, Y) floats, whose rows sum to 1.
        title: the classifier's name, above the pictures.

    Returns:
        {"accuracy", "balanced_accuracy", "expected_calibration_error", "nll"}, floats. Balanced accuracy is the mean
        accuracy of the classes that have examples; nll is the mean −log probability of the labels, in nats.

    Raises:
        ValueError: these are not probabilities, or not labels or names of their classes.
        PermissionError, OSError: the files cannot be written.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    probabilities, labels = calibration.check_probabilities(probabilities, labels)
    if len(classes) != probabilities.shape[1]:
        raise ValueError(
            f"Expected a name for each of {probabilities.shape[1]} classes. Received: {len(classes)} names. "
            "Pass the names of the classes that the classifier was trained on."
        )
    numbers, predicted = np.arange(len(classes)), probabilities.argmax(1)
    matrix = confusion_matrix(labels, predicted, labels=numbers)
    precision, recall, _, examples = precision_recall_fscore_support(
        labels, predicted, labels=numbers, zero_division=np.nan
    )
    rows = zip(numbers, classes, examples, recall, precision, *_confusions(matrix, classes))
    reliability = calibration.reliability(probabilities, labels)
    files.make_folder(folder)
    files.write(folder / "confusion.png", figure_png(confusion_figure(matrix, classes, title)))
    files.write(folder / "reliability.png", figure_png(reliability_figure(reliability, title)))
    tables.write_csv(folder / "classes.csv", [COLUMNS, *rows])
    return {
        "accuracy": reliability.mean_accuracy,
        "balanced_accuracy": float(np.nanmean(recall)),
        "expected_calibration_error": reliability.expected_calibration_error,
        "nll": calibration.negative_log_likelihood(probabilities, labels),
    }


def _confusions(matrix, classes):
    """Returns (names, fractions): the class that each class is most often mistaken for, or None without mistakes."""
    wrong = matrix - np.diag(np.diag(matrix))
    other, most = wrong.argmax(1), wrong.max(1)
    names = [classes[column] if count else None for column, count in zip(other, most)]
    return names, [float(count / total) if count else None for count, total in zip(most, matrix.sum(1))]
