"""Dataset summaries: counts, ranges, duplicates, and a check that the examples differ.

A summary is a JSON object: `{"data": name, "parts": {"train": {…}, "validation": {…}, "test": {…}}}`. Each split has

    examples    number of examples; prepared, if training uses another number, such as windows over a text
    looked_at   number of examples whose content was read, evenly spaced; counts of content refer to these
    classes     {name: examples}
    image       height, width, channels, dtype, least and most (values), flat (images of a single color)
    waveform    rate (Hz), seconds (total), shortest, median, longest (seconds), silent (clips of zeros)
    text, text2, target, caption
                characters (total), shortest, median, longest, empty; captions, for images with captions; pieces (true),
                for large files that are read in pieces
    tokens      tokens, unknown (to the tokenizer)
    repeated    examples equal to an earlier one of the split, in content and target
    also_in     {another split: examples that are also in it}
    notes       what was skipped, converted or decided when the data was read

Data is read a few megabytes at a time.
"""

import collections
import hashlib
import math

import numpy as np

from ssl_keras.data.splits import CHUNK, PIECE, Splits
from ssl_keras.files import excerpt, printable

MAX_EXAMPLES, MAX_BYTES = 100_000, 1 << 28  # read from each split
BLOCK, BLOCKS = 1 << 20, 64  # tokens in a block; number of blocks counted in a longer stream
FEW = 64  # texts from which the mean size is estimated
NUM_SHOWN = 30  # classes that a terminal shows


def summarize(splits, prepared=None):
    """Returns the summary of `Splits`, as described above.

    Args:
        prepared: the `Splits` as training uses them, such as tokenized. Defaults to `splits`.
    """
    parts, contents = {}, {}
    for name, source, made in zip(Splits._fields, splits, prepared or splits):
        parts[name], content = _part(source)
        if len(made) != len(source):
            parts[name]["prepared"] = len(made)
        parts[name] |= _tokens(made)
        if content is not None:
            parts[name]["repeated"] = len(content) - len(np.unique(content))
            parts[name]["also_in"] = {other: int(np.isin(content, before).sum()) for other, before in contents.items()}
            contents[name] = content
        parts[name]["notes"] = [printable(note) for note in dict.fromkeys((*source.notes, *made.notes))]
    return {"data": printable(splits.train.base), "parts": parts}


def _part(source):
    """Returns (the summary of a split, (n,) hashes of the examples read or None)."""
    about = {"examples": len(source)}
    columns = {name: look for name, look in LOOKS.items() if name in source.arrays}
    size = sum(_example_bytes(source, name) for name in columns)
    rows = _evenly_spaced(len(source), min(MAX_EXAMPLES, int(MAX_BYTES / max(size, 1))))
    about["looked_at"] = len(rows)
    if "label" in source.arrays:
        counts = np.bincount(source.column("label"), minlength=len(source.classes))
        about["classes"] = collections.Counter()
        for name, count in zip(source.classes, counts.tolist()):
            about["classes"][printable(name)] += count
        about["classes"] = dict(about["classes"])
    content = None
    for name, look in columns.items():
        about[name], hashes = look(source, name, rows)
        if name != "caption":
            content = hashes if content is None else content * np.uint64(0x9E3779B97F4A7C15) + hashes
    return about, content


def _evenly_spaced(count, most):
    """Returns at most `most`, and at least one, evenly spaced indices below `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, max(most, 1))).astype(np.int64))


def _example_bytes(source, name):
    """Returns the bytes of an example of a column; for audio and text, an average."""
    array = source.arrays[name]
    if name == "waveform":
        return 2 * float(np.mean(_lengths(source)))
    if array.dtype == object:
        some = [text for chunk in _chunks(source, name, _evenly_spaced(len(source), FEW)) for text in chunk]
        return sum(map(len, some)) / len(some)
    return array.dtype.itemsize * math.prod(array.shape[1:])


def _lengths(source):
    """Returns the number of samples of each clip, (N,)."""
    lengths = source.arrays["waveform"].lengths
    return lengths if source.rows is None else lengths[source.rows]


def _chunks(source, name, indices):
    """Yields the values of a column, a few megabytes at a time."""
    array, rows = source.arrays[name], indices if source.rows is None else source.rows[indices]
    size = PIECE if array.dtype == object else array.dtype.itemsize * math.prod(array.shape[1:] or (1,))
    step = max(1, CHUNK // max(size, 1))
    for start in range(0, len(rows), step):
        yield np.asarray(array[rows[start : start + step]])


def image_hashes(source):
    """Returns a hash of each image of a source, (N,) uint64. Equal images have equal hashes."""
    chunks = _chunks(source, "image", np.arange(len(source)))
    return np.array([one for chunk in chunks for one in _hashes(chunk)], np.uint64)


def _hashes(images):
    return [_hash(image) for image in np.ascontiguousarray(images)]


def _hash(content):
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _images(source, name, rows):
    shape, least, most, flat, hashes = source.arrays[name].shape[1:], math.inf, -math.inf, 0, []
    for chunk in _chunks(source, name, rows):
        least, most = min(least, chunk.min().item()), max(most, chunk.max().item())
        maybe = chunk[(chunk[:, 0] == chunk[:, 0, :1]).all((1, 2))]  # a cheap test first: is the top row one color?
        flat += int((maybe == maybe[:, :1, :1]).all((1, 2, 3)).sum())
        hashes += _hashes(chunk)
    about = dict(zip(("height", "width", "channels"), map(int, shape))) | {"dtype": str(source.arrays[name].dtype)}
    return about | {"least": least, "most": most, "flat": flat}, np.array(hashes, np.uint64)


def _sounds(source, name, rows):
    clips, hashes, silent = source.arrays[name], [], 0
    for row in rows if source.rows is None else source.rows[rows]:  # one at a time, to avoid padding
        clip = np.ascontiguousarray(clips.samples[clips.starts[row] : clips.starts[row] + clips.lengths[row]])
        silent += not clip.any()
        hashes.append(_hash(clip))
    seconds = _lengths(source) / source.rate
    about = {"rate": int(source.rate), "seconds": float(seconds.sum())}
    return about | _length_stats(seconds, float) | {"silent": int(silent)}, np.array(hashes, np.uint64)


def _texts(source, name, rows):
    texts = [
        (len(text), not text.strip(), _hash(text.encode("utf-8", "surrogatepass")))
        for chunk in _chunks(source, name, rows)
        for text in chunk
    ]
    lengths, empty, hashes = zip(*texts)
    about = {"characters": sum(lengths)} | _length_stats(lengths, int) | {"empty": sum(empty)}
    if not np.all(source.arrays.get("ends", True)):
        about["pieces"] = True
    return about, np.array(hashes, np.uint64)


def _captions(source, name, rows):
    listed = [text.split("\n") for chunk in _chunks(source, name, rows) for text in chunk]
    lengths = [len(text) for each in listed for text in each]
    about = {"captions": len(lengths), "characters": sum(lengths)} | _length_stats(lengths, int)
    return about | {"empty": sum(not text.strip() for each in listed for text in each)}, None


LOOKS = {
    "image": _images,
    "waveform": _sounds,
    "text": _texts,
    "text2": _texts,
    "target": _texts,
    "caption": _captions,
}


def _length_stats(values, kind):
    found = {"shortest": np.min(values), "median": np.median(values), "longest": np.max(values)}
    return {name: kind(value) for name, value in found.items()}


def _tokens(source):
    """Returns {"tokens": {…}} for tokenized sources, else {}. Counts at most `BLOCKS` blocks of a stream."""
    array = source.arrays.get("tokens", source.arrays.get("captions"))
    unknown = getattr(source.tokenizer, "unknown", None)
    if array is None or unknown is None:
        return {}
    if hasattr(array, "stream"):  # its windows may overlap, so the stream is counted
        blocks = (
            array.stream[start * BLOCK : (start + 1) * BLOCK]
            for start in _evenly_spaced(-(-len(array.stream) // BLOCK) or 1, BLOCKS)
        )
    else:
        blocks = _chunks(source, "tokens" if "tokens" in source.arrays else "captions", np.arange(len(source)))
    counts = [(int((block >= 0).sum()), int((block == unknown).sum()) if unknown >= 0 else 0) for block in blocks]
    return {"tokens": dict(zip(("tokens", "unknown"), map(sum, zip(*counts))))}


def check(summary):
    """Raises ValueError if all examples of the training split are equal."""
    train = summary["parts"]["train"]
    whole = train["looked_at"] == train["examples"] > 1 and not train.get("text", {}).get("pieces")
    if whole and train.get("repeated") == train["examples"] - 1:
        raise ValueError(
            f"{summary['data']}: all {train['examples']:,} examples of the training split are equal, so there is "
            "nothing to learn. Expected examples that differ. Check the path and how the data was converted."
        )


def compact(summary):
    """Returns the short summary for a card: numbers of examples, classes and duplicates, and notes."""
    parts = summary["parts"]
    kept = {"parts": {name: part["examples"] for name, part in parts.items()}}
    if "repeated" in parts["train"]:
        kept["repeated"] = {name: part["repeated"] for name, part in parts.items()}
        kept["also_in_train"] = {name: part["also_in"]["train"] for name, part in parts.items() if name != "train"}
    if "classes" in parts["train"]:
        counts = parts["train"]["classes"].values()
        kept["classes"] = {"number": len(counts), "fewest": min(counts), "most": max(counts)}
    return kept | {"notes": list(notes(summary))}


def notes(summary):
    """Returns {note: the splits that have it}."""
    found = collections.defaultdict(list)
    for name, part in summary["parts"].items():
        for note in part["notes"]:
            found[note].append(name)
    return dict(found)


def lines(summary):
    """Returns the summary as two to six lines for a log, without the notes, which are logged when they are added."""
    parts, train = summary["parts"], summary["parts"]["train"]
    counts = ", ".join(f"{name} {part['examples']:,}" for name, part in parts.items())
    made = [f"{summary['data']}: {counts} examples"]
    content = [f"{name} {about}" for name, about in _content(train).items() if about]
    if content:
        made.append("; ".join(content) + _looked_at(train))
    if "classes" in train:
        among = train["classes"].values()
        few = f", {sum(not count for count in among)} without examples" if not all(among) else ""
        made.append(f"{len(among)} classes with {min(among):,} to {max(among):,} training examples{few}")
        made += _missing_classes(parts)
    if "repeated" in train:
        twice = [f"{part['repeated']:,} within {name}" for name, part in parts.items() if part["repeated"]]
        both = [
            f"{count:,} of {name} also in {other}"
            for name, part in parts.items()
            for other, count in part["also_in"].items()
            if count
        ]
        made.append(f"exact duplicates: {'; '.join([*twice, *both]) or 'none'}")
    return made


def _missing_classes(parts):
    """Returns a line for each held-out split that has no example of a class which the training split has."""
    made = []
    for name, part in parts.items():
        missing = [one for one, count in parts["train"]["classes"].items() if count and not part["classes"].get(one)]
        if missing:
            listed = excerpt(", ".join(missing))
            made.append(f"no {name} example of {len(missing)} classes, which no {name} score counts: {listed}")
    return made


def _looked_at(part):
    return f" ({part['looked_at']:,} examples checked)" if part["looked_at"] < part["examples"] else ""


def _content(part):
    """Returns {row title: text} of a split."""
    found = {}
    if "image" in part:
        image = part["image"]
        found["images"] = f"{image['height']}×{image['width']}×{image['channels']} {image['dtype']}"
        found["values"] = f"{image['least']:g} to {image['most']:g}"
        found["images of one color"] = _fraction(image["flat"], part["looked_at"])
    if "waveform" in part:
        sound = part["waveform"]
        found["audio"] = f"{sound['rate']:,} Hz, {_time(sound['seconds'])}"
        found["seconds, shortest / median / longest"] = (
            f"{sound['shortest']:.2f} / {sound['median']:.2f} / {sound['longest']:.2f}"
        )
        found["silent clips"] = _fraction(sound["silent"], part["looked_at"])
    for name in ("text", "text2", "target", "caption"):
        if name in part:
            many = "second texts" if name == "text2" else f"{name}s"
            text, of = part[name], "pieces of files" if part[name].get("pieces") else many
            if "captions" in text:
                found["captions"] = f"{text['captions']:,}"
            found[f"characters in {of}"] = f"{text['characters']:,}"
            found[f"{of}, shortest / median / longest"] = (
                f"{text['shortest']:,} / {text['median']:,} / {text['longest']:,}"
            )
            found[f"empty {many}"] = _fraction(text["empty"], text.get("captions", part["looked_at"]))
    if "tokens" in part:
        found["tokens"] = f"{part['tokens']['tokens']:,}"
        found["unknown tokens"] = _fraction(part["tokens"]["unknown"], part["tokens"]["tokens"])
    return found


def _fraction(count, of):
    """Returns a count and its percentage as text; empty if it is 0."""
    return f"{count:,} ({count / of:.1%})" if count else ""


def _time(seconds):
    """Returns a duration as text."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def table(summary, most=None):
    """Returns the summary as rows of cells, the header first, a column per split, with at most `most` classes."""
    parts = summary["parts"]
    found = {name: {"examples": f"{part['examples']:,}"} for name, part in parts.items()}
    for name, part in parts.items():
        if "prepared" in part:
            found[name]["training examples made of them"] = f"{part['prepared']:,}"
        if part["looked_at"] < part["examples"]:
            found[name]["checked, evenly spaced"] = f"{part['looked_at']:,}"
        found[name] |= _content(part)
        if "repeated" in part:
            found[name]["exact duplicates in the split"] = f"{part['repeated']:,}"
            found[name] |= {
                f"exact duplicates also in {other}": f"{count:,}" for other, count in part["also_in"].items()
            }
    rows = list(dict.fromkeys(row for part in found.values() for row in part))
    rows = [row for row in rows if any(part.get(row) for part in found.values())]
    made = [["", *parts], *([row, *(part.get(row, "") or "–" for part in found.values())] for row in rows)]
    classes = list(dict.fromkeys(name for part in parts.values() for name in part.get("classes", {})))
    for name in classes[:most]:
        made.append([f"class {name}", *(f"{part.get('classes', {}).get(name, 0):,}" for part in parts.values())])
    if most is not None and len(classes) > most:
        made.append([f"and {len(classes) - most:,} more classes", *("" for _ in parts)])
    return made
