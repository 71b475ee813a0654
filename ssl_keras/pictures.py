"""Pictures of images side by side."""


import numpy as np
import tensorflow as tf
from sklearn.preprocessing import normalize

from ssl_keras.data.images import unit_range
from ssl_keras.evaluation.features import spread

PICTURES, NEIGHBOURS = 8, 5


def picture_grid(rows):
    """R rows of images, each (B, H, W, C) float in [0, 1] -> one image (R·H, B·W, C)."""
    return tf.concat([tf.concat(tf.unstack(row), axis=1) for row in rows], axis=0)


def neighbours(images, features):
    """Rows for `picture_grid`: some of the images (N, H, W, C), then the nearest to each by cosine, best first.

    Args:
        images: uint8, or float in [0, 1].
        features: (N, D).
    """
    unit = normalize(features)
    some = spread(len(unit), PICTURES)
    similarity = unit[some] @ unit.T
    similarity[np.arange(len(some)), some] = -np.inf  # itself
    order = np.argsort(-similarity, axis=1)[:, : min(NEIGHBOURS, len(unit) - 1)]
    return [unit_range(tf.constant(images[rows])) for rows in (some, *order.T)]
