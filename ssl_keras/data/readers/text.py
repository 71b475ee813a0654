"""Sources of text: `pydoc`, `text:FILE_OR_FOLDER`, and strings in memory.

A source has the column "text" of documents, read lazily. Files of more than a megabyte are read in pieces; the column
"ends" marks the last piece of a document. Each JSON line (`.jsonl`) is a document: its field "text", or its only
string field.
"""

import json
import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ssl_keras.data.labels import check_labels, class_names
from ssl_keras.data.readers import folders, text_files
from ssl_keras.data.readers.split_names import PARTS, words_of
from ssl_keras.data.readers.text_files import EXTENSIONS, JSON_LINES, SUPPORTED
from ssl_keras.data.splits import Source, Splits, check_held_out, check_pair, hold_out
from ssl_keras.files import printable

PIECE = 1 << 20  # bytes
MIN_PIECES = 200  # small corpora are cut into smaller pieces, so that some can be held out
MIN_PIECE = 1 << 8
EXPECTED = '{"text": …}'
# Extensions of files that are read as plain text, and what that includes.
AS_PLAIN_TEXT = {".csv": "separators", ".tsv": "separators", ".html": "markup", ".htm": "markup", ".xml": "markup"}

log = logging.getLogger(__name__)


class Pieces:
    """A lazy array (N,) of strings in files.

    Args:
        where: list of (opened file, first byte, last byte + 1, the JSON field of the text or None).
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
    """Returns `Splits` of the Python documentation in CPython: 79 documents, about 465,000 characters of English."""
    from pydoc_data.topics import topics

    return hold_out(documents("pydoc", [text for _, text in sorted(topics.items())]))


def from_texts(
    texts: Sequence[str],
    label: npt.ArrayLike | None = None,
    *,
    test: tuple[Sequence[str], npt.ArrayLike | None] | None = None,
    classes: Sequence[str] = (),
    name: str = "texts",
) -> Splits:
    """Returns `Splits` of strings in memory.

    Args:
        texts: list of N strings.
        label: (N,) integers, or None.
        test: (texts, label) of the test split; None holds it out from `texts`.
        classes: label names. Defaults to "0", "1", ….

    Raises:
        ValueError: See `documents`.
    """
    train = documents(name, texts, label, classes)
    if test is not None:
        test = documents(f"{name}[test]", *check_pair(name, test, label), train.classes)
    return check_held_out(hold_out(train, test=test))


def documents(name, texts, label=None, classes=()):
    """Returns a `Source` of strings in memory, optionally with labels.

    Raises:
        ValueError: They are not a list of strings, or all are empty; or the labels are not class indices.
    """
    whole, halves = text_files.strings(name, texts)
    array = np.array(whole, object)
    if not any(text.strip() for text in array):
        raise ValueError(f"{name} has no text. Expected at least one nonempty document.")
    arrays, classes, notes = {"text": array}, class_names(name, classes), ()
    if label is not None:
        arrays["label"], classes, notes = check_labels(name, label, len(array), classes)
    notes += (f"{halves} lone surrogates are read as U+FFFD",) if halves else ()
    return Source(name, arrays, classes).with_notes(*notes)


def load_text(path):
    """Returns `Splits` of a text file or a folder of text files; subfolders `train`, `validation`, `test` are splits.

    Files are UTF-8, optionally compressed with gzip (`.gz`); files of JSON lines end in `.jsonl`. Invalid UTF-8 is read
    as U+FFFD, with a warning that names the file.

    Raises:
        ValueError: The file does not exist, has no text or has another format; or more than one character in a hundred
            is not UTF-8.
    """
    root = pathlib.Path(os.path.expanduser(path))
    name = f"text:{path}"
    if root.is_file():
        ending = text_files.ending(root)
        if ending == ".json":
            raise ValueError(
                f"{name}: expected JSON lines, {EXPECTED} in each, in a file ending in .jsonl. Received: a .json file. "
                "Convert a list with: jq -c '.[]'"
            )
        source = _pieces(name, [root], [])
        if ending in AS_PLAIN_TEXT:
            source = source.with_notes(f"{ending} files are read as plain text, with their {AS_PLAIN_TEXT[ending]}")
        return hold_out(source)
    if not root.is_dir():
        raise ValueError(f"{name}: no such file or folder. Expected a text file, or a folder of them.")
    found, notes = folders.part_folders(name, root, "neither", SUPPORTED)
    parts = {part: _below(name, folder) for part, folder in (found or {"train": root}).items()}
    return hold_out(parts.pop("train").with_notes(*notes), **parts)


def _below(name, root):
    """Returns the source of one folder, without JSON lines that have no text and compressed files of other kinds."""
    paths, others = folders.below(root, SUPPORTED)
    taken = [path for path in paths if text_files.ending(path) in EXTENSIONS | JSON_LINES]
    left_out = [path.name for path in paths if path not in taken]
    rest = folders.left_out(others)
    source = _pieces(name, taken, left_out, several=True, others=rest).with_notes(*_files_of_parts(taken))
    return source.with_notes(f"skipped files: {rest}") if rest else source


def _files_of_parts(paths):
    """Returns notes on files, instead of folders, that are named after splits, such as train.txt and test.txt."""
    found = {}
    for path in paths:
        parts = {PARTS[word] for word in words_of(path) & PARTS.keys()}
        if len(parts) == 1:
            found.setdefault((path.parent, *parts), path.name)
    trained_on = {folder for folder, part in found if part == "train"}
    names = [name for (folder, part), name in found.items() if folder in trained_on]
    if len(names) == len(trained_on):
        return ()
    return (
        f"{folders.listed(names)} are read together, and the splits are held out from all of them. If they are the "
        "splits, move each into its own folder: PATH/train and PATH/test",
    )


def _pieces(name, paths, left_out=(), several=False, others=""):
    """Returns the source of files. If there are `several`, JSON lines without text are skipped and are not an error.

    `left_out` and `others` are names and kinds of files that are not read, for messages.
    """
    opened, fields, left_out, why = {}, {}, list(left_out), ""
    for path in paths:
        opened[path] = text_files.opened(path)
        if text_files.ending(path) in JSON_LINES and text_files.size(opened[path]):
            try:
                fields[path] = _field(name, path, opened[path])
            except ValueError as error:
                if not several:
                    raise
                left_out.append(path.name)
                why = why or str(error).removeprefix(f"{name}: ")
                del opened[path]
    size = sum(map(text_files.size, opened.values()))
    if not size:
        empty = [f"{len(opened)} empty files"] if opened else []
        received = "; ".join([*empty, *filter(None, [others, folders.listed(left_out)])]) or "no files"
        raise ValueError(
            f"{name} has no text. Expected nonempty files ending in "
            f"{', '.join(sorted((EXTENSIONS | JSON_LINES) - {''}))}. Received: {received}." + (why and f" {why}")
        )
    most = max(MIN_PIECE, min(PIECE, size // MIN_PIECES))
    where, ends, broken, characters, silent = [], [], {}, 0, 0
    for path, source in opened.items():
        field, broken[path] = fields.get(path), 0
        for start, stop, text, bad in _cuts(source, most) if field is None else _documents(name, path, source, field):
            broken[path] += bad
            characters += len(text)
            if field is not None and not text.strip():
                silent += 1
                continue
            where.append((source, start, stop, field))
            ends.append(field is not None or stop == text_files.size(source))
    text_files.check_utf8(name, broken, characters)
    if silent > len(where):
        raise ValueError(f"{name}: {silent} of {silent + len(where)} lines have no text. Expected {EXPECTED} in each.")
    others = sorted(set(fields.values()) - {"text"})
    notes = [f"the text of JSON lines is read from the field {folders.listed(others)}"] if others else []
    notes += [f"{silent} lines have no text and are skipped"] if silent else []
    if left_out:
        notes.append(f"{len(left_out)} files have no supported text and are skipped: {folders.listed(left_out)}")
    return Source(name, {"text": Pieces(where), "ends": np.array(ends)}).with_notes(*notes)


def _cuts(source, most):
    """Yields (first byte, last byte + 1, text, number of invalid characters) of each piece of an opened file."""
    start, stop = 0, text_files.size(source)
    if text_files.span(source, 0, len(text_files.BOM)) == text_files.BOM:
        start = len(text_files.BOM)
    while start < stop:
        piece = _cut(text_files.span(source, start, start + most), start + most >= stop)
        yield start, start + len(piece), *text_files.decoded(piece)
        start += len(piece)


def _documents(name, path, source, field):
    """Yields the same as `_cuts` for each JSON line of a file."""
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
    """Returns the name of the field with the text, from the first JSON line."""
    line = next((line for _, line in text_files.json_lines(source) if line.strip()), b"")
    expected = f"{name}: {printable(path)}: expected {EXPECTED} in each line, or a single string field"
    row = text_files.from_json(text_files.decoded(line)[0], expected)
    if isinstance(row, dict):
        if isinstance(row.get("text", 0), str | None):
            return "text"
        strings = [field for field, value in row.items() if isinstance(value, str)]
        if len(strings) == 1:
            return strings[0]
    raise ValueError(f"{expected}. Received: {line[:80].decode('utf-8', 'replace')!r}")


def _cut(piece, last):
    """Cuts a piece after its last line or, if it has no line end, after its last whole character."""
    if last:
        return piece
    line = piece.rfind(b"\n") + 1
    if line:
        return piece[:line]
    end = len(piece)
    while end > len(piece) - 4 and end > 1 and piece[end - 1] & 0xC0 == 0x80:  # a continuation byte
        end -= 1
    return piece[: end - 1] if piece[end - 1] >= 0xC0 else piece
