"""Columns of the evaluation table, and the validation labels that each may choose by."""

import numpy as np

from ssl_keras.data.splits import shuffled_members
from ssl_keras.evaluation.features import add_noise, shift_images

ALL = "all"
MEASURES = ("feature sd", "RankMe", "alignment", "uniformity")  # columns that need no labels
DISTURBED = {"noise": add_noise, "shift": shift_images}  # columns with perturbed test images, for probes on all labels
WHOLE = ", whole validation"


def few_column(budget):
    """Returns the column of `budget` labels per class, chosen by at most as many validation labels."""
    return f"{budget} per class"


def whole_column(budget):
    """Returns the column of `budget` labels per class, chosen by the whole validation split."""
    return few_column(budget) + WHOLE


def validation_rows(source, budget, seed):
    """Returns the sorted indices of the validation examples that a choice may use.

    Args:
        source: the labeled validation split.
        budget: number of training labels per class; at most as many of each class are returned. ALL returns all.
        seed: the label seed, which draws them.
    """
    if budget == ALL:
        return np.arange(len(source))
    return np.sort(np.concatenate([members[:budget] for members in shuffled_members(source, seed)]))
