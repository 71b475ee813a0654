"""Safe replacement of a saved encoder's folder.

At any moment, even after a crash, either the old or the new encoder is complete, and no other file is lost.

    .NAME.partial   a new encoder while it is written
    .NAME.old       the backup of the old encoder while it is replaced
    NAME.unsaved    a new encoder that could not be moved to its place

Only writers repair the folders after a crash. If NAME does not exist, readers use `.NAME.old`.
"""

import contextlib
import json
import logging
import os
import pathlib
import re
import shutil

from ssl_keras import files
from ssl_keras.encoders.card import CARD_BYTES

FILES = ("encoder.safetensors", "encoder.keras", "tokenizer.json", "card.json")  # the card is removed last
ENCODER_FILE = re.compile("|".join(rf"{re.escape(name)}|\.{re.escape(name)}\.\d+\.partial" for name in FILES))
NUM_SHOWN = 3  # file names in a message
log = logging.getLogger(__name__)


def resolve(folder):
    """Resolves a link in the last part of the path, so that sibling folders are on the same storage as the encoder."""
    folder = pathlib.Path(folder)
    return pathlib.Path(os.path.realpath(folder)) if folder.is_symlink() or folder.name in ("", "..") else folder


def backup(folder):
    """Returns the backup of an encoder that is missing because its replacement was interrupted, or None."""
    folder = resolve(folder)
    if not folder.name or os.path.lexists(folder):
        return None
    old = _sibling(folder, "old")
    return old if _is_encoder(old) else None


def check(folder):
    """Checks that an encoder can be saved to a folder without overwriting anything else.

    Raises:
        ValueError: the folder, or that of its backup, exists and is not an encoder.
    """
    folder = resolve(folder)
    if _is_vacant(folder):
        return
    if not _is_encoder(folder):
        raise ValueError(
            f"{folder} is not a saved encoder and would be overwritten. Expected a folder with an encoder's card.json, "
            f"an empty folder, or none. Received: {_content(folder)}. Move it away, or choose another name."
        )
    old = _sibling(folder, "old")
    if not (_is_vacant(old) or _is_encoder(old)):
        raise ValueError(
            f"{old} is in the way: it is needed for the backup of {folder}. Expected a folder with an encoder's "
            f"card.json, or none. Received: {_content(old)}. Move it away."
        )


def replace(folder, new):
    """Replaces the encoder in `folder` with the one in the folder `new`; other files in `folder` are kept.

    Raises:
        ValueError: `folder` exists and is not an encoder.
        OSError: `folder` cannot be replaced. In both cases the message names the folder where the new encoder is kept.
    """
    try:
        check(folder)
        _recover(folder)
        if not _is_vacant(folder):
            folder.rename(_sibling(folder, "old"))
        new.rename(folder)  # after a crash before this line, `_recover` restores the old encoder
    except (ValueError, OSError) as error:
        with contextlib.suppress(OSError):
            _recover(folder)
        kept = f"The new encoder is in {_keep_unsaved(new, folder)}."
        if isinstance(error, ValueError):
            raise ValueError(f"{error} {kept}") from error
        raise OSError(f"{folder} cannot be replaced: {error.strerror or error}. {kept}") from error
    try:
        _recover(folder)
    except FileNotFoundError:
        pass  # on storage without locks another writer may have removed the backup
    except OSError as error:
        log.warning("Saved %s, but could not remove the old encoder in %s: %s", folder, _sibling(folder, "old"), error)


def remove_leftovers(folder):
    """Removes partial folders of killed writers next to `folder`. No other writer may be active."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.partial(\.\d+)?")
    for path in list(folder.parent.iterdir()):
        is_partial = name.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        if is_partial and all(_is_encoder_file(each) for each in path.iterdir()):
            shutil.rmtree(path, ignore_errors=True)


def _recover(folder):
    """Restores the backup if the encoder is missing; removes the backup if the encoder is there."""
    old = _sibling(folder, "old")
    if not _is_encoder(old):
        return
    if _is_vacant(folder):
        old.rename(folder)
    elif _is_encoder(folder):
        _remove_backup(old, folder)


def _remove_backup(old, folder):
    """Removes the encoder's files in `old`, and moves all other files to `folder`."""
    encoder_files = [path for path in old.iterdir() if _is_encoder_file(path)]
    for path in set(old.iterdir()) - set(encoder_files):
        path.rename(files.unused_path(folder / path.name))
    for path in sorted(encoder_files, key=lambda path: path.name == FILES[-1]):  # the card last: it marks an encoder
        path.unlink(missing_ok=True)
    old.rmdir()  # fails, and keeps the folder, if somebody has just put a file there


def _keep_unsaved(new, folder):
    """Moves a new encoder to NAME.unsaved, or leaves it if that fails; returns its folder."""
    kept = files.unused_path(folder.with_name(f"{folder.name}.unsaved"))
    try:
        new.rename(kept)
    except OSError:
        return new
    return kept


def _sibling(folder, suffix):
    return folder.with_name(f".{folder.name}.{suffix}")


def _is_vacant(path):
    """Returns whether a folder can be renamed to this path: nothing is there, or an empty folder."""
    return not os.path.lexists(path) or (path.is_dir() and not path.is_symlink() and not any(path.iterdir()))


def _is_encoder(folder):
    """Returns whether this is a folder, not a link, with the card of an encoder of any version."""
    path = folder / "card.json"
    if folder.is_symlink() or not path.is_file() or path.stat().st_size > CARD_BYTES:
        return False
    try:
        card = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(card, dict) and {"format", "weights"} <= card.keys()


def _is_encoder_file(path):
    return bool(ENCODER_FILE.fullmatch(path.name)) and not path.is_dir()


def _content(path):
    if not path.is_dir():
        return "a file"
    names = sorted(each.name for each in path.iterdir())
    return f"a folder with {', '.join(names[:NUM_SHOWN])}{', …' if len(names) > NUM_SHOWN else ''}"
