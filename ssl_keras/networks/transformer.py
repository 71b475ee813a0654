"""Transformers: functional graphs from tokens to hidden states, in four architectures.

- `gpt2`: pre-norm, learned positions, GELU in its tanh form (Radford et al. 2019).
- `bert`: post-norm, learned positions and segments, GELU (Devlin et al. 2018). RoBERTa (Liu et al. 2019) is the same
  with one segment, DistilBERT (Sanh et al. 2019) without segments.
- `llama`: `networks/llama_block.py` (Touvron et al. 2023).
- `modern`: pre-norm with RMS norm without weights (Zhang & Sennrich 2019), rotary positions
  (Su et al. 2021), normalized queries and keys (Henry et al. 2020), squared ReLU (So et al. 2021),
  no biases, output projections initialized to 0, and a token shift at the input (Peng et al. 2023):
  each token's embedding gets a learned fraction, per feature, of its predecessor's.

All but `modern` can load public weights. Token -1 is padding and must come after the text. It is never
attended to, so it does not affect the outputs at other positions. Dropout (`networks/dropout.py`) is on the
embeddings and, before they are added to the residual stream, on the outputs of attention and of the MLP. Attention
weights have none.

Shapes: `B` batch, `T` tokens, `D` width, `H` heads, `d = D/H`, `V` vocabulary, `C` context.
"""

import functools
import math
import typing
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.ranges import Range
from ssl_keras.networks.attention import (
    ROTARY_BASE,
    attend,
    attention_bias,
    attention_weights,
    average,
    dense,
    empty_cache,
    extend_cache,
    layer_norm,
    rms_norm,
    rotate,
)
from ssl_keras.networks.dropout import current_masks, drop
from ssl_keras.networks.llama_block import LlamaBlock, Rotary, mlp_width

ARCHITECTURES = ("gpt2", "bert", "modern", "llama")
ROTARY = ("modern", "llama")  # with rotary positions, which rotate pairs of features
POOLINGS = ("mean", "first", "last")  # see `pool`
SIZES = {  # name: (layers, heads, width); the MLP is four times as wide
    "mini": (4, 4, 128),  # 0.8M parameters and the vocabulary's
    "small": (4, 4, 256),  # 3.2M
    "medium": (8, 8, 512),  # 25M
    "gpt2": (12, 12, 768),  # 124M with GPT-2's vocabulary and context
    "bert-base": (12, 12, 768),  # 110M with BERT's
}
MAX_LAYERS, MAX_CONTEXT = 128, 1 << 20
SEGMENTS = 2  # of BERT; a single text is segment 0


def transformer(
    vocabulary: Annotated[int, Range(1, 1 << 24)],
    context: Annotated[int, Range(1, MAX_CONTEXT)],
    layers: Annotated[int, Range(0, MAX_LAYERS)],
    heads: Annotated[int, Range(1, 1 << 10)],
    width: Annotated[int, Range(1, 1 << 16)],
    *,
    architecture: Literal[*ARCHITECTURES],
    causal: bool,
    hidden: Annotated[int, Range(0, 1 << 20)] = 0,
    epsilon: Annotated[float, Range(0, 1, open="both")] = 1e-5,
    remat: bool = False,
    segments: Annotated[int, Range(0, SEGMENTS)] = SEGMENTS,
    kv_heads: Annotated[int, Range(0, 1 << 10)] = 0,
    rotary_base: Annotated[float, Range(1)] = ROTARY_BASE,
    rotary_scaling: tuple[Annotated[float, Range(0, open="low")], ...] = (),
    pooling: Literal[*POOLINGS] = "mean",
    separator: Annotated[int, Range(-1, 1 << 24)] = -1,
    name="encoder",
):
    """Returns a transformer, tokens (B, T ≤ context) int32, -1 for padding -> hidden states (B, T, width) float32.

    Args:
        vocabulary: V, number of tokens.
        context: C, length of the longest sequence.
        layers, heads, width: number of blocks, attention heads per block, hidden size D.
        architecture: "gpt2", "bert", "modern" or "llama".
        causal: whether a position attends only to positions up to itself.
        hidden: units of the MLPs' hidden layer; 0 is 4·width, or about 8/3·width for "llama" (`mlp_width`).
        epsilon: added to variances in the norms.
        remat: recompute each block in the backward pass, which saves memory and takes a third more time
            (Chen et al. 2016, "Training deep nets with sublinear memory cost").
        segments: rows of the segment embeddings of "bert", the first of which is added to every token.
        kv_heads: heads of keys and values of "llama", K; 0 is `heads`.
        rotary_base, rotary_scaling: of the rotary positions of "llama", see `attention.rotary_rates`.
        pooling: features of a text, see `pool`. The graph has all states; `networks.pooled_features` pools them.
        separator: in `bert`, the token that ends the first text of a pair; what follows is segment 1. -1 disables it.
        name: name of the graph.

    Raises:
        ValueError: an option is for another architecture; `width` and `heads` do not fit.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}. Received: {architecture!r}")
    if width % heads or (architecture in ROTARY and width // heads % 2):
        raise ValueError(
            "width must be a multiple of heads, and an even multiple if the architecture is modern or llama. Received: "
            f"width {width}, {heads} heads"
        )
    rotary = Rotary(float(rotary_base), tuple(rotary_scaling))
    if architecture != "llama" and (kv_heads or rotary != Rotary()):
        raise ValueError(
            "kv_heads, rotary_base and rotary_scaling are for the architecture llama. Received: architecture "
            f"{architecture}, kv_heads {kv_heads}, {rotary}"
        )
    if architecture != "bert" and segments != SEGMENTS:
        raise ValueError(f"segments is for the architecture bert. Received: architecture {architecture}")
    if separator >= 0 and segments < SEGMENTS:
        raise ValueError(f"separator needs {SEGMENTS} segments. Received: {segments}")
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = Embeddings(vocabulary, context, width, architecture, epsilon, segments, separator, name="embeddings")(tokens)
    hidden = hidden or mlp_width(architecture, width)
    for index in range(layers):
        if architecture == "llama":
            block = LlamaBlock(
                heads, kv_heads or heads, hidden, layers, causal, epsilon, rotary, remat, name=f"block_{index}"
            )
        else:
            block = Block(heads, hidden, layers, architecture, causal, epsilon, remat, name=f"block_{index}")
        x = block(x, tokens)
    x = FinalNorm(architecture, epsilon, dtype="float32", name="norm")(x)
    return keras.Model(tokens, x, name=name)


class Parts(typing.NamedTuple):
    """Named layers of a graph of `transformer`: the first one, the blocks in order, the last one."""

    embeddings: "Embeddings"
    blocks: list
    norm: "FinalNorm"


def parts(encoder):
    """Returns the `Parts` of a graph. Raises ValueError if it is not a graph of `transformer`."""
    layers = {layer.name: layer for layer in encoder.layers}
    blocks = [layer for layer in encoder.layers if isinstance(layer, BLOCKS)]
    if not {"embeddings", "norm"} <= layers.keys():
        raise ValueError(
            "The encoder must be a graph of networks.transformer.transformer, since its layers are used one by one. "
            f"Received: layers {sorted(layers)[:5]}"
        )
    return Parts(layers["embeddings"], blocks, layers["norm"])


def token_logits(hidden, table, compute_dtype="float32"):
    """Returns logits (…, V) float32: inner products of hidden states (…, D) and token embeddings (V, D).

    The tutorial's section 4.1; Press & Wolf 2017 for tied input and output embeddings.
    """
    product = tf.tensordot(tf.cast(hidden, compute_dtype), tf.cast(table, compute_dtype), [[-1], [-1]])
    return tf.cast(product, tf.float32)


def pool(hidden, tokens, pooling="mean"):
    """Pools the states of a text's tokens to features: (B, T, D), (B, T) -> (B, D) float32; 0 for a row of padding.

    "mean" averages over the tokens that are not padding. "first" is the state of the first token, which is the class
    token of BERT; "last" is that of the last token that is not padding, which alone has seen a whole text if attention
    is causal.
    """
    valid = tf.cast(tokens >= 0, tf.float32)[..., None]  # (B, T, 1)
    if pooling != "mean":
        ends = tf.cumsum(valid, axis=1, reverse=pooling == "last")  # 1 at the first or last token of the text
        valid *= tf.cast(ends == 1, tf.float32)
    total = tf.reduce_sum(tf.cast(hidden, tf.float32) * valid, axis=1)
    return tf.math.divide_no_nan(total, tf.reduce_sum(valid, axis=1))


@keras.saving.register_keras_serializable("ssl_keras")
class Pool(keras.layers.Layer):
    """`pool` as a layer."""

    def __init__(self, pooling="mean", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.pooling = pooling

    def call(self, hidden, tokens):
        return pool(hidden, tokens, self.pooling)

    def get_config(self):
        return super().get_config() | {"pooling": self.pooling}


@keras.saving.register_keras_serializable("ssl_keras")
class Embeddings(keras.layers.Layer):
    """Embeds tokens, (B, T) -> (B, T, D), and adds learned positions if the architecture has them."""

    def __init__(self, vocabulary, context, width, architecture, epsilon, segments=SEGMENTS, separator=-1, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.options = {
            "vocabulary": vocabulary,
            "context": context,
            "width": width,
            "architecture": architecture,
            "epsilon": epsilon,
            "segments": segments,
            "separator": separator,
        }
        self.separator = separator
        self.architecture, self.context, self.epsilon = architecture, context, epsilon
        modern = architecture == "modern"
        normal = keras.initializers.RandomNormal(stddev=1.0 if modern else 0.02)
        self.tokens = self.add_weight((vocabulary, width), normal, name="tokens")
        if modern:
            self.shift = self.add_weight((width,), "zeros", name="shift")
        elif architecture != "llama":
            self.positions = self.add_weight((context, width), normal, name="positions")
        if architecture == "bert":
            self.segments = self.add_weight((segments, width), normal, name="segments") if segments else None
            self.scale = self.add_weight((width,), "ones", name="scale")
            self.offset = self.add_weight((width,), "zeros", name="offset")
        self.built = True

    def call(self, tokens, training=False):
        return drop(self.starting_at(0, tokens), current_masks(training), self.name)

    def starting_at(self, position, tokens, before=None):
        """Embeds tokens the first of which is at `position` and follows the token `before` (B, 1)."""
        if tokens.shape[1] is not None and tokens.shape[1] > self.context:
            raise ValueError(f"Expected at most {self.context} tokens. Received: {tokens.shape[1]}")
        before = None if before is None else self.vectors(before)
        return self.in_context(self.vectors(tokens), position, before, self.segments_of(tokens))

    def segments_of(self, tokens):
        """Returns the segment of each token, (B, T) int32: 1 after the first separator; None if all are 0."""
        if self.separator < 0:
            return None
        ends = tf.cast(tokens == self.separator, tf.int32)
        return tf.minimum(tf.cumsum(ends, axis=1, exclusive=True), 1)

    def in_context(self, x, position=0, before=None, segments=None):
        """Turns the vectors of tokens, (B, T, D), into the first block's input: adds positions, or mixes neighbors.

        `position` is that of the first token, `before` (B, 1, D) the vector of the token before it, and `segments`
        (B, T) are those of a pair of texts.
        """
        if self.architecture == "modern":
            first = tf.zeros_like(x[:, :1]) if before is None else rms_norm(before, self.epsilon)
            x = rms_norm(x, self.epsilon)
            return x + tf.cast(self.shift, x.dtype) * tf.concat([first, x[:, :-1]], axis=1)
        if self.architecture == "llama":
            return x
        places = tf.gather(tf.convert_to_tensor(self.positions), position + tf.range(tf.shape(x)[1]))
        x += tf.cast(places, x.dtype)
        if self.architecture == "bert":
            if self.segments is not None:
                table = tf.convert_to_tensor(self.segments)
                x += tf.cast(table[0] if segments is None else tf.gather(table, segments), x.dtype)
            return layer_norm(x, self.epsilon, self.scale, self.offset)
        return x

    def vectors(self, tokens):
        """Looks up the tokens' vectors, (B, T) -> (B, T, D). Padding gets that of token 0, which is masked later."""
        table = tf.convert_to_tensor(self.tokens)
        return tf.cast(tf.gather(table, tf.maximum(tokens, 0)), self.compute_dtype)

    def compute_output_spec(self, tokens, training=False):
        return keras.KerasTensor((*tokens.shape, self.options["width"]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | self.options


@keras.saving.register_keras_serializable("ssl_keras")
class Block(keras.layers.Layer):
    """A transformer block, attention and an MLP with residual connections: (B, T, D), tokens (B, T) -> (B, T, D)."""

    def __init__(self, heads, hidden, layers, architecture, causal, epsilon, remat, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.options = {
            "heads": heads,
            "hidden": hidden,
            "layers": layers,
            "architecture": architecture,
            "causal": causal,
            "epsilon": epsilon,
            "remat": remat,
        }
        self.heads, self.hidden, self.layers = heads, hidden, layers
        self.architecture, self.causal, self.epsilon, self.remat = architecture, causal, epsilon, remat
        self.modern = architecture == "modern"

    def build(self, x_shape, tokens_shape):
        width = x_shape[-1]
        # The residual stream is a sum of 2·layers branches; GPT-2 initializes them smaller by the root of this number.
        into = 0.7 / math.sqrt(width) if self.modern else 0.02
        out = {"gpt2": 0.02 / math.sqrt(2 * self.layers), "bert": 0.02, "modern": 0.0}[self.architecture]
        self.attention_in = self._matrix("attention_in", width, 3 * width, into)
        self.attention_out = self._matrix("attention_out", width, width, out)
        self.mlp_in = self._matrix("mlp_in", width, self.hidden, into)
        self.mlp_out = self._matrix("mlp_out", self.hidden, width, out)
        self.norms = {}
        if not self.modern:
            for part in ("attention", "mlp"):
                scale = self.add_weight((width,), "ones", name=f"{part}_norm_scale")
                self.norms[part] = scale, self.add_weight((width,), "zeros", name=f"{part}_norm_shift")

    def _matrix(self, name, rows, columns, deviation):
        kernel = self.add_weight((rows, columns), keras.initializers.RandomNormal(stddev=deviation), name=name)
        return kernel, None if self.modern else self.add_weight((columns,), "zeros", name=f"{name}_bias")

    def call(self, x, tokens, training=False):
        forward = functools.partial(self._forward, masks=current_masks(training))
        return (tf.recompute_grad(forward) if self.remat else forward)(x, tokens)

    def _forward(self, x, tokens, masks):
        q, k, v = self._queries_keys_values(x, tf.range(tf.shape(x)[1]))
        return self._finish(x, attend(q, k, v, self._bias(tokens)), masks)

    def with_weights(self, x, tokens, change=0.0):
        """Returns the output (B, T, D), and the attention weights (B, H, T, T) float32 to which `change` was added.

        The gradient with respect to `change`, of the weights' shape, is that with respect to the weights.
        """
        q, k, v = self._queries_keys_values(x, tf.range(tf.shape(x)[1]))
        weights = attention_weights(q, k, self._bias(tokens)) + change
        return self._finish(x, average(weights, v)), weights

    def _bias(self, tokens):
        length = tf.shape(tokens)[1]
        # Padding comes last, where the causal mask hides it anyway.
        return attention_bias(tf.range(length), length, self.causal, None if self.causal else tokens >= 0)

    def attention_weights(self, x, tokens):
        """Returns the attention weights (B, H, T, T) float32, queries in rows and keys in columns."""
        q, k, _ = self._queries_keys_values(x, tf.range(tf.shape(x)[1]))
        return attention_weights(q, k, self._bias(tokens))

    def cache(self, batch, room):
        """Returns an empty cache of keys and values for `room` tokens: two tensors (B, room, H, d)."""
        width = self.attention_out[0].shape[0]
        return empty_cache(batch, room, self.heads, width // self.heads, self.compute_dtype)

    def extend(self, x, cache, position):
        """Computes `call` for n positions from `position` on; earlier keys and values come from the cache.

        Args:
            x: (B, n, D).
            cache: keys and values, see `cache`.
            position: int32 scalar, position of the first of the n.

        Returns:
            (B, n, D), and the cache with the new keys and values.
        """
        place = position + tf.range(tf.shape(x)[1])
        q, *new = self._queries_keys_values(x, place)
        cache = extend_cache(cache, new, place)
        bias = attention_bias(place, cache[0].shape[1], causal=True)
        return self._finish(x, attend(q, *cache, bias)), cache

    def _queries_keys_values(self, x, position):
        """Returns queries, keys and values, (B, T, H, d) each."""
        h = self._norm("attention", x) if self.architecture != "bert" else x
        shape = tf.shape(x)
        h = tf.reshape(dense(h, *self.attention_in), (shape[0], shape[1], 3 * self.heads, -1))
        h = tf.ensure_shape(h, (None, None, None, x.shape[-1] // self.heads))
        q, k, v = tf.split(h, 3, axis=2)
        if self.modern:
            q, k = (rotate(rms_norm(part, self.epsilon), position) for part in (q, k))
        return q, k, v

    def _finish(self, x, attended, masks=None):
        """Adds the output of attention, (B, T, D), and then the MLP's, to x, with the `Masks` of dropout or None."""
        x += drop(dense(attended, *self.attention_out), masks, f"{self.name}/attention")
        if self.architecture == "bert":
            x = self._norm("attention", x)
        h = x if self.architecture == "bert" else self._norm("mlp", x)
        h = dense(h, *self.mlp_in)
        h = tf.square(tf.nn.relu(h)) if self.modern else tf.nn.gelu(h, approximate=self.architecture == "gpt2")
        x += drop(dense(h, *self.mlp_out), masks, f"{self.name}/mlp")
        return self._norm("mlp", x) if self.architecture == "bert" else x

    def _norm(self, part, x):
        return rms_norm(x, self.epsilon) if self.modern else layer_norm(x, self.epsilon, *self.norms[part])

    def compute_output_spec(self, x, tokens, training=False):
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def get_config(self):
        return super().get_config() | self.options


BLOCKS = (Block, LlamaBlock)


@keras.saving.register_keras_serializable("ssl_keras")
class FinalNorm(keras.layers.Layer):
    """The final norm, (B, T, D) -> (B, T, D) float32; the identity for `bert`, whose blocks end with a norm."""

    def __init__(self, architecture, epsilon, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.architecture, self.epsilon = architecture, epsilon

    def build(self, shape):
        width = shape[-1]
        if self.architecture == "gpt2":
            self.scale = self.add_weight((width,), "ones", name="scale")
            self.shift = self.add_weight((width,), "zeros", name="shift")
        elif self.architecture in ("modern", "llama"):
            self.scale = self.add_weight((width,), "ones", name="scale")

    def call(self, x):
        x = tf.cast(x, tf.float32)
        if self.architecture == "gpt2":
            return layer_norm(x, self.epsilon, self.scale, self.shift)
        if self.architecture == "modern":
            # Divided by √D, since the token embeddings that make the logits have elements of unit size.
            return rms_norm(x, self.epsilon) * tf.cast(self.scale, tf.float32) / math.sqrt(x.shape[-1])
        if self.architecture == "llama":
            return rms_norm(x, self.epsilon) * tf.cast(self.scale, tf.float32)
        return x

    def get_config(self):
        return super().get_config() | {"architecture": self.architecture, "epsilon": self.epsilon}


def masked_head(
    vocabulary: Annotated[int, Range(1, 1 << 24)],
    width: Annotated[int, Range(1, 1 << 16)],
    epsilon: Annotated[float, Range(0, 1, open="both")] = 1e-12,
    name="head",
):
    """Returns BERT's output head (Devlin et al. 2018): hidden (M, D), token embeddings (V, D) -> logits (M, V)."""
    hidden = keras.Input((width,), name="hidden")
    table = keras.Input(batch_shape=(vocabulary, width), name="table")
    logits = MaskedOutput(epsilon, name="output")(hidden, table)
    return keras.Model([hidden, table], logits, name=name)


@keras.saving.register_keras_serializable("ssl_keras")
class MaskedOutput(keras.layers.Layer):
    """A dense layer with GELU and norm, then inner products with the token embeddings, and a bias per token."""

    def __init__(self, epsilon, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.epsilon = epsilon

    def build(self, hidden_shape, table_shape):
        vocabulary, width = table_shape
        self.kernel = self.add_weight((width, width), keras.initializers.RandomNormal(stddev=0.02), name="kernel")
        self.kernel_bias = self.add_weight((width,), "zeros", name="kernel_bias")
        self.scale = self.add_weight((width,), "ones", name="scale")
        self.shift = self.add_weight((width,), "zeros", name="shift")
        self.bias = self.add_weight((vocabulary,), "zeros", name="bias")

    def call(self, hidden, table):
        hidden = tf.cast(hidden, self.compute_dtype)
        h = hidden @ tf.cast(self.kernel, hidden.dtype) + tf.cast(self.kernel_bias, hidden.dtype)
        h = tf.nn.gelu(h, approximate=False)
        h = layer_norm(h, self.epsilon, self.scale, self.shift)
        return token_logits(h, table, self.compute_dtype) + tf.cast(self.bias, tf.float32)

    def compute_output_spec(self, hidden, table):
        return keras.KerasTensor((hidden.shape[0], table.shape[0]), "float32")

    def get_config(self):
        return super().get_config() | {"epsilon": self.epsilon}
