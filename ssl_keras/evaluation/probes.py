"""Classifiers on frozen features: k nearest neighbors and a linear probe.

Shapes: `N` examples, `D` features.
"""

import copy

import numpy as np
from scipy.sparse import issparse
from threadpoolctl import threadpool_limits

from ssl_keras.evaluation.features import normalize

PROBE_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # inverse regularization C of the linear probe
FEW_ROWS = 5_000


def knn(train_x, train_y, test_x, test_y, k=20):
    """Accuracy in [0, 1] of the k nearest neighbors by cosine similarity (fewer, where there are fewer).

    Raises:
        ValueError: features that are not finite, as of `fit_probe`.
    """
    from sklearn.neighbors import KNeighborsClassifier

    _check_finite(train_x, test_x)
    # Of unit vectors, the nearest by distance are the most similar by cosine.
    model = KNeighborsClassifier(min(k, train_x.shape[0]), algorithm="brute")
    model.fit(normalize(train_x), train_y)
    return float(model.score(normalize(test_x), test_y))


def fit_probe(train_x, train_y, validation_x, validation_y, strengths=PROBE_STRENGTHS):
    """Logistic regression on frozen features, standardized where they are not sparse.

    Args:
        *_x: (N, D) floats. *_y: (N,) integer labels.
        strengths: candidates for scikit-learn's C, from the least; the best on the validation part is taken.

    Returns:
        (the fitted model, the C chosen).

    Raises:
        ValueError: features that are not finite: none is nearer, or better, than another.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check_finite(train_x, validation_x)
    best = (-1.0, None, None)
    scaler = StandardScaler(with_mean=not issparse(train_x), with_std=not issparse(train_x))
    train_x, validation_x = scaler.fit_transform(train_x), scaler.transform(validation_x)
    # Each goes on from the one before: two to three times as fast on few labels, more on many, and those of little
    # regularization, which 300 iterations from nothing may not finish, are finished.
    regression = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True)
    for strength in sorted(strengths):
        # Threads that wait for each other in tiny products take three times as long as one alone.
        with threadpool_limits(1 if train_x.shape[0] < FEW_ROWS else None):
            regression.set_params(C=strength).fit(train_x, train_y)
        score = regression.score(validation_x, validation_y)
        if score > best[0]:
            best = (score, make_pipeline(scaler, copy.deepcopy(regression)), strength)
    return best[1:]


def linear_probe(train_x, train_y, validation_x, validation_y, test_x, test_y, strengths=PROBE_STRENGTHS):
    """`fit_probe`, and its test accuracy in [0, 1]: (accuracy, the C chosen)."""
    model, strength = fit_probe(train_x, train_y, validation_x, validation_y, strengths)
    return float(model.score(test_x, test_y)), strength


def _check_finite(*parts):
    for x in parts:
        bad = int((~np.isfinite(x.data if issparse(x) else x)).sum())
        if bad:
            raise ValueError(
                f"{bad} of the features' numbers are not finite: the encoder overflows. Use float32 (--precision "
                "float32), or train it again."
            )
