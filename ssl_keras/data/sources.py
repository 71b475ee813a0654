"""Opens a data set by name; `READERS` has the names, and what reads them."""

import math
import pathlib
import re
import typing

import numpy as np
import tensorflow as tf

from ssl_keras.data import audio
from ssl_keras.data.readers import audio as audio_reader
from ssl_keras.data.readers import captions, espeak, image_files, pairs, tables, text
from ssl_keras.data.readers import images as image_reader
from ssl_keras.data.readers import tfds as tfds_reader
from ssl_keras.data.splits import hold_out, images
from ssl_keras.files import printable

MAX_SIDE = math.isqrt(image_files.MAX_PIXELS)  # of the largest square that is read


class Reader(typing.NamedTuple):
    """A kind of data.

    Attributes:
        read: function to `Splits` of the argument that follows the kind's name and a colon, if there is one, and of
            `image_size`, where it reads images.
        argument: what that is, "PATH" say; or nothing.
        content: what it reads, for messages.
        takes_image_size: whether images can be resized.
    """

    read: typing.Callable
    argument: str
    content: str
    takes_image_size: bool = False


READERS = {
    "digits": Reader(lambda image_size: hold_out(digits(image_size or 28)), "", "images", True),
    "folder": Reader(image_reader.load, "PATH", "images", True),
    "captions": Reader(captions.load, "FILE", "images with captions", True),
    "emoji": Reader(captions.emoji, "FOLDER", "images with captions", True),
    "pydoc": Reader(text.pydoc, "", "text"),
    "text": Reader(text.load_text, "PATH", "text"),
    "table": Reader(tables.load, "FILE", "text with labels"),
    "pairs": Reader(pairs.load, "FILE", "texts with targets"),
    "cmudict": Reader(pairs.cmudict, "", "texts with targets"),
    "audio": Reader(audio_reader.load, "PATH", "sound"),
    "transcripts": Reader(audio_reader.transcripts, "FILE", "sound with transcripts"),
    "connected": Reader(lambda data: audio.connected(load(data)), "DATA", "sound with transcripts"),
    "espeak": Reader(espeak.load, "", "synthetic sound"),
    "tfds": Reader(tfds_reader.load, "NAME", "images, captions, text, translations, sound", True),
}


def names():
    """The names of data sets, for messages: "digits or folder:PATH (images), …"."""
    kinds = {}
    for kind, reader in READERS.items():
        kinds.setdefault(reader.content, []).append(f"{kind}:{reader.argument}" if reader.argument else kind)
    return ", ".join(f"{' or '.join(each)} ({content})" for content, each in kinds.items())


def load(spec, image_size=None):
    """Opens a data set by name.

    Args:
        spec: the name of a kind in `READERS` and, where it has an argument, a colon and that: "digits",
            "folder:PATH". Of captions and emoji "…[K]", 0 to 4, has another fifth of the concepts as its test part. Of
            sound "…[PATTERN]" has as its test part the clips whose file's name is like the pattern:
            "tfds:spoken_digit[*_theo_*]"; and "connected:DATA" joins labeled clips of DATA to longer ones, with
            transcripts.
        image_size: of images: side length in pixels to resize to, or None to keep the size.

    Returns:
        `Splits`. A split that the data set lacks is cut from its training part: up to a
        fifth (at most 10,000) for test, a tenth (at most 5,000) for validation.

    Raises:
        ValueError: unknown name, no examples, images that do not fit, text that cannot be read.
        RuntimeError: a TFDS data set that is not prepared and cannot be downloaded.
    """
    if image_size is not None and not 1 <= image_size <= MAX_SIDE:
        raise ValueError(f"image_size must be 1 to {MAX_SIDE} pixels. Received: {image_size}")
    try:
        spec.encode()  # a name is saved with what is learned
    except UnicodeEncodeError:
        raise ValueError(
            f"Expected data whose name is UTF-8. Received: {printable(spec)}. Rename or link it."
        ) from None
    kind, _, argument = spec.partition(":")
    there = pathlib.Path(argument or spec).exists()  # a path may end in brackets of its own
    pattern = re.fullmatch(r"((?:tfds|audio|transcripts):.+|espeak)\[(.+)\]", spec)
    if pattern and not there:
        return audio.held_out_by_name(load(pattern[1], image_size), pattern[2])
    fold = re.fullmatch(r"((?:captions|emoji):.+)\[(\d)\]", spec)
    if fold and not there:
        kind, _, argument = fold[1].partition(":")
    reader = READERS.get(kind)
    if reader is None or bool(argument) != bool(reader.argument):
        hint = f" Did you mean text:{spec} or folder:{spec}?" if pathlib.Path(spec).exists() else ""
        raise ValueError(f"Unknown data {spec!r}. Expected {names()}.{hint}")
    arguments = ([argument] if argument else []) + ([image_size] if reader.takes_image_size else [])
    return reader.read(*arguments, **({"fold": int(fold[2])} if fold and not there else {}))


def digits(image_size=28):
    """The 1,797 handwritten digits (Alpaydin & Kaynak 1998) that ship with scikit-learn, resized from 8×8."""
    from sklearn.datasets import load_digits

    data = load_digits()
    gray = tf.constant(data.images[..., None] * (255.0 / 16.0), tf.float32)  # 0..16 -> 0..255
    image = tf.image.resize(gray, (image_size, image_size), "bicubic")
    image = np.clip(np.rint(image.numpy()), 0, 255).astype(np.uint8)
    return images("digits", image, data.target, [str(name) for name in data.target_names])
