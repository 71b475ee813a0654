"""FLOP counts compared with calculations by hand, and their use in a run."""

import json
import pathlib

import pytest
import tensorflow as tf
from contract import CASES, ONE, OPTIONS, train, trajectory

from ssl_keras.engine.config import Training
from ssl_keras.networks.recurrent import gru, unroll
from ssl_keras.planning import flops
from ssl_keras.training import speed
from ssl_keras.training.pretrain import pretrain

SIZE = OPTIONS["batch_size"]


def trained(name):
    """Returns the objective of a case after one step on one device."""
    run = trajectory(name)
    run.after(1)
    return run.objective


def graph_of(function, *shapes):
    return tf.function(function).get_concrete_function(*(tf.TensorSpec(shape) for shape in shapes)).graph


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (tf.matmul, ((3, 4), (4, 5)), 2 * 3 * 4 * 5),
        (lambda a, b: tf.matmul(a, b, transpose_a=True), ((4, 3), (4, 5)), 2 * 3 * 4 * 5),
        (tf.matmul, ((7, 3, 4), (7, 4, 5)), 7 * 2 * 3 * 4 * 5),
        (lambda a, b: tf.matmul(a, b, adjoint_a=True), ((7, 4, 3), (7, 4, 5)), 7 * 2 * 3 * 4 * 5),
        (lambda a, b: tf.einsum("bthd,bshd->bhts", a, b), ((2, 5, 3, 4), (2, 6, 3, 4)), 2 * 2 * 3 * 5 * 6 * 4),
        (lambda a: tf.einsum("ij->ji", a), ((2, 5),), 0),
        (lambda a, b: tf.einsum("...ij,...jk->...ik", a, b), ((7, 2, 3, 4), (2, 4, 5)), 2 * 7 * 2 * 3 * 4 * 5),
        (lambda a, b: tf.einsum("...ij,jk->...ik", a, b), ((1, 3, 4), (4, 5)), 2 * 3 * 4 * 5),
        (lambda a, b: tf.nn.conv2d(a, b, 2, "SAME"), ((2, 8, 8, 3), (3, 3, 3, 5)), 2 * 2 * 4 * 4 * 3 * 3 * 3 * 5),
        (lambda a: a + 1, ((9, 9),), 0),
        (
            lambda a, b: tf.cond(a[0, 0] > 0, lambda: tf.matmul(a, b), lambda: a @ b @ tf.transpose(b)),
            ((3, 4), (4, 5)),
            2 * 2 * 3 * 4 * 5,
        ),
        (lambda a, b: tf.function(tf.matmul)(a, b), ((3, 4), (4, 5)), 2 * 3 * 4 * 5),
        (tf.matmul, ((None, 4), (4, 5)), None),
    ],
)
def test_operations_are_those_of_the_products(function, shapes, expected):
    assert flops.operations(graph_of(function, *shapes)) == expected


@pytest.mark.parametrize("stride", [1, 2])
def test_each_gradient_of_a_convolution_has_as_many_operations(stride):
    def gradients(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = tf.nn.conv2d(x, kernel, stride, "SAME")
        return tape.gradient(y, [x, kernel])

    shapes = ((2, 8, 8, 3), (3, 3, 3, 5))
    forward = flops.operations(graph_of(lambda x, kernel: tf.nn.conv2d(x, kernel, stride, "SAME"), *shapes))
    assert flops.operations(graph_of(gradients, *shapes)) == 3 * forward


def test_loop_counts_all_its_iterations():
    """The network processes T steps one by one, forward and backward; the kernel's gradient is a single product."""
    steps, batch, units = 6, 2, 4

    def read(x, kernel, bias):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel, bias])
            y = unroll(gru, x, kernel, bias, tf.ones((steps, batch, 1), tf.bool), (tf.zeros((batch, units)),))
        return tape.gradient(y, [x, kernel, bias])

    graph = graph_of(read, (steps, batch, 3 * units), (units, 3 * units), (3 * units,))
    assert flops.operations(graph) == 3 * steps * 2 * batch * units * 3 * units


@pytest.mark.fit
def test_a_step_of_the_autoencoder():
    """Each layer has three products, except the first, which needs no gradient for the image."""
    count = flops.operations(trained("autoencoder").step_graph)
    pairs = [(784, 64), (64, 32), (32, 64), (64, 784)]
    assert count == SIZE * 2 * (3 * sum(a * b for a, b in pairs) - 784 * 64)


@pytest.mark.slow
@pytest.mark.fit
def test_micro_batches_cost_the_same():
    whole = flops.operations(trained("causal_lm").step_graph)
    assert flops.operations(train(CASES["causal_lm"], ONE, steps=1, accumulate=4, **OPTIONS)[0].step_graph) == whole > 0


@pytest.mark.slow
@pytest.mark.fit
def test_batches_of_varying_length_are_not_counted():
    assert flops.operations(trained("wav2vec2").step_graph) is None


def test_peak_is_plausible():
    peak, source = flops.peak()
    assert 1e9 < peak < 1e15
    assert source


@pytest.mark.fit
def test_rates(monkeypatch):
    monkeypatch.setattr(flops, "peak", lambda precision: (1e9, "a test"))
    objective = trained("autoencoder")
    made = speed.rates(objective, Training(batch_size=SIZE), 0.5)
    assert made == {
        "examples_per_second": 2.0 * SIZE,
        "mfu": pytest.approx(flops.operations(objective.step_graph) / 0.5 / 1e9),
    }
    language = trained("causal_lm")
    assert speed.rates(language, Training(batch_size=SIZE), 0.5)["tokens_per_second"] == 2 * SIZE * 12


def test_clock_ignores_the_first_execution():
    clock = speed.Clock()
    assert clock.per_step() is None
    clock.tick(32, 100.0)
    assert clock.per_step() is None
    clock.tick(64, 3.2)
    clock.tick(70, 0.6)
    assert clock.per_step() == pytest.approx(0.1)


@pytest.mark.fit
def test_run_reports_its_throughput(tmp_path):
    quick = {"steps": 30, "eval_every": 10, "steps_per_execution": 5, "batch_size": 60, "tensorboard": False}
    training = Training(**quick, runs=str(tmp_path))
    outcome = pretrain("autoencoder", training=training)
    assert outcome["examples_per_second"] > 0
    assert 0 < outcome["mfu"] < 1
    saved = json.loads((pathlib.Path(outcome["folder"]) / "summary.json").read_text())
    assert saved["mfu"] == outcome["mfu"]
