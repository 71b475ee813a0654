"""Adapts data to a saved encoder: images of its shape, sound at its rate, text as its tokens."""

import dataclasses
import logging

import numpy as np
import tensorflow as tf

from ssl_keras.data import audio, cache, inputs, tokens
from ssl_keras.data.images import unit_range
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.loading import load_tokenizer

DEFAULT_CONTEXT = 512  # tokens, for an encoder whose card does not say its context
CHUNK = 256  # images converted at a time
MAX_ENLARGEMENT = 2  # of a side; beyond it a warning says that the images hold less than the encoder looks for
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601), as Pillow has it

log = logging.getLogger(__name__)


def adapt(folder, card, splits):
    """The splits as an encoder takes them: images of its shape, sound at its rate, or text as its tokens.

    Images of another size or number of channels are converted (see `image_shape`); the log says from what to what, and
    so does `Source.converted`.

    Raises:
        ValueError: they do not fit.
    """
    kind = inputs.column(card["input"])
    if kind == "image":
        return adapt_images(card, splits)
    if kind == "waveform":
        splits.train.column_spec("waveform")
        rate = card["input"]["waveform"].get("rate") or splits.train.rate
        if not rate:
            raise ValueError(f"{card['name']} does not say its sampling rate. Expected one in its card.")
        return audio.limit_lengths(audio.resample_splits(splits, rate))
    if "text" not in splits.train.arrays:
        raise ValueError(
            f"{card['name']} takes text. Received: {', '.join(splits.train.arrays)} from {splits.train.name}. "
            "Choose other --data."
        )
    tokenizer = load_tokenizer(folder)
    return tokens.tokenize_texts(splits, tokenizer, card["input"]["tokens"].get("context") or DEFAULT_CONTEXT)


def adapt_images(card, splits):
    """The splits with images of the shape that an encoder takes, converted where they have another."""
    said = conversion(card, splits.train)
    if not said:
        return splits
    old, new = splits.train.spec()["image"][0], image_shape(card, splits.train)
    log.info("%s: images are converted for %s: %s", splits.train.base, card["name"], said)
    if max(new[0] / old[0], new[1] / old[1]) > MAX_ENLARGEMENT:
        log.warning(
            "%s: images are enlarged more than %d times for %s, and hold less than it looks for",
            splits.train.base,
            MAX_ENLARGEMENT,
            card["name"],
        )
    if new[2] < old[2]:
        log.warning("%s: colors are dropped, since %s takes gray images", splits.train.base, card["name"])
    return type(splits)(*(_converted(part, new, said) for part in splits))


def conversion(card, source):
    """From what to what a source's images are converted for an encoder, "32×32×3 → 28×28×1"; nothing if they fit.

    Raises:
        ValueError: no images, on either side; numbers of channels that cannot be converted.
    """
    cards.check_images(card, source)
    old, new = tuple(source.spec()["image"][0]), image_shape(card, source)
    if old[2] != new[2] and {old[2], new[2]} != {1, 3}:
        raise ValueError(
            f"{card['name']} takes images with {new[2]} channels; converted are 1 and 3. Received: {old[2]} from "
            f"{source.name}."
        )
    return "" if old == new else f"{_shown(old)} → {_shown(new)}"


def image_shape(card, source):
    """(H, W, C) of a source's images as an encoder takes them: its own size, or theirs if it takes any."""
    height, width, channels = card["input"]["image"]["shape"]
    if card["network"] is not None and cards.network(card).any_size:
        height, width, _ = source.spec()["image"][0]
    return height, width, channels


def _shown(shape):
    return "×".join(map(str, shape))


def _converted(source, shape, said):
    """The source with images (N, *shape), of its own examples alone; below a gigabyte in memory, else cached."""
    images = source.arrays["image"]
    rows = np.arange(len(images)) if source.rows is None else source.rows

    def chunks():
        for start in range(0, len(rows), CHUNK):
            yield {"image": convert(np.asarray(images[rows[start : start + CHUNK]]), shape)}

    columns = {"image": (shape, images.dtype)}
    arrays = cache.materialize(lambda: ["converted", source.fingerprint(), shape], columns, len(rows), chunks)
    others = {name: source.column(name) for name in source.arrays if name != "image"}
    return dataclasses.replace(source, arrays={"image": arrays["image"]} | others, rows=None, converted=said)


def convert(images, shape):
    """Images (N, H, W, C) -> (N, *shape) of the same dtype: resized bilinearly with antialiasing, gray ↔ RGB."""
    x = unit_range(tf.constant(images))
    if x.shape[3] == 3 and shape[2] == 1:
        x = tf.tensordot(x, tf.constant(LUMA), 1)[..., None]
    if tuple(x.shape[1:3]) != tuple(shape[:2]):
        x = tf.clip_by_value(tf.image.resize(x, shape[:2], antialias=True), 0.0, 1.0)
    if x.shape[3] == 1 and shape[2] == 3:
        x = tf.repeat(x, 3, axis=3)
    return np.rint(x.numpy() * 255).astype(np.uint8) if images.dtype == np.uint8 else x.numpy()
