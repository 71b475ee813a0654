"""`curated:FOLDER`: what `ssl-keras curate` wrote, which TensorFlow Datasets opens too.

Texts are read by index while training. Images and audio are decoded once: into memory, or above a gigabyte into
memory-mapped files.
"""

import io
import json
import os
import pathlib

import numpy as np

from ssl_keras.data import audio
from ssl_keras.data.cache import materialize
from ssl_keras.data.labels import check_labels
from ssl_keras.data.readers import captions, image_files
from ssl_keras.data.records import Records
from ssl_keras.data.splits import Source, hold_out, images
from ssl_keras.files import printable

ABOUT = "curation.json"
CHUNK = 256  # examples read at a time


class Texts:
    """A lazy array (N,) of the texts of `Records`."""

    dtype, ndim = np.dtype(object), 1

    def __init__(self, records):
        self.records, self.shape = records, (len(records),)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        rows = np.arange(len(self))[rows]
        made = np.empty(len(rows), object)
        made[:] = [example["text"].decode() for example in self.records[rows]]
        return made


def load(path, image_size=None):
    """Returns `Splits` of a curated folder. Splits that it lacks are held out from its training split.

    Raises:
        ValueError: The folder is not one, files are missing or damaged, or images differ in size without `image_size`.
    """
    root = pathlib.Path(os.path.expanduser(path))
    title = f"curated:{path}"
    try:
        about = json.loads((root / ABOUT).read_text("utf-8"))
        kind, classes, splits = about["kind"], about["classes"], about["splits"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        partial = (root / "curation.partial.json").exists()
        advice = "It is not complete: repeat the command that writes it." if partial else "Check the path."
        raise ValueError(f"{title}: expected a folder that ssl-keras curate wrote, with {ABOUT}. {advice}") from error
    made = {}
    for split in splits:
        records, name = Records(root, split), f"{title}[{split}]"
        key = ["curated", split, {file: digest for file, digest in about["sha256"].items() if f"-{split}." in file}]
        if kind == "text":
            source = _labeled(Source(name, {"text": Texts(records)}), records, classes)
        elif kind == "image":
            source = _images(name, records, key, image_size, classes)
        else:
            source = _clips(name, records, key, about["rate"], classes)
        made[split] = source
    return hold_out(made.pop("train"), **made)


def _chunks(records):
    for start in range(0, len(records), CHUNK):
        yield records[range(start, min(start + CHUNK, len(records)))]


def _column(records, name):
    return [example[name] for chunk in _chunks(records) for example in chunk]


def _labeled(source, records, classes):
    """Adds labels to a source, if there are classes."""
    if not classes:
        return source
    labels, names, notes = check_labels(source.name, _column(records, "label"), len(records), classes)
    return Source(source.name, source.arrays | {"label": labels}, names).with_notes(*notes)


def _images(name, records, key, image_size, classes):
    """Returns the source of images, decoded once."""
    from PIL import Image

    shapes = set()
    for chunk in _chunks(records):
        for example in chunk:
            with Image.open(io.BytesIO(example["image"]), formats=("PNG", "JPEG")) as image:
                shapes.add((image.height, image.width, 1 if image.mode in image_files.GRAY else 3))
    sizes, channels = {shape[:2] for shape in shapes}, max(shape[2] for shape in shapes)
    if len(sizes) > 1 and image_size is None:
        raise ValueError(f"{name} has images of different sizes. Set --image-size, such as --image-size 64.")
    shape = (*((image_size, image_size) if image_size else sizes.pop()), channels)

    def chunks():
        for chunk in _chunks(records):
            yield {"image": np.stack([_decoded(name, example["image"], shape) for example in chunk])}

    arrays = materialize([*key, list(shape), image_files.DECODING], {"image": (shape, np.uint8)}, len(records), chunks)
    label = _column(records, "label") if classes else None
    source = images(name, arrays["image"], label, classes)
    first = records[[0]][0]
    if "caption" not in first:
        return source
    return captions.with_captions(source, [text.decode().split("\n") for text in _column(records, "caption")])


def _decoded(name, content, shape):
    try:
        return image_files.decode(io.BytesIO(content), shape)[0]
    except (image_files.Unreadable, TypeError) as error:
        raise ValueError(f"{name} has a damaged image: {printable(error)}. Curate it again.") from error


def _clips(name, records, key, rate, classes):
    """Returns the source of clips."""
    lengths = np.array([len(example["waveform"]) // 2 for chunk in _chunks(records) for example in chunk])

    def chunks():
        for chunk in _chunks(records):
            yield {"samples": np.frombuffer(b"".join(example["waveform"] for example in chunk), "<i2")}

    arrays = materialize([*key, "samples"], {"samples": ((), np.int16)}, int(lengths.sum()), chunks)
    names = [example.decode() for example in _column(records, "id")]
    label = _column(records, "label") if classes else None
    return audio.source(name, arrays["samples"], lengths, rate, names, label, classes)
