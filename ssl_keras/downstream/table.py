"""Evaluation table: the accuracy of encoders on labeled data, compared with baselines.

Rows:

- `pixels`, `TF-IDF` (text) or `log-mel` (audio): features without a network.
- `random init`: the same network, untrained.
- each encoder, frozen and fine-tuned.
- `scratch`: the same network, trained from random weights on the same labels.

Columns: k nearest neighbors and a linear probe on all labels; a linear probe, or training, on few labels; noisy or
shifted test images; measures that need no labels. As in training, audio probes also learn from augmented copies of
the clips.

Hyperparameters are chosen on the validation split; the table reports the test split.
"""

import itertools
import logging
import os
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from scipy.sparse import issparse
from tqdm import tqdm

from ssl_keras import encoders, files
from ssl_keras.data import inputs
from ssl_keras.data.augment_audio import AudioAugmentation
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import as_splits
from ssl_keras.data.splits import Splits, few_label_indices, few_labels
from ssl_keras.data.tokens import texts_of
from ssl_keras.downstream.finetune import check_labeled, check_makes
from ssl_keras.downstream.grids import GRIDS, Grid, kind_of
from ssl_keras.downstream.report import DISTURBED
from ssl_keras.encoders import card as cards
from ssl_keras.engine.precision import dtype_policy
from ssl_keras.engine.process import seeded
from ssl_keras.evaluation import collapse, probes
from ssl_keras.evaluation.features import (
    augmented_copies,
    batch_size_for,
    compile_network,
    crop_images,
    extract_features,
    log_mel,
    pixels,
    tf_idf,
)
from ssl_keras.networks import realize
from ssl_keras.networks.dense import classifier_head
from ssl_keras.objectives.classifier import Classifier
from ssl_keras.training import checkpoint
from ssl_keras.training.optimizer import Adam
from ssl_keras.training.run import held_out

ALL = "all"

log = logging.getLogger(__name__)


def evaluate(
    names: str | os.PathLike | Sequence[str | os.PathLike],
    data: Splits | str,
    budgets: Sequence[int] = (60, 10, 1),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    trained: bool = True,
    network: Callable[[], keras.Model] | None = None,
    grid: Grid | None = None,
) -> dict[str, dict[str, tuple[float, float]]]:
    """Measures saved encoders on labeled images, texts or audio clips.

    Args:
        names: a saved encoder, by name or path, or a list of them. Encoders of the same architecture share
            the rows `random init` and `scratch`.
        data: labeled `Splits`, or the name of a dataset, such as "folder:PATH".
        budgets: labels per class of the few-label columns.
        seeds: seeds that select the labels; mean and standard deviation are over them.
        trained: whether to include the rows that need training (fine-tuned, scratch).
        network: for encoders of your own architecture, a function that builds a new one.
        grid: the hyperparameter `Grid` of the trained rows; by default that of the kind of network in `GRIDS`. Its
            last audio augmentation is also that of the probes.

    Returns:
        {row: {column: (mean, sd)}}, accuracies in [0, 1]; sd is 0 for a single run. The
        columns `noise` and `shift` test the probe, or network, that was trained on all labels, on
        perturbed images.

    Raises:
        ValueError: there are no labels or too few, or the data do not fit an encoder.
    """
    folders = [encoders.find(name) for name in ([names] if isinstance(names, str | os.PathLike) else names)]
    about = [cards.read(folder) for folder in folders]
    splits = as_splits(data)
    prepared = [check_labeled(splits, folder, card) for folder, card in zip(folders, about)]
    titles = [card["name"] for card in about]
    if not folders or len(set(titles)) < len(titles):
        raise ValueError(f"Expected encoders with different names. Received: {', '.join(titles) or 'none'}")
    if not seeds:
        raise ValueError("Expected at least one label seed. Received: none")
    check_makes(network)
    for budget in budgets:
        few_label_indices(splits.train, budget, seeds[0])  # raises before any work if there are too few labels
    augmentation = _audio_augmentation(grid or GRIDS["sound"])
    if "text" in splits.train.arrays:
        table = {"TF-IDF": _probe_features(tf_idf(*map(texts_of, splits)), splits, budgets, seeds)}
    elif "waveform" in splits.train.arrays:
        table = {"log-mel": _probe_network(log_mel(splits.train.rate), splits, budgets, seeds, augmentation)}
    else:
        perturbed = [pixels(splits.test, views) for views in DISTURBED.values()]
        table = {"pixels": _probe_features([*map(pixels, splits), *perturbed], splits, budgets, seeds)}
    with seeded(seeds[0]), dtype_policy("float32"):
        known = {}  # architecture: suffix of its baselines' row names
        each = list(zip(folders, about, prepared))
        for folder, card, data in tqdm(each, desc="encoders", disable=None, leave=False):
            encoder = encoders.load_encoder(folder, network=network)
            keras.utils.set_random_seed(seeds[0])
            fresh = realize(network) if network else cards.network(card).build()
            shapes = [v.shape for v in fresh.variables], fresh.output_shape  # equal weights may be pooled differently
            architecture = (str(shapes), str(card["tokenizer"]), data.train.rate)
            new = architecture not in known
            like = known.setdefault(architecture, f", like {card['name']}" if known else "")
            if new:
                log.info("Probing random init%s", like)
                table[f"random init{like}"] = _probe_network(fresh, data, budgets, seeds, augmentation)
            log.info("Probing %s", card["name"])
            table[f"{card['name']}, frozen"] = _probe_network(encoder, data, budgets, seeds, augmentation)
            if trained:
                log.info("Fine-tuning %s", card["name"])
                table[f"{card['name']}, fine-tuned"] = _train_row(encoder, card, data, budgets, seeds, grid)
                if new:
                    log.info("Training from scratch%s", like)
                    table[f"scratch{like}"] = _train_row(fresh, card, data, budgets, seeds, grid)
    return table


def _audio_augmentation(grid):
    """Returns the last audio augmentation in the grid, or None."""
    found = [each for each in grid.augmentations if isinstance(each, AudioAugmentation) and each != AudioAugmentation()]
    return found[-1] if found else None


def _probe_network(network, splits, budgets, seeds, augmentation):
    """Returns the row of a frozen network, with perturbed and cropped test images, or augmented training clips."""
    embed = compile_network(network) if isinstance(network, keras.Model) else network
    arrays, copies = [extract_features(embed, source) for source in splits], ()
    if "image" in splits.train.arrays:
        views = (*DISTURBED.values(), crop_images)
        arrays += [extract_features(embed, splits.test, preprocess=each) for each in views]
    elif "waveform" in splits.train.arrays:
        copies = augmented_copies(embed, splits.train, augmentation)
    return _probe_features(arrays, splits, budgets, seeds, copies)


def _probe_features(arrays, splits, budgets, seeds, copies=()):
    """Returns the row of features.

    Args:
        arrays: features of the training, validation and test splits; for images also of the perturbed and the cropped
            test images.
        splits, budgets, seeds: as in `evaluate`.
        copies: features of augmented copies of the training split, from which only the probe learns.
    """
    train, validation, test, *more = arrays
    train_y, validation_y, test_y = (source.column("label") for source in splits)

    def training_set(rows):
        x = np.concatenate([each[rows] for each in (train, *copies)]) if copies else train[rows]
        return x, np.tile(train_y[rows], 1 + len(copies))

    probe, strength = probes.fit_probe(*training_set(np.arange(len(train_y))), validation, validation_y)
    log.info("Linear probe on %d labels: chose regularization C = %g", len(train_y), strength)
    row = {"kNN": (probes.knn(train, train_y, test, test_y), 0.0), ALL: (probe.score(test, test_y), 0.0)}
    for budget in budgets:
        scores = []
        for seed in seeds:
            few = few_label_indices(splits.train, budget, seed)
            score, _ = probes.linear_probe(*training_set(few), validation, validation_y, test, test_y)
            scores.append(score)
        row[_per_class(budget)] = _mean_sd(scores)
    row |= {name: (probe.score(x, test_y), 0.0) for name, x in zip(DISTURBED, more)}
    if issparse(test):
        return row
    row |= {"feature sd": (collapse.feature_sd(test), 0.0), "RankMe": (collapse.rankme(test), 0.0)}
    row["uniformity"] = (collapse.uniformity(test), 0.0)
    if len(more) > len(DISTURBED):
        row["alignment"] = (collapse.alignment(test, more[-1]), 0.0)
    return row


def _train_row(encoder, card, splits, budgets, seeds, grid):
    """Trains encoder and head, from this encoder's weights for every setting, budget and seed; returns the row."""
    strategy = tf.distribute.get_strategy()
    head = classifier_head(card["features"], len(splits.train.classes))
    objective = Classifier(encoder, head)
    if splits.train.rate:
        objective.noise_samples = splits.train.arrays["waveform"].longest
    kind = kind_of(encoder, inputs.column(card["input"]))
    grid = grid or GRIDS[kind]
    # On a CPU, XLA makes small transformers faster, but not small dense or convolutional networks.
    objective.compile(Adam(), steps_per_execution=50, jit_compile=kind == "transformer")
    start = files.read_variables(checkpoint.variables(objective))
    row = {}
    for budget in (ALL, *budgets):
        best, best_score = None, -1.0
        chosen = seeds[:1] if budget == ALL else seeds
        settings = list(itertools.product(grid.rates, grid.augmentations))
        log.info("Training on %s, %d settings, %d seeds", _per_class(budget), len(settings), len(chosen))
        for rate, augmentation in tqdm(settings, desc=f"training on {_per_class(budget)}", disable=None, leave=False):
            objective.augmentation = augmentation
            runs = {}  # {steps: [(validation accuracy, weights) of each seed]}
            for seed in chosen:
                files.assign_variables(checkpoint.variables(objective), start)
                objective.optimizer.learning_rate = rate  # after the assignment, which includes the learning rate
                for mark in _train(objective, splits, grid, budget, seed):
                    weights = files.read_variables(checkpoint.variables(objective))
                    accuracy = _accuracy(objective, splits.validation, strategy)
                    runs.setdefault(mark, []).append((accuracy, weights))
            for mark, outcomes in runs.items():
                score = np.mean([accuracy for accuracy, _ in outcomes])
                if score > best_score:
                    best, best_score = (rate, augmentation, mark, [weights for _, weights in outcomes]), score
        rate, augmentation, mark, weights = best
        how = "without" if augmentation in (Augmentation(), AudioAugmentation()) else "with"
        log.info("Chose learning rate %g, %d steps, %s augmentation", rate, mark, how)
        scores = []
        for one in weights:
            files.assign_variables(checkpoint.variables(objective), one)
            scores.append(_accuracy(objective, splits.test, strategy))
        row[_per_class(budget)] = _mean_sd(scores)
        if budget == ALL and "image" in splits.train.arrays:
            row |= {
                name: (_accuracy(objective, splits.test, strategy, views), 0.0) for name, views in DISTURBED.items()
            }
    return row


def _train(objective, splits, grid, budget, seed):
    """Trains on `budget` labels per class, and yields at each number of steps of the grid."""
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    if budget == ALL:
        train, batch = splits.train, min(grid.all_label_batch, len(splits.train))
        per_epoch = len(train) // batch
        marks = sorted({max(e * per_epoch, few) for e, few in zip(grid.all_label_epochs, grid.few_label_steps)})
    else:
        train, marks = few_labels(splits.train, budget, seed), grid.few_label_steps
        batch = min(grid.few_label_batch, len(train))
    batches = Batches(train, batch // replicas * replicas, seed=seed, preprocess=objective.preprocess)
    done = 0
    for mark in marks:
        objective.fit(batches.dataset(done, None, strategy), steps_per_epoch=mark - done, verbose=0)
        done = mark
        yield mark


def _accuracy(objective, source, strategy, preprocess=None):
    batch = batch_size_for(source, 500) * strategy.num_replicas_in_sync
    return held_out(objective, source, batch, strategy, preprocess)["accuracy"]


def _per_class(budget):
    return ALL if budget == ALL else f"{budget} per class"


def _mean_sd(scores):
    return float(np.mean(scores)), float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
