"""Targets of fine-tuning: the class of an example, a number, the tag of each word, or several labels at once.

A source of examples has, once prepared, the column "label" (N,) int64 of classes, "number" (N,) float32 standardized
by the mean and the standard deviation of the training split, or "labels" (N, K) float32, 0 or 1. Tags stay strings
until the text is tokenized (`word_pieces.add_tags`).
"""

import dataclasses
import logging
import math

import numpy as np

from ssl_keras.data.readers.folders import listed
from ssl_keras.data.readers.tables import SEPARATOR
from ssl_keras.data.splits import Splits, check_classes
from ssl_keras.data.word_pieces import words

KINDS = ("class", "number", "tags", "labels")
LARGEST = 1e30  # a number, so that squares of standardized ones, and weights, are finite in float32
COARSE = 1e-3  # the largest step of float32 at the numbers, in units of their standard deviation
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Target:
    """The target of a head.

    Attributes:
        kind: one of KINDS.
        names: the names of the classes, tags or labels, in the order of the head's outputs; empty for a number.
        mean, scale: of the numbers of the training split, in their own unit.
    """

    kind: str
    names: tuple[str, ...] = ()
    mean: float = 0.0
    scale: float = 1.0

    @property
    def outputs(self):
        """The number of outputs of the head."""
        return len(self.names) or 1


def choose(splits, asked=None):
    """Returns the kind of target: the one that is asked for, or the only one that the columns of the data allow."""
    source = splits.train
    if asked is not None:
        return asked
    for column, kind in (("tags", "tags"), ("labels", "labels")):
        if column in source.arrays:
            log.info("%s: the data have %s, so the target is %s", source.base, column, kind)
            return kind
    if "label" in source.arrays and "text" in source.arrays:
        numbers = [_number(name) for name in source.classes]
        if any(SEPARATOR in name for name in source.classes):
            log.warning(
                "%s: labels contain %r. Each is a class; --target labels reads several.", source.base, SEPARATOR
            )
        elif None not in numbers and any(number % 1 for number in numbers):
            log.warning("%s: all labels are numbers. Each is a class; --target number reads values.", source.base)
    return "class"


def prepare(splits, asked=None):
    """Returns (splits with the column of the target, `Target`).

    Args:
        splits: `Splits`, before the examples are adapted to an encoder.
        asked: one of KINDS, or None to choose by the data.

    Raises:
        ValueError: The data have no such target, or one value only; labels are not numbers, but should be.
    """
    kind = choose(splits, asked)
    if kind != "class" and "text" not in splits.train.arrays:
        raise ValueError(
            f"The target {kind} is for text. Received: {', '.join(splits.train.arrays)} from {splits.train.name}. Use "
            "the target class."
        )
    return {"class": _classes, "number": _numbers, "tags": _tags, "labels": _labels}[kind](splits)


def _classes(splits):
    check_classes(splits.train)
    if "" in splits.train.classes:
        raise ValueError(
            f"{splits.train.base}: expected a class in each row. Received: an empty label. Fill it in, leave the row "
            "out, or use the target labels, where it means no label."
        )
    for source in splits:
        source.column_spec("label")
    return splits, Target("class", splits.train.classes)


def _numbers(splits):
    splits.train.column_spec("label")
    values = [_number(name) for name in splits.train.classes]
    wrong = [name for name, value in zip(splits.train.classes, values) if value is None]
    if wrong:
        raise ValueError(
            f"{splits.train.base}: expected finite numbers as labels, such as 3 or 2.5. Received: {listed(wrong)}. "
            "Correct these rows, or use the target class."
        )
    parts = [np.array(values, np.float64)[source.column("label")] for source in splits]
    largest = max(map(abs, values))
    if largest > LARGEST:
        raise ValueError(
            f"{splits.train.base}: expected numbers of at most {LARGEST:.0e} as labels. Received: {largest:.3g}. Use a "
            "larger unit."
        )
    mean, scale = float(parts[0].mean()), float(parts[0].std())
    if not scale > 0:
        raise _one_value(splits.train, "number", parts[0][0])
    if np.spacing(np.float32(largest)) > COARSE * scale:  # the saved head has float32 weights
        raise ValueError(
            f"{splits.train.base}: expected labels whose standard deviation is large next to their size. Received: a "
            f"standard deviation of {scale:.3g} at {largest:.9g}, where float32 has steps of "
            f"{np.spacing(np.float32(largest)):.3g}. Subtract an offset from the labels."
        )
    made = [
        _with_column(source, "number", ((part - mean) / scale).astype(np.float32))
        for source, part in zip(splits, parts)
    ]
    return Splits(*made), Target("number", (), mean, scale)


def _number(text):
    """Returns the finite number that a text is, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _tags(splits):
    for source in splits:
        if "tags" not in source.arrays:
            raise ValueError(
                f"{source.name} has no tags. Expected a token and its tag in each line of tags:PATH. Received: "
                f"{', '.join(source.arrays)}"
            )
    found = [{tag for line in source.column("tags") for tag in words(line)} for source in splits]
    if len(found[0]) < 2:
        raise _one_value(splits.train, "tag", *found[0])
    return splits, Target("tags", tuple(sorted(set().union(*found))))


def _labels(splits):
    if "labels" in splits.train.arrays:
        names, made = splits.train.classes, list(splits)
    else:
        splits.train.column_spec("label")
        parsed = [_parts(name) for name in splits.train.classes]  # of each combination of labels
        names = tuple(sorted(set().union(*parsed)))
        table = np.array([[name in each for name in names] for each in parsed], np.float32)
        made = [_with_column(source, "labels", table[source.column("label")]) for source in splits]
    values = made[0].column("labels")
    constant = values.min(0) == values.max(0) if names else np.array([])
    if constant.all():
        raise _one_value(splits.train, "combination of labels", ", ".join(names) or "none")
    if constant.any():
        log.warning(
            "%s: these labels have one value in the training split: %s",
            splits.train.base,
            listed([name for name, same in zip(names, constant) if same]),
        )
    return Splits(*made), Target("labels", names)


def _parts(text):
    return {part.strip() for part in text.split(SEPARATOR)} - {""}


def _with_column(source, name, values):
    """Returns the source with a column of its examples in place of its class labels."""
    arrays = {key: source.column(key) for key in source.arrays if key != "label"}
    return dataclasses.replace(source, arrays=arrays | {name: values}, rows=None, classes=())


def _one_value(source, what, value):
    return ValueError(
        f"{source.name}: only one {what}, {value}. Expected at least two, so that there is something to learn. Choose "
        "other --data."
    )
