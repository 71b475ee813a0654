"""The switches of fine-tuning: probe initialization, layer-wise decay, moving average, class weights."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_keras import encoders
from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import load
from ssl_keras.data.splits import few_labels
from ssl_keras.downstream import finetune
from ssl_keras.engine.config import Training
from ssl_keras.engine.moving_average import warmed_up
from ssl_keras.evaluation.features import compile_network, extract_features
from ssl_keras.evaluation.probes import HEAD_STRENGTH, fit_probe, linear_layer
from ssl_keras.modalities.classification import Pair
from ssl_keras.networks import Network, copy_of, depth_groups, description
from ssl_keras.networks.dense import classifier_head
from ssl_keras.objectives.classifier import Classifier


@pytest.mark.parametrize("classes", [2, 4])
def test_a_linear_layer_equals_the_probe(rng, classes):
    x, y = rng.normal(2, 3, size=(60, 5)), rng.integers(0, classes, 60)
    x[:, 0] += y
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=HEAD_STRENGTH, max_iter=300, tol=1e-3)).fit(x, y)
    kernel, bias = linear_layer(x, y, classes)
    logits = x @ kernel + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, probe.predict_proba(x), atol=1e-5)


def test_a_class_without_examples_is_the_least_likely(rng):
    x, y = rng.normal(size=(30, 5)), rng.integers(0, 2, 30)
    kernel, bias = linear_layer(x, 2 * y, 4)
    assert set((x @ kernel + bias).argsort(1)[:, :2].ravel()) == {1, 3}


def test_a_feature_of_rounding_errors_gets_no_weight(rng):
    """A public encoder has a feature of 1e-32: scaled to a deviation of 1, its weight would be 1e30."""
    x, y = rng.normal(size=(60, 5)).astype(np.float32), rng.integers(0, 2, 60)
    x[:, 0] += 3 * y
    dead = x.copy()
    dead[:, 4] *= 1e-32
    kernel, bias = linear_layer(dead, y, 2)
    assert np.abs(kernel[4]).max() < 1e-6
    without, its_bias = linear_layer(x[:, :4], y, 2)
    np.testing.assert_allclose(kernel[:4], without, atol=1e-4)
    np.testing.assert_allclose(bias, its_bias, atol=1e-4)
    near = dead.copy()
    near[:, 4] = 1e-32
    probe, _ = fit_probe(dead, y, near, y)
    np.testing.assert_array_equal(probe.predict(dead), probe.predict(near))


@pytest.mark.parametrize(
    ("network", "levels"),
    [
        (Network("cnn", image_shape=(16, 16, 1), width=4), ["stem", "stage_0", "stage_1", "stage_2"]),
        (Network("dense", image_shape=(4, 4, 1), widths=(8, 6)), ["dense_0", "dense_1"]),
        (
            Network(
                "transformer", vocabulary=9, context=8, layers=2, heads=2, width=8, architecture="bert", causal=False
            ),
            ["embeddings", "block_0", "block_1"],
        ),
    ],
)
def test_levels_of_depth(network, levels):
    graph = network.build()
    groups = depth_groups(graph)
    assert len(groups) == len(levels)
    for group, level in zip(groups, levels):
        assert level in group[0].path
    assert {id(v) for group in groups for v in group} == {id(v) for v in graph.trainable_variables}


def test_a_copy_has_the_same_outputs_and_weights_of_its_own(rng):
    own = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for graph in (own, Network("dense", image_shape=(1, 3, 1), widths=(4,)).build()):
        copy = copy_of(graph)
        x = rng.random((5, *graph.input_shape[1:])).astype(np.float32)
        np.testing.assert_array_equal(copy(x), graph(x))
        assert not {id(v) for v in copy.variables} & {id(v) for v in graph.variables}
        assert description(copy) == description(graph)


def test_layer_decay_lowers_the_rate_towards_the_input():
    pair = Pair(Network("cnn", image_shape=(16, 16, 1), width=4).build(), classifier_head(16, 3))
    training = Training(learning_rate=1e-2)
    settings = finetune.Settings(encoder_lr_ratio=0.5, layer_decay=0.1)
    optimizers = finetune._optimizers(pair, training, 10, settings)
    rates = [float(optimizer.learning_rate) for optimizer in optimizers]
    assert rates == pytest.approx([1e-2, 5e-6, 5e-5, 5e-4, 5e-3])  # the head, then from the stem to the last stage
    objective = Classifier(*pair)
    objective.compile(*optimizers)
    groups = objective.optimizer_groups()
    assert [optimizer is each for (optimizer, _), each in zip(groups, optimizers)] == [True] * 5
    assert "stem" in groups[1][1][0].path
    assert "stage_2" in groups[-1][1][0].path
    plain = finetune._optimizers(pair, training, 10, dataclasses.replace(settings, layer_decay=1.0))
    assert [float(optimizer.learning_rate) for optimizer in plain] == pytest.approx([1e-2, 5e-3])


@pytest.mark.fit
def test_the_moving_average_is_evaluated_and_saved():
    digits = few_labels(load("digits", 8).train, 4, 0)
    encoder = Network("dense", image_shape=(8, 8, 1), widths=(6,)).build()
    objective = Classifier(encoder, classifier_head(6, 10), ema_decay=0.5)
    objective.compile(keras.optimizers.SGD(0.5))
    batches = Batches(digits, 16, preprocess=objective.preprocess)
    expected = [v.numpy() for pair in objective.student for v in pair.weights]
    for step in range(1, 6):
        objective.fit(batches.dataset(step - 1), steps_per_epoch=1, verbose=0)
        decay = float(warmed_up(0.5, step - 1))
        weights = [v.numpy() for pair in objective.student for v in pair.weights]
        expected = [decay * mean + (1 - decay) * value for mean, value in zip(expected, weights)]
    averaged = [v.numpy() for graph in (objective.encoder, objective.head) for v in graph.weights]
    for mean, found in zip(expected, averaged):
        np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-7)
    assert any(np.abs(mean - value).max() > 1e-3 for mean, value in zip(averaged, weights))
    logits = extract_features(compile_network(objective.encoder, objective.head), digits)
    found = objective.evaluate(Batches(digits, 40, shuffle=False).dataset(0, 1), steps=1, verbose=0, return_dict=True)
    assert found["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == digits.column("label")))


def test_class_weights_give_each_class_the_same_sum():
    digits = load("digits", 8).train
    few = digits.take(np.flatnonzero(digits.column("label") < 3)[:40])
    weights, counts = finetune.class_weights(few), np.bincount(few.column("label"), minlength=10)
    np.testing.assert_allclose((weights * counts)[:3], 40 / 3)
    assert np.isfinite(weights).all()


def test_class_weights_multiply_the_loss(rng):
    image, label = rng.random((6, 4, 4, 1)).astype(np.float32), np.array([0, 0, 0, 0, 1, 2])
    encoder = Network("dense", image_shape=(4, 4, 1), widths=(5,)).build()
    head = classifier_head(5, 3)
    batch = {"image": tf.constant(image), "label": tf.constant(label)}
    plain, weighted = Classifier(encoder, head), Classifier(encoder, head, class_weights=(0.5, 2.0, 2.0))
    each = [
        float(plain.batch_loss({name: column[i : i + 1] for name, column in batch.items()}, training=True)[0])
        for i in range(6)
    ]
    expected = np.sum(np.array(each) * [0.5, 0.5, 0.5, 0.5, 2, 2])
    assert float(weighted.batch_loss(batch, training=True)[0]) == pytest.approx(expected, rel=1e-5)
    assert float(weighted.batch_loss(batch, training=False)[0]) == pytest.approx(np.sum(each), rel=1e-5)


@pytest.mark.fit
def test_finetuning_with_every_switch(tmp_path, caplog):
    digits = load("digits", 8)
    encoder = Network("dense", image_shape=(8, 8, 1), widths=(32, 16)).build()  # has no batch statistics
    encoders.save_encoder(tmp_path / "small", encoder, spec=digits.train.spec())
    settings = finetune.Settings(
        labels_per_class=3, probe_init=True, layer_decay=0.5, ema_decay=0.9, class_weights=True, encoder_lr_ratio=1e-9
    )
    training = Training(steps=2, batch_size=16, learning_rate=1e-9, warmup=2, tensorboard=False, run="all")
    outcome = finetune.finetune(tmp_path / "small", settings, training, data=digits)
    assert caplog.text.count("warmup is 2 steps, but the run has only 2") == 1  # for all optimizers together
    # Nothing has moved yet: the head is the probe, on no more validation labels than there are training labels.
    few = few_labels(digits.train, 3, 0)
    layer = linear_layer(extract_features(encoder, few), few.column("label"), 10)
    logits = extract_features(encoder, digits.test) @ layer[0] + layer[1]
    expected = np.mean(logits.argmax(1) == digits.test.column("label"))
    assert outcome["test_accuracy"] == pytest.approx(expected, abs=0.01)
    assert (30 * outcome["val_accuracy"]) % 1 == pytest.approx(0, abs=1e-4)
