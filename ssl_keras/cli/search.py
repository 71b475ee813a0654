"""Commands for encoders of images with text, `search` and `recall`; `search` also takes encoders of text."""

import dataclasses
import logging
import os
import pathlib
from typing import Annotated

from ssl_keras import encoders, files
from ssl_keras.cli.flags import EncoderArgument, HeldOut, OverwriteFlag, Positional, RecordFlag, parse
from ssl_keras.data.ranges import Range
from ssl_keras.data.readers import folders, image_files, tables, text_files
from ssl_keras.data.sources import load
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation import retrieval
from ssl_keras.inference import search
from ssl_keras.pictures import figure_png

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search(EncoderArgument, OverwriteFlag):
    """The images nearest to a text, or the texts nearest to an image or, with an encoder of text, to a text."""

    query: Positional[str]
    """Text query or, with an image_text encoder and --texts, the path of an image."""
    images: str = ""
    """Folder of images to search. Expects an image_text encoder and a text query."""
    texts: str = ""
    """Texts to search: a file with one per line, or the texts of a table as table:FILE. Expects an image as the query
    of an image_text encoder, and a text as that of an encoder of text."""
    count: Annotated[int, Range(1, 200)] = 8
    """Number of results to show."""
    out: str = "found.png"
    """PNG file for a grid of the images that were found. Used only with --images."""


def search_command(arguments):
    asked = parse(Search, "search", arguments)
    if bool(asked.images) == bool(asked.texts):
        raise ValueError(
            "Expected --images FOLDER to search images, or --texts FILE to search texts. "
            f"Received: {'both' if asked.images else 'neither'}"
        )
    if asked.images:
        files.check_output(asked.out, asked.overwrite)
        _search_images(asked, search.Retriever(asked.encoder))
    else:
        _search_texts(asked)


def _search_texts(asked):
    texts = read_texts(asked.texts)
    if cards.is_a(cards.read(encoders.find(asked.encoder)), "towers"):
        retriever = search.Retriever(asked.encoder)
        query = retriever.of_images(_picture(pathlib.Path(asked.query), retriever.shape)[None])[0]
    else:
        retriever = search.TextRetriever(asked.encoder)
        query = retriever.of_query(asked.query)
    for row, similarity in search.nearest(query, retriever.of_texts(texts), asked.count):
        print(f"{similarity:.3f}  {files.printable(texts[row])}")


def read_texts(path):
    """Returns the lines of a file that are not empty, or the texts of `table:FILE` without repetitions.

    Raises:
        ValueError: There are none, it is not a text file, or it is a table without `table:`.
    """
    if path.startswith("table:"):
        rows = tables.texts_of_rows(path.removeprefix("table:"))
        texts = list(dict.fromkeys(text for _, (text, _) in rows if text))
        if not texts:
            raise ValueError(f"{path} contains no text. Expected a text in at least one row.")
        return texts
    if text_files.ending(pathlib.Path(path)) in (*text_files.JSON, ".csv", ".tsv"):
        raise ValueError(f"{path} is a table. Expected a file with one text per line. Use --texts table:{path}")
    file = pathlib.Path(os.path.expanduser(path))
    if not file.is_file():
        raise ValueError(f"{path}: no such file. Expected a file with one text per line.")
    texts = [line.strip() for line in text_files.read(path, file).splitlines() if line.strip()]
    if not texts:
        raise ValueError(f"{path} contains no text. Expected one text per line.")
    return texts


def _picture(path, shape):
    """Returns the image of a file as a uint8 array of a shape. Raises ValueError if the file is not an image."""
    if not path.is_file():
        raise ValueError(f"{files.printable(path)}: no such file. Expected an image file.")
    try:
        return image_files.decode(path, shape)[0]
    except image_files.Unreadable as error:
        raise ValueError(f"{files.printable(path)}: expected an image. Received: {error}") from error


def _search_images(asked, retriever):
    root = pathlib.Path(os.path.expanduser(asked.images))
    if not root.is_dir():
        raise ValueError(f"{asked.images}: no such folder. Expected a folder of images.")
    paths, others = folders.below(root, image_files.EXTENSIONS)
    if not paths:
        endings = ", ".join(sorted(image_files.EXTENSIONS))
        raise ValueError(f"{asked.images} contains no images. Expected files ending in {endings}.")
    if others:
        log.warning("%s: left out %s", asked.images, folders.left_out(others))
    query = retriever.of_query(asked.query)
    embeddings, paths = retriever.of_files(paths)
    found = search.nearest(query, embeddings, asked.count)
    for row, similarity in found:
        print(f"{similarity:.3f}  {files.printable(paths[row])}")
    titles = [f"{files.printable(paths[row].name)}\n{similarity:.2f}" for row, similarity in found]
    shown = [_picture(paths[row], retriever.shape) for row, _ in found]
    files.write(pathlib.Path(asked.out), figure_png(search.grid(shown, titles, asked.query)))
    print(asked.out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recall(EncoderArgument, RecordFlag):
    """The fraction of names that find their image among the first results, and of images that find their name."""

    data: str
    """Dataset of images with captions: captions:FILE, emoji:FOLDER, or a caption dataset as tfds:NAME."""
    image_size: int | None = None
    """Side length, in pixels, of the square to which images are resized. None keeps their size."""
    part: HeldOut = "test"
    """Held-out split to evaluate on."""


def recall_command(arguments):
    asked = parse(Recall, "recall", arguments)
    splits = load(asked.data, asked.image_size)
    source = getattr(splits, asked.part)
    table = retrieval.evaluate(search.Retriever(asked.encoder), splits, asked.part)
    print(retrieval.markdown(table))
    if asked.record:
        encoders.record(asked.encoder, source.name, table)
