"""Sources of text: `pydoc`, `text:FILE_OR_FOLDER`, strings from Python, and what TFDS has.

A source of text has the column "text": documents, read when they are asked for. A file larger
than a megabyte comes as several pieces; "ends" says which of them ends its document. Of JSON lines
(`.jsonl`) each is a document: its field "text", or the only one that holds a string.
"""

import json
import logging
import os
import pathlib

import numpy as np

from ssl_keras.data.readers import folders, text_files
from ssl_keras.data.splits import Source, check_labels, hold_out
from ssl_keras.files import printable

PIECE = 1 << 20  # bytes
FEW_PIECES = 200  # a smaller corpus is cut finer, so that parts of it can be held out
SMALLEST_PIECE = 1 << 8
EXTENSIONS = {"", ".txt", ".text", ".md", ".rst"}
JSON_LINES = {".jsonl", ".ndjson"}
TAKEN = EXTENSIONS | JSON_LINES | {".gz"}
EXPECTED = '{"text": …}'
# Endings of a single file that is read as it is, and what goes into the text with it.
AS_IT_IS = {".csv": "separators", ".tsv": "separators", ".html": "markup", ".htm": "markup", ".xml": "markup"}

log = logging.getLogger(__name__)


class Pieces:
    """An array of strings, (N,), that lie in files until they are asked for.

    Args:
        where: list of (opened file, first byte, last byte + 1, the field of its JSON that holds the text or None).
    """

    dtype, ndim = np.dtype(object), 1

    def __init__(self, where):
        self.where, self.shape = where, (len(where),)

    def __len__(self):
        return len(self.where)

    def __getitem__(self, rows):
        rows = np.arange(len(self))[rows]
        pieces = np.empty(len(rows), object)
        for place, row in enumerate(rows):
            source, start, stop, field = self.where[row]
            text = text_files.decoded(text_files.span(source, start, stop))[0]
            pieces[place] = text if field is None else text_files.whole_characters(json.loads(text)[field])[0]
        return pieces


def pydoc():
    """The language's own documentation inside CPython: 79 documents, some 465,000 characters of English."""
    from pydoc_data.topics import topics

    return hold_out(documents("pydoc", [text for _, text in sorted(topics.items())]))


def from_texts(texts, label=None, *, test=None, classes=(), name="texts"):
    """`Splits` from strings in memory.

    Args:
        texts: list of N strings.
        label: (N,) integers, or None.
        test: (texts, label) to report on; None cuts it from `texts`.
        classes: label names; default "0", "1", ….

    Raises:
        ValueError: as `documents`.
    """
    train = documents(name, texts, label, classes)
    if test is not None:
        test = documents(f"{name}[test]", test[0], test[1] if label is not None else None, train.classes)
    return hold_out(train, test=test)


def documents(name, texts, label=None, classes=()):
    """A `Source` of strings in memory, with labels where there are any.

    Raises:
        ValueError: no text, or none but empty ones; something that is no string; labels that do
            not number classes from 0.
    """
    if isinstance(texts, str):
        raise ValueError(
            f"{name}: expected a list of strings. Received: one string, {texts[:40]!r}. Put it in a list, "
            "or cut it into documents."
        )
    array = np.empty(len(texts), object)
    array[:] = texts
    wrong = [index for index, text in enumerate(array) if not isinstance(text, str)]
    if wrong:
        raise ValueError(f"{name}: expected strings. Received: {type(array[wrong[0]]).__name__}, number {wrong[0]}")
    halves = 0
    for index, text in enumerate(array):
        array[index], count = text_files.whole_characters(text)
        halves += count
    if not any(text.strip() for text in array):
        raise ValueError(f"{name} has no text. Expected at least one document that is not empty.")
    arrays = {"text": array}
    if label is not None:
        arrays["label"], classes = check_labels(name, label, len(texts), classes)
    source = Source(name, arrays, tuple(classes))
    return source.noted(f"{halves} lone surrogates, halves of characters, are read as U+FFFD") if halves else source


def load_text(path):
    """`Splits` of a text file, or of the text files below a folder (`train`, `validation`, `test` where they exist).

    The files are UTF-8, or UTF-8 packed by gzip (`.gz`); JSON lines end in `.jsonl`. What is not UTF-8, comes as
    U+FFFD; it is counted, and the file is named.

    Raises:
        ValueError: no such file, no text in it, a file of another kind, or more than one character in a hundred that
            is not UTF-8.
    """
    root = pathlib.Path(os.path.expanduser(path))
    name = f"text:{path}"
    if root.is_file():
        ending = text_files.ending(root)
        if ending == ".json":
            raise ValueError(
                f"{name}: expected JSON lines, {EXPECTED} in each, and an ending in .jsonl. A list of "
                "them becomes such by: jq -c '.[]'"
            )
        source = _pieces(name, [root], [])
        if ending in AS_IT_IS:
            source = source.noted(f"a file that ends in {ending} is read as it is, with its {AS_IT_IS[ending]}")
        return hold_out(source)
    if not root.is_dir():
        raise ValueError(f"{name}: no such file or folder. Expected a text file, or a folder of them.")
    found, notes = folders.part_folders(name, root, "neither", TAKEN)
    parts = {part: _below(name, folder) for part, folder in (found or {"train": root}).items()}
    return hold_out(parts.pop("train").noted(*notes), **parts)


def _below(name, root):
    """The source of one folder; JSON lines without text are left out of it, and packed files of another kind."""
    paths, others = folders.below(root, TAKEN)
    taken = [path for path in paths if text_files.ending(path) in EXTENSIONS | JSON_LINES]
    left_out = [path.name for path in paths if path not in taken]
    source = _pieces(name, taken, left_out, several=True).noted(*_files_of_parts(taken))
    return source.noted(f"left out are {folders.left_out(others)}") if others else source


def _files_of_parts(paths):
    """Notes on files, not folders, whose names say that they are parts: train.txt beside test.txt."""
    found = {}
    for path in paths:
        parts = {folders.PARTS[word] for word in folders.words_of(path) & folders.PARTS.keys()}
        if len(parts) == 1:
            found.setdefault((path.parent, *parts), path.name)
    trained_on = {folder for folder, part in found if part == "train"}
    names = [name for (folder, part), name in found.items() if folder in trained_on]
    if len(names) == len(trained_on):
        return ()
    return (
        f"{folders.listed(names)} are read together, and the parts are cut from all of them. Where they are the "
        "parts, expected a folder for each: PATH/train and PATH/test",
    )


def _pieces(name, paths, left_out=(), several=False):
    """The source of some files; of several, JSON lines that hold no text are no error."""
    opened, fields, left_out = {}, {}, list(left_out)
    for path in paths:
        opened[path] = text_files.opened(path)
        if text_files.ending(path) in JSON_LINES and text_files.size(opened[path]):
            try:
                fields[path] = _field(name, path, opened[path])
            except ValueError:
                if not several:
                    raise
                left_out.append(path.name)
                del opened[path]
    size = sum(map(text_files.size, opened.values()))
    if not size:
        raise ValueError(
            f"{name} has no text. Expected files ending in {', '.join(sorted((EXTENSIONS | JSON_LINES) - {''}))}, "
            "not all of them empty."
        )
    most = max(SMALLEST_PIECE, min(PIECE, size // FEW_PIECES))
    where, ends, broken, characters, silent = [], [], {}, 0, 0
    for path, source in opened.items():
        field, broken[path] = fields.get(path), 0
        for start, stop, text, bad in _documents(name, path, source, field) if field else _cuts(source, most):
            broken[path] += bad
            characters += len(text)
            if field and not text.strip():
                silent += 1
                continue
            where.append((source, start, stop, field))
            ends.append(bool(field) or stop == text_files.size(source))
    text_files.check_utf8(name, broken, characters)
    if silent > len(where):
        raise ValueError(f"{name}: {silent} of {silent + len(where)} lines have no text. Expected {EXPECTED} in each.")
    others = sorted(set(fields.values()) - {"text"})
    notes = [f"the text of JSON lines is their field {', '.join(others)}"] if others else []
    notes += [f"{silent} lines have no text and are left out"] if silent else []
    if left_out:
        notes.append(
            f"{len(left_out)} files hold no text that is read here, and are left out: {folders.listed(left_out)}"
        )
    return Source(name, {"text": Pieces(where), "ends": np.array(ends)}).noted(*notes)


def _cuts(source, most):
    """(first byte, last byte + 1, text, how many of its characters are not UTF-8) of each piece of an opened file."""
    start, stop = 0, text_files.size(source)
    if text_files.span(source, 0, len(text_files.BOM)) == text_files.BOM:
        start = len(text_files.BOM)
    while start < stop:
        piece = _cut(text_files.span(source, start, start + most), start + most >= stop)
        yield start, start + len(piece), *text_files.decoded(piece)
        start += len(piece)


def _documents(name, path, source, field):
    """The same of each of its JSON lines."""
    for number, (start, line) in enumerate(text_files.json_lines(source), 1):
        if line.strip():
            text, bad = text_files.decoded(line)
            expected = f"{name}: {printable(path)}, line {number}: expected {EXPECTED}"
            row = text_files.from_json(text, expected)
            value = (row.get(field) or "") if isinstance(row, dict) else None
            if not isinstance(value, str):
                raise ValueError(f"{expected}. Received: {text[:80]!r}")
            text, halves = text_files.whole_characters(value)
            yield start, start + len(line), text, bad + halves


def _field(name, path, source):
    """The field of JSON lines that holds the text, by the first of them."""
    line = next((line for _, line in text_files.json_lines(source) if line.strip()), b"")
    expected = (
        f"{name}: {printable(path)}: expected {EXPECTED} in each line, or another field that alone holds a string"
    )
    row = text_files.from_json(text_files.decoded(line)[0], expected)
    if isinstance(row, dict):
        if isinstance(row.get("text", 0), str | None):
            return "text"
        strings = [field for field, value in row.items() if isinstance(value, str)]
        if len(strings) == 1:
            return strings[0]
    raise ValueError(f"{expected}. Received: {line[:80].decode('utf-8', 'replace')!r}")


def _cut(piece, last):
    """A piece that ends with a line or, where there is none, with a character."""
    if last:
        return piece
    line = piece.rfind(b"\n") + 1
    if line:
        return piece[:line]
    end = len(piece)
    while end > len(piece) - 4 and end > 1 and piece[end - 1] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return piece[: end - 1] if piece[end - 1] >= 0xC0 else piece
