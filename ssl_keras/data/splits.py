"""Examples addressed by index, and the three parts they are split into.

The split is made here, once: what is held out is held out for pretraining, fine-tuning and
every evaluation alike.

Shapes: `N` examples, `H W C` image.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import typing

import numpy as np
import tensorflow as tf

from ssl_keras.data.batches import epoch_order

log = logging.getLogger(__name__)

# The hold-out order is keyed by a constant of its own: a run's seed cannot move it.
SPLIT_SEED = 20240229
TEST_FRACTION, TEST_MOST = 0.2, 10_000
VALIDATION_FRACTION, VALIDATION_MOST = 0.1, 5_000
CHUNK, PIECE = 1 << 24, 1 << 18  # bytes hashed at a time; that a text may have
MAX_CHANNELS = 4  # of pictures as files have them
ONE_CLASS = "one class"  # how a note begins that says what may be wrong where there is one class


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Examples by index.

    Attributes:
        name: for messages and cards.
        arrays: columns of N examples: "image" (N, H, W, C) uint8 in 0..255 or float32 in [0, 1];
            or "text" (N,) strings, and of pairs "target" (N,) strings; or "tokens" (N, W) int32; or "waveform"
            (N, L) int16, L as long as need be (`data/audio.py`); and "label" (N,) int64, where there are labels. What
            has a shape, a dtype, and rows by index may be a column.
        classes: the label names, or empty.
        tokenizer: what made its tokens, or None.
        rows: (n,) the rows of `arrays` that belong to this source; None is all of them.
        lengths: (n,) integers, the tokens or samples of each of its examples where these are padded, else None.
        rate: of sound, samples per second, else 0.
        converted: from what to what its images were converted for an encoder ("32×32×3 → 28×28×1"), or nothing.
        notes: sentences on how its files were read: what was left out, converted or decided, and why.
    """

    name: str
    arrays: dict[str, np.ndarray]
    classes: tuple[str, ...] = ()
    rows: np.ndarray | None = None
    tokenizer: object = None
    lengths: np.ndarray | None = None
    rate: int = 0
    converted: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self):
        return len(next(iter(self.arrays.values()))) if self.rows is None else len(self.rows)

    def gather(self, indices, longest=None, place=None):
        """{name: array (len(indices), …)} of many examples at once.

        Of sound, rows are as long as the longest of these; with `longest`, clips of more samples are cut to it, each at
        a `place` in [0, 1).
        """
        rows = indices if self.rows is None else self.rows[indices]
        return {
            name: array.cut(rows, longest, place) if longest and hasattr(array, "cut") else np.asarray(array[rows])
            for name, array in self.arrays.items()
        }

    def spec(self):
        """{name: (shape of one example, tf dtype)}."""
        return {name: (array.shape[1:], tf.as_dtype(array.dtype)) for name, array in self.arrays.items()}

    def column_spec(self, name):
        """(shape of one example, tf dtype) of a column. Raises ValueError where the source has none of that name."""
        if name not in self.arrays:
            raise ValueError(
                f"{self.name} has no {name}s. Expected a column {name!r}; it has: {', '.join(self.arrays)}. "
                "Choose other --data."
            )
        return self.spec()[name]

    def take(self, indices):
        """The source of these examples alone."""
        rows = np.asarray(indices) if self.rows is None else self.rows[indices]
        lengths = None if self.lengths is None else self.lengths[indices]
        return dataclasses.replace(self, rows=rows, lengths=lengths)

    def noted(self, *notes):
        """The source with more notes; each is logged as a warning."""
        for note in notes:
            log.warning("%s: %s", self.name, note)
        return dataclasses.replace(self, notes=self.notes + notes)

    @property
    def base(self):
        """The name without its split: "tfds:fashion_mnist"."""
        return re.sub(r"\[(train|validation|test)\]$", "", self.name)

    @property
    def short_name(self):
        """The base without its kind or path, fit for a folder's name: "fashion_mnist"."""
        base, suffix = self.base, ""
        if self.rate:  # brackets hold the pattern of what is held out
            pattern = re.search(r"\[(.*)\]$", base)
            suffix = f"-{pattern[1].strip('*_./')}" if pattern else ""
        else:
            pattern = re.search(r"\[\d\]$", base) if {"caption", "captions"} & self.arrays.keys() else None
            suffix = f"-{pattern[0][1]}" if pattern else ""
        base = base[: pattern.start()] if pattern else base
        kind, _, rest = base.removeprefix("connected:").partition(":")
        if kind in ("folder", "captions", "emoji", "audio", "transcripts", "text", "table", "pairs"):
            path = pathlib.Path(os.path.abspath(os.path.expanduser(rest)))
            name = path.name if kind in ("folder", "emoji", "audio") or path.is_dir() else path.stem
        else:
            name = (rest or kind).rpartition(":")[2].strip("/")
        return (name + suffix).replace("/", "-")

    def fingerprint(self):
        """Hashes all examples, once: tells one data set from another, whatever it is called and wherever it lies."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self):
        columns = {name: _digest(array, self.rows) for name, array in sorted(self.arrays.items())}
        content = json.dumps([len(self), self.rate, self.classes, columns])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def column(self, name):
        """(N, …) array of one column, all examples.

        Raises:
            ValueError: the source has no such column (no labels, say).
        """
        self.column_spec(name)
        array = self.arrays[name]
        return np.asarray(array[:]) if self.rows is None else np.asarray(array[self.rows])


def _digest(array, rows):
    """Hashes the rows of a column, all where `rows` is None, some megabytes at a time."""
    if hasattr(array, "digest"):
        return array.digest(rows)
    digest = hashlib.sha256(f"{array.dtype} {array.shape[1:]}".encode())
    text = array.dtype == object
    row_bytes = PIECE if text else array.dtype.itemsize * math.prod(array.shape[1:])
    count, step = len(array) if rows is None else len(rows), max(1, CHUNK // max(row_bytes, 1))
    for start in range(0, count, step):
        part = slice(start, start + step) if rows is None else rows[start : start + step]
        values = np.ascontiguousarray(array[part])
        for value in values.flat if text else ():
            content = str(value).encode("utf-8", "surrogatepass")
            digest.update(b"%d " % len(content) + content)
        if not text:
            digest.update(values)
    return digest.hexdigest()


class Splits(typing.NamedTuple):
    """train to learn from, validation to choose by, test to report on."""

    train: Source
    validation: Source
    test: Source


def from_arrays(image, label=None, *, test=None, classes=(), name="arrays"):
    """`Splits` from arrays in memory.

    Args:
        image: (N, H, W[, C]) uint8 in 0..255, or float in [0, 1].
        label: (N,) integers, or None.
        test: (image, label) to report on; None cuts it from `image`.
        classes: label names; default "0", "1", ….

    Raises:
        ValueError: as `images`.
    """
    train = images(name, image, label, classes)
    if test is not None:
        test = images(f"{name}[test]", test[0], test[1], train.classes)
    return hold_out(train, test=test)


def images(name, image, label=None, classes=()):
    """A checked `Source`.

    Raises:
        ValueError: no example; wrong rank, size or dtype; values out of range; NaN;
            labels that are not integers in range, or not one per image.
    """
    image = _stacked(name, image)
    if image.ndim == 3:
        image = image[..., None]
    if image.ndim != 4:
        raise ValueError(f"{name}: expected images of shape (N, H, W) or (N, H, W, C). Received: shape {image.shape}")
    if 0 in image.shape:
        raise ValueError(f"{name} has no examples. Expected at least one. Received: shape {image.shape}")
    if image.dtype.kind == "f":
        image = image.astype(np.float32, copy=False)
        low, high = float(image.min()), float(image.max())  # NaN if any is
        if not math.isfinite(low + high):
            bad = np.unique(np.nonzero(~np.isfinite(image))[0])
            what = "NaN" if math.isnan(low) else "infinity"
            raise ValueError(f"{name}: {len(bad)} images contain {what}, the first is number {bad[0]}. Remove them.")
        if low < 0 or high > 1:
            raise ValueError(
                f"{name}: expected float images in [0, 1]. Received: values from {low:g} to {high:g}. "
                "Divide by the largest value, or pass uint8."
            )
    elif image.dtype != np.uint8:
        raise ValueError(f"{name}: expected uint8 images in 0..255 or floats in [0, 1]. Received: {image.dtype}")
    arrays = {"image": image}
    if label is not None:
        arrays["label"], classes = check_labels(name, label, len(image), classes)
    source = Source(name, arrays, tuple(classes))
    if image.shape[1] in (1, 3) and image.shape[3] > MAX_CHANNELS:
        return source.noted(
            f"images of shape {image.shape[1:]} are taken as (H, W, C), of {image.shape[3]} channels. "
            "Where the first is the channels, as in PyTorch: np.moveaxis(image, 1, -1)"
        )
    return source


def _stacked(name, image):
    """Images as one array. Raises ValueError where they do not make one: of several shapes, or together with labels."""
    try:
        return np.asanyarray(image)
    except ValueError:
        shapes = list(dict.fromkeys(_shape(each) for each in image))
        advice = "Pass images and labels as two arguments" if len(image) == 2 else "Resize them first"
        raise ValueError(
            f"{name}: expected images of one shape, an array (N, H, W) or (N, H, W, C). Received: {len(image)} arrays, "
            f"of shape {' and '.join(shapes[:5])}. {advice}."
        ) from None


def _shape(array):
    try:
        return str(np.shape(array))
    except ValueError:
        return f"{type(array).__name__} of several shapes"


def check_labels(name, label, count, classes):
    """(int64 labels, class names), checked: one integer for each of `count` examples, from 0 on."""
    label = np.asarray(label)
    if label.dtype.kind not in "iu" or label.shape != (count,):
        raise ValueError(
            f"{name}: expected one integer label per example, shape ({count},). "
            f"Received: {label.dtype}, shape {label.shape}"
        )
    label = label.astype(np.int64)
    if label.min() < 0 or not classes and label.max() >= max(count, 2):
        raise ValueError(
            f"{name}: expected labels that number the classes from 0. "
            f"Received: labels from {label.min()} to {label.max()}"
        )
    classes = tuple(classes) or tuple(str(i) for i in range(int(label.max()) + 1))
    if label.max() >= len(classes):
        raise ValueError(
            f"{name}: expected labels in 0..{len(classes) - 1}. Received: labels from {label.min()} to {label.max()}"
        )
    return label, classes


def check_classes(source):
    """Raises ValueError where a source has no labels, or examples of one class alone."""
    source.column_spec("label")
    present = np.unique(source.column("label"))
    if len(present) < 2:
        note = next((note for note in source.notes if note.startswith(ONE_CLASS)), None)
        note = note or f"{ONE_CLASS}, {source.classes[present[0]]!r}"
        raise ValueError(f"{source.name}: {note}. Expected two classes or more: there is nothing to tell apart.")


def hold_out(train, validation=None, test=None):
    """Cuts the splits that are missing from `train`, in an order that no setting changes.

    Raises:
        ValueError: too few examples to leave one in each split.
    """
    for other in (validation, test):
        if other is not None and (_shapes(other), other.rate) != (_shapes(train), train.rate):
            raise ValueError(
                f"{other.name} does not go with {train.name}: expected {train.spec()}. Received: {other.spec()}"
            )
    order = epoch_order(len(train), SPLIT_SEED, 0)
    cut_test = 0 if test is not None else min(TEST_MOST, max(1, int(len(train) * TEST_FRACTION)))
    rest = len(train) - cut_test
    cut_validation = 0 if validation is not None else min(VALIDATION_MOST, max(1, int(rest * VALIDATION_FRACTION)))
    if rest - cut_validation < 1:
        raise ValueError(
            f"{train.name} has {len(train)} examples: too few to hold out a validation and a test part. "
            "Expected at least 3."
        )
    test = test or train.take(np.sort(order[:cut_test]))
    validation = validation or train.take(np.sort(order[cut_test : cut_test + cut_validation]))
    train = train.take(np.sort(order[cut_test + cut_validation :]))
    return Splits(
        *(
            dataclasses.replace(source, name=f"{source.base}[{split}]")
            for source, split in zip((train, validation, test), Splits._fields)
        )
    )


def _shapes(source):
    return {name: shape if name != "waveform" else () for name, (shape, _) in source.spec().items()}


def few_labels(source, per_class, seed):
    """The part of a labeled source with `per_class` examples of each class, drawn by `seed`."""
    return source.take(few_label_indices(source, per_class, seed))


def few_label_indices(source, per_class, seed):
    """The indices into a labeled source that `few_labels` takes, sorted.

    Raises:
        ValueError: a class with fewer examples than that.
    """
    if per_class < 1:
        raise ValueError(f"Expected at least 1 label per class. Received: {per_class}")
    labels = source.column("label")
    order = epoch_order(len(labels), seed, 0)
    chosen = []
    for index, name in enumerate(source.classes):
        members = order[labels[order] == index]
        if len(members) < per_class:
            raise ValueError(
                f"{source.name}: class {name!r} has {len(members)} examples; expected at least {per_class}. "
                "Ask for fewer labels per class (--budgets, --labels-per-class)."
            )
        chosen.append(members[:per_class])
    return np.sort(np.concatenate(chosen))
