"""The expected gain of more time: a power law a − b·t^(−c), fitted to the quality of a run over its steps.

Hestness et al. 2017, "Deep learning scaling is predictable, empirically", fit errors by power laws of the data.
"""

import typing
import warnings

import numpy as np

MIN_POINTS = 4  # three parameters and one more
MAX_DOUBT = 0.2  # half width of a prediction's interval, as a fraction of the range of the quality
Z = 1.96  # of a 95% interval


class Fit(typing.NamedTuple):
    """A fitted power law."""

    a: float
    b: float
    c: float
    covariance: np.ndarray  # (3, 3), of a, b, c

    def at(self, t):
        """Returns (the quality at time t, half the width of its 95% interval by the delta method)."""
        gradient = np.array([1.0, -(t**-self.c), self.b * t**-self.c * np.log(t)])
        deviation = np.sqrt(max(gradient @ self.covariance @ gradient, 0.0))
        return self.a - self.b * t**-self.c, Z * float(deviation)


def fit(t, quality, errors=None, most=1.0):
    """Fits the power law by least squares.

    Args:
        t: (N,) positive times or steps, in any unit.
        quality: (N,) numbers, larger is better.
        errors: (N,) their standard errors; None estimates them from the residuals.
        most: the largest possible a, such as 1 for accuracies.

    Returns:
        (`Fit`, "") or (None, why there is none, a sentence).
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    t, quality = np.asarray(t, np.float64), np.asarray(quality, np.float64)
    if len(np.unique(t)) < MIN_POINTS:
        return None, f"A curve needs {MIN_POINTS} points, and there are {len(np.unique(t))}."
    if not quality[-1] > quality[0]:
        return None, "The quality did not rise with training, so no curve is fitted to it."
    if errors is not None:
        errors = np.maximum(errors, 1e-3)
    rise = max(float(quality.max() - quality.min()), 1e-6)
    top = min(float(quality.max()) + rise / 2, most)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)
            found, covariance = curve_fit(
                lambda t, a, b, c: a - b * t**-c,
                t,
                quality,
                p0=(top, rise * t[0] ** 0.5, 0.5),
                sigma=errors,
                absolute_sigma=errors is not None,
                bounds=((-np.inf, 0.0, 0.01), (most, np.inf, 5.0)),
            )
    except (RuntimeError, ValueError, OptimizeWarning) as error:
        return None, f"The power law cannot be fitted to these points: {str(error).strip().rstrip('.')}."
    return Fit(*map(float, found), covariance), ""


def expectation(t, quality, errors=None, most=1.0, percent=True):
    """Returns sentences on the quality to expect at 2 and 10 times the steps.

    Args:
        t, quality, errors, most: as in `fit`.
        percent: whether the quality is an accuracy.
    """
    found, reason = fit(t, quality, errors, most)
    if found is None:
        return f"{reason} Train longer to see."
    show = (lambda value: f"{100 * value:.1f}%") if percent else (lambda value: f"{value:.3g}")
    span = 1.0 if percent else max(quality)
    shown = []
    for factor in (2, 10):
        value, half = found.at(factor * t[-1])
        if not np.isfinite(half) or half > MAX_DOUBT * span:
            break
        shown.append(f"{show(value)} ± {show(half)} at {factor} times the steps")
    if not shown:
        return "The points do not determine the power law: its 95% interval is too wide to say anything."
    return (
        f"{show(quality[-1])} now; {'; '.join(shown)}, by the power law "
        f"{found.a:.3g} − {found.b:.3g}·t^(−{found.c:.2g}) with a 95% interval. It is an extrapolation at a constant "
        "learning rate."
    )
