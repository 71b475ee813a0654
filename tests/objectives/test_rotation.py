"""Rotation: rotated images, their classes, and the saved encoder."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.data.sources import load
from ssl_keras.data.splits import from_arrays
from ssl_keras.downstream.finetune import Settings as FinetuneSettings
from ssl_keras.downstream.finetune import finetune
from ssl_keras.encoders import load_classifier
from ssl_keras.encoders.initialize import initialize
from ssl_keras.engine.config import Training
from ssl_keras.objectives import rotation
from ssl_keras.objectives.rotation import Rotation, rotate
from ssl_keras.training.pretrain import pretrain

SMALL = {"network": "cnn", "width": 4}


def test_rotated_images_equal_numpy(rng):
    image = rng.random((3, 5, 5, 2), np.float32)
    for turns, part in enumerate(tf.split(rotate(tf.constant(image)), 4)):
        np.testing.assert_array_equal(part, np.rot90(image, turns, (1, 2)))


def test_turns_are_the_classes(rng):
    """A head that finds the brightest corner predicts every rotation of an image with one bright corner."""
    image = np.zeros((6, 8, 8, 1), np.float32)
    image[:, :2, :2] = 1
    corners = tf.constant(np.stack([np.rot90(image[0, ..., 0], k).ravel() for k in range(4)], 1))
    inputs = keras.Input((8, 8, 1))
    encoder = keras.Model(inputs, keras.layers.Flatten()(inputs))
    head = keras.Sequential([keras.Input((64,)), keras.layers.Dense(4, use_bias=False)])
    head.layers[0].kernel.assign(100 * corners)
    objective = Rotation(rotation.Settings(), encoder, head)
    total, count = objective.batch_loss({"image": tf.constant(image)}, training=False)
    assert float(objective.accuracy.result()) == 1.0
    assert float(total) == pytest.approx(0, abs=1e-6)
    assert float(count) == 6


def test_images_that_are_not_square_are_refused(rng):
    oblong = from_arrays(rng.integers(0, 256, (50, 8, 10), np.uint8))
    with pytest.raises(ValueError, match="Expected square images"):
        pretrain("rotation", rotation.Settings(**SMALL), Training(steps=2, batch_size=8), data=oblong)


@pytest.fixture
def quick():
    return Training(steps=60, eval_every=30, batch_size=64, learning_rate=3e-3, report_every=0)


@pytest.mark.fit
@pytest.mark.slow  # the contract overfits it, and test_flow.py fine-tunes
def test_it_learns_turns_and_goes_on_from_them(quick):
    splits = load("digits", 16)
    unlabeled = splits._replace(
        **{name: dataclasses.replace(s, arrays={"image": s.arrays["image"]}) for name, s in splits._asdict().items()}
    )
    outcome = pretrain("rotation", rotation.Settings(**SMALL), quick, data=unlabeled)
    assert outcome["test_accuracy"] > 0.4  # chance is 0.25
    settings, prepared = rotation.prepare(rotation.Settings(), unlabeled, init=outcome["folder"])
    again = rotation.build(settings, prepared.train.spec())
    assert initialize(again.encoder, outcome["folder"], again.head) == ([], [])  # network and head are loaded
    tuned = finetune(
        outcome["folder"],
        FinetuneSettings(
            labels_per_class=20, encoder_lr_ratio=1.0, shift=0.05, label_smoothing=0.1, mixup=0.2, frozen_steps=10
        ),
        dataclasses.replace(quick, run="tuned", steps=150, eval_every=75, learning_rate=1e-2),
        data=splits,
    )
    assert tuned["test_accuracy"] > 0.4  # chance is 0.1
    assert load_classifier(tuned["folder"]).output_shape == (None, 10)
