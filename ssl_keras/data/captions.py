"""Images with captions: `captions:FILE`, `emoji:FOLDER`, and arrays from Python.

A source of these has the columns "image" and "caption": (N,) strings, an image's captions one in each line, its
name first. Held-out parts are cut by concept, so that no name, no near duplicate of one and no near duplicate of
an image (`data/leakage.py`) is on both sides; `…[K]`, K from 0 to 4, holds out another fifth of the concepts.

Shapes: `N` examples, `H W C` image.
"""

import concurrent.futures
import csv
import dataclasses
import itertools
import json
import logging
import os
import pathlib

import numpy as np
from PIL import Image

from ssl_keras.data import folder, leakage, tokens
from ssl_keras.data.sources import Splits, images

FOLDS, PARTS = 5, 20  # of the parts four are test, two are validation
COLUMNS = ("image", "caption")
TILE, BORDER = 64, 1  # of a sheet of emoji, pixels
log = logging.getLogger(__name__)


def load(path, image_size=None, fold=0):
    """`Splits` of a CSV or TSV file with the columns image and caption, or a file of JSON lines such as
    {"image": "cats/1.png", "caption": "a cat"}, where "caption" may be a list.

    Paths are relative to the file. Several rows for one image are its captions; a pair that comes again is left out.

    Args:
        image_size: side in pixels; None takes the size of the first image.
        fold: 0 to 4, which fifth of the concepts is held out to report on.

    Raises:
        ValueError: no such file; rows of another kind; an empty caption; a caption whose image is missing; more than
            one image in a hundred that cannot be read.
    """
    path = pathlib.Path(path).expanduser()
    name = f"captions:{path}"
    if not path.is_file():
        raise ValueError(f"{name}: no such file. Expected CSV or TSV with a header, or JSON lines (.jsonl).")
    rows = _json_rows(name, path) if path.suffix in (".jsonl", ".json") else _table_rows(name, path)
    captions, copies = {}, 0
    for number, file, caption in rows:
        if not file or not caption.strip():
            raise ValueError(f"{name}, row {number}: its {'caption' if file else 'image'} is empty. Expected both.")
        known = captions.setdefault(file, [])
        caption = " ".join(caption.split())
        copies += caption in known
        known += [] if caption in known else [caption]
    if copies:
        log.warning("%s: %d rows repeat an image's caption and are left out", name, copies)
    files = [path.parent / file for file in captions]
    missing = [file for file in files if not file.is_file()]
    if missing:
        some = ", ".join(str(file) for file in missing[:10]) + (" …" if len(missing) > 10 else "")
        raise ValueError(f"{name}: {len(missing)} captions have no image: {some}. Expected paths relative to the file.")
    if not files:
        raise ValueError(f"{name} has no examples. Expected at least one row.")
    shape = folder.first_shape(name, files)
    shape = shape if image_size is None else (image_size, image_size, shape[2])
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = list(pool.map(folder.decode, files, itertools.repeat(shape)))
    folder.report(name, [file for file, image in zip(files, decoded) if image is None], len(files), "images")
    kept = [(image, texts) for image, texts in zip(decoded, captions.values()) if image is not None]
    return by_concept(source(name, np.stack([image for image, _ in kept]), [texts for _, texts in kept]), fold)


def _json_rows(name, path):
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            caption = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
            yield from ((number, row["image"], str(each)) for each in caption or [""])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f'{name}, line {number}: expected {{"image": …, "caption": …}}. Received: {line[:80]!r}'
            ) from error


def _table_rows(name, path):
    content = path.read_text("utf-8-sig")
    header = content.partition("\n")[0]
    rows = csv.DictReader(content.splitlines(), delimiter="\t" if "\t" in header else ",")
    if not set(COLUMNS) <= set(rows.fieldnames or ()):
        raise ValueError(f"{name}: expected a header with the columns image and caption. Received: {header[:80]!r}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"{name}, row {number}: expected {len(rows.fieldnames)} columns. Received: {row}")
        yield number, row["image"].strip(), row["caption"]


def emoji(path, image_size=None, fold=0):
    """`Splits` of drawings of emoji with their names, short names and keywords, on white.

    Args:
        path: a folder with one sheet of 64×64 drawings (`*_sheet_*.png`, as npm's emoji-datasource packages have
            it), and `emoji.jsonl`: in each line name, short_names, keywords, sheet_x, sheet_y.
        image_size, fold: as of `load`.

    Raises:
        ValueError: no such folder, or not these files in it.
    """
    root = pathlib.Path(path).expanduser()
    name, sheets = f"emoji:{path}", sorted(root.glob("*_sheet_*.png"))
    if not sheets or not (root / "emoji.jsonl").is_file():
        raise ValueError(f"{name}: expected a folder with emoji.jsonl and a sheet, *_sheet_*.png.")
    rows = [json.loads(line) for line in (root / "emoji.jsonl").read_text("utf-8").splitlines()]
    side, pitch = image_size or TILE, TILE + 2 * BORDER
    drawings, captions = [], []
    with Image.open(sheets[0]) as sheet:
        sheet = sheet.convert("RGBA")
        for row in rows:
            x, y = row["sheet_x"] * pitch + BORDER, row["sheet_y"] * pitch + BORDER
            drawing = Image.new("RGBA", (TILE, TILE), "white")
            drawing.alpha_composite(sheet.crop((x, y, x + TILE, y + TILE)))
            drawings.append(np.asarray(drawing.convert("RGB").resize((side, side), Image.Resampling.BOX)))
            words = [row["name"], *(short.replace("_", " ") for short in row["short_names"]), *row["keywords"]]
            captions.append(list(dict.fromkeys(word.lower() for word in words)))
    return by_concept(source(name, np.stack(drawings), captions), fold)


def source(name, image, captions):
    """A checked `Source` of images (N, H, W[, C]) and their captions: for each a string, or several, its name first.

    Raises:
        ValueError: as `sources.images`; another number of captions; an image without any.
    """
    return with_captions(images(name, image), captions)


def with_captions(source, captions):
    """A `Source` of images with their captions; errors as of `source`."""
    name = source.name
    listed = [[each] if isinstance(each, str) else list(each) for each in captions]
    if len(listed) != len(source):
        raise ValueError(f"{name}: expected captions for {len(source)} images. Received: {len(listed)}")
    joined = ["\n".join(" ".join(text.split()) for text in each) for each in listed]
    empty = [index for index, text in enumerate(joined) if not text or not all(text.split("\n"))]
    if empty:
        raise ValueError(f"{name}: {len(empty)} images have an empty caption, the first is number {empty[0]}.")
    column = np.empty(len(joined), object)
    column[:] = joined
    return dataclasses.replace(source, arrays=source.arrays | {"caption": column})


def captions_of(source):
    """[[its captions, the name first] for each example]."""
    source.column_spec("caption")
    return [text.split("\n") for text in source.column("caption")]


def names_of(source):
    """[the first caption of each example]."""
    return [captions[0] for captions in captions_of(source)]


def by_concept(source, fold=0):
    """`Splits` of a source with captions, cut so that near duplicates stay together; see above.

    Captions of the training part that are a held-out example's name are taken out of it.

    Raises:
        ValueError: a fold that there is not; too few concepts to have some in each part.
    """
    if not 0 <= fold < FOLDS:
        raise ValueError(f"The fold must be 0 to {FOLDS - 1}. Received: {fold}")
    names = names_of(source)
    group = leakage.groups(
        len(source), leakage.similar_texts(names), leakage.similar_images(source.column("image"))
    )
    part = (leakage.parts_of(group, PARTS) - fold * (PARTS // FOLDS)) % PARTS
    parts = [np.flatnonzero(chosen) for chosen in (part >= 6, (part == 4) | (part == 5), part < 4)]
    if not all(map(len, parts)):
        raise ValueError(
            f"{source.name} has {len(np.unique(group))} groups of near duplicates: too few to hold some out. "
            f"Expected at least {PARTS}."
        )
    held_out = {leakage.folded(names[row]) for row in np.concatenate(parts[1:])}
    arrays = dict(source.arrays)
    arrays["caption"] = arrays["caption"].copy()
    for row in parts[0]:
        captions = arrays["caption"][row].split("\n")
        known = [each for each in captions[1:] if leakage.folded(each) not in held_out]
        arrays["caption"][row] = "\n".join([captions[0], *known])
    return Splits(*(
        dataclasses.replace(source.take(rows), arrays=arrays, name=f"{source.base}[{name}]")
        for name, rows in zip(Splits._fields, parts)
    ))


def tokenised(splits, tokenizer, context):
    """`Splits` with the captions as tokens, "captions" (N, K, W) int32: of an image up to K, the rest of them -1."""
    parts = [captions_of(source) for source in splits]
    flat = [text for part in parts for each in part for text in each]
    rows = tokens.framed(tokenizer.encode(flat, special=False), tokenizer, context, splits.train.base)
    most, first, made = max(len(each) for part in parts for each in part), 0, []
    for source, part in zip(splits, parts):
        column = np.full((len(part), most, rows.shape[1]), -1, np.int32)
        for row, each in zip(column, part):
            row[: len(each)] = rows[first : first + len(each)]
            first += len(each)
        arrays = {name: source.column(name) for name in source.arrays if name != "caption"} | {"captions": column}
        made.append(dataclasses.replace(source, arrays=arrays, rows=None, tokenizer=tokenizer))
    return Splits(*made)
