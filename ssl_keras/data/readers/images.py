"""A folder of images: sub-folder = label, where there are sub-folders; `folders.py` has what a layout may be.

The headers of all files decide what the images become: RGB where any is in color; and, where no size is asked for, the
size that half of them or more have, else the median height and width. The training part decides for the others.
"""

import collections
import concurrent.futures
import functools
import math
import os
import typing

import numpy as np

from ssl_keras.data.cache import IN_MEMORY_BYTES, contents, materialise
from ssl_keras.data.readers import folders, image_files
from ssl_keras.data.readers.folders import Unreadable, attempt, labeled_files, parts_below
from ssl_keras.data.readers.image_files import EXTENSIONS, Header
from ssl_keras.data.splits import images
from ssl_keras.files import printable

CHUNK = 256  # files decoded at a time
SAMPLE = 32  # headers that are looked at before all are: where these agree, the others are looked at while decoding
LARGE = 512  # pixels a side, of the square of this area; larger images are rarely meant to be learned from as they are
DARK = 16  # the brightest of images of 16 bits, once these are 8: below, they hold 12 bits or fewer


class Images(typing.NamedTuple):
    """What was read: uint8 (n, H, W, C), int64 (n,) which of the files each is, and notes for `Source.noted`."""

    image: np.ndarray
    rows: np.ndarray
    notes: tuple[str, ...]


def load(path, image_size=None):
    """`Splits` of the images below `path`; the column "name" has their files, below the folder.

    Args:
        image_size: side in pixels, to which images are resized; None keeps their size, see above.

    Raises:
        ValueError: no such folder, no image in it, images beside sub-folders of images,
            or too many that cannot be read (each is named, with the reason).
    """
    return parts_below("folder", path, "images", lambda root, like: _read(root, image_size, like), EXTENSIONS)


def _read(root, image_size, like):
    """The source of one folder; `like` fixes channels, size and classes, where given."""
    title = f"folder:{root}"
    files, codes, classes, notes = labeled_files(title, root, EXTENSIONS, "images", like, image_files.OTHERS)
    shape = (image_size, image_size, None) if like is None else like.arrays["image"].shape[1:]
    found = read(title, files, shape)
    source = images(title, found.image, np.array(codes)[found.rows] if classes else None, classes)
    source.arrays["name"] = names(folders.relative(files, root))[found.rows]
    return source.noted(*notes, *found.notes)


def names(paths):
    """(N,) strings: paths with what cannot be printed escaped."""
    found = np.empty(len(paths), object)
    found[:] = [printable(path) for path in paths]
    return found


def read(title, files, shape=(None, None, None)):
    """`Images` of those files that can be read.

    Args:
        shape: (H, W, C), each None where the files decide.

    Raises:
        ValueError: too many that cannot be read.
    """
    headers = [None] * len(files)
    _look(files, headers, np.unique(np.linspace(0, len(files) - 1, min(SAMPLE, len(files))).astype(int)))
    if not any(isinstance(about, Header) for about in headers):
        _look(files, headers, range(len(files)))
    chosen, agreed = _shape(title, files, headers, shape)
    if not agreed or len(files) * math.prod(chosen) > IN_MEMORY_BYTES:  # of that size, no second time
        _look(files, headers, range(len(files)))
        chosen, _ = _shape(title, files, headers, shape)
    image, rows = _decoded(title, files, chosen, headers)
    if _shape(title, files, headers, shape)[0] != chosen:
        chosen, _ = _shape(title, files, headers, shape)
        image, rows = _decoded(title, files, chosen, headers)
    failed = {files[row]: headers[row] for row in sorted({*range(len(files))} - {*rows.tolist()})}
    for file, about in failed.items():  # of what was decoded once, and is cached
        failed[file] = str(attempt(image_files.decode, file, chosen) if isinstance(about, Header) else about)
    notes = folders.skipped(title, failed, len(files), "images")
    return Images(image, rows, (*notes, *_notes([headers[row] for row in rows], shape, chosen, image)))


def _pool():
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count())  # Pillow decodes outside the lock


def _look(files, headers, rows):
    """Fills in the headers of these files, or why they cannot be read."""
    rows = [row for row in rows if headers[row] is None]
    with _pool() as pool:
        looked = pool.map(functools.partial(attempt, image_files.header), [files[row] for row in rows])
        for row, about in zip(rows, looked):
            headers[row] = about


def _shape(title, files, headers, wanted):
    """((H, W, C) that images become by the headers known, whether these agree)."""
    known = [about for about in headers if isinstance(about, Header)]
    if not known:
        folders.skipped(title, {file: str(about) for file, about in zip(files, headers)}, len(files), "images")
        raise ValueError(f"{title}: its one image, {printable(files[0].name)}, cannot be read: {headers[0]}.")
    (size, count), *others = collections.Counter((about.height, about.width) for about in known).most_common()
    if 2 * count < len(known):
        size = tuple(sorted(sides)[len(sides) // 2] for sides in zip(*((about.height, about.width) for about in known)))
    grays = {about.gray for about in known}
    decided = *size, 1 if grays == {True} else 3
    agreed = (wanted[0] is not None or not others) and (wanted[2] is not None or len(grays) == 1)
    return tuple(own if asked is None else asked for asked, own in zip(wanted, decided)), agreed


def _decoded(title, files, shape, headers):
    """(uint8 (n, *shape), int64 (n,) which of the files each is), of those that can be read; fills in headers.

    Raises:
        ValueError: too many that cannot be read.
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
        folders.skipped(title, failed, len(files), "images")

    columns = {"image": (shape, np.uint8), "row": ((), np.int64)}
    arrays = materialise(
        lambda: ["images", image_files.DECODING, list(shape), contents(files)], columns, len(files), chunks
    )
    return arrays["image"], arrays["row"]


def _notes(headers, wanted, shape, image):
    """Sentences on what was decided and converted, for the images that were read."""
    count, notes = len(headers), []
    sizes = collections.Counter((about.height, about.width) for about in headers)
    said = f"{shape[0]}×{shape[1]}"
    if wanted[0] is None and len(sizes) > 1:
        rule = f"that of {sizes[shape[:2]]} of {count} images" if 2 * sizes[shape[:2]] >= count else "the median"
        (low, high), (least, most) = ((min(sides), max(sides)) for sides in zip(*sizes))
        notes.append(
            f"heights are from {low} to {high} pixels, widths from {least} to {most}: all become {said}, "
            f"{rule}. --image-size chooses another size"
        )
    if wanted[0] is None and shape[0] * shape[1] > LARGE**2:
        notes.append(
            f"images of {said} pixels are taken as they are, {math.prod(shape) * count / 1e9:.1f} GB, and few "
            "networks are made for such. --image-size 128, say, makes them small"
        )
    grays = sum(about.gray for about in headers)
    if shape[2] == 3 and 0 < grays < count:
        notes.append(f"gray among images in color, and taken as RGB: {grays} of {count} images")
    if shape[2] == 1 and grays < count:
        notes.append(f"in color, and taken as gray: {count - grays} of {count} images")
    needed = collections.Counter(name for about in headers for name in about.conversions)
    notes += [
        f"{sentence}: {needed[name]} of {count} images"
        for name, sentence in image_files.CONVERSIONS.items()
        if needed[name]
    ]
    deep = np.array(["deep" in about.conversions for about in headers])
    brightest = max((int(image[row].max()) for row in np.flatnonzero(deep)), default=DARK)
    if brightest < DARK:
        notes.append(
            f"images of 16 bits are nearly black, {brightest} of 255 at most: they seem to use 12 bits or "
            "fewer. Scale them to 16, or save them as 8"
        )
    return notes
