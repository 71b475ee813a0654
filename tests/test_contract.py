"""What every objective must do, on one device. `tests/test_strategies.py` has the rest."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from contract import CASES, compile_objective, train, uncovered

from ssl_keras import encoders
from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import images

ONE = tf.distribute.get_strategy()
every_objective = pytest.mark.parametrize("name", CASES)


def test_every_objective_has_a_case():
    assert not uncovered()


@every_objective
def test_finite_loss_and_every_variable_moves(name):
    before_objective, *_ = train(CASES[name], ONE, steps=1, optimizer="sgd")
    objective, logs, held_out = train(CASES[name], ONE, steps=3, optimizer="sgd")
    assert np.isfinite([*logs.values(), *held_out.values()]).all()
    for before, after in zip(before_objective.trainable_variables, objective.trainable_variables):
        assert np.abs(after.numpy() - before.numpy()).max() > 0, after.path


@every_objective
def test_no_retracing(name, digits):
    objective = compile_objective(CASES[name].build(digits.train.spec()), "adam")
    traced = []
    step = objective.train_step
    objective.train_step = lambda batch: (traced.append(1), step(batch))
    batches = Batches(digits.train, 32, views=objective.views)
    objective.fit(batches.dataset(), steps_per_epoch=2, epochs=2, verbose=0)
    once = len(traced)
    objective.fit(batches.dataset(4), steps_per_epoch=3, epochs=2, verbose=0)
    assert len(traced) == once


@every_objective
def test_one_batch_is_overfitted(name, digits):
    case = CASES[name]
    objective = compile_objective(case.build(digits.train.spec()), keras.optimizers.Adam(3e-3), steps_per_execution=50)
    batches = Batches(digits.train.take(np.arange(16)), 16, views=objective.views)
    floor = case.floor(batches.numpy(0))
    first = objective.evaluate(batches.dataset(0, 1), steps=1, verbose=0, return_dict=True)["loss"]
    objective.fit(batches.dataset(), steps_per_epoch=200, verbose=0)
    last = objective.evaluate(batches.dataset(0, 1), steps=1, verbose=0, return_dict=True)["loss"]
    assert last - floor <= case.overfit * (first - floor)


@every_objective
def test_metrics_are_documented(name):
    _, logs, held_out = train(CASES[name], ONE, steps=1)
    documented = set(re.findall(r"`(\w+)`", re.search(r"Metrics:(.*)", CASES[name].module.__doc__, re.S).group(1)))
    assert set(logs) == documented
    assert set(held_out) == documented - {"gradient_norm"}


@every_objective
def test_encoder_round_trip_is_exact(name, tmp_path, digits):
    objective, *_ = train(CASES[name], ONE, steps=1)
    encoders.save_encoder(
        tmp_path / "saved", objective.encoder, objective="autoencoder", settings=None, spec=digits.train.spec()
    )
    fresh = CASES[name].build(digits.train.spec()).encoder
    loaded = encoders.load_encoder(tmp_path / "saved", network=fresh)
    for before, after in zip(objective.encoder.variables, loaded.variables):
        np.testing.assert_array_equal(before.numpy(), after.numpy())
    plain = encoders.load_encoder(tmp_path / "saved" / "encoder.keras", trusted=True)
    image = digits.test.gather(np.arange(4))["image"] / np.float32(255)
    np.testing.assert_array_equal(objective.encoder(image), plain(image))


@every_objective
@pytest.mark.parametrize("options", [{"executions": 3}, {"accumulate": 4}])
def test_the_way_of_running_changes_nothing(name, options):
    plain, logs, held_out = train(CASES[name], ONE, clip_norm=0.05)
    other, other_logs, other_held_out = train(CASES[name], ONE, clip_norm=0.05, **options)
    exact = options == {"executions": 3}
    for before, after in zip(plain.weights, other.weights):
        np.testing.assert_allclose(after, before, rtol=0, atol=0 if exact else 1e-5, err_msg=before.path)
    for key in logs:
        assert other_logs[key] == pytest.approx(logs[key], abs=0 if exact else 1e-5)
    for key in held_out:
        assert other_held_out[key] == pytest.approx(held_out[key], abs=0 if exact else 1e-5)


@every_objective
def test_it_can_be_stepped_through(name):
    """`run_eagerly`, for a debugger."""
    plain, logs, _ = train(CASES[name], ONE, steps=2)
    eager, eager_logs, _ = train(CASES[name], ONE, steps=2, run_eagerly=True)
    assert eager_logs["loss"] == pytest.approx(logs["loss"], abs=1e-6)
    for a, b in zip(plain.weights, eager.weights):
        np.testing.assert_allclose(b.numpy(), a.numpy(), atol=1e-6)


@every_objective
def test_clipping_and_the_reported_norm(name):
    free, logs, _ = train(CASES[name], ONE, steps=1, optimizer="sgd")
    clipped, clipped_logs, _ = train(CASES[name], ONE, steps=1, optimizer="sgd", clip_norm=logs["gradient_norm"] / 4)
    start, *_ = train(CASES[name], ONE, steps=1, optimizer=keras.optimizers.SGD(0.0))
    assert clipped_logs["gradient_norm"] == pytest.approx(logs["gradient_norm"])
    if name == "finetune":
        return  # Adam's step does not scale with the gradient
    for a, b, c in zip(start.trainable_variables, free.trainable_variables, clipped.trainable_variables):
        np.testing.assert_allclose(c.numpy() - a.numpy(), (b.numpy() - a.numpy()) / 4, atol=2e-7)


@every_objective
def test_a_loss_that_is_not_finite_stops_and_names_the_step(name, digits):
    bad = digits.train.gather(np.arange(96))
    image = (bad["image"] / np.float32(255)).astype(np.float32)
    source = images("bad", image, bad["label"], digits.train.classes)
    poisoned = int(Batches(source, 32, seed=1).indices(2)[5])
    image[poisoned, 3, 3] = np.nan  # after the check, as if it had been made by an augmentation
    objective = compile_objective(CASES[name].build(source.spec()), "adam", steps_per_execution=3)
    batches = Batches(source, 32, seed=1, views=objective.views)
    objective.fit(batches.dataset(0), steps_per_epoch=2, verbose=0)
    before = [variable.numpy() for variable in objective.weights + objective.optimizer.variables]
    with pytest.raises(FloatingPointError, match="at step 2"):
        objective.fit(batches.dataset(2), steps_per_epoch=3, verbose=0)
    for variable, kept in zip(objective.weights + objective.optimizer.variables, before):
        np.testing.assert_array_equal(variable.numpy(), kept)
    assert int(objective.optimizer.iterations) == 2
    batches = Batches(source.take(np.arange(32)), 32, views=objective.views)
    image[poisoned, 3, 3] = 0  # the data mended, training goes on
    objective.fit(batches.dataset(), steps_per_epoch=2, verbose=0)
    assert int(objective.optimizer.iterations) == 4
