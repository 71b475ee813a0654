"""The transformer: against NumPy loops, closed forms and invariances."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.modalities import language
from ssl_keras.networks import attention
from ssl_keras.networks import transformer as tr

every_architecture = pytest.mark.parametrize("architecture", tr.ARCHITECTURES)


def build(architecture, causal=True, context=12, **options):
    keras.utils.set_random_seed(0)
    network = tr.transformer(11, context, 2, 2, 8, architecture=architecture, causal=causal, **options)
    rng = np.random.default_rng(0)
    for variable in network.trainable_variables:  # zeros and ones would hide mistakes
        variable.assign(variable + rng.normal(0, 0.3, variable.shape))
    return network


def loop_attention(q, k, v, causal, valid):
    """Attention in float64, one query at a time."""
    batch, time, heads, depth = q.shape
    out = np.zeros(q.shape)
    for b in range(batch):
        for h in range(heads):
            for t in range(time):
                scores = [
                    math.fsum(q[b, t, h] * k[b, s, h]) / math.sqrt(depth)
                    if valid[b, s] and (s <= t or not causal)
                    else -math.inf
                    for s in range(time)
                ]
                weight = np.exp(np.array(scores) - max(scores))
                weight /= weight.sum()
                for s in range(time):
                    out[b, t, h] += weight[s] * v[b, s, h]
    return out


@pytest.mark.parametrize("causal", [True, False])
def test_attention_equals_a_loop(rng, causal):
    q, k, v = rng.normal(size=(3, 2, 6, 3, 4))
    valid = np.ones((2, 6), bool)
    valid[1, 4:] = causal  # padding, in the bidirectional case
    bias = attention.attention_bias(tf.range(6), 6, causal, None if causal else valid)
    weights = attention.attention_weights(tf.constant(q, tf.float32), tf.constant(k, tf.float32), bias)
    ours = tf.einsum("bhts,bshd->bthd", weights, tf.constant(v, tf.float32))
    np.testing.assert_allclose(ours, loop_attention(q, k, v, causal, valid), atol=1e-6)
    np.testing.assert_allclose(tf.reduce_sum(weights, -1), np.ones((2, 3, 6)), atol=1e-6)


def test_rotation_keeps_lengths_and_depends_on_distance_alone(rng):
    q, k = rng.normal(size=(2, 1, 1, 1, 6)).astype(np.float32)

    def product(i, j):
        return float(tf.reduce_sum(attention.rotate(q, tf.constant([i])) * attention.rotate(k, tf.constant([j]))))

    assert product(7, 4) == pytest.approx(product(13, 10), abs=1e-5)
    assert product(7, 4) != pytest.approx(product(7, 5), abs=1e-3)
    turned = attention.rotate(q, tf.constant([5])).numpy()
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(q), rel=1e-6)
    # As complex numbers: the pair (i, i + d/2) is one number, rotated by 5 / base^(2i/d).
    number = (q[..., :3] + 1j * q[..., 3:]) * np.exp(1j * 5 * attention.ROTARY_BASE ** (-np.arange(3) / 3))
    np.testing.assert_allclose(turned, np.concatenate([number.real, number.imag], -1), atol=1e-5)


def test_norms(rng):
    x = rng.normal(2, 3, (4, 8)).astype(np.float32)
    scale, shift = rng.normal(size=(2, 8)).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + shift
    np.testing.assert_allclose(attention.layer_norm(tf.constant(x), 1e-5, scale, shift), expected, atol=1e-5)
    rms = attention.rms_norm(tf.constant(x), 1e-5)
    np.testing.assert_allclose(rms, x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5), atol=1e-5)


@every_architecture
def test_a_causal_position_does_not_see_what_follows(architecture, rng):
    network = build(architecture)
    ids = rng.integers(0, 11, (3, 10)).astype(np.int32)
    before = network(ids).numpy()
    for t in (0, 4, 8):
        changed = ids.copy()
        changed[:, t + 1 :] = (changed[:, t + 1 :] + 1 + rng.integers(0, 9, changed[:, t + 1 :].shape)) % 11
        after = network(changed).numpy()
        np.testing.assert_array_equal(after[:, : t + 1], before[:, : t + 1])
        assert np.abs(after[:, t + 1 :] - before[:, t + 1 :]).max() > 1e-3
    two_sided = build(architecture, causal=False)
    assert np.abs(two_sided(changed).numpy() - two_sided(ids).numpy())[:, 0].max() > 1e-4


@every_architecture
@pytest.mark.parametrize("causal", [True, False])
def test_padding_never_changes_a_result(architecture, causal, rng):
    network = build(architecture, causal)
    ids = rng.integers(0, 11, (2, 7)).astype(np.int32)
    padded = np.concatenate([ids, np.full((2, 4), -1, np.int32)], 1)
    # Vector units compute the last elements of an activation in another way.
    np.testing.assert_allclose(network(padded)[:, :7], network(ids), atol=5e-6)
    pooled = tr.pool(network(padded), padded)
    np.testing.assert_allclose(pooled, tf.reduce_mean(network(ids), 1), atol=5e-6)
    alone = np.full((1, 5), -1, np.int32)  # only padding
    assert np.isfinite(network(alone)).all()
    np.testing.assert_array_equal(tr.pool(network(alone), alone), np.zeros((1, 8)))


@pytest.mark.parametrize("pooling", tr.POOLINGS)
def test_pooling_equals_a_slow_loop(pooling, rng):
    hidden = rng.normal(size=(4, 5, 3)).astype(np.float32)
    tokens = np.array([[1, 2, 3, 0, 4], [7, 0, -1, -1, -1], [5, -1, -1, -1, -1], [-1] * 5], np.int32)
    ours = tr.pool(tf.constant(hidden), tf.constant(tokens), pooling).numpy()
    for row in range(3):
        states = [state for state, token in zip(hidden[row], tokens[row]) if token >= 0]
        expected = {"mean": sum(states) / len(states), "first": states[0], "last": states[-1]}[pooling]
        np.testing.assert_allclose(ours[row], expected, rtol=1e-6)
    np.testing.assert_array_equal(ours[3], np.zeros(3))
    layer = tr.Pool(pooling)
    np.testing.assert_array_equal(tr.Pool.from_config(layer.get_config())(hidden, tokens), ours)


@every_architecture
def test_position_matters(architecture):
    """Order matters; otherwise the model would be a bag of words."""
    network = build(architecture)
    h = network(np.array([[3, 5, 3, 5, 3]], np.int32)).numpy()[0]
    assert np.abs(h[2] - h[4]).max() > 1e-4


@every_architecture
def test_rematerialisation_changes_no_gradient(architecture, rng):
    ids = rng.integers(0, 11, (2, 9)).astype(np.int32)
    gradients = []
    for remat in (False, True):
        network = build(architecture, remat=remat)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(network(ids)))
        gradients.append(tape.gradient(loss, [v.value for v in network.trainable_variables]))
    for a, b in zip(*gradients):
        np.testing.assert_allclose(tf.convert_to_tensor(a), tf.convert_to_tensor(b), rtol=1e-5, atol=1e-5)


def test_logits_are_inner_products_with_the_embeddings(rng):
    hidden, table = rng.normal(size=(2, 3, 8)), rng.normal(size=(11, 8))
    ours = tr.token_logits(tf.constant(hidden, tf.float32), tf.constant(table, tf.float32))
    for b, t, v in np.ndindex(2, 3, 11):
        assert float(ours[b, t, v]) == pytest.approx(np.dot(hidden[b, t], table[v]), abs=1e-5)


@pytest.mark.parametrize(("size", "million"), [("mini", 0.8), ("small", 3.2), ("medium", 25.2)])
def test_named_sizes(size, million):
    layers, heads, width = tr.SIZES[size]
    network = tr.transformer(100, 64, layers, heads, width, architecture="gpt2", causal=True)
    blocks = network.count_params() - 164 * width
    assert blocks / 1e6 == pytest.approx(million, rel=0.03)


@pytest.mark.parametrize(
    ("size", "vocabulary", "context", "million"), [("gpt2", 50257, 1024, 124.4), ("bert-base", 30522, 512, 108.9)]
)
def test_public_sizes(size, vocabulary, context, million):
    """GPT-2: 124M. BERT: 110M with its pooler, 108.9M without."""
    layers, heads, width = tr.SIZES[size]
    with tf.Graph().as_default():  # nothing is allocated
        network = tr.transformer(
            vocabulary, context, layers, heads, width, architecture=size.split("-")[0], causal=size == "gpt2"
        )
        assert network.count_params() / 1e6 == pytest.approx(million, abs=0.1)


def test_attention_maps_are_those_of_the_forward_pass(rng):
    network = build("gpt2")
    ids = rng.integers(0, 11, (2, 6)).astype(np.int32)
    maps = language.attention_maps(network, ids)
    assert [m.shape for m in maps] == [(2, 2, 6, 6)] * 2
    np.testing.assert_allclose(tf.reduce_sum(maps[0], -1), np.ones((2, 2, 6)), atol=1e-6)
    assert np.abs(np.triu(maps[1].numpy(), 1)).max() == 0  # no attention to later positions
    block = language.blocks(network)[0]
    x = network.get_layer("embeddings")(ids)
    _, _, v = block._queries_keys_values(x, tf.range(6))
    attended = tf.reshape(tf.einsum("bhts,bshd->bthd", maps[0], v), (2, 6, 8))
    np.testing.assert_allclose(block._finish(x, attended), block(x, ids), atol=1e-6)


def test_the_networks_options_are_checked():
    with pytest.raises(ValueError, match="architecture must be one of"):
        build("gpt3")
    with pytest.raises(ValueError, match="multiple of heads"):
        tr.transformer(11, 12, 2, 3, 8, architecture="gpt2", causal=True)
    with pytest.raises(ValueError, match="at most 12 tokens. Received: 13"):
        build("gpt2")(np.zeros((1, 13), np.int32))


@every_architecture
def test_mixed_precision_stays_close(architecture, rng):
    ids = rng.integers(0, 11, (2, 9)).astype(np.int32)
    plain = build(architecture)(ids)
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = build(architecture)(ids)
    assert mixed.dtype == tf.float32
    assert np.abs(mixed - plain).max() / np.abs(plain).max() < 0.1
