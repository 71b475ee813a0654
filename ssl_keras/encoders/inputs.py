"""Adaptation of data to a saved encoder: image shape, sampling rate, tokens."""

import dataclasses
import logging

import numpy as np
import tensorflow as tf

from ssl_keras.data import audio, cache, inputs, text_pairs, tokens
from ssl_keras.data.images import unit_range
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.loading import load_tokenizer

DEFAULT_CONTEXT = 512  # tokens, if the card has no context
CHUNK = 256  # images converted at a time
MAX_ENLARGEMENT = 2  # factor per side above which a warning is logged
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601), as in Pillow

log = logging.getLogger(__name__)


def adapt(folder, card, splits, pairs=None):
    """Adapts splits to an encoder: images to its shape, audio to its sampling rate, text to its tokens.

    Args:
        folder, card: those of the encoder.
        splits: `Splits`.
        pairs: whether the encoder takes pairs of texts. None is what it was fine-tuned on.

    Images of another size or number of channels are converted (see `image_shape`). The conversion is logged and kept in
    `Source.converted`.

    Raises:
        ValueError: the data do not fit the encoder.
    """
    kind = inputs.column(card["input"])
    if kind == "image":
        return adapt_images(card, splits)
    if kind == "waveform":
        splits.train.column_spec("waveform")
        rate = card["input"]["waveform"].get("rate") or splits.train.rate
        if not rate:
            raise ValueError(f"The card of {card['name']} has no sampling rate. Expected one in input.waveform.rate.")
        return audio.limit_lengths(audio.resample_splits(splits, rate))
    if "text" not in splits.train.arrays:
        raise ValueError(
            f"{card['name']} takes text. Received: {', '.join(splits.train.arrays)} from {splits.train.name}. "
            "Choose other --data."
        )
    pairs = cards.target(card)["pairs"] if pairs is None else pairs
    if pairs != ("text2" in splits.train.arrays):
        expected = (
            "takes pairs of texts. Expected the columns text and text2."
            if pairs
            else "takes one text at a time. Expected no column text2."
        )
        raise ValueError(
            f"{card['name']} {expected} Received: {', '.join(splits.train.arrays)} from {splits.train.name}. Choose "
            "other --data, or fine-tune on these."
        )
    tokenize = text_pairs.tokenize if pairs else tokens.tokenize_texts
    return tokenize(splits, load_tokenizer(folder), context_of(card))


def context_of(card):
    """Returns the number of tokens to which texts are truncated for an encoder."""
    return card["input"]["tokens"].get("context") or DEFAULT_CONTEXT


def adapt_images(card, splits):
    """Converts the images of the splits to the encoder's shape, if they have another one."""
    change = conversion(card, splits.train)
    size, trained = splits.train.spec()["image"][0][:2], native_size(card)
    if trained and set(size) != {trained}:
        log.warning(
            "%s has images of %s, and %s was trained on %d×%d. It takes any size, but was not trained on this one.",
            splits.train.base,
            _format(size),
            card["name"],
            trained,
            trained,
        )
    if not change:
        return splits
    old, new = splits.train.spec()["image"][0], image_shape(card, splits.train)
    log.info("%s: converting images for %s: %s", splits.train.base, card["name"], change)
    if max(new[0] / old[0], new[1] / old[1]) > MAX_ENLARGEMENT:
        log.warning(
            "%s: images are enlarged more than %d times for %s, and have less detail than it was trained on",
            splits.train.base,
            MAX_ENLARGEMENT,
            card["name"],
        )
    if new[2] < old[2]:
        log.warning(
            "%s: converting color images to gray, because %s takes gray images", splits.train.base, card["name"]
        )
    return type(splits)(*(_convert_source(part, new, change) for part in splits))


def conversion(card, source):
    """Describes how a source's images are converted for an encoder, as in "32×32×3 → 28×28×1"; empty if they fit.

    Raises:
        ValueError: the encoder takes no images, the source has none, or the number of channels cannot be converted.
    """
    cards.check_images(card, source)
    old, new = tuple(source.spec()["image"][0]), image_shape(card, source)
    if old[2] != new[2] and {old[2], new[2]} != {1, 3}:
        raise ValueError(
            f"{card['name']} takes images with {new[2]} channels. Received: {old[2]} channels from {source.name}. Only "
            "1 and 3 channels can be converted into each other."
        )
    return "" if old == new else f"{_format(old)} → {_format(new)}"


def image_shape(card, source):
    """Returns the shape (H, W, C) of a source's images after conversion.

    H and W are those of the encoder, or those of the source if the encoder accepts any size.
    """
    height, width, channels = card["input"]["image"]["shape"]
    if card["network"] is not None and cards.network(card).any_size:
        height, width, _ = source.spec()["image"][0]
    return height, width, channels


def native_size(card):
    """Returns the side, in pixels, to which images are resized for an encoder unless another one is asked for.

    It is that of the square images that the encoder was trained on, if its network takes any size. None for other
    encoders, which convert images anyway, and for imported ones, which were asked to keep the size (`--keep-size`).
    """
    shape = card["input"].get("image", {}).get("shape")
    if not shape or shape[0] != shape[1] or card["network"] is None or card["trained_by"].get("imported"):
        return None
    network = cards.network(card)
    return shape[0] if network.any_size and not network.keywords.get("resize") else None


def _format(shape):
    return "×".join(map(str, shape))


def _convert_source(source, shape, change):
    """Returns the source with images (N, *shape), without unused rows; above a gigabyte they are cached on disk."""
    images = source.arrays["image"]
    rows = np.arange(len(images)) if source.rows is None else source.rows

    def chunks():
        for start in range(0, len(rows), CHUNK):
            yield {"image": convert(np.asarray(images[rows[start : start + CHUNK]]), shape)}

    columns = {"image": (shape, images.dtype)}
    arrays = cache.materialize(lambda: ["converted", source.fingerprint(), shape], columns, len(rows), chunks)
    others = {name: source.column(name) for name in source.arrays if name != "image"}
    return dataclasses.replace(source, arrays={"image": arrays["image"]} | others, rows=None, converted=change)


def convert(images, shape):
    """Resizes images (N, H, W, C) bilinearly with antialiasing, and converts gray ↔ RGB; keeps the dtype."""
    x = unit_range(tf.constant(images))
    if x.shape[3] == 3 and shape[2] == 1:
        x = tf.tensordot(x, tf.constant(LUMA), 1)[..., None]
    if tuple(x.shape[1:3]) != tuple(shape[:2]):
        x = tf.clip_by_value(tf.image.resize(x, shape[:2], antialias=True), 0.0, 1.0)
    if x.shape[3] == 1 and shape[2] == 3:
        x = tf.repeat(x, 3, axis=3)
    return np.rint(x.numpy() * 255).astype(np.uint8) if images.dtype == np.uint8 else x.numpy()
