"""Rows of the files that `embed` and `predict` write: which example each is of, and in which order they come."""

import numpy as np

from ssl_keras import files
from ssl_keras.data.readers.tables import SEPARATOR


def rows_of(part, source, count, texts=()):
    """Returns [{column: text}] for `count` examples of a split: index and, where known, name, caption, class.

    `texts` are further columns of whole texts, where the data have them.
    """
    rows = [{"split": part, "row": str(row)} for row in range(count)]
    if count != len(source):  # text that was cut into windows
        return rows
    for name in ("name", "caption", "label"):
        for row, value in zip(rows, source.column(name) if name in source.arrays else ()):
            row[name] = files.printable(source.classes[value] if name == "label" else value.partition("\n")[0])
    for row, values in zip(rows, source.column("labels") if "labels" in source.arrays else ()):
        row["label"] = files.printable(SEPARATOR.join(name for name, has in zip(source.classes, values) if has))
    for name in texts:
        for row, value in zip(rows, source.column(name) if name in source.arrays else ()):
            row[name] = files.printable(value)
    return rows


def in_order(sources, counts):
    """Returns int (N,): the indices that put the concatenated examples of several splits in the order of the data.

    Splits of one array are merged again; separate arrays follow each other.
    """
    arrays = [id(source.arrays) for source in sources]
    whole = [
        source.rows if source.rows is not None and len(source) == count else np.arange(count)
        for source, count in zip(sources, counts)
    ]
    first = np.repeat([arrays.index(one) for one in arrays], counts)
    return np.lexsort((np.concatenate(whole), first))
