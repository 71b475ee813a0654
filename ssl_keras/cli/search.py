"""Commands of encoders of images with text: `search`, `recall`."""

import dataclasses
import io
import logging
import os
import pathlib
from typing import Annotated

from ssl_keras import encoders, files
from ssl_keras.cli.flags import HeldOut, OverwriteFlag, Positional, RecordFlag, parse
from ssl_keras.data.ranges import Range
from ssl_keras.data.readers import folders, image_files, text_files
from ssl_keras.data.sources import load
from ssl_keras.evaluation import retrieval
from ssl_keras.inference import search

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search(OverwriteFlag):
    """Finds pictures by words, or the words for a picture."""

    encoder: Positional[str]
    """A saved encoder's name or path."""
    query: Positional[str]
    """Words; or the file of a picture, with --texts."""
    images: str = ""
    """The folder of pictures to search."""
    texts: str = ""
    """A file with a text in each line, to search for a picture."""
    count: Annotated[int, Range(1, 200)] = 8
    """How many to show."""
    out: str = "found.png"
    """The picture to write, of what was found by words."""


def search_command(arguments):
    asked = parse(Search, "search", arguments)
    if bool(asked.images) == bool(asked.texts):
        raise ValueError("Expected --images FOLDER to search by words, or --texts FILE to search by a picture.")
    if asked.images:
        files.check_output(asked.out, asked.overwrite)
    retriever = search.Retriever(asked.encoder)
    (_texts_for_picture if asked.texts else _pictures_for_words)(asked, retriever)


def _texts_for_picture(asked, retriever):
    texts = texts_of(asked.texts)
    query = retriever.of_images(_picture(pathlib.Path(asked.query), retriever.shape)[None])[0]
    for row, similarity in search.nearest(query, retriever.of_texts(texts), asked.count):
        print(f"{similarity:.3f}  {texts[row]}")


def texts_of(path):
    """The lines of a file, but for empty ones. Raises ValueError where there are none, or it is no text."""
    file = pathlib.Path(os.path.expanduser(path))
    if not file.is_file():
        raise ValueError(f"{path}: no such file. Expected a file with a text in each line.")
    texts = [line.strip() for line in text_files.read(path, file).splitlines() if line.strip()]
    if not texts:
        raise ValueError(f"{path} has no text. Expected a text in each line.")
    return texts


def _picture(path, shape):
    """uint8 array of a shape. Raises ValueError where the file holds no picture, and says why."""
    if not path.is_file():
        raise ValueError(f"{files.printable(path)}: expected the file of a picture. There is none.")
    try:
        return image_files.decode(path, shape)[0]
    except image_files.Unreadable as error:
        raise ValueError(f"{files.printable(path)}: expected a picture. Received: {error}") from error


def _pictures_for_words(asked, retriever):
    root = pathlib.Path(os.path.expanduser(asked.images))
    if not root.is_dir():
        raise ValueError(f"{asked.images}: no such folder. Expected a folder of images.")
    paths, others = folders.below(root, image_files.EXTENSIONS)
    if not paths:
        endings = ", ".join(sorted(image_files.EXTENSIONS))
        raise ValueError(f"{asked.images} has no images. Expected files ending in {endings}.")
    if others:
        log.warning("%s: left out are %s", asked.images, folders.left_out(others))
    query = retriever.of_query(asked.query)
    embeddings, paths = retriever.of_files(paths)
    found = search.nearest(query, embeddings, asked.count)
    for row, similarity in found:
        print(f"{similarity:.3f}  {files.printable(paths[row])}")
    titles = [f"{files.printable(paths[row].name)}\n{similarity:.2f}" for row, similarity in found]
    shown = [_picture(paths[row], retriever.shape) for row, _ in found]
    content = io.BytesIO()
    search.grid(shown, titles, asked.query).savefig(content, format="png", dpi=120, bbox_inches="tight")
    files.write(pathlib.Path(asked.out), content.getvalue())
    print(asked.out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recall(RecordFlag):
    """How often the right picture is among the first found by its name, and the right name by its picture."""

    encoder: Positional[str]
    """A saved encoder's name or path."""
    data: str
    """With captions: captions:FILE, emoji:FOLDER, or a caption set of tfds."""
    image_size: int | None = None
    """Side length in pixels to resize to."""
    part: HeldOut = "test"
    """validation or test."""


def recall_command(arguments):
    asked = parse(Recall, "recall", arguments)
    splits = load(asked.data, asked.image_size)
    source = getattr(splits, asked.part)
    table = retrieval.evaluate(search.Retriever(asked.encoder), splits, asked.part)
    print(retrieval.markdown(table))
    if asked.record:
        encoders.record(asked.encoder, source.name, table)
