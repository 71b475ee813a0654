"""Near duplicates: finds similar examples, and groups them so that no group is on both sides of a split.

Two short texts are near duplicates if their normalized insertion–deletion similarity is at least 0.9, ignoring case,
accents and punctuation. Two documents are if about 0.8 of their shingles of five words are the same (Broder 1997).
Two images are if their 16×16 thumbnails have a correlation of at least 0.95, and their details at least one that
depends on the data (`images.py`).

Up to `EXACT` pairs are all compared. Of more, only those that share a key of a sketch (`sketching.py`), so that time is
linear in the data.

Shapes: `N` examples, `H W C` image.
"""

import numpy as np
from rapidfuzz import fuzz, process

from ssl_keras.data.near_duplicates import grouping, images, texts
from ssl_keras.data.near_duplicates.grouping import groups, parts_of
from ssl_keras.data.near_duplicates.images import thumbnails
from ssl_keras.data.near_duplicates.sketching import BINS, compact, keys, similar, sketches
from ssl_keras.data.near_duplicates.texts import normalize_text

__all__ = ["groups", "leaks", "normalize_text", "parts_of", "similar_images", "similar_texts", "thumbnails"]

SIMILAR_TEXT, SIMILAR_DOCUMENT, SIMILAR_IMAGE = 90.0, 0.8, 0.95  # rapidfuzz similarity, 0 to 100; Jaccard; correlation
EXACT = 10**8  # pairs that are all compared
CHUNK = 1_024  # rows compared at a time


def similar_texts(ours, theirs=None, least=SIMILAR_TEXT):
    """Returns pairs (i, j) of near duplicates `ours[i]` and `theirs[j]`, int64 (n, 2), by their edit similarity.

    For one list, i < j, and of many texts some pairs may be missing that follow from others.
    """
    a = [normalize_text(text) for text in ours]
    b = a if theirs is None else [normalize_text(text) for text in theirs]
    if len(a) * len(b) > EXACT:
        return _found(_letter_keys(a), None if theirs is None else _letter_keys(b), edits(a, b, least))

    def compared(rows, first):
        return process.cdist(a[rows], b[first:], scorer=fuzz.ratio, score_cutoff=least, dtype=np.uint8, workers=-1) > 0

    return _pairs(compared, len(a), theirs is None)


def edits(ours, theirs, least):
    """Returns the function (i, j) → bool (n,) by which two normalized texts have a similarity of at least `least`."""

    def similar(i, j):
        a, b = [ours[row] for row in i], [theirs[row] for row in j]
        return process.cpdist(a, b, scorer=fuzz.ratio, score_cutoff=least, dtype=np.float32) > 0

    return similar


def _letter_keys(normalized):
    """Returns the keys of short texts, uint64 (N, 30)."""
    return keys(sketches(*texts.letter_shingles(normalized), len(normalized)), *texts.SHORT_BANDS)


def similar_images(ours, theirs=None, least=SIMILAR_IMAGE):
    """Returns pairs (i, j) of near duplicates as `similar_texts` does, for images (N, H, W, C), by their thumbnails in
    color. Those of a single color are similar if the colors are nearly equal."""
    a = images.unit_vectors(ours)
    b = a if theirs is None else images.unit_vectors(theirs)
    if len(a) * len(b) > EXACT:
        found = [None if each is None else images.sketches(each)[2] for each in (ours, theirs)]
        return _found(*found, lambda i, j: np.einsum("nd,nd->n", a[i], b[j]) >= least)
    return _pairs(lambda rows, first: a[rows] @ b[first:].T >= least, len(a), theirs is None)


def _found(ours, theirs, similar):
    if theirs is not None:
        return grouping.cross_pairs(ours, theirs, similar)
    pairs, _ = grouping.bucket_pairs(ours.ravel(), np.repeat(np.arange(len(ours)), ours.shape[1]), similar)
    return np.unique(pairs, axis=0)


def _pairs(compared, count, within):
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, count, CHUNK):
        first = start if within else 0
        i, j = np.nonzero(compared(slice(start, start + CHUNK), first))
        pairs = np.stack([i + start, j + first], 1)
        found.append(pairs[pairs[:, 0] < pairs[:, 1]] if within else pairs)
    return np.concatenate(found)


def leaks(
    splits, similar_text=SIMILAR_TEXT, similar_document=SIMILAR_DOCUMENT, similar_image=SIMILAR_IMAGE, detail=None
):
    """Returns {(split, "texts" or "images"): near-duplicate pairs (i, j)}, with i in the training split and j held out.

    Texts are the column "text" (of documents in pieces, i and j are the first pieces), or all captions of training
    images and the first caption of held-out images.

    Args:
        detail: correlation of the details of near-duplicate images; None lets the training images decide.

    Raises:
        ValueError: There are neither images nor texts, pieces of a document are in two splits, or a threshold is out of
            range.
    """
    if not (0 < similar_text <= 100 and 0 < similar_document <= 1 and 0 < similar_image <= 1):
        raise ValueError(
            "Expected 0 < similar_text ≤ 100, 0 < similar_document ≤ 1 and 0 < similar_image ≤ 1. "
            f"Received: {similar_text}, {similar_document} and {similar_image}"
        )
    arrays, found = splits.train.arrays, {}
    if not {"image", "text", "caption"} & arrays.keys():
        raise ValueError(f"{splits.train.name} has neither images nor texts. Received: {', '.join(arrays)}")
    if "image" in arrays:
        ours = images.sketches(splits.train.column("image"))
        detail = images.fitted_detail(ours[1]) if detail is None else detail
    described = _Described(_documents(splits.train)) if "text" in arrays else None
    for part in ("validation", "test"):
        held_out = getattr(splits, part)
        if "image" in arrays:
            theirs = images.sketches(held_out.column("image"))
            similar = images.alike(ours, theirs, similar_image, detail)
            found[part, "images"] = grouping.cross_pairs(ours[2], theirs[2], similar)
        if "text" in arrays:
            _check_whole(splits.train, held_out)
            found[part, "texts"] = described.near(_Described(_documents(held_out)), similar_text, similar_document)
        if "caption" in arrays:
            found[part, "texts"] = _near_captions(splits.train, held_out, similar_text)
    return found


class _Described:
    """Texts as they are compared: the short ones normalized, the sketches of the documents, and the rows of both."""

    def __init__(self, documents):
        self.short_rows, self.short, self.rows, made = [], [], [], [np.zeros((0, BINS), np.uint64)]
        for row, text in documents:
            folded = texts.fold(text)
            hashes, places = texts.tokens([folded])
            if len(hashes) < texts.SHORT_TOKENS:
                self.short_rows.append(row)
                self.short.append(normalize_text(text))
            if len(hashes) >= texts.DOCUMENT_TOKENS:
                self.rows.append(row)
                made.append(sketches(*texts.token_shingles(hashes, places), 1))
        made = np.concatenate(made)
        self.compact, self.keys = compact(made), keys(made, *texts.DOCUMENT_BANDS)

    def near(self, others, least_text, least_document):
        """Returns the pairs (i, j) of near duplicates among these texts and others, int64 (n, 2)."""
        a, b = self.compact, others.compact
        pairs = grouping.cross_pairs(self.keys, others.keys, lambda i, j: similar(a[i], b[j], least_document))
        short = similar_texts(self.short, others.short, least_text) if self.short and others.short else pairs[:0]
        rows = [(self.rows, others.rows, pairs), (self.short_rows, others.short_rows, short)]
        found = [np.stack([np.array(i, int)[two[:, 0]], np.array(j, int)[two[:, 1]]], 1) for i, j, two in rows]
        return np.unique(np.concatenate(found), axis=0)


def _documents(source):
    """Yields (row, text) of the documents of a source; those in pieces are joined."""
    ends = source.arrays.get("ends")
    ends = np.ones(len(source), bool) if ends is None else source.column("ends")
    text, first = "", 0
    for start in range(0, len(source), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(source)))
        for row, piece in zip(rows, source.gather(rows)["text"]):
            text += piece
            if ends[row] or row == len(source) - 1:
                yield first, text
                text, first = "", int(row) + 1


def _check_whole(train, held_out):
    """Raises ValueError if pieces of one document are in both splits."""
    ends = train.arrays.get("ends")
    if ends is None or held_out.arrays["ends"] is not ends or train.rows is None or held_out.rows is None:
        return
    document = np.cumsum(ends) - ends
    if np.intersect1d(document[train.rows], document[held_out.rows]).size:
        raise ValueError(
            f"{train.name}: expected whole texts. Received: pieces of a document that is also in {held_out.name}. "
            "Use more files, or table:FILE."
        )


def _near_captions(train, held_out, least):
    listed = [text.split("\n") for text in train.column("caption")]
    rows = np.repeat(np.arange(len(listed)), [len(each) for each in listed])
    names = [text.partition("\n")[0] for text in held_out.column("caption")]
    pairs = similar_texts([text for each in listed for text in each], names, least)
    return np.unique(np.stack([rows[pairs[:, 0]], pairs[:, 1]], 1), axis=0)
