"""Guard of a run that continues from a saved encoder: compares its features at the start and at the end.

A loss that falls says nothing about features that were good already. RankMe (Garrido et al. 2023) is their effective
rank, and the kNN accuracy is measured where there are labels: neighbors in the training split, queries in the
validation split. Both are taken on samples of the splits, without augmentation.
"""

import logging

import numpy as np

from ssl_keras.evaluation import collapse, probes
from ssl_keras.evaluation.features import compile_network, evenly_spaced, extract_features

TRAIN_EXAMPLES, VALIDATION_EXAMPLES = 5_000, 2_000
LOWER_RANK = 0.5  # fraction of the first RankMe below which features count as worse, unless kNN has become better
log = logging.getLogger(__name__)


class Guard:
    """Measures an encoder when it is created, and compares it at the end of the run.

    Args:
        encoder: the encoder with the weights that the run starts from.
        splits: `Splits`.
        keep_start: whether `finish` puts back these weights if the features are worse at the end.
    """

    def __init__(self, encoder, splits, keep_start=False):
        self.encoder, self.splits, self.keep_start = encoder, splits, keep_start
        self.embed = compile_network(encoder)
        self.start = self._measure()
        self.weights = encoder.get_weights() if keep_start else None
        log.info("Features at the start: %s", _shown(self.start))

    def finish(self):
        """Compares; returns {"start_rankme", "end_rankme", …, "worse_than_start"}, and puts back the weights if asked.

        Features are worse if their kNN accuracy is lower. If it is the same, as with few labels, or if there are no
        labels, they are worse if their RankMe fell by more than half.
        """
        end = self._measure()
        gain = end.get("knn", 0.0) - self.start.get("knn", 0.0)
        worse = gain < 0 or (gain == 0 and not end["rankme"] >= LOWER_RANK * self.start["rankme"])
        log.info("Features at the end: %s", _shown(end))
        if worse:
            log.warning(
                "The features are worse than those of --init: %s at the start, %s at the end. %s",
                _shown(self.start),
                _shown(end),
                "The encoder is saved as it was at the start."
                if self.keep_start
                else "Lower --learning-rate or --layer-decay, or save the start with --keep-start.",
            )
        if worse and self.keep_start:
            self.encoder.set_weights(self.weights)
        start = {f"start_{name}": value for name, value in self.start.items()}
        return start | {f"end_{name}": value for name, value in end.items()} | {"worse_than_start": worse}

    def _measure(self):
        """Returns {"rankme": …, "knn": …}; kNN only with labels. Features that are not finite count as 0."""
        validation = _some(self.splits.validation, VALIDATION_EXAMPLES)
        features = extract_features(self.embed, validation)
        has_labels = "label" in validation.arrays
        if not np.isfinite(features).all():
            return {"rankme": 0.0} | ({"knn": 0.0} if has_labels else {})
        found = {"rankme": collapse.rankme(features)}
        if has_labels:
            train = _some(self.splits.train, TRAIN_EXAMPLES)
            neighbors = extract_features(self.embed, train)
            found["knn"] = probes.knn(neighbors, train.column("label"), features, validation.column("label"))
        return found


def _some(source, count):
    return source.take(evenly_spaced(len(source), count))


def _shown(measured):
    return ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
