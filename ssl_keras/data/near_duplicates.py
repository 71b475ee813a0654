"""Near duplicates: examples that must not lie on both sides of a split, found and kept together.

Two texts are near duplicates if they are equal without case, accents and punctuation, or differ in a tenth of
their letters (normalized insertion–deletion similarity of at least 0.9). Two images are, if their thumbnails of 16×16
pixels correlate by at least 0.95, or are of one color each, and nearly the same.
Both are pairwise: ten thousand examples take seconds, a hundred thousand minutes.

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

SIMILAR_TEXT, SIMILAR_IMAGE = 90.0, 0.95  # of 100, as rapidfuzz has it; correlation
THUMBNAIL = 16
CHUNK = 1_024  # rows compared at a time
FLAT = 1e-2  # standard deviation below which a thumbnail is of one color


def folded(text):
    """A text without case, accents, punctuation and superfluous white space."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c if c.isalnum() else " " for c in letters if not unicodedata.combining(c))
    return " ".join(kept.split()) or text.strip()  # of what is punctuation alone: itself


def similar_texts(ours, theirs=None, least=SIMILAR_TEXT):
    """int64 (n, 2): pairs (i, j) of near duplicates, `ours[i]` and `theirs[j]`; of one list, with i < j."""
    a = [folded(text) for text in ours]
    b = a if theirs is None else [folded(text) for text in theirs]

    def compared(rows, first):
        return process.cdist(a[rows], b[first:], scorer=fuzz.ratio, score_cutoff=least, dtype=np.uint8, workers=-1) > 0

    return _pairs(compared, len(a), theirs is None)


def similar_images(ours, theirs=None, least=SIMILAR_IMAGE):
    """int64 (n, 2): as `similar_texts`, of images (N, H, W, C)."""
    a = _directions(ours)
    b = a if theirs is None else _directions(theirs)
    return _pairs(lambda rows, first: a[rows] @ b[first:].T >= least, len(a), theirs is None)


def thumbnails(images):
    """float32 (N, 16, 16, C) in [0, 1] of images (N, H, W, C)."""
    small = []
    for start in range(0, len(images), CHUNK):
        x = unit_range(tf.constant(images[start : start + CHUNK]))
        small.append(tf.image.resize(x, (THUMBNAIL, THUMBNAIL), antialias=True).numpy())
    return np.concatenate(small)


def _directions(images):
    """float32 (N, D) of length 1: standardized thumbnails, whose inner product is a correlation; of those of one
    color, that color, as angles of which a fifth of the scale's difference is just too far apart."""
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
    """{(part, "texts" or "images"): pairs (i, j) of near duplicates, i of the training part and j of the held-out one}.

    Texts are those of a column "text"; or all captions of training images and the first ones of held-out images.

    Raises:
        ValueError: data with neither images nor texts; text in pieces of files; a threshold out of range.
    """
    if not (0 < similar_text <= 100 and 0 < similar_image <= 1):
        raise ValueError(
            f"Expected 0 < similar_text ≤ 100, 0 < similar_image ≤ 1. Received: {similar_text}, {similar_image}"
        )
    arrays, compared = splits.train.arrays, {}
    if "image" in arrays:
        compared["images"] = lambda source: source.column("image"), similar_images, similar_image
    if "text" in arrays:
        if not np.all(arrays.get("ends", True)):
            raise ValueError(f"{splits.train.name}: expected whole texts, as of table:FILE. Received: files in pieces")
        compared["texts"] = lambda source: list(source.column("text")), similar_texts, similar_text
    if not compared and "caption" not in arrays:
        raise ValueError(f"{splits.train.name} has neither images nor texts. Expected either.")
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
    """int (count,): which examples belong together, of arrays of pairs: those that a chain of pairs joins."""
    i, j = np.concatenate([np.zeros((0, 2), np.int64), *pairs]).T
    return connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(count, count)), directed=False)[1]


def parts_of(group, names, count):
    """int (N,): a part 0 … count − 1 for each example, groups kept whole; −1 for those of more than a part's share.

    A group's part follows from a hash of the first, in the alphabet, of its members' names; so other examples that
    come or go do not move it.

    Args:
        group: (N,) integers, as `groups` gives them. names: N texts.
    """
    first = {}
    for one, name in zip(group, names):
        name = folded(name)
        first[one] = min(first.get(one, name), name)
    part = np.array([int(hashlib.sha256(first[one].encode()).hexdigest()[:8], 16) % count for one in range(len(first))])
    part[np.bincount(group) > len(group) / count] = -1
    return part[group]
