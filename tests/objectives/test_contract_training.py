"""What every objective must do while it trains, on one device. `tests/training/test_strategies.py` has several.

Apart from `test_contract.py`, so that two processes share the time.
"""

import keras
import numpy as np
import pytest
from contract import CASES, ONE, Trajectory, compile_objective, every_case_in_time, every_objective, train, trajectory

from ssl_keras.data.batches import Batches

pytestmark = pytest.mark.fit


@every_case_in_time
def test_one_batch_is_overfitted(name):
    case = CASES[name]
    if case.overfit is None:
        # A lower loss is no better there; what it learns is tested beside it, as in test_dcgan.py.
        assert case.build(case.splits().train.spec()).latest_is_best
        return
    source = case.splits().train
    objective = compile_objective(case.build(source.spec()), keras.optimizers.Adam(3e-3), steps_per_execution=50)
    batches = Batches(source.take(np.arange(16)), 16, views=objective.views)
    floor = case.floor(batches.numpy(0))
    first = objective.evaluate(batches.dataset(0, 1), steps=1, verbose=0, return_dict=True)["loss"]
    for done in range(0, 200, 50):
        objective.fit(batches.dataset(done), steps_per_epoch=50, verbose=0)
        last = objective.evaluate(batches.dataset(0, 1), steps=1, verbose=0, return_dict=True)["loss"]
        if last - floor <= case.overfit * (first - floor):
            return
    pytest.fail(f"From {first} to {last}, of which {floor} must stay.")


@every_case_in_time
@pytest.mark.parametrize("options", [{"executions": 3}, {"accumulate": 4}])
def test_the_way_of_running_changes_nothing(name, options):
    if "accumulate" in options and not CASES[name].accumulates:
        with pytest.raises(ValueError, match="looks across the examples of a batch"):
            train(CASES[name], ONE, **options)
        return
    run = trajectory(name, clip_norm=0.05)
    run.objective.steps_per_execution = 1
    logs, weights, held_out = run.after(5), run.weights(), run.held_out()
    exact = options == {"executions": 3}
    if exact:  # the limit is an input of what is traced
        other, traced = run, len(run.traced)
        run.objective.steps_per_execution = 3
    else:
        other = Trajectory(CASES[name], ONE, clip_norm=0.05, **options)
    other_logs, other_weights, other_held_out = other.after(5), other.weights(), other.held_out()
    assert not exact or len(run.traced) == traced
    for variable, before, after in zip(run.objective.weights, weights, other_weights):
        np.testing.assert_allclose(after, before, rtol=0, atol=0 if exact else 1e-5, err_msg=variable.path)
    for key in logs:
        assert other_logs[key] == pytest.approx(logs[key], abs=0 if exact else 1e-5, rel=0 if exact else 1e-5)
    for key in held_out:
        assert other_held_out[key] == pytest.approx(held_out[key], abs=0 if exact else 1e-5, rel=0 if exact else 1e-5)


@pytest.mark.parametrize("name", ["contrastive", "image_text", "causal_lm", "masked_lm", "ctc"])
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_in_16_bit_it_learns_the_same(name, precision):
    """Of each kind of data one; of the others see test_flow.py, test_dcgan.py, test_seq2seq.py and test_wav2vec2.py."""
    run = trajectory(name, clip_norm=0.05)
    # Of float16 the first updates may be left out, until the scale of the loss fits.
    steps = 3 if precision == "mixed_bfloat16" else 1
    logs = run.after(steps)
    keras.config.set_dtype_policy(precision)
    options = {"accumulate": 2} if CASES[name].accumulates else {}
    objective, rounded, _ = train(CASES[name], ONE, steps=steps, clip_norm=0.05, **options)
    assert objective.encoder.compute_dtype == precision.removeprefix("mixed_")
    assert rounded["loss"] == pytest.approx(logs["loss"], rel=0.02)


@every_objective
def test_it_can_be_stepped_through(name):
    """`run_eagerly`, for a debugger."""
    plain, eager = trajectory(name, clip_norm=0.05), Trajectory(CASES[name], ONE, clip_norm=0.05, run_eagerly=True)
    plain.objective.steps_per_execution = 1
    logs, eager_logs = plain.after(2), eager.after(2)
    assert eager_logs["loss"] == pytest.approx(logs["loss"], abs=1e-6, rel=1e-6)
    for a, b in zip(plain.weights(), eager.weights()):
        np.testing.assert_allclose(b, a, atol=5e-6)
