"""Text as sequences of tokens, one a row: words, sentences, or the rows that a source has.

Shapes: `N` sequences, `W` the longest one's tokens, `U` the longest target's. -1 is padding.
"""

import dataclasses
import logging
import re

import numpy as np

from ssl_keras.data.readers.text import documents
from ssl_keras.data.splits import Splits
from ssl_keras.data.tokens import count_unknown, texts_of

UNITS = ("words", "sentences", "rows")
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
MAX_UNKNOWN = 0.05  # of the tokens of a column
MIN_WORD = 2  # letters; one alone says nothing of how words are made

log = logging.getLogger(__name__)


def cut(splits, unit):
    """`Splits` of text -> `Splits` of its different words, in lower case, or of its sentences.

    A word or sentence that is in one part is left out of those after it: what was trained on is no test.

    Raises:
        ValueError: a part in which nothing is left; text read in pieces, where it is to be taken by rows.
    """
    if unit == "rows":
        for source in splits:
            if not np.all(source.arrays.get("ends", True)):
                raise ValueError(f"{source.name} was read in pieces. Cut it: --unit sentences, or words")
        return splits
    find = {"words": _words, "sentences": _sentences}[unit]
    parts, known = [], set()
    for source in splits:
        found = list(dict.fromkeys(piece for stretch in _stretches(source) for piece in _whole(find, *stretch)))
        new = [piece for piece in found if piece not in known]
        if not new:
            raise ValueError(f"{source.name} has no {unit} of its own. Expected more text.")
        known |= set(new)
        parts.append(documents(source.name, new))
    return Splits(*parts)


def _stretches(source):
    """The texts of a part, (text, whether it begins and whether it ends in the middle of a document).

    A file may have been read in pieces, and these be in several parts.
    """
    rows = np.arange(len(source)) if source.rows is None else source.rows
    ends = source.arrays.get("ends", np.ones(rows.max() + 1, bool))
    joined, begins_inside = "", False
    for index, (row, text) in enumerate(zip(rows, texts_of(source))):
        if not joined:
            begins_inside = row > 0 and not ends[row - 1]
        joined += text
        follows = index + 1 < len(rows) and rows[index + 1] == row + 1
        if ends[row] or not follows:
            yield joined, begins_inside, not ends[row]
            joined = ""


def _whole(find, text, begins_inside, ends_inside):
    """The units of a text but for a first or last one that another part may have the rest of."""
    units = list(find(text))
    return units[int(begins_inside) : len(units) - int(ends_inside)]


def _words(text):
    return (word.lower() for word in WORD.findall(text) if len(word) >= MIN_WORD)


def _sentences(text):
    pieces = (" ".join(piece.split()) for piece in SENTENCE.split(text))
    return (piece for piece in pieces if len(piece) >= MIN_WORD)


def tokenized(splits, tokenizer, most, reader=None):
    """`Splits` of sequences -> `Splits` with the columns "tokens" (N, W) and, of pairs, "target" (N, U), int32.

    Args:
        splits: sources with a column "text" and, of pairs, "target".
        tokenizer: a `Tokenizer`.
        most: tokens of a text, and of a target; longer ones are cut, and counted.
        reader: what reads targets, the tokenizer or `Symbols`; None is the tokenizer.

    Raises:
        ValueError: a target symbol that is not among the known ones; text of which the tokenizer knows too little.
    """
    reader = tokenizer if reader is None else reader
    parts = {"tokens": [tokenizer.encode(texts_of(source)) for source in splits]}
    if "target" in splits.train.arrays:
        parts["target"] = [_targets(source, reader) for source in splits]
    for column, encoded in parts.items():
        long = sum(len(ids) > most for part in encoded for ids in part)
        if long:
            log.warning("%s: %d %s are longer than %d and are cut (--context)", splits.train.base, long, column, most)
    widths = {column: min(most, max(len(ids) for part in encoded for ids in part)) for column, encoded in parts.items()}
    for column, encoded in parts.items():
        if column == "tokens" or reader is tokenizer:
            name = f"{splits.train.base}, {column}"
            unknown, count = count_unknown([ids for part in encoded for ids in part], tokenizer)
            if unknown:
                log.warning("%s: %d of %d tokens are unknown to the tokenizer", name, unknown, count)
            if unknown > MAX_UNKNOWN * count:
                raise ValueError(
                    f"{name}: {unknown / count:.0%} of the tokens are unknown to the tokenizer. Expected text such as "
                    "it was trained on; --tokenizer bpe reads any. Targets that are symbols between white space want "
                    "--symbols."
                )
    made = []
    for number, source in enumerate(splits):
        arrays = {column: padded_rows(encoded[number], widths[column]) for column, encoded in parts.items()}
        arrays |= {name: source.column(name) for name in ("label",) if name in source.arrays}
        lengths = sum((arrays[column] >= 0).sum(1) for column in parts)
        made.append(dataclasses.replace(source, arrays=arrays, rows=None, tokenizer=tokenizer, lengths=lengths))
    return Splits(*made)


def _targets(source, reader):
    try:
        return reader.encode(source.column("target"))
    except ValueError as error:  # says of no symbol in which part it is
        raise ValueError(f"{source.name}: {error}") from error


def check_longer_than(source, horizon):
    """Warns of sequences of no more than `horizon` tokens. Raises ValueError where there are no others."""
    long = (source.column("tokens") >= 0).sum(1) > horizon
    if not long.any():
        raise ValueError(f"No sequence of {source.base} has more than {horizon} tokens (--horizon).")
    if not long.all():
        log.warning(
            "%s: %.0f%% of the sequences are not longer than the horizon, and teach nothing but the end",
            source.base,
            100 * (1 - long.mean()),
        )


def padded_rows(encoded, width):
    """N lists of ids -> (N, width) int32, cut or padded with -1."""
    rows = np.full((len(encoded), width), -1, np.int32)
    for row, ids in zip(rows, encoded):
        row[: min(len(ids), width)] = ids[:width]
    return rows
