"""What a network is given: the one place that tells images, tokens and waveforms apart."""

import tensorflow as tf

from ssl_keras.data import audio, augment_audio
from ssl_keras.data.images import unit_range

COLUMNS = ("image", "tokens", "waveform")


def column(names):
    """Which of a source's, a batch's or a card's names is the network's input.

    Raises:
        ValueError: none of them (text that has not been tokenized, say).
    """
    for name in COLUMNS:
        if name in names:
            return name
    raise ValueError(f"Expected a column {', '.join(COLUMNS)}. Received: {', '.join(names)}")


def network_input(batch):
    """The input of a batch: images float32 in [0, 1] (B, H, W, C), tokens int32 (B, T), or waveforms float32 in
    (−1, 1) (B, L), as short as the longest."""
    name = column(batch)
    if name == "waveform":
        return augment_audio.trimmed(audio.unit_range(batch[name]))
    return unit_range(batch[name]) if name == "image" else batch[name]


def changed(batch, random, changes, rate, longest):
    """The batch with its waveforms changed as `AudioAugmentation` say; `rate` in Hz, `longest` as `change` has it."""
    return batch | {"waveform": augment_audio.change(network_input(batch), random, changes, rate, longest)}


def signature(network):
    """The `tf.TensorSpec` of a functional graph's one input."""
    return tf.TensorSpec(network.input.shape, network.input.dtype)
