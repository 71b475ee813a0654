"""Lists the files below a folder, each once, and counts those that are left out.

Hidden files and operating-system junk are ignored. Symbolic links are followed unless their target is already included,
so no file is used twice. Loops of links end.
"""

import collections
import os
import pathlib
import stat
import typing

from ssl_keras.files import printable

JUNK = {"__macosx", "thumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin", "system volume information"}
NUM_SHOWN = 10  # names in a message
MAX_SHOWN = 300  # characters of each; file names have at most 255 bytes


class Unreadable(ValueError):
    """The reason why a file cannot be read, without its name."""


class Below(typing.NamedTuple):
    """The files below a folder, sorted, and {kind: number} of the skipped files."""

    files: list
    others: collections.Counter


def listed(names):
    """Joins names for a message, at most NUM_SHOWN of them, each cut to MAX_SHOWN characters."""
    names = [printable(name)[:MAX_SHOWN] for name in names]
    return ", ".join(names[:NUM_SHOWN]) + (" …" if len(names) > NUM_SHOWN else "")


def relative(files, root):
    """Returns the paths of files relative to a folder, as strings."""
    start = 0 if str(root) == os.curdir else len(os.path.join(root, ""))
    return [str(file)[start:] for file in files]


def attempt(read, *arguments):
    """Returns the result of a function, or the `Unreadable` that it raises."""
    try:
        return read(*arguments)
    except Unreadable as error:
        return error


def files_below(root, extensions):
    """Returns the files below a folder with one of `extensions` (None allows all), sorted; see `below`."""
    return below(root, extensions).files


def below(root, extensions):
    """Returns `Below` for a folder: its regular files, each once, also those behind links."""
    found, others, folders, links = [], collections.Counter(), [str(root)], []
    seen = {_identity(os.stat(parent)) for parent in pathlib.Path(root).resolve().parents}
    linked = False
    while folders or links:  # links last, so that a file which is also in the folder keeps its own path
        linked = linked or not folders
        path = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(path)
        except OSError:
            others["dead links" if os.path.islink(path) else "files that cannot be opened"] += 1
            continue
        if linked and _identity(status) in seen:
            others["links to included files"] += 1
        elif stat.S_ISREG(status.st_mode):
            found.append(path)
        elif stat.S_ISDIR(status.st_mode):
            _scan(path, extensions, folders, links, others)
        else:
            others["special files"] += 1
        seen.add(_identity(status))
    found.sort(key=lambda path: path.split(os.sep))
    return Below([pathlib.Path(path) for path in found], others)


def _identity(status):
    return status.st_dev, status.st_ino


def _scan(path, extensions, folders, links, others):
    """Adds the entries of a folder to those to visit, or to the skipped ones."""
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError:
        others["subfolders that cannot be opened"] += 1
        return
    for entry in entries:
        if is_ignored(entry.name):
            continue
        taken, link = is_supported(entry.name, extensions), entry.is_symlink()
        if entry.is_dir(follow_symlinks=False) or not link and taken:
            folders.append(entry.path)
        elif link and (taken or os.path.isdir(entry.path)):
            links.append(entry.path)
        else:
            others[os.path.splitext(entry.name)[1].lower() or "files without an extension"] += 1


def left_out(others):
    """Lists the skipped files: ".heic (15), dead links (1)"."""
    common = sorted(others.items(), key=lambda item: (-item[1], item[0]))[:NUM_SHOWN]
    rest = others.total() - sum(count for _, count in common)
    named = [f"{printable(kind)} ({count})" for kind, count in common]
    return ", ".join(named + ([f"others ({rest})"] if rest else []))


def is_ignored(name):
    return name.startswith(".") or name.casefold() in JUNK


def is_supported(name, extensions):
    return extensions is None or os.path.splitext(name)[1].lower() in extensions
