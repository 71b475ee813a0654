"""Llama's block: against a NumPy loop, closed forms and invariances; `transformers` in tests/encoders."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.networks import Network, attention
from ssl_keras.networks import transformer as tr
from ssl_keras.networks.llama_block import LlamaBlock, Rotary, mlp_width

WIDTH, HEADS, SHARED, HIDDEN = 8, 4, 2, 5


@pytest.fixture
def block(rng):
    made = LlamaBlock(HEADS, SHARED, HIDDEN, 1, True, 1e-5, Rotary(100.0, (2.0,)), name="block_0")
    made.build((None, None, WIDTH), (None, None))
    for variable in made.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.3, variable.shape))
    return made


def slow(weights, x):
    """One text, (T, D), in float64: a loop over positions, heads and pairs of features."""
    time, features = len(x), WIDTH // HEADS

    def norm(row, part):
        return row / np.sqrt(np.mean(row**2) + 1e-5) * weights[f"{part}_norm_scale"]

    def turned(head, position):
        out, half = head.copy(), features // 2
        for i in range(half):
            angle = position / 2.0 * 100.0 ** (-2 * i / features)
            pair = complex(head[i], head[i + half]) * complex(math.cos(angle), math.sin(angle))
            out[i], out[i + half] = pair.real, pair.imag
        return out

    out = np.zeros((time, WIDTH))
    normed = [norm(row, "attention") for row in x]
    for t in range(time):
        heads = []
        for h in range(HEADS):
            own = slice(h * features, (h + 1) * features)
            kv = h // (HEADS // SHARED)
            theirs = slice(kv * features, (kv + 1) * features)
            query = turned((normed[t] @ weights["query"])[own], t)
            scores = [
                query @ turned((normed[s] @ weights["key"])[theirs], s) / math.sqrt(features) for s in range(t + 1)
            ]
            weight = np.exp(np.array(scores) - max(scores))
            weight /= weight.sum()
            heads.append(sum(weight[s] * (normed[s] @ weights["value"])[theirs] for s in range(t + 1)))
        y = x[t] + np.concatenate(heads) @ weights["attention_out"]
        h = norm(y, "mlp")
        gate = h @ weights["mlp_gate"]
        out[t] = y + (gate / (1 + np.exp(-gate)) * (h @ weights["mlp_in"])) @ weights["mlp_out"]
    return out


def test_the_block_equals_a_loop(block, rng):
    x = rng.normal(size=(2, 6, WIDTH)).astype(np.float32)
    weights = {variable.name: variable.numpy().astype(np.float64) for variable in block.variables}
    ours = block(tf.constant(x), tf.zeros((2, 6), tf.int32))
    np.testing.assert_allclose(ours, [slow(weights, each) for each in x.astype(np.float64)], atol=2e-5)
    with_weights, maps = block.with_weights(tf.constant(x), tf.zeros((2, 6), tf.int32))
    np.testing.assert_allclose(with_weights, ours, atol=1e-6)
    assert maps.shape == (2, HEADS, 6, 6)
    np.testing.assert_allclose(tf.reduce_sum(maps, -1), np.ones((2, HEADS, 6)), atol=1e-6)


def test_shared_heads_equal_repeated_ones(block, rng):
    """Grouped-query attention is attention whose keys and values are equal within each group."""
    full = LlamaBlock(HEADS, HEADS, HIDDEN, 1, True, 1e-5, Rotary(100.0, (2.0,)), name="block_0")
    full.build((None, None, WIDTH), (None, None))
    for variable, other in zip(full.variables, block.variables):
        value = other.numpy()
        if variable.name in ("key", "value"):
            value = np.repeat(value.reshape(WIDTH, SHARED, -1), HEADS // SHARED, 1).reshape(WIDTH, WIDTH)
        variable.assign(value)
    x, ids = tf.constant(rng.normal(size=(1, 5, WIDTH)), tf.float32), tf.zeros((1, 5), tf.int32)
    np.testing.assert_allclose(full(x, ids), block(x, ids), atol=1e-6)


def test_rates_of_scaled_positions():
    plain = attention.rotary_rates(16, 500.0)
    np.testing.assert_allclose(plain, [500.0 ** (-i / 8) for i in range(8)], rtol=1e-6)
    np.testing.assert_allclose(attention.rotary_rates(16, 500.0, (4.0,)), plain / 4, rtol=1e-6)
    # Llama 3.1: pairs that turn more than four times in the 64 positions are kept, less than once divided by 8.
    scaled = attention.rotary_rates(16, 500.0, (8.0, 1.0, 4.0, 64.0))
    turns = 64 * plain / (2 * math.pi)
    assert (turns > 4).any()
    assert (turns < 1).any()
    assert ((turns > 1) & (turns < 4)).any()
    for turn, rate, ours in zip(turns, plain, scaled):
        share = min(max((turn - 1) / 3, 0), 1)
        assert ours == pytest.approx(rate * share + rate / 8 * (1 - share), rel=1e-5)


def test_scaled_positions_are_positions_divided(rng):
    x = tf.constant(rng.normal(size=(1, 4, 2, 6)), tf.float32)
    scaled = attention.rotate(x, tf.range(0, 12, 3), attention.rotary_rates(6, scaling=(3.0,)))
    np.testing.assert_allclose(scaled, attention.rotate(x, tf.range(4)), atol=1e-5)


def test_default_widths():
    assert mlp_width("gpt2", 12) == 48
    assert mlp_width("llama", 4096) == 10928
    assert mlp_width("llama", 16) == 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_heads": 3}, "heads must be a multiple of kv_heads. Received: 4 heads, 3 kv_heads"),
        ({"rotary_scaling": (1.0, 2.0)}, r"rotary_scaling must be \(\), \(factor,\) or"),
        ({"rotary_scaling": (8.0, 4.0, 1.0, 64.0)}, "with low < high"),
        ({"heads": 8}, "an even multiple if the architecture is modern or llama"),
        ({"segments": 1}, "segments is for the architecture bert"),
        ({"architecture": "gpt2", "kv_heads": 2}, "are for the architecture llama"),
        ({"architecture": "bert", "rotary_base": 100.0}, "are for the architecture llama"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    common = {"vocabulary": 11, "context": 8, "layers": 1, "heads": 4, "width": 8, "causal": True}
    with pytest.raises(ValueError, match=message):
        Network("transformer", **common | {"architecture": "llama"} | options).build()


def test_a_graph_survives_saving(tmp_path, rng):
    graph = tr.transformer(
        11, 8, 1, 4, 8, architecture="llama", causal=True, kv_heads=2, rotary_scaling=(8.0, 1.0, 4.0, 64.0)
    )
    graph.save(tmp_path / "llama.keras")
    again = keras.models.load_model(tmp_path / "llama.keras")
    ids = rng.integers(0, 11, (2, 8)).astype(np.int32)
    np.testing.assert_array_equal(again(ids), graph(ids))
