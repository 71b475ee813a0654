"""CSV files that are safe to open in a spreadsheet."""

import csv
import io
import math
import numbers

from ssl_keras import files

FORMULA = tuple("=+-@＝＋－＠")  # spreadsheets compute what begins like this; Japanese ones in full width too


def write_csv(path, rows):
    """Writes rows of cells as CSV in UTF-8, atomically; see `cell`.

    Raises:
        ValueError, OSError: as `files.write`.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    files.write(path, text.getvalue())


def cell(value):
    """Returns what a cell contains: a number that is not finite is empty, and text cannot be taken for a formula.

    Control characters and line breaks of text are escaped. Text that begins like a formula, and is not a number,
    begins with an apostrophe.
    """
    if isinstance(value, numbers.Real) and not math.isfinite(value):
        return ""
    if not isinstance(value, str):
        return value
    text = files.printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) and not _is_number(text) else text


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
