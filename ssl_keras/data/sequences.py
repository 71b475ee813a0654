"""Token sequences, one per row: words, sentences, or the rows of a source.

Shapes: `N` sequences, `W` tokens of the longest, `U` tokens of the longest target. -1 is padding.
"""

import dataclasses
import logging
import re

import numpy as np

from ssl_keras.data.readers.text import documents
from ssl_keras.data.splits import Splits, check_whole_texts
from ssl_keras.data.tokens import count_unknown, texts_of

UNITS = ("words", "sentences", "rows")
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
MAX_UNKNOWN = 0.05  # fraction of unknown tokens in a column; more is an error
MIN_WORD = 2  # letters

log = logging.getLogger(__name__)


def split_into_units(splits, unit):
    """Converts `Splits` of text to `Splits` of its distinct words, lowercased, or its distinct sentences.

    Words or sentences of an earlier split are dropped from later ones, so held-out ones are new.

    Raises:
        ValueError: A split has none left, or `unit` is "rows" and the text was read in pieces.
    """
    if unit == "rows":
        for source in splits:
            check_whole_texts(source, "Use --unit sentences or --unit words.")
        return splits
    find = {"words": _words, "sentences": _sentences}[unit]
    parts, known = [], set()
    for source in splits:
        found = list(dict.fromkeys(piece for stretch in _stretches(source) for piece in _whole(find, *stretch)))
        new = [piece for piece in found if piece not in known]
        if not new:
            raise ValueError(f"{source.name} has no {unit} that are not in the other splits. Use more text.")
        known |= set(new)
        parts.append(documents(source.name, new))
    return Splits(*parts)


def _stretches(source):
    """Yields the texts of a split: (text, whether it starts inside a document, whether it ends inside one).

    Pieces of one file may be in several splits.
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
    """Returns the units of a text, without a first or last one that may continue in another split."""
    units = list(find(text))
    return units[int(begins_inside) : len(units) - int(ends_inside)]


def _words(text):
    return (word.lower() for word in WORD.findall(text) if len(word) >= MIN_WORD)


def _sentences(text):
    pieces = (" ".join(piece.split()) for piece in SENTENCE.split(text))
    return (piece for piece in pieces if len(piece) >= MIN_WORD)


def tokenize(splits, tokenizer, most, reader=None):
    """Tokenizes `Splits` of sequences: the columns "tokens" (N, W) and, for pairs, "target" (N, U), int32.

    Args:
        splits: sources with a column "text" and, for pairs, "target".
        tokenizer: a `Tokenizer`.
        most: the maximum number of tokens of a text, and of a target. Longer ones are truncated, with a warning.
        reader: the tokenizer of targets, a `Tokenizer` or `Symbols`. Defaults to `tokenizer`.

    Raises:
        ValueError: A target has an unknown symbol, or too many tokens are unknown to the tokenizer.
    """
    reader = tokenizer if reader is None else reader
    parts = {"tokens": [tokenizer.encode(texts_of(source)) for source in splits]}
    if "target" in splits.train.arrays:
        parts["target"] = [_targets(source, reader) for source in splits]
    for column, encoded in parts.items():
        long = sum(len(ids) > most for part in encoded for ids in part)
        if long:
            log.warning("%s: %d rows of %s are truncated to %d (--context).", splits.train.base, long, column, most)
    widths = {column: min(most, max(len(ids) for part in encoded for ids in part)) for column, encoded in parts.items()}
    for column, encoded in parts.items():
        if column == "tokens" or reader is tokenizer:
            name = f"{splits.train.base}, {column}"
            unknown, count = count_unknown([ids for part in encoded for ids in part], tokenizer)
            if unknown:
                log.warning("%s: %d of %d tokens are unknown to the tokenizer", name, unknown, count)
            if unknown > MAX_UNKNOWN * count:
                raise ValueError(
                    f"{name}: {unknown / count:.0%} of the tokens are unknown to the tokenizer. "
                    f"Expected at most {MAX_UNKNOWN:.0%}. Use text like the tokenizer's training text, or "
                    "--tokenizer bpe, which reads any text. For targets of symbols separated by spaces, add --symbols."
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
    except ValueError as error:  # its message does not name the split
        raise ValueError(f"{source.name}: {error}") from error


def check_longer_than(source, horizon):
    """Warns if sequences have at most `horizon` tokens. Raises ValueError if all do."""
    long = (source.column("tokens") >= 0).sum(1) > horizon
    if not long.any():
        raise ValueError(f"No sequence of {source.base} has more than {horizon} tokens. Use a smaller --horizon.")
    if not long.all():
        log.warning(
            "%s: %.0f%% of the sequences are not longer than the horizon. Their only target is the end token.",
            source.base,
            100 * (1 - long.mean()),
        )


def padded_rows(encoded, width):
    """Truncates or pads N lists of ids to (N, width) int32. Padding is -1."""
    rows = np.full((len(encoded), width), -1, np.int32)
    for row, ids in zip(rows, encoded):
        row[: min(len(ids), width)] = ids[:width]
    return rows
