"""The stages of a curation, as functions of a folder of work and of the number of a shard or partition.

Each writes one file atomically, and returns at once if the file is there.

Examples are numbered in the order of the shards, those of evaluation datasets first. Their ranks are the order in which
they are kept: of two copies, the one of lower rank stays.
"""

import functools
import io
import json

import numpy as np
from rapidfuzz import fuzz, process

from ssl_keras import files
from ssl_keras.curation import items
from ssl_keras.curation.engines import RECORD
from ssl_keras.curation.listing import Listing
from ssl_keras.curation.measure import hash_of, identify, measure
from ssl_keras.curation.settings import PARTS
from ssl_keras.data import records
from ssl_keras.data.near_duplicates import images
from ssl_keras.data.near_duplicates.grouping import bucket_pairs
from ssl_keras.data.near_duplicates.sketching import similar

COLUMNS = ("hash", "sketch", "thumbnail", "detail")  # of features, which are collected in one file each


def read_plan(work):
    """Returns the (listing of references or None, `Listing`) of a folder of work."""
    plan = json.loads((work / "plan.json").read_text("utf-8"))
    made = [each and Listing(**(each | {"classes": tuple(each["classes"])})) for each in plan]
    return made[0], made[1]


def features_path(work, number, reference=False):
    return work / f"{'reference' if reference else 'features'}-{number:05}.npz"


def names_of(features):
    """Returns the names of the examples of features."""
    return features["name"].tobytes().decode("utf-8", "surrogateescape").split("\n")


def measure_shard(work, settings, reference, number):
    """Measures a shard of the inputs, or of the evaluation datasets."""
    path = features_path(work, number, reference)
    if path.exists():
        return
    listing = _plan(work)[0 if reference else 1]
    grams = work / "grams.npy"
    grams = np.load(grams, mmap_mode="r") if grams.exists() and not reference else None
    save(path, **measure(listing.shards[number], listing, settings, grams, reference))


_plan = functools.lru_cache(maxsize=2)(read_plan)


def save(path, **arrays):
    """Writes arrays to an .npz file atomically, or one array called `array` to an .npy file."""
    content = io.BytesIO()
    if path.suffix == ".npy":
        np.save(content, arrays["array"])
    else:
        np.savez(content, **arrays)
    files.write(path, content.getbuffer())


def collect(work, paths, counts):
    """Joins columns of all features into one file each, which are then read by example through memory maps.

    They are not written through memory maps: on a full disk that would kill the process.
    """
    with np.load(paths[0]) as first:
        names = [name for name in COLUMNS if name in first]
        shapes = {name: (first[name].shape[1:], first[name].dtype) for name in names}
        short = "short" in first
    for name, (shape, dtype) in shapes.items():
        header = {"descr": dtype.str, "fortran_order": False, "shape": (int(sum(counts)), *shape)}
        with files.naming(work / f"{name}.npy"), open(work / f"{name}.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for path in paths:
                with np.load(path) as features:
                    file.write(features[name].tobytes())
    if short:
        ends, place = [np.zeros(1, np.int64)], 0
        with files.naming(work / "short.bin"), open(work / "short.bin", "wb") as file:
            for path in paths:
                with np.load(path) as features:
                    file.write(features["short"].tobytes())
                    ends.append(features["short_ends"] + place)
                    place += len(features["short"])
        save(work / "short_ends.npy", array=np.concatenate(ends))


def records_of(work, stage, shard):
    """Returns the records of a shard for a stage: "exact", "near" or "short".

    Args:
        shard: (path of its features, number of its first example).
    """
    path, first = shard
    rank, alive = (np.load(work / f"{name}.npy", mmap_mode="r") for name in ("rank", "alive"))
    with np.load(path) as features:
        if stage == "exact":
            keys, rows = features["hash"][:, 0], np.arange(len(features["id"]))
        else:
            keys, rows = (
                features[each] for each in (("keys", "key_rows"), ("short_keys", "short_rows"))[stage == "short"]
            )
    numbers = first + rows.astype(np.int64)
    chosen = alive[numbers]
    made = np.empty(int(chosen.sum()), RECORD)
    made["key"], made["member"] = keys[chosen], rank[numbers[chosen]]
    return made


def pair_up(work, stage, name, settings, number, found):
    """Writes the pairs of ranks of similar examples among the records of a partition, to NAME-NUMBER.npz."""
    path = work / f"{name}-{number:05}.npz"
    if path.exists():
        return
    pairs, left = bucket_pairs(found["key"], found["member"].astype(np.int64), _similar(work, stage, settings))
    save(path, pairs=np.unique(pairs, axis=0), left=np.array(left))


def _similar(work, stage, settings):
    """Returns the function (i, j) → bool (n,) by which examples of these ranks are copies."""

    def mapped(name):
        return np.load(work / f"{name}.npy", mmap_mode="r")

    at = mapped("by_rank")
    if stage == "exact":
        hashes = mapped("hash")
        return lambda i, j: (hashes[at[i]] == hashes[at[j]]).all(1)
    if stage == "short":
        return functools.partial(_similar_texts, work, at, mapped("short_ends"), settings.near_text)
    if (work / "sketch.npy").exists():
        sketch = mapped("sketch")
        return lambda i, j: similar(sketch[at[i]], sketch[at[j]], settings.near)
    columns = mapped("thumbnail"), mapped("detail")
    alike = images.alike(columns, columns, settings.near_image, settings.near_detail)
    return lambda i, j: alike(at[i], at[j])


def _similar_texts(work, at, ends, least, i, j):
    whole = np.memmap(work / "short.bin", np.uint8, "r")
    both = [
        [whole[ends[row] : ends[row + 1]].tobytes().decode("utf-8", "surrogatepass") for row in at[ranks]]
        for ranks in (i, j)
    ]
    return process.cpdist(*both, scorer=fuzz.ratio, score_cutoff=least, dtype=np.float32) > 0


def write_shard(work, out, settings, number):
    """Writes the kept examples of a shard of the inputs, to one file for each split.

    Raises:
        ValueError: An example is not the one that was measured.
    """
    listing = _plan(work)[1]
    part, copies, first = (np.load(work / f"{name}.npy", mmap_mode="r") for name in ("part", "copies", "first"))
    paths = _outputs(work, out, number)
    if all(path.exists() for path in paths.values()):
        return
    with np.load(features_path(work, number)) as features:
        ids, hashes = features["id"], features["hash"]
    kept = {split: [] for split in paths}
    limits = listing.rate, settings.image.pixels, settings.sound.seconds[1]
    shard, row = listing.shards[number], -1
    for row, item in enumerate(items.read(shard, listing.kind, *limits)):
        place = part[first[number] + row] if row < len(ids) else None
        if place is None or identify(shard["input"], item.name) != ids[row]:
            raise ValueError(f"{shard['input']} has changed since it was measured. Start again with a new --out.")
        if place >= 0:
            if item.problem or (hash_of(item, listing.kind) != hashes[row]).any():
                raise ValueError(f"{item.name} has changed since it was measured. Start again with a new --out.")
            kept[place].append(records.serialize(_example(item, listing, int(copies[first[number] + row]), ids[row])))
    if row + 1 != len(ids):
        raise ValueError(f"{shard['input']} has changed since it was measured. Start again with a new --out.")
    for place, path in paths.items():
        records.write_shard(path, kept[place])


def _outputs(work, out, number):
    """Returns {split number: path of the file with a shard's examples of that split}; empty files are left out."""
    shards = json.loads((work / "shards.json").read_text("utf-8"))
    return {
        place: out / records.shard_name(PARTS[place], numbers.index(number), len(numbers))
        for place, numbers in enumerate(shards)
        if number in numbers
    }


def _example(item, listing, copies, identity):
    content = {
        "text": lambda: {"text": item.content.encode("utf-8", "replace")},
        "image": lambda: {"image": item.encoded},
        "audio": lambda: {"waveform": item.content.astype("<i2").tobytes()},
    }[listing.kind]()
    content |= {"id": f"{int(identity):016x}".encode(), "copies": copies}
    if listing.captions:
        content["caption"] = item.captions.encode("utf-8", "replace")
    if listing.classes:
        content["label"] = listing.classes.index(item.label)
    return content


def columns_of(listing):
    """Returns the names of the columns that examples are written with."""
    content = {"audio": "waveform"}.get(listing.kind, listing.kind)
    more = [name for name, there in (("caption", listing.captions), ("label", listing.classes)) if there]
    return [content, *more, "copies", "id"]
