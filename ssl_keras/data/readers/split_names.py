"""Names of splits: tells which of the subfolders of a folder are its splits.

`PARTS` has the accepted names. They are compared without case and without shared words: `seg_train` and `seg_test`, or
`train2017` and `val2017`. Without such names, a name that contains the word of a split names it: `train_images`,
`testA`, `trainval`.
"""

import collections
import re

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
WORDS = PARTS | {"trainval": "train"}  # trainval is the training split only without a folder named train
SPLIT_WORD = re.compile(f"({'|'.join(WORDS)})(set|data|images?|[a-z])?")  # testset, trainA

_ADVICE = "move them to PATH/train, PATH/validation and PATH/test"


class SplitsUnclear(ValueError):
    """Several subfolders are named after one split."""


def find_splits(title, folders, count):
    """Returns ({split: folder} of the folders that are named after splits, notes if these are read as classes).

    Args:
        title: the name of the data, for messages.
        count: function that returns the number of files to read below a folder.

    Raises:
        SplitsUnclear: There are training and held-out splits, but one of them has several folders with files.
    """
    exact = _by_split({folder: folder.name.casefold() for folder in folders})
    for each in exact.values():
        if len(each) > 1:
            names = " and ".join(printable(folder.name) for folder in each)
            raise ValueError(f"{title} has {names}, which name one split. Merge or rename them.")
    others = _by_split({folder: " ".join(words) for folder, words in _own_words(folders).items()})
    found = {part: each[0] for part, each in (others | exact).items() if len(each) == 1}
    if "train" in found and (exact or len(found) > 1):
        return found, []
    in_words, notes = _splits_in_words(title, folders, exact, count)
    return in_words or (found if exact else {}), notes


def words_of(path):
    """Returns the words in a file's or folder's name, lowercased."""
    return set(re.findall(r"[^\W\d_]+", path.name.casefold()))


def _by_split(names):
    """Returns {split: [folders]} of {folder: name}."""
    found = collections.defaultdict(list)
    for folder, name in names.items():
        if name in PARTS:
            found[PARTS[name]].append(folder)
    return found


def _own_words(folders):
    """Returns {folder: the words of its name that the others do not share}."""
    words = {folder: words_of(folder) for folder in folders}
    common = set.intersection(*words.values()) if len(words) > 1 else set()
    return {folder: each - common for folder, each in words.items()}


def _splits_in_words(title, folders, exact, count):
    """Returns the same as `find_splits` by the names that contain the word of one split; only folders with files count.

    At least as many other folders are taken as a sign that all are classes, such as bullet_train, test_tube, cat, dog.
    """
    if len({part for folder in folders for part in _splits_of(words_of(folder))}) < 2:
        return {}, []
    folders = [folder for folder in folders if count(folder)]
    found = collections.defaultdict(list)
    for folder, words in _own_words(folders).items():
        splits = _splits_of(words)
        if splits in ({"train"}, {"train", "validation"}):  # train_val is for training
            found["train"].append(folder)
        elif len(splits) == 1:
            found[splits.pop()].append(folder)
    found |= exact
    if len(found) < 2:
        return {}, []
    names = "; ".join(
        f"{', '.join(printable(folder.name) for folder in found[part])} ({part})"
        for part in dict.fromkeys(PARTS.values())
        if part in found
    )
    num_named = sum(map(len, found.values()))
    if "train" not in found or len(folders) >= 2 * num_named:
        return {}, [f"these subfolders are not read as splits: {names}. If they are, {_ADVICE}"]
    if num_named > len(found):
        example = f"{title.partition(':')[0]}:{printable(found['train'][0])}"
        raise SplitsUnclear(
            f"{title} has several subfolders for one split. Expected one for each. Received: {names}. If they are "
            f"splits, {_ADVICE}, or pass one of them, such as {example}. If they are classes, rename them."
        )
    return {part: each[0] for part, each in found.items()}, []


def _splits_of(words):
    """Returns the splits that words name, such as {"test"} for "testset"."""
    return {WORDS[match[1]] for match in map(SPLIT_WORD.fullmatch, words) if match}
