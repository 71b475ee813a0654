"""Contrastive learning: the views, the losses, and the learned features."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from ssl_keras import encoders, losses
from ssl_keras.cli import main
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.sources import load
from ssl_keras.downstream import grids
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import load_encoder
from ssl_keras.engine.config import Training
from ssl_keras.evaluation import probes
from ssl_keras.evaluation.features import extract_features
from ssl_keras.networks.dense import dense_encoder
from ssl_keras.objectives import contrastive, rotation
from ssl_keras.objectives.contrastive import Settings
from ssl_keras.training.pretrain import pretrain

SMALL = {"width": 8, "projection": (32, 16)}


def test_two_different_views_of_each_image(rng):
    objective = contrastive.build(Settings(**SMALL), {"image": ((16, 16, 1), tf.uint8)})
    image = tf.constant(rng.integers(0, 256, (8, 16, 16, 1), np.uint8))
    batch = objective.preprocess({"image": image}, BatchRandom(0, 0, 0, 8))
    assert batch["view_a"].shape == batch["view_b"].shape == image.shape
    assert np.abs(batch["view_a"] - batch["view_b"]).max((1, 2, 3)).min() > 0.01
    again = objective.preprocess({"image": image}, BatchRandom(0, 0, 0, 8))
    np.testing.assert_array_equal(batch["view_a"], again["view_a"])
    assert [len(row) for row in objective.report(batch, None, None).images["views"]] == [8] * 3


def test_small_and_noisy_views(rng):
    """Small views have half the side, and parts of at most the area of the whole ones."""
    options = {"loss": "lejepa", "local_views": 3, "noise": 0.1, "crop": 0.5, "local_crop": 0.1}
    objective = contrastive.build(Settings(**SMALL, **options), {"image": ((16, 17, 1), tf.uint8)})
    image = tf.constant(rng.integers(0, 256, (8, 16, 17, 1), np.uint8))
    batch = objective.preprocess({"image": image}, BatchRandom(0, 3, 0, 8))
    assert batch["local_2"].shape == (8, 8, 9, 1)
    half = objective.preprocess({"image": image[4:]}, BatchRandom(0, 3, 4, 4))
    for name in ("view_a", "local_0", "local_2", "slices"):
        np.testing.assert_allclose(batch[name][4:], half[name], atol=1e-5)
    np.testing.assert_array_equal(batch["slices"], [[0, 3]] * 8)
    assert np.abs(batch["local_0"] - batch["local_1"]).max((1, 2, 3)).min() > 0.01
    loss, count = objective.batch_loss(batch, training=True)
    assert np.isfinite(loss)
    assert float(count) == 8
    assert [len(row) for row in objective.report(batch, None, None).images["small views"]] == [8] * 3


@pytest.mark.parametrize("loss", ["nt_xent", "vicreg"])
def test_small_views_are_compared_with_both_whole_ones(loss, rng):
    objective = contrastive.build(Settings(**SMALL, loss=loss, local_views=1), {"image": ((16, 16, 1), tf.uint8)})
    image, small = (tf.constant(rng.random((8, side, side, 1)), tf.float32) for side in (16, 8))
    other = tf.reverse(image, [2])
    total, _ = objective.batch_loss({"view_a": image, "view_b": other, "local_0": small}, training=False)
    a, b, c = (objective.projector(objective.encoder(x, training=False), training=False) for x in (image, other, small))
    one = tf.ones(8)
    expected = [objective._compare(*pair, one) for pair in ((a, b), (a, c), (b, c))]
    np.testing.assert_allclose(total, tf.reduce_sum(tf.add_n(expected)) / 3, rtol=1e-5)


def test_a_collapse_is_warned_of():
    objective = contrastive.build(Settings(**SMALL), {"image": ((16, 16, 1), tf.uint8)})
    (warning,) = objective.warnings({"val_alignment": 1e-5, "val_top1": 0.01})
    assert "the encoder has collapsed" in warning
    assert objective.warnings({"val_alignment": 1e-5, "val_top1": 0.9}) == []
    assert objective.warnings({"val_alignment": 0.3, "val_top1": 0.01}) == []


@pytest.mark.parametrize("loss", contrastive.LOSSES)
def test_top1_and_alignment_of_equal_views(loss, rng):
    objective = contrastive.build(Settings(loss=loss, **SMALL), {"image": ((16, 16, 1), tf.uint8)})
    image = tf.constant(rng.random((8, 16, 16, 1), np.float32))
    slices = tf.zeros((8, 2), tf.int64)
    objective.batch_loss({"view_a": image, "view_b": image, "slices": slices}, training=False)
    assert float(objective.top1.result()) == 1.0
    assert float(objective.alignment.result()) == pytest.approx(0, abs=1e-6)


def test_local_global_compares_the_last_two_stages():
    objective = contrastive.build(Settings(loss="local_global", **SMALL), {"image": ((28, 28, 1), tf.uint8)})
    assert [x.shape[-1] for x in objective.trunk.outputs] == [32, 16, 32]
    assert len(objective.local_projectors) == 2
    with pytest.raises(ValueError, match="Expected a graph with layers stage_0"):
        contrastive.build(Settings(loss="local_global"), {"image": ((28, 28, 1), tf.uint8)}, dense_encoder((28, 28, 1)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"loss": "triplet"}, "loss must be one of nt_xent"),
        ({"temperature": 0.0}, "temperature must be more than 0"),
        ({"projection": ()}, "projection must be"),
        ({"crop": 0.0}, "crop must be"),
        ({"local_views": 1, "loss": "local_global"}, "local_views must be 0 for the loss local_global. Received: 1"),
        ({"local_views": 1, "local_crop": 0.5}, "local_crop must be at most crop. Received: local_crop=0.5, crop=0.3"),
    ],
)
def test_settings_are_checked(bad, message):
    with pytest.raises(ValueError, match=message):
        Settings(**bad)


@pytest.mark.slow  # the contract overfits each loss
@pytest.mark.fit
@pytest.mark.parametrize("loss", contrastive.LOSSES)
def test_it_learns_features_better_than_random_ones(loss):
    splits = load("digits", 16)
    training = Training(steps=150, eval_every=150, batch_size=128, learning_rate=3e-3, tensorboard=False)
    outcome = pretrain("contrastive", Settings(loss=loss, flip=False, **SMALL), training, data=splits)
    assert outcome["test_top1"] > 0.1  # chance is 1/128
    fresh = contrastive.encoder(Settings(**SMALL), splits.train.spec()).build()
    accuracy = []
    for network in (load_encoder(outcome["folder"]), fresh):
        train, test = (extract_features(network, part) for part in (splits.train, splits.test))
        accuracy.append(probes.knn(train, splits.train.column("label"), test, splits.test.column("label")))
    assert accuracy[0] > accuracy[1] + 0.01


@pytest.mark.slow  # test_flow.py and test_language.py evaluate single encoders
@pytest.mark.fit
def test_one_table_of_several_encoders(monkeypatch, capsys):
    """Encoders of one architecture share their baselines; another architecture has its own."""
    monkeypatch.setitem(
        grids.GRIDS,
        "convolution",
        grids.Grid((3e-3,), (5, 10), (1, 1), 32, 64, (Augmentation(), Augmentation(crop=0.6))),
    )
    training = Training(data="digits", image_size=16, steps=2, eval_every=2, batch_size=64, tensorboard=False)
    pretrain("contrastive", Settings(**SMALL), training)
    pretrain("contrastive", Settings(**SMALL, loss="vicreg"), dataclasses.replace(training, run="other"))
    pretrain("contrastive", Settings(**SMALL, pool_grid=2), dataclasses.replace(training, run="places"))
    pretrain("rotation", rotation.Settings(width=4), dataclasses.replace(training, run="narrow"))
    names = ["contrastive-digits", "other", "narrow", "places"]
    flags = ["--image-size", "16", "--seeds", "2", "--record", "--budgets"]
    assert main(["evaluate", *names[:1], *flags, "5"]) == 0
    with open("results/contrastive-digits-digits/table.json") as file:
        table = json.load(file)
    assert list(table) == [
        "pixels",
        "random init",
        "contrastive-digits, frozen",
        "contrastive-digits, fine-tuned",
        "scratch",
    ]
    assert table["scratch"].keys() == {"all", "5 per class", "noise", "shift"}
    assert table["pixels"].keys() == {*table["scratch"], "kNN", "feature sd", "RankMe", "uniformity"}
    assert table["random init"].keys() == {*table["pixels"], "alignment"}
    assert main(["evaluate", *names, *flags, "5", "1", "--no-trained", "--out", "several"]) == 0
    with open("several/table.json") as file:
        several = json.load(file)
    assert list(several) == [
        "pixels",
        "random init",
        "contrastive-digits, frozen",
        "other, frozen",
        "random init, like narrow",
        "narrow, frozen",
        "random init, like places",
        "places, frozen",
    ]
    assert several["random init"]["all"] == table["random init"]["all"]
    recorded = cards.read(encoders.find("narrow"))["results"]["digits"]
    assert recorded == cards.read(encoders.find("other"))["results"]["digits"]  # what was measured together
    assert {"pixels", "random init, like narrow", "narrow, frozen", "other, frozen"} <= set(recorded)
    assert "| narrow, frozen |" in capsys.readouterr().out
    assert main(["evaluate", names[0], names[0], *flags, "5"]) == 1
    assert "Expected encoders with different names" in capsys.readouterr().err


def test_held_out_loss_does_not_count_padding(rng):
    source = load("digits", 16).test.take(np.arange(12))
    objective = contrastive.build(Settings(**SMALL), source.spec())
    objective.compile("adam")
    views = lambda batch, random: objective.preprocess(batch, BatchRandom(0, 0, 0, random.rows))  # noqa: E731
    results = []
    for size in (12, 16):  # a full batch, and one with four rows of padding
        batches = Batches(source, size, preprocess=views, shuffle=False)
        results.append(objective.evaluate(batches.dataset(0, 1), steps=1, verbose=0, return_dict=True))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.fit
def test_a_batch_of_one_is_refused():
    training = Training(steps=2, batch_size=1)
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        pretrain("contrastive", Settings(**SMALL), training, data=load("digits", 16))


def test_projections_of_zero_have_gradients_that_float16_can_hold():
    zero = tf.Variable(np.zeros((4, 8), np.float32))
    other = tf.eye(4, 8)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(losses.nt_xent(zero, other, tf.ones(4), 0.2))
    assert np.abs(tape.gradient(loss, zero)).max() < 2.0**15


def test_more_places_than_the_last_stage_has_are_refused():
    with pytest.raises(ValueError, match="pool_grid must be at most 2, the side of cnn's last stage"):
        contrastive.prepare(Settings(pool_grid=3), load("digits", 16))


def test_no_test_image_is_in_any_training_split(fashion_mnist):
    train, validation, test = ({row.tobytes() for row in source.column("image")} for source in fashion_mnist)
    assert not (train | validation) & test
    assert not train & validation
