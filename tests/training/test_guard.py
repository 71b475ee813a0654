"""The guard of a continued run, and lower rates for lower layers."""

import dataclasses
import logging

import numpy as np
import pytest
import tensorflow as tf
from contract import small_digits

from ssl_keras.data.splits import Splits
from ssl_keras.engine.config import Training
from ssl_keras.networks import Network, depth_groups
from ssl_keras.objectives import classifier, rotation
from ssl_keras.training import run
from ssl_keras.training.guard import Guard
from ssl_keras.training.optimizer import level_ratios

VIT = {"network": "vit", "width": 8, "layers": 2}


def encoder():
    return Network("dense", image_shape=(16, 16, 1), widths=(16,)).build()


@pytest.mark.parametrize("keep", [False, True])
def test_features_that_got_worse_are_reported(keep, caplog):
    network = encoder()
    with caplog.at_level(logging.INFO):
        guard = Guard(network, small_digits(), keep)
        start = network.get_weights()
        network.set_weights([np.zeros_like(value) for value in start])
        found = guard.finish()
    assert found["worse_than_start"]
    assert found["start_knn"] > 0.6 > 0.3 > found["end_knn"]
    assert found["start_rankme"] > 2
    assert found["end_rankme"] == 0
    assert "The features are worse than those of --init" in caplog.text
    assert ("saved as it was at the start" in caplog.text) == keep
    np.testing.assert_array_equal(network.get_weights()[0], start[0] if keep else 0 * start[0])


def test_features_that_stay_are_not_worse(caplog):
    guard = Guard(encoder(), small_digits(), keep_start=True)
    found = guard.finish()
    assert not found["worse_than_start"]
    assert found["start_knn"] == found["end_knn"]
    assert "worse" not in caplog.text


def test_without_labels_the_rank_counts():
    unlabeled = Splits(
        *(dataclasses.replace(part, arrays={"image": part.arrays["image"]}, classes=()) for part in small_digits())
    )
    network = encoder()
    guard = Guard(network, unlabeled)
    assert guard.start.keys() == {"rankme"}
    kernel = network.trainable_variables[0]
    kernel.assign(tf.repeat(kernel[:, :1], 16, axis=1))
    assert guard.finish()["worse_than_start"]


@pytest.mark.parametrize(
    ("start", "end", "worse"),
    [
        ({"rankme": 6.0, "knn": 0.7}, {"rankme": 2.0, "knn": 0.7}, True),  # few queries do not see the collapse
        ({"rankme": 6.0, "knn": 0.7}, {"rankme": 4.0, "knn": 0.7}, False),
        ({"rankme": 6.0, "knn": 0.7}, {"rankme": 2.0, "knn": 0.8}, False),
        ({"rankme": 6.0, "knn": 0.7}, {"rankme": 9.0, "knn": 0.6}, True),
        ({"rankme": 6.0}, {"rankme": 2.0}, True),
        ({"rankme": 6.0}, {"rankme": 4.0}, False),
    ],
)
def test_neighbors_count_and_where_they_do_not_tell_the_rank(start, end, worse, monkeypatch):
    measured = iter((start, end))
    monkeypatch.setattr(Guard, "_measure", lambda self: next(measured))
    assert Guard(encoder(), small_digits()).finish()["worse_than_start"] == worse


def test_features_that_are_not_finite_are_worse():
    network = encoder()
    guard = Guard(network, small_digits())
    bias = network.trainable_variables[-1]
    bias.assign(np.full(bias.shape, np.inf))
    found = guard.finish()
    assert (found["end_knn"], found["end_rankme"], found["worse_than_start"]) == (0.0, 0.0, True)


def test_there_must_be_a_start_to_keep():
    with pytest.raises(ValueError, match="keep_start needs init, the encoder to keep. Received: init=None"):
        Training(keep_start=True)


def test_rates_of_levels():
    assert level_ratios([1, 2, 3], 0.5) == [0.25, 0.5, 1.0]
    assert level_ratios([1], 0.5) == [1.0]


@pytest.mark.parametrize("module", [rotation, classifier])
def test_lower_layers_have_lower_rates(module):
    options = {"classes": 10} if module is classifier else {}
    settings = module.Settings(**VIT, **options, layer_decay=0.5)
    splits = small_digits()
    objective = module.build(settings, splits.train.spec())
    run.compile_objective(objective, Training(steps=10, batch_size=16, learning_rate=0.1), splits)
    groups = objective.optimizer_groups()
    rates = [round(float(optimizer.learning_rate), 6) for optimizer, _ in groups]
    assert rates == [0.1, 0.025, 0.05, 0.1]
    levels = depth_groups(objective.encoder)
    assert [[v.path for v in variables] for _, variables in groups[1:]] == [[v.path for v in own] for own in levels]
    assert sum(len(variables) for _, variables in groups) == len(objective.trainable_variables)
    plain = module.build(dataclasses.replace(settings, layer_decay=1.0), splits.train.spec())
    run.compile_objective(plain, Training(steps=10, batch_size=16), splits)
    assert len(plain.optimizer_groups()) == 1
