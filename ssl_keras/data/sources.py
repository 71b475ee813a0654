"""Opens datasets by name: `READERS` lists the names."""

import math
import os
import re
import typing

import numpy as np
import tensorflow as tf

from ssl_keras.data import audio
from ssl_keras.data.ranges import check
from ssl_keras.data.readers import audio as audio_reader
from ssl_keras.data.readers import captions, curated, espeak, image_files, pairs, tables, tags, text
from ssl_keras.data.readers import images as image_reader
from ssl_keras.data.readers import tfds as tfds_reader
from ssl_keras.data.splits import Splits, check_held_out, hold_out, images
from ssl_keras.files import printable, utf8_advice

MAX_SIDE = math.isqrt(image_files.MAX_PIXELS)  # of the largest square image that is read


class Reader(typing.NamedTuple):
    """A kind of dataset.

    Attributes:
        read: function that returns `Splits`. It is passed what follows the colon after the kind, if the kind has an
            argument, and `image_size`, if `takes_image_size`.
        argument: the name of the argument, such as "PATH"; empty if there is none.
        content: the modality, for messages.
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
    "tags": Reader(tags.load, "PATH", "text with a tag for each word"),
    "pairs": Reader(pairs.load, "FILE", "texts with targets"),
    "cmudict": Reader(pairs.cmudict, "", "texts with targets"),
    "audio": Reader(audio_reader.load, "PATH", "audio"),
    "transcripts": Reader(audio_reader.transcripts, "FILE", "audio with transcripts"),
    "connected": Reader(lambda data: audio.connected(load(data)), "DATA", "audio with transcripts"),
    "espeak": Reader(espeak.load, "", "synthetic audio"),
    "curated": Reader(curated.load, "FOLDER", "what ssl-keras curate wrote", True),
    "tfds": Reader(tfds_reader.load, "NAME", "images, captions, text, translations, audio", True),
}


def names():
    """Returns the names of datasets for messages: "digits or folder:PATH (images), …"."""
    kinds = {}
    for kind, reader in READERS.items():
        kinds.setdefault(reader.content, []).append(f"{kind}:{reader.argument}" if reader.argument else kind)
    return ", ".join(f"{' or '.join(each)} ({content})" for content, each in kinds.items())


def load(spec, image_size=None, held_out=True):
    """Opens a dataset by name.

    Args:
        spec: a kind in `READERS`, with a colon and its argument if it has one: "digits", "folder:PATH".
            For captions and emoji, "…[K]" with K from 0 to 4 selects the fold of the concepts that is the test split.
            For audio, "…[PATTERN]" selects the clips whose file names match the pattern as the test split, such as
            "tfds:spoken_digit[*_theo_*]"; "connected:DATA" concatenates labeled clips of DATA, with transcripts.
            "table:FILE[text]" has the texts of all rows, also of those without a label, and no labels.
        image_size: side in pixels that images are resized to. None keeps their size.
        held_out: whether data are refused that have too few examples for three splits.

    Returns:
        `Splits`. A missing split is held out from the training split: a fifth (at most 10,000 examples) for test, then
        a tenth (at most 5,000) for validation.

    Raises:
        ValueError: The name is unknown, or the data is empty, malformed or unreadable.
        RuntimeError: A TFDS dataset is not prepared and cannot be downloaded.
    """
    check("The name of a dataset", spec, str)
    spec = os.fspath(spec)
    if image_size is not None and not 1 <= image_size <= MAX_SIDE:
        raise ValueError(f"image_size must be 1 to {MAX_SIDE} pixels. Received: {image_size}")
    try:
        spec.encode()  # checkpoints and cards store the name
    except UnicodeEncodeError:
        raise ValueError(
            f"The name of the data is not UTF-8. Received: {printable(spec)}. {utf8_advice(spec)}"
        ) from None
    kind, _, argument = spec.partition(":")
    there = os.path.exists(os.path.expanduser(argument or spec))  # a path may itself end in brackets
    pattern = re.fullmatch(r"((?:tfds|audio|transcripts):.+|espeak)\[(.+)\]", spec)
    if pattern and not there:
        return check_held_out(audio.hold_out_by_name(load(pattern[1], image_size), pattern[2]))
    if spec.startswith("table:") and spec.endswith("[text]") and not there:
        splits = tables.load(argument.removesuffix("[text]"), labeled=False)
        return check_held_out(splits) if held_out else splits
    fold = re.fullmatch(r"((?:captions|emoji):.+)\[(\d)\]", spec)
    if fold and not there:
        kind, _, argument = fold[1].partition(":")
    reader = READERS.get(kind)
    if reader is None or bool(argument) != bool(reader.argument):
        hint = f" Did you mean text:{spec} or folder:{spec}?" if os.path.exists(os.path.expanduser(spec)) else ""
        raise ValueError(f"Unknown data {spec!r}. Expected {names()}.{hint}")
    arguments = ([argument] if argument else []) + ([image_size] if reader.takes_image_size else [])
    splits = reader.read(*arguments, **({"fold": int(fold[2])} if fold and not there else {}))
    return check_held_out(splits) if held_out else splits


def as_splits(data, image_size=None):
    """Returns `Splits`: the given ones, or those of the dataset that is named."""
    if isinstance(data, str | os.PathLike):
        return load(data, image_size)
    if not isinstance(data, Splits):
        raise ValueError(
            "data must be Splits (from `from_arrays` or `from_texts`) or the name of a dataset, such as folder:PATH. "
            f"Received: {type(data).__name__}"
        )
    return data


def digits(image_size=28):
    """Returns the 1,797 handwritten digits (Alpaydin & Kaynak 1998) that ship with scikit-learn, resized from 8×8."""
    from sklearn.datasets import load_digits

    data = load_digits()
    gray = tf.constant(data.images[..., None] * (255.0 / 16.0), tf.float32)  # 0..16 -> 0..255
    image = tf.image.resize(gray, (image_size, image_size), "bicubic")
    image = np.clip(np.rint(image.numpy()), 0, 255).astype(np.uint8)
    return images("digits", image, data.target, [str(name) for name in data.target_names])
