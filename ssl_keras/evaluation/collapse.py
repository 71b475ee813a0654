"""Label-free measures of features: variance, uniformity, alignment and rank.

Shapes: `N` examples, `V` views of each, `D` features.
"""

import numpy as np
import scipy.linalg

from ssl_keras.evaluation.features import evenly_spaced, normalize

RIDGE = 1e-4  # LiDAR's δ, added to the covariance within examples


def feature_sd(x):
    """Returns the mean over the D features of their standard deviation on the unit sphere, times √D.

    It is 1 for evenly spread directions, and 0 if all examples have the same direction (collapse).
    """
    return float(np.mean(np.std(normalize(x), axis=0)) * np.sqrt(x.shape[1]))


def alignment(a, b):
    """Returns the mean squared distance between two views' features on the unit sphere, in [0, 4].

    Source: Wang & Isola 2020, equation 2.
    """
    return float(np.mean(np.sum(np.square(normalize(a) - normalize(b)), axis=1)))


def uniformity(x, max_examples=2_000):
    """Returns the log of the mean of exp(−2‖a − b‖²) over pairs of at most `max_examples` examples on the unit sphere.

    It is 0 if all examples have the same direction, and about −4 for an even spread over many dimensions (Wang & Isola
    2020, equation 4). Rows of zeros count as one direction.
    """
    x = normalize(x[evenly_spaced(len(x), max_examples)]).astype(np.float64)
    x[~x.any(axis=1), 0] = 1.0
    distance = 2 - 2 * np.clip(x @ x.T, -1, 1)  # squared
    pairs = distance[np.triu_indices(len(x), 1)]
    return float(np.log(np.mean(np.exp(-2 * pairs)))) if len(pairs) else 0.0


def rankme(x):
    """Returns the effective rank of the features, in [1, min(N, D)] (RankMe: Garrido et al. 2023, equation 1).

    It is the exponential of the entropy of the singular values over their sum; it is 0 if all features are 0.
    """
    singular = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    total = singular.sum()
    if total == 0:
        return 0.0
    p = singular / total + 1e-7
    return float(np.exp(-np.sum(p * np.log(p))))


def lidar(views, ridge=RIDGE):
    """Returns the effective rank of the features that tell examples apart, in [0, min(N, D)] (LiDAR).

    Thilak et al. 2023, "LiDAR: sensing linear probing performance in joint embedding SSL architectures", section 4. The
    views of an example are a class of linear discriminant analysis. With Σ_b the covariance of the examples' means and
    Σ_w that of the views around them plus δI, it is the exponential of the entropy of the eigenvalues of
    Σ_w^(−1/2)·Σ_b·Σ_w^(−1/2) over their sum. It does not change under rotations of the features or, up to δ, under any
    invertible linear map. It is 0 if all examples have the same mean.

    Args:
        views: (N, V, D) features of V random views of N examples.
        ridge: δ, in squared units of the features.

    Raises:
        ValueError: there are fewer than two examples or two views.
    """
    if views.ndim != 3 or min(views.shape[:2]) < 2:
        raise ValueError(f"Expected views (N, V, D) with at least N = 2 and V = 2. Received: shape {views.shape}")
    x = views.astype(np.float64)
    means = x.mean(1)  # (N, D)
    within = (x - means[:, None]).reshape(-1, x.shape[2])  # (N·V, D)
    between = (means - means.mean(0)) / np.sqrt(len(means))
    factor = np.linalg.cholesky(within.T @ within / len(within) + ridge * np.eye(x.shape[2]))
    # The eigenvalues are the squared singular values of L⁻¹·Bᵀ, with Σ_w = L·Lᵀ and Σ_b = Bᵀ·B.
    whitened = scipy.linalg.solve_triangular(factor, between.T, lower=True)
    eigenvalues = np.square(np.linalg.svd(whitened, compute_uv=False))
    if eigenvalues.sum() == 0:
        return 0.0
    p = eigenvalues / eigenvalues.sum() + 1e-7
    return float(np.exp(-np.sum(p * np.log(p))))
