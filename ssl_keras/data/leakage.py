"""Near duplicates: examples that must not lie on both sides of a split, found and kept together.

Two texts are near duplicates if they are equal without case, accents and punctuation, or differ in a tenth of
their letters (normalised insertion–deletion similarity of at least 0.9). Two images are, if their thumbnails of 16×16
pixels correlate by at least 0.95. Both are pairwise: N examples take N²/2 comparisons, of ten thousand some seconds.

Shapes: `N` examples, `H W C` image.
"""

import unicodedata

import numpy as np
import tensorflow as tf
from rapidfuzz import fuzz, process
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ssl_keras.data.batches import epoch_order
from ssl_keras.data.images import unit_range

SIMILAR_TEXT, SIMILAR_IMAGE = 90.0, 0.95  # of 100, as rapidfuzz has it; correlation
THUMBNAIL = 16
TOGETHER = 1_024  # rows compared at a time
FLAT = 1e-3  # standard deviation below which a thumbnail is one colour, and like every other of about that colour


def folded(text):
    """A text without case, accents, punctuation and superfluous white space."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c if c.isalnum() else " " for c in letters if not unicodedata.combining(c))
    return " ".join(kept.split()) or text.strip()  # of what is punctuation alone: itself


def similar_texts(ours, theirs=None, least=SIMILAR_TEXT):
    """int64 (n, 2): pairs (i, j) of near duplicates, `ours[i]` and `theirs[j]`; of one list, with i < j."""
    a = [folded(text) for text in ours]
    b = a if theirs is None else [folded(text) for text in theirs]

    def compared(rows):
        return process.cdist(a[rows], b, scorer=fuzz.ratio, score_cutoff=least, dtype=np.uint8, workers=-1) > 0

    return _pairs(compared, len(a), theirs is None)


def similar_images(ours, theirs=None, least=SIMILAR_IMAGE):
    """int64 (n, 2): as `similar_texts`, of images (N, H, W, C)."""
    a = _thumbnails(ours)
    b = a if theirs is None else _thumbnails(theirs)
    return _pairs(lambda rows: a[rows] @ b.T >= least, len(a), theirs is None)


def _thumbnails(images):
    """float32 (N, D): standardised, so that an inner product is a correlation."""
    small = []
    for start in range(0, len(images), TOGETHER):
        x = unit_range(tf.constant(images[start : start + TOGETHER]))
        small.append(tf.image.resize(x, (THUMBNAIL, THUMBNAIL), antialias=True).numpy())
    x = np.concatenate(small).reshape(len(images), -1)
    mean, deviation = x.mean(1, keepdims=True), x.std(1, keepdims=True)
    # Of one colour: no pattern to compare, so the colour itself stands for it.
    x = np.where(deviation > FLAT, (x - mean) / np.maximum(deviation, FLAT), x + FLAT)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _pairs(compared, count, within):
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, count, TOGETHER):
        rows = slice(start, start + TOGETHER)
        i, j = np.nonzero(compared(rows))
        found.append(np.stack([i + start, j], 1))
    pairs = np.concatenate(found)
    return pairs[pairs[:, 0] < pairs[:, 1]] if within else pairs


def leaks(splits, similar_text=SIMILAR_TEXT, similar_image=SIMILAR_IMAGE):
    """{(part, "texts" or "images"): pairs (i, j) of near duplicates, i of the training part and j of the held-out one}.

    Texts are those of a column "text", or the first captions of "caption".

    Raises:
        ValueError: data with neither images nor texts.
    """
    compared = {}
    if "image" in splits.train.arrays:
        compared["images"] = lambda source: source.column("image"), similar_images, similar_image
    if {"text", "caption"} & splits.train.arrays.keys():
        compared["texts"] = texts_of, similar_texts, similar_text
    if not compared:
        raise ValueError(f"{splits.train.name} has neither images nor texts. Expected either.")
    return {
        (part, kind): alike(of(splits.train), of(getattr(splits, part)), least)
        for part in ("validation", "test") for kind, (of, alike, least) in compared.items()
    }


def texts_of(source):
    """The texts by which `leaks` compares: of images with captions the first of each."""
    name = "caption" if "caption" in source.arrays else "text"
    return [text.partition("\n")[0] if name == "caption" else text for text in source.column(name)]


def groups(count, *pairs):
    """int (count,): which examples belong together, of arrays of pairs: those that a chain of pairs joins."""
    i, j = np.concatenate([np.zeros((0, 2), np.int64), *pairs]).T
    return connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(count, count)), directed=False)[1]


def parts_of(group, count, seed=0):
    """int (N,): a part 0 … count − 1 for each example, groups kept whole, and parts of about one size.

    Args:
        group: (N,) integers, as `groups` gives them.
    """
    members = np.bincount(group)
    order = epoch_order(len(members), seed, 0)
    order = order[np.argsort(-members[order], kind="stable")]  # the largest first
    part, sizes = np.zeros(len(members), int), np.zeros(count, int)
    for one in order:
        part[one] = np.argmin(sizes)
        sizes[part[one]] += members[one]
    return part[group]
