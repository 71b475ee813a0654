"""Speech encoders: functional graphs from waveforms to features, with 50 hidden states per second inside.

A front end computes features of frames of 20 ms: strided convolutions on the samples (Baevski et al. 2020,
wav2vec 2.0, section 2), or a log-mel spectrogram by Keras' own layer. A bidirectional context network, a
transformer or a recurrent one, turns these into states, the layer "norm".

The output is the means of the states over a few equal segments of the clip, concatenated, so that features
keep the order of sounds.

A sample of −1 is padding, and must come after the clip. Frame t covers the samples t·hop … (t+1)·hop and a few
around them or, with mel, 32 ms around sample t·hop. It belongs to the clip if sample t·hop does. Samples
outside the clip count as silence (except that mel reflects the clip's beginning), so the amount of padding
has no effect.

Departures from wav2vec 2.0: four convolutions instead of seven, the first two with kernels of twice their
stride, the others of their stride. Neighboring frames thus share only 16% of their samples at 8 kHz and 8% at
16 kHz, so that a masked frame cannot be read from its neighbors. Each convolution is followed by an RMS norm
per frame, since group norm over time would depend on padding. The transformer has rotary positions instead of a
convolution. There is no dropout.

Shapes: `B` batch, `L` samples, `T` = ⌈L/hop⌉ frames, `C` channels of the front end, `D` width, `P` segments.
"""

import math
import typing
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.ranges import Range
from ssl_keras.networks.attention import rms_norm
from ssl_keras.networks.recurrent import Recurrent
from ssl_keras.networks.transformer import Block, FinalNorm

FRAMES_PER_SECOND = 50
STRIDES = {8_000: (5, 4, 4, 2), 16_000: (5, 4, 4, 4)}  # by rate in Hz; the hop is their product
KERNEL_RATIOS = (2, 2, 1, 1)  # kernel size over stride
FRONTS, CONTEXTS = ("convolution", "mel"), ("transformer", "recurrent")
MEL_BINS, MEL_WINDOW = 40, 0.032  # bands of the spectrogram, and seconds
# Floor of a band's power, for clips of unit variance. Far below the loudest bands there is only noise of the room and
# the microphone: a floor of 1e-5 costs an untrained network 7 to 12 points of digit accuracy on a new speaker.
MIN_POWER = 1e-2
EPSILON = 1e-5
MAX_LAYERS, MAX_SEGMENTS = 64, 64
SILENCE = 1e-4  # standard deviation below which a clip is not amplified to unit variance


def waveform_encoder(
    rate: Literal[*STRIDES],
    width: Annotated[int, Range(2, 1 << 12)],
    layers: Annotated[int, Range(1, MAX_LAYERS)],
    heads: Annotated[int, Range(1, 1 << 12)],
    *,
    channels: Annotated[int, Range(1, 1 << 12)] = 64,
    frontend: Literal[*FRONTS] = "convolution",
    context: Literal[*CONTEXTS] = "transformer",
    pool_segments: Annotated[int, Range(1, MAX_SEGMENTS)] = 4,
    name="encoder",
):
    """Returns a speech encoder, waveforms (B, L) in (−1, 1), −1 for padding -> features (B, pool_segments·width).

    Args:
        rate: sampling rate, 8000 or 16000 Hz.
        width: D, hidden size of the context network.
        layers, heads: layers of the context network, and attention heads per layer of a transformer.
        channels: C, features per frame of the front end.
        frontend: "convolution" or "mel".
        context: "transformer" or "recurrent".
        pool_segments: P, equal segments of a clip over which the states are averaged.
        name: name of the graph.
    """
    if rate not in STRIDES:
        raise ValueError(f"rate must be {' or '.join(map(str, STRIDES))} Hz. Received: {rate}")
    for value, choices, argument in ((frontend, FRONTS, "frontend"), (context, CONTEXTS, "context")):
        if value not in choices:
            raise ValueError(f"{argument} must be {' or '.join(choices)}. Received: {value!r}")
    waveform = keras.Input((None,), dtype="float32", name="waveform")
    places = Frames(rate // FRAMES_PER_SECOND, name="frames")(waveform)
    x = Normalized(name="normalised")(waveform)
    x = (
        Convolutions(channels, STRIDES[rate], name="front")(x)
        if frontend == "convolution"
        else (Spectrogram(channels, rate, name="front")(x, places))
    )
    x = FinalNorm("gpt2", EPSILON, dtype="float32", name="features")(x)  # (B, T, C), which wav2vec2 quantizes
    x = keras.layers.Dense(width, name="project")(x)
    for index in range(layers):
        if context == "transformer":
            block = Block(heads, 4 * width, layers, "modern", False, EPSILON, False, name=f"block_{index}")
        else:
            block = Recurrent(width, "gru", True, name=f"recurrent_{index}")
        x = block(x, places)
    x = FinalNorm("gpt2", EPSILON, dtype="float32", name="norm")(x)
    return keras.Model(waveform, Stretches(pool_segments, dtype="float32", name="stretches")(x, places), name=name)


class Parts(typing.NamedTuple):
    """Named layers of a graph of `waveform_encoder`; `blocks` are the context network's, in order."""

    frames: "Frames"
    normalised: "Normalized"
    front: keras.layers.Layer
    features: keras.layers.Layer
    project: keras.layers.Layer
    blocks: list
    norm: keras.layers.Layer


def parts(encoder):
    """Returns the `Parts` of a graph. Raises ValueError if it is not a graph of `waveform_encoder`."""
    layers = {layer.name: layer for layer in encoder.layers}
    names = [name for name in Parts._fields if name != "blocks"]
    if not set(names) <= layers.keys():
        raise ValueError(
            "The encoder must be a graph of networks.waveform.waveform_encoder, since its layers are used one by one. "
            f"Received: layers {sorted(layers)[:5]}"
        )
    blocks = [layer for layer in encoder.layers if isinstance(layer, Block | Recurrent)]
    return Parts(**{name: layers[name] for name in names}, blocks=blocks)


def rate_of(encoder):
    """Returns the sampling rate, in Hz, of the clips that a graph takes."""
    return parts(encoder).frames.hop * FRAMES_PER_SECOND


def frame_classifier(width: Annotated[int, Range(1, 1 << 16)], symbols: Annotated[int, Range(1, 1 << 16)], name="head"):
    """Returns a linear classifier per frame, (B, T, width) -> logits (B, T, 1 + symbols) float32, the blank first."""
    states = keras.Input((None, width), name="states")
    logits = keras.layers.Dense(1 + symbols, dtype="float32", name="logits")(states)
    return keras.Model(states, logits, name=name)


def features(encoder, waveform):
    """Runs the front end on waveforms (B, L): features (B, T, C), and places (B, T) int32, 0, or −1 for padding."""
    named = parts(encoder)
    places, x = named.frames(waveform), named.normalised(waveform)
    x = named.front(x) if isinstance(named.front, Convolutions) else named.front(x, places)
    return named.features(x), places


def context(encoder, features, places, mask=None):
    """Runs the context network: states (B, T, D). The optional function `mask` is applied to its input (B, T, D)."""
    named = parts(encoder)
    x = named.project(features)
    x = x if mask is None else mask(x)
    for block in named.blocks:
        x = block(x, places)
    return named.norm(x)


def receptive_field(strides):
    """Returns the number of samples that the convolutions of one frame cover."""
    samples = 1
    for stride, ratio in zip(reversed(strides), reversed(KERNEL_RATIOS)):
        samples = (samples - 1) * stride + ratio * stride
    return samples


@keras.saving.register_keras_serializable("ssl_keras")
class Frames(keras.layers.Layer):
    """Marks the frames of waveforms, (B, L) -> (B, T) int32: 0 for a frame of the clip, −1 for padding."""

    def __init__(self, hop, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.hop = hop

    def call(self, waveform):
        frames = -(-tf.shape(waveform)[1] // self.hop)
        samples = tf.reduce_sum(tf.cast(waveform > -1, tf.int32), axis=1, keepdims=True)
        return tf.where(tf.range(frames) * self.hop < samples, 0, -1)

    def compute_output_spec(self, waveform):
        return keras.KerasTensor((waveform.shape[0], None), "int32")

    def get_config(self):
        return super().get_config() | {"hop": self.hop}


@keras.saving.register_keras_serializable("ssl_keras", name="Normalised")  # the name in saved models
class Normalized(keras.layers.Layer):
    """Normalizes clips to mean 0 and variance 1, and sets padding to 0: (B, L) -> (B, L) float32."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, waveform):
        valid = tf.cast(waveform > -1, tf.float32)
        count = tf.reduce_sum(valid, 1, keepdims=True)
        mean = tf.math.divide_no_nan(tf.reduce_sum(waveform * valid, 1, keepdims=True), count)
        centered = (waveform - mean) * valid
        variance = tf.math.divide_no_nan(tf.reduce_sum(tf.square(centered), 1, keepdims=True), count)
        return centered * tf.math.rsqrt(variance + SILENCE**2)


@keras.saving.register_keras_serializable("ssl_keras")
class Convolutions(keras.layers.Layer):
    """Convolutional front end, samples (B, L) -> (B, T, C): convolutions without bias, each with RMS norm and GELU."""

    def __init__(self, channels, strides, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.channels, self.strides = channels, tuple(strides)

    def build(self, shape):
        widths = (1, *[self.channels] * len(self.strides))
        self.kernels = [
            self.add_weight((ratio * stride, inputs, self.channels), "he_normal", name=f"kernel_{index}")
            for index, (stride, ratio, inputs) in enumerate(zip(self.strides, KERNEL_RATIOS, widths))
        ]
        self.scales = [
            self.add_weight((self.channels,), "ones", name=f"scale_{index}") for index in range(len(self.strides))
        ]

    def call(self, x):
        hop, covered = math.prod(self.strides), receptive_field(self.strides)
        before = (covered - hop) // 2
        length = tf.shape(x)[1]
        whole = -(-length // hop) * hop  # T frames
        x = tf.pad(x, [[0, 0], [before, whole - length + covered - hop - before]])[..., None]
        x = tf.cast(x, self.compute_dtype)
        for kernel, scale, stride in zip(self.kernels, self.scales, self.strides):
            x = tf.nn.conv1d(x, tf.cast(kernel, x.dtype), stride, "VALID")
            x = tf.nn.gelu(rms_norm(x, EPSILON) * tf.cast(scale, x.dtype), approximate=True)
        return x

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], None, self.channels), self.compute_dtype)

    def get_config(self):
        return super().get_config() | {"channels": self.channels, "strides": self.strides}


@keras.saving.register_keras_serializable("ssl_keras")
class LogMel(keras.layers.Layer):
    """Log-mel spectrogram by Keras' layer, silence 0: samples (B, L), places (B, T) -> (B, T, bands)."""

    def __init__(self, rate, **kwargs):
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self.rate = rate
        # Keras' decibels have a floor relative to the loudest clip of the batch, so clips would affect each other.
        self.mel = keras.layers.MelSpectrogram(
            fft_length=int(MEL_WINDOW * rate),
            sequence_stride=rate // FRAMES_PER_SECOND,
            sampling_rate=rate,
            num_mel_bins=MEL_BINS,
            power_to_db=False,
            dtype="float32",
        )
        self.built = True

    def call(self, x, places):
        x = tf.pad(x, [[0, 0], [0, self.mel.fft_length]])  # so that the layer reflects silence at the end
        x = tf.transpose(self.mel(x), (0, 2, 1))[:, : tf.shape(places)[1]]
        x = tf.math.log(tf.maximum(x / self.mel.fft_length, MIN_POWER) / MIN_POWER)
        return tf.where((places >= 0)[..., None], x / 10.0, 0.0)

    def compute_output_spec(self, x, places):
        return keras.KerasTensor((*places.shape, MEL_BINS), "float32")

    def get_config(self):
        config = super().get_config() | {"rate": self.rate}
        del config["dtype"]
        return config


@keras.saving.register_keras_serializable("ssl_keras")
class Spectrogram(keras.layers.Layer):
    """Spectral front end, samples (B, L), places (B, T) -> (B, T, C): `LogMel`, and a dense layer with GELU per frame.

    Each band's mean over the clip, which depends on microphone and voice, is subtracted first (Atal 1974).
    """

    def __init__(self, channels, rate, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.channels, self.rate, self.log_mel = channels, rate, LogMel(rate)

    def build(self, x_shape, places_shape):
        self.kernel = self.add_weight((MEL_BINS, self.channels), "he_normal", name="kernel")
        self.bias = self.add_weight((self.channels,), "zeros", name="bias")

    def call(self, x, places):
        return self.of_bands(self.log_mel(x, places), places)

    def of_bands(self, x, places):
        """Computes the features (B, T, C) of a log-mel spectrogram (B, T, bands)."""
        valid = tf.cast(places >= 0, tf.float32)[..., None]
        mean = tf.math.divide_no_nan(tf.reduce_sum(x * valid, 1, keepdims=True), tf.reduce_sum(valid, 1, keepdims=True))
        x = (x - mean) * valid
        x = tf.tensordot(tf.cast(x, self.compute_dtype), tf.cast(self.kernel, self.compute_dtype), 1)
        return tf.nn.gelu(x + tf.cast(self.bias, x.dtype), approximate=True)

    def compute_output_spec(self, x, places):
        return keras.KerasTensor((*places.shape, self.channels), self.compute_dtype)

    def get_config(self):
        return super().get_config() | {"channels": self.channels, "rate": self.rate}


@keras.saving.register_keras_serializable("ssl_keras")
class Stretches(keras.layers.Layer):
    """Averages states over P equal segments of each clip: (B, T, D), places (B, T) -> (B, P·D).

    A frame that lies in two segments counts in both, so segments of a clip with fewer than P frames are not empty.
    """

    def __init__(self, count, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.count = count

    def call(self, x, places):
        frames = tf.reduce_sum(tf.cast(places >= 0, tf.int32), 1)[:, None, None]  # (B, 1, 1)
        part = tf.range(self.count)[None, :, None]  # (1, P, 1)
        first, last = part * frames // self.count, -(-(part + 1) * frames // self.count)
        t = tf.range(tf.shape(x)[1])
        inside = tf.cast((t >= first) & (t < last), x.dtype)  # (B, P, T)
        weights = tf.math.divide_no_nan(inside, tf.reduce_sum(inside, -1, keepdims=True))
        return tf.reshape(tf.matmul(weights, x), (-1, self.count * x.shape[-1]))

    def compute_output_spec(self, x, places):
        return keras.KerasTensor((x.shape[0], self.count * x.shape[-1]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | {"count": self.count}
