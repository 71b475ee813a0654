"""`descend` without a model: variables and an optimizer, compared with a weighted mean in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.engine import descend

RATE = 0.5


def regression(rng, rows=12):
    """Returns (batch, variable (3,)) of a linear regression with unequal example weights, some of them 0."""
    batch = {
        "x": rng.normal(size=(rows, 3)).astype(np.float32),
        "y": rng.normal(size=rows).astype(np.float32),
        "weight": (np.arange(rows) % 4).astype(np.float32),
    }
    return {key: tf.constant(value) for key, value in batch.items()}, keras.Variable([0.3, -0.2, 0.1], name="w")


def squared(variable):
    """Returns a loss function: batch → Σ weight · (x·w − y)² and Σ weight."""

    def loss(batch):
        error = tf.linalg.matvec(batch["x"], variable.value) - batch["y"]
        return tf.reduce_sum(batch["weight"] * tf.square(error)), tf.reduce_sum(batch["weight"])

    return loss


def by_hand(batch, w):
    """Returns (weighted mean of the squared errors, its gradient), from a loop over examples in float64."""
    total, gradient, count = 0.0, np.zeros(3), 0.0
    for x, y, weight in zip(*(np.asarray(batch[key], np.float64) for key in ("x", "y", "weight"))):
        error = x @ w - y
        total, gradient, count = total + weight * error**2, gradient + 2 * weight * error * x, count + weight
    return total / count, gradient / count


def updated(batch, variable, state=None, loss=None, **settings):
    """Takes one step of plain gradient descent; returns (the `Update`, the optimizer)."""
    state = state or descend.State()
    state.set(**settings)
    optimizer = keras.optimizers.SGD(RATE)
    groups = [(optimizer, [variable])]
    descend.build_optimizers(groups)
    run = tf.function(lambda batch: descend.descend(state, loss or squared(variable), batch, groups), autograph=False)
    return run(batch), optimizer


def test_update_follows_the_gradient_of_the_weighted_mean(rng):
    batch, variable = regression(rng)
    mean, gradient = by_hand(batch, variable.numpy())
    start = variable.numpy()
    update, optimizer = updated(batch, variable)
    np.testing.assert_allclose(update.mean, mean, rtol=1e-5)
    assert float(update.weight) == 18
    np.testing.assert_allclose(update.norms, [np.linalg.norm(gradient)], rtol=1e-5)
    assert bool(update.finite)
    np.testing.assert_allclose(variable.numpy(), start - RATE * gradient, atol=1e-6)
    assert int(optimizer.iterations) == 1


def test_descend_runs_eagerly(rng):
    batch, variable = regression(rng)
    expected = variable.numpy() - RATE * by_hand(batch, variable.numpy())[1]
    optimizer = keras.optimizers.SGD(RATE)
    descend.build_optimizers([(optimizer, [variable])])
    descend.descend(descend.State(), squared(variable), batch, [(optimizer, [variable])])
    np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("accumulate", [2, 3, 12])
def test_micro_batches_give_the_whole_batchs_update(accumulate, rng):
    """The micro-batches have different weights, so the mean of their means would be a different update."""
    batch, whole = regression(rng)
    part = keras.Variable(whole.numpy())
    expected, _ = updated(batch, whole)
    update, _ = updated(batch, part, accumulate=accumulate)
    np.testing.assert_allclose(part.numpy(), whole.numpy(), atol=1e-6)
    np.testing.assert_allclose(update.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(update.weight, expected.weight)
    np.testing.assert_allclose(update.norms, expected.norms, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_clipping_shortens_the_gradient_and_reports_its_length(accumulate, rng):
    batch, variable = regression(rng)
    start, (_, gradient) = variable.numpy(), by_hand(batch, variable.numpy())
    norm = np.linalg.norm(gradient)
    update, _ = updated(batch, variable, clip_norm=norm / 5, accumulate=accumulate)
    np.testing.assert_allclose(update.norms, [norm], rtol=1e-5)
    np.testing.assert_allclose(variable.numpy(), start - RATE * gradient / 5, atol=1e-6)
    before = variable.numpy()
    gradient = by_hand(batch, before)[1]
    updated(batch, variable, clip_norm=10 * norm)  # longer than the gradient: no change
    np.testing.assert_allclose(variable.numpy(), before - RATE * gradient, atol=1e-6)


def test_players_learn_from_their_own_losses_and_are_clipped_separately(rng):
    batch, first = regression(rng)
    second = keras.Variable([1.0, 2.0, 3.0], name="second")
    starts, gradients = zip(*((v.numpy(), by_hand(batch, v.numpy())[1]) for v in (first, second)))
    norms = [np.linalg.norm(gradient) for gradient in gradients]
    groups = [(keras.optimizers.SGD(RATE), [first]), (keras.optimizers.SGD(RATE), [second])]
    descend.build_optimizers(groups)
    state = descend.State()
    state.set(clip_norm=min(norms))  # clips only the larger gradient

    def game(batch):
        (a, weight), (b, _) = squared(first)(batch), squared(second)(batch)
        return [a, b], weight

    update = descend.descend(state, game, batch, groups)
    assert isinstance(update.mean, list)
    np.testing.assert_allclose(update.norms, norms, rtol=1e-5)
    for variable, start, gradient, norm in zip((first, second), starts, gradients, norms):
        np.testing.assert_allclose(variable.numpy(), start - RATE * gradient * min(norms) / norm, atol=1e-5)


def test_non_finite_loss_changes_nothing_and_sets_the_failed_step(rng):
    batch, variable = regression(rng)
    state = descend.State()
    state.step.assign(7)
    bad = batch | {"y": tf.where(tf.range(12) == 5, np.inf, batch["y"])}
    start = variable.numpy()
    update, optimizer = updated(bad, variable, state)
    assert not update.finite
    assert int(state.failed_step) == 7
    np.testing.assert_array_equal(variable.numpy(), start)
    assert int(optimizer.iterations) == 0
    update, _ = updated(batch, variable, state)  # a later update in the same step
    assert update.finite
    np.testing.assert_array_equal(variable.numpy(), start)
    state.failed_step.assign(-1)
    updated(batch, variable, state)
    assert np.abs(variable.numpy() - start).max() > 0


def test_a_batch_of_padding_changes_nothing(rng):
    batch, variable = regression(rng)
    start = variable.numpy()
    update, _ = updated(batch | {"weight": tf.zeros(12)}, variable)
    assert float(update.mean) == float(update.weight) == float(update.norms[0]) == 0
    np.testing.assert_array_equal(variable.numpy(), start)


def test_a_scaled_loss_gives_the_same_update(rng):
    batch, plain = regression(rng)
    scaled = keras.Variable(plain.numpy())
    expected, _ = updated(batch, plain)
    state = descend.State(scales_loss=True)
    assert float(state.loss_scale) == descend.INITIAL_LOSS_SCALE
    update, _ = updated(batch, scaled, state)
    np.testing.assert_allclose(update.norms, expected.norms, rtol=1e-6)
    np.testing.assert_allclose(scaled.numpy(), plain.numpy(), atol=1e-6)
    assert int(state.finite_steps) == 1


def test_loss_scale_is_halved_at_an_overflow_and_doubled_after_many_finite_steps(rng):
    batch, variable = regression(rng)
    state = descend.State(scales_loss=True)
    state.loss_scale.assign(2.0**127)
    start = variable.numpy()
    update, _ = updated(batch, variable, state)  # the gradient overflows, the loss does not
    assert np.isfinite(update.mean)
    assert not update.finite
    assert float(state.loss_scale) == 2.0**126
    assert int(state.failed_step) == -1
    np.testing.assert_array_equal(variable.numpy(), start)
    state.loss_scale.assign(4.0)
    state.finite_steps.assign(descend.LOSS_SCALE_GROWTH_STEPS - 1)
    updated(batch, variable, state)
    assert float(state.loss_scale) == 8.0
    assert int(state.finite_steps) == 0
    state.loss_scale.assign(1.0)
    updated(batch | {"y": batch["y"] * np.inf}, variable, state)  # with a scale of 1, scaling is not the cause
    assert int(state.failed_step) == 0


def test_a_variable_without_gradient_is_named(rng):
    batch, variable = regression(rng)
    with pytest.raises(ValueError, match="does not depend on these trainable variables: .*'w'"):
        updated(batch, variable, loss=lambda batch: (tf.reduce_sum(batch["x"]), tf.constant(1.0)))


@pytest.mark.parametrize("settings", [{"clip_norm": 0.0}, {"clip_norm": -1.0}, {"accumulate": 0}])
def test_settings_out_of_range_are_refused(settings):
    state = descend.State()
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be"):
        state.set(**settings)


@pytest.mark.parametrize("option", [{"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {"gradient_accumulation_steps": 2}])
def test_optimizer_with_its_own_clipping_is_refused(option):
    """The optimizers of all groups are checked, not only the first."""
    variable = keras.Variable(1.0)
    groups = [(keras.optimizers.SGD(), [variable]), (keras.optimizers.SGD(**option), [variable])]
    with pytest.raises(ValueError, match=f"must not set {next(iter(option))}"):
        descend.build_optimizers(groups)
