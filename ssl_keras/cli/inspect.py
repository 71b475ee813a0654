"""The command `inspect`: a dataset as a table and, with examples, as an HTML page."""

import dataclasses
import pathlib

import numpy as np

from ssl_keras import files, pictures
from ssl_keras.cli.flags import DataFlags, OverwriteFlag, parse
from ssl_keras.data import summary
from ssl_keras.data.audio import PADDING
from ssl_keras.data.sources import load
from ssl_keras.evaluation.features import evenly_spaced
from ssl_keras.pictures import page

CLASSES_IN_TERMINAL, CLASSES_ON_PAGE = 30, 100
PER_ROW, ROWS, CLIPS, TEXTS = 10, 6, 24, 24  # examples on the page; ROWS is for images without classes
MAX_CHARACTERS = 300  # of a text on the page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect(DataFlags, OverwriteFlag):
    """A dataset before training: its splits, classes, sizes, lengths, exact duplicates, and what was left out or
    converted when it was read."""

    out: str = ""
    """HTML file to write, with the same table and some examples. By default none is written."""


def inspect_command(arguments):
    asked = parse(Inspect, "inspect", arguments)
    if asked.out:
        files.check_output(pathlib.Path(asked.out), asked.overwrite)
    splits = load(asked.data, asked.image_size)
    found = summary.summarize(splits)
    print(found["data"])
    print(aligned(summary.table(found, CLASSES_IN_TERMINAL)))
    for note, parts in summary.notes(found).items():
        print(f"{', '.join(parts)}: {note}")
    if asked.out:
        page.write(asked.out, found["data"], *sections(splits, found))
        print(f"Page: {files.printable(asked.out)}")
    summary.check(found)


def aligned(rows):
    """Formats rows of cells as lines: the first column aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    )


def sections(splits, found):
    """Yields the parts of the page."""
    yield page.table(summary.table(found, CLASSES_ON_PAGE))
    notes = [f"{', '.join(parts)}: {note}" for note, parts in summary.notes(found).items()]
    if notes:
        yield page.heading("Left out, converted and chosen")
        yield page.listing(notes)
    yield page.heading("Training examples")
    show = {"image": _images, "waveform": _clips, "text": _texts}
    yield from next((show[name] for name in show if name in splits.train.arrays), lambda _: ())(splits.train)


def _sample_rows(source, count):
    """Returns indices of at most `count` examples: equally many of each class or, without classes, evenly spaced."""
    if "label" not in source.arrays:
        return evenly_spaced(len(source), count)
    labels = source.column("label")
    present = np.unique(labels)
    each = max(1, count // len(present))
    members = [np.flatnonzero(labels == label) for label in present[:count]]
    return np.concatenate([rows[evenly_spaced(len(rows), each)] for rows in members])


def _labels(source, rows):
    """Returns the class and the file name of each row, as far as the data have them."""
    known = [[] for _ in rows]
    for name in ("label", "name"):
        values = source.gather(rows)[name] if name in source.arrays else ()
        for words, value in zip(known, values):
            words.append(source.classes[value] if name == "label" else str(value))
    return [", ".join(words) for words in known]


def _images(source):
    if "caption" in source.arrays:
        rows = source.gather(evenly_spaced(len(source), TEXTS))
        yield page.grid(
            *(
                page.picture(pictures.contact_sheet(image[None], 1), caption.replace("\n", ", ")[:MAX_CHARACTERS])
                for image, caption in zip(rows["image"], rows["caption"])
            )
        )
    elif "label" in source.arrays:
        labels = source.column("label")
        for label, name in list(enumerate(source.classes))[:CLASSES_ON_PAGE]:
            members = np.flatnonzero(labels == label)
            if len(members):
                yield _sheet(
                    source, members[evenly_spaced(len(members), PER_ROW)], f"{name}, {len(members):,} examples"
                )
    else:
        yield _sheet(source, evenly_spaced(len(source), PER_ROW * ROWS), f"Some of {len(source):,} examples")


def _sheet(source, rows, title):
    values = source.gather(rows)
    names = ": " + ", ".join(map(str, values["name"][:PER_ROW])) if "name" in values else ""
    return page.picture(pictures.contact_sheet(values["image"], PER_ROW), title + names)


def _clips(source):
    rows, made = _sample_rows(source, CLIPS), []
    for row, words in zip(rows, _labels(source, rows)):
        values = source.gather(np.array([row]))
        clip = values["waveform"][0]
        clip = clip[clip != PADDING]
        caption = f"{len(clip) / source.rate:.2f} s, {words}"
        if "target" in values:
            caption += f": {values['target'][0][:MAX_CHARACTERS]}"
        made.append(page.picture(pictures.waveform_picture(clip, source.rate), caption))
    yield page.paragraph(f"Top: the waveform. Bottom: its spectrogram, from 0 to {source.rate / 2:,.0f} Hz upward.")
    yield page.grid(*made)


def _texts(source):
    rows = _sample_rows(source, TEXTS)
    values = source.gather(rows)
    targets = values.get("target", [""] * len(rows))
    for text, target, words in zip(values["text"], targets, _labels(source, rows)):
        shown = text[:MAX_CHARACTERS] + (" …" if len(text) > MAX_CHARACTERS else "")
        if words:
            yield page.paragraph(words)
        yield page.quotation(shown + (f"\n→ {target[:MAX_CHARACTERS]}" if target else ""))
