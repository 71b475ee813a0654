"""Speech: functional graphs from waveforms to hidden states, 50 a second.

A front end makes features of frames of 20 ms: strided convolutions on the samples (Baevski et al. 2020,
wav2vec 2.0, section 2), or a log-mel spectrogram by Keras' own layer.
A context network, a transformer or a recurrent one, reads these both ways.

What comes out are the means of a few stretches of the clip, one after the other, so that features know
what came first; the frames' states are the layer "norm".

A sample of −1 is padding: it must come after the clip. Frame t is of samples t·hop … (t+1)·hop, with little
on both sides of them, or (mel) of 32 ms around the first of them, and belongs to the clip where the first
does. After the clip is silence (before it, too, but that mel reflects its beginning); so padding, however
long, changes nothing.

Departures from wav2vec 2.0: four convolutions for seven, with kernels of twice their stride, then of their
stride (neighboring frames share 16% of their samples at 8 kHz, 8% at 16 kHz: a hidden one is not to be read
off its neighbors), each followed by the RMS norm of every frame by itself (group norm over time would see
padding); rotary positions in the transformer instead of a
convolution; no dropout.

Shapes: `B` batch, `L` samples, `T` = ⌈L/hop⌉ frames, `C` channels of the front end, `D` width, `P` stretches.
"""

import math
import typing
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.ranges import Range
from ssl_keras.networks.recurrent import Recurrent
from ssl_keras.networks.transformer import Block, FinalNorm, rms_norm

FRAMES_PER_SECOND = 50
STRIDES = {8_000: (5, 4, 4, 2), 16_000: (5, 4, 4, 4)}  # by rate in Hz; the hop is their product
LONGER = (2, 2, 1, 1)  # kernels over strides
FRONTS, CONTEXTS = ("convolution", "mel"), ("transformer", "recurrent")
MEL_BINS, MEL_WINDOW = 40, 0.032  # of the spectrogram: bands, seconds
# Of a clip of unit variance. What lies far below its loudest is the room's and the microphone's: a floor of 1e-5 costs
# an untrained network 7 to 12 points at telling digits by a voice that its probe has not heard.
MIN_POWER = 1e-2
EPSILON = 1e-5
MAX_LAYERS, MAX_SEGMENTS = 64, 64
SILENCE = 1e-4  # standard deviation below which a clip is not made louder


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
    """Waveforms (B, L) float32 in (−1, 1), −1 for padding -> features (B, pool_segments·width) float32.

    Args:
        rate: 8000 or 16000 Hz.
        width: D. layers, heads: of the context network (a recurrent one has no heads).
        channels: C.
        frontend: "convolution" or "mel". context: "transformer" or "recurrent".
        pool_segments: P, equal parts of a clip over each of which the states are averaged.
        name: of the graph.
    """
    if rate not in STRIDES:
        raise ValueError(f"rate must be {' or '.join(map(str, STRIDES))} Hz. Received: {rate}")
    for value, choices, what in ((frontend, FRONTS, "frontend"), (context, CONTEXTS, "context")):
        if value not in choices:
            raise ValueError(f"{what} must be {' or '.join(choices)}. Received: {value!r}")
    waveform = keras.Input((None,), dtype="float32", name="waveform")
    places = Frames(rate // FRAMES_PER_SECOND, name="frames")(waveform)
    x = Normalized(name="normalised")(waveform)
    x = (
        Convolutions(channels, STRIDES[rate], name="front")(x)
        if frontend == "convolution"
        else (Spectrogram(channels, rate, name="front")(x, places))
    )
    x = FinalNorm("gpt2", EPSILON, dtype="float32", name="features")(x)  # (B, T, C), what targets are made of
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
    """The named layers of a graph of `waveform_encoder`; `blocks` are those of its context network, in order."""

    frames: "Frames"
    normalised: "Normalized"
    front: keras.layers.Layer
    features: keras.layers.Layer
    project: keras.layers.Layer
    blocks: list
    norm: keras.layers.Layer


def parts(encoder):
    """The `Parts` of a graph. Raises ValueError where it is not one of `waveform_encoder`'s."""
    layers = {layer.name: layer for layer in encoder.layers}
    names = [name for name in Parts._fields if name != "blocks"]
    if not set(names) <= layers.keys():
        raise ValueError(
            "The encoder must be a graph of networks.waveform.waveform_encoder: its parts are needed for more than "
            f"calling it. Received: layers {sorted(layers)[:5]}"
        )
    blocks = [layer for layer in encoder.layers if isinstance(layer, Block | Recurrent)]
    return Parts(**{name: layers[name] for name in names}, blocks=blocks)


def rate_of(encoder):
    """The sampling rate, in Hz, of the clips that a graph takes."""
    return parts(encoder).frames.hop * FRAMES_PER_SECOND


def frame_classifier(width: Annotated[int, Range(1, 1 << 16)], symbols: Annotated[int, Range(1, 1 << 16)], name="head"):
    """States (B, T, width) -> logits (B, T, 1 + symbols) float32 of each frame, the blank first."""
    states = keras.Input((None, width), name="states")
    logits = keras.layers.Dense(1 + symbols, dtype="float32", name="logits")(states)
    return keras.Model(states, logits, name=name)


def features(encoder, waveform):
    """(features (B, T, C), places (B, T) int32 0, or −1 for padding) of waveforms (B, L): the front end alone."""
    named = parts(encoder)
    places, x = named.frames(waveform), named.normalised(waveform)
    x = named.front(x) if isinstance(named.front, Convolutions) else named.front(x, places)
    return named.features(x), places


def context(encoder, features, places, hide=None):
    """The rest: hidden states (B, T, D); `hide` is done to the projected features (B, T, D) before."""
    named = parts(encoder)
    x = named.project(features)
    x = x if hide is None else hide(x)
    for block in named.blocks:
        x = block(x, places)
    return named.norm(x)


def field(strides):
    """How many samples the convolutions see for one frame."""
    samples = 1
    for stride, longer in zip(reversed(strides), reversed(LONGER)):
        samples = (samples - 1) * stride + longer * stride
    return samples


@keras.saving.register_keras_serializable("ssl_keras")
class Frames(keras.layers.Layer):
    """Waveforms (B, L) -> (B, T) int32: 0 for a frame of the clip, −1 for padding; as tokens are told apart."""

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


@keras.saving.register_keras_serializable("ssl_keras", name="Normalised")  # as saved models have it
class Normalized(keras.layers.Layer):
    """Waveforms of mean 0 and variance 1 over the clip, and 0 in its padding: (B, L) -> (B, L) float32."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)

    def call(self, waveform):
        valid = tf.cast(waveform > -1, tf.float32)
        count = tf.reduce_sum(valid, 1, keepdims=True)
        mean = tf.math.divide_no_nan(tf.reduce_sum(waveform * valid, 1, keepdims=True), count)
        centerd = (waveform - mean) * valid
        variance = tf.math.divide_no_nan(tf.reduce_sum(tf.square(centerd), 1, keepdims=True), count)
        return centerd * tf.math.rsqrt(variance + SILENCE**2)


@keras.saving.register_keras_serializable("ssl_keras")
class Convolutions(keras.layers.Layer):
    """Samples (B, L) -> (B, T, C): convolutions without bias, each with RMS norm and GELU; silence all round."""

    def __init__(self, channels, strides, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.channels, self.strides = channels, tuple(strides)

    def build(self, shape):
        widths = (1, *[self.channels] * len(self.strides))
        self.kernels = [
            self.add_weight((longer * stride, inputs, self.channels), "he_normal", name=f"kernel_{index}")
            for index, (stride, longer, inputs) in enumerate(zip(self.strides, LONGER, widths))
        ]
        self.scales = [
            self.add_weight((self.channels,), "ones", name=f"scale_{index}") for index in range(len(self.strides))
        ]

    def call(self, x):
        hop, seen = math.prod(self.strides), field(self.strides)
        before = (seen - hop) // 2
        length = tf.shape(x)[1]
        whole = -(-length // hop) * hop  # T frames
        x = tf.pad(x, [[0, 0], [before, whole - length + seen - hop - before]])[..., None]
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
    """Samples (B, L), places (B, T) -> (B, T, bands): log-mel bands by `keras.layers.MelSpectrogram`; silence is 0."""

    def __init__(self, rate, **kwargs):
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self.rate = rate
        # In decibels Keras would cut at a level below the batch's loudest: one clip would change another's.
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
        x = tf.pad(x, [[0, 0], [0, self.mel.fft_length]])  # its reflection at the end is then one of silence
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
    """Samples (B, L), places (B, T) -> (B, T, C): `LogMel`, and a layer with GELU over each frame's bands.

    Each band's mean over the clip is taken out first (Atal 1974): it is the microphone's and the voice's.
    """

    def __init__(self, channels, rate, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.channels, self.rate, self.log_mel = channels, rate, LogMel(rate)

    def build(self, x_shape, places_shape):
        self.kernel = self.add_weight((MEL_BINS, self.channels), "he_normal", name="kernel")
        self.bias = self.add_weight((self.channels,), "zeros", name="bias")

    def call(self, x, places):
        x, valid = self.log_mel(x, places), tf.cast(places >= 0, tf.float32)[..., None]
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
    """The means of P equal stretches of the clip's frames: (B, T, D), places (B, T) -> (B, P·D).

    Frames that lie in two stretches count in both, so that a clip of fewer frames than stretches has no empty one.
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
        share = tf.math.divide_no_nan(inside, tf.reduce_sum(inside, -1, keepdims=True))
        return tf.reshape(tf.matmul(share, x), (-1, self.count * x.shape[-1]))

    def compute_output_spec(self, x, places):
        return keras.KerasTensor((x.shape[0], self.count * x.shape[-1]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | {"count": self.count}
