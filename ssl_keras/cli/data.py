"""The command `leaks`."""

import dataclasses
from typing import Annotated

import numpy as np

from ssl_keras.cli.flags import parse
from ssl_keras.data import near_duplicates
from ssl_keras.data.ranges import Range
from ssl_keras.data.sources import load


@dataclasses.dataclass(frozen=True)
class Leaks:
    """Near duplicates of training images and texts in the held-out splits."""

    data: str
    """Dataset of images or texts: digits, folder:PATH, captions:FILE, emoji:FOLDER, text:PATH, table:FILE, pairs:FILE,
    or tfds:NAME."""
    image_size: int | None = None
    """Side length, in pixels, of the square to which images are resized. None keeps their size."""
    similar_text: Annotated[float, Range(0, 100, open="low")] = 90.0
    """Minimum edit similarity (insertions and deletions) of near-duplicate texts of fewer than 60 words, in percent.
    Case and accents are ignored."""
    similar_document: Annotated[float, Range(0, 1, open="low")] = 0.8
    """Minimum fraction of five-word sequences that near-duplicate documents, of at least 40 words, have in common
    (Jaccard similarity, estimated)."""
    similar_image: Annotated[float, Range(0, 1, open="low")] = 0.95
    """Minimum correlation between the thumbnails of near-duplicate images."""
    similar_detail: Annotated[float, Range(0, 1, open="low")] | None = None
    """Minimum correlation between the details of near-duplicate images: pixels minus the mean of their neighborhood.
    None takes 0.7, or more where different training images are framed alike."""
    show: Annotated[int, Range(0)] = 5
    """Maximum number of image pairs and of text pairs to print for each held-out split. 0 prints only the counts."""


def leaks_command(arguments):
    asked = parse(Leaks, "leaks", arguments)
    splits = load(asked.data, asked.image_size)
    count = 0
    thresholds = asked.similar_text, asked.similar_document, asked.similar_image, asked.similar_detail
    for (part, kind), pairs in near_duplicates.leaks(splits, *thresholds).items():
        held_out = getattr(splits, part)
        found = len(np.unique(pairs[:, 1]))
        count += found
        print(f"{part}: {found} of {len(held_out)} {kind} are near duplicates of training examples")
        column = "caption" if "caption" in held_out.arrays else "text"
        names = [source.column(column) if kind == "texts" else None for source in (splits.train, held_out)]
        for pair in pairs[: asked.show]:
            shown = [str(i) if name is None else f"{i}: {name[i]!r:.60}" for name, i in zip(names, pair)]
            print(f"    train {shown[0]}   {part} {shown[1]}")
    if count:
        raise ValueError(
            f"{asked.data}: {count} held-out examples are near duplicates of training examples. Remove them."
        )
