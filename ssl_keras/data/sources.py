"""Opens a data set by name: `digits`, `pydoc`, `cmudict`, `espeak`, `tfds:NAME`, `folder:PATH`, `captions:FILE`,
`emoji:FOLDER`, `audio:PATH`, `text:PATH`, `table:FILE`, `pairs:FILE`.
"""

import pathlib
import re

import numpy as np
import tensorflow as tf

from ssl_keras.data.splits import hold_out, images

NAMES = (
    "digits or folder:PATH (images), captions:FILE or emoji:FOLDER (images with captions), pydoc or text:PATH (text), "
    "table:FILE (text with labels), pairs:FILE or cmudict (texts with targets), audio:PATH, transcripts:FILE, "
    "connected:DATA or espeak (sound; espeak is synthetic), or tfds:NAME (images, captions, text, translations, sound)"
)


def load(spec, image_size=None):
    """Opens a data set by name.

    Args:
        spec: "digits" | "pydoc" | "cmudict" | "tfds:NAME" | "folder:PATH" | "audio:PATH" | "transcripts:FILE" |
            "text:PATH" | "table:FILE" | "pairs:FILE" | "captions:FILE" | "emoji:FOLDER" | "espeak". Of captions and
            emoji "…[K]", 0 to 4, has another fifth of the concepts as its test part. Of sound "…[PATTERN]" has as
            its test part the clips whose file's name is like the pattern: "tfds:spoken_digit[*_theo_*]"; and
            "connected:DATA" joins labelled clips of DATA to longer ones, with transcripts.
        image_size: of images: side length in pixels to resize to, or None to keep the size.

    Returns:
        `Splits`. A split that the data set lacks is cut from its training part: up to a
        fifth (at most 10,000) for test, a tenth (at most 5,000) for validation.

    Raises:
        ValueError: unknown name, no examples, images that do not fit, text that cannot be read.
        RuntimeError: a TFDS data set that is not prepared and cannot be downloaded.
    """
    from ssl_keras.data import audio
    from ssl_keras.data.readers import audio as audio_reader
    from ssl_keras.data.readers import (
        captions,
        espeak,
        pairs,
        text,  # they import this module
    )
    from ssl_keras.data.readers import images as image_reader
    from ssl_keras.data.readers import tfds as tfds_reader

    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel. Received: {image_size}")
    if spec.startswith("connected:"):
        return audio.connected(load(spec.removeprefix("connected:")))
    pattern = re.fullmatch(r"((?:tfds|audio|transcripts):.+|espeak)\[(.+)\]", spec)
    if pattern and not pathlib.Path(spec.partition(":")[2] or spec).exists():
        return audio.held_out_by_name(load(pattern[1], image_size), pattern[2])
    fold = re.fullmatch(r"((?:captions|emoji):.+)\[(\d)\]", spec)
    if fold and not pathlib.Path(spec.partition(":")[2]).exists():
        spec = fold[1]
    kind, _, argument = spec.partition(":")
    if spec == "digits":
        return hold_out(digits(image_size or 28))
    if kind == "tfds" and argument:
        return tfds_reader.load(argument, image_size)
    if kind == "folder" and argument:
        return image_reader.load(argument, image_size)
    if kind in ("captions", "emoji") and argument:
        read = captions.load if kind == "captions" else captions.emoji
        return read(argument, image_size, int(fold[2]) if fold else 0)
    if kind == "audio" and argument:
        return audio_reader.load(argument)
    if kind == "transcripts" and argument:
        return audio_reader.transcripts(argument)
    if spec == "pydoc":
        return text.pydoc()
    if kind == "text" and argument:
        return text.load_text(argument)
    if kind == "table" and argument:
        return text.load_table(argument)
    if kind == "pairs" and argument:
        return pairs.load(argument)
    if spec == "cmudict":
        return pairs.cmudict()
    if spec == "espeak":
        return espeak.load()
    hint = f" Did you mean text:{spec} or folder:{spec}?" if pathlib.Path(spec).exists() else ""
    raise ValueError(f"Unknown data {spec!r}. Expected {NAMES}.{hint}")


def digits(image_size=28):
    """The 1,797 handwritten digits (Alpaydin & Kaynak 1998) that ship with scikit-learn, resized from 8×8."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = tf.constant(data.images[..., None] * (255.0 / 16.0), tf.float32)  # 0..16 -> 0..255
    image = tf.image.resize(grey, (image_size, image_size), "bicubic")
    image = np.clip(np.rint(image.numpy()), 0, 255).astype(np.uint8)
    return images("digits", image, data.target, [str(name) for name in data.target_names])
