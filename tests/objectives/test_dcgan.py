"""DCGAN: the players' gradients, the gradient penalty, spectral normalization, latents, and warnings."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from contract import CASES, compile_objective, small_digits, train
from PIL import Image

from ssl_keras import encoders, losses
from ssl_keras.cli import main
from ssl_keras.data.augment_images import Augmentation, augment, draw_numbers
from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom, ReplayedRandom
from ssl_keras.encoders import card as cards
from ssl_keras.engine import descend
from ssl_keras.inference import sampling
from ssl_keras.networks import conv
from ssl_keras.networks import dcgan as networks
from ssl_keras.objectives import dcgan

ONE = tf.distribute.get_strategy()
SPEC = {"image": ((16, 16, 1), tf.uint8)}
SMALL = {"width": 4, "latent": 8}


def built(**options):
    return dcgan.build(dcgan.Settings(**SMALL | options), SPEC)


def batch_of(objective, count=12, step=0):
    batches = Batches(small_digits().train, count, preprocess=objective.preprocess)
    return batches.dataset(step, step + 1).get_single_element()


@pytest.mark.parametrize(("side", "smallest", "stages"), [(8, 4, 1), (28, 7, 2), (32, 4, 3), (64, 4, 4), (96, 6, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_follow_the_image(side, smallest, stages, channels):
    shape = (side, side, channels)
    generator, trunk = networks.generator(shape, 10, 8), networks.trunk(shape, 8)
    image = generator(tf.random.stateless_uniform((3, 10), (0, 1), -1, 1))
    assert image.shape == (3, *shape)
    assert trunk(image).shape == (3, 16 * 8 * (2**stages - 1))
    assert trunk.get_layer(f"stage_{stages - 1}").output.shape[1:] == (smallest, smallest, 8 * 2 ** (stages - 1))
    assert networks.discriminator(trunk, trunk.output)(image).shape == (3,)


@pytest.mark.parametrize("shape", [(30, 30, 1), (7, 7, 1), (28, 64, 1), (17, 17, 3)])
def test_images_that_do_not_halve_are_refused(shape):
    with pytest.raises(ValueError, match="set image_size"):
        networks.generator(shape, 10, 8)


def test_weights_begin_as_in_the_paper():
    generator, trunk = networks.generator((64, 64, 3), 100, 64), networks.trunk((64, 64, 3), 64)
    for network in (generator, trunk):
        for variable in network.trainable_variables:
            value = variable.numpy()
            if variable.name == "kernel":
                assert abs(value.mean()) < 1e-3
                assert value.std() == pytest.approx(0.02, rel=0.05)
            elif variable.name == "gamma":
                assert value.mean() == pytest.approx(1.0, abs=0.02)
                assert 0 < value.std() < 0.04
            else:
                assert (value == 0).all()


def test_images_are_in_range_however_far_the_generator_goes(rng):
    generator = networks.generator((16, 16, 1), 8, 4)
    for variable in generator.trainable_variables:
        variable.assign(variable * 1000.0)
    image = generator(rng.uniform(-1, 1, (50, 8)).astype(np.float32)).numpy()
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.max() - image.min() > 0.9


def test_places_keep_the_maxima(rng):
    x = rng.normal(size=(2, 7, 9, 3)).astype(np.float32)
    expected = [
        x[:, i * 7 // 4 : -(-(i + 1) * 7 // 4), j * 9 // 4 : -(-(j + 1) * 9 // 4)].max((1, 2))
        for i in range(4)
        for j in range(4)
    ]
    np.testing.assert_array_equal(networks.PlaceMax(4)(x).numpy(), np.concatenate(expected, 1))


@pytest.mark.parametrize("options", [{}, {"loss": "wasserstein"}])
def test_each_player_learns_from_its_own_loss_alone(options):
    """The gradients of one pass equal those of two passes, one per player."""
    objective = compile_objective(built(**options), "sgd")
    batch = batch_of(objective)
    gradients, totals, weight = descend.mean_gradients(
        objective.state, objective.losses, batch, objective.optimizer_groups()
    )
    expected = []
    for player, (_, variables) in enumerate(objective.optimizer_groups()):
        with tf.GradientTape() as tape:
            losses, count = objective.losses(batch)
            mean = losses[player] / count
        expected += tape.gradient(mean, [v.value for v in variables])
    assert len(totals) == 2
    for a, b in zip(gradients, expected):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.fit
@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"loss": "wasserstein"}, marks=pytest.mark.slow),
        pytest.param({"normalization": "spectral"}, marks=pytest.mark.slow),
    ],
)
def test_a_player_alone_wins_and_changes_only_itself(options):
    objective = built(**options)
    objective.compile(*(keras.optimizers.Adam(2e-3) for _ in range(2)), steps_per_execution=20)
    networks_of = [objective.discriminator, objective.generator]
    batches = Batches(small_digits().train.take(np.arange(32)), 32, preprocess=objective.preprocess)
    for player, key in enumerate(("loss", "generator_loss")):
        for index, (optimizer, _) in enumerate(objective.optimizer_groups()):
            optimizer.learning_rate = 2e-3 if index == player else 0.0
        before = [[v.numpy() for v in network.trainable_variables] for network in networks_of]
        first = objective.fit(batches.dataset(), steps_per_epoch=1, verbose=0).history
        last = objective.fit(batches.dataset(1), steps_per_epoch=120, verbose=0).history
        assert last[key][-1] < first[key][-1] - 0.1
        for index, (network, values) in enumerate(zip(networks_of, before)):
            moved = [np.abs(v.numpy() - old).max() for v, old in zip(network.trainable_variables, values)]
            assert (min(moved) > 0) if index == player else (max(moved) == 0)


def test_losses_at_a_draw_are_known():
    objective = built()
    zero = tf.zeros(6)
    batch = {"image": tf.zeros((6, 16, 16, 1)), "weight": tf.constant([1.0, 1, 1, 2, 0, 0])}
    loss, generator_loss = objective.measure(batch, zero, zero, batch["image"])
    assert float(loss / 5) == pytest.approx(2 * np.log(2))
    assert float(generator_loss / 5) == pytest.approx(np.log(2))
    assert float(objective.real.result()) == pytest.approx(0.5)
    critic = built(loss="wasserstein")
    loss, generator_loss = critic.measure(batch, tf.range(6.0), tf.ones(6), batch["image"])
    assert float(loss) == pytest.approx(sum(w * (1 - x) for w, x in zip((1, 1, 1, 2), range(4))))
    assert float(generator_loss) == pytest.approx(-5)
    assert float(critic.fake.result()) == 1


def test_penalty_of_a_linear_critic():
    """D(x) = ⟨w, x⟩ in [−1, 1] has gradient w everywhere, so the penalty of each image is (‖w‖ − 1)²."""
    objective = built(loss="wasserstein")
    image = keras.Input((16, 16, 1))
    dense = keras.layers.Dense(1, use_bias=False)
    flat = keras.layers.Flatten()(keras.layers.Rescaling(2.0, -1.0)(image))
    objective.discriminator = keras.Model(image, dense(flat)[:, 0])
    w = np.random.default_rng(0).normal(size=(256, 1)).astype(np.float32)
    dense.kernel.assign(w)
    batch = batch_of(objective)
    batch["weight"] = tf.constant([0.0] + [1.0] * 11)
    made = tf.random.stateless_uniform(batch["image"].shape, (0, 1))
    expected = 11 * (np.linalg.norm(w) - 1) ** 2
    assert float(objective.gradient_penalty(batch, made, 0)) == pytest.approx(expected, rel=1e-5)
    assert float(objective.penalized_gradient_norm.result()) == pytest.approx(np.linalg.norm(w), rel=1e-5)
    dense.kernel.assign(w / np.linalg.norm(w))
    assert float(objective.gradient_penalty(batch, made, 0)) == pytest.approx(0, abs=1e-5)


def test_spectral_norm_is_one(rng):
    layer = networks.SpectralConv2D(6, 3, padding="same")
    x = rng.normal(size=(2, 5, 5, 4)).astype(np.float32)
    for _ in range(60):
        layer(x, training=True)
    kernel = layer.normalized_kernel(False).numpy().reshape(-1, 6)
    assert np.linalg.svd(kernel, compute_uv=False)[0] == pytest.approx(1.0, abs=1e-3)
    kept, raw = layer.u.numpy(), layer.kernel.numpy()
    y = layer(x, training=False)
    np.testing.assert_array_equal(layer.u.numpy(), kept)
    np.testing.assert_array_equal(layer.kernel.numpy(), raw)
    largest = np.linalg.svd(raw.reshape(-1, 6), compute_uv=False)[0]
    np.testing.assert_allclose(y, keras.ops.conv(x, raw / largest, padding="same"), atol=1e-3)


def test_running_statistics_are_those_of_real_images():
    objective = compile_objective(built(), keras.optimizers.SGD(0.0))
    norm = objective.encoder.get_layer("norm_1")
    batch = batch_of(objective)
    objective.losses(batch)
    inside = keras.Model(objective.discriminator.input, norm.input)
    mean = tf.reduce_mean(inside(batch["image"], training=True), (0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean, (1 - conv.MOMENTUM) * mean, atol=1e-6)


def test_made_images_are_changed_like_real_ones(rng):
    options = Augmentation(shift=0.2, color=0.5, cutout=0.3, flip=True)
    image = rng.random((6, 16, 16, 1)).astype(np.float32)
    random = BatchRandom(1, 2, 3, 6)
    there = augment(image, random, options, "fake")
    np.testing.assert_array_equal(augment(image, ReplayedRandom(draw_numbers(random, "fake")), options, "fake"), there)
    with tf.GradientTape() as tape:
        x = tf.constant(image)
        tape.watch(x)
        y = augment(x, random, options, "fake")
    assert np.abs(tape.gradient(y, x)).max() > 0


def test_made_images_are_augmented_in_the_game():
    """Both players' losses, against direct calls of the networks."""
    options = {"shift": 0.2, "color": 0.5, "cutout": 0.3}
    objective = compile_objective(built(**options), "sgd")
    batch = batch_of(objective)
    (critic, generator), count = objective.losses(batch)
    made = objective.generator(batch["latent"][:, 0], training=True)
    changed = augment(made, ReplayedRandom(batch), Augmentation(**options), "fake")
    assert np.abs(changed - made).max() > 0.01
    real, fake = (objective.discriminator(x, training=True) for x in (batch["image"], changed))
    np.testing.assert_allclose(critic, tf.reduce_sum(tf.nn.softplus(-real) + tf.nn.softplus(fake)), rtol=1e-5)
    np.testing.assert_allclose(generator, tf.reduce_sum(tf.nn.softplus(-fake)), rtol=1e-5)
    assert float(count) == 12


def test_what_tensorboard_shows_has_latents_that_stay():
    objective = built()
    first, later = batch_of(objective, step=0), batch_of(objective, step=7)
    assert np.abs(first["latent"] - later["latent"]).max() > 0.1
    reports = [objective.report(batch, lambda: first, small_digits()) for batch in (first, later)]
    for a, b in zip(*(report.images["samples"] for report in reports)):
        np.testing.assert_array_equal(a, b)
    shown = reports[0].histograms
    assert shown["D(real)"].shape == shown["D(fake)"].shape == (12,)
    assert np.ptp(shown["D(real)"]) > 0


@pytest.mark.fit
def test_a_failed_update_ends_its_step():
    """In a step with several updates, those after a non-finite one change nothing, and neither does the average."""
    objective = compile_objective(built(loss="wasserstein", critic_steps=3), "adam")

    def poisoned(batch, random):
        batch = objective.preprocess(batch, random)
        turn = tf.reshape(tf.range(3) == 1, (1, 3, 1, 1, 1)) & tf.equal(random.step, 2)
        return batch | {"between": tf.where(turn, np.nan, batch["between"])}

    batches = Batches(small_digits().train, 12, preprocess=poisoned)
    objective.fit(batches.dataset(0), steps_per_epoch=2, verbose=0)
    kept = [v.numpy() for v in objective.head.variables]
    with pytest.raises(FloatingPointError, match="at step 2"):
        objective.fit(batches.dataset(2), steps_per_epoch=2, verbose=0)
    assert [int(optimizer.iterations) for optimizer, _ in objective.optimizer_groups()] == [6, 2]
    for variable, value in zip(objective.head.variables, kept):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.fit
@pytest.mark.parametrize(
    ("precision", "options"),
    [("mixed_float16", {"loss": "wasserstein"}), ("mixed_bfloat16", {"normalization": "spectral"})],
)
def test_mixed_precision(precision, options):
    keras.config.set_dtype_policy(precision)
    objective = compile_objective(built(**options), "adam")
    batches = Batches(small_digits().train, 12, preprocess=objective.preprocess)
    history = objective.fit(batches.dataset(), steps_per_epoch=3, verbose=0).history
    assert np.isfinite([values[-1] for values in history.values()]).all()


@pytest.mark.fit
def test_the_average_follows_the_generator():
    objective, *_ = train(CASES["dcgan"], ONE, steps=1)
    for mean, value in zip(objective.head.variables, objective.generator.variables):
        np.testing.assert_array_equal(mean.numpy(), value.numpy())  # the average of one step is the step's weights
    before = [v.numpy() for v in objective.head.variables]
    batches = Batches(small_digits().train, 60, preprocess=objective.preprocess)
    objective.fit(batches.dataset(1), steps_per_epoch=1, verbose=0)
    for old, mean, value in zip(before, objective.head.variables, objective.generator.variables):
        np.testing.assert_allclose(mean.numpy(), old / 11 + value.numpy() * 10 / 11, atol=1e-5)


def test_samples_depend_on_seed_and_number_alone():
    generator = networks.generator((16, 16, 1), 8, 4)
    many = sampling.sample(generator, 20, seed=5, batch=7)
    np.testing.assert_allclose(sampling.sample(generator, 9, seed=5), many[:9], atol=1e-6)
    assert np.abs(sampling.sample(generator, 9, seed=6) - many[:9]).max() > 1e-4
    latents = sampling.latents(1000, 8, 0).numpy()
    assert -1 <= latents.min() < -0.99
    assert 0.99 < latents.max() <= 1
    first, last = (
        sampling.interpolate(generator, 1, 5, seed=5)[0][0],
        sampling.interpolate(generator, 1, 5, seed=5)[0][-1],
    )
    np.testing.assert_allclose(first, many[0], atol=1e-6)
    np.testing.assert_allclose(last, many[1], atol=1e-6)


def test_a_lost_game_is_named():
    objective = built()
    fine = {"loss": 1.0, "generator_gradient_norm": 1.0, "diversity": 0.9}
    lost = {"loss": 0.0, "generator_gradient_norm": 0.0, "diversity": 0.0}
    assert objective.warnings(lost) == []  # the run has just begun
    objective.step.assign(dcgan.MIN_STEPS)
    assert objective.warnings(fine) == []
    for change, said in (
        ({"loss": 0.001}, "won"),
        ({"generator_gradient_norm": 0.0}, "vanished"),
        ({"diversity": 0.01}, "collapsed"),
    ):
        [warning] = objective.warnings(fine | change)
        assert said in warning
    # A critic's loss has no lower bound, so no value is a warning.
    critic = built(loss="wasserstein")
    critic.step.assign(dcgan.MIN_STEPS)
    assert critic.warnings(fine | {"loss": -3.0}) == []


def test_diversity(rng):
    """For images as diverse as the real ones, for a few repeated ones, and for a single one; padding is ignored."""
    x = rng.random((20, 4, 4, 1)).astype(np.float32)
    weight = np.ones(20, np.float32)
    flat = x.reshape(20, -1)
    distance = np.linalg.norm(flat[:, None] - flat, axis=2) + 1e9 * np.eye(20)
    assert float(losses.nearest_distance(x, weight)) == pytest.approx(distance.min(1).mean(), rel=1e-4)
    few = np.concatenate([x[:3]] * 6 + [x[3:5]])
    assert float(losses.nearest_distance(few, weight)) < 0.2 * float(losses.nearest_distance(x, weight))
    assert float(losses.nearest_distance(np.ones_like(x), weight)) == pytest.approx(0, abs=1e-6)
    padded = np.concatenate([x, np.repeat(x[:1], 5, 0)])
    there = float(losses.nearest_distance(padded, np.concatenate([weight, np.zeros(5, np.float32)])))
    assert there == pytest.approx(float(losses.nearest_distance(x, weight)), rel=1e-5)
    objective = compile_objective(built(), "sgd")
    kernel = objective.head.get_layer("project").kernel
    kernel.assign(tf.zeros_like(kernel))
    batches = Batches(small_digits().validation, 60, preprocess=objective.preprocess_eval, shuffle=False)
    held_out = objective.evaluate(
        batches.dataset(0, batches.steps_per_epoch), steps=batches.steps_per_epoch, verbose=0, return_dict=True
    )
    assert held_out["diversity"] == pytest.approx(0, abs=1e-6)


@pytest.mark.fit
def test_an_encoder_of_your_own_is_judged_by_its_features():
    image = keras.Input((16, 16, 1))
    features = keras.layers.Dense(6)(keras.layers.Flatten()(image))
    mine = keras.Model(image, features)
    objective = compile_objective(dcgan.build(dcgan.Settings(**SMALL), SPEC, mine), "adam")
    before = [v.numpy() for v in mine.trainable_variables]
    batches = Batches(small_digits().train, 12, preprocess=objective.preprocess)
    objective.fit(batches.dataset(), steps_per_epoch=2, verbose=0)
    for old, new in zip(before, mine.trainable_variables):
        assert np.abs(new.numpy() - old).max() > 0
    dcgan.build(dcgan.Settings(**SMALL), SPEC, conv.builder_of("cnn")((16, 16, 1), width=4))
    with pytest.raises(ValueError, match="none at all with the loss wasserstein"):
        dcgan.build(dcgan.Settings(**SMALL, loss="wasserstein"), SPEC, conv.builder_of("cnn")((16, 16, 1), width=4))
    stock = keras.Model(image, keras.layers.BatchNormalization()(features))
    with pytest.raises(ValueError, match="networks.conv.BatchNorm"):
        dcgan.build(dcgan.Settings(**SMALL), SPEC, stock)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "loss must be one of"),
        ({"normalization": "group"}, "normalization must be one of"),
        ({"loss": "wasserstein", "normalization": "batch"}, "normalization must be layer or spectral"),
        ({"latent": 0}, "latent must be"),
        ({"critic_steps": 0}, "critic_steps must be"),
        ({"penalty": -1.0}, "penalty must be"),
        ({"generator_lr_ratio": 0.0}, "generator_lr_ratio must be"),
        ({"ema_decay": 1.0}, "ema_decay must be"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dcgan.Settings(**options)


@pytest.mark.fit
def test_from_the_command_line(tmp_path, capsys):
    """pretrain, sample, start again from the saved networks, evaluate."""
    common = ["--image-size", "16", "--width", "4", "--steps", "4", "--eval-every", "2", "--batch-size", "32"]
    labels = ["--network", "cnn", "--run", "eye", "--warmup", "0", "--no-tensorboard"]
    assert main(["pretrain", "classifier", *common, *labels]) == 0
    # With TensorBoard, which shows FID and KID by the classifier.
    assert main(["pretrain", "dcgan", *common, "--latent", "8", "--classifier", "eye", "--run", "game"]) == 0
    assert main(["sample", "game", "--count", "5", "--seed", "3", "--out", "a.npy"]) == 0
    assert main(["sample", "runs/game", "--count", "2", "--seed", "3", "--out", "b.npy"]) == 0
    a, b = np.load("a.npy"), np.load("b.npy")
    assert a.shape == (5, 16, 16, 1)
    assert a.dtype == np.uint8
    np.testing.assert_array_equal(a[:2], b)
    assert main(["sample", "game", "--count", "2", "--steps", "6", "--out", "lines.png"]) == 0
    assert Image.open("lines.png").size == (6 * 16, 2 * 16)
    assert main(["sample", "game", "--out", "lines.jpg"]) == 1
    assert main(["sample", "eye", "--out", "lines.png"]) == 1
    assert main(["fidelity", "game", "--classifier", "eye", "--image-size", "16", "--count", "50", "--record"]) == 0
    result = json.loads((tmp_path / "results/game-fidelity/table.json").read_text())
    assert result["table"]["real"]["FID"] < result["table"]["made"]["FID"]
    assert result["measured with"]["classifier"] == "eye"
    assert 0 < result["measured with"]["its test accuracy"] < 1
    assert cards.read(encoders.find("game"))["results"] == {"fidelity, digits": result}
    assert main(["fidelity", "game", "--classifier", "eye", "--image-size", "16", "--count", "3"]) == 1
    assert main(["sample", "game", "--seed", "-1"]) == 1
    assert main(["pretrain", "dcgan", *common, "--latent", "8", "--patience", "2", "--run", "patient"]) == 1
    assert main(["fidelity", "game", "--classifier", "game", "--image-size", "16"]) == 1
    assert "is not a classifier" in capsys.readouterr().err
    assert main(["pretrain", "dcgan", "--steps", "2", "--image-size", "18"]) == 1


@pytest.mark.fit
def test_it_goes_on_from_saved_networks(tmp_path):
    objective, *_ = train(CASES["dcgan"], ONE, steps=3)
    settings = objective.settings
    spec = small_digits().train.spec()
    encoders.save_encoder(tmp_path / "saved", objective.encoder, spec=spec, head=objective.head)
    from ssl_keras.encoders.initialize import initialize

    fresh = dcgan.build(settings, spec)
    initialize(fresh.encoder, tmp_path / "saved", fresh.head)
    fresh.on_weights_loaded()
    for network in (fresh.generator, fresh.head, sampling.load_generator(tmp_path / "saved")):
        for a, b in zip(network.variables, objective.head.variables):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.fit
def test_critic_steps_and_rates_reach_the_optimizers():
    objective = built(critic_steps=3, generator_lr_ratio=0.5, loss="wasserstein")
    asked = []

    def make(variables, share=1.0, updates=1):
        asked.append((len(variables), share, updates))
        return keras.optimizers.SGD(0.01)

    objective.compile(*objective.optimizers(make))
    discriminator, generator = objective.optimizer_groups()
    assert asked == [(len(discriminator[1]), 1.0, 3), (len(generator[1]), 0.5, 1)]
    batches = Batches(small_digits().train, 12, preprocess=objective.preprocess)
    objective.fit(batches.dataset(), steps_per_epoch=2, verbose=0)
    assert int(discriminator[0].iterations) == 6
    assert int(generator[0].iterations) == 2
    assert dataclasses.asdict(objective.settings)["critic_steps"] == 3
