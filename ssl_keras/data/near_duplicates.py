"""Near duplicates: finds similar examples, and groups them so that no group is on both sides of a split.

Two texts are near duplicates if their normalized insertion–deletion similarity is at least 0.9, ignoring case, accents
and punctuation. Two images are near duplicates if their 16×16 thumbnails have a correlation of at least 0.95, or are
each of a single color and nearly equal. All pairs are compared: ten thousand examples take seconds, a hundred thousand
minutes.

Shapes: `N` examples, `H W C` image.
"""

import hashlib
import unicodedata

import numpy as np
import tensorflow as tf
from rapidfuzz import fuzz, process
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ssl_keras.data.images import unit_range
from ssl_keras.data.splits import check_whole_texts

SIMILAR_TEXT, SIMILAR_IMAGE = 90.0, 0.95  # rapidfuzz similarity, 0 to 100; correlation
THUMBNAIL = 16
CHUNK = 1_024  # rows compared at a time
FLAT = 1e-2  # a thumbnail with a smaller standard deviation counts as a single color


def normalize_text(text):
    """Removes case, accents, punctuation and repeated whitespace from a text."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c if c.isalnum() else " " for c in letters if not unicodedata.combining(c))
    return " ".join(kept.split()) or text.strip()  # a text of punctuation only is kept


def similar_texts(ours, theirs=None, least=SIMILAR_TEXT):
    """Returns pairs (i, j) of near duplicates `ours[i]` and `theirs[j]`, int64 (n, 2). For one list, i < j."""
    a = [normalize_text(text) for text in ours]
    b = a if theirs is None else [normalize_text(text) for text in theirs]

    def compared(rows, first):
        return process.cdist(a[rows], b[first:], scorer=fuzz.ratio, score_cutoff=least, dtype=np.uint8, workers=-1) > 0

    return _pairs(compared, len(a), theirs is None)


def similar_images(ours, theirs=None, least=SIMILAR_IMAGE):
    """Returns pairs (i, j) of near duplicates as `similar_texts` does, for images (N, H, W, C)."""
    a = _unit_vectors(ours)
    b = a if theirs is None else _unit_vectors(theirs)
    return _pairs(lambda rows, first: a[rows] @ b[first:].T >= least, len(a), theirs is None)


def thumbnails(images):
    """Resizes images (N, H, W, C) to thumbnails, float32 (N, 16, 16, C) in [0, 1]."""
    small = []
    for start in range(0, len(images), CHUNK):
        x = unit_range(tf.constant(images[start : start + CHUNK]))
        small.append(tf.image.resize(x, (THUMBNAIL, THUMBNAIL), antialias=True).numpy())
    return np.concatenate(small)


def _unit_vectors(images):
    """Returns unit vectors (N, D) float32 whose inner products are correlations of thumbnails.

    Thumbnails of a single color become angles instead, so that colors about a fifth of the scale apart are not similar.
    """
    x = thumbnails(images)
    channels = x.shape[-1]
    flat = x.std((1, 2)).max(-1) < FLAT  # (N,)
    angle = x.mean((1, 2)) * np.pi / 2  # (N, C)
    color = np.concatenate([np.cos(angle), np.sin(angle)], 1) / np.sqrt(channels)
    x = x.reshape(len(x), -1)
    x = x - x.mean(1, keepdims=True)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), FLAT)
    return np.concatenate([np.where(flat[:, None], 0.0, x), np.where(flat[:, None], color, 0.0)], 1, dtype=np.float32)


def _pairs(compared, count, within):
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, count, CHUNK):
        first = start if within else 0
        i, j = np.nonzero(compared(slice(start, start + CHUNK), first))
        pairs = np.stack([i + start, j + first], 1)
        found.append(pairs[pairs[:, 0] < pairs[:, 1]] if within else pairs)
    return np.concatenate(found)


def leaks(splits, similar_text=SIMILAR_TEXT, similar_image=SIMILAR_IMAGE):
    """Returns {(split, "texts" or "images"): near-duplicate pairs (i, j)}, with i in the training split and j held out.

    Texts are the column "text", or all captions of training images and the first caption of held-out images.

    Raises:
        ValueError: There are neither images nor texts, texts are in pieces, or a threshold is out of range.
    """
    if not (0 < similar_text <= 100 and 0 < similar_image <= 1):
        raise ValueError(
            f"Expected 0 < similar_text ≤ 100 and 0 < similar_image ≤ 1. Received: {similar_text} and {similar_image}"
        )
    arrays, compared = splits.train.arrays, {}
    if "image" in arrays:
        compared["images"] = lambda source: source.column("image"), similar_images, similar_image
    if "text" in arrays:
        check_whole_texts(splits.train)
        compared["texts"] = lambda source: list(source.column("text")), similar_texts, similar_text
    if not compared and "caption" not in arrays:
        raise ValueError(f"{splits.train.name} has neither images nor texts. Received: {', '.join(arrays)}")
    found = {
        (part, kind): alike(of(splits.train), of(getattr(splits, part)), least)
        for part in ("validation", "test")
        for kind, (of, alike, least) in compared.items()
    }
    if "caption" in arrays:
        listed = [text.split("\n") for text in splits.train.column("caption")]
        rows = np.repeat(np.arange(len(listed)), [len(each) for each in listed])
        for part in ("validation", "test"):
            names = [text.partition("\n")[0] for text in getattr(splits, part).column("caption")]
            pairs = similar_texts([text for each in listed for text in each], names, similar_text)
            found[part, "texts"] = np.unique(np.stack([rows[pairs[:, 0]], pairs[:, 1]], 1), axis=0)
    return found


def groups(count, *pairs):
    """Returns the connected component of each of `count` examples, int (count,), given arrays of pairs."""
    i, j = np.concatenate([np.zeros((0, 2), np.int64), *pairs]).T
    return connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(count, count)), directed=False)[1]


def parts_of(group, names, count):
    """Assigns each example to a part 0 … count − 1, int (N,), by its group; −1 for groups larger than N / count.

    The part is a hash of the alphabetically first name in the group, so adding or removing other examples does not
    change it.

    Args:
        group: (N,) integers from `groups`. names: N texts.
    """
    first = {}
    for one, name in zip(group, names):
        name = normalize_text(name)
        first[one] = min(first.get(one, name), name)
    part = np.array([int(hashlib.sha256(first[one].encode()).hexdigest()[:8], 16) % count for one in range(len(first))])
    part[np.bincount(group) > len(group) / count] = -1
    return part[group]
