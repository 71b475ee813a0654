"""The reliability diagram shows the numbers of `evaluation.calibration`."""

import io

import numpy as np
import pytest

from ssl_keras.evaluation.calibration import BINS, reliability
from ssl_keras.pictures.reliability import reliability_figure


@pytest.mark.filterwarnings("error")
def test_bars_are_the_accuracies():
    probabilities = np.array([[0.75, 0.25]] * 4 + [[0.05, 0.95]] * 4)
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    found = reliability(probabilities, labels)
    figure = reliability_figure(found)
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    above, below = figure.axes
    assert above.get_title() == "Expected calibration error 15.0%"  # (0.25 + 0.05) / 2
    accuracy, gap = above.containers
    assert [bar.get_height() for bar in accuracy] == pytest.approx([50, 100])
    assert [bar.get_x() for bar in accuracy] == pytest.approx([1100 / BINS, 1400 / BINS])
    assert [bar.get_y() for bar in gap] == pytest.approx([50, 100])
    assert [bar.get_y() + bar.get_height() for bar in gap] == pytest.approx([75, 95])
    assert [bar.get_height() for bar in below.containers[0]] == pytest.approx([50, 50])
    assert [line.get_xdata()[0] for line in below.lines] == pytest.approx([75, 85])  # accuracy and mean confidence


@pytest.mark.filterwarnings("error")
def test_a_single_example():
    figure = reliability_figure(reliability(np.array([[1.0, 0.0]]), np.array([1])))
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    assert figure.axes[0].get_title() == "Expected calibration error 100.0%"
