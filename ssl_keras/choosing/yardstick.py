"""The measure of all rows: probes on few labels, neighbors, and measures that need no labels.

A label seed draws as many labels of each class as were asked for, and at most as many validation labels. A probe learns
the former; its regularization is chosen on one half of the latter and its accuracy measured on the other, and the other
way round. The test split is never read.

Shapes: `N` examples, `V` views, `D` features.
"""

import logging

import numpy as np
from scipy.sparse import issparse

from ssl_keras import encoders
from ssl_keras.data.passages import cut_into_passages
from ssl_keras.data.splits import Splits, few_label_indices
from ssl_keras.data.tokens import texts_of
from ssl_keras.downstream.columns import validation_rows
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation import collapse, probes
from ssl_keras.evaluation.features import (
    compile_network,
    evenly_spaced,
    extract_features,
    log_mel,
    normalize,
    pixels,
    tf_idf,
)
from ssl_keras.evaluation.views import extract_views

UNLABELED, VIEWED = 1_000, 200  # validation examples for RankMe, and for LiDAR
PASSAGE = 1_000  # characters of an example, where texts are pieces of large files
NEIGHBORS = 20
log = logging.getLogger(__name__)


class Yardstick:
    """Measures features of the same examples for every row.

    Args:
        splits: `Splits`, as they were loaded.
        per_class: labels per class; 0 measures without labels.
        seeds: the label seeds.
        views: whether LiDAR is measured, for which ten views of an example pass the network; None does so without
            labels only.

    Attributes:
        splits: the examples that are looked at, as `Splits`: training examples whose labels are learned, validation
            examples whose labels are predicted and, as test, validation examples for the measures without labels.

    Raises:
        ValueError: a class has too few labels, or the validation split has fewer than two examples.
    """

    def __init__(self, splits, per_class, seeds, views=None):
        self.per_class, self.seeds = per_class, tuple(seeds)
        self.views = not per_class if views is None else views
        train, validation = splits.train, splits.validation
        if len(validation) < 2:
            raise ValueError(f"{validation.name}: expected at least 2 examples. Received: {len(validation)}")
        free = validation.take(evenly_spaced(len(validation), UNLABELED))
        if per_class:
            self.learned = [few_label_indices(train, per_class, seed) for seed in self.seeds]
            self.predicted = [validation_rows(validation, per_class, seed) for seed in self.seeds]
            used = [np.unique(np.concatenate(rows)) for rows in (self.learned, self.predicted)]
            self.learned, self.predicted = (
                [np.searchsorted(union, rows) for rows in each]
                for union, each in zip(used, (self.learned, self.predicted))
            )
            self.splits = Splits(train.take(used[0]), validation.take(used[1]), free)
        else:
            self.splits = Splits(free, free, free)
            if not np.all(free.arrays.get("ends", True)):
                self.splits = cut_into_passages(self.splits, PASSAGE)

    def of_encoder(self, folder, network=None):
        """Measures a saved encoder, or another network of its kind in its place; see `of_features`."""
        card = cards.read(folder)
        adapted = encoders.adapt(folder, card, self.splits)
        return self.of_network(encoders.load_encoder(folder) if network is None else network, adapted)

    def of_network(self, network, splits=None):
        """Measures a network, or a function from its input to features, on adapted `Splits`."""
        splits = self.splits if splits is None else splits
        embed = compile_network(network) if hasattr(network, "layers") else network
        parts = splits[:2] if self.per_class else ()
        features = [extract_features(embed, source) for source in parts]
        found = self.of_features(*features, free=extract_features(embed, splits.test))
        if self.views:
            viewed = splits.test.take(evenly_spaced(len(splits.test), VIEWED))
            found["LiDAR"] = collapse.lidar(extract_views(embed, viewed))
        return found

    def of_features(self, train=None, validation=None, free=None):
        """Measures features.

        Args:
            train, validation, free: features of the examples of `splits`, (N, D), dense or sparse.

        Returns:
            {"probe": [accuracy in [0, 1] of each label seed], "kNN": [likewise], "RankMe": effective rank}; what cannot
            be measured is missing.

        Raises:
            ValueError: some features are not finite.
        """
        found = {}
        if self.per_class:
            train_y, validation_y = (source.column("label") for source in self.splits[:2])
            if "text" in self.splits.train.arrays:  # as in `downstream.table`
                train, validation = normalize(train), normalize(validation)
            scores = [
                self._scores(train[learned], train_y[learned], validation[predicted], validation_y[predicted])
                for learned, predicted in zip(self.learned, self.predicted)
            ]
            found = {name: [score[name] for score in scores] for name in ("probe", "kNN")}
        if free is not None and not issparse(free):
            found["RankMe"] = collapse.rankme(free)
        return found

    def _scores(self, train, train_y, validation, validation_y):
        order = np.argsort(validation_y, kind="stable")
        halves = order[::2], order[1::2]  # each has half of every class
        hits = 0.0
        for own, other in (halves, halves[::-1]):
            score, _ = probes.linear_probe(
                train, train_y, validation[own], validation_y[own], validation[other], validation_y[other]
            )
            hits += score * len(other)
        neighbors = min(NEIGHBORS, self.per_class)
        return {
            "probe": hits / len(validation_y),
            "kNN": probes.knn(train, train_y, validation, validation_y, neighbors),
        }

    def of_baseline(self):
        """Measures features without a network; returns (the row's name, as `of_features`)."""
        splits, arrays = self.splits, self.splits.train.arrays
        if "text" in arrays:
            return "TF-IDF", self.of_features(*tf_idf(*map(texts_of, splits))) if self.per_class else {}
        if "waveform" in arrays:
            return "log-mel", self.of_network(log_mel(splits.train.rate))
        features = [pixels(source) for source in splits[:2]] if self.per_class else ()
        return "pixels", self.of_features(*features, free=pixels(splits.test))
