"""Recurrent networks: functional graphs from tokens to states, and a decoder that attends to the states.

`gru` is Cho et al. 2014 with the reset gate after the recurrent product, `lstm` Hochreiter & Schmidhuber
1997 with forget gates (Gers et al. 2000); both compute the same functions as Keras' layers. The input's
products are computed for all steps at once, outside the loop; the loop has the state's products only.

Token -1 is padding. The state is carried over it unchanged and attention masks it, so padding does not
affect the outputs at other positions.

Shapes: `B` batch, `T` tokens, `U` target tokens, `D` width, `u` units per direction (D, or D/2),
`G` gates (3 or 4), `V` vocabulary.
"""

import math
import typing
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.ranges import Range
from ssl_keras.networks.attention import HIDDEN
from ssl_keras.networks.transformer import token_logits

GATES = {"gru": 3, "lstm": 4}
MAX_LAYERS = 64


def recurrent_encoder(
    vocabulary: Annotated[int, Range(1, 1 << 24)],
    width: Annotated[int, Range(2, 1 << 16)],
    layers: Annotated[int, Range(1, MAX_LAYERS)],
    *,
    cell: Literal[*GATES] = "gru",
    bidirectional: bool = True,
    name="encoder",
):
    """Returns a recurrent encoder, tokens (B, T) int32, -1 for padding -> states (B, T, width) float32.

    Args:
        vocabulary: V, number of tokens.
        width: D, hidden size; each direction of a bidirectional network has half of it.
        layers: number of stacked recurrent layers.
        cell: "gru" or "lstm".
        bidirectional: read in both directions (Schuster & Paliwal 1997); otherwise a state depends only on
            tokens up to its own.
        name: name of the graph.
    """
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = TokenVectors(vocabulary, width, name="embeddings")(tokens)
    for index in range(layers):
        x = Recurrent(width, cell, bidirectional, name=f"recurrent_{index}")(x, tokens)
    x = keras.layers.Activation("linear", dtype="float32", name="states")(x)
    return keras.Model(tokens, x, name=name)


def attending_decoder(
    vocabulary: Annotated[int, Range(1, 1 << 24)],
    width: Annotated[int, Range(2, 1 << 16)],
    layers: Annotated[int, Range(1, MAX_LAYERS)],
    source_width: Annotated[int, Range(1, 1 << 16)],
    *,
    cell: Literal[*GATES] = "gru",
    name="head",
):
    """Returns a recurrent decoder with attention to the source's states.

    Each layer is a recurrent network followed by attention to the source (Luong et al. 2015, section 3.1), whose
    output is the next layer's input. The attention of one step does not feed the recurrence of its own layer, so
    a layer's attention is one product over all steps. Higher layers keep in their state what lower ones found.

    Args:
        vocabulary: V, number of target tokens.
        width: D, hidden size.
        layers: number of pairs of recurrence and attention.
        source_width: width of the source's states.
        cell: "gru" or "lstm".
        name: name of the graph.

    Returns:
        A graph of target (B, U) int32, source states (B, T, source_width), source tokens (B, T) int32 ->
        states (B, U, D) float32, whose products with the embeddings are the logits. Padding is -1.
    """
    target = keras.Input((None,), dtype="int32", name="target")
    states = keras.Input((None, source_width), name="states")
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = TokenVectors(vocabulary, width, name="embeddings")(target)
    for index in range(layers):
        x = Recurrent(width, cell, both_ways=False, name=f"recurrent_{index}")(x, target)
        x = Attention(name=f"attention_{index}")(x, states, tokens)
    x = keras.layers.Activation("linear", dtype="float32", name="out")(x)
    return keras.Model([target, states, tokens], x, name=name)


class Parts(typing.NamedTuple):
    """Named parts of a graph of this file: its token embeddings, and its recurrent layers in order."""

    embeddings: "TokenVectors"
    layers: list


def parts(network):
    """Returns the `Parts` of a graph. Raises ValueError if it is not a graph of this file."""
    layers = {layer.name: layer for layer in network.layers}
    recurrent = layers_of(network, Recurrent)
    if "embeddings" not in layers or not recurrent:
        raise ValueError(
            "The encoder must be a graph of networks.recurrent.recurrent_encoder, since its layers are used one by "
            f"one. Received: layers {sorted(layers)[:5]}"
        )
    return Parts(layers["embeddings"], recurrent)


def encode(encoder, tokens, drop):
    """Returns `encoder(tokens)`, with `drop` applied to each layer's input and to the states."""
    x = drop(encoder.get_layer("embeddings")(tokens))
    for layer in layers_of(encoder, Recurrent):
        x = drop(layer(x, tokens))
    return tf.cast(x, tf.float32)


def decode(decoder, target, states, tokens, drop):
    """Returns `decoder([target, states, tokens])`, with `drop` applied to each layer's input and to the states."""
    x = drop(decoder.get_layer("embeddings")(target))
    for recurrence, attention in zip(layers_of(decoder, Recurrent), layers_of(decoder, Attention)):
        x = drop(attention(recurrence(x, target), states, tokens))
    return tf.cast(x, tf.float32)


def alignments(decoder, target, states, tokens):
    """Returns the last layer's attention weights (B, U, T) float32 of target positions over source tokens."""
    x = decoder.get_layer("embeddings")(target)
    for recurrence, attention in zip(layers_of(decoder, Recurrent), layers_of(decoder, Attention)):
        x = recurrence(x, target)
        weights = attention.attention_weights(x, attention.keys(tf.cast(states, x.dtype)), tokens)
        x = attention(x, states, tokens)
    return weights


def layers_of(network, kind):
    """Returns a graph's layers of class `kind`, in order."""
    return [layer for layer in network.layers if isinstance(layer, kind)]


def logits(network, states):
    """Returns logits (…, V) float32 of states (…, D): their inner products with the network's own embeddings."""
    embeddings = network.get_layer("embeddings")
    return token_logits(states, tf.convert_to_tensor(embeddings.tokens), embeddings.compute_dtype)


@keras.saving.register_keras_serializable("ssl_keras")
class TokenVectors(keras.layers.Layer):
    """Embeds tokens, (B, T) -> (B, T, D); the vectors of padding are 0."""

    def __init__(self, vocabulary, width, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.options = {"vocabulary": vocabulary, "width": width}
        normal = keras.initializers.RandomNormal(stddev=1 / math.sqrt(width))
        self.tokens = self.add_weight((vocabulary, width), normal, name="tokens")
        self.built = True

    def call(self, tokens):
        x = tf.gather(tf.convert_to_tensor(self.tokens), tf.maximum(tokens, 0))
        # Gates expect inputs of the order of 1. The table itself stays smaller, since it also makes the logits.
        x *= math.sqrt(self.options["width"]) * tf.cast(tokens >= 0, x.dtype)[..., None]
        return tf.cast(x, self.compute_dtype)

    def compute_output_spec(self, tokens):
        return keras.KerasTensor((*tokens.shape, self.options["width"]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | self.options


@keras.saving.register_keras_serializable("ssl_keras")
class Recurrent(keras.layers.Layer):
    """A recurrent layer, (B, T, ·), tokens (B, T) -> (B, T, D), with one loop per direction."""

    def __init__(self, width, cell, both_ways, **kwargs):
        super().__init__(autocast=False, **kwargs)
        if cell not in GATES:
            raise ValueError(f"cell must be {' or '.join(GATES)}. Received: {cell!r}")
        if both_ways and width % 2:
            raise ValueError(f"width must be even for a bidirectional network. Received: {width}")
        self.options = {"width": width, "cell": cell, "both_ways": both_ways}
        self.cell, self.directions = CELLS[cell], 1 + both_ways
        self.units, self.gates = width // self.directions, GATES[cell] * (width // self.directions)

    def build(self, x_shape, tokens_shape):
        self.ways = [self._way(name, x_shape[-1]) for name in ("forward", "backward")[: self.directions]]

    def _way(self, name, inputs):
        """Adds a direction's weights: kernel (·, G·u), recurrent kernel (u, G·u), and the biases of both products."""
        shapes = [(inputs, self.gates), (self.units, self.gates), (self.gates,)]
        kinds = [("kernel", "glorot_uniform"), ("recurrent_kernel", "orthogonal"), ("bias", self._initial_bias)]
        if self.cell is gru:  # the reset gate scales it; in an LSTM only the sum of both biases matters
            shapes.append((self.gates,))
            kinds.append(("recurrent_bias", "zeros"))
        return [self.add_weight(shape, start, name=f"{name}_{kind}") for shape, (kind, start) in zip(shapes, kinds)]

    def _initial_bias(self, shape, dtype=None):
        """Initializes biases to 0, and to 1 for an LSTM's forget gate (Jozefowicz et al. 2015)."""
        forget = (tf.range(self.gates) // self.units == 1) & (self.cell is lstm)
        return tf.cast(forget, dtype or "float32")

    def call(self, x, tokens):
        x = tf.transpose(x, (1, 0, 2))  # (T, B, ·)
        valid = tf.transpose(tokens >= 0)[..., None]  # (T, B, 1)
        start = self.start(tf.shape(x)[1])
        states = []
        for way, weights in enumerate(self.ways):  # TensorFlow runs both loops in parallel
            kernel, recurrent_kernel, *biases = (tf.cast(weight, x.dtype) for weight in weights)
            flip = (lambda part: tf.reverse(part, [0])) if way else tf.identity
            product = tf.tensordot(flip(x), kernel, 1) + biases[0]  # (T, B, G·u)
            bias = biases[1] if self.cell is gru else tf.zeros_like(biases[0])
            states.append(flip(unroll(self.cell, product, recurrent_kernel, bias, flip(valid), start)))
        return tf.transpose(tf.concat(states, -1), (1, 0, 2))

    def step(self, x, state):
        """Runs one step of a unidirectional layer: x (B, ·), state as from `start` -> output (B, D), new state."""
        kernel, recurrent_kernel, *biases = (tf.cast(weight, x.dtype) for weight in self.ways[0])
        product = tf.matmul(state[0], recurrent_kernel) + (biases[1] if self.cell is gru else 0)
        state = self.cell(tf.matmul(x, kernel) + biases[0], product, state)
        return state[0], state

    def start(self, batch):
        """Returns the initial state of zeros, a tuple of (B, u); the first tensor of a state is the output."""
        zeros = tf.zeros((batch, self.units), self.compute_dtype)
        return (zeros, zeros) if self.cell is lstm else (zeros,)

    def compute_output_spec(self, x, tokens):
        return keras.KerasTensor((*x.shape[:2], self.options["width"]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | self.options


def gru(x, product, state):
    """Returns the next GRU state; `x`, `product` (…, 3u): the input's and the state's part of z, r, candidate."""
    (h,) = state
    z, r, candidate = tf.split(x, 3, -1)
    from_z, from_r, from_candidate = tf.split(product, 3, -1)
    z, r = tf.sigmoid(z + from_z), tf.sigmoid(r + from_r)
    candidate = tf.tanh(candidate + r * from_candidate)
    return (candidate + z * (h - candidate),)


def lstm(x, product, state):
    """Returns the next LSTM state; `x`, `product` (…, 4u): the input's and the state's part of i, f, candidate, o."""
    _, c = state
    i, f, candidate, o = tf.split(x + product, 4, -1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(candidate)
    return tf.sigmoid(o) * tf.tanh(c), c


CELLS = {"gru": gru, "lstm": lstm}


def unroll(cell, x, kernel, bias, valid, start):
    """Runs a cell over all steps and returns the outputs (T, B, u).

    With a custom gradient, the backward loop runs through the cell only; the gradients of kernel and bias are sums
    over all steps, computed after it in one product.

    Args:
        cell: function (x (B, G·u), product (B, G·u), state) -> state.
        x: (T, B, G·u), the input's part of the gates.
        kernel: (u, G·u) recurrent kernel.
        bias: (G·u,) recurrent bias.
        valid: (T, B, 1) bool; a state is carried over where it is False.
        start: initial state, a tuple of (B, u); the kernel is applied to the first one, which is also the output.
    """
    steps = tf.shape(x)[0]

    def advance(x, product, valid, state):
        return tuple(tf.where(valid, new, old) for new, old in zip(cell(x, product, state), state))

    def array():
        return tf.TensorArray(x.dtype, size=steps if x.shape[0] is None else x.shape[0])  # XLA needs a static size

    @tf.custom_gradient
    def run(x, kernel, bias, *start):
        def forward(t, state, befores, products):
            product = tf.matmul(state[0], kernel) + bias
            befores = tuple(before.write(t, part) for before, part in zip(befores, state))
            return t + 1, advance(x[t], product, valid[t], state), befores, products.write(t, product)

        _, last, befores, products = tf.while_loop(
            lambda t, *_: t < steps,
            forward,
            (0, start, tuple(array() for _ in start), array()),
            parallel_iterations=1,
            maximum_iterations=x.shape[0],
        )
        befores, products = [before.stack() for before in befores], products.stack()

        def gradient(upstream):  # (T, B, u)
            def backward(t, later, from_x, from_product):
                t = t - 1
                state, step_x, product = tuple(before[t] for before in befores), x[t], products[t]
                with tf.GradientTape() as tape:
                    tape.watch([step_x, product, state])
                    new = advance(step_x, product, valid[t], state)
                arriving = (later[0] + upstream[t], *later[1:])
                dx, dproduct, earlier = tape.gradient(
                    new, [step_x, product, state], arriving, unconnected_gradients="zero"
                )
                earlier = (earlier[0] + tf.matmul(dproduct, kernel, transpose_b=True), *earlier[1:])
                return t, earlier, from_x.write(t, dx), from_product.write(t, dproduct)

            _, earlier, from_x, from_product = tf.while_loop(
                lambda t, *_: t > 0,
                backward,
                (steps, tuple(tf.zeros_like(part) for part in start), array(), array()),
                parallel_iterations=1,
                maximum_iterations=x.shape[0],
            )
            from_product = tf.reshape(from_product.stack(), (-1, kernel.shape[1]))  # (T·B, G·u)
            from_kernel = tf.matmul(tf.reshape(befores[0], (-1, kernel.shape[0])), from_product, transpose_a=True)
            return from_x.stack(), from_kernel, tf.reduce_sum(from_product, 0), *earlier

        return tf.concat([befores[0][1:], last[0][None]], 0), gradient

    return run(x, kernel, bias, *start)


@keras.saving.register_keras_serializable("ssl_keras")
class Attention(keras.layers.Layer):
    """Attention of a decoder's states (B, U, D) to the source's (B, T, S): (B, U, D).

    Scores are q·k/√D with q and k linear in the states; the context is the mean of the source's states,
    weighted by the softmax of the scores. The output is tanh(W [state; context]) (Luong et al. 2015, equation 5).
    """

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def build(self, x_shape, states_shape, tokens_shape):
        width, source = x_shape[-1], states_shape[-1]
        self.query = self.add_weight((width, width), "glorot_uniform", name="query")
        self.key = self.add_weight((source, width), "glorot_uniform", name="key")
        self.mixture = self.add_weight((width + source, width), "glorot_uniform", name="mixture")
        self.bias = self.add_weight((width,), "zeros", name="bias")

    def call(self, x, states, tokens):
        states = tf.cast(states, x.dtype)
        return self.look(x, states, self.keys(states), tokens)

    def look(self, x, states, keys, tokens):
        """Computes `call` with precomputed keys."""
        weights = tf.cast(self.attention_weights(x, keys, tokens), x.dtype)
        context = tf.matmul(weights, states)  # (B, U, S)
        mixed = tf.tensordot(tf.concat([x, context], -1), tf.cast(self.mixture, x.dtype), 1)
        return tf.tanh(mixed + tf.cast(self.bias, x.dtype))

    def keys(self, states):
        """Projects the source's states to keys, (B, T, S) -> (B, T, D)."""
        return tf.tensordot(states, tf.cast(self.key, states.dtype), 1)

    def attention_weights(self, x, keys, tokens):
        """Returns the weights (B, U, T) float32 of target positions over source tokens."""
        query = tf.tensordot(x, tf.cast(self.query, x.dtype), 1)
        scores = tf.cast(tf.matmul(query, keys, transpose_b=True), tf.float32) / math.sqrt(x.shape[-1])
        return tf.nn.softmax(tf.where(tokens[:, None] >= 0, scores, HIDDEN))

    def compute_output_spec(self, x, states, tokens):
        return keras.KerasTensor(x.shape, self.compute_dtype)
