"""The data as they are before the search: kind, sizes, classes and their balance, lengths, copies."""

import logging

import numpy as np

from ssl_keras.data import near_duplicates, summary
from ssl_keras.data.splits import Splits
from ssl_keras.evaluation.features import evenly_spaced

TRAIN, HELD_OUT = 5_000, 1_000  # examples that are compared for near copies
MAX_IMBALANCE = 3  # examples of the largest class over those of the smallest, above which there is a note
log = logging.getLogger(__name__)


def look(splits, kind):
    """Returns {"table": rows of cells, "notes": [sentences]} on `Splits` of a kind of data.

    Raises:
        ValueError: all training examples are equal.
    """
    about = summary.summarize(splits)
    summary.check(about)
    notes = [f"{', '.join(parts)}: {note}" for note, parts in summary.notes(about).items()]
    return {
        "table": summary.table(about, summary.NUM_SHOWN),
        "notes": [*notes, *_balance(about), *_copies(splits, kind)],
    }


def _balance(about):
    counts = [count for count in about["parts"]["train"].get("classes", {}).values() if count]
    if len(counts) < 2 or max(counts) <= MAX_IMBALANCE * min(counts):
        return []
    return [
        f"The largest class has {max(counts) / min(counts):.0f} times as many examples as the smallest. The accuracies "
        "here are over equally many labels of each class, as far as there are enough."
    ]


def _copies(splits, kind):
    """Returns a note on near copies between training and validation examples, if some were found in a sample."""
    if kind == "waveform" or not np.all(splits.train.arrays.get("ends", True)):
        return []  # two takes of a word are as alike as two copies; pieces of a document are not compared
    train, held_out = (
        source.take(evenly_spaced(len(source), most))
        for source, most in ((splits.train, TRAIN), (splits.validation, HELD_OUT))
    )
    pairs = near_duplicates.leaks(Splits(train, held_out, held_out))
    found = max((len(np.unique(each[:, 1])) for (part, _), each in pairs.items() if part == "validation"), default=0)
    if not found:
        return []
    return [
        f"{found:,} of {len(held_out):,} validation examples have near copies among {len(train):,} training examples, "
        "which makes accuracies too high: see ssl-keras leaks, and ssl-keras curate."
    ]
