"""Folders of images, with subfolders as labels; `folders.py` describes the layouts.

The headers of the training split decide the shape of all images: RGB if any image is in color, and, unless a size is
given, the size of at least half of the images, or else the median height and width.
"""

import collections
import concurrent.futures
import functools
import math
import os
import typing

import numpy as np

from ssl_keras.data.cache import IN_MEMORY_BYTES, contents, materialize
from ssl_keras.data.readers import folders, image_files
from ssl_keras.data.readers.file_lists import Unreadable, attempt
from ssl_keras.data.readers.folders import labeled_files, parts_below
from ssl_keras.data.readers.image_files import EXTENSIONS, Header
from ssl_keras.data.splits import images
from ssl_keras.files import printable

CHUNK = 256  # files decoded at a time
SAMPLE = 32  # headers to read first; if they agree, the others are read while decoding
LARGE = 512  # pixels per side of a square; a note suggests --image-size for images of a larger area
DARK = 16  # if 16-bit images scaled to 8 bits are all darker than this, they contain at most 12 bits


class Images(typing.NamedTuple):
    """Decoded images: uint8 (n, H, W, C), the indices of their files int64 (n,), and notes for `Source.with_notes`."""

    image: np.ndarray
    rows: np.ndarray
    notes: tuple[str, ...]


def load(path, image_size=None):
    """Returns `Splits` of the images below `path`; the column "name" has the paths of their files below it.

    Args:
        image_size: side in pixels to resize to; None keeps the size, as described above.

    Raises:
        ValueError: The folder does not exist, contains no images, or has images next to subfolders of images; or too
            many images are unreadable (each is named, with the reason).
    """
    return parts_below("folder", path, "images", lambda root, like: _read(root, image_size, like), EXTENSIONS)


def _read(root, image_size, like):
    """Returns the source of one folder; `like` is a source with the expected shape and classes, or None."""
    title = f"folder:{root}"
    files, codes, classes, notes = labeled_files(title, root, EXTENSIONS, "images", like, image_files.OTHERS)
    shape = (image_size, image_size, None) if like is None else like.arrays["image"].shape[1:]
    found = read(title, files, shape)
    source = images(title, found.image, np.array(codes)[found.rows] if classes else None, classes)
    source.arrays["name"] = names(folders.relative(files, root))[found.rows]
    return source.with_notes(*notes, *found.notes)


def names(paths):
    """Returns paths as strings (N,), with unprintable characters escaped."""
    found = np.empty(len(paths), object)
    found[:] = [printable(path) for path in paths]
    return found


def read(title, files, shape=(None, None, None)):
    """Returns the `Images` of the readable files.

    Args:
        shape: (H, W, C); the files' headers determine the entries that are None.

    Raises:
        ValueError: Too many files are unreadable.
    """
    headers = [None] * len(files)
    _read_headers(files, headers, np.unique(np.linspace(0, len(files) - 1, min(SAMPLE, len(files))).astype(int)))
    if not any(isinstance(about, Header) for about in headers):
        _read_headers(files, headers, range(len(files)))
    chosen, agreed = _target_shape(title, files, headers, shape)
    if not agreed or len(files) * math.prod(chosen) > IN_MEMORY_BYTES:  # too much to decode twice
        _read_headers(files, headers, range(len(files)))
        chosen, _ = _target_shape(title, files, headers, shape)
    image, rows = _decode_all(title, files, chosen, headers)
    if _target_shape(title, files, headers, shape)[0] != chosen:
        chosen, _ = _target_shape(title, files, headers, shape)
        image, rows = _decode_all(title, files, chosen, headers)
    failed = {files[row]: headers[row] for row in sorted({*range(len(files))} - {*rows.tolist()})}
    for file, about in failed.items():  # a file that failed before the result was cached has only a header
        failed[file] = str(attempt(image_files.decode, file, chosen) if isinstance(about, Header) else about)
    notes = folders.unreadable_notes(title, failed, len(files), "images")
    return Images(image, rows, (*notes, *_notes([headers[row] for row in rows], shape, chosen, image)))


def _pool():
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count())  # Pillow releases the GIL


def _read_headers(files, headers, rows):
    """Fills in the headers of these files, or the reasons why they are unreadable."""
    rows = [row for row in rows if headers[row] is None]
    with _pool() as pool:
        looked = pool.map(functools.partial(attempt, image_files.header), [files[row] for row in rows])
        for row, about in zip(rows, looked):
            headers[row] = about


def _target_shape(title, files, headers, wanted):
    """Returns ((H, W, C) that the known headers decide, whether the headers agree)."""
    known = [about for about in headers if isinstance(about, Header)]
    if not known:
        folders.unreadable_notes(title, {file: str(about) for file, about in zip(files, headers)}, len(files), "images")
        raise ValueError(f"{title}: its only image, {printable(files[0].name)}, cannot be read: {headers[0]}.")
    (size, count), *others = collections.Counter((about.height, about.width) for about in known).most_common()
    if 2 * count < len(known):
        size = tuple(sorted(sides)[len(sides) // 2] for sides in zip(*((about.height, about.width) for about in known)))
    grays = {about.gray for about in known}
    decided = *size, 1 if grays == {True} else 3
    agreed = (wanted[0] is not None or not others) and (wanted[2] is not None or len(grays) == 1)
    return tuple(own if asked is None else asked for asked, own in zip(wanted, decided)), agreed


def _decode_all(title, files, shape, headers):
    """Decodes the readable files to (uint8 (n, *shape), their indices int64 (n,)). Fills in headers.

    Raises:
        ValueError: Too many files are unreadable.
    """

    def chunks():
        failed = {}
        with _pool() as pool:
            for start in range(0, len(files), CHUNK):
                rows = range(start, min(start + CHUNK, len(files)))
                made = list(pool.map(lambda row: attempt(image_files.decode, files[row], shape), rows))
                failed |= {files[row]: str(one) for row, one in zip(rows, made) if isinstance(one, Unreadable)}
                for row, one in zip(rows, made):
                    headers[row] = one if isinstance(one, Unreadable) else one[1]
                kept = [row for row in rows if isinstance(headers[row], Header)]
                if kept:
                    yield {"image": np.stack([made[row - start][0] for row in kept]), "row": np.array(kept)}
        folders.unreadable_notes(title, failed, len(files), "images")

    columns = {"image": (shape, np.uint8), "row": ((), np.int64)}
    arrays = materialize(
        lambda: ["images", image_files.DECODING, list(shape), contents(files)], columns, len(files), chunks
    )
    return arrays["image"], arrays["row"]


def _notes(headers, wanted, shape, image):
    """Returns notes on how the images were resized and converted."""
    count, notes = len(headers), []
    sizes = collections.Counter((about.height, about.width) for about in headers)
    size = f"{shape[0]}×{shape[1]}"
    if wanted[0] is None and len(sizes) > 1:
        rule = f"the size of {sizes[shape[:2]]} of {count} images" if 2 * sizes[shape[:2]] >= count else "the median"
        (low, high), (least, most) = ((min(sides), max(sides)) for sides in zip(*sizes))
        notes.append(
            f"images are {low} to {high} pixels high and {least} to {most} wide: all are resized to {size}, {rule}. "
            "Use --image-size for another size"
        )
    if wanted[0] is None and shape[0] * shape[1] > LARGE**2:
        notes.append(
            f"images are large, {size} pixels and {math.prod(shape) * count / 1e9:.1f} GB in all. "
            "Use --image-size, such as --image-size 128, to resize them"
        )
    grays = sum(about.gray for about in headers)
    if shape[2] == 3 and 0 < grays < count:
        notes.append(f"{grays} of {count} images are grayscale and are converted to RGB")
    if shape[2] == 1 and grays < count:
        notes.append(f"{count - grays} of {count} images are in color and are converted to grayscale")
    needed = collections.Counter(name for about in headers for name in about.conversions)
    notes += [
        f"{needed[name]} of {count} images {sentence}"
        for name, sentence in image_files.CONVERSIONS.items()
        if needed[name]
    ]
    deep = np.array(["deep" in about.conversions for about in headers])
    brightest = max((int(image[row].max()) for row in np.flatnonzero(deep)), default=DARK)
    if brightest < DARK:
        notes.append(
            f"16-bit images are nearly black (at most {brightest} of 255), so they probably contain 12 bits or fewer. "
            "Rescale them to 16 bits, or save them with 8"
        )
    return notes
