"""Passages: documents cut into texts of limited length, each of which is an example."""

import dataclasses

import numpy as np

from ssl_keras.data.splits import Splits
from ssl_keras.data.tokens import texts_of


def cut_into_passages(splits, most):
    """Cuts the texts of `Splits` into passages of at most `most` characters, at spaces or line ends where there are
    any in the second half. Passages are held in memory; a passage has the label of its text.

    Raises:
        ValueError: There is no text.
    """
    return Splits(*(_cut(source, most) for source in splits))


def _cut(source, most):
    passages, owners = [], []
    for row, text in enumerate(texts_of(source)):
        made = list(_passages(text, most))
        passages += made
        owners += [row] * len(made)
    arrays = {"text": np.array(passages, object)}
    if "label" in source.arrays:
        arrays["label"] = source.column("label")[owners]
    return dataclasses.replace(source, arrays=arrays, rows=None)


def _passages(text, most):
    """Yields the passages of a text: a short text as it is; of a long one, those that are not blank, stripped."""
    if len(text) <= most:
        yield text
        return
    start = 0
    while start < len(text):
        stop = start + most
        if stop < len(text):
            space = max(text.rfind(character, start + most // 2, stop) for character in " \n")
            stop = space + 1 if space >= 0 else stop
        passage = text[start:stop].strip()
        if passage:
            yield passage
        start = stop
