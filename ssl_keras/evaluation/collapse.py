"""Label-free measures of features: do they vary, spread and stay invariant?

Shapes: `N` examples, `D` features.
"""

import numpy as np

from ssl_keras.evaluation.features import normalize, spread


def feature_sd(x):
    """Mean over the D features of their standard deviation on the unit sphere, times √D.

    1 for directions spread evenly, 0 where all examples share one (collapse).
    """
    return float(np.mean(np.std(normalize(x), axis=0)) * np.sqrt(x.shape[1]))


def alignment(a, b):
    """Mean squared distance on the unit sphere of two views' features, in [0, 4] (Wang & Isola 2020, equation 2)."""
    return float(np.mean(np.sum(np.square(normalize(a) - normalize(b)), axis=1)))


def uniformity(x, most=2_000):
    """log of the mean of exp(−2‖a − b‖²) over pairs of at most so many examples on the unit sphere.

    0 where all share one direction; −4 is about what an even spread over many dimensions gives
    (Wang & Isola 2020, equation 4). Features that are all 0 have one direction.
    """
    x = normalize(x[spread(len(x), most)]).astype(np.float64)
    x[~x.any(axis=1), 0] = 1.0
    distance = 2 - 2 * np.clip(x @ x.T, -1, 1)  # squared
    pairs = distance[np.triu_indices(len(x), 1)]
    return float(np.log(np.mean(np.exp(-2 * pairs)))) if len(pairs) else 0.0


def rankme(x):
    """Effective rank of the features, in 1..min(N, D) (Garrido et al. 2023, "RankMe", eq. 1).

    exp of the entropy of the singular values over their sum; features all 0 give 0.
    """
    singular = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    total = singular.sum()
    if total == 0:
        return 0.0
    share = singular / total + 1e-7
    return float(np.exp(-np.sum(share * np.log(share))))
