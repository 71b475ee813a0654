"""What every objective must do while it trains, on one device. `tests/test_strategies.py` has several.

Apart from `test_contract.py`, so that two processes share the time.
"""

import keras
import numpy as np
import pytest
from contract import CASES, ONE, compile_objective, every_case_in_time, every_objective, plain_run, train

from ssl_keras.data.batches import Batches


@every_case_in_time
def test_one_batch_is_overfitted(name):
    case = CASES[name]
    if case.overfit is None:
        assert case.module.__name__.endswith("dcgan")  # tests/test_dcgan.py: each player alone wins
        return
    source = case.splits().train
    objective = compile_objective(case.build(source.spec()), keras.optimizers.Adam(3e-3), steps_per_execution=50)
    batches = Batches(source.take(np.arange(16)), 16, views=objective.views)
    floor = case.floor(batches.numpy(0))
    first = objective.evaluate(batches.dataset(0, 1), steps=1, verbose=0, return_dict=True)["loss"]
    objective.fit(batches.dataset(), steps_per_epoch=200, verbose=0)
    last = objective.evaluate(batches.dataset(0, 1), steps=1, verbose=0, return_dict=True)["loss"]
    assert last - floor <= case.overfit * (first - floor)


@every_case_in_time
@pytest.mark.parametrize("options", [{"executions": 3}, {"accumulate": 4}])
def test_the_way_of_running_changes_nothing(name, options):
    if "accumulate" in options and not CASES[name].accumulates:
        with pytest.raises(ValueError, match="looks across the examples of a batch"):
            train(CASES[name], ONE, **options)
        return
    plain, logs, held_out = plain_run(name, clip_norm=0.05)
    other, other_logs, other_held_out = train(CASES[name], ONE, clip_norm=0.05, **options)
    exact = options == {"executions": 3}
    for before, after in zip(plain.weights, other.weights):
        np.testing.assert_allclose(after, before, rtol=0, atol=0 if exact else 1e-5, err_msg=before.path)
    for key in logs:
        assert other_logs[key] == pytest.approx(logs[key], abs=0 if exact else 1e-5, rel=0 if exact else 1e-5)
    for key in held_out:
        assert other_held_out[key] == pytest.approx(held_out[key], abs=0 if exact else 1e-5, rel=0 if exact else 1e-5)


@every_objective
def test_it_can_be_stepped_through(name):
    """`run_eagerly`, for a debugger."""
    plain, logs, _ = train(CASES[name], ONE, steps=2)
    eager, eager_logs, _ = train(CASES[name], ONE, steps=2, run_eagerly=True)
    assert eager_logs["loss"] == pytest.approx(logs["loss"], abs=1e-6, rel=1e-6)
    for a, b in zip(plain.weights, eager.weights):
        np.testing.assert_allclose(b.numpy(), a.numpy(), atol=5e-6)
