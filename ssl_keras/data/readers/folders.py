"""A folder of files: which of them are taken, what class each is of, and which are held out.

`PATH/train` beside `PATH/validation` or `PATH/test`, where they exist, are the splits; `PARTS` has the other names that
are known. Names are compared without case, and without what they have in common: `seg_train`, `seg_test`.
Else a sub-folder is a class, where there are sub-folders.

Hidden files and folders, and what operating systems leave behind, are passed over. Everything else that is not taken
is counted and said. Symbolic links are followed to what is not taken already, so that nothing comes twice.
"""

import collections
import dataclasses
import math
import os
import pathlib
import re
import stat
import typing
import unicodedata

from ssl_keras.data.splits import ONE_CLASS, Splits, hold_out
from ssl_keras.files import printable

PARTS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
CLASSES_TOO = {"valid", "dev"}  # beside "invalid", say: without a training part these are classes
UNLABELED = {"unlabeled", "unsup"}  # beside classes
JUNK = {"__macosx", "thumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin", "system volume information"}
CORRUPT_SHARE = 0.01  # more unreadable files than this (and more than one) is an error
NUM_SHOWN = 10  # names in a message


class Unreadable(ValueError):
    """Why a file cannot be read, without its name."""


class NoLabels(ValueError):
    """A held-out part whose files lie in no sub-folder, or in one that is no class of the training part."""


class Below(typing.NamedTuple):
    """What lies below a folder: the files that are taken, sorted, and how many others there are of each kind."""

    files: list
    others: collections.Counter


def listed(names):
    """The first names of many, for messages."""
    names = [printable(name) for name in names]
    return ", ".join(names[:NUM_SHOWN]) + (" …" if len(names) > NUM_SHOWN else "")


def as_spelled(path):
    """The path of a file that a list names, its letters composed as the file system has them."""
    path = str(path)
    spellings = (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path))
    return pathlib.Path(next((each for each in spellings if os.path.exists(each)), path))


def relative(files, root):
    """The paths, as strings, of files below a folder."""
    start = 0 if str(root) == os.curdir else len(os.path.join(root, ""))
    return [str(file)[start:] for file in files]


def parts_below(kind, path, what, read, extensions=None):
    """`Splits` of a folder, or of its sub-folders for training, validation and test.

    Args:
        kind: "folder", for messages. path: as the user wrote it. what: "images", for messages.
        read: function (folder, the training part or None) to a `Source`.
        extensions: endings of the files that are read; None is all.

    Raises:
        ValueError: no such folder; held-out parts without a training part.
    """
    root = pathlib.Path(os.path.expanduser(path))
    if not root.is_dir():
        raise ValueError(f"{kind}:{path}: no such folder. Expected a folder of {what}.")
    folders, notes = part_folders(f"{kind}:{path}", root, "a sub-folder for each label", extensions)
    if not folders:
        inner, wrapped = _unwrapped(root, extensions)
        return hold_out(read(inner, None).noted(*notes, *wrapped))
    train, held_out = read(folders.pop("train"), None), {}
    for part, folder in folders.items():
        try:
            held_out[part] = read(folder, train)
        except NoLabels:
            notes.append(
                f"{printable(folder.name)} has no sub-folders that are classes, hence no labels, and is left "
                f"out: the {part} part is cut from the training part"
            )
    splits = hold_out(train.noted(*notes), **held_out)
    # Named after the whole: a sub-folder's name, "train", is that of every other data set too.
    return Splits(
        *(dataclasses.replace(part, name=f"{kind}:{root}[{name}]") for name, part in splits._asdict().items())
    )


def part_folders(title, root, otherwise, extensions=None):
    """({"train": folder, "validation": …, "test": …} with those that there are, or nothing; notes on the layout).

    Args:
        title, otherwise: for messages; what may be there instead. extensions: as of `parts_below`.

    Raises:
        ValueError: held-out parts without a training part; two folders for one part.
    """
    folders, files = _entries(root, extensions)
    found = _named_parts(title, folders)
    if len(folders) == 1 and not files and not found and not folders[0].is_symlink():
        try:
            inner, notes = part_folders(title, folders[0], otherwise, extensions)
        except ValueError:
            return {}, []  # a class, in which something is called "test"
        said = f"the parts are taken from its one sub-folder, {printable(folders[0].name)}"
        return inner, [said, *notes] if inner else []
    names = ", ".join(printable(folder.name) for folder in found.values())
    if found and "train" not in found:
        if len(found) < len(folders) and all(folder.name.casefold() in CLASSES_TOO for folder in found.values()):
            return {}, []
        raise ValueError(f"{title} has {names} and no train. Expected PATH/train beside them, or {otherwise}.")
    others = {folder: len(files_below(folder, extensions)) for folder in folders if folder not in found.values()}
    others = {folder: count for folder, count in others.items() if count}
    classes = [folder for folder in others if not words_of(folder) & (UNLABELED | PARTS.keys())]
    if len(found) == 1 and len(classes) > 1 and _entries(found["train"], extensions)[1]:  # vehicles: bus, car, train
        return {}, [f"{names} is taken for a class, since nothing that is held out lies beside it"]
    notes = (
        [
            f"{printable(folder.name)} ({count} files) is left out: it lies beside {names}"
            for folder, count in others.items()
        ]
        if found
        else []
    )
    for part, folder in found.items():
        found[part], said = _unwrapped(folder, extensions)
        notes += said
    if found and files:
        notes.append(f"{len(files)} files beside {names} are left out: {listed(file.name for file in files)}")
    return found, notes


def _entries(root, extensions):
    """The sub-folders of a folder, and its own files, sorted; hidden ones and junk are passed over."""
    entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    entries = [entry for entry in entries if not _passed_over(entry.name)]
    files = [entry for entry in entries if _taken(entry.name, extensions) and os.path.isfile(entry.path)]
    return [root / entry.name for entry in entries if os.path.isdir(entry.path)], [root / entry.name for entry in files]


def _passed_over(name):
    return name.startswith(".") or name.casefold() in JUNK


def _taken(name, extensions):
    return extensions is None or os.path.splitext(name)[1].lower() in extensions


def _named_parts(title, folders):
    """{part: folder} of those folders whose names say that they are parts."""
    exact = _by_part(folders, lambda folder: folder.name.casefold())
    for each in exact.values():
        if len(each) > 1:
            names = " and ".join(printable(folder.name) for folder in each)
            raise ValueError(f"{title} has {names}, which are one part by their names. Keep one, or put both together.")
    words = {folder: words_of(folder) for folder in folders}
    common = set.intersection(*words.values()) if len(words) > 1 else set()
    others = _by_part(folders, lambda folder: " ".join(words[folder] - common))
    found = {part: each[0] for part, each in (others | exact).items() if len(each) == 1}
    return found if exact or len(found) > 1 and "train" in found else {}


def words_of(path):
    """The words of a file's or folder's name, in lower case."""
    return set(re.findall(r"[^\W\d_]+", path.name.casefold()))


def _by_part(folders, name_of):
    found = collections.defaultdict(list)
    for folder in folders:
        if name_of(folder) in PARTS:
            found[PARTS[name_of(folder)]].append(folder)
    return found


def _unwrapped(folder, extensions):
    """(the folder, or the one sub-folder of its own name that it holds and nothing else; notes)."""
    folders, files = _entries(folder, extensions)
    if not files and [each.name.casefold() for each in folders] == [folder.name.casefold()]:
        outer, inner = printable(folder.name), printable(folders[0].name)
        return folders[0], [f"{outer}/{inner} is taken for {outer}"]
    return folder, []


def labeled_files(title, root, extensions, what, like, similar=frozenset()):
    """(files, the class of each or -1, class names, notes): a sub-folder is a class, where there are sub-folders.

    Args:
        title, what: for messages; what the files are. like: a `Source` whose classes are expected, or None.
        similar: endings of files that are such too, and cannot be read: where these are most, it is an error.

    Raises:
        ValueError: no files, or fewer than of `similar`; files beside sub-folders; other classes; a class whose name
            is no UTF-8. NoLabels: no sub-folders where `like` has classes.
    """
    files, others = below(root, extensions)
    said = left_out(others)
    if not files:
        raise ValueError(
            f"{title} has no examples. Expected files ending in {', '.join(sorted(extensions))}."
            + (f" It has {said}." if said else "")
        )
    unread = {ending: count for ending, count in others.items() if ending in similar}
    if sum(unread.values()) > len(files):
        raise ValueError(
            f"{title}: {sum(unread.values())} {what} end in {', '.join(sorted(unread))}, which are not read, and only "
            f"{len(files)} in {', '.join(sorted(extensions))}. Convert them, or remove them."
        )
    notes = [f"left out are {said}"] if said else []
    inner = [name.split(os.sep)[:-1] for name in relative(files, root)]  # the sub-folders that each lies in
    names = {parts[0]: _class_name(title, root, parts[0]) for parts in inner if parts}
    unlabeled = {name for name in names if name.casefold() in UNLABELED}
    if unlabeled < names.keys():
        for name in sorted(unlabeled):
            count = sum(parts[:1] == [name] for parts in inner)
            notes.append(
                f"{name} ({count} {what}) lies beside classes and has no labels: it is left out. "
                f"{title}/{name} is a data set of its own"
            )
        kept = [row for row, parts in enumerate(inner) if not unlabeled & {*parts[:1]}]
        files, inner = [files[row] for row in kept], [inner[row] for row in kept]
        names = {name: made for name, made in names.items() if name not in unlabeled}
    else:
        names = {}  # none, or unlabeled alone
    if names and [] in inner:
        stray = printable(files[inner.index([])].name)
        raise ValueError(f"{title}: {stray} lies beside sub-folders. Expected all {what} in them, or none.")
    classes = sorted(set(names.values()))
    if like is not None:
        names, missing = _like(title, names, classes, list(like.classes))
        classes = list(like.classes)
        notes += [f"there are no {what} of the classes {listed(missing)}"] if missing else []
    elif names:
        notes += _doubts(title, root, names, inner, extensions)
    return files, [classes.index(names[parts[0]]) if names else -1 for parts in inner], classes, notes


def _class_name(title, root, folder):
    """A sub-folder's name as a class: composed, so that it is one name however a file system spells it."""
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{title}: the name of the sub-folder {printable(folder)} is not UTF-8, and cannot be a class's. Rename it."
        ) from None
    return unicodedata.normalize("NFC", folder)


def _like(title, names, classes, expected):
    """({sub-folder: the class of the training part that it is}, the classes that have none)."""
    if expected and (not classes or len(classes) == 1 and classes[0].casefold() not in map(str.casefold, expected)):
        received = f"all in one sub-folder, {classes[0]!r}" if classes else "no sub-folders"
        raise NoLabels(f"{title}: expected the classes {listed(expected)}. Received: {received}")
    folded = collections.Counter(name.casefold() for name in expected)
    by_case = {name.casefold(): name for name in expected if folded[name.casefold()] == 1}
    found = {folder: name if name in expected else by_case.get(name.casefold()) for folder, name in names.items()}
    others = sorted({names[folder] for folder, name in found.items() if name is None})
    if others and not expected:
        raise ValueError(
            f"{title}: expected no sub-folders, since the training part has none, hence no labels. "
            f"Received: {listed(others)}. Sort that part too, or put all files of this one in one folder."
        )
    if others:
        raise ValueError(
            f"{title}: expected the classes of the training part: {listed(expected)}. Received beside "
            f"them: {listed(others)}. Rename or remove these, or put examples of them into that part."
        )
    return found, sorted(set(expected) - set(found.values()))


def _doubts(title, root, names, inner, extensions):
    """Notes on sub-folders that may not be the classes."""
    notes, second = [], collections.defaultdict(set)
    for parts in inner:
        second[parts[0]].update(parts[1:2])
    empty = [
        folder.name
        for folder in _entries(root, extensions)[0]
        if folder.name not in names and folder.name.casefold() not in UNLABELED
    ]
    if empty:
        notes.append(f"the sub-folders {listed(empty)} have nothing that is read, and are no classes")
    (first, below_it), *rest = second.items()
    if len(second) == 1:
        note = f"{ONE_CLASS}, {names[first]!r}"
        if below_it:
            note += f"; one level down are {listed(sorted(below_it))}: for these take {title}/{printable(first)}"
        notes.append(note)
    elif len(below_it) > 1 and all(below_it == each for _, each in rest):
        notes.append(
            f"each of {listed(sorted(second))} holds {listed(sorted(below_it))}. The first are taken for the "
            "classes; are they those, or parts? Expected PATH/train/CLASS and PATH/test/CLASS, or PATH/CLASS"
        )
    return notes


def attempt(read, *arguments):
    """What a function gives, or the `Unreadable` that it raises."""
    try:
        return read(*arguments)
    except Unreadable as error:
        return error


def files_below(root, extensions):
    """The files below a folder that end in one of `extensions` (None is all), sorted; see `below`."""
    return below(root, extensions).files


def below(root, extensions):
    """`Below` of a folder: regular files alone, through links too, but each once."""
    found, others, folders, links = [], collections.Counter(), [str(root)], []
    seen = {_identity(os.stat(parent)) for parent in pathlib.Path(root).resolve().parents}
    linked = False
    while folders or links:  # links last: what is linked and lies here too is taken where it lies
        linked = linked or not folders
        path = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(path)
        except OSError:
            others["dead links" if os.path.islink(path) else "files that cannot be opened"] += 1
            continue
        if linked and _identity(status) in seen:
            others["links to what is taken already"] += 1
        elif stat.S_ISREG(status.st_mode):
            found.append(path)
        elif stat.S_ISDIR(status.st_mode):
            _scan(path, extensions, folders, links, others)
        else:
            others["no regular files"] += 1
        seen.add(_identity(status))
    found.sort(key=lambda path: path.split(os.sep))
    return Below([pathlib.Path(path) for path in found], others)


def _identity(status):
    return status.st_dev, status.st_ino


def _scan(path, extensions, folders, links, others):
    """Adds what a folder holds to what is to be looked at, or to what is left out."""
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError:
        others["sub-folders that cannot be opened"] += 1
        return
    for entry in entries:
        if _passed_over(entry.name):
            continue
        taken, link = _taken(entry.name, extensions), entry.is_symlink()
        if entry.is_dir(follow_symlinks=False) or not link and taken:
            folders.append(entry.path)
        elif link and (taken or os.path.isdir(entry.path)):
            links.append(entry.path)
        else:
            others[os.path.splitext(entry.name)[1].lower() or "files without an ending"] += 1


def left_out(others):
    """What is left out: ".heic (15), dead links (1)"."""
    common = sorted(others.items(), key=lambda item: (-item[1], item[0]))[:NUM_SHOWN]
    rest = others.total() - sum(count for _, count in common)
    named = [f"{printable(kind)} ({count})" for kind, count in common]
    return ", ".join(named + ([f"others ({rest})"] if rest else []))


def skipped(title, failed, count, what):
    """The notes on files that cannot be read.

    Args:
        failed: {file: the reason}. count: how many files there were. what: "images", for messages.

    Raises:
        ValueError: there are too many of them.
    """
    if not failed:
        return ()
    by_reason = collections.defaultdict(list)
    for file, reason in sorted(failed.items()):
        by_reason[reason].append(f"{file.parent.name}/{file.name}")
    said = "; ".join(f"{printable(reason)}: {listed(names)}" for reason, names in [*by_reason.items()][:NUM_SHOWN])
    said += f"; and {len(by_reason) - NUM_SHOWN} other reasons" if len(by_reason) > NUM_SHOWN else ""
    if len(failed) > max(1, math.floor(CORRUPT_SHARE * count)):
        raise ValueError(
            f"{title}: {len(failed)} of {count} {what} cannot be read (more than {CORRUPT_SHARE:.0%}). {said}. "
            "Remove, repair or convert them."
        )
    return (f"skipped {len(failed)} of {count} {what} that cannot be read. {said}",)
