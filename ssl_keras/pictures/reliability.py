"""Reliability diagram (Guo et al. 2017, figure 1): accuracy by confidence, above the histogram of confidences."""

import matplotlib.figure
import numpy as np


def reliability_figure(reliability, title=""):
    """Draws a reliability diagram, whose title has the expected calibration error.

    Bars that end below the diagonal belong to overconfident predictions.

    Args:
        reliability: an `evaluation.calibration.Reliability`.
        title: a line above the title, such as the classifier's name.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    bins = len(reliability.counts)
    used = reliability.counts > 0
    centers = ((np.arange(bins) + 0.5) / bins)[used]
    accuracy, confidence = 100 * reliability.accuracy[used], 100 * reliability.confidence[used]
    figure = matplotlib.figure.Figure(figsize=(5, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    bar = {"width": 100 / bins, "edgecolor": "black", "linewidth": 0.8}
    above.bar(100 * centers, accuracy, color="lightsteelblue", label="accuracy", **bar)
    gap = {**bar, "edgecolor": "tab:red", "fill": False, "hatch": "//"}
    above.bar(100 * centers, confidence - accuracy, bottom=accuracy, label="gap to the mean confidence", **gap)
    above.plot([0, 100], [0, 100], "--", color="gray", label="perfect calibration")
    above.set_ylim(0, 100)
    above.set_ylabel("accuracy, %")
    error = f"Expected calibration error {100 * reliability.expected_calibration_error:.1f}%"
    above.set_title("\n".join(filter(None, (title, error))))
    above.legend(loc="upper left", fontsize="small")
    below.bar(100 * centers, 100 * reliability.counts[used] / reliability.counts.sum(), color="lightgray", **bar)
    below.axvline(100 * reliability.mean_accuracy, color="tab:blue", label="accuracy")
    below.axvline(100 * reliability.mean_confidence, color="tab:red", linestyle="--", label="mean confidence")
    below.set_xlim(0, 100)
    below.set_xlabel("confidence, %")
    below.set_ylabel("examples, %")
    below.legend(loc="best", fontsize="small")
    return figure
