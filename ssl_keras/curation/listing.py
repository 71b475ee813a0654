"""Lists what is curated: inputs become shards of entries, in an order that depends on names alone.

An entry is [name, path, bytes, time of the last change, first byte, last byte + 1, label, captions]. A shard has
entries of one input, of at most `SHARD` bytes together. Lists are JSON, so that other processes and machines can read
them.
"""

import collections
import dataclasses
import functools
import logging
import os
import pathlib

from ssl_keras.data.readers.file_lists import below, left_out, relative
from ssl_keras.data.readers.text_files import SUPPORTED
from ssl_keras.files import printable

SHARD = 64 << 20  # bytes
ROWS = 10_000  # examples of a shard of a dataset that is read into arrays
KINDS = {"text": "text", "table": "text", "folder": "image", "captions": "image", "audio": "audio"}
NUM_SHOWN = 1_000  # files whose sampling rates are counted
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Listing:
    """Inputs of a curation: "text", "image" or "audio", the shards, label names, and the sampling rate in Hz."""

    kind: str
    shards: list
    classes: tuple[str, ...] = ()
    rate: int = 0
    captions: bool = False


def listing(inputs, shard_bytes=SHARD):
    """Returns the `Listing` of inputs such as "text:PATH", "folder:PATH" or "tfds:NAME[test]".

    Raises:
        ValueError: An input does not exist, has no files, or is of another kind than the first one.
    """
    if not inputs:
        raise ValueError("Expected at least one dataset to curate, such as text:PATH. Received: none")
    seen, shards, kinds, labels, rates, captioned = collections.Counter(), [], {}, set(), collections.Counter(), set()
    for spec in inputs:
        kind, _, argument = spec.partition(":")
        path = pathlib.Path(os.path.expanduser(argument))
        base = f"{kind}:{os.path.basename(os.path.abspath(path)) if kind in KINDS else argument}"
        seen[base] += 1
        name = base if seen[base] == 1 else f"{base}#{seen[base]}"
        if kind in KINDS:
            content = KINDS[kind]
            entries, found = _ENTRIES[kind](spec, path)
            shards += [{"input": name, "source": kind, "entries": part} for part in _cut(entries, shard_bytes)]
            rates += _rates(entries) if kind == "audio" else {}
        else:
            source = rows(spec)
            content, found = _content(spec, source), set(source.classes) or {None}
            starts = range(0, len(source), ROWS)
            shards += [{"input": name, "source": "rows", "rows": [spec, i, min(i + ROWS, len(source))]} for i in starts]
            rates[source.rate] += len(source)
        kinds.setdefault(content, spec)
        labels |= found
        captioned.add(kind == "captions" or kind not in KINDS and "caption" in source.arrays)
    if len(kinds) > 1 or len(captioned) > 1:
        received = " and ".join(f"{spec} ({content})" for content, spec in kinds.items())
        raise ValueError(
            f"Expected inputs of one kind, all with captions or all without. Received: {received}. Curate each kind "
            "into its own --out."
        )
    if None in labels and len(labels) > 1:
        log.warning("Some examples have no label, so the result has no labels.")
    classes = () if None in labels else tuple(sorted(labels))
    rate = max(rates, key=lambda each: (rates[each], each), default=0)
    return Listing(next(iter(kinds)), shards, classes, int(rate), captioned.pop())


def _content(spec, source):
    """Returns "image", "text" or "audio"."""
    for column, content in (("image", "image"), ("text", "text"), ("waveform", "audio")):
        if column in source.arrays:
            return content
    raise ValueError(f"{spec}: expected images, texts or audio. Received: {', '.join(source.arrays)}")


@functools.lru_cache(maxsize=2)
def rows(spec):
    """Returns the `Source` of all splits of a dataset that `sources.load` opens, or of "…[SPLIT]" only one."""
    from ssl_keras.data.readers.split_names import PARTS
    from ssl_keras.data.sources import load

    base, _, split = spec.removesuffix("]").rpartition("[")
    if spec.endswith("]") and split in PARTS:
        return getattr(load(base), PARTS[split])
    return _Joined(load(spec))


class _Joined:
    """The splits of a dataset one after the other, as far as curation needs a source."""

    def __init__(self, splits):
        self.splits = splits
        self.arrays, self.classes, self.rate = (getattr(splits.train, each) for each in ("arrays", "classes", "rate"))

    def __len__(self):
        return sum(map(len, self.splits))

    def gather(self, indices):
        """Returns {name: array} of one example; `indices` has one index."""
        index = int(indices[0])
        for source in self.splits:
            if index < len(source):
                return source.gather(indices * 0 + index)
            index -= len(source)
        raise IndexError(indices)


def _cut(entries, most):
    """Cuts a list of entries into lists of at most `most` bytes. Files of JSON lines are cut too, others stay whole."""
    made, size = [[]], 0
    for entry in entries:
        step = most if entry[0].lower().endswith((".jsonl", ".ndjson")) else max(entry[5], 1)
        for start in range(0, max(entry[5], 1), step):
            stop = min(start + step, entry[5])
            if size and size + stop - start > most:
                made.append([])
                size = 0
            made[-1].append([*entry[:4], start, stop, *entry[6:]])
            size += stop - start
    return made


def _entry(name, path, label=None, captions=None):
    about = os.stat(path)
    return [name, os.path.abspath(path), about.st_size, about.st_mtime_ns, 0, about.st_size, label, captions]


def _files(spec, path, extensions, what):
    if not path.exists():
        raise ValueError(f"{spec}: no such file or folder. Expected {what}.")
    if path.is_file():
        return [(path.name, path)]
    found, others = below(path, extensions)
    if not found:
        rest = left_out(others)
        raise ValueError(f"{spec} has no files of {what}. Received: {rest or 'an empty folder'}")
    return list(zip(relative(found, path), found))


def _texts(spec, path):
    return [_entry(name, file) for name, file in _files(spec, path, SUPPORTED, "text")], {None}


def _tables(spec, path):
    if not path.is_file():
        raise ValueError(f"{spec}: no such file. Expected a CSV or TSV file with a header, or JSON lines (.jsonl).")
    header, found = table(path)
    if "text" not in header:
        raise ValueError(f"{spec}: expected a header with the column text, and optionally label. Received: {header}")
    labels = {row[header.index("label")].strip() or None for _, row in found} if "label" in header else {None}
    return [_entry(path.name, path)], labels


@functools.lru_cache(maxsize=1)
def table(path):
    """Returns the (header, rows) of a table; see `tables.with_header`."""
    from ssl_keras.data.readers import tables

    return tables.with_header(f"table:{printable(path)}", pathlib.Path(path), {"text", "label"})


def _images(spec, path):
    from ssl_keras.data.readers.image_files import EXTENSIONS

    return _labeled(_files(spec, path, EXTENSIONS, "images"))


def _sounds(spec, path):
    from ssl_keras.data.readers.audio import EXTENSIONS

    return _labeled(_files(spec, path, EXTENSIONS, "audio"))


def _labeled(files):
    """Returns entries, labeled by the first subfolder that is not a split's name; without labels if some have none."""
    from ssl_keras.data.readers.split_names import PARTS

    folders = [[each for each in name.split(os.sep)[:-1] if each.casefold() not in PARTS][:1] for name, _ in files]
    labels = [each[0] for each in folders] if all(folders) else [None] * len(files)
    return [_entry(name, file, label=label) for (name, file), label in zip(files, labels)], set(labels)


def _captioned(spec, path):
    from ssl_keras.data.readers import captions

    if not path.is_file():
        raise ValueError(f"{spec}: no such file. Expected a CSV or TSV file with a header, or JSON lines (.jsonl).")
    texts = {}
    for place, file, caption in captions.rows_of(spec, path):
        if not (path.parent / file).is_file():
            raise ValueError(
                f"{spec}, {place}: no such image: {printable(file)}. Expected a path relative to the file."
            )
        texts.setdefault(file, []).append(" ".join(caption.split()))
    joined = {file: "\n".join(dict.fromkeys(each)) for file, each in texts.items()}
    return [_entry(file, path.parent / file, captions=each) for file, each in joined.items()], {None}


def _rates(entries):
    import soundfile

    found = collections.Counter()
    for entry in entries[:: max(1, len(entries) // NUM_SHOWN)]:
        try:
            found[soundfile.info(entry[1]).samplerate] += 1
        except (soundfile.SoundFileError, OSError):
            continue  # counted when it is read
    return found


_ENTRIES = {"text": _texts, "table": _tables, "folder": _images, "captions": _captioned, "audio": _sounds}
