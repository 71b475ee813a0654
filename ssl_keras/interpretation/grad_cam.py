"""Grad-CAM (Selvaraju et al. 2017): where the last convolutional map supports a score.

The map's channels are weighted by the mean of the score's gradient over all places; their sum is cut off below 0
(equations 1 and 2). The result has the map's few places, enlarged to those of the input: it is a coarse picture, and no
attribution of single pixels.

Shapes: `B` batch, `h w` places of a map, `C` channels, `T` frames.
"""

import keras
import numpy as np
import tensorflow as tf

from ssl_keras.interpretation.gradients import MAX_ROWS
from ssl_keras.networks import conv
from ssl_keras.networks.waveform import Convolutions

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)


def map_layer(network):
    """Returns the layer whose output is the last convolutional map: the last stage, or the last convolution.

    Raises:
        ValueError: the network has no convolutions.
    """
    stages = [layer for layer in network.layers if conv.STAGE.fullmatch(layer.name)]
    if stages:
        return max(stages, key=lambda layer: int(layer.name[6:]))
    found = [layer for layer in network.layers if isinstance(layer, (*CONVOLUTIONS, Convolutions))]
    if not found:
        raise ValueError(
            "Grad-CAM needs a network with convolutions. Received: layers "
            f"{[layer.name for layer in network.layers][:5]}. Use integrated gradients or occlusion, which work for "
            "every network."
        )
    return found[-1]


def grad_cam(network, layer=None):
    """Compiles Grad-CAM of a graph from inputs to scores (B, K).

    Args:
        network: functional graph, such as `Output.graph`.
        layer: name of the layer with the map; by default that of `map_layer`.

    Returns:
        A function (inputs (B, …), index (B,)) -> float32 (B, h, w), or (B, T) for audio, at least 0.
    """
    layer = network.get_layer(layer) if layer else map_layer(network)
    if len(layer.output.shape) not in (3, 4):
        raise ValueError(f"Expected a layer with a map. Received: {layer.name} of shape {layer.output.shape}")
    both = keras.Model(network.input, [layer.output, network.output])
    after = keras.Model([network.input, layer.output], network.output)

    @tf.function(
        input_signature=[tf.TensorSpec(network.input.shape, network.input.dtype), tf.TensorSpec((None,), tf.int32)],
        autograph=False,
    )
    def run(inputs, index):
        maps = tf.cast(both(inputs, training=False)[0], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            scores = tf.cast(after([inputs, maps], training=False), tf.float32)
            score = tf.gather(scores, index, axis=1, batch_dims=1)
        weights = tf.reduce_mean(tape.gradient(score, maps), axis=tuple(range(1, len(maps.shape) - 1)), keepdims=True)
        return tf.nn.relu(tf.reduce_sum(weights * maps, -1))

    def chunked(inputs, index):
        inputs, index = np.asarray(inputs), np.asarray(index, np.int32)
        parts = [slice(start, start + MAX_ROWS) for start in range(0, len(inputs), MAX_ROWS)]
        return np.concatenate([run(inputs[part], index[part]).numpy() for part in parts])

    return chunked


def enlarge(maps, shape):
    """Enlarges maps (B, h, w) bilinearly to the pixels of images, or (B, T) to samples or bands: (B, *shape)."""
    if maps.ndim == 3:
        return tf.image.resize(maps[..., None], shape)[..., 0].numpy()
    place = (np.arange(shape[0]) * maps.shape[1] // shape[0]).clip(0, maps.shape[1] - 1)
    return np.broadcast_to(maps[:, place].reshape(len(maps), -1, *[1] * (len(shape) - 1)), (len(maps), *shape))
