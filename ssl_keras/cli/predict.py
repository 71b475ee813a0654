"""The command `predict`: what a fine-tuned encoder predicts, as a table."""

import dataclasses
import logging
import pathlib
from typing import Literal

import numpy as np
import scipy.special

from ssl_keras import encoders, files
from ssl_keras.cli.flags import DataFlags, EncoderArgument, NetworkFlag, OverwriteFlag, parse
from ssl_keras.cli.rows import in_order, rows_of
from ssl_keras.data import word_pieces
from ssl_keras.data.readers import tables as read_tables
from ssl_keras.data.readers.file_lists import listed
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits
from ssl_keras.downstream.targeting import tagged
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.inputs import context_of, native_size
from ssl_keras.evaluation.features import compile_network, extract_features
from ssl_keras.evaluation.target_scores import THRESHOLD
from ssl_keras.files import tables

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(EncoderArgument, DataFlags, OverwriteFlag, NetworkFlag):
    """Predictions of a fine-tuned encoder for all examples of the data, which need no labels."""

    split: Literal[*Splits._fields, "all"] = "all"
    """Examples that are predicted: all, in the order of the data, or those of one split."""
    out: str = "predictions.csv"
    """CSV file. Each row has the split and index of an example, its file, caption, label and text if known, and what is
    predicted: the class and its probability, the number, or the labels. For tags, each row is a word with its tag. For
    a table, there is a row for each row of the file, and the index is that of the file, whose header is row 1."""
    probabilities: bool = False
    """Add a column with the probability of each class, tag or label."""


def predict_command(arguments):
    asked = parse(Predict, "predict", arguments)
    out = pathlib.Path(asked.out)
    files.check_output(out, asked.overwrite)
    folder = encoders.find(asked.encoder)
    encoder, head, card = encoders.load_classifier_parts(folder, network=asked.network_maker())
    kind, names = cards.target(card)["kind"], card["classes"] or ()
    size = asked.image_size or native_size(card)
    splits = load(asked.data, size, held_out=asked.split != "all")
    adapted = encoders.adapt(folder, card, Splits(*(part or splits.train for part in splits)))
    predict = compile_network(encoder, head, kind == "tags")
    asked_for = Splits._fields if asked.split == "all" else (asked.split,)
    parts = [part for part in asked_for if len(getattr(splits, part))]
    outputs = [extract_features(predict, getattr(adapted, part)) for part in parts]
    texts = () if kind == "tags" else ("text", "text2")  # tags have a row for each word
    rows = [row for part, made in zip(parts, outputs) for row in rows_of(part, getattr(splits, part), len(made), texts)]
    order = in_order([getattr(splits, part) for part in parts], [len(made) for made in outputs])
    known = list(dict.fromkeys(name for row in rows for name in row))
    if kind == "tags":
        each = [
            words
            for part, made in zip(parts, outputs)
            for words in _word_rows(getattr(splits, part), getattr(adapted, part), made, names, context_of(card))
        ]
        header = ["word", "token", *(["tag"] if "tags" in splits.train.arrays else []), "predicted", "probability"]
    else:
        header, each = {"class": _classes, "number": _numbers, "labels": _labels}[kind](np.concatenate(outputs), names)
        each = [[cells] for cells in each]
    found = [(rows[row], each[row]) for row in order]
    if asked.split == "all" and asked.data.startswith("table:"):
        keys = [key for part in parts for key in _texts_of(getattr(splits, part))]
        found = _in_file(asked.data, dict(zip((keys[row] for row in order), found)))
    columns = len(header) + (len(names) if asked.probabilities else 0)
    lines = [[*known, *header, *(f"p({name})" for name in names)][: len(known) + columns]]
    for about, predicted in found:
        cells_of_rows = predicted or [[""] * columns]
        lines += [[*(about.get(name, "") for name in known), *cells[:columns]] for cells in cells_of_rows]
    tables.write_csv(out, lines)
    print(f"{out}: {len(lines) - 1} predictions of {_described(kind, names)}")


def _texts_of(source):
    """Returns the (text, second text) of each example."""
    seconds = source.column("text2") if "text2" in source.arrays else [""] * len(source)
    return zip(source.column("text"), seconds)


def _in_file(data, found):
    """Returns [({column: text}, predictions)] of each row of a table's file, which may repeat a text.

    `found` has these by the texts. A row without a text or, in a table with labels, without a label has no prediction.
    """
    rows, missing = [], []
    for place, texts in read_tables.texts_of_rows(data.removeprefix("table:")):
        about, predicted = found.get(texts, ({"text": files.printable(texts[0])}, []))
        rows.append((about | {"row": place.split()[-1]}, predicted))
        missing += [] if predicted else [place]
    if missing:
        log.warning("%s: no prediction for %d rows without a text or a label: %s", data, len(missing), listed(missing))
    return rows


def _described(kind, names):
    return {"class": f"{len(names)} classes", "number": "a number", "tags": f"{len(names)} tags"}.get(
        kind, f"{len(names)} labels"
    )


def _classes(logits, names):
    """Returns (header, rows): the class, its probability, and the probability of each class."""
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=1)
    best = probabilities.argmax(1)
    each = probabilities.round(6).tolist()
    return ["predicted", "probability"], [[names[index], row[index], *row] for index, row in zip(best, each)]


def _numbers(outputs, names):
    """Returns (header, rows): the number, in the unit of the labels that were learned."""
    return ["predicted"], [[float(value)] for value in outputs[:, 0]]


def _labels(logits, names):
    """Returns (header, rows): the labels whose probability is above 1/2, and the probability of each label."""
    each = scipy.special.expit(logits.astype(np.float64)).round(6).tolist()
    chosen = [
        read_tables.SEPARATOR.join(name for name, is_chosen in zip(names, row) if is_chosen)
        for row in logits > THRESHOLD
    ]
    return ["predicted"], [[labels, *row] for labels, row in zip(chosen, each)]


def _word_rows(source, adapted, logits, names, context):
    """Yields the rows of each text: its words with their tags, if known, and the predicted tags.

    A word without a prediction, because the text is truncated before it or the tokenizer drops it, has empty cells.
    """
    lines = source.column("tags") if "tags" in source.arrays else [None] * len(source)
    predictions = tagged(source, adapted, logits, names, context)
    for text, line, (tags, probabilities) in zip(source.column("text"), lines, predictions):
        known = [] if line is None else [[tag] for tag in word_pieces.words(line)]
        yield [
            [
                place,
                word,
                *(known[place] if known else []),
                tag or "",
                float(row.max().round(6)),
                *row.round(6).tolist(),
            ]
            for place, (word, tag, row) in enumerate(zip(word_pieces.words(text), tags, probabilities))
        ]
