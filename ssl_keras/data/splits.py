"""Datasets: sources of examples, and their training, validation and test splits.

Splits are made here and nowhere else, so pretraining, fine-tuning and every evaluation hold out the same examples.

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
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ssl_keras.data.batches import epoch_order
from ssl_keras.data.labels import INDEX, check_labels, class_names, unmasked

log = logging.getLogger(__name__)

# This seed is a constant, so a run's seed does not change which examples are held out.
SPLIT_SEED = 20240229
TEST_FRACTION, MAX_TEST = 0.2, 10_000
VALIDATION_FRACTION, MAX_VALIDATION = 0.1, 5_000
CHUNK, PIECE = 1 << 24, 1 << 18  # bytes: hashed at a time; assumed for a text
MAX_CHANNELS = 4  # of images in files
# Beginnings of notes that explain an error: a single class, a missing column, and documents in pieces.
ONE_CLASS, UNUSED = "only one class", "these columns are not read"
PIECES = "pieces of one document are in several splits"


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Examples, addressed by index.

    Attributes:
        name: the name in messages and cards.
        arrays: the columns, each with N rows: "image" (N, H, W, C), uint8 in 0..255 or float32 in [0, 1];
            "text" (N,) strings, and for pairs "target" or, of two texts with one label, "text2" (N,) strings; for
            tagged words "tags" (N,) strings (`readers/tags.py`); "tokens" (N, W) int32; "waveform" (N, L) int16,
            padded to the longest clip that is read (`data/audio.py`); "label" (N,) int64 if there are labels, or
            "labels" (N, K) float32, 0 or 1, if there are several at once; "number" (N,) float32 (`data/targets.py`);
            "features" (N, D) float32, those of a saved encoder (`evaluation/stored.py`).
            Any object with a shape, a dtype and row indexing can be a column.
        classes: the label names; empty without labels.
        tokenizer: the tokenizer that made the tokens, or None.
        rows: (n,) the rows of `arrays` in this source; None means all of them.
        lengths: (n,) the length of each example without padding, in tokens or samples; None if nothing is padded.
        rate: the sampling rate of audio in Hz; 0 for other data.
        converted: how images were converted for an encoder, such as "32×32×3 → 28×28×1"; empty if they were not.
        notes: sentences on how the files were read: what was skipped, converted or decided, and why.
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
        """Returns {name: array (len(indices), …)} for a batch of examples.

        Waveforms are padded to the longest clip of the batch. With `longest`, each longer clip is cropped to that many
        samples, at its relative offset `place` in [0, 1).
        """
        rows = indices if self.rows is None else self.rows[indices]
        return {
            name: array.cut(rows, longest, place) if longest and hasattr(array, "cut") else np.asarray(array[rows])
            for name, array in self.arrays.items()
        }

    def spec(self):
        """Returns {name: (shape of one example, tf dtype)}."""
        return {name: (array.shape[1:], tf.as_dtype(array.dtype)) for name, array in self.arrays.items()}

    def column_spec(self, name):
        """Returns (shape of one example, tf dtype) of a column. Raises ValueError if the source has no such column."""
        if name not in self.arrays:
            notes = [note for note in self.notes if name == "label" and note.startswith(UNUSED)]
            why = "".join(f" {note[0].upper()}{note[1:]}." for note in notes)
            raise ValueError(
                f"{self.name} has no {name}s. Expected a column {name!r}. Received: {', '.join(self.arrays)}.{why} "
                "Choose other --data."
            )
        return self.spec()[name]

    def take(self, indices):
        """Returns a source with only these examples."""
        rows = np.asarray(indices) if self.rows is None else self.rows[indices]
        lengths = None if self.lengths is None else self.lengths[indices]
        return dataclasses.replace(self, rows=rows, lengths=lengths)

    def with_notes(self, *notes):
        """Returns the source with these notes added; logs each as a warning."""
        for note in notes:
            log.warning("%s: %s", self.name, note)
        return dataclasses.replace(self, notes=self.notes + notes)

    @property
    def base(self):
        """The name without its split, such as "tfds:fashion_mnist"."""
        return re.sub(r"\[(train|validation|test)\]$", "", self.name)

    @property
    def short_name(self):
        """The base without its kind or path, such as "fashion_mnist"; safe as a folder name."""
        base, suffix = self.base, ""
        if self.rate:  # the brackets contain the pattern of the held-out names
            pattern = re.search(r"\[(.*)\]$", base)
            suffix = f"-{pattern[1].strip('*_./')}" if pattern else ""
        else:
            pattern = re.search(r"\[\d\]$", base) if {"caption", "captions"} & self.arrays.keys() else None
            suffix = f"-{pattern[0][1]}" if pattern else ""
        base = base[: pattern.start()] if pattern else base
        kind, _, rest = base.removeprefix("connected:").partition(":")
        if kind in ("folder", "captions", "curated", "emoji", "audio", "transcripts", "text", "table", "tags", "pairs"):
            path = pathlib.Path(os.path.abspath(os.path.expanduser(rest)))
            name = path.name if kind in ("folder", "curated", "emoji", "audio") or path.is_dir() else path.stem
        else:
            name = (rest or kind).rpartition(":")[2].strip("/")
        return (name + suffix).replace("/", "-")

    def fingerprint(self):
        """Returns a hash of all examples, which identifies the dataset whatever its name or path. Computed once."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self):
        columns = {name: _digest(array, self.rows) for name, array in sorted(self.arrays.items())}
        content = json.dumps([len(self), self.rate, self.classes, columns])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def column(self, name):
        """Returns one column of all examples, (N, …).

        Raises:
            ValueError: The source has no such column, such as no labels.
        """
        self.column_spec(name)
        array = self.arrays[name]
        return np.asarray(array[:]) if self.rows is None else np.asarray(array[self.rows])


def _digest(array, rows):
    """Hashes the rows of a column in chunks; all rows if `rows` is None."""
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
    """The splits: train for training, validation for model selection, test for reported results."""

    train: Source
    validation: Source
    test: Source


def from_arrays(
    image: npt.ArrayLike,
    label: npt.ArrayLike | None = None,
    *,
    test: tuple[npt.ArrayLike, npt.ArrayLike | None] | None = None,
    classes: Sequence[str] = (),
    name: str = "arrays",
) -> Splits:
    """Returns `Splits` of images in memory.

    Args:
        image: (N, H, W[, C]) uint8 in 0..255, or float in [0, 1].
        label: (N,) integers, or None.
        test: (image, label) of the test split; None holds it out from `image`.
        classes: label names. Defaults to "0", "1", ….

    Raises:
        ValueError: See `images`.
    """
    train = images(name, image, label, classes)
    if test is not None:
        test = images(f"{name}[test]", *check_pair(name, test, label), train.classes)
    return check_held_out(hold_out(train, test=test))


def check_pair(name, test, label):
    """Returns a test split in memory: (examples, labels or None).

    Raises:
        ValueError: `test` is not a pair, or only one of the splits has labels.
    """
    if not isinstance(test, tuple | list) or len(test) != 2 or isinstance(test[0], str):
        received = type(test).__name__ + (f" of length {len(test)}" if isinstance(test, tuple | list) else "")
        raise ValueError(
            f"{name}: expected test=(examples, labels), or test=(examples, None) without labels. Received: {received}. "
            "Put the examples and their labels into one tuple."
        )
    if (test[1] is None) != (label is None):
        raise ValueError(
            f"{name}: expected labels of both the training and the test split, or of neither. "
            f"Received: labels of the {'training' if test[1] is None else 'test'} split only. Add the others, or pass "
            "None in place of these."
        )
    return test


def images(name, image, label=None, classes=()):
    """Returns a `Source` of images, after checking them.

    Raises:
        ValueError: The images are empty, have a wrong rank, size or dtype, or contain NaN or values out of range; or
            the labels are not one integer in range per image.
    """
    image = _stacked(name, image)
    if image.ndim == 3:
        image = image[..., None]
    if image.ndim != 4:
        raise ValueError(f"{name}: expected images of shape (N, H, W) or (N, H, W, C). Received: shape {image.shape}")
    if 0 in image.shape:
        raise ValueError(f"{name} has no examples. Expected at least one image. Received: shape {image.shape}")
    if image.dtype.kind == "f":
        image = image.astype(np.float32, copy=False)
        low, high = float(image.min()), float(image.max())  # NaN if any is
        if not math.isfinite(low + high):
            bad = np.unique(np.nonzero(~np.isfinite(image))[0])
            what = "NaN" if math.isnan(low) else "infinity"
            raise ValueError(f"{name}: {len(bad)} images contain {what}, first at index {bad[0]}. Remove them.")
        if low < 0 or high > 1:
            raise ValueError(
                f"{name}: expected float images in [0, 1]. Received: values from {low:g} to {high:g}. "
                "Rescale them to [0, 1], or pass uint8."
            )
    elif image.dtype != np.uint8:
        raise ValueError(
            f"{name}: expected uint8 images in 0..255 or floats in [0, 1]. Received: dtype {image.dtype}."
            + _conversion(image)
        )
    arrays, classes, notes = {"image": image}, class_names(name, classes), ()
    if label is not None:
        arrays["label"], classes, notes = check_labels(name, label, len(image), classes)
    source = Source(name, arrays, classes).with_notes(*notes)
    if image.shape[1] in (1, 3) and image.shape[3] > MAX_CHANNELS:
        return source.with_notes(
            f"images of shape {image.shape[1:]} are read as (H, W, C), with {image.shape[3]} channels. "
            "If the channels come first, as in PyTorch, pass np.moveaxis(image, 1, -1)"
        )
    return source


def _stacked(name, image):
    """Returns images as one array. Raises ValueError if they differ in shape, are masked, or come with labels."""
    image = unmasked(name, image)
    try:
        return np.asanyarray(image)
    except ValueError:
        shapes = list(dict.fromkeys(_shape(each) for each in image))
        advice = "Pass images and labels as two arguments" if len(image) == 2 else "Resize them first"
        raise ValueError(
            f"{name}: expected images of one shape, in an array (N, H, W) or (N, H, W, C). "
            f"Received: {len(image)} arrays of different shapes, {' and '.join(shapes[:5])}. {advice}."
        ) from None


def _conversion(image):
    """Returns advice on how to convert images of another dtype; empty if there is none."""
    if image.dtype.kind == "b":
        return " Pass image.astype(np.float32)."
    if image.dtype.kind not in "iu":
        return ""
    if image.min() >= 0 and image.max() <= 255:
        return " Pass image.astype(np.uint8)."
    return f" The values are from {image.min()} to {image.max()}: rescale them to floats in [0, 1]."


def _shape(array):
    try:
        return str(np.shape(array))
    except ValueError:
        return f"ragged {type(array).__name__}"


def check_classes(source):
    """Raises ValueError if a source has no labels, or if all its examples are of one class."""
    source.column_spec("label")
    present = np.unique(source.column("label"))
    if len(present) < 2:
        note = next((note for note in source.notes if note.startswith(ONE_CLASS)), None)
        note = note or f"{ONE_CLASS}, {source.classes[present[0]]!r}"
        raise ValueError(f"{source.name}: {note}. Expected at least two classes. Choose other --data.")


def check_whole_texts(source, advice="Use table:FILE."):
    """Raises ValueError if the texts are pieces of large files."""
    if not np.all(source.arrays.get("ends", True)):
        raise ValueError(f"{source.name}: expected whole texts. Received: pieces of large files. {advice}")


def hold_out(train, validation=None, test=None):
    """Returns `Splits`, with missing splits held out from `train`. No setting or seed changes which examples they get.

    Documents in pieces are held out whole, as long as no document is larger than what is held out. Of one or two
    examples nothing is held out, which `check_held_out` refuses.

    Raises:
        ValueError: A given split has other columns than `train`.
    """
    for other in (validation, test):
        if other is not None and (_shapes(other), other.rate) != (_shapes(train), train.rate):
            raise ValueError(
                f"{other.name} does not match {train.name}. Expected columns {train.spec()}. Received: {other.spec()}"
            )
    order = epoch_order(len(train), SPLIT_SEED, 0)
    cut_test = 0 if test is not None else min(MAX_TEST, max(1, int(len(train) * TEST_FRACTION)))
    rest = len(train) - cut_test
    cut_validation = 0 if validation is not None else min(MAX_VALIDATION, max(1, int(rest * VALIDATION_FRACTION)))
    if rest - cut_validation < 1:
        cut_test = cut_validation = 0
    order, cuts, notes = _whole_documents(train, order, cut_test, cut_validation)
    parts = np.split(order, np.cumsum(cuts))
    train = train.with_notes(*notes)
    test = train.take(np.sort(parts[0])) if test is None else test
    validation = train.take(np.sort(parts[1])) if validation is None else validation
    train = train.take(np.sort(parts[2]))
    return Splits(
        *(
            dataclasses.replace(source, name=f"{source.base}[{split}]")
            for source, split in zip((train, validation, test), Splits._fields)
        )
    )


def check_held_out(splits):
    """Returns the splits. Raises ValueError if one has no examples."""
    if not all(map(len, splits)):
        raise ValueError(
            f"{splits.train.base} has too few examples to hold out a validation and a test split. "
            f"Expected at least 3 examples. Received: {sum(map(len, splits))}"
        )
    return splits


def _whole_documents(source, order, *cuts):
    """Returns (rows in an order to cut, where all pieces of a document are together; the sizes of the cuts; notes).

    Documents are taken in the order of their first pieces, and those that no longer fit into a cut are left for later.
    Without pieces, order and cuts are unchanged. If a cut would stay less than half full, so are they, with a note.
    """
    ends = source.arrays.get("ends")
    if ends is None or np.all(ends):
        return order, cuts, ()
    document = (np.cumsum(ends) - ends)[slice(None) if source.rows is None else source.rows]
    _, document, sizes = np.unique(document, return_inverse=True, return_counts=True)
    _, first = np.unique(document[order], return_index=True)
    turn = np.argsort(first)  # documents, by their first piece in the order
    place = np.full(len(sizes), len(cuts))
    for number, cut in enumerate(cuts):
        for one in turn if cut else ():
            if place[one] == len(cuts) and sizes[one] <= cut:
                place[one], cut = number, cut - sizes[one]
    made = [int((place[document] == number).sum()) for number in range(len(cuts))]
    if any(2 * count < cut for count, cut in zip(made, cuts)):
        return order, cuts, (f"{PIECES}: few large documents cannot be held out whole",)
    return order[np.argsort(place[document[order]], kind="stable")], made, ()


def _shapes(source):
    return {name: shape if name != "waveform" else () for name, (shape, _) in source.spec().items()}


def few_labels(source, per_class, seed):
    """Returns a labeled source's random subset of `per_class` examples of each class, keyed by `seed`."""
    return source.take(few_label_indices(source, per_class, seed))


def few_label_indices(source, per_class, seed):
    """Returns the sorted indices of the examples that `few_labels` selects.

    Raises:
        ValueError: A class has fewer examples.
    """
    if per_class < 1:
        raise ValueError(f"Expected at least 1 label per class. Received: {per_class}")
    chosen = []
    for name, members in zip(source.classes, shuffled_members(source, seed)):
        if len(members) < per_class:
            few = "Use fewer labels per class (--budgets, --labels-per-class)."
            advice = few if len(members) else f"Leave out classes without examples: {INDEX}"
            raise ValueError(
                f"{source.name}: class {name!r} has too few examples. Expected at least {per_class}. "
                f"Received: {len(members)}. {advice}"
            )
        chosen.append(members[:per_class])
    return np.sort(np.concatenate(chosen))


def shuffled_members(source, seed):
    """Returns the indices of the examples of each class of a labeled source, in a random order keyed by `seed`."""
    labels = source.column("label")
    order = epoch_order(len(labels), seed, 0)
    return [order[labels[order] == index] for index in range(len(source.classes))]
