"""Attention rollout (Abnar & Zuidema 2020), and attention weighted by gradients (Chefer et al. 2021).

- Rollout multiplies the layers' attention, averaged over heads and mixed with the identity, ½A + ½I (their section 3).
- The weighted form adds up R ← R + Ā·R from R = I, with Ā the mean over heads of the positive part of ∇A ⊙ A
  ("Generic attention-model explainability", equations 5 and 6). It depends on the score; rollout does not.

What a score reads from the last layer decides the rows: the mean over all places that are not padding for pooled
features, the place of a token for its logit. The result says how much flows from each token or frame, not in which
direction it moves the score.

In a vision transformer, class and register tokens take part, and what flows from the patches is returned.

Shapes: `B` batch, `T` tokens or frames, `H` heads, `K` scores, `h w` grid of patches.
"""

import keras
import numpy as np
import tensorflow as tf

from ssl_keras.interpretation.gradients import MAX_ROWS
from ssl_keras.networks.transformer import BLOCKS
from ssl_keras.networks.vit_block import VisionBlock
from ssl_keras.networks.vit_ends import patch_grid

RESIDUAL = 0.5  # of the identity, which stands for the residual connection
CHUNK = MAX_ROWS // 8  # examples at a time, since the attention of all layers is in memory


def attention_layers(network):
    """Returns a graph's transformer blocks, in order.

    Raises:
        ValueError: the network has no attention.
    """
    blocks = [layer for layer in network.layers if isinstance(layer, (*BLOCKS, VisionBlock))]
    if not blocks:
        raise ValueError(
            "Attention rollout needs a transformer. Received: a network without attention, with layers "
            f"{[layer.name for layer in network.layers][:5]}. Use integrated gradients or occlusion, which work for "
            "every network."
        )
    return blocks


def rollout(network, weighted=False):
    """Compiles attention rollout of a graph from tokens, waveforms or images to scores (B, K).

    Args:
        network: functional graph, such as `Output.graph`, with transformer blocks in a chain.
        weighted: whether to weight attention by the score's gradient.

    Returns:
        A function (inputs (B, …), index (B,)) -> float32 (B, T), at least 0, and 0 at padding; (B, h, w) of images.
    """
    walk, on_grid = _walk(network), _on_grid(network)

    @tf.function(
        input_signature=[tf.TensorSpec(network.input.shape, network.input.dtype), tf.TensorSpec((None,), tf.int32)],
        autograph=False,
    )
    def run(inputs, index):
        maps, slopes, valid, read = walk(inputs, index)
        here = tf.cast(valid, tf.float32)
        total = tf.eye(tf.shape(valid)[1], batch_shape=[tf.shape(valid)[0]])  # (B, T, T)
        for attention, slope in zip(maps, slopes):
            if weighted:
                total += tf.matmul(tf.reduce_mean(tf.nn.relu(slope * attention), 1), total)
            else:
                mixed = RESIDUAL * tf.reduce_mean(attention, 1) + (1 - RESIDUAL) * tf.eye(tf.shape(valid)[1])
                total = tf.matmul(mixed / tf.reduce_sum(mixed, -1, keepdims=True), total)
        if weighted:  # what attention has added
            total -= tf.eye(tf.shape(valid)[1])
        return on_grid(inputs, tf.einsum("bt,bts->bs", read, total) * here)

    def chunked(inputs, index):
        inputs, index = np.asarray(inputs), np.asarray(index, np.int32)
        parts = [slice(start, start + CHUNK) for start in range(0, len(inputs), CHUNK)]
        return np.concatenate([run(inputs[part], index[part]).numpy() for part in parts])

    return chunked


def _walk(network):
    """Returns a function (inputs, index) -> attention of each block, its gradient, valid (B, T), rows read (B, T)."""
    blocks = attention_layers(network)
    before = keras.Model(network.input, keras.tree.flatten(blocks[0].input))
    end = blocks[-1].output
    after = keras.Model([network.input, end], network.output)

    def walk(inputs, index):
        x, *tokens = keras.tree.flatten(before(inputs, training=False))  # images have no tokens
        valid = tokens[0] >= 0 if tokens else tf.fill(tf.shape(x)[:2], True)
        length = tf.shape(valid)[1]
        changes = [tf.zeros((tf.shape(x)[0], block.heads, length, length)) for block in blocks]
        maps = []
        with tf.GradientTape() as tape:
            tape.watch(changes)
            for block, change in zip(blocks, changes):
                x, weights = block.with_weights(x, *tokens, change=change)
                maps.append(weights)
            tape.watch(x)
            scores = tf.cast(after([inputs, x], training=False), tf.float32)
            score = tf.gather(scores, index, axis=1, batch_dims=1)
        *slopes, states = tape.gradient(score, [*changes, x])
        used = tf.cast(valid, tf.float32) * tf.cast(tf.reduce_any(states != 0, -1), tf.float32)
        return maps, slopes, valid, tf.math.divide_no_nan(used, tf.reduce_sum(used, 1, keepdims=True))

    return walk


def _on_grid(network):
    """Returns a function (inputs, flow (B, T)) -> flow, as (B, h, w) for the patches of images."""
    if not any(isinstance(layer, VisionBlock) for layer in network.layers):
        return lambda inputs, flow: flow
    pixels = network.get_layer("pixels")

    def on_grid(inputs, flow):
        height, width = patch_grid(inputs, pixels.patch, pixels.side)
        return tf.reshape(flow[:, -height * width :], (-1, height, width))

    return on_grid
