"""Replaces a saved encoder's folder: whatever happens, the old one or the new one is whole, and no other file is lost.

    .NAME.partial   a new one, while it is written
    .NAME.old       the one before it, from when it makes way until the new one is in its place
    NAME.unsaved    a new one that could not be put in its place

Only writers put things right after a kill; a reader takes `.NAME.old` for NAME where there is no NAME.
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

FILES = ("encoder.safetensors", "encoder.keras", "tokenizer.json", "card.json")  # the card goes last
OURS = re.compile("|".join(rf"{re.escape(name)}|\.{re.escape(name)}\.\d+\.partial" for name in FILES))
NUM_SHOWN = 3  # names of files in a message
log = logging.getLogger(__name__)


def real(folder):
    """The folder itself, where its last part is a link to one: what lies beside that one is on the same storage."""
    folder = pathlib.Path(folder)
    return pathlib.Path(os.path.realpath(folder)) if folder.is_symlink() or folder.name in ("", "..") else folder


def predecessor(folder):
    """The encoder that a writer took out of its place before it was killed, or None."""
    folder = real(folder)
    if not folder.name or os.path.lexists(folder):
        return None
    old = _beside(folder, "old")
    return old if _is_encoder(old) else None


def check(folder):
    """Returns where an encoder can be saved to a folder without a loss.

    Raises:
        ValueError: something else than an encoder is there, or beside it where the old one would have to make way.
    """
    folder = real(folder)
    if _vacant(folder):
        return
    if not _is_encoder(folder):
        raise ValueError(
            f"{folder} is no saved encoder and would be overwritten. Expected a folder with a card.json of ours, an "
            f"empty folder, or none. Received: {_content(folder)}. Move it away, or choose another name."
        )
    old = _beside(folder, "old")
    if not (_vacant(old) or _is_encoder(old)):
        raise ValueError(
            f"{old} is in the way: {folder} is moved there while it is replaced. Expected a folder with a card.json of "
            f"ours, or none. Received: {_content(old)}. Move it away."
        )


def put(new, folder):
    """Puts the folder `new` in the place of `folder`; files in there that are not ours stay.

    Raises:
        ValueError: something else than an encoder is there.
        OSError: it cannot be replaced. In both cases the new one is kept, and the message says where.
    """
    try:
        check(folder)
        _recover(folder)
        if not _vacant(folder):
            folder.rename(_beside(folder, "old"))
        new.rename(folder)  # killed before this, `_recover` puts the old one back
    except (ValueError, OSError) as error:
        with contextlib.suppress(OSError):
            _recover(folder)
        kept = f"The new encoder is in {_set_aside(new, folder)}."
        if isinstance(error, ValueError):
            raise ValueError(f"{error} {kept}") from error
        raise OSError(f"{folder} cannot be replaced: {error.strerror or error}. {kept}") from error
    try:
        _recover(folder)
    except FileNotFoundError:
        pass  # where the storage has no locks: another writer has just done it
    except OSError as error:
        log.warning("%s is saved. The one before it stays in %s: %s", folder, _beside(folder, "old"), error)


def remove_leftovers(folder):
    """Removes what writers that were killed have left beside `folder`; none may be at work."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.partial(\.\d+)?")
    for path in list(folder.parent.iterdir()):
        ours = name.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        if ours and all(_is_ours(each) for each in path.iterdir()):
            shutil.rmtree(path, ignore_errors=True)


def _recover(folder):
    """Puts back an encoder whose successor never came; removes one whose successor is in its place."""
    old = _beside(folder, "old")
    if not _is_encoder(old):
        return
    if _vacant(folder):
        old.rename(folder)
    elif _is_encoder(folder):
        _retire(old, folder)


def _retire(old, folder):
    """Removes our files in `old`, and moves the others to `folder`."""
    ours = [path for path in old.iterdir() if _is_ours(path)]
    for path in set(old.iterdir()) - set(ours):
        path.rename(files.unused_path(folder / path.name))
    for path in sorted(ours, key=lambda path: path.name == FILES[-1]):  # with its card it is still an encoder
        path.unlink(missing_ok=True)
    old.rmdir()  # fails where somebody has just put a file there: it stays


def _set_aside(new, folder):
    """Moves a new encoder out of the way of later ones, and says where it is."""
    kept = files.unused_path(folder.with_name(f"{folder.name}.unsaved"))
    try:
        new.rename(kept)
    except OSError:
        return new
    return kept


def _beside(folder, what):
    return folder.with_name(f".{folder.name}.{what}")


def _vacant(path):
    """Whether nothing is there, or an empty folder, whose place a renamed one takes."""
    return not os.path.lexists(path) or (path.is_dir() and not path.is_symlink() and not any(path.iterdir()))


def _is_encoder(folder):
    """Whether it is a folder, and no link to one, with a card of ours, of whatever version."""
    path = folder / "card.json"
    if folder.is_symlink() or not path.is_file() or path.stat().st_size > CARD_BYTES:
        return False
    try:
        card = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(card, dict) and {"format", "weights"} <= card.keys()


def _is_ours(path):
    return bool(OURS.fullmatch(path.name)) and not path.is_dir()


def _content(path):
    if not path.is_dir():
        return "a file"
    names = sorted(each.name for each in path.iterdir())
    return f"a folder with {', '.join(names[:NUM_SHOWN])}{', …' if len(names) > NUM_SHOWN else ''}"
