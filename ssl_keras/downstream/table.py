"""Evaluation table: the accuracy of encoders on labeled data, compared with baselines.

Rows:

- `pixels`, `TF-IDF` (text) or `log-mel` (audio): features without a network.
- `random init`: the same network, untrained.
- each encoder, frozen and fine-tuned.
- `scratch`: the same network, trained from random weights on the same labels.

Columns: k nearest neighbors and a linear probe on all labels; a linear probe, or training, on few labels; noisy or
shifted test images; measures that need no labels. As in training, audio probes also learn from augmented copies of
the clips. Features of texts have norm 1 in probes, since the norm of a mean state depends on the length of the text.

Hyperparameters are chosen on the validation split, and with few labels on no more validation labels than there are
training labels (Oliver et al. 2018, "Realistic evaluation of deep semi-supervised learning algorithms", section 4.6).
The table reports the test split.
"""

import functools
import logging
import os
from collections.abc import Callable, Sequence

import keras
import numpy as np
from scipy.sparse import issparse
from tqdm import tqdm

from ssl_keras import encoders
from ssl_keras.data.augment_audio import AudioAugmentation
from ssl_keras.data.sources import as_splits
from ssl_keras.data.splits import Splits, few_label_indices
from ssl_keras.data.tokens import texts_of
from ssl_keras.downstream.columns import ALL, DISTURBED, few_column, validation_rows, whole_column
from ssl_keras.downstream.finetune import check_labeled, check_makes
from ssl_keras.downstream.grids import GRIDS, Grid
from ssl_keras.downstream.measured import Measured
from ssl_keras.downstream.trained_rows import Trainer
from ssl_keras.encoders import card as cards
from ssl_keras.engine.precision import dtype_policy
from ssl_keras.engine.process import seeded
from ssl_keras.evaluation import collapse, probes
from ssl_keras.evaluation.features import (
    augmented_copies,
    compile_network,
    crop_images,
    extract_features,
    log_mel,
    normalize,
    pixels,
    tf_idf,
)
from ssl_keras.networks import realize

log = logging.getLogger(__name__)


def evaluate(
    names: str | os.PathLike | Sequence[str | os.PathLike],
    data: Splits | str,
    budgets: Sequence[int] = (60, 10, 1),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    trained: bool = True,
    network: Callable[[], keras.Model] | None = None,
    grid: Grid | None = None,
    whole_validation: bool = False,
    measured: Measured | None = None,
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
        whole_validation: whether to add a column for each budget whose hyperparameters are chosen by the whole
            validation split, which has more labels than there are training labels.
        measured: a `Measured` that rows are read from if it has them, and added to; None starts with none.

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
    measured = Measured() if measured is None else measured
    prober = Prober(budgets, seeds, _audio_augmentation(grid or GRIDS["sound"]))
    _measure_baseline(measured, prober, splits)
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
            rows = {f"random init{like}": fresh} if new else {}
            for name, graph in (rows | {f"{card['name']}, frozen": encoder}).items():
                log.info("Probing %s", name)
                measured.add(name, "probes", functools.partial(prober.network, graph, data))
            rows = {f"scratch{like}": fresh} if new else {}
            for name, graph in ({f"{card['name']}, fine-tuned": encoder} | rows if trained else {}).items():
                log.info("Training %s", name)
                trainer = Trainer(graph, card, data, grid)
                for budget in (ALL, *budgets):
                    chosen = seeds[:1] if budget == ALL else seeds
                    measured.add(name, few_column(budget), functools.partial(trainer.row, budget, chosen))
    return measured.table(whole_validation)


def _measure_baseline(measured, prober, splits):
    """Adds the row of features without a network."""
    if "text" in splits.train.arrays:
        measured.add("TF-IDF", "probes", lambda: prober.features(tf_idf(*map(texts_of, splits)), splits))
    elif "waveform" in splits.train.arrays:
        measured.add("log-mel", "probes", lambda: prober.network(log_mel(splits.train.rate), splits))
    else:
        views = DISTURBED.values()
        images = lambda: [*map(pixels, splits), *(pixels(splits.test, each) for each in views)]  # noqa: E731
        measured.add("pixels", "probes", lambda: prober.features(images(), splits))


def _audio_augmentation(grid):
    """Returns the last audio augmentation in the grid, or None."""
    found = [each for each in grid.augmentations if isinstance(each, AudioAugmentation) and each != AudioAugmentation()]
    return found[-1] if found else None


class Prober:
    """Measures features without training a network: neighbors, linear probes and measures that need no labels.

    Args:
        budgets, seeds: as in `evaluate`.
        augmentation: `AudioAugmentation` of copies of the clips that probes also learn from, or None.
    """

    def __init__(self, budgets, seeds, augmentation):
        self.budgets, self.seeds, self.augmentation = budgets, seeds, augmentation

    def network(self, network, splits):
        """Measures a frozen network, with perturbed and cropped test images, or augmented training clips."""
        embed = compile_network(network) if isinstance(network, keras.Model) else network
        arrays, copies = [extract_features(embed, source) for source in splits], ()
        if "image" in splits.train.arrays:
            views = (*DISTURBED.values(), crop_images)
            arrays += [extract_features(embed, splits.test, preprocess=each) for each in views]
        elif "waveform" in splits.train.arrays:
            copies = augmented_copies(embed, splits.train, self.augmentation)
        return self.features(arrays, splits, copies)

    def features(self, arrays, splits, copies=()):
        """Measures features; returns ({column: scores}, probabilities (N, Y) of the probe on all labels).

        Args:
            arrays: features of the training, validation and test splits; for images also of the perturbed and the
                cropped test images.
            splits: labeled `Splits`.
            copies: features of augmented copies of the training split, from which only the probes learn.
        """
        plain_test = arrays[2]
        if "tokens" in splits.train.arrays:
            arrays = [normalize(each) for each in arrays]
        train, validation, test, *more = arrays
        train_y, validation_y, test_y = (source.column("label") for source in splits)

        def training_set(rows):
            x = np.concatenate([each[rows] for each in (train, *copies)]) if copies else train[rows]
            return x, np.tile(train_y[rows], 1 + len(copies))

        probe, strength = probes.fit_probe(*training_set(np.arange(len(train_y))), validation, validation_y)
        log.info("Linear probe on %d labels: chose regularization C = %g", len(train_y), strength)
        row = {"kNN": [probes.knn(train, train_y, test, test_y)], ALL: [float(probe.score(test, test_y))]}
        for budget in self.budgets:
            scores = {few_column(budget): [], whole_column(budget): []}
            for seed in self.seeds:
                few = training_set(few_label_indices(splits.train, budget, seed))
                own = validation_rows(splits.validation, budget, seed)
                for column, rows in zip(scores, (own, slice(None))):
                    score, _ = probes.linear_probe(*few, validation[rows], validation_y[rows], test, test_y)
                    scores[column].append(score)
            row |= scores
        row |= {name: [float(probe.score(x, test_y))] for name, x in zip(DISTURBED, more)}
        probabilities = np.zeros((len(test_y), len(splits.train.classes)))
        probabilities[:, probe.classes_] = probe.predict_proba(test)
        if issparse(test):
            return row, probabilities
        row |= {"feature sd": [collapse.feature_sd(test)], "RankMe": [collapse.rankme(plain_test)]}
        row["uniformity"] = [collapse.uniformity(test)]
        if len(more) > len(DISTURBED):
            row["alignment"] = [collapse.alignment(test, more[-1])]
        return row, probabilities
