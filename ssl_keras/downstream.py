"""What an encoder is worth: a table of its features beside the baselines that keep it honest.

Rows: `pixels`, or of text `TF-IDF` (no network), `random init` (the same network, untrained), the encoder
(frozen), the encoder fine-tuned, and `scratch` (the same network trained from random init
on the same labels). Columns: k nearest neighbours and a linear probe on all labels; the
linear probe, or training, on few; measures that need no label.

Everything is chosen on the validation part, and what is chosen is reported on the test part.
"""

import csv
import dataclasses
import functools
import io
import itertools
import logging

import keras
import matplotlib.figure
import numpy as np
import tensorflow as tf
from scipy.sparse import issparse
from tqdm import tqdm

from ssl_keras import card as cards
from ssl_keras import encoders, evaluation, files
from ssl_keras.data import inputs
from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import few_label_indices, few_labels
from ssl_keras.data.tokens import texts_of
from ssl_keras.networks.dense import classifier_head
from ssl_keras.training import checkpoint
from ssl_keras.training.finetune import Finetune, Settings, check_labelled
from ssl_keras.training.optimizer import Adam
from ssl_keras.training.run import held_out


@dataclasses.dataclass(frozen=True)
class Grid:
    """What fine-tuning and scratch, both alike, choose among by validation accuracy: rates times lengths."""

    rates: tuple[float, ...]  # Adam's learning rate, encoder and head alike
    few_label_steps: tuple[int, ...]
    all_label_epochs: tuple[int, ...]
    few_label_batch: int
    all_label_batch: int


GRIDS = {
    "image": Grid((1e-4, 3e-4, 1e-3, 3e-3), (100, 300, 1000), (2, 6, 18), 64, 256),
    # A step takes longer, and fewer are enough.
    "tokens": Grid((3e-4, 1e-3, 3e-3), (50, 150, 400), (1, 2, 6), 64, 64),
}
ALL = "all"

log = logging.getLogger(__name__)



def evaluate(name, splits, budgets=(60, 10), seeds=(0, 1, 2, 3, 4), trained=True, network=None):
    """Measures a saved encoder on labelled images, or texts.

    Args:
        name: a saved encoder, by name or path.
        splits: labelled `Splits`.
        budgets: labels per class of the few-label columns.
        seeds: which labels are drawn; mean and standard deviation are over these.
        trained: include the rows that take training (fine-tuned, scratch).
        network: for an encoder of your own architecture: a function that makes a fresh graph.

    Returns:
        {row: {column: (mean, sd)}}, accuracies in [0, 1]; sd is 0 where there is one run.

    Raises:
        ValueError: no labels, data that do not fit the encoder, too few labels.
    """
    folder = encoders.find(name)
    card = cards.read(folder)
    given = splits
    splits = check_labelled(splits, folder, card)
    if not seeds:
        raise ValueError("Expected at least one label seed. Received: none")
    for budget in budgets:
        few_label_indices(splits.train, budget, seeds[0])  # refused before any work
    encoder = encoders.load_encoder(folder, network=network and network())
    keras.utils.set_random_seed(0)
    fresh = network or (lambda: encoders.build(card, head=False)[0])
    random = fresh()
    table = {}
    if "text" in given.train.arrays:
        name, baseline = "TF-IDF", lambda: evaluation.tf_idf(*map(texts_of, given))
    else:
        name, baseline = "pixels", lambda: [evaluation.pixels(source) for source in splits]

    def features(network):
        embed = evaluation.compiled(network)
        return [evaluation.features(embed, source) for source in splits]

    frozen = {
        name: baseline,
        "random init": functools.partial(features, random),
        f"{card['name']}, frozen": functools.partial(features, encoder),
    }
    for row, arrays in tqdm(frozen.items(), desc="frozen features", disable=None, leave=False):
        table[row] = _frozen(arrays(), splits, budgets, seeds)
    if trained:
        table[f"{card['name']}, fine-tuned"] = _trained(encoder, card, splits, budgets, seeds)
        table["scratch"] = _trained(fresh(), card, splits, budgets, seeds)
    return table


def _frozen(arrays, splits, budgets, seeds):
    train, validation, test = arrays
    train_y, validation_y, test_y = (source.column("label") for source in splits)
    probe, strength = evaluation.linear_probe(train, train_y, validation, validation_y, test, test_y)
    log.info("linear probe on %d labels: C = %g", len(train_y), strength)
    row = {
        "kNN": (evaluation.knn(train, train_y, test, test_y), 0.0),
        ALL: (probe, 0.0),
    }
    for budget in budgets:
        scores = []
        for seed in seeds:
            few = few_label_indices(splits.train, budget, seed)
            score, _ = evaluation.linear_probe(train[few], train_y[few], validation, validation_y, test, test_y)
            scores.append(score)
        row[_per_class(budget)] = _mean_sd(scores)
    if issparse(test):
        return row
    return row | {"feature sd": (evaluation.feature_sd(test), 0.0), "RankMe": (evaluation.rankme(test), 0.0)}


def _trained(encoder, card, splits, budgets, seeds):
    """Trains encoder and head from this encoder's weights, anew for every setting, budget and seed."""
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    head = classifier_head(card["features"], len(splits.train.classes))
    objective = Finetune(Settings(encoder_rate=1.0), encoder, head)
    kind = inputs.column(splits.train.arrays)
    grid = GRIDS[kind]
    # XLA helps small transformers on a CPU, and small dense networks not.
    objective.compile(Adam(), Adam(), steps_per_execution=50, jit_compile=kind == "tokens")
    start = checkpoint.read(checkpoint.variables(objective))
    row = {}
    for budget in (ALL, *budgets):
        if budget == ALL:
            batch = min(grid.all_label_batch, len(splits.train))
            per_epoch = len(splits.train) // batch
            marks = [max(e * per_epoch, few) for e, few in zip(grid.all_label_epochs, grid.few_label_steps)]
        else:
            batch = min(grid.few_label_batch, budget * len(splits.train.classes))
            marks = grid.few_label_steps
        scores = {}  # {(rate, steps): [(validation, test) for each seed]}
        runs = list(itertools.product(seeds[:1] if budget == ALL else seeds, grid.rates))
        for seed, rate in tqdm(runs, desc=f"training on {_per_class(budget)}", disable=None, leave=False):
            train = splits.train if budget == ALL else few_labels(splits.train, budget, seed)
            batches = Batches(train, batch // replicas * replicas, seed=seed)
            checkpoint.assign(checkpoint.variables(objective), start)
            for optimizer, _ in objective.groups():
                optimizer.learning_rate = rate
            done = 0
            for mark in marks:
                objective.fit(batches.dataset(done, None, strategy), steps_per_epoch=mark - done, verbose=0)
                done = mark
                scores.setdefault((rate, mark), []).append(
                    (_accuracy(objective, splits.validation, strategy), _accuracy(objective, splits.test, strategy))
                )
        best = max(scores, key=lambda setting: np.mean([validation for validation, _ in scores[setting]]))
        log.info("%s: chose learning rate %g, %d steps", _per_class(budget), *best)
        row[_per_class(budget)] = _mean_sd([test for _, test in scores[best]])
    return row


def _accuracy(objective, source, strategy):
    return held_out(objective, source, 500 * strategy.num_replicas_in_sync, strategy)["accuracy"]


def _per_class(budget):
    return ALL if budget == ALL else f"{budget} per class"


def _mean_sd(scores):
    return float(np.mean(scores)), float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0


def markdown(table):
    """The table as Markdown; accuracies in percent, ± the standard deviation over label seeds."""
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in table.items():
        lines.append(f"| {name} | " + " | ".join(_cell(c, row.get(c)) for c in columns) + " |")
    return "\n".join(lines) + "\n"


def _cell(column, value):
    if value is None:
        return "–"
    mean, sd = value
    if column in ("feature sd", "RankMe"):
        return f"{mean:.2f}"
    return f"{100 * mean:.1f}" + (f" ± {100 * sd:.1f}" if sd else "")


def save(table, folder, title):
    """Writes table.md, table.csv, table.json and table.png into a folder."""
    files.make_folder(folder)
    files.write(folder / "table.md", f"{title}\n\n{markdown(table)}")
    files.write_json(folder / "table.json", table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", "mean", "sd"])
    for row, columns in table.items():
        writer.writerows([row, column, *value] for column, value in columns.items())
    files.write(folder / "table.csv", text.getvalue())
    image = io.BytesIO()
    plot(table, title).savefig(image, format="png", dpi=120, bbox_inches="tight")
    files.write(folder / "table.png", image.getvalue())


def plot(table, title):
    """A bar chart of the accuracies: a group per number of labels, a bar per row."""
    columns = [c for c in next(iter(table.values())) if c not in ("kNN", "feature sd", "RankMe")]
    figure = matplotlib.figure.Figure(figsize=(9, 4))
    axes = figure.subplots()
    width = 0.8 / len(table)
    for index, (name, row) in enumerate(table.items()):
        x = np.arange(len(columns)) + (index - (len(table) - 1) / 2) * width
        mean, sd = zip(*(row[column] for column in columns))
        axes.bar(x, 100 * np.array(mean), width, yerr=100 * np.array(sd), label=name, capsize=2)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_xlabel("labels")
    low = min(mean for row in table.values() for c, (mean, _) in row.items() if c in columns)
    axes.set_ylim(max(0, 100 * low - 10), 100)
    axes.set_ylabel("test accuracy, %")
    axes.set_title(title)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure
