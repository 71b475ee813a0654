"""Rows of cells: CSV, TSV and JSON lines as programs and people write them; `table:FILE`, texts with labels.

A table has a header; columns are separated by a tab, comma, semicolon or bar, whichever the header says. Empty rows are
passed over. In a file with tabs a quotation mark is text, unless a program has quoted the cells.
"""

import csv
import io
import os
import pathlib
import re

from ssl_keras.data.readers.text import documents
from ssl_keras.data.readers.text_files import JSON, ending, json_rows, read
from ssl_keras.data.splits import hold_out

SEPARATORS = "\t,;|"
SAID = re.compile(r'\s*"?sep=([^\w\s"\\]|\t)"?[^\S\n]*\r?\n', re.IGNORECASE)  # Excel's first line
QUOTED = re.compile(r'"(?:[^"]|"")*"')
# How a program may have written them: a space before the quotation mark, or \" for one in a cell.
STYLES = ({}, {"skipinitialspace": True}, {"escapechar": "\\", "doublequote": False})


def load(path):
    """`Splits` of a CSV or TSV file with a header, or of JSON lines: a column of text and, where there is one, "label".

    Texts that occur more than once are taken once: a copy on either side of the split would
    be counted as knowledge.

    Raises:
        ValueError: no such file; no header with these columns; a text with an empty label; a row of another
            length; the same text with two labels is kept with its first one, and counted.
    """
    path = pathlib.Path(os.path.expanduser(path))
    name = f"table:{path}"
    header, rows = with_header(name, path, {"text", "label"})
    text_column, label_column = _columns(name, header)
    texts, silent = {}, 0
    for place, row in rows:
        label = row[label_column].strip() if label_column is not None else ""
        if not row[text_column].strip():
            silent += 1
            continue
        if label_column is not None and not label:
            raise ValueError(f"{name}, {place}: its label is empty. Expected one; remove the row, or label it.")
        texts.setdefault(row[text_column].strip(), []).append(label)
    notes = [f"{silent} rows have no text and are left out"] if silent else []
    copies = sum(len(labels) for labels in texts.values()) - len(texts)
    if copies:
        torn = sum(len(set(labels)) > 1 for labels in texts.values())
        notes.append(f"{copies} rows repeat a text and are left out ({torn} texts have two labels)")
    classes = sorted({labels[0] for labels in texts.values()}) if label_column is not None else []
    label = [classes.index(labels[0]) for labels in texts.values()] if classes else None
    return hold_out(documents(name, list(texts), label, classes).noted(*notes))


def _columns(name, header):
    """(index of the text, index of the label or None)."""
    label = header.index("label") if "label" in header else None
    others = [index for index, column in enumerate(header) if index != label and column]
    if "text" in header:
        return header.index("text"), label
    if label is not None and len(others) == 1:
        return others[0], label
    raise ValueError(f"{name}: expected a header with the columns text and label. Received: {header}")


def with_header(name, path, wanted):
    """(the names of the columns in lower case, [(its place, the cells) of each row]); empty rows are left out.

    Args:
        wanted: names of columns, which the separator is known by.

    Raises:
        ValueError: no such file, or none of text; a quotation mark that is left open; a row of another length than the
            header; of JSON lines, one that is none.
    """
    if not path.is_file():
        raise ValueError(f"{name}: no such file. Expected a CSV or TSV file with a header, or JSON lines (.jsonl).")
    if ending(path) in JSON:
        return _json(name, path, wanted)
    text = read(name, path)
    said = SAID.match(text)
    text = text[said.end() :] if said else text
    rows = separated(name, text, said[1] if said else _separator(text, wanted))
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    return header, [(f"row {number}", row) for number, row in rows[1:]]


def _separator(text, wanted):
    """The separator under which a header has most of the wanted names."""
    first = next(io.StringIO(text.lstrip("\r\n"), newline=""), "").rstrip("\r\n")

    def names(separator):
        return {cell.strip().lower() for cell in next(csv.reader([first], delimiter=separator), [])}

    return max((each for each in SEPARATORS if each in first), key=lambda each: len(wanted & names(each)), default=",")


def separated(name, text, separator, width=None, expected=None):
    """[(number, its cells)] of each row that is not empty.

    Args:
        width: cells of a row; None takes the first row's.
        expected: for messages: of what a row consists; None is so many columns.

    Raises:
        ValueError: a row of another width; a quotation mark that is left open.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    plain, wrong = None, None
    if separator == "\t":
        plain = _rows(text, separator, quoting=csv.QUOTE_NONE)
        wrong = _misfit(name, plain, width, expected)
        if not wrong and not _quoted(plain):
            return plain
    for style in STYLES:
        try:
            rows = _rows(text, separator, **style)
            problem = _misfit(name, rows, width, expected)
        except csv.Error as error:
            problem = f"{name} is no CSV file: {error}. Is a quotation mark left open?"
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
    # A sheet's cells beyond the table, once touched.
    return [(number, row[:width] if not any(map(str.strip, row[width:])) else row) for number, row in rows]


def _misfit(name, rows, width, expected):
    """What is wrong with the first row of another width, or nothing."""
    width = width or (len(rows[0][1]) if rows else 0)
    for number, row in rows:
        if len(row) != width:
            received = f"{len(row)} parts: {' | '.join(row)[:80]!r}" if expected else len(row)
            return (
                f"{name}, {'line' if expected else 'row'} {number}: expected {expected or f'{width} columns'}. "
                f"Received: {received}"
            )
    return None


def _quoted(rows):
    """Whether a program has quoted cells: all of them or the header's, or only those that hold a quotation mark."""
    marked = [cell for _, row in rows for cell in row if cell.startswith('"')]
    always = all(cell.startswith('"') for cell in rows[0][1]) if rows else False
    return bool(marked) and all(QUOTED.fullmatch(cell) and (always or '""' in cell[1:-1]) for cell in marked)


def _json(name, path, wanted):
    expected = "{" + ", ".join(f'"{column}": …' for column in sorted(wanted, reverse=True)) + "}"
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
