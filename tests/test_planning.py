"""Plans against networks that are there, the published law, and arithmetic by hand."""

import contextlib
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from ssl_keras import language, planning
from ssl_keras.__main__ import main
from ssl_keras.networks import transformer
from ssl_keras.objectives import causal_lm, masked_lm

SMALL = {"layers": 3, "heads": 2, "width": 16, "hidden": 40, "context": 24, "vocabulary": 50}


@pytest.mark.parametrize("architecture", transformer.ARCHITECTURES)
def test_parameters_are_those_of_the_network(architecture):
    settings = language.Settings(architecture=architecture, **SMALL).filled()
    assert planning.parameters(settings)[0] == language.trunk(settings, causal=True).count_params()


@pytest.mark.parametrize("architecture", masked_lm.Settings.ARCHITECTURES)
def test_and_those_of_berts_head(architecture):
    settings = masked_lm.Settings(architecture=architecture, **SMALL).filled()
    network = language.trunk(settings, causal=False)
    whole = network.count_params() + transformer.masked_head(50, 16).count_params()
    assert planning.parameters(settings, masked=True)[0] == whole


def test_gpt2_has_124_million():
    assert planning.parameters(causal_lm.Settings(size="gpt2", architecture="gpt2").filled())[0] == 124_439_808


def test_operations_are_those_that_tensorflow_counts():
    """Of the forward pass, a third; TensorFlow does not count attention's two products, which are einsums."""
    settings = language.Settings(architecture="gpt2", **SMALL).filled()
    network = language.trunk(settings, causal=True)

    @tf.function
    def forward(ids):
        hidden = network(ids)
        return transformer.token_logits(hidden, language.table(network))

    graph = forward.get_concrete_function(tf.TensorSpec((2, 24), tf.int32)).graph
    products = [op for op in graph.get_operations() if op.type == "MatMul"]
    assert len(products) == 4 * 3 + 1
    rows = 2 * 24
    counted = 0
    for op in products:
        kernel = op.inputs[1].shape
        assert kernel.rank == 2
        counted += 2 * rows * int(np.prod([side for side in kernel if side is not None]))
    attention = 4 * 3 * 24 * 16 * rows
    assert 3 * (counted + attention) == pytest.approx(rows * planning.operations(settings))


def test_the_best_tokens_are_where_the_law_is_lowest():
    """No other division of the same operations has a lower loss; it is some twenty tokens a parameter."""
    for count in (1e8, 1e9, 7e10):
        tokens = planning.best_tokens(count)
        budget = count * tokens
        best = planning.loss(count, tokens)
        others = [planning.loss(count * k, budget / (count * k)) for k in (0.5, 0.9, 1.1, 2.0)]
        assert min(others) > best
        assert 10 < tokens / count < 40


def test_a_plan_by_hand():
    settings = causal_lm.Settings(size="gpt2", architecture="gpt2").filled()
    asked = planning.Plan(gpus=8, windows=512, tokens=10e9, utilisation=0.5)
    made = planning.plan(settings, asked)
    per_token = 6 * (12 * 12 * 768**2 + 50_257 * 768) + 12 * 12 * 1024 * 768
    computing = 512 * 1024 * per_token / (8 * 989e12 * 0.5)
    adding = 2 * 7 / 8 * 4 * 124_439_808 / 450e9
    assert made["seconds of a step"] == pytest.approx(computing + adding)
    assert made["operations"] == pytest.approx(10e9 * per_token)
    assert made["steps"] == pytest.approx(10e9 / (512 * 1024))
    assert made["MFU"] == pytest.approx(0.5 * computing / (computing + adding))


def test_more_gpus_take_fewer_hours_and_add_more():
    settings = causal_lm.Settings(size="gpt2").filled()
    plans = [planning.plan(settings, planning.Plan(gpus=n, windows=1024)) for n in (1, 8, 64, 1024)]
    for fewer, more in zip(plans, plans[1:]):
        assert more["hours"] < fewer["hours"]
        assert more["of them adding up gradients"] > fewer["of them adding up gradients"]
    assert plans[0]["of them adding up gradients"] == 0


def test_what_saves_memory_does():
    settings = causal_lm.Settings(size="gpt2").filled()
    bytes_of = {
        remat: sum(planning.memory(dataclasses.replace(settings, remat=remat), 16, "mixed_bfloat16").values())
        for remat in (False, True)
    }
    assert bytes_of[True] < 0.7 * bytes_of[False]
    fewer = sum(planning.memory(settings, 8, "mixed_bfloat16").values())
    assert fewer < bytes_of[False]


def test_the_command(capsys):
    assert main(["plan", "causal_lm", "--size", "gpt2", "--gpus", "64"]) == 0
    said = capsys.readouterr().out
    assert "parameters" in said
    assert "hours" in said
    assert main(["plan", "masked_lm", "--size", "bert-base", "--gpus", "8", "--windows", "8192"]) == 0
    assert "It does not fit" in capsys.readouterr().out
    for wrong, reason in (
        (["plan", "dcgan"], "Expected one of causal_lm"), (["plan", "causal_lm", "--gpus", "3"], "multiple of gpus"),
        (["plan", "causal_lm", "--gpu", "b1"], "gpu must be"),
        (["plan", "causal_lm", "--utilisation", "2"], "utilisation"),
    ):
        with contextlib.suppress(SystemExit):  # wrong usage
            assert main(wrong) == 1
        assert reason in "".join(capsys.readouterr())
