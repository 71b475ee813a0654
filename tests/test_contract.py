"""What every objective must do, on one device; how it trains is in `test_contract_training.py`."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from contract import (
    CASES,
    ONE,
    compile_objective,
    every_case_in_time,
    every_objective,
    plain_run,
    planned,
    train,
    uncovered,
)

from ssl_keras import encoders
from ssl_keras.data.batches import Batches
from ssl_keras.data.inputs import network_input
from ssl_keras.planning import cost, flops


def test_every_objective_has_a_case():
    assert not uncovered()


@every_case_in_time
def test_finite_loss_and_every_variable_moves(name):
    before_objective, *_ = plain_run(name, steps=1, optimizer="sgd")
    objective, logs, held_out = train(CASES[name], ONE, steps=3, optimizer="sgd")
    assert np.isfinite([*logs.values(), *held_out.values()]).all()
    for before, after in zip(before_objective.trainable_variables, objective.trainable_variables):
        assert np.abs(after.numpy() - before.numpy()).max() > 0, after.path


@every_case_in_time
def test_it_can_be_planned(name):
    """A plan's step has the operations that the run's has, where that one can be counted."""
    if name == "finetune":
        return  # it is no pretraining
    asked = cost.Plan(gpus=1, batch_size=60, precision="float32")
    work = planned(name, asked)
    objective = plain_run(name, steps=1, optimizer="sgd")[0]
    assert work.parameters == sum(v.shape.num_elements() for v in objective.trainable_variables)
    counted = flops.operations(objective.step_graph)
    if counted is None:  # lengths vary from batch to batch
        assert work.operations > 0
    else:
        assert work.operations * 60 == pytest.approx(counted)
    assert work.memory["activations"] > 60 * work.read / 4
    assert cost.plan(work, asked)["hours"] > 0


@every_objective
def test_no_retracing(name):
    train_source = CASES[name].splits().train
    objective = compile_objective(CASES[name].build(train_source.spec()), "adam")
    traced = []
    step = objective.train_step
    objective.train_step = lambda batch: (traced.append(1), step(batch))
    batches = Batches(train_source, 32, views=objective.views)
    objective.fit(batches.dataset(), steps_per_epoch=2, epochs=2, verbose=0)
    once = len(traced)
    objective.fit(batches.dataset(4), steps_per_epoch=3, epochs=2, verbose=0)
    assert len(traced) == once


@every_objective
def test_metrics_are_documented(name):
    _, logs, held_out = plain_run(name, steps=1)
    documented = set(re.findall(r"`(\w+)`", re.search(r"Metrics:(.*)", CASES[name].module.__doc__, re.S).group(1)))
    assert set(logs) == documented
    assert set(held_out) == {name for name in documented if not name.endswith("gradient_norm")}


@every_case_in_time
def test_encoder_round_trip_is_exact(name, tmp_path):
    source = CASES[name].splits().train
    objective, *_ = plain_run(name, steps=1)
    encoders.save_encoder(
        tmp_path / "saved", objective.encoder, spec=source.spec(),
        tokenizer=source.tokenizer if "tokens" in source.arrays else None,
    )
    loaded = encoders.load_encoder(tmp_path / "saved")
    for before, after in zip(objective.encoder.variables, loaded.variables):
        np.testing.assert_array_equal(before.numpy(), after.numpy())
    plain = encoders.load_encoder(tmp_path / "saved" / "encoder.keras", trusted=True)
    x = network_input(Batches(source, 4, shuffle=False).dataset(0, 1).get_single_element())
    x = x[:, :8] if x.dtype == "int32" else x  # windows are longer than the context
    np.testing.assert_array_equal(objective.encoder(x), plain(x))


@every_objective
def test_clipping_and_the_reported_norm(name):
    free, logs, _ = plain_run(name, steps=1, optimizer="sgd")
    # Players of a game have a norm each, and share the largest one allowed.
    norms = {key: value for key, value in logs.items() if key.endswith("gradient_norm")}
    most = min(norms.values()) / 4
    clipped, clipped_logs, _ = train(CASES[name], ONE, steps=1, optimizer="sgd", clip_norm=most)
    start, *_ = train(CASES[name], ONE, steps=1, optimizer=keras.optimizers.SGD(0.0))
    for key, norm in norms.items():
        assert clipped_logs[key] == pytest.approx(norm)
    groups = [objective.groups() for objective in (start, free, clipped)]
    for player, variables in enumerate(zip(*([v for _, v in each] for each in groups))):
        share = most / norms[free.player_norms[player].name if len(norms) > 1 else "gradient_norm"]
        for a, b, c in zip(*variables):
            np.testing.assert_allclose(c.numpy() - a.numpy(), (b.numpy() - a.numpy()) * share, atol=2e-7)


@every_objective
def test_a_loss_that_is_not_finite_stops_and_names_the_step(name):
    source = CASES[name].splits().train.take(np.arange(96))
    objective = compile_objective(CASES[name].build(source.spec()), "adam", steps_per_execution=3)

    def poisoned(batch, draws):
        bad = tf.where(tf.equal(draws.step, 2), np.nan, 1.0)
        return objective.views(batch | {"weight": batch["weight"] * tf.cast(bad, tf.float32)}, draws)

    batches = Batches(source, 32, seed=1, views=poisoned)
    objective.fit(batches.dataset(0), steps_per_epoch=2, verbose=0)
    # A layer's statistics are updated on the way to the loss.
    optimizers = [optimizer for optimizer, _ in objective.groups()]
    variables = objective.trainable_variables + [v for optimizer in optimizers for v in optimizer.variables]
    before = [variable.numpy() for variable in variables]
    with pytest.raises(FloatingPointError, match="at step 2"):
        objective.fit(batches.dataset(2), steps_per_epoch=3, verbose=0)
    for variable, kept in zip(variables, before):
        np.testing.assert_array_equal(variable.numpy(), kept)
    assert {int(optimizer.iterations) for optimizer in optimizers} == {2}
    objective.fit(batches.dataset(3), steps_per_epoch=2, verbose=0)  # past the bad batch, training goes on
    assert {int(optimizer.iterations) for optimizer in optimizers} == {4}
