"""Sources of text: `pydoc`, `text:FILE_OR_FOLDER`, `table:FILE`, and what TFDS has.

A source of text has the column "text": documents, read when they are asked for. A file larger
than a megabyte comes as several pieces; "ends" says which of them ends its document.
"""

import csv
import io
import logging
import pathlib

import numpy as np

from ssl_keras.data.readers.images import files_below, held_out_folders
from ssl_keras.data.splits import Source, check_labels, hold_out

PIECE = 1 << 20  # bytes
FEW_PIECES = 200  # a smaller corpus is cut finer, so that parts of it can be held out
SMALLEST_PIECE = 1 << 8
BOM = b"\xef\xbb\xbf"
EXTENSIONS = {"", ".txt", ".text", ".md", ".rst"}
NOT_UTF8_SHARE = 0.01  # of the characters; more than this is an error

log = logging.getLogger(__name__)


class Pieces:
    """An array of strings, (N,), that lie in files until they are asked for.

    Args:
        where: list of (path, first byte, last byte + 1).
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
            path, start, stop = self.where[row]
            with open(path, "rb") as file:
                file.seek(start)
                pieces[place] = _decode(file.read(stop - start), path)[0]
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
    array = np.empty(len(texts), object)
    array[:] = texts
    wrong = [index for index, text in enumerate(array) if not isinstance(text, str)]
    if wrong:
        raise ValueError(f"{name}: expected strings. Received: {type(array[wrong[0]]).__name__}, number {wrong[0]}")
    if not any(text.strip() for text in array):
        raise ValueError(f"{name} has no text. Expected at least one document that is not empty.")
    arrays = {"text": array}
    if label is not None:
        arrays["label"], classes = check_labels(name, label, len(texts), classes)
    return Source(name, arrays, tuple(classes))


def load_text(path):
    """`Splits` of a text file, or of the text files below a folder (`train`, `validation`, `test` where they exist).

    The files are UTF-8. What is not, comes as U+FFFD; it is counted, and the file is named.

    Raises:
        ValueError: no such file, no text in it, or more than one character in a hundred that
            is not UTF-8.
    """
    root = pathlib.Path(path).expanduser()
    if root.is_file():
        return hold_out(_pieces(f"text:{path}", [root]))
    if not root.is_dir():
        raise ValueError(f"text:{path}: no such file or folder. Expected a text file, or a folder of them.")
    held_out = held_out_folders(f"text:{path}", root, "neither")
    if held_out is None:
        return hold_out(_pieces(f"text:{path}", files_below(root, EXTENSIONS)))
    parts = {split: _pieces(f"text:{path}", files_below(root / name, EXTENSIONS)) for name, split in held_out.items()}
    return hold_out(_pieces(f"text:{path}", files_below(root / "train", EXTENSIONS)), **parts)


def _pieces(name, paths):
    size = sum(path.stat().st_size for path in paths)
    if not size:
        raise ValueError(
            f"{name} has no text. Expected files ending in {', '.join(sorted(EXTENSIONS - {''}))}, "
            "not all of them empty."
        )
    most = max(SMALLEST_PIECE, min(PIECE, size // FEW_PIECES))
    where, ends, broken, characters = [], [], {}, 0
    for path in paths:
        start, stop = 0, path.stat().st_size
        with open(path, "rb") as file:
            mark = file.read(len(BOM))
            _not_utf16(mark, path)
            start = len(BOM) if mark == BOM else 0
            file.seek(start)
            while start < stop:
                piece = _cut(file.read(most), start + most >= stop)
                text, bad = _decode(piece, path)
                characters += len(text)
                if bad:
                    broken[path] = broken.get(path, 0) + bad
                where.append((path, start, start + len(piece)))
                start += len(piece)
                ends.append(start == stop)
                file.seek(start)
    if broken:
        names = ", ".join(f"{path} ({count})" for path, count in list(broken.items())[:10])
        note = f"{name}: {sum(broken.values())} of {characters} characters are not UTF-8: {names}"
        if sum(broken.values()) > NOT_UTF8_SHARE * characters:
            raise ValueError(f"{note}. Expected UTF-8. Convert the files: iconv -f latin1 -t utf-8, say.")
        log.warning("%s. They are read as U+FFFD.", note)
    return Source(name, {"text": Pieces(where), "ends": np.array(ends)})


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


def _decode(content, path):
    text = content.decode("utf-8", "replace")
    # U+FFFD that the file itself holds is no error of its; a NUL is none of a text's.
    return text, text.count("\ufffd") - content.count("\ufffd".encode()) + content.count(b"\0")


def _not_utf16(content, path):
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{path} is UTF-16. Expected UTF-8. Convert it: iconv -f utf-16 -t utf-8")


def load_table(path):
    """`Splits` of a CSV or TSV file with a header: a column of text and, where there is one, "label".

    Texts that occur more than once are taken once: a copy on either side of the split would
    be counted as knowledge.

    Raises:
        ValueError: no such file; no header with these columns; an empty label; a row of another
            length; the same text with two labels is kept with its first one, and counted.
    """
    path = pathlib.Path(path).expanduser()
    name = f"table:{path}"
    header, *rows = table_rows(name, path) or [[]]
    text_column, label_column = _columns(name, header)
    texts = {}
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        label = row[label_column].strip() if label_column is not None else ""
        if label_column is not None and not label:
            raise ValueError(f"{name}, row {number}: its label is empty. Expected one; remove the row, or label it.")
        texts.setdefault(row[text_column].strip(), []).append(label)
    texts.pop("", None)
    copies = sum(len(labels) for labels in texts.values()) - len(texts)
    if copies:
        torn = sum(len(set(labels)) > 1 for labels in texts.values())
        log.warning("%s: %d rows repeat a text and are left out (%d texts have two labels)", name, copies, torn)
    if label_column is None:
        return hold_out(documents(name, list(texts)))
    classes = sorted({labels[0] for labels in texts.values()})
    label = [classes.index(labels[0]) for labels in texts.values()]
    return hold_out(documents(name, list(texts), label, classes))


def lines_of(name, path):
    """The lines of a file.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: {path} is not UTF-8: {error}. Convert it: iconv -f latin1 -t utf-8, say.") from error


def table_rows(name, path):
    """[the cells of each row] of a CSV or TSV file, the header first; rows that are empty are [].

    Raises:
        ValueError: no such file; more than one character in a hundred that is not UTF-8; a quotation mark that is
            left open; a row of another length than the header.
    """
    if not path.is_file():
        raise ValueError(f"{name}: no such file. Expected a CSV or TSV file with a header.")
    content = path.read_bytes()
    _not_utf16(content, path)
    decoded, bad = _decode(content.removeprefix(BOM), path)
    if bad > NOT_UTF8_SHARE * len(decoded):
        raise ValueError(f"{name}: {bad} of {len(decoded)} characters are not UTF-8. Convert it first.")
    if bad:
        log.warning("%s: %d characters are not UTF-8; they are read as U+FFFD.", name, bad)
    header = decoded.partition("\n")[0]
    if "\t" in header:  # where columns are separated by tabs, a quotation mark is text
        style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    else:
        style = {"delimiter": ";" if ";" in header and "," not in header else ","}
    csv.field_size_limit(max(csv.field_size_limit(), len(decoded) + 1))
    try:
        rows = list(csv.reader(io.StringIO(decoded, newline=""), strict=True, **style))
    except csv.Error as error:
        raise ValueError(f"{name} is no CSV file: {error}. Is a quotation mark left open?") from error
    for number, row in enumerate(rows[1:], 2):
        if row and len(row) != len(rows[0]):
            raise ValueError(f"{name}, row {number}: expected {len(rows[0])} columns. Received: {len(row)}")
    return rows


def _columns(name, header):
    """(index of the text, index of the label or None)."""
    names = [cell.strip().lower() for cell in header]
    label = names.index("label") if "label" in names else None
    others = [index for index in range(len(names)) if index != label]
    if "text" in names:
        return names.index("text"), label
    if label is not None and len(others) == 1:
        return others[0], label
    raise ValueError(f"{name}: expected a header with the columns text and label. Received: {header}")
