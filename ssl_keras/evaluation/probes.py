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
HEAD_STRENGTH = 0.1  # C of the probe that a head starts from: with few labels there is nothing to choose it by
ROUNDING = 1e-6  # standard deviations below this fraction of the largest one are those of rounding errors
ABSENT = 10.0  # by which the logits of a class without examples start below the lowest bias


def knn(train_x, train_y, test_x, test_y, k=20):
    """Returns the accuracy in [0, 1] of the k nearest neighbors by cosine similarity (or of all, if there are fewer).

    Raises:
        ValueError: some features are not finite.
    """
    from sklearn.neighbors import KNeighborsClassifier

    _check_finite(train_x, test_x)
    # For unit vectors the Euclidean and the cosine order are the same.
    model = KNeighborsClassifier(min(k, train_x.shape[0]), algorithm="brute")
    model.fit(normalize(train_x), train_y)
    return float(model.score(normalize(test_x), test_y))


def fit_probe(train_x, train_y, validation_x, validation_y, strengths=PROBE_STRENGTHS):
    """Fits a linear probe: logistic regression on frozen features, which are standardized unless they are sparse.

    Args:
        train_x, validation_x: (N, D) floats.
        train_y, validation_y: (N,) integer labels.
        strengths: candidates for scikit-learn's C; the best one on the validation split is used.

    Returns:
        (the fitted model, the chosen C).

    Raises:
        ValueError: some features are not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    _check_finite(train_x, validation_x)
    best = (-1.0, None, None)
    scaler = standardizer(train_x)
    train_x, validation_x = scaler.transform(train_x), scaler.transform(validation_x)
    # Each fit starts from the one before. This is two to three times as fast on few labels and more on many, and fits
    # with little regularization converge, which 300 iterations from scratch may not achieve.
    regression = LogisticRegression(max_iter=300, tol=1e-3, warm_start=True)
    for strength in sorted(strengths):
        # On small products, threads that wait for each other take three times as long as a single thread.
        with threadpool_limits(1 if train_x.shape[0] < FEW_ROWS else None):
            regression.set_params(C=strength).fit(train_x, train_y)
        score = regression.score(validation_x, validation_y)
        if score > best[0]:
            best = (score, make_pipeline(scaler, copy.deepcopy(regression)), strength)
    return best[1:]


def linear_probe(train_x, train_y, validation_x, validation_y, test_x, test_y, strengths=PROBE_STRENGTHS):
    """Fits a linear probe with `fit_probe`; returns (its test accuracy in [0, 1], the chosen C)."""
    model, strength = fit_probe(train_x, train_y, validation_x, validation_y, strengths)
    return float(model.score(test_x, test_y)), strength


def linear_layer(x, y, classes, strength=HEAD_STRENGTH):
    """Fits a linear probe without choosing anything, and returns it as the weights of a layer on `x` itself.

    The initial head of LP-FT (Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform
    out-of-distribution").

    Args:
        x: (N, D) features.
        y: (N,) integer labels below `classes`.
        classes: Y. Classes without examples get logits below those of all others.
        strength: scikit-learn's C, for standardized features.

    Returns:
        [kernel (D, Y), bias (Y,)], float32.
    """
    from sklearn.linear_model import LogisticRegression

    _check_finite(x)
    scaler = standardizer(x)
    probe = LogisticRegression(C=strength, max_iter=300, tol=1e-3).fit(scaler.transform(x), y)
    return layer_of(scaler, probe, classes)


def standardizer(x):
    """Fits a scikit-learn `StandardScaler` to features (N, D); sparse ones stay as they are.

    Features that are constant but for rounding are centered and not scaled: a public encoder may have a feature of
    1e-32, whose weight would be 1e30.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=not issparse(x), with_std=not issparse(x)).fit(x)
    if scaler.scale_ is not None:
        deviations = np.sqrt(scaler.var_)
        scaler.scale_[deviations <= ROUNDING * deviations.max()] = 1.0
    return scaler


def layer_of(scaler, probe, classes):
    """Returns a fitted scaler and logistic regression as the weights of a layer: [kernel (D, Y), bias (Y,)], float32.

    Args:
        scaler, probe: scikit-learn's, such as the steps of the model of `fit_probe` on dense features.
        classes: Y. Classes without examples get logits below those of all others.
    """
    coefficients, intercepts = probe.coef_, probe.intercept_
    if len(intercepts) == 1:  # two classes share one row
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.append(-intercepts, intercepts) / 2
    scaled = coefficients / scaler.scale_
    intercepts = intercepts - scaled @ scaler.mean_
    kernel, bias = np.zeros((scaled.shape[1], classes)), np.full(classes, intercepts.min() - ABSENT)
    kernel[:, probe.classes_], bias[probe.classes_] = scaled.T, intercepts
    return [kernel.astype(np.float32), bias.astype(np.float32)]


def _check_finite(*parts):
    for x in parts:
        bad = int((~np.isfinite(x.data if issparse(x) else x)).sum())
        if bad:
            raise ValueError(
                f"Expected finite features. Received: {bad} values that are not finite, since the encoder overflows. "
                "Use --precision float32, or train the encoder again."
            )
