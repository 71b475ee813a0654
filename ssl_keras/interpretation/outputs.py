"""Outputs that can be explained: graphs from an encoder's input to scores (B, K), one of which is chosen per example.

A score is a class logit, a feature, the cosine similarity with a reference, the logit of a token, or the logit of a
recognizer's symbol. All are ordinary functional graphs, so every method of this package takes every one of them.

Shapes: `B` batch, `T` tokens or frames, `D` features, `K` scores, `V` vocabulary.
"""

import typing

import keras
import numpy as np
import tensorflow as tf

from ssl_keras.evaluation.probes import layer_of
from ssl_keras.networks import description, gives_states, pooling_of, realize, transformer, waveform
from ssl_keras.networks.attention import HIDDEN


class Output(typing.NamedTuple):
    """A graph from an encoder's input to scores.

    Attributes:
        graph: functional graph to scores (B, K) float32.
        names: the K names of the scores.
        are_logits: whether a softmax over the scores gives probabilities.
    """

    graph: keras.Model
    names: list
    are_logits: bool


def pooled(encoder):
    """Returns a graph from an encoder's input to features (B, D); states are pooled without padding."""
    encoder = realize(encoder)
    if not gives_states(encoder):
        return encoder
    pool = transformer.Pool(pooling_of(encoder), name="pool")
    return keras.Model(encoder.input, pool(encoder.output, encoder.input), name="pooled")


def of_features(encoder):
    """Explains the features of an encoder: D scores."""
    graph = pooled(encoder)
    return Output(graph, [f"feature {index}" for index in range(graph.output_shape[-1])], False)


def of_classes(encoder, head, names=None):
    """Explains the logits of a classification head, a graph of features (B, D) -> (B, K), on an encoder."""
    graph = pooled(encoder)
    made = keras.Model(graph.input, head(graph.output), name="classes")
    return Output(made, list(names or map(str, range(made.output_shape[-1]))), True)


def of_probe(encoder, probe, names):
    """Explains the logits of a linear probe on an encoder.

    Args:
        encoder: the encoder.
        probe: the model of `evaluation.probes.fit_probe`, fitted on dense features.
        names: the names of all classes; those that the probe was not fitted on get a low logit.
    """
    weights = layer_of(probe[0], probe[-1], len(names))
    graph = pooled(encoder)
    made = keras.Model(graph.input, _dense(graph.output, "probe", *weights), name="probed")
    return Output(made, list(names), True)


def of_similarity(encoder, references, names=None):
    """Explains cosine similarities of an encoder's features with references (K, D), such as features of others."""
    graph, references = pooled(encoder), np.asarray(references, np.float32)
    if references.ndim != 2 or references.shape[1] != graph.output_shape[-1]:
        raise ValueError(f"Expected references of shape (K, {graph.output_shape[-1]}). Received: {references.shape}")
    unit = references / np.maximum(np.linalg.norm(references, axis=1, keepdims=True), 1e-12)
    x = keras.layers.UnitNormalization(name="unit")(graph.output)
    made = keras.Model(graph.input, _dense(x, "references", unit.T, None), name="similarities")
    return Output(made, list(names or (f"reference {row}" for row in range(len(unit)))), False)


def of_image_tower(encoder, towers):
    """Returns a graph from images to the space that they share with texts, for `of_similarity`.

    Args:
        encoder: the image encoder.
        towers: the graph of `networks.towers.towers` on top of it.
    """
    return keras.Model(encoder.input, towers.get_layer("of_image")(encoder.output), name="image_tower")


def of_token(encoder, names, head=None, at=-1):
    """Explains the logits (B, V) of a language model for one place of each text.

    Args:
        encoder: a graph of `transformer` or of `recurrent`.
        names: the V tokens.
        head: the head of the language model, or None if logits are products with the token embeddings.
        at: the id whose first occurrence is the place, such as that of [MASK]; -1 is the last token of each text.
    """
    logits = TokenLogits(encoder.get_layer("embeddings"), head, at, name="token_logits")
    graph = keras.Model(encoder.input, logits(encoder.output, encoder.input), name="token")
    return Output(graph, list(names), True)


def of_symbols(encoder, head, names):
    """Explains the largest logit over frames of each symbol of a recognizer, the blank first: K = 1 + symbols.

    Args:
        encoder: a graph of `waveform_encoder`.
        head: its `frame_classifier`.
        names: the symbols, without the blank.
    """
    named = waveform.parts(encoder)
    logits = head(named.norm.output)
    graph = keras.Model(encoder.input, Strongest(name="strongest")(logits, named.frames.output), name="symbols")
    return Output(graph, ["blank", *names], False)


def probabilities(output, scores):
    """Returns scores (B, K) as they are compared in curves: probabilities if they are logits, else unchanged."""
    if not output.are_logits:
        return scores
    exponents = np.exp(scores - scores.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


def max_tokens(encoder):
    """Returns the largest number of tokens that an encoder takes, or None."""
    return getattr(description(encoder), "max_tokens", None)


def _dense(x, name, kernel, bias):
    """Applies a dense layer with given weights."""
    layer = keras.layers.Dense(kernel.shape[1], use_bias=bias is not None, dtype="float32", name=name)
    y = layer(x)
    layer.set_weights([kernel, bias] if bias is not None else [kernel])
    return y


class TokenLogits(keras.layers.Layer):
    """The logits of one place of each text: states (B, T, D), tokens (B, T) -> (B, V)."""

    def __init__(self, embeddings, head, at, **kwargs):
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self.embeddings, self.head, self.at = embeddings, head, at

    def call(self, states, tokens):
        if self.at < 0:
            place = tf.reduce_sum(tf.cast(tokens >= 0, tf.int32), 1) - 1
        else:
            place = tf.argmax(tf.cast(tokens == self.at, tf.int32), 1, tf.int32)
        states = tf.gather(states, tf.maximum(place, 0), batch_dims=1)  # (B, D)
        table = tf.convert_to_tensor(self.embeddings.tokens)
        return transformer.token_logits(states, table) if self.head is None else self.head([states, table])

    def compute_output_spec(self, states, tokens):
        return keras.KerasTensor((states.shape[0], self.embeddings.tokens.shape[0]), "float32")


class Strongest(keras.layers.Layer):
    """The maximum over the frames of each clip: logits (B, T, K), places (B, T) -> (B, K)."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, dtype="float32", **kwargs)

    def call(self, logits, places):
        return tf.reduce_max(tf.where((places >= 0)[..., None], logits, HIDDEN), axis=1)

    def compute_output_spec(self, logits, places):
        return keras.KerasTensor((logits.shape[0], logits.shape[-1]), "float32")
