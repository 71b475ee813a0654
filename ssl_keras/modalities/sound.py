"""What the objectives for sound share: their network as settings, and the check of the data.

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

NETWORK = {  # setting: keyword of the network that comes with `init`
    "rate": "rate",
    "frontend": "frontend",
    "context": "context",
    "channels": "channels",
    "width": "width",
    "layers": "layers",
    "heads": "heads",
    "pool_segments": "pool_segments",
}
PIXELS = 2  # a frame's and a band's side in a picture


@dataclasses.dataclass(frozen=True)
class Settings(augment_audio.AudioAugmentation):
    """A network for waveforms, and how these are changed."""

    rate: Literal[0, *waveform.STRIDES] = 0
    """8000 or 16000 Hz, to which other sound is resampled; 0 is that of the data, or 16000."""
    frontend: Literal[*waveform.FRONTS] = "convolution"
    """What makes features of samples: convolution, or mel (a log-mel spectrogram)."""
    context: Literal[*waveform.CONTEXTS] = "transformer"
    """What reads the features: transformer or recurrent."""
    channels: Annotated[int, Range(1, 1 << 12)] = 128
    """Features of a frame."""
    width: Annotated[int, Range(2, 1 << 12)] = 128
    """Of the context network."""
    layers: Annotated[int, Range(1, waveform.MAX_LAYERS)] = 3
    """Of the context network."""
    heads: Annotated[int, Range(1, 1 << 12)] = 4
    """Of a transformer."""
    pool_segments: Annotated[int, Range(1, waveform.MAX_SEGMENTS)] = 4
    """A clip's features are the means of so many stretches of it."""
    seconds: Annotated[float, Range(0.1, audio.LONGEST)] = 2.0
    """The longest clip that a training step takes."""

    def __post_init__(self):
        super().__post_init__()
        if self.width % 2 or (self.context == "transformer" and self.width % (2 * self.heads)):
            raise ValueError(f"width must be an even multiple of heads. Received: {self.width}, {self.heads}")

    @property
    def samples(self):
        """The most samples of a clip that a step takes, before they are changed."""
        return round(self.seconds * self.rate)

    @property
    def frames(self):
        """The most frames that a step has of a clip, once it is changed."""
        return int((self.seconds * (1 + self.speed) + self.shift) * waveform.FRAMES_PER_SECOND) + 2


def prepare(settings, splits, init=None):
    """Clips at the encoder's rate; the settings with what the data and `init` decide.

    Raises:
        ValueError: no sound; a network asked for that is not that of `init`.
    """
    splits.train.column_spec("waveform")
    if init is not None:
        kept, _ = start_from(
            init,
            settings,
            ("waveform",),
            NETWORK,
            "is no encoder of sound. Expected one that pretraining with wav2vec2 or ctc saved.",
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
    """The encoder, waveforms (B, L) -> features (B, stretches·D), as a `Network`."""
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
    """The graph that `build` was given, see `realize`.

    Raises:
        ValueError: its parts are not a `waveform_encoder`'s; it takes another sampling rate.
    """
    network = realize(encoder, settings, spec)
    rate = waveform.rate_of(network)
    if rate != settings.rate:
        raise ValueError(
            f"The encoder hears at {rate} Hz. Expected that in the settings: prepare(settings, splits) sets it. "
            f"Received: {settings.rate}"
        )
    return network


def spectrograms(encoder, rate, x, shown=None):
    """Log-mel spectrograms of waveforms (B, L) as images (B, ·, ·, 1) in [0, 1], low tones below.

    Args:
        shown: (B, T) bool, the frames that are not blacked out, or None.
    """
    places = encoder.get_layer("frames")(x)
    bands = waveform.LogMel(rate)(encoder.get_layer("normalised")(x), places)
    image = tf.clip_by_value(tf.transpose(bands, (0, 2, 1))[:, ::-1, :, None], 0.0, 1.0)
    if shown is not None:
        image *= tf.cast(shown, tf.float32)[:, None, :, None]
    return framed(image)


def framed(image):
    """(B, H, T, 1) -> larger images, with a gray frame: a column for each frame of a clip."""
    return pictures.enlarged(image, PIXELS, frame=1)
