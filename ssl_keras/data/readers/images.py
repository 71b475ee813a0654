"""A folder of images: sub-folder = label, where there are sub-folders.

`PATH/train`, `PATH/validation` (or `val`) and `PATH/test`, where they exist, are the splits.
Hidden files and folders are passed over; links are followed.
"""

import concurrent.futures
import dataclasses
import itertools
import logging
import math
import os
import pathlib

import numpy as np

from ssl_keras.data.cache import contents, materialise
from ssl_keras.data.splits import Splits, hold_out, images

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
CORRUPT_SHARE = 0.01  # more unreadable files than this (and more than one) is an error
CHUNK = 256  # files decoded at a time
DECODING = 1  # another number where a file is decoded otherwise than before: what is cached is then made anew
HELD_OUT = {"validation": "validation", "val": "validation", "test": "test"}
GREY = {"1", "L", "LA"}

log = logging.getLogger(__name__)


def load(path, image_size=None):
    """`Splits` of the images below `path`, grey where the first image is, else RGB.

    Args:
        image_size: side in pixels; None takes the size of the first image. Images of
            another size are resized.

    Raises:
        ValueError: no such folder, no image in it, images beside sub-folders of images,
            or too many that cannot be read (each is named).
    """
    return parts_below("folder", path, "images", lambda root, like: _read(root, image_size, like))


def parts_below(kind, path, what, read):
    """`Splits` of a folder, or of its sub-folders train, validation (or val) and test.

    Args:
        kind: "folder", for messages. path: as the user wrote it. what: "images", for messages.
        read: function (folder, the training part or None) to a `Source`.

    Raises:
        ValueError: no such folder; held-out parts without a training part.
    """
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"{kind}:{path}: no such folder. Expected a folder of {what}.")
    held_out = held_out_folders(f"{kind}:{path}", root, "a sub-folder for each label")
    if held_out is None:
        return hold_out(read(root, None))
    train = read(root / "train", None)
    splits = hold_out(train, **{split: read(root / name, train) for name, split in held_out.items()})
    # Named after the whole: a sub-folder's name, "train", is that of every other data set too.
    return Splits(*(
        dataclasses.replace(part, name=f"{kind}:{root}[{name}]") for name, part in splits._asdict().items()
    ))


def held_out_folders(title, root, otherwise):
    """{sub-folder: part, validation or test} beside a sub-folder train; None where there is neither.

    Raises:
        ValueError: held-out parts without a training part. `title` and `otherwise`, what else may be there, are for
            the message.
    """
    held_out = {name: split for name, split in HELD_OUT.items() if (root / name).is_dir()}
    if (root / "train").is_dir():
        return held_out
    if held_out:
        raise ValueError(
            f"{title} has {', '.join(held_out)} and no train. Expected PATH/train beside them, or {otherwise}."
        )
    return None


def labelled_files(title, root, extensions, what, like):
    """(files, the class of each or -1, class names): a sub-folder is a class, where there are sub-folders.

    Args:
        title, what: for messages; what the files are. like: a `Source` whose classes are expected, or None.

    Raises:
        ValueError: no files; files beside sub-folders; other classes.
    """
    files = files_below(root, extensions)
    if not files:
        raise ValueError(f"{title} has no examples. Expected files ending in {', '.join(sorted(extensions))}.")
    labels = [f.relative_to(root).parts[0] if f.parent != root else None for f in files]
    classes = sorted(set(labels) - {None})
    if classes and None in labels:
        stray = files[labels.index(None)]
        raise ValueError(f"{title}: {stray.name} lies beside sub-folders. Expected all {what} in them, or none.")
    if like is not None and classes != list(like.classes):
        raise ValueError(f"{title}: expected the classes {list(like.classes)}. Received: {classes}")
    return files, [classes.index(label) if classes else -1 for label in labels], classes


def _read(root, image_size, like):
    """The source of one folder; `like` fixes channels, size and classes, where given."""
    title = f"folder:{root}"
    files, codes, classes = labelled_files(title, root, EXTENSIONS, "images", like)
    if like is not None:
        shape = like.arrays["image"].shape[1:]
    else:
        shape = first_shape(title, files)
        if image_size is not None:
            shape = (image_size, image_size, shape[2])
    image, rows = read(title, files, shape)
    return images(title, image, np.array(codes)[rows] if classes else None, classes)


def read(title, files, shape):
    """(uint8 (n, *shape), int64 (n,) which of the files each is), of those that can be read; others are reported.

    Raises:
        ValueError: too many that cannot be read.
    """
    broken = []

    def chunks():
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # PIL decodes outside the lock
            for start in range(0, len(files), CHUNK):
                part = slice(start, start + CHUNK)
                decoded = list(pool.map(decode, files[part], itertools.repeat(shape)))
                broken.extend(f for f, image in zip(files[part], decoded) if image is None)
                kept = [row for row, image in enumerate(decoded) if image is not None]
                if kept:
                    yield {"image": np.stack([decoded[row] for row in kept]), "row": np.array(kept) + start}
        report(title, broken, len(files), "images")

    columns = {"image": (shape, np.uint8), "row": ((), np.int64)}
    arrays = materialise(lambda: ["images", DECODING, list(shape), contents(files)], columns, len(files), chunks)
    return arrays["image"], arrays["row"]


def files_below(root, extensions):
    """The files below a folder that end in one of `extensions`, sorted; hidden ones are passed over."""
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [pathlib.Path(folder, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in extensions]
    return sorted(found)


def unreadable():
    """What PIL raises on bytes that are no image, or one of absurd size."""
    from PIL import Image, UnidentifiedImageError

    return UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError


def first_shape(title, files):
    from PIL import Image

    for file in files:
        try:
            with Image.open(file) as image:
                return (image.height, image.width, 1 if image.mode in GREY or image.mode.startswith("I") else 3)
        except unreadable():
            continue
    raise ValueError(f"{title}: none of its {len(files)} images can be read; the first is {files[0].name}.")


def decode(file, shape):
    """uint8 array of `shape`, or None where the file is no readable image."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode == "F":
                return None  # no scale is known
            if image.mode.startswith("I"):  # 16 bits; convert() would clip them to 255
                image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
            image = image.convert("L" if shape[2] == 1 else "RGB")
            if image.size != (shape[1], shape[0]):
                image = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
            return np.asarray(image).reshape(shape)
    except unreadable():
        return None


def report(title, broken, count, what):
    """Warns of the files that cannot be read, or raises ValueError where there are too many."""
    if not broken:
        return
    names = ", ".join(f"{f.parent.name}/{f.name}" for f in broken[:10]) + (" …" if len(broken) > 10 else "")
    if len(broken) > max(1, math.floor(CORRUPT_SHARE * count)):
        raise ValueError(
            f"{title}: {len(broken)} of {count} {what} cannot be read (more than {CORRUPT_SHARE:.0%}): {names}. "
            "Remove or repair them."
        )
    log.warning("%s: skipped %d of %d %s that cannot be read: %s", title, len(broken), count, what, names)
