"""FreeMatch: thresholds, pseudo-labels, views, and semi-supervised fine-tuning."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.batches import Batches
from ssl_keras.data.readers.text import from_texts
from ssl_keras.data.sources import load
from ssl_keras.data.splits import from_arrays
from ssl_keras.downstream import finetune
from ssl_keras.engine.config import Training
from ssl_keras.networks import Network
from ssl_keras.objectives import freematch
from ssl_keras.objectives.freematch import MOMENTUM, Confidence, FreeMatch, Settings

SMALL = {"network": "cnn", "width": 4, "unlabeled_ratio": 2}


def identity(classes):
    """A network whose features are its logits: images (1, 1, Y)."""
    image = keras.Input((1, 1, classes))
    encoder = keras.Model(image, keras.layers.Flatten()(image))
    features = keras.Input((classes,))
    head = keras.Sequential([features, keras.layers.Dense(classes, kernel_initializer="identity")])
    return encoder, head


def reference(probabilities, weight, threshold, mean):
    """FreeMatch's thresholds (section 4.1), example by example."""
    labels, used, sums, confidence = [], [], np.zeros(len(mean)), 0.0
    for p, w in zip(probabilities, weight):
        best = int(np.argmax(p))
        labels.append(best)
        used.append(float(p[best] >= threshold * mean[best] / mean.max()))
        sums, confidence = sums + w * p, confidence + w * p[best]
    threshold = MOMENTUM * threshold + (1 - MOMENTUM) * confidence / weight.sum()
    return labels, used, threshold, MOMENTUM * mean + (1 - MOMENTUM) * sums / weight.sum()


def test_confidence_equals_a_slow_loop(rng):
    layer, threshold, mean = Confidence([0.25] * 4), 0.6, np.full(4, 0.25)
    layer.threshold.assign(threshold)
    for _ in range(40):
        probabilities = rng.dirichlet([2.0, 1.0, 0.5, 0.2], 16).astype(np.float32)
        weight = rng.integers(0, 3, 16).astype(np.float32)
        label, used = layer.pseudo_labels(probabilities)
        layer.update(probabilities, label, used, weight)
        expected, expected_used, threshold, mean = reference(probabilities, weight, threshold, mean)
        np.testing.assert_array_equal(label, expected)
        np.testing.assert_array_equal(used, expected_used)
        np.testing.assert_allclose(layer.threshold.numpy(), threshold, rtol=1e-5)
        np.testing.assert_allclose(layer.mean.numpy(), mean, rtol=1e-4)
    assert 0 < np.mean(expected_used) < 1  # the last batch tells both


def test_the_excess_is_zero_until_a_class_swallows_the_others():
    layer = Confidence([0.25] * 4)
    assert float(layer.excess()) == pytest.approx(0)
    probabilities, ones = np.tile(np.float32([0.97, 0.01, 0.01, 0.01]), (8, 1)), np.ones(8, np.float32)
    for _ in range(500):
        layer.update(probabilities, np.zeros(8, np.int32), ones, ones)
    assert float(layer.excess()) == pytest.approx(0.75, abs=0.01)
    assert float(layer.threshold) == pytest.approx(0.97, abs=0.01)


def test_the_loss_equals_its_equation(rng):
    """With identical views, the loss is that of the labels and of the used pseudo-labels, summed with its weight."""
    settings = dataclasses.replace(Settings(**SMALL), unlabeled_weight=0.5)
    objective = FreeMatch(*identity(3), (0.2, 0.3, 0.5), settings)
    objective.confidence.threshold.assign(0.6)
    image, weak, strong = (rng.normal(size=(4, *axes, 1, 1, 3)).astype(np.float32) for axes in ((), (2,), (2,)))
    weight, label = np.float32([1, 0, 2, 1]), np.array([0, 1, 2, 0])
    batch = {"image": image, "weak": weak, "strong": strong, "weight": weight, "label": label}
    softmax = lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)  # noqa: E731
    p, s = (softmax(x.reshape(8, 3).astype(np.float64)) for x in (weak, strong))
    pseudo, used, *_ = reference(p, np.repeat(weight, 2), 0.6, np.full(3, 1 / 3))
    assert 0 < sum(used) < 8
    unlabeled = -np.log(s[np.arange(8), pseudo]) * used
    labeled = -np.log(softmax(image.reshape(4, 3).astype(np.float64))[np.arange(4), label])
    expected = np.sum(weight * (labeled + 0.5 * unlabeled.reshape(4, 2).mean(1)))
    total, count = objective.batch_loss({k: tf.constant(v) for k, v in batch.items()})
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(count) == 4


def test_weak_views_get_no_gradient(rng):
    objective = FreeMatch(*identity(3), (1 / 3,) * 3, Settings(**SMALL))
    objective.confidence.threshold.assign(0.0)
    batch = {
        "image": tf.constant(rng.normal(size=(2, 1, 1, 3)), tf.float32),
        "label": tf.constant([0, 1]),
        "strong": tf.constant(rng.normal(size=(2, 2, 1, 1, 3)), tf.float32),
    }
    weak = tf.Variable(tf.random.stateless_normal((2, 2, 1, 1, 3), (1, 2)))
    with tf.GradientTape() as tape:
        total, _ = objective.batch_loss(batch | {"weak": tf.convert_to_tensor(weak)})
    assert tape.gradient(total, weak) is None


def test_views_depend_on_the_position_only():
    settings, splits = freematch.prepare(Settings(**SMALL, labels_per_class=2), load("digits", 8))
    objective = freematch.build(settings, splits.train.spec())
    whole = next(iter(Batches(splits.train, 8, preprocess=objective.preprocess).dataset(3, 4)))
    half = next(iter(Batches(splits.train, 8, preprocess=objective.preprocess)._rows(3, 4, 4, 4)))
    for view in ("image", "weak", "strong"):
        np.testing.assert_allclose(half[view], whole[view][4:], atol=1e-6)
    assert "unlabeled" not in whole
    assert float(tf.reduce_mean(tf.abs(whole["weak"] - whole["strong"]))) > 0.05
    assert objective.weak == freematch.WEAK  # without augmentation settings
    flipped = dataclasses.replace(settings, flip=True)
    assert freematch.build(flipped, splits.train.spec()).weak == Augmentation(flip=True)


def test_warnings():
    objective = FreeMatch(*identity(3), (1 / 3,) * 3, Settings(**SMALL))
    quiet = {"used_fraction": 0.5, "excess": 0.05}
    assert objective.warnings(quiet | {"used_fraction": 0.0}) == []  # too early to tell
    objective.step.assign(freematch.MIN_STEPS)
    assert objective.warnings(quiet) == []
    assert "above the threshold" in objective.warnings(quiet | {"used_fraction": 0.001})[0]
    assert "confirmation bias" in objective.warnings(quiet | {"excess": 0.5})[0]


def test_a_class_without_labels_is_refused(rng):
    image, label = rng.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 2
    splits = from_arrays(image, label, classes=("one", "two", "three"))
    with pytest.raises(ValueError, match="Received: none of three"):
        freematch.frequencies(splits.train)
    assert sum(freematch.frequencies(dataclasses.replace(splits.train, classes=("one", "two")))) == pytest.approx(1)


@pytest.mark.fit
def test_finetuning_refuses_labels_and_images_that_do_not_fit(tmp_path, rng):
    digits = load("digits", 16)
    encoder = Network("cnn", image_shape=(16, 16, 1), width=4).build()
    encoders.save_encoder(tmp_path / "small", encoder, spec=digits.train.spec())
    image, label = rng.integers(0, 256, (60, 16, 16), np.uint8), np.arange(60) % 2
    three = from_arrays(image, label, classes=("one", "two", "three"))
    with pytest.raises(ValueError, match="Received: none of three"):
        finetune.finetune(tmp_path / "small", finetune.Settings(unlabeled="digits"), data=three)
    two = from_arrays(image, label)
    with pytest.raises(ValueError, match=r"Expected unlabeled images \(16, 16, 1\) uint8. Received: \(28, 28, 1\)"):
        finetune.finetune(tmp_path / "small", finetune.Settings(unlabeled="digits"), Training(image_size=28), data=two)
    with pytest.raises(ValueError, match="takes images"):
        finetune.finetune(tmp_path / "small", finetune.Settings(unlabeled="pydoc"), data=two)


@pytest.mark.fit
@pytest.mark.parametrize("scratch", [False, True])
def test_finetuning_with_unlabeled_images(tmp_path, scratch):
    digits = load("digits", 16)
    encoder = Network("cnn", image_shape=(16, 16, 1), width=4).build()
    encoders.save_encoder(tmp_path / "small", encoder, spec=digits.train.spec())
    settings = finetune.Settings(
        labels_per_class=5, unlabeled="digits", scratch=scratch, probe_init=not scratch, unlabeled_ratio=2
    )
    training = Training(steps=4, batch_size=16, eval_every=2, tensorboard=False, image_size=16, run=f"semi-{scratch}")
    outcome = finetune.finetune(tmp_path / "small", settings, training, data=digits)
    assert {"test_accuracy", "test_pseudo_accuracy", "used_fraction", "threshold"} <= outcome.keys()
    assert not {"pseudo_accuracy", "val_threshold", "test_threshold"} & outcome.keys()  # not measured there
    about = json.loads((tmp_path / f"runs/semi-{scratch}/data.json").read_text())["unlabeled"]
    held_out = sum(map(len, digits[1:]))
    assert about["data"] == "digits"
    assert about["examples"] == sum(map(len, digits)) - about["copies_of_held_out"] <= len(digits.train)
    assert about["copies_of_held_out"] >= held_out
    assert outcome["step"] == outcome["best_step"] == 4  # few labels cannot choose among weights
    summary = json.loads((tmp_path / f"runs/semi-{scratch}/summary.json").read_text())
    model = encoders.load_classifier(outcome["folder"])
    predicted = model.predict(digits.test.column("image") / np.float32(255), verbose=0).argmax(1)
    assert np.mean(predicted == digits.test.column("label")) == pytest.approx(summary["test_accuracy"])


def test_settings_that_contradict_each_other():
    with pytest.raises(ValueError, match="Received: freeze=True"):
        finetune.Settings(unlabeled="digits", freeze=True)
    with pytest.raises(ValueError, match="scratch or probe_init"):
        finetune.Settings(scratch=True, probe_init=True)


@pytest.mark.fit
def test_unlabeled_images_are_for_encoders_of_images():
    with pytest.raises(ValueError, match="unlabeled is for images"):
        finetune.finetune(
            "masked_lm-trec", finetune.Settings(unlabeled="digits"), data=from_texts(["a b", "c d"] * 20, [0, 1] * 20)
        )
