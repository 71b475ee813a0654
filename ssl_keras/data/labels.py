"""Labels and class names: checks of what is in memory. Errors say how to convert it."""

import collections
from collections.abc import Mapping, Set

import numpy as np

INDEX = "classes, label = np.unique(label, return_inverse=True)"  # turns labels of any kind into class indices
NUM_SHOWN = 10  # labels in a message


def unmasked(name, values):
    """Returns an array, or a list of them, as it is. Raises ValueError if values are masked, as `np.ma` allows."""
    parts = values if isinstance(values, list | tuple) else [values]
    if any(np.ma.is_masked(part) for part in parts):
        raise ValueError(
            f"{name}: some values are masked. Expected arrays without a mask. Fill them with .filled(value), or drop "
            "the rows that have them."
        )
    return values.data if isinstance(values, np.ma.MaskedArray) else values


def check_labels(name, label, count, classes):
    """Returns (int64 labels, class names, notes). `classes` are their names; if empty, they are "0", "1", ….

    Raises:
        ValueError: An example has no class index, or the names are not different strings.
    """
    label, classes = unmasked(f"{name}, labels", label), class_names(name, classes)
    try:
        label = np.asarray(label)
    except ValueError:
        raise ValueError(
            f"{name}: expected one integer label per example, of shape ({count},). Received: sequences of different "
            f"lengths, or values of different types, in a {type(label).__name__}. Convert them: {INDEX}"
        ) from None
    if label.dtype.kind not in "iu" or label.shape != (count,):
        raise ValueError(
            f"{name}: expected one integer label per example, of shape ({count},). "
            f"Received: dtype {label.dtype}, shape {label.shape}.{_conversion(label, count)}"
        )
    label = label.astype(np.int64)
    low, high = label.min(), label.max()
    if low < 0 or not classes and high >= max(count, 2):
        raise ValueError(
            f"{name}: expected labels that are class indices, starting at 0. Received: labels from {low} to {high}. "
            f"Convert them: {INDEX}"
        )
    if not classes:
        classes = tuple(str(i) for i in range(high + 1))
        return label, classes, _unused_notes(np.setdiff1d(np.arange(high + 1), label), high)
    if high >= len(classes):
        raise ValueError(
            f"{name}: expected labels in 0..{len(classes) - 1}. Received: labels from {low} to {high}. "
            "Name each class, or number the classes from 0."
        )
    return label, classes, ()


def _unused_notes(unused, high):
    if not len(unused):
        return ()
    shown = ", ".join(map(str, unused[:NUM_SHOWN])) + (" …" if len(unused) > NUM_SHOWN else "")
    return (f"{len(unused)} of the labels 0 to {high} have no examples: {shown}. To leave them out: {INDEX}",)


def _conversion(label, count):
    """Returns advice on how to convert labels of another shape or dtype; empty if there is none."""
    if label.shape == (count, 1):
        return " Pass label[:, 0]."
    if label.ndim == 2 and len(label) == count:
        return " If they are one-hot, pass label.argmax(axis=1)."
    if label.shape != (count,):
        return ""
    whole = label.dtype.kind == "b" or label.dtype.kind == "f" and np.array_equal(label, np.rint(label))
    return " Pass label.astype(int)." if whole else f" Convert them: {INDEX}"


def class_names(name, classes):
    """Returns class names as a tuple of strings; integers are converted.

    Raises:
        ValueError: They are not a sequence of strings, or two are equal.
    """
    expected = f"{name}: expected class names as a list of different strings."
    if isinstance(classes, str | bytes | Mapping | Set) or not np.iterable(classes):
        raise ValueError(f"{expected} Received: {type(classes).__name__}. Pass classes=[name, …].")
    names = []
    for each in classes:
        if isinstance(each, bool | np.bool_) or not isinstance(each, str | int | np.integer):
            raise ValueError(f"{expected} Received: {each!r}. Convert each name with str.")
        names.append(str(each))
    repeated = [each for each, count in collections.Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{expected} Received: {repeated[0]!r} twice. Rename one, or give both classes one label.")
    return tuple(names)
