"""The exponential moving average of weights: its formula, its warmup, and failed steps."""

import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.engine import moving_average
from ssl_keras.networks.dense import classifier_head


def followed(decay, failed_step=-1):
    """Updates the average of one head by the weights of another; returns (average before, average after, weights)."""
    average, network = classifier_head(3, 2), classifier_head(3, 2)
    before = [v.numpy() for v in average.variables]
    moving_average.follow(
        tf.distribute.get_strategy(), average.variables, network.variables, decay, tf.constant(failed_step)
    )
    return before, [v.numpy() for v in average.variables], [v.numpy() for v in network.variables]


@pytest.mark.parametrize("decay", [0.0, 0.25, 1.0])
def test_average_is_the_weighted_mean(decay):
    for before, after, value in zip(*followed(decay)):
        np.testing.assert_allclose(after, decay * before + (1 - decay) * value, atol=1e-7)


def test_failed_step_leaves_the_average_unchanged():
    for before, after, _ in zip(*followed(0.25, failed_step=7)):
        np.testing.assert_array_equal(after, before)


def test_decay_is_warmed_up():
    decays = [float(moving_average.warmed_up(0.995, step)) for step in (0, 10, 1_000_000)]
    np.testing.assert_allclose(decays, [0.0, 0.5, 0.995], rtol=1e-6)
