"""The classifier: labels, label smoothing, mixup, and the saved encoder."""

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.sources import load
from ssl_keras.data.splits import few_labels, from_arrays
from ssl_keras.downstream.finetune import Settings as FinetuneSettings
from ssl_keras.downstream.finetune import finetune
from ssl_keras.encoders import load_classifier, load_encoder
from ssl_keras.engine.config import Training
from ssl_keras.networks.dropout import current_masks, drop, dropout
from ssl_keras.objectives import classifier
from ssl_keras.objectives.classifier import Classifier, Settings
from ssl_keras.training.callbacks import read_metrics
from ssl_keras.training.optimizer import make
from ssl_keras.training.pretrain import pretrain

SMALL = {"network": "cnn", "width": 4}


def test_smoothing_equals_keras(rng):
    logits, label = rng.normal(size=(9, 5)).astype(np.float32), rng.integers(0, 5, 9)
    identity = keras.Model(*[keras.Input((5,), name="x")] * 2)
    objective = Classifier(identity, identity, label_smoothing=0.2)
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2, reduction="none")
    one_hot = np.eye(5, dtype=np.float32)[label]
    np.testing.assert_allclose(objective._cross_entropy(label, logits, True), theirs(one_hot, logits), rtol=1e-5)
    plain = keras.losses.CategoricalCrossentropy(from_logits=True, reduction="none")
    np.testing.assert_allclose(objective._cross_entropy(label, logits, False), plain(one_hot, logits), rtol=1e-5)


def test_mixup_mixes_neighbors_by_shares_from_beta(rng):
    source = load("digits", 8).train
    settings = Settings(classes=10, mixup=0.4, **SMALL)
    objective = classifier.build(settings, source.spec())
    batch = {k: tf.constant(v) for k, v in Batches(source, 400).numpy(0).items()}
    mixed = objective.preprocess(batch, BatchRandom(0, 0, 0, 400))
    share, image = mixed["share"].numpy(), batch["image"].numpy() / 255
    partner = np.arange(400) ^ 1
    expected = share[:, None, None, None] * image + (1 - share)[:, None, None, None] * image[partner]
    np.testing.assert_allclose(mixed["image"], expected, atol=1e-5)
    np.testing.assert_array_equal(mixed["partner"], batch["label"].numpy()[partner])
    assert scipy.stats.kstest(share, scipy.stats.beta(0.4, 0.4).cdf).pvalue > 0.01
    # The loss of a mixed image is mixed with the same weight.
    total, _ = objective.batch_loss(mixed, training=False)
    logits = objective.head(objective.encoder(mixed["image"], training=False))
    of = lambda label: tf.nn.sparse_softmax_cross_entropy_with_logits(label, logits).numpy()  # noqa: E731
    expected = np.sum(share * of(mixed["label"]) + (1 - share) * of(mixed["partner"]))
    assert float(total) == pytest.approx(expected, rel=1e-4)
    odd = objective.preprocess({k: v[:3] for k, v in batch.items()}, BatchRandom(0, 0, 0, 3))
    np.testing.assert_array_equal(odd["partner"], batch["label"].numpy()[[1, 0, 2]])  # the last has no neighbor


def test_dropout_is_of_features_and_in_training_only(rng):
    identity = keras.Model(*[keras.Input((5,), name="x")] * 2)
    objective, plain = (Classifier(identity, identity, dropout=rate) for rate in (0.5, 0.0))
    data = {"image": tf.constant(rng.random((8, 5, 1, 1)), tf.float32), "label": tf.range(8) % 5}
    flat = lambda batch: batch | {"image": tf.reshape(batch["image"], (-1, 5))}  # noqa: E731
    batch = flat(objective.preprocess(data, BatchRandom(0, 0, 0, 8)))
    with dropout(batch, 0.5):
        mask = drop(tf.ones((8, 5)), current_masks(True), "head")
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], batch["image"] * mask)
    np.testing.assert_allclose(objective.batch_loss(batch, training=True)[0], tf.reduce_sum(expected), rtol=1e-5)
    held_out = objective.batch_loss(batch, training=False)[0]
    np.testing.assert_array_equal(held_out, plain.batch_loss(batch, training=True)[0])
    assert "dropout_keys" not in objective.preprocess_eval(data, None)
    assert "dropout_keys" not in plain.preprocess(data, BatchRandom(0, 0, 0, 8))
    with pytest.raises(ValueError, match="label_smoothing and dropout. Received: dropout=0.1"):
        FinetuneSettings(unlabeled="digits", dropout=0.1)


def test_labels_need_their_number():
    with pytest.raises(ValueError, match="The number of classes is not set"):
        classifier.build(Settings(**SMALL), load("digits", 8).train.spec())


def test_what_is_evaluated_is_not_augmented():
    source = load("digits", 8).train
    objective = classifier.build(Settings(classes=10, crop=0.2, mixup=1.0, **SMALL), source.spec())
    batch = {k: tf.constant(v) for k, v in Batches(source, 8).numpy(0).items()}
    assert objective.preprocess_eval(batch, BatchRandom(0, 0, 0, 8)) is batch


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be"),
        ({"mixup": -1.0}, "mixup must be"),
        ({"network": "vgg"}, "network must be one of"),
        ({"width": -1}, "width must be"),
    ],
)
def test_settings_are_checked(bad, message):
    with pytest.raises(ValueError, match=message):
        Settings(**bad)


@pytest.mark.fit
def test_data_without_labels_are_refused(rng):
    unlabeled = from_arrays(rng.integers(0, 256, (50, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="has no labels"):
        pretrain("classifier", Settings(**SMALL), Training(steps=2, batch_size=8), data=unlabeled)


@pytest.fixture
def quick():
    return Training(steps=60, eval_every=30, batch_size=64, learning_rate=3e-3, tensorboard=False)


@pytest.mark.fit
def test_the_head_is_saved(quick):
    splits = load("digits", 16)
    training = dataclasses.replace(quick, steps=150, eval_every=50)
    outcome = pretrain("classifier", Settings(shift=0.1, width=8), training, data=splits)
    model = load_classifier(outcome["folder"])
    predicted = model.predict(splits.test.column("image") / np.float32(255), verbose=0).argmax(1)
    assert np.mean(predicted == splits.test.column("label")) == pytest.approx(outcome["test_accuracy"])
    assert outcome["test_accuracy"] > 0.5


@pytest.mark.fit
def test_the_weights_of_the_highest_accuracy_are_kept(quick):
    """Of 20 labeled images the loss on others soon rises, while the accuracy still does."""
    splits = load("digits", 16)
    splits = splits._replace(train=few_labels(splits.train, 2, 0))
    training = dataclasses.replace(quick, steps=80, eval_every=4, batch_size=20, learning_rate=1e-2)
    outcome = pretrain("classifier", Settings(**SMALL), training, data=splits)
    rows = read_metrics(pathlib.Path(outcome["folder"], "metrics.csv"))
    accuracies, losses = ([float(row[f"val_{name}"]) for row in rows] for name in ("accuracy", "loss"))
    steps = [int(row["step"]) for row in rows]
    best = max(step for step, accuracy in zip(steps, accuracies) if accuracy == max(accuracies))
    assert outcome["best_step"] == best
    assert outcome["best_val_accuracy"] == max(accuracies)
    assert steps[int(np.argmin(losses))] != best  # the lowest loss would have kept others


@pytest.mark.fit
def test_the_encoder_stands_still_at_first():
    splits = load("digits", 16)
    few = few_labels(splits.train, 4, 0)
    head = keras.Sequential([keras.Input((16,)), keras.layers.Dense(10)])
    objective = Classifier(classifier.encoder(Settings(**SMALL), few.spec()).build(), head)
    variables = objective.encoder.trainable_variables
    training = Training(learning_rate=1e-2, schedule="cosine")
    objective.compile(make(training, 8, []), make(training, 8, variables, 0.1, after=5))
    before = [[v.numpy() for v in part] for part in (variables, head.variables)]
    batches = Batches(few, 8, preprocess=objective.preprocess)
    objective.fit(batches.dataset(), steps_per_epoch=5, verbose=0)
    assert all((v.numpy() == b).all() for v, b in zip(variables, before[0]))
    assert all((v.numpy() != b).any() for v, b in zip(head.variables, before[1]))
    objective.fit(batches.dataset(5), steps_per_epoch=1, verbose=0)
    assert all((v.numpy() != b).any() for v, b in zip(variables, before[0]))


@pytest.mark.fit
def test_augmentation_of_text_is_refused():
    from ssl_keras.data.readers import text

    splits = text.from_texts(["one two", "three four"] * 40, [0, 1] * 40, classes=("a", "b"))
    with pytest.raises(ValueError, match="takes images"):
        finetune("autoencoder-fashion_mnist", FinetuneSettings(crop=0.5), Training(steps=2), data=splits)


@pytest.mark.slow
def test_supervised_fashion_mnist(fashion_mnist):
    """Long enough to see that it learns; the README's number takes longer."""
    outcome = pretrain(
        "classifier",
        Settings(flip=True, shift=0.1),
        dataclasses.replace(classifier.DEFAULTS, epochs=2, tensorboard=False),
        data=fashion_mnist,
    )
    assert outcome["test_accuracy"] > 0.87
    assert load_encoder(outcome["folder"]).output_shape == (None, 128)
