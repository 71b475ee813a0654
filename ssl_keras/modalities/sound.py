"""Shared by the speech objectives: settings of the encoder, preparation of clips, spectrograms.

Shapes: `B` batch, `L` samples, `T` frames of 20 ms, `D` width.
"""

import dataclasses
from typing import Annotated, Literal

import tensorflow as tf

from ssl_keras import pictures
from ssl_keras.data import audio, augment_audio
from ssl_keras.data.ranges import Range
from ssl_keras.data.splits import Splits
from ssl_keras.modalities.settings import start_from
from ssl_keras.networks import Network, realize, waveform

NETWORK = {  # setting: keyword of the --init encoder's network
    "rate": "rate",
    "frontend": "frontend",
    "context": "context",
    "channels": "channels",
    "width": "width",
    "layers": "layers",
    "heads": "heads",
    "pool_segments": "pool_segments",
}
PIXELS = 2  # side of a frame and band in a picture


@dataclasses.dataclass(frozen=True)
class Settings(augment_audio.AudioAugmentation):
    """The waveform encoder, and the augmentation of its clips."""

    rate: Literal[0, *waveform.STRIDES] = 0
    """Sampling rate, in Hz, to which clips are resampled. 0 keeps the data's rate if it is listed, else uses 16000."""
    frontend: Literal[*waveform.FRONTS] = "convolution"
    """Front end of the encoder: convolutions on the samples, or a log-mel spectrogram."""
    context: Literal[*waveform.CONTEXTS] = "transformer"
    """Context network, on top of the front end."""
    channels: Annotated[int, Range(1, 1 << 12)] = 128
    """Number of features per frame from the front end."""
    width: Annotated[int, Range(2, 1 << 12)] = 128
    """Hidden size of the context network. Must be even and, for a transformer, a multiple of twice --heads."""
    layers: Annotated[int, Range(1, waveform.MAX_LAYERS)] = 3
    """Number of layers in the context network."""
    heads: Annotated[int, Range(1, 1 << 12)] = 4
    """Number of attention heads per layer (context transformer)."""
    pool_segments: Annotated[int, Range(1, waveform.MAX_SEGMENTS)] = 4
    """Number of equal segments of a clip. Frames are averaged over each segment, and the means are concatenated into
    the clip's features."""
    seconds: Annotated[float, Range(0.1, audio.LONGEST)] = 2.0
    """Maximum clip length in training, in seconds. Longer clips are cropped at random."""

    def __post_init__(self):
        super().__post_init__()
        if self.width % 2 or (self.context == "transformer" and self.width % (2 * self.heads)):
            raise ValueError(f"width must be an even multiple of heads. Received: {self.width}, {self.heads}")

    @property
    def samples(self):
        """The largest number of samples of a clip in a training step, before augmentation."""
        return round(self.seconds * self.rate)

    @property
    def frames(self):
        """The largest number of frames of a clip in a training step, after augmentation."""
        return int((self.seconds * (1 + self.speed) + self.shift) * waveform.FRAMES_PER_SECOND) + 2


def prepare(settings, splits, init=None):
    """Resamples clips to the encoder's rate; completes the settings with the rate and the network of `init`.

    Raises:
        ValueError: no audio; a setting contradicts the network of `init`.
    """
    splits.train.column_spec("waveform")
    if init is not None:
        kept, _ = start_from(
            init,
            settings,
            ("waveform",),
            NETWORK,
            "is not an encoder of sound. Expected an encoder saved by wav2vec2 or ctc.",
        )
        settings = dataclasses.replace(settings, **kept)
    if not settings.rate:
        rate = splits.train.rate if splits.train.rate in waveform.STRIDES else max(waveform.STRIDES)
        settings = dataclasses.replace(settings, rate=rate)
    splits, most = audio.resample_splits(splits, settings.rate), audio.LONGEST * settings.rate
    return settings, Splits(
        *(part.with_notes(*audio.long_clip_notes(part, most, "evaluation uses their beginning")) for part in splits)
    )


def encoder(settings, spec):
    """Returns the encoder, waveforms (B, L) -> features (B, pool_segments·D), as a `Network`."""
    return Network(
        "waveform",
        rate=settings.rate or max(waveform.STRIDES),
        width=settings.width,
        layers=settings.layers,
        heads=settings.heads,
        channels=settings.channels,
        frontend=settings.frontend,
        context=settings.context,
        pool_segments=settings.pool_segments,
    )


def chosen_encoder(settings, spec, encoder):
    """Returns the encoder given to `build` as a graph, see `realize`.

    Raises:
        ValueError: the graph is not one of `waveform_encoder`; its sampling rate is not the settings'.
    """
    network = realize(encoder, settings, spec)
    rate = waveform.rate_of(network)
    if rate != settings.rate:
        raise ValueError(
            f"The encoder takes clips at {rate} Hz. Expected the same rate in the settings; prepare(settings, splits) "
            f"sets it. Received: {settings.rate}"
        )
    return network


def spectrograms(encoder, rate, x, shown=None):
    """Returns log-mel spectrograms of waveforms (B, L) as images (B, ·, ·, 1) in [0, 1], low frequencies at the bottom.

    Frames for which `shown`, (B, T) bool or None, is False are black.
    """
    places = encoder.get_layer("frames")(x)
    bands = waveform.LogMel(rate)(encoder.get_layer("normalised")(x), places)
    image = tf.clip_by_value(tf.transpose(bands, (0, 2, 1))[:, ::-1, :, None], 0.0, 1.0)
    if shown is not None:
        image *= tf.cast(shown, tf.float32)[:, None, :, None]
    return framed(image)


def framed(image):
    """Enlarges images (B, H, T, 1) with one column per frame of a clip, and puts a gray border around them."""
    return pictures.enlarged(image, PIXELS, frame=1)
