"""The command `predict`: the classes that a fine-tuned encoder predicts, as a table."""

import dataclasses
import pathlib
from typing import Literal

import numpy as np
import scipy.special

from ssl_keras import encoders, files
from ssl_keras.cli.flags import DataFlags, EncoderArgument, NetworkFlag, OverwriteFlag, parse
from ssl_keras.cli.rows import in_order, rows_of
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits
from ssl_keras.evaluation.features import compile_network, extract_features
from ssl_keras.files import tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict(EncoderArgument, DataFlags, OverwriteFlag, NetworkFlag):
    """Predictions of a fine-tuned encoder for the examples of a split; the data need no labels."""

    split: Literal[*Splits._fields, "all"] = "test"
    """Split whose examples are predicted, in the order of the data; all predicts the three splits together."""
    out: str = "predictions.csv"
    """CSV file. Each row has the split and index of an example, its file, caption and class if known, the predicted
    class, and its probability."""
    probabilities: bool = False
    """Add a column with the probability of each class."""


def predict_command(arguments):
    asked = parse(Predict, "predict", arguments)
    out = pathlib.Path(asked.out)
    files.check_output(out, asked.overwrite)
    folder = encoders.find(asked.encoder)
    encoder, head, card = encoders.load_classifier_parts(folder, network=asked.network_maker())
    splits = load(asked.data, asked.image_size)
    adapted = encoders.adapt(folder, card, splits)
    predict = compile_network(encoder, head)
    parts = Splits._fields if asked.split == "all" else (asked.split,)
    logits = [extract_features(predict, getattr(adapted, part)) for part in parts]
    rows = [row for part, made in zip(parts, logits) for row in rows_of(part, getattr(splits, part), len(made))]
    order = in_order([getattr(splits, part) for part in parts], [len(made) for made in logits])
    probabilities = scipy.special.softmax(np.concatenate(logits).astype(np.float64), axis=1)
    known = list(dict.fromkeys(name for row in rows for name in row))
    classes = card["classes"]
    lines = [[*known, "predicted", "probability", *(f"p({name})" for name in classes if asked.probabilities)]]
    for row in order:
        best = int(probabilities[row].argmax())
        each = probabilities[row].round(6).tolist()
        about = [rows[row].get(name, "") for name in known]
        lines.append([*about, classes[best], each[best], *(each if asked.probabilities else [])])
    tables.write_csv(out, lines)
    print(f"{out}: {len(order)} predictions of {len(classes)} classes")
