"""Commands of encoders of images with text: `search`, `recall`."""

import dataclasses
import io
import pathlib
from typing import Annotated

from ssl_keras import encoders, files
from ssl_keras.cli.flags import HeldOut, Positional, RecordFlag, parse
from ssl_keras.data.ranges import Range
from ssl_keras.data.readers import images as image_reader
from ssl_keras.data.sources import load
from ssl_keras.evaluation import retrieval
from ssl_keras.inference import search


@dataclasses.dataclass(frozen=True)
class Search:
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
    files.make_folder(pathlib.Path(asked.out).absolute().parent)
    finder = search.Finder(asked.encoder)
    (_texts_for_picture if asked.texts else _pictures_for_words)(asked, finder)


def _texts_for_picture(asked, finder):
    texts = [line.strip() for line in pathlib.Path(asked.texts).read_text("utf-8").splitlines() if line.strip()]
    picture = image_reader.decode(pathlib.Path(asked.query), finder.shape)
    if picture is None or not texts:
        raise ValueError(f"{asked.query if texts else asked.texts}: expected {'a picture' if texts else 'texts'}.")
    query = finder.of_images(picture[None])[0]
    for row, similarity in search.nearest(query, finder.of_texts(texts), asked.count):
        print(f"{similarity:.3f}  {texts[row]}")


def _pictures_for_words(asked, finder):
    paths = image_reader.files_below(pathlib.Path(asked.images).expanduser(), image_reader.EXTENSIONS)
    if not paths:
        endings = ", ".join(image_reader.EXTENSIONS)
        raise ValueError(f"{asked.images} has no images. Expected files ending in {endings}.")
    query = finder.of_query(asked.query)
    embeddings, paths = finder.of_files(paths)
    found = search.nearest(query, embeddings, asked.count)
    for row, similarity in found:
        print(f"{similarity:.3f}  {paths[row]}")
    titles = [f"{paths[row].name}\n{similarity:.2f}" for row, similarity in found]
    shown = [image_reader.decode(paths[row], finder.shape) for row, _ in found]
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
    table = retrieval.evaluate(search.Finder(asked.encoder), splits, asked.part)
    print(retrieval.markdown(table))
    if asked.record:
        encoders.record(asked.encoder, source.name, table)
