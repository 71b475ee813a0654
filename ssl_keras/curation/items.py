"""Reads the examples of a shard, one after the other, within limits: what cannot be read is an item with a problem."""

import gzip
import io
import json
import typing
import zlib

import numpy as np

from ssl_keras.curation.listing import rows, table
from ssl_keras.data.readers import text_files

MAX_BYTES = 16 << 20  # of a document; longer ones are not read to their end
TOO_LONG, NOT_TEXT, UNREADABLE, EMPTY = "too long", "not text", "unreadable", "empty"


class Item(typing.NamedTuple):
    """An example: its name, text, image (H, W, C) or waveform (T,), or the problem why there is none.

    Attributes:
        encoded: the bytes of an image in a format that every reader decodes.
        label: name of its class, or None. captions: joined by line ends, or None.
    """

    name: str
    content: typing.Any = None
    problem: str = ""
    encoded: bytes = b""
    label: str | None = None
    captions: str | None = None


def read(shard, kind, rate=0, pixels=0, seconds=0.0):
    """Yields the items of a shard of a `Listing`.

    Args:
        rate: sampling rate in Hz that audio is resampled to.
        pixels, seconds: limits above which images and clips are not decoded.

    Raises:
        ValueError: A file has changed since it was listed.
    """
    if shard["source"] == "rows":
        yield from _rows(*shard["rows"])
        return
    for entry in shard["entries"]:
        _check_unchanged(entry)
        if shard["source"] == "table":
            yield from _table(entry)
        elif kind == "text":
            yield from _text(entry)
        elif kind == "image":
            yield _image(entry, pixels)
        else:
            yield _clip(entry, rate, seconds)


def _check_unchanged(entry):
    import os

    try:
        about = os.stat(entry[1])
    except OSError as error:
        raise ValueError(
            f"{entry[1]} cannot be read any more: {error.strerror}. Start again with a new --out."
        ) from error
    if (about.st_size, about.st_mtime_ns) != (entry[2], entry[3]):
        raise ValueError(f"{entry[1]} has changed since it was listed. Start again with a new --out.")


def _text(entry):
    """Yields the document of a text file, or those of JSON lines."""
    name, path, *_ = entry
    lines = name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    try:
        with gzip.open(path, "rb") if name.lower().endswith(".gz") else open(path, "rb") as file:
            if lines:
                yield from _lines(name, file, *entry[4:6], path)
            else:
                yield _document(name, file.read(MAX_BYTES + 1))
    except (OSError, EOFError, zlib.error):
        yield Item(name, problem=UNREADABLE)


def _document(name, content, captions=None):
    """Returns the item of a document in bytes."""
    if len(content) > MAX_BYTES:
        return Item(name, problem=TOO_LONG)
    if text_files.foreign(content[: text_files.HEAD]):
        return Item(name, problem=NOT_TEXT)
    text, bad = text_files.decoded(content.removeprefix(text_files.BOM))
    return _checked(name, text, bad)


def _checked(name, text, bad, label=None):
    if bad > text_files.MAX_INVALID * len(text):
        return Item(name, problem=NOT_TEXT)
    return Item(name, text, label=label) if text.strip() else Item(name, problem=EMPTY)


def _lines(name, file, start, stop, path):
    """Yields the documents of the JSON lines that begin in bytes `start` to `stop` of a file."""
    if name.lower().endswith(".gz"):
        stop = None
    elif start:
        file.seek(start - 1)
        while not (skipped := file.readline(MAX_BYTES)).endswith(b"\n") and skipped:
            pass  # the end of a line that begins in the shard before
    place = file.tell()
    while stop is None or place < stop:
        line = file.readline(MAX_BYTES + 1)
        if not line:
            return
        whole = line
        while len(whole) > MAX_BYTES and not whole.endswith(b"\n") and (whole := file.readline(MAX_BYTES + 1)):
            pass
        if line.strip() and line != text_files.BOM:
            yield _line(f"{name}:{place}", line)
        place = file.tell()


def _line(name, line):
    if len(line) > MAX_BYTES:
        return Item(name, problem=TOO_LONG)
    text, bad = text_files.decoded(line.removeprefix(text_files.BOM))
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return Item(name, problem=UNREADABLE)
    strings = [value for value in row.values() if isinstance(value, str)] if isinstance(row, dict) else []
    value = row.get("text", strings[0] if len(strings) == 1 else None) if isinstance(row, dict) else None
    if not isinstance(value, str):
        return Item(name, problem=EMPTY if value is None and isinstance(row, dict) and "text" in row else UNREADABLE)
    whole, halves = text_files.whole_characters(value)
    return _checked(name, whole, bad + halves + whole.count("\0"))


def _table(entry):
    header, found = table(entry[1])
    text, label = header.index("text"), header.index("label") if "label" in header else None
    for place, row in found:
        if len(row[text]) > MAX_BYTES:
            yield Item(f"{entry[0]}:{place}", problem=TOO_LONG)
        else:
            yield _checked(f"{entry[0]}:{place}", row[text], 0, None if label is None else row[label].strip())


def _image(entry, pixels):
    from ssl_keras.data.readers import image_files

    name, path, *_, label, captions = entry
    try:
        header = image_files.header(path)
        if header.height * header.width > pixels:
            return Item(name, problem="pixels")
        image, header = image_files.decode(path)
    except image_files.Unreadable as error:
        return Item(name, problem="pixels" if str(error).startswith(image_files.TOO_LARGE) else UNREADABLE)
    with open(path, "rb") as file:
        encoded = file.read()
    plain = not header.conversions and encoded[:3] in (b"\xff\xd8\xff", b"\x89PN")
    return Item(name, image, "", encoded if plain else _png(image), label, captions)


def _png(image):
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(content, "png")
    return content.getvalue()


def _clip(entry, rate, seconds):
    from ssl_keras.data.readers import audio

    name, path, *_, label, _ = entry
    try:
        return Item(name, audio.read(path, rate, seconds), label=label)
    except ValueError as error:
        return Item(name, problem=TOO_LONG if "longer than" in str(error) else UNREADABLE)


def _rows(spec, start, stop):
    source = rows(spec)
    for row in range(start, stop):
        example = {name: column[0] for name, column in source.gather(np.array([row])).items()}
        label = source.classes[int(example["label"])] if source.classes else None
        name, captions = str(row), example.get("caption")
        if "image" in example:
            image = example["image"]
            image = image if image.dtype == np.uint8 else np.rint(image * 255).astype(np.uint8)
            yield Item(name, image, "", _png(image), label, captions)
        elif "text" in example:
            yield _checked(name, example["text"], 0, label)
        else:
            waveform = example["waveform"]
            yield Item(name, waveform[waveform != np.iinfo(np.int16).min], label=label)
