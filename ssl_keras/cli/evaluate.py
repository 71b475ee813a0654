"""Commands that measure features, or write them: `evaluate`, `embed`."""

import dataclasses
import hashlib
import io
import json
import logging
import pathlib
import shutil
from typing import Annotated, Literal

import numpy as np

from ssl_keras import encoders, files
from ssl_keras.cli.flags import (
    DataFlags,
    DeviceFlags,
    EncoderArgument,
    NetworkFlag,
    OverwriteFlag,
    Positional,
    RecordFlag,
    one_or_more,
    parse,
)
from ssl_keras.cli.rows import in_order, rows_of
from ssl_keras.data.ranges import Range
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits
from ssl_keras.downstream import classes, report
from ssl_keras.downstream.measured import NAME, Measured
from ssl_keras.downstream.table import evaluate
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.inputs import native_size
from ssl_keras.evaluation.features import compile_network, extract_features
from ssl_keras.training.strategy import strategy
from ssl_keras.training.workers import Workers

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(DataFlags, DeviceFlags, RecordFlag, OverwriteFlag, NetworkFlag):
    """Saved encoders, compared with pixels, TF-IDF or log-mel, with random init, and with training from scratch."""

    encoders: Annotated[Positional[tuple[str, ...]], one_or_more("ENCODER")]
    """Names or paths of saved encoders."""
    budgets: tuple[Annotated[int, Range(1)], ...] = (60, 10, 1)
    """Numbers of labels per class. Each number adds a column to the table."""
    seeds: Annotated[int, Range(1)] = 5
    """Number of random label subsets for each budget. The table shows the mean and standard deviation over them."""
    trained: bool = True
    """Include the rows that need training: fine-tuning, and training from scratch."""
    whole_validation: bool = False
    """Add a column for each number of labels per class whose hyperparameters are chosen on the whole validation split.
    The other columns choose on at most as many validation labels as there are training labels."""
    out: str = ""
    """Folder for the table. By default results/ENCODERS-DATA or, if that contains the table of another evaluation,
    results/ENCODERS-DATA-HASH."""


def evaluate_command(arguments):
    asked = parse(Evaluate, "evaluate", arguments)
    chosen = strategy(asked.strategy, asked.replicas)
    workers, maker = Workers(chosen), asked.network_maker()
    about = [cards.read(encoders.find(encoder)) for encoder in asked.encoders]
    names = [card["name"] for card in about]
    if not names:
        raise ValueError("Expected at least one encoder. Received: none. Use: ssl-keras evaluate NAME --data DATA")
    name = names[0] if len(names) == 1 else f"{len(names)} encoders"
    splits = load(asked.data, asked.image_size or native_size(about[0]))
    weights = [card["weights"]["sha256"] for card in about]
    parts = [part.fingerprint() for part in splits]
    same = json.dumps([weights, asked.budgets, asked.seeds, asked.trained, asked.whole_validation, parts])
    digest = hashlib.sha256(same.encode()).hexdigest()[:16]
    folder = _out_folder(asked, files.shorten("+".join(names) + "-" + splits.train.short_name), digest)
    files.check_outputs(folder, (*report.FILES, *classes.FILES))
    files.make_folder(folder)
    measured = Measured(folder / NAME, digest, workers.is_chief)
    workers.agree("encoders, settings, data, and rows already measured", f"{same} {sorted(measured.done)}")
    seeds = tuple(range(asked.seeds))
    with chosen.scope():
        table = evaluate(
            asked.encoders,
            splits,
            asked.budgets,
            seeds,
            asked.trained,
            maker,
            whole_validation=asked.whole_validation,
            measured=measured,
        )
    if workers.is_chief:
        differences = report.differences(measured.differences())
        print(report.markdown(table), differences, sep="\n")
        seeds = f"label seeds 0–{asked.seeds - 1}" if asked.seeds > 1 else "label seed 0"
        title = f"{name} on {splits.train.base}, test accuracy, {seeds}"
        for card in about:
            converted = "image" in card["input"] and encoders.conversion(card, splits.train)
            title += f"\nimages for {card['name']}: {converted}" if converted else ""
        row = f"{names[0]}, {'fine-tuned' if asked.trained else 'frozen'}"
        labels = splits.test.column("label")
        found = classes.save(folder, splits.test.classes, labels, measured.predictions[row], f"{row}, all labels")
        errors = f"{row}, all labels: " + ", ".join(f"{name.replace('_', ' ')} {x:.3f}" for name, x in found.items())
        report.save(table, folder, title, digest, "\n".join(filter(None, (differences, errors + "\n"))))
        shutil.rmtree(folder / NAME)
        print(errors)
        print(f"Saved in {folder}: {', '.join((*report.FILES, *classes.FILES))}")
        for encoder in asked.encoders if asked.record else ():
            encoders.record(encoder, asked.data, table)  # the whole table, since its rows were measured together
    workers.wait()


def _out_folder(asked, default_name, digest):
    """Returns the folder for a table, which has no table of an evaluation with another digest.

    Raises:
        ValueError: --out has such a table, and --overwrite is off.
    """
    folder = pathlib.Path(asked.out or f"results/{default_name}")
    if asked.overwrite or report.has_digest(folder, digest):
        return folder
    if asked.out:
        raise ValueError(
            f"{folder} contains the table of another evaluation: of other encoders, data, budgets or seeds. Add "
            "--overwrite to replace it, or choose another --out."
        )
    hashed = folder.with_name(f"{folder.name}-{digest[:8]}")
    log.warning("%s contains the table of another evaluation. This one is saved in %s.", folder, hashed)
    return hashed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embed(EncoderArgument, DataFlags, OverwriteFlag, NetworkFlag):
    """Features of the examples of a split, and a table of these examples."""

    split: Literal[*Splits._fields, "all"] = "test"
    """Split whose features are written, in the order of the data; all writes the three splits together."""
    out: str = "features.npy"
    """NumPy file (.npy) for the features, a float32 array (N, D). A table of the same name (.tsv) lists the split and
    index of each row and, if known, its file, caption, class or, of a table, text."""


def embed_command(arguments):
    asked = parse(Embed, "embed", arguments)
    out = pathlib.Path(asked.out)
    table = out.with_suffix(".tsv") if out.name else out
    if out == table:
        raise ValueError(f"Expected --out to end in .npy, since its table ends in .tsv. Received: {out}")
    for path in (out, table):
        files.check_output(path, asked.overwrite)
    folder = encoders.find(asked.encoder)
    encoder = encoders.load_encoder(folder, network=asked.network_maker())
    card = cards.read(folder)
    splits = load(asked.data, asked.image_size or native_size(card))
    adapted = encoders.adapt(folder, card, splits)
    embed = compile_network(encoder)
    parts = Splits._fields if asked.split == "all" else (asked.split,)
    features = [extract_features(embed, getattr(adapted, part)) for part in parts]
    texts = ("text", "text2") if asked.data.startswith("table:") else ()
    rows = [
        row for part, made in zip(parts, features) for row in rows_of(part, getattr(splits, part), len(made), texts)
    ]
    order = in_order([getattr(splits, part) for part in parts], [len(made) for made in features])
    features, columns = np.concatenate(features)[order], list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([rows[row].get(name, "") for name in columns] for row in order)]
    content = io.BytesIO()
    np.save(content, features)
    files.write(out, content.getvalue())
    files.write(table, "".join("\t".join(line) + "\n" for line in lines))
    print(f"{out}: {features.shape[0]} × {features.shape[1]} float32\n{table}: {', '.join(columns)} of each")
