"""Network inputs: the only place that distinguishes images, tokens and waveforms."""

import tensorflow as tf

from ssl_keras.data import audio, augment_audio
from ssl_keras.data.images import unit_range

COLUMNS = ("image", "tokens", "waveform")


def column(names):
    """Returns the name of the network's input among the columns of a source, batch or card.

    Raises:
        ValueError: There is none, as in text that is not tokenized.
    """
    for name in COLUMNS:
        if name in names:
            return name
    raise ValueError(f"Expected one of the columns {', '.join(COLUMNS)}. Received: {', '.join(names)}")


def network_input(batch):
    """Returns the input of a batch: images (B, H, W, C) float32 in [0, 1], tokens (B, T) int32, or waveforms (B, L)
    float32 in (−1, 1), trimmed to the longest clip."""
    name = column(batch)
    if name == "waveform":
        return augment_audio.trimmed(audio.unit_range(batch[name]))
    return unit_range(batch[name]) if name == "image" else batch[name]


def augment_waveforms(batch, random, changes, rate, longest):
    """Augments the waveforms of a batch; the arguments are those of `augment_audio.change`."""
    return batch | {"waveform": augment_audio.change(network_input(batch), random, changes, rate, longest)}


def signature(network):
    """Returns the `tf.TensorSpec` of the input of a functional model with one input."""
    return tf.TensorSpec(network.input.shape, network.input.dtype)
