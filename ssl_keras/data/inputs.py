"""What a network is given: the one place that tells images from tokens."""

import tensorflow as tf

from ssl_keras.data.images import unit_range

COLUMNS = ("image", "tokens")


def column(names):
    """Which of a source's, a batch's or a card's names is the network's input.

    Raises:
        ValueError: none of them (text that has not been tokenised, say).
    """
    for name in COLUMNS:
        if name in names:
            return name
    raise ValueError(f"Expected a column {' or '.join(COLUMNS)}. Received: {', '.join(names)}")


def network_input(batch):
    """The input of a batch: images float32 in [0, 1] (B, H, W, C), or tokens int32 (B, T)."""
    name = column(batch)
    return unit_range(batch[name]) if name == "image" else batch[name]


def signature(network):
    """The `tf.TensorSpec` of a functional graph's one input."""
    return tf.TensorSpec(network.input.shape, network.input.dtype)
