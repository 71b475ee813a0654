"""Folder layouts: finds the files below a folder, their classes and their splits.

`PATH/train`, `PATH/validation` and `PATH/test` are the splits, if they exist; `split_names.py` has other accepted
names. Other subfolders are classes.

`file_lists.py` lists the files. Those that are skipped are counted in the notes.
"""

import collections
import dataclasses
import math
import os
import pathlib
import unicodedata

from ssl_keras.data.readers.file_lists import (
    NUM_SHOWN,
    below,
    files_below,
    is_ignored,
    is_supported,
    left_out,
    listed,
    relative,
)
from ssl_keras.data.readers.split_names import PARTS, SplitsUnclear, find_splits, words_of
from ssl_keras.data.splits import ONE_CLASS, Splits, hold_out
from ssl_keras.files import printable, utf8_advice

CLASSES_TOO = {"valid", "dev"}  # without a training split these are classes: "valid" and "invalid"
UNLABELED = {"unlabeled", "unlabelled", "unsup"}  # not classes
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
MAX_UNREADABLE = 0.01  # a larger fraction of unreadable files (and more than one) is an error


class NoLabels(ValueError):
    """A held-out split has no subfolders, or only one that is not a class of the training split."""


def as_spelled(path):
    """Returns a path with its accents composed (NFC) or decomposed (NFD) as in the file system."""
    path = str(path)
    spellings = (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))
    return pathlib.Path(next((each for each in spellings if os.path.exists(each)), path))


def parts_below(kind, path, what, read, extensions=None):
    """Returns `Splits` of a folder, or of its subfolders for training, validation and test.

    Args:
        kind: such as "folder", for messages. path: as the user wrote it.
        what: the files, such as "images", for messages.
        read: function (folder, the training source or None) that returns a `Source`.
        extensions: extensions of the files to read; None reads all.

    Raises:
        ValueError: The path is not a folder, or it has held-out splits without a training split.
    """
    root = pathlib.Path(os.path.expanduser(path))
    if not root.is_dir():
        raise ValueError(f"{kind}:{path}" + _not_a_folder(root, what))
    folders, notes = part_folders(f"{kind}:{path}", root, "a subfolder for each class", extensions)
    if not folders:
        inner, wrapped = _unwrap(root, extensions)
        return hold_out(read(inner, None).with_notes(*notes, *wrapped))
    train, held_out = read(folders.pop("train"), None), {}
    for part, folder in folders.items():
        try:
            held_out[part] = read(folder, train)
        except NoLabels:
            notes.append(
                f"{printable(folder.name)} is skipped, because it has no subfolders for the classes of the training "
                f"split: the {part} split is held out from the training split instead"
            )
    splits = hold_out(train.with_notes(*notes), **held_out)
    # Named after the folder, since a subfolder's name, "train", is common to all datasets.
    return Splits(
        *(dataclasses.replace(part, name=f"{kind}:{root}[{name}]") for name, part in splits._asdict().items())
    )


def _not_a_folder(path, what):
    """Returns the end of an error about a path that is not a folder."""
    if not path.exists():
        return f": no such folder. Expected a folder of {what}."
    if path.name.lower().endswith(ARCHIVES):
        return f" is an archive. Expected a folder of {what}. Extract it, and pass the folder."
    return f" is a file. Expected a folder of {what}. Pass the folder that contains it."


def part_folders(title, root, otherwise, extensions=None):
    """Returns ({"train": folder, "validation": …, "test": …}, notes on the layout); the dict is empty without splits.

    Args:
        title, otherwise: the data and the alternative layout, for messages. extensions: as in `parts_below`.

    Raises:
        ValueError: There are held-out splits without a training split, or two folders for one split; see `find_splits`.
    """
    folders, files = _entries(root, extensions)
    found, unclear = find_splits(title, folders, lambda folder: len(files_below(folder, extensions)))
    if len(folders) == 1 and not files and not found and not folders[0].is_symlink():
        try:
            inner, notes = part_folders(title, folders[0], otherwise, extensions)
        except SplitsUnclear:
            raise
        except ValueError:
            return {}, []  # a class with a subfolder named "test"
        note = f"the splits are in its only subfolder, {printable(folders[0].name)}"
        return inner, [note, *notes] if inner else []
    names = ", ".join(printable(folder.name) for folder in found.values())
    if found and "train" not in found:
        if len(found) < len(folders) and all(folder.name.casefold() in CLASSES_TOO for folder in found.values()):
            return {}, []
        raise ValueError(f"{title} has {names} but no train folder. Expected PATH/train next to them, or {otherwise}.")
    others = {folder: len(files_below(folder, extensions)) for folder in folders if folder not in found.values()}
    others = {folder: count for folder, count in others.items() if count}
    classes = [folder for folder in others if not words_of(folder) & (UNLABELED | PARTS.keys())]
    if len(found) == 1 and len(classes) > 1 and _entries(found["train"], extensions)[1]:  # vehicles: bus, car, train
        return {}, [f"{names} is read as a class, because there are no held-out splits next to it"]
    notes = (
        [
            f"{printable(folder.name)} ({count} files) is skipped, because it is next to the splits {names}"
            for folder, count in others.items()
        ]
        if found
        else unclear
    )
    for part, folder in found.items():
        found[part], unwrapped = _unwrap(folder, extensions)
        notes += unwrapped
    if found and files:
        notes.append(f"{len(files)} files next to {names} are skipped: {listed(file.name for file in files)}")
    return found, notes


def _entries(root, extensions):
    """Returns the subfolders and the files of a folder, sorted, without hidden ones and junk."""
    entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    entries = [entry for entry in entries if not is_ignored(entry.name)]
    files = [entry for entry in entries if is_supported(entry.name, extensions) and os.path.isfile(entry.path)]
    return [root / entry.name for entry in entries if os.path.isdir(entry.path)], [root / entry.name for entry in files]


def _unwrap(folder, extensions):
    """Returns (the folder, or its only subfolder if that has the same name; notes)."""
    folders, files = _entries(folder, extensions)
    if not files and [each.name.casefold() for each in folders] == [folder.name.casefold()]:
        outer, inner = printable(folder.name), printable(folders[0].name)
        return folders[0], [f"{outer}/{inner} is used in place of {outer}"]
    return folder, []


def labeled_files(title, root, extensions, what, like, similar=frozenset()):
    """Returns (files, the class of each or -1, class names, notes). Subfolders, if there are any, are classes.

    Args:
        title: the name of the data, for messages. what: the files, such as "images", for messages.
        like: a `Source` with the expected classes, or None.
        similar: extensions of the same kind that are not supported. If most files have them, it is an error.

    Raises:
        ValueError: The folder has no files, or more of `similar`; files are next to subfolders; the classes differ
            from the expected ones; or the name of a class is not UTF-8.
        NoLabels: The folder has no subfolders, but `like` has classes.
    """
    files, others = below(root, extensions)
    rest = left_out(others)
    if not files:
        raise ValueError(
            f"{title} has no examples. Expected files ending in {', '.join(sorted(extensions))}."
            + (f" Received: {rest}" if rest else "")
        )
    unread = {ending: count for ending, count in others.items() if ending in similar}
    if sum(unread.values()) > len(files):
        raise ValueError(
            f"{title}: most {what} have an unsupported format. Expected {', '.join(sorted(extensions))}. Received: "
            f"{sum(unread.values())} files ending in {', '.join(sorted(unread))}, and {len(files)} supported files. "
            "Convert or remove them."
        )
    notes = [f"skipped files: {rest}"] if rest else []
    inner = [name.split(os.sep)[:-1] for name in relative(files, root)]  # the subfolders of each file
    names = {parts[0]: _class_name(title, root, parts[0]) for parts in inner if parts}
    unlabeled = {name for name in names if name.casefold() in UNLABELED}
    if unlabeled < names.keys():
        for name in sorted(unlabeled):
            count = sum(parts[:1] == [name] for parts in inner)
            notes.append(f"{name} ({count} {what}) is skipped: it has no labels. To use it, pass {title}/{name}")
        kept = [row for row, parts in enumerate(inner) if not unlabeled & {*parts[:1]}]
        files, inner = [files[row] for row in kept], [inner[row] for row in kept]
        names = {name: made for name, made in names.items() if name not in unlabeled}
    else:
        names = {}  # no subfolders, or only unlabeled ones
    if names and [] in inner:
        stray = printable(files[inner.index([])].name)
        raise ValueError(f"{title}: {stray} is next to subfolders. Expected all {what} in subfolders, or none of them.")
    classes = sorted(set(names.values()))
    if like is not None:
        names, missing = _match_classes(title, names, classes, list(like.classes))
        classes = list(like.classes)
        notes += [f"there are no {what} of these classes: {listed(missing)}"] if missing else []
    elif names:
        notes += _class_notes(title, root, names, inner, extensions)
    return files, [classes.index(names[parts[0]]) if names else -1 for parts in inner], classes, notes


def _class_name(title, root, folder):
    """Returns a subfolder's name as a class name, NFC-normalized so that it does not depend on the file system."""
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{title}: the name of the subfolder {printable(folder)} is not UTF-8, as class names must be. "
            + utf8_advice(folder)
        ) from None
    return unicodedata.normalize("NFC", folder)


def _match_classes(title, names, classes, expected):
    """Returns ({subfolder: its class in the training split}, the classes without a subfolder)."""
    if expected and (not classes or len(classes) == 1 and classes[0].casefold() not in map(str.casefold, expected)):
        received = f"one subfolder, {classes[0]!r}" if classes else "no subfolders"
        raise NoLabels(f"{title}: expected the classes {listed(expected)}. Received: {received}")
    folded = collections.Counter(name.casefold() for name in expected)
    by_case = {name.casefold(): name for name in expected if folded[name.casefold()] == 1}
    found = {folder: name if name in expected else by_case.get(name.casefold()) for folder, name in names.items()}
    others = sorted({names[folder] for folder, name in found.items() if name is None})
    if others and not expected:
        raise ValueError(
            f"{title}: the training split has no labels, so expected no subfolders. Received: {listed(others)}. "
            "Add subfolders to the training split, or move all files of this split into one folder."
        )
    if others:
        raise ValueError(
            f"{title} has other classes than the training split. Expected: {listed(expected)}. "
            f"Received in addition: {listed(others)}. Rename or remove these, or add them to the training split."
        )
    return found, sorted(set(expected) - set(found.values()))


def _class_notes(title, root, names, inner, extensions):
    """Returns notes on subfolders that may not be the intended classes."""
    notes, second = [], collections.defaultdict(set)
    for parts in inner:
        second[parts[0]].update(parts[1:2])
    empty = [
        folder.name
        for folder in _entries(root, extensions)[0]
        if folder.name not in names and folder.name.casefold() not in UNLABELED
    ]
    if empty:
        notes.append(f"these subfolders have no supported files and are not classes: {listed(empty)}")
    folded = collections.Counter(name.casefold() for name in set(names.values()))
    similar = sorted(name for name in set(names.values()) if folded[name.casefold()] > 1)
    if similar:
        notes.append(f"names of classes differ only in case: {listed(similar)}. If they are one class, merge them")
    (first, below_it), *rest = second.items()
    if len(second) == 1:
        note = f"{ONE_CLASS}, {names[first]!r}"
        if below_it:
            note += f"; to use its subfolders {listed(sorted(below_it))} as classes, pass {title}/{printable(first)}"
        notes.append(note)
    elif len(below_it) > 1 and all(below_it == each for _, each in rest):
        notes.append(
            f"each of {listed(sorted(second))} contains {listed(sorted(below_it))}. The former are read as classes. "
            "If they are not, expected PATH/train/CLASS and PATH/test/CLASS, or PATH/CLASS"
        )
    return notes


def unreadable_notes(title, failed, count, what):
    """Returns the notes on unreadable files.

    Args:
        failed: {file: reason}. count: the number of all files. what: such as "images", for messages.

    Raises:
        ValueError: Too many files are unreadable.
    """
    if not failed:
        return ()
    by_reason = collections.defaultdict(list)
    for file, reason in sorted(failed.items()):
        by_reason[reason].append(f"{file.parent.name}/{file.name}")
    reasons = "; ".join(f"{printable(reason)}: {listed(names)}" for reason, names in [*by_reason.items()][:NUM_SHOWN])
    reasons += f"; and {len(by_reason) - NUM_SHOWN} other reasons" if len(by_reason) > NUM_SHOWN else ""
    if len(failed) > max(1, math.floor(MAX_UNREADABLE * count)):
        raise ValueError(
            f"{title}: {len(failed)} of {count} {what} cannot be read (more than {MAX_UNREADABLE:.0%}). {reasons}. "
            "Remove, repair or convert them."
        )
    return (f"skipped {len(failed)} of {count} {what} that cannot be read. {reasons}",)
