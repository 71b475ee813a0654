"""The command `leaks`."""

import dataclasses
from typing import Annotated

from ssl_keras.cli.flags import parse
from ssl_keras.data import near_duplicates
from ssl_keras.data.ranges import Range
from ssl_keras.data.sources import load


@dataclasses.dataclass(frozen=True)
class Leaks:
    """Near duplicates of training images and texts in the held-out splits."""

    data: str
    """Data set of images or of whole texts: digits, folder:PATH, captions:FILE, emoji:FOLDER, table:FILE, pairs:FILE or
    tfds:NAME."""
    image_size: int | None = None
    """Side length in pixels to which images are resized; none keeps their size."""
    similar_text: Annotated[float, Range(0, 100, open="low")] = 90.0
    """Smallest similarity of near-duplicate texts, in percent of their letters."""
    similar_image: Annotated[float, Range(0, 1, open="low")] = 0.95
    """Smallest correlation between the thumbnails of near-duplicate images."""
    show: Annotated[int, Range(0)] = 5
    """Number of pairs to print for each split, of images and of texts."""


def leaks_command(arguments):
    asked = parse(Leaks, "leaks", arguments)
    splits = load(asked.data, asked.image_size)
    count = 0
    for (part, kind), pairs in near_duplicates.leaks(splits, asked.similar_text, asked.similar_image).items():
        held_out = getattr(splits, part)
        found = len(set(pairs[:, 1]))
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
