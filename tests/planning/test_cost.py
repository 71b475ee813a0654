"""Plans compared with real networks, with the published scaling law, and with calculations by hand."""

import contextlib
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from contract import CASES, planned, prepared

from ssl_keras import losses, objectives
from ssl_keras.cli import main
from ssl_keras.data.sources import load
from ssl_keras.modalities import language
from ssl_keras.networks import transformer
from ssl_keras.objectives import causal_lm, masked_lm
from ssl_keras.planning import cost, flops

SMALL = {"layers": 3, "heads": 2, "width": 16, "hidden": 40, "context": 24, "vocabulary": 50}


@pytest.mark.parametrize("architecture", transformer.ARCHITECTURES)
def test_parameters_are_those_of_the_network(architecture):
    settings = language.Settings(architecture=architecture, **SMALL).filled()
    assert cost.parameters(settings)[0] == language.trunk(settings, causal=True).build().count_params()


def test_parameters_of_llama_with_shared_heads_and_an_untied_output():
    settings = causal_lm.Settings(architecture="llama", kv_heads=1, untied=True, **SMALL).filled()
    built = causal_lm.build(settings, None)
    assert cost.parameters(settings)[0] == built.encoder.count_params() + built.head.count_params()
    assert (
        cost.parameters(causal_lm.Settings(architecture="llama", **SMALL).filled())[1]
        == sum(v.shape.num_elements() for v in built.encoder.variables if len(v.shape) == 2) + 3 * 2 * 16 * 8
    )  # products; two more heads of 8 features in three blocks


@pytest.mark.parametrize("architecture", masked_lm.Settings.ARCHITECTURES)
def test_parameters_include_berts_head(architecture):
    settings = masked_lm.Settings(architecture=architecture, **SMALL).filled()
    network = language.trunk(settings, causal=False).build()
    whole = network.count_params() + transformer.masked_head(50, 16).count_params()
    assert cost.parameters(settings, masked=True)[0] == whole


def test_gpt2_has_124_million():
    assert cost.parameters(causal_lm.Settings(size="gpt2", architecture="gpt2").filled())[0] == 124_439_808


def test_operations_are_those_that_tensorflow_counts():
    """The forward pass has a third of the operations. Attention's two products, which are einsums, are added."""
    settings = language.Settings(architecture="gpt2", **SMALL).filled()
    network = language.trunk(settings, causal=True).build()

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
    assert 3 * (counted + attention) == pytest.approx(rows * cost.operations(settings))


def test_the_best_tokens_are_where_the_law_is_lowest():
    """No other split of the same FLOPs between parameters and tokens has a lower loss; about 20 tokens a parameter."""
    for count in (1e8, 1e9, 7e10):
        tokens = cost.best_tokens(count)
        budget = count * tokens
        best = cost.loss(count, tokens)
        others = [cost.loss(count * k, budget / (count * k)) for k in (0.5, 0.9, 1.1, 2.0)]
        assert min(others) > best
        assert 10 < tokens / count < 40


def test_a_plan_by_hand():
    settings = causal_lm.Settings(size="gpt2", architecture="gpt2").filled()
    asked = cost.Plan(gpus=8, batch_size=512, utilization=0.5)
    made = cost.plan(cost.of_language(settings, asked, 10e9), asked)
    per_token = 6 * (12 * 12 * 768**2 + 50_257 * 768) + 12 * 12 * 1024 * 768
    computing = 512 * 1024 * per_token / (8 * 989e12 * 0.5)
    adding = 2 * 7 / 8 * 4 * 124_439_808 / 450e9
    assert made["seconds per step"] == pytest.approx(computing + adding)
    assert made["FLOPs"] == pytest.approx(10e9 * per_token)
    assert made["steps"] == pytest.approx(10e9 / (512 * 1024))
    assert made["MFU"] == pytest.approx(0.5 * computing / (computing + adding))


def test_more_gpus_need_fewer_hours_and_more_communication():
    settings = causal_lm.Settings(size="gpt2").filled()
    asked = [cost.Plan(gpus=n, batch_size=1024) for n in (1, 8, 64, 1024)]
    plans = [cost.plan(cost.of_language(settings, each), each) for each in asked]
    for fewer, more in zip(plans, plans[1:]):
        assert more["hours"] < fewer["hours"]
        assert more["time in gradient all-reduce"] > fewer["time in gradient all-reduce"]
    assert plans[0]["time in gradient all-reduce"] == 0


def test_rematerialization_and_small_batches_save_memory():
    settings = causal_lm.Settings(size="gpt2").filled()
    bytes_of = {
        remat: sum(cost.memory(dataclasses.replace(settings, remat=remat), 16, "mixed_bfloat16").values())
        for remat in (False, True)
    }
    assert bytes_of[True] < 0.7 * bytes_of[False]
    fewer = sum(cost.memory(settings, 8, "mixed_bfloat16").values())
    assert fewer < bytes_of[False]


def test_traced_operations_agree_with_the_formula():
    """For a language model: what the formula leaves out is a few percent."""
    asked = cost.Plan(gpus=1, batch_size=60, precision="float32")
    settings = prepared(causal_lm)[0].filled()
    settings = dataclasses.replace(settings, vocabulary=CASES["causal_lm"].splits().train.tokenizer.vocabulary)
    formula = cost.of_language(settings, asked)
    assert planned("causal_lm", asked).operations == pytest.approx(formula.operations, rel=0.1)


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_memory_formula_is_close_to_the_graphs_memory(precision, remat):
    """TensorFlow fuses few ops and keeps up to twice as much, or 1.6 times with rematerialization."""
    small = {"layers": 4, "heads": 4, "width": 128, "context": 128, "tokenizer": "characters"}
    settings, splits = causal_lm.prepare(causal_lm.Settings(architecture="gpt2", remat=remat, **small), load("pydoc"))
    asked = cost.Plan(gpus=1, batch_size=16, precision=precision)
    held = cost.of_traced(causal_lm, settings, splits, asked, cost.Passes()).memory["activations"]
    formula = cost.of_language(settings.filled(), asked).memory
    ratio = held / (formula["activations"] + formula["logits"] + formula["gradients"])
    assert 0.8 < ratio < (1.6 if remat else 2.0)


def test_gathered_bytes():
    """Contrastive learning gathers two projections of 8 features and a weight, and one more for the metric."""
    asked = cost.Plan(gpus=8, batch_size=64)
    assert planned("autoencoder", asked).gathered == 0
    game = planned("dcgan", asked)
    assert game.gathered > game.gathered_gradients == 0  # its diversity metric needs no gradient
    work = planned("contrastive", asked)
    assert work.gathered == 4 * (2 * 8 + 1) + 4 * (8 + 1)
    assert work.gathered_gradients == 4 * 2 * 8  # those of the projections
    made = cost.plan(work, asked)
    seconds = 2 * 7 / 8 * 64 * (work.gathered + work.gathered_gradients) / 450e9
    assert made["time in gathering examples"] * made["seconds per step"] == pytest.approx(seconds)


def test_gathered_tensors_are_found_by_their_name(monkeypatch):
    asked = cost.Plan(gpus=8, batch_size=64)
    gathered = planned("contrastive", asked).gathered
    monkeypatch.setattr(losses, "GATHERED", "of_all_replicas")
    assert planned("contrastive", asked).gathered == gathered > 0


def test_live_bytes():
    """The forward pass keeps the result of each product in a chain for the gradient."""

    def chain(x, *kernels):
        for kernel in kernels:
            x = tf.tanh(x @ kernel)
        return x

    shapes = [tf.TensorSpec((100, 10)), *[tf.TensorSpec((10, 10))] * 3]
    forward = tf.function(chain).get_concrete_function(*shapes).graph
    weights = 3 * 10 * 10 * 4
    # Without a gradient there are two results at a time: the input and the output of one op.
    assert flops.live_bytes(forward) == weights + 2 * 4_000

    def step(x, *kernels):
        with tf.GradientTape() as tape:
            tape.watch(kernels)
            y = chain(x, *kernels)
        return tape.gradient(y, kernels)

    held = flops.live_bytes(tf.function(step).get_concrete_function(*shapes).graph)
    assert weights + 4 * 4_000 <= held <= weights + 8 * 4_000


@pytest.mark.parametrize("name", objectives.names())
def test_the_command_has_flags_for_every_objective(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["plan", name, "--help"])
    assert "--gpus" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["plan"], ["plan", "--gpus", "8", "jigsaw"], ["pretrain", "--steps", "5", "jigsaw"]])
def test_flags_before_the_objective_are_wrong_usage(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
    assert "usage: ssl-keras" in capsys.readouterr().out


def test_the_command(capsys):
    assert main(["plan", "causal_lm", "--size", "gpt2", "--gpus", "64"]) == 0
    output = capsys.readouterr().out
    assert "parameters" in output
    assert "hours" in output
    assert main(["plan", "masked_lm", "--size", "bert-base", "--gpus", "8", "--batch-size", "8192"]) == 0
    assert "This does not fit into the GPU" in capsys.readouterr().out
    assert main(["plan", "contrastive", "--network", "cnn", "--examples", "1000000", "--gpus", "8"]) == 0
    assert "time in gathering examples" in capsys.readouterr().out
    for wrong, reason in (
        (["plan"], "usage: ssl-keras plan OBJECTIVE"),
        (["plan", "jigsaw", "--epochs", "0"], "epochs must be"),
        (["plan", "causal_lm", "--gpus", "3"], "multiple of gpus"),
        (["plan", "causal_lm", "--gpu", "b1"], "invalid choice 'b1'"),
        (["plan", "causal_lm", "--utilization", "2"], "utilization"),
    ):
        with contextlib.suppress(SystemExit):  # wrong usage
            assert main(wrong)
        assert reason in "".join(capsys.readouterr())
