"""Recurrent networks against Keras' layers, NumPy loops, and themselves with padding."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.networks import recurrent

B, T, U, D, V = 3, 7, 5, 8, 11
KERAS = {
    "gru": lambda units: keras.layers.GRU(units, return_sequences=True, reset_after=True),
    "lstm": lambda units: keras.layers.LSTM(units, return_sequences=True),
}
LENGTHS = np.array([7, 4, 1])


def tokens(lengths=LENGTHS, length=T, vocabulary=V):
    ids = np.random.default_rng(0).integers(0, vocabulary, (len(lengths), length)).astype(np.int32)
    return tf.constant(np.where(np.arange(length) < lengths[:, None], ids, -1))


def peer(layer, cell, both_ways):
    """Returns Keras' layer with the same weights."""
    theirs = KERAS[cell](D // 2 if both_ways else D)
    theirs = keras.layers.Bidirectional(theirs) if both_ways else theirs
    theirs.build((None, None, D + 1))
    theirs.set_weights(as_keras(layer.trainable_variables, cell))
    return theirs


def as_keras(weights, cell):
    """Returns weights in Keras' format, which stacks the two biases of a GRU."""
    weights = [tf.convert_to_tensor(w).numpy() for w in weights]
    if cell == "lstm":
        return weights
    each = [weights[i : i + 4] for i in range(0, len(weights), 4)]
    return [w for kernel, recurrent_kernel, *biases in each for w in (kernel, recurrent_kernel, np.stack(biases))]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("both_ways", [False, True])
def test_layer_is_keras_layer(cell, both_ways):
    """Compares outputs and the gradients of all inputs and weights, with padding."""
    keras.utils.set_random_seed(1)
    layer = recurrent.Recurrent(D, cell, both_ways)
    ids, x = tokens(), tf.random.normal((B, T, D + 1))
    layer(x, ids)
    for weight in layer.trainable_variables:
        if "bias" in weight.name:
            weight.assign(tf.random.normal(weight.shape))
    theirs = peer(layer, cell, both_ways)
    valid = (ids >= 0).numpy()
    upstream = tf.random.normal((B, T, D)) * valid[..., None]

    def run(network, *arguments, **options):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = network(x, *arguments, **options)
            total = tf.reduce_sum(y * upstream)
        return y, tape.gradient(total, [x, *(v.value for v in network.trainable_variables)])

    ours, (dx, *ours_dw) = tf.function(run)(layer, ids)
    expected, (expected_dx, *dw) = run(theirs, mask=tf.constant(valid))
    np.testing.assert_allclose(ours[valid], expected[valid], atol=2e-6)
    np.testing.assert_allclose(dx, expected_dx, atol=5e-6)
    for got, wanted in zip(as_keras(ours_dw, cell), dw, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gradient_is_the_difference_quotient(cell):
    """The custom gradient of kernel, bias and initial state in float64, which Keras' layers do not give."""
    rng = np.random.default_rng(3)
    gates = recurrent.GATES[cell] * 2
    x, kernel, bias = (tf.constant(rng.normal(size=s)) for s in ((4, 3, gates), (2, gates), (gates,)))
    valid = tf.constant(rng.random((4, 3, 1)) < 0.7)
    start = tuple(tf.constant(rng.normal(size=(3, 2))) for _ in range(1 + (cell == "lstm")))
    upstream = tf.constant(rng.normal(size=(4, 3, 2)))

    def total(x, kernel, bias, *start):
        return tf.reduce_sum(upstream * recurrent.unroll(recurrent.CELLS[cell], x, kernel, bias, valid, start))

    theoretical, numerical = tf.test.compute_gradient(tf.function(total), [x, kernel, bias, *start], delta=1e-5)
    for ours, quotient in zip(theoretical, numerical):
        np.testing.assert_allclose(ours, quotient, atol=1e-8)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("both_ways", [False, True])
def test_padding_changes_nothing(cell, both_ways):
    encoder = recurrent.recurrent_encoder(V, D, 2, cell=cell, bidirectional=both_ways)
    decoder = recurrent.attending_decoder(V, D, 2, D, cell=cell)
    ids, target = tokens(), tokens(np.array([5, 3, 2]), U)
    longer = tf.pad(ids, [(0, 0), (0, 4)], constant_values=-1)
    states = encoder(ids)
    np.testing.assert_allclose(encoder(longer)[:, :T], states, atol=1e-6)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(encoder(ids[row : row + 1, :length])[0], states[row, :length], atol=1e-6)
    logits = decoder([target, states, ids])
    more = decoder([tf.pad(target, [(0, 0), (0, 2)], constant_values=-1), encoder(longer), longer])
    np.testing.assert_allclose(more[:, :U], logits, atol=1e-6)


def test_one_way_sees_no_later_token():
    encoder = recurrent.recurrent_encoder(V, D, 2, bidirectional=False)
    ids = tokens(np.array([T]))
    changed = tf.tensor_scatter_nd_update(ids, [[0, 4]], [(ids[0, 4] + 1) % V])
    a, b = encoder(ids)[0], encoder(changed)[0]
    np.testing.assert_array_equal(a[:4], b[:4])
    assert np.abs(a[4:] - b[4:]).max() > 1e-3


def test_attention_is_a_numpy_loop():
    layer = recurrent.Attention()
    x, states, ids = tf.random.normal((B, U, D)), tf.random.normal((B, T, D + 2)), tokens()
    y = layer(x, states, ids).numpy()
    query, key, mixture, bias = (w.numpy() for w in (layer.query, layer.key, layer.mixture, layer.bias))
    for b in range(B):
        for u in range(U):
            valid = [t for t in range(T) if ids[b, t] >= 0]
            scores = [x[b, u].numpy() @ query @ (states[b, t].numpy() @ key) / np.sqrt(D) for t in valid]
            weights = np.exp(scores - np.max(scores))
            weights /= weights.sum()
            found = sum(w * states[b, t].numpy() for w, t in zip(weights, valid))
            expected = np.tanh(np.concatenate([x[b, u], found]) @ mixture + bias)
            np.testing.assert_allclose(y[b, u], expected, atol=1e-5)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_steps_are_the_whole(cell):
    layer = recurrent.Recurrent(D, cell, both_ways=False)
    x = tf.random.normal((B, T, D))
    whole = layer(x, np.zeros((B, T), np.int32))
    state = layer.start(B)
    for t in range(T):
        y, state = layer.step(x[:, t], state)
        np.testing.assert_allclose(y, whole[:, t], atol=1e-6)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="gru or lstm"):
        recurrent.Recurrent(D, "rnn", both_ways=False)
    with pytest.raises(ValueError, match="even"):
        recurrent.Recurrent(7, "gru", both_ways=True)
