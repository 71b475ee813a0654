"""Tables: CSV, TSV and JSON lines in common dialects; `table:FILE` has texts, or pairs of them, with labels.

A table has a header, from which the separator is detected: a tab, comma, semicolon or bar. Empty rows are skipped.
In files with tabs, quotation marks are text, unless cells are quoted as spreadsheets and other programs do.
"""

import collections
import csv
import io
import os
import pathlib
import re
import typing

import numpy as np

from ssl_keras.data.readers.file_lists import listed
from ssl_keras.data.readers.text import documents
from ssl_keras.data.readers.text_files import JSON, ending, json_form, json_rows, read, whole_characters
from ssl_keras.data.splits import UNUSED, hold_out

SEPARATORS = "\t,;|"
SEP_LINE = re.compile(r'\s*"?sep=([^\w\s"\\]|\t)"?[^\S\n]*\r?\n', re.IGNORECASE)  # written by Excel
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
SEPARATOR = ";"  # between several labels of a text
FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}  # what a column of 0 and 1 contains
ABSENT = {"nan", "null", "none", "na", "n/a", "<na>"}  # written for missing values
QUOTED = re.compile(r'"(?:[^"]|"")*"')
# CSV dialects to try: the standard one, one with spaces before quotation marks, and one that escapes them as \".
STYLES = ({}, {"skipinitialspace": True}, {"escapechar": "\\", "doublequote": False})


class Columns(typing.NamedTuple):
    """Indices of a table's columns: of the text, of the second text and of the label or None, and of 0/1 labels."""

    text: int
    second: int | None
    label: int | None
    labels: tuple[int, ...] = ()


def load(path, labeled=True):
    """Returns `Splits` of a CSV or TSV file with a header, or of JSON lines, with texts and optionally labels.

    Pairs of texts have the columns text and text2. Without a column label, several columns that contain only 0 and 1
    are read as the column "labels" (N, K) of the source, and `classes` has their names.

    Repeated texts are skipped, so that no copy is in two splits. A text with two labels keeps the first; a note counts
    them. Other notes name columns that are not read, and labels that may be one class or none.

    Args:
        path: the file.
        labeled: whether to read the labels, and then only the rows that have one, if any has.

    Raises:
        ValueError: The file does not exist, the header lacks these columns, a pair has an empty text, or a row has the
            wrong length.
    """
    path = pathlib.Path(os.path.expanduser(path))
    name = f"table:{path}" if labeled else f"table:{path}[text]"
    header, rows, columns = _read(name, path)
    if not labeled or columns.label is not None and not any(row[columns.label].strip() for _, row in rows):
        columns = Columns(columns.text, columns.second, None)
    rows, notes = _with_labels(name, rows, columns)
    examples, silent = _examples(name, rows, columns)
    notes += [f"{silent} rows have no text and are skipped"] if silent else []
    copies = sum(len(labels) for labels in examples.values()) - len(examples)
    if copies:
        torn = sum(len(set(labels)) > 1 for labels in examples.values())
        notes.append(f"{copies} rows repeat a text and are skipped ({torn} texts have several labels)")
    texts, seconds = zip(*examples) if examples else ((), ())
    first = [labels[0] for labels in examples.values()]
    classes = sorted(set(first)) if columns.label is not None else []
    number = {each: index for index, each in enumerate(classes)}
    notes += [*_unused_notes(header, columns, rows), *_spelling_notes(classes), *quotation_notes(texts)]
    names = [header[index] for index in columns.labels]
    source = documents(name, list(texts), [number[each] for each in first] if classes else None, classes or names)
    if columns.second is not None:
        source.arrays["text2"] = documents(f"{name}, text2", list(seconds)).arrays["text"]
    if names:
        source.arrays["labels"] = np.array(first, np.float32)  # (N, K)
        notes.append(f"these columns of 0 and 1 are read as labels: {listed(names)}")
    return hold_out(source.with_notes(*notes))


def texts_of_rows(path):
    """Returns [(place, (text, second text))] of all rows of a table that `load` reads, in the order of the file.

    Repeated texts are there as often as in the file; a text that is missing is "". A place is "row 2" or "line 1".
    """
    path = pathlib.Path(os.path.expanduser(path))
    if not path.exists():
        path = path.with_name(path.name.removesuffix("[text]"))
    _, rows, columns = _read(f"table:{path}", path)
    return [(place, tuple(whole_characters(text)[0] for text in _texts(row, columns))) for place, row in rows]


def _read(name, path):
    """Returns (the header, the rows, the `Columns`) of a table."""
    header, rows = with_header(name, path, {"text", "text2", "label"})
    return header, rows, _columns(name, header, rows)


def _texts(row, columns):
    return row[columns.text].strip(), "" if columns.second is None else row[columns.second].strip()


def _with_labels(name, rows, columns):
    """Returns (the rows without those that have a text and no label, a list with a note on these).

    In a file with several labels in a cell, an empty one means that none applies.
    """
    if columns.label is None or any(SEPARATOR in row[columns.label] for _, row in rows):
        return rows, []
    kept = [(place, row) for place, row in rows if row[columns.label].strip() or not row[columns.text].strip()]
    missing = len(rows) - len(kept)
    if not missing:
        return rows, []
    return kept, [
        f"{missing} rows have no label and are skipped. For all texts, to pretrain or to predict, use {name}[text]"
    ]


def _examples(name, rows, columns):
    """Returns ({(text, second text): [its label in each row]}, number of rows without text)."""
    texts, silent = {}, 0
    for place, row in rows:
        text, second = _texts(row, columns)
        label = "" if columns.label is None else row[columns.label].strip()
        if columns.second is not None and not (text and second):
            raise ValueError(
                f"{name}, {place}: {'text2' if text else 'text'} is empty. Expected two texts. Fill it in, or remove "
                "the row."
            )
        if not text:
            silent += 1
            continue
        if columns.labels:
            label = tuple(FLAGS[row[index].strip().lower()] for index in columns.labels)
        texts.setdefault((text, second), []).append(label)
    return texts, silent


def _columns(name, header, rows):
    """Returns the `Columns` of a table. Raises ValueError if the header does not name the text."""
    label = header.index("label") if "label" in header else None
    second = header.index("text2") if "text2" in header else None
    others = [index for index, column in enumerate(header) if index not in (label, second) and column]
    if "text" in header:
        text = header.index("text")
        flags = [index for index in others if index != text and rows and _are_flags(rows, index)]
        return Columns(text, second, label, tuple(flags) if label is None and len(flags) > 1 else ())
    if label is not None and second is None and len(others) == 1:
        return Columns(others[0], None, label)
    raise ValueError(
        f"{name}: expected a header with the columns text and label (and text2, for pairs). Received: "
        f"{listed(header)}. Rename these columns."
    )


def _are_flags(rows, index):
    return all(row[index].strip().lower() in FLAGS for _, row in rows)


def _unused_notes(header, columns, rows):
    """Returns notes on columns that are not read, and why some of 0 and 1 are not."""
    used = {columns.text, columns.second, columns.label, *columns.labels}
    others = {index: column for index, column in enumerate(header) if index not in used and column}
    if not others:
        return []
    advice = "" if "label" in header or columns.labels else ". If one has the labels, rename it to label"
    notes = [f"{UNUSED}: {listed(others.values())}{advice}"]
    for index, column in others.items() if columns.label is None else ():
        cells = [row[index].strip().lower() for _, row in rows]
        empty = cells.count("")
        if 0 < empty < len(cells) and all(cell in FLAGS for cell in cells if cell):
            notes.append(f"{column} has only 0 and 1, but {empty} empty cells. To read it as a label, fill these in")
    return notes


def _spelling_notes(classes):
    """Returns notes on classes that may be one, or none: "Spam" and "spam", 1 and 1.0, "nan"."""
    alike = collections.defaultdict(list)
    for name in classes:
        alike[float(name) if NUMBER.fullmatch(name) else name.casefold()].append(name)
    several = [" and ".join(names) for names in alike.values() if len(names) > 1]
    notes = [f"these labels are different classes, though they are spelled alike: {listed(several)}"] if several else []
    absent = [name for name in classes if name.casefold() in ABSENT]
    if absent:
        notes.append(f"these labels are read as classes, not as missing labels: {listed(absent)}")
    return notes


def with_header(name, path, wanted):
    """Returns (lowercase column names, [(place, cells) of each row]) without empty rows.

    Args:
        wanted: names of columns by which the separator is detected.

    Raises:
        ValueError: The file does not exist or is not text, a quotation mark is not closed, a row is not as long as the
            header, or a line is not valid JSON.
    """
    if not path.is_file():
        raise ValueError(f"{name}: no such file. Expected a CSV or TSV file with a header, or JSON lines (.jsonl).")
    if ending(path) in JSON:
        return _json(name, path, wanted)
    text = read(name, path)
    stated = SEP_LINE.match(text)
    text = text[stated.end() :] if stated else text
    rows = parse_rows(name, text, stated[1] if stated else _separator(text, wanted))
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    return header, [(f"row {number}", row) for number, row in rows[1:]]


def _separator(text, wanted):
    """Returns the separator with which the header has the most wanted names."""
    first = next(io.StringIO(text.lstrip("\r\n"), newline=""), "").rstrip("\r\n")

    def names(separator):
        return {cell.strip().lower() for cell in next(csv.reader([first], delimiter=separator), [])}

    return max((each for each in SEPARATORS if each in first), key=lambda each: len(wanted & names(each)), default=",")


def parse_rows(name, text, separator, width=None, expected=None):
    """Returns [(number, cells)] of the rows that are not empty.

    Args:
        width: the number of cells of a row. Defaults to that of the first row.
        expected: the content of a row, for messages. Defaults to its number of columns.

    Raises:
        ValueError: A row has another width, or a quotation mark is not closed.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    plain, wrong = None, None
    if separator == "\t":
        plain = _rows(text, separator, quoting=csv.QUOTE_NONE)
        wrong = _width_error(name, plain, width, expected)
        if not wrong and not _is_quoted(plain):
            return plain
    for style in STYLES:
        try:
            rows = _rows(text, separator, **style)
            problem = _width_error(name, rows, width, expected)
        except csv.Error as error:
            problem = f"{name} is not a valid CSV file: {error}. Check for a quotation mark that is not closed."
        if not problem:
            return rows
        wrong = wrong or (problem if plain is None else "")
    if wrong:
        raise ValueError(wrong)
    return plain


def _rows(text, separator, **style):
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, **style)
    rows = [(number, row) for number, row in enumerate(reader, 1) if any(cell.strip() for cell in row)]
    width = len(rows[0][1]) if rows else 0
    # Spreadsheets may export empty cells beyond the table.
    return [(number, row[:width] if not any(map(str.strip, row[width:])) else row) for number, row in rows]


def _width_error(name, rows, width, expected):
    """Returns an error message for the first row of another width, or None."""
    width = width or (len(rows[0][1]) if rows else 0)
    for number, row in rows:
        if len(row) != width:
            received = f"{len(row)} {'parts' if expected else 'columns'}, {' | '.join(row)[:80]!r}"
            if expected:
                return f"{name}, line {number}: expected {expected}. Received: {received}"
            return (
                f"{name}, row {number}: expected as many columns as the header has, {width}. Received: {received}. Put "
                "quotation marks around a text that contains the separator."
            )
    return None


def _is_quoted(rows):
    """Returns whether quotation marks around cells are quoting: all cells that begin with one are well formed, and
    either the header's are quoted too, or a cell needs it, as a spreadsheet quotes cells with a comma or a mark."""
    cells = [cell for _, row in rows for cell in row]
    marked = [cell for cell in cells if cell.startswith('"')]
    if not marked or not all(map(QUOTED.fullmatch, marked)):
        return False
    commas = [cell.startswith('"') for cell in cells if "," in cell]
    return (
        all(cell.startswith('"') for cell in rows[0][1])
        or any('""' in cell[1:-1] for cell in marked)
        or all(commas or [False])
    )


def quotation_notes(texts):
    """Returns a tuple with a note on texts in quotation marks, which may be quoting; empty if there are none."""
    count = sum(len(text) > 2 and text[0] == text[-1] == '"' for text in texts)
    return (f"{count} texts begin and end with quotation marks, which are read as text",) if count else ()


def _json(name, path, wanted):
    fields = ", ".join(f'"{column}": …' for column in sorted(wanted, reverse=True))
    expected = json_form(path, "{" + fields + "}")
    rows = json_rows(name, path, expected)
    for number, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{name}, line {number}: expected {expected}. Received: {str(row)[:80]!r}")
        for column, value in row.items():
            if column.lower() in wanted and not isinstance(value, str | int | float | None):
                raise ValueError(f"{name}, line {number}: expected a string as {column}. Received: {str(value)[:80]!r}")
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    cells = [
        (f"line {number}", ["" if row.get(column) is None else str(row[column]) for column in columns])
        for number, row in rows
    ]
    return [column.lower() for column in columns], [(place, row) for place, row in cells if any(map(str.strip, row))]
