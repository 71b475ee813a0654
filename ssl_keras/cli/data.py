"""The command `leaks`."""

import dataclasses

from ssl_keras.cli.flags import parse
from ssl_keras.data import near_duplicates
from ssl_keras.data.sources import load


@dataclasses.dataclass(frozen=True)
class Leaks:
    """Finds near duplicates, of images and of texts, on both sides of a data set's split."""

    data: str
    """Of images, captions or text."""
    image_size: int | None = None
    """Of images: side length in pixels to resize to."""
    similar_text: float = 90.0
    """Percent of their letters that near duplicates share."""
    similar_image: float = 0.95
    """Correlation of their thumbnails from which on images are near duplicates."""
    show: int = 5
    """How many to print of each kind."""


def leaks_command(arguments):
    asked = parse(Leaks, "leaks", arguments)
    splits = load(asked.data, asked.image_size)
    count = 0
    for (part, kind), pairs in near_duplicates.leaks(splits, asked.similar_text, asked.similar_image).items():
        held_out = getattr(splits, part)
        found = len(set(pairs[:, 1]))
        count += found
        print(f"{found} of {len(held_out)} {kind} of {part} are near duplicates of training ones")
        column = "caption" if "caption" in held_out.arrays else "text"
        names = [source.column(column) if kind == "texts" else None for source in (splits.train, held_out)]
        for pair in pairs[: asked.show]:
            shown = [str(i) if name is None else f"{i}: {name[i]!r:.60}" for name, i in zip(names, pair)]
            print(f"    train {shown[0]}   {part} {shown[1]}")
    if count:
        raise ValueError(f"{asked.data}: {count} near duplicates of training examples are held out. Take them out.")
