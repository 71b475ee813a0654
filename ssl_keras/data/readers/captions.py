"""Images with captions: `captions:FILE`, `emoji:FOLDER`, and arrays in memory.

A source has the columns "image" and "caption": (N,) strings with the captions of an image, one per line. The first is
the name of its concept. Splits are by concept: near duplicates of a name or an image (`data/near_duplicates/`) are in
one split. `…[K]`, with K from 0 to 4, selects the fold of concepts that is the test split.

Shapes: `N` examples, `H W C` image.
"""

import dataclasses
import logging
import os
import pathlib

import numpy as np

from ssl_keras.data import near_duplicates, tokens
from ssl_keras.data.readers import folders, image_files, tables, text_files
from ssl_keras.data.readers import images as image_reader
from ssl_keras.data.splits import Splits, images

FOLDS, PARTS = 5, 20  # four parts are for test, two for validation
COLUMNS = ("image", "caption")
TILE, BORDER = 64, 1  # pixels, of a sheet of emoji
COMPARED = 32  # pixels per side of images that are compared
MARGIN = 0.02  # subtracted from the correlation threshold, because correlations change with the image size
MOST = 32  # captions of an image that are used
log = logging.getLogger(__name__)


def load(path, image_size=None, fold=0):
    """Returns `Splits` of a CSV or TSV file with the columns image and caption, or of JSON lines such as
    {"image": "cats/1.png", "caption": "a cat"}, where "caption" may be a list.

    Paths are relative to the file. An image in several rows has several captions. Repeated pairs are skipped.

    Args:
        image_size: side in pixels to resize to; None keeps the size, as in `images.py`.
        fold: 0 to 4, the fold of concepts that is the test split.

    Raises:
        ValueError: The file does not exist, a row is malformed, a caption is empty, an image is missing, or more than
            one image in a hundred is unreadable.
    """
    check_fold(fold)
    path = pathlib.Path(os.path.expanduser(path))
    name = f"captions:{path}"
    if not path.is_file():
        raise ValueError(f"{name}: no such file. Expected a CSV or TSV file with a header, or JSON lines (.jsonl).")
    captions, copies, halves = {}, 0, 0
    for place, file, caption in rows_of(name, path):
        caption, broken = text_files.whole_characters(" ".join(caption.split()))
        halves += broken
        if not file or not caption:
            raise ValueError(f"{name}, {place}: the {'caption' if file else 'image'} is empty. Expected both.")
        known = captions.setdefault(folders.as_spelled(os.path.normpath(path.parent / _name_of(name, place, file))), [])
        copies += caption in known
        known += [] if caption in known else [caption]
    notes = [f"{halves} lone surrogates are read as U+FFFD"] if halves else []
    notes += [f"{copies} rows repeat an image and its caption and are skipped"] if copies else []
    files = list(captions)
    missing = [file for file in files if not os.path.isfile(file)]  # also false if the name is too long
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} images do not exist: {folders.listed(missing)}. Expected paths relative to the "
            "file of captions."
        )
    if not files:
        raise ValueError(f"{name} has no examples. Expected at least one row.")
    found = image_reader.read(name, files, (image_size, image_size, None))
    # Images are compared at a fixed size, so that the splits do not depend on `image_size`.
    compared = image_reader.read(name, files, (COMPARED, COMPARED, found.image.shape[3])).image
    texts, names = list(captions.values()), [os.path.relpath(file, path.parent) for file in files]
    whole = source(name, found.image, [texts[row] for row in found.rows]).with_notes(*notes, *found.notes)
    whole.arrays["name"] = image_reader.names(names)[found.rows]
    return by_concept(whole, fold, compared)


def rows_of(name, path):
    """Returns an iterable of (place, image file, caption) of the rows of a file of captions."""
    return _json_rows(name, path) if text_files.ending(path) in text_files.JSON else _table_rows(name, path)


def _name_of(name, place, file):
    """Returns a file name. Raises ValueError if it has characters that no file name has."""
    if "\0" in file or text_files.whole_characters(file)[1]:
        raise ValueError(f"{name}, {place}: expected the path of an image. Received: {ascii(file)[:80]}")
    return file


def _json_rows(name, path):
    expected = text_files.json_form(path, '{"image": …, "caption": …}')
    for number, row in text_files.json_rows(name, path, expected):
        image, caption = (row.get("image"), row.get("caption")) if isinstance(row, dict) else (None, None)
        caption = caption if isinstance(caption, list) else [caption]
        if not all(isinstance(each, str) for each in (image, *caption)):
            raise ValueError(f"{name}, line {number}: expected {expected}. Received: {str(row)[:80]!r}")
        yield from ((f"row {number}", image, each) for each in caption or [""])


def _table_rows(name, path):
    header, rows = tables.with_header(name, path, set(COLUMNS))
    if not set(COLUMNS) <= set(header):
        raise ValueError(
            f"{name}: expected a header with the columns image and caption. Received: {folders.listed(header)}"
        )
    image, caption = (header.index(column) for column in COLUMNS)
    yield from ((place, row[image].strip(), row[caption]) for place, row in rows)


def emoji(path, image_size=None, fold=0):
    """Returns `Splits` of emoji drawings on white, with their names, short names and keywords as captions.

    Args:
        path: a folder with one sheet of 64×64 drawings (`*_sheet_*.png`, as in npm's emoji-datasource packages), and
            `emoji.jsonl` with name, short_names, keywords, sheet_x and sheet_y in each line.
        image_size, fold: as in `load`.

    Raises:
        ValueError: The folder or a file does not exist, a line is malformed, or a position is outside the sheet.
    """
    from PIL import Image

    check_fold(fold)
    root = pathlib.Path(os.path.expanduser(path))
    name, sheets = f"emoji:{path}", sorted(file for file in root.glob("*_sheet_*.png") if file.name[0] != ".")
    if len(sheets) != 1 or not (root / "emoji.jsonl").is_file():
        raise ValueError(f"{name}: expected a folder with emoji.jsonl and one sheet *_sheet_*.png.")
    side, pitch = image_size or TILE, TILE + 2 * BORDER
    drawings, captions = [], []
    try:
        sheet = image_files.decode(sheets[0], channels=3)[0]
    except image_files.Unreadable as error:
        raise ValueError(f"{sheets[0]} cannot be read: {error}.") from error
    down, across = (length // pitch for length in sheet.shape[:2])
    if sheet.shape[:2] != (down * pitch, across * pitch):
        raise ValueError(f"{sheets[0]}: expected a grid of {pitch}×{pitch} pixels. Received: shape {sheet.shape}")
    expected = "name, short_names, keywords, and sheet_x and sheet_y inside the sheet"
    for number, row in text_files.json_rows(name, root / "emoji.jsonl", expected):
        if not _is_emoji(row, across, down):
            raise ValueError(f"{name}, line {number}: expected {expected}. Received: {str(row)[:80]!r}")
        words = [row["name"], *(short.replace("_", " ") for short in row["short_names"]), *row["keywords"]]
        x, y = (row[place] * pitch + BORDER for place in ("sheet_x", "sheet_y"))
        drawings.append(Image.fromarray(sheet[y : y + TILE, x : x + TILE]))
        captions.append(list(dict.fromkeys(words)))
    if not drawings:
        raise ValueError(f"{name} has no examples. Expected at least one line in emoji.jsonl.")
    image = np.stack([np.asarray(each.resize((side, side), Image.Resampling.BOX)) for each in drawings])
    return by_concept(source(name, image, captions), fold, np.stack([np.asarray(each) for each in drawings]))


def _is_emoji(row, across, down):
    """Returns whether a line of emoji.jsonl has all fields, and a position inside the sheet."""
    if not isinstance(row, dict):
        return False
    words = [row.get(key) for key in ("short_names", "keywords")]
    places = [(row.get("sheet_x"), across), (row.get("sheet_y"), down)]
    if not all(isinstance(each, list) for each in words):
        return False
    words = [row.get("name"), *words[0], *words[1]]
    return all(type(place) is int and 0 <= place < most for place, most in places) and all(
        isinstance(word, str) and word.strip() for word in words
    )


def source(name, image, captions):
    """Returns a `Source` of images (N, H, W[, C]) with captions: for each, a string or a list with the name first.

    Raises:
        ValueError: As in `splits.images`; or the number of captions is wrong, or a caption is empty.
    """
    return with_captions(images(name, image), captions)


def with_captions(source, captions):
    """Adds captions to a `Source` of images; raises as `source` does."""
    name = source.name
    listed = [[each] if isinstance(each, str) else list(each) for each in captions]
    if len(listed) != len(source):
        raise ValueError(f"{name}: expected captions for {len(source)} images. Received: captions for {len(listed)}")
    joined = ["\n".join(text_files.whole_characters(" ".join(text.split()))[0] for text in each) for each in listed]
    empty = [index for index, text in enumerate(joined) if not text or not all(text.split("\n"))]
    if empty:
        raise ValueError(f"{name}: {len(empty)} images have an empty caption, first at index {empty[0]}. Remove them.")
    column = np.full(len(next(iter(source.arrays.values()))), "", object)
    column[slice(None) if source.rows is None else source.rows] = joined
    return dataclasses.replace(source, arrays=source.arrays | {"caption": column})


def captions_of(source):
    """Returns [[captions of an image, the name first], …]."""
    source.column_spec("caption")
    return [text.split("\n") for text in source.column("caption")]


def training_texts(source):
    """Returns (texts, checksum) to train a tokenizer on: all captions, lowercased."""
    texts = [text.lower() for each in captions_of(source) for text in each]
    return texts, tokens.checksum(texts)


def names_of(source):
    """Returns the name of each image: its first caption."""
    return [captions[0] for captions in captions_of(source)]


def check_fold(fold):
    """Raises ValueError if the fold is out of range."""
    if not 0 <= fold < FOLDS:
        raise ValueError(f"The fold must be 0 to {FOLDS - 1}. Received: {fold}")


def by_concept(source, fold=0, compared=None):
    """Splits a source with captions by concept, so that near duplicates are in one split.

    Training captions that are near duplicates of a held-out name are dropped.

    Args:
        compared: (N, …) the same images at the size at which to compare them. Defaults to the images themselves.

    Raises:
        ValueError: The fold is out of range, there are fewer than twenty groups, or a split is empty.
    """
    check_fold(fold)
    names, images = names_of(source), source.column("image") if compared is None else compared
    alike = near_duplicates.similar_images(images, least=near_duplicates.SIMILAR_IMAGE - MARGIN)
    group = near_duplicates.groups(len(source), near_duplicates.similar_texts(names), alike)
    part = near_duplicates.parts_of(group, names, PARTS)
    place = (part - fold * (PARTS // FOLDS)) % PARTS
    held_out = part >= 0  # groups that are too large for one part are in the training split of every fold
    parts = [
        np.flatnonzero(chosen)
        for chosen in (~held_out | (place >= 6), held_out & ((place == 4) | (place == 5)), held_out & (place < 4))
    ]
    if len(np.unique(group)) < PARTS or not all(map(len, parts)):
        raise ValueError(
            f"{source.name} has too few groups of near duplicates to hold some out. Expected about {5 * PARTS}. "
            f"Received: {len(np.unique(group))}. Use more images."
        )
    base = source.name + (f"[{fold}]" if fold else "")
    unseen = [names[row] for row in np.concatenate(parts[1:])]
    arrays = source.arrays | {"caption": drop_near_duplicates(source.arrays["caption"], parts[0], unseen)}
    return Splits(
        *(
            dataclasses.replace(source.take(rows), arrays=arrays, name=f"{base}[{name}]")
            for name, rows in zip(Splits._fields, parts)
        )
    )


def drop_near_duplicates(column, rows, names):
    """Returns a column of captions without near duplicates of `names` in `rows`, except for first captions."""
    column = column.copy()
    listed = {row: column[row].split("\n") for row in rows}
    others = sorted({text for each in listed.values() for text in each[1:]})
    near = {others[index] for index in near_duplicates.similar_texts(others, names)[:, 0]} if others else set()
    for row, captions in listed.items():
        column[row] = "\n".join([captions[0], *(text for text in captions[1:] if text not in near)])
    return column


def tokenize(splits, tokenizer, context):
    """Tokenizes the captions of `Splits`, lowercased: the column "captions" (N, K, W) int32, padded with -1.

    At most the first 32 captions of an image are used.

    Raises:
        ValueError: An image has no caption with a token, or more than half of the tokens are unknown.
    """
    parts = [captions_of(source) for source in splits]
    over = sum(len(each) > MOST for part in parts for each in part)
    if over:
        log.warning("%s: %d images have more than %d captions. Using the first ones.", splits.train.base, over, MOST)
    flat = [text.lower() for part in parts for each in part for text in each[:MOST]]
    encoded = iter(tokenizer.encode(flat, special=False))
    listed = [[[ids for ids in (next(encoded) for _ in each[:MOST]) if ids] for each in part] for part in parts]
    counts = [tokens.count_unknown([ids for each in part for ids in each], tokenizer) for part in listed]
    for source, part in zip(splits, listed):
        silent = [row for row, each in enumerate(part) if not each]
        if silent:
            raise ValueError(f"{source.name}: the captions of image {silent[0]} have no tokens. Expected at least one.")
    rows = tokens.add_special_tokens(
        [ids for part in listed for each in part for ids in each], tokenizer, context, splits.train.base
    )
    most, first, made = max(len(each) for part in listed for each in part), 0, []
    for source, part in zip(splits, listed):
        places = np.arange(len(source)) if source.rows is None else source.rows
        column = np.full((len(source.arrays["image"]), most, rows.shape[1]), -1, np.int32)
        for place, each in zip(places, part):
            column[place, : len(each)] = rows[first : first + len(each)]
            first += len(each)
        arrays = {name: array for name, array in source.arrays.items() if name != "caption"} | {"captions": column}
        made.append(dataclasses.replace(source, arrays=arrays, tokenizer=tokenizer))
    return tokens.check_unknown(Splits(*made), counts)
