"""Rows of the evaluation table that need training: an encoder and a head, trained on few and on all labels.

Every setting of a grid is trained once. Two choices among them are made of the same trainings: for each label seed by
as many validation labels as there are training labels, and for all label seeds together by the whole validation split.
"""

import itertools
import logging
import typing

import numpy as np
import scipy.special
import tensorflow as tf
from tqdm import tqdm

from ssl_keras import files
from ssl_keras.data import inputs
from ssl_keras.data.augment_audio import AudioAugmentation
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.batches import Batches
from ssl_keras.data.splits import few_labels
from ssl_keras.downstream.columns import ALL, DISTURBED, few_column, validation_rows, whole_column
from ssl_keras.downstream.grids import GRIDS, kind_of
from ssl_keras.evaluation.features import compile_network, extract_features
from ssl_keras.networks.dense import classifier_head
from ssl_keras.objectives.classifier import Classifier
from ssl_keras.training import checkpoint
from ssl_keras.training.optimizer import Adam

log = logging.getLogger(__name__)


class Candidate(typing.NamedTuple):
    """Trained weights, and what they were trained with."""

    setting: tuple  # (learning rate, augmentation, steps)
    score: tuple  # accuracy on validation labels and, for ties, minus the loss
    weights: dict


class Trainer:
    """Trains an encoder and a head from the same weights on any number of labels.

    Args:
        encoder: functional graph; its weights are those at the beginning.
        card: its card.
        splits: labeled `Splits` that fit it.
        grid: a `Grid`; None is that of the kind of network.
    """

    def __init__(self, encoder, card, splits, grid):
        self.splits = splits
        head = classifier_head(card["features"], len(splits.train.classes))
        self.objective = Classifier(encoder, head)
        if splits.train.rate:
            self.objective.noise_samples = splits.train.arrays["waveform"].longest
        kind = kind_of(encoder, inputs.column(card["input"]))
        self.grid = grid or GRIDS[kind]
        # On a CPU, XLA makes small transformers faster, but not small dense or convolutional networks.
        self.objective.compile(Adam(), steps_per_execution=50, jit_compile=kind.endswith("transformer"))
        self.start = files.read_variables(checkpoint.variables(self.objective))
        self.predict = compile_network(encoder, head)

    def row(self, budget, seeds):
        """Trains on `budget` labels per class, or ALL.

        Returns:
            ({column: [test accuracy of each seed]}, test probabilities (N, Y) with all labels or else None).
        """
        settings = list(itertools.product(self.grid.rates, self.grid.augmentations))
        name = ALL if budget == ALL else few_column(budget)
        log.info("Training on %s, %d settings, %d seeds", name, len(settings), len(seeds))
        whole, own = None, [None] * len(seeds)
        labels = self.splits.validation.column("label")
        chosen = [validation_rows(self.splits.validation, budget, seed) for seed in seeds]
        for rate, augmentation in tqdm(settings, desc=f"training on {name}", disable=None, leave=False):
            marks = {}  # {steps: [(score on the whole validation split, weights) of each seed]}
            for place, seed in enumerate(seeds):
                for mark in self._train(budget, seed, rate, augmentation):
                    logits = extract_features(self.predict, self.splits.validation)
                    weights = files.read_variables(checkpoint.variables(self.objective))
                    marks.setdefault(mark, []).append((_score(logits, labels), weights))
                    rows = chosen[place]
                    found = Candidate((rate, augmentation, mark), _score(logits[rows], labels[rows]), weights)
                    if own[place] is None or found.score > own[place].score:
                        own[place] = found
            for mark, outcomes in marks.items():
                score = tuple(np.mean([score for score, _ in outcomes], axis=0))
                found = Candidate((rate, augmentation, mark), score, [weights for _, weights in outcomes])
                if whole is None or found.score > whole.score:
                    whole = found
        if budget == ALL:
            return self._test_all(whole)
        for candidate in own:
            _log_choice(name, candidate)
        _log_choice(whole_column(budget), whole)
        columns = {name: [each.weights for each in own], whole_column(budget): whole.weights}
        return {column: [self._test(one)[0] for one in each] for column, each in columns.items()}, None

    def _test_all(self, candidate):
        """Returns what `row` does for a network trained on all labels, with columns of disturbed test images."""
        _log_choice(ALL, candidate)
        accuracy, logits = self._test(candidate.weights[0])
        row, labels = {ALL: [accuracy]}, self.splits.test.column("label")
        if "image" in self.splits.test.arrays:
            for name, views in DISTURBED.items():
                disturbed = extract_features(self.predict, self.splits.test, preprocess=views)
                row[name] = [_score(disturbed, labels)[0]]
        return row, scipy.special.softmax(logits, axis=1)

    def _test(self, weights):
        """Loads weights; returns (test accuracy, test logits)."""
        files.assign_variables(checkpoint.variables(self.objective), weights)
        logits = extract_features(self.predict, self.splits.test)
        return _score(logits, self.splits.test.column("label"))[0], logits

    def _train(self, budget, seed, rate, augmentation):
        """Trains from the start, and yields at each number of steps of the grid."""
        objective, grid = self.objective, self.grid
        objective.augmentation = augmentation
        files.assign_variables(checkpoint.variables(objective), self.start)
        objective.optimizer.learning_rate = rate  # after the assignment, which includes the learning rate
        strategy = tf.distribute.get_strategy()
        replicas = strategy.num_replicas_in_sync
        if budget == ALL:
            train, batch = self.splits.train, min(grid.all_label_batch, len(self.splits.train))
            per_epoch = len(train) // batch
            marks = sorted({max(e * per_epoch, few) for e, few in zip(grid.all_label_epochs, grid.few_label_steps)})
        else:
            train, marks = few_labels(self.splits.train, budget, seed), grid.few_label_steps
            batch = min(grid.few_label_batch, len(train))
        batches = Batches(train, batch // replicas * replicas, seed=seed, preprocess=objective.preprocess)
        done = 0
        for mark in marks:
            objective.fit(batches.dataset(done, None, strategy), steps_per_epoch=mark - done, verbose=0)
            done = mark
            yield mark


def _score(logits, labels):
    """Returns (accuracy, −loss in nats), by which candidates are compared."""
    loss = np.mean(scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels])
    return float(np.mean(logits.argmax(axis=1) == labels)), -float(loss)


def _log_choice(column, candidate):
    rate, augmentation, mark = candidate.setting
    how = "without" if augmentation in (Augmentation(), AudioAugmentation()) else "with"
    log.info("%s: chose learning rate %g, %d steps, %s augmentation", column, rate, mark, how)
