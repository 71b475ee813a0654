"""Commands that measure features, or write them: `evaluate`, `embed`."""

import dataclasses
import io
import json
import pathlib
from typing import Literal

import numpy as np

from ssl_keras import encoders, files
from ssl_keras.cli.flags import DataFlags, DeviceFlags, Positional, RecordFlag, parse
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits
from ssl_keras.downstream import report
from ssl_keras.downstream.table import evaluate
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.features import extract_features
from ssl_keras.training.strategy import strategy
from ssl_keras.training.workers import Workers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(DataFlags, DeviceFlags, RecordFlag):
    """Measures saved encoders beside pixels or TF-IDF, random init, and training from scratch."""

    encoders: Positional[tuple[str, ...]]
    """Saved encoders' names or paths."""
    budgets: tuple[int, ...] = (60, 10, 1)
    """Labels per class of the few-label columns."""
    seeds: int = 5
    """Draws of labels: seeds 0, 1, …."""
    trained: bool = True
    """Include the rows that take training (fine-tuned, scratch)."""
    out: str = ""
    """Folder for the table; default results/ENCODERS-DATA."""


def evaluate_command(arguments):
    asked = parse(Evaluate, "evaluate", arguments)
    chosen = strategy(asked.strategy, asked.replicas)
    workers = Workers(chosen)
    about = [cards.read(encoders.find(encoder)) for encoder in asked.encoders]
    names = [card["name"] for card in about]
    if not names:
        raise ValueError("Expected at least one encoder: ssl-keras evaluate NAME … --data …")
    name = names[0] if len(names) == 1 else f"{len(names)} encoders"
    splits = load(asked.data, asked.image_size)
    folder = pathlib.Path(asked.out or f"results/{files.short('+'.join(names) + '-' + splits.train.short_name)}")
    files.check_outputs(folder, report.FILES)
    files.make_folder(folder)
    weights = [card["weights"]["sha256"] for card in about]
    same = [weights, asked.budgets, asked.seeds, asked.trained, [source.fingerprint() for source in splits]]
    workers.agree("encoders, settings and data", json.dumps(same))
    with chosen.scope():
        table = evaluate(asked.encoders, splits, asked.budgets, tuple(range(asked.seeds)), asked.trained)
    if workers.is_chief:
        print(report.markdown(table))
        seeds = f"label seeds 0–{asked.seeds - 1}" if asked.seeds > 1 else "label seed 0"
        title = f"{name} on {splits.train.base}, test accuracy, {seeds}"
        for card in about:
            converted = "image" in card["input"] and encoders.conversion(card, splits.train)
            title += f"\nimages for {card['name']}: {converted}" if converted else ""
        report.save(table, folder, title)
        print(f"Saved in {folder}: {', '.join(report.FILES)}")
        for encoder in asked.encoders if asked.record else ():
            encoders.record(encoder, asked.data, table)  # whole: what was measured together belongs together
    workers.wait()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embed(DataFlags):
    """Writes the features of every example of a split of a data set, in order, as float32 (N, D)."""

    encoder: Positional[str]
    """A saved encoder's name or path."""
    split: Literal[*Splits._fields] = "test"
    """train, validation or test."""
    out: str = "features.npy"
    """The file to write."""


def embed_command(arguments):
    asked = parse(Embed, "embed", arguments)
    files.make_folder(pathlib.Path(asked.out).absolute().parent)
    folder = encoders.find(asked.encoder)
    splits = encoders.adapt(folder, cards.read(folder), load(asked.data, asked.image_size))
    features = extract_features(encoders.load_encoder(asked.encoder), getattr(splits, asked.split))
    content = io.BytesIO()
    np.save(content, features)
    files.write(pathlib.Path(asked.out), content.getvalue())
    print(f"{asked.out}: {features.shape[0]} × {features.shape[1]} float32")
