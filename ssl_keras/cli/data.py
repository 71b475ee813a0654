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
    """Dataset of images, or of texts that are not cut into windows: digits, folder:PATH, captions:FILE, emoji:FOLDER,
    table:FILE, pairs:FILE or tfds:NAME."""
    image_size: int | None = None
    """Side length, in pixels, of the square to which images are resized. None keeps their size."""
    similar_text: Annotated[float, Range(0, 100, open="low")] = 90.0
    """Minimum edit similarity (insertions and deletions) of near-duplicate texts, in percent. Case and accents are
    ignored."""
    similar_image: Annotated[float, Range(0, 1, open="low")] = 0.95
    """Minimum correlation between the thumbnails of near-duplicate images."""
    show: Annotated[int, Range(0)] = 5
    """Maximum number of image pairs and of text pairs to print for each held-out split. 0 prints only the counts."""


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
