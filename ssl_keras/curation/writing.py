"""Writes the result of a curation: shards, what was removed, and the files that make the folder a dataset.

`curation.json` is written last, and a folder without it does not open.
"""

import functools
import gzip
import io
import itertools
import json
import logging

import numpy as np

import ssl_keras
from ssl_keras import files
from ssl_keras.curation import stages
from ssl_keras.curation.measure import REASONS
from ssl_keras.data import records

DONE, REMOVED = "curation.json", "removed.jsonl.gz"
FORMAT = 1
log = logging.getLogger(__name__)


def write(work, out, settings, engine, result):
    """Writes the shards, and then the files that make the folder a dataset."""
    examples, (_, found) = result.examples, stages.read_plan(work)
    if not all(result.splits.values()):
        raise ValueError(
            f"Nothing is left for {', '.join(name for name, count in result.splits.items() if not count)}: "
            f"{describe_funnel(result)}. Use more data, other thresholds or fewer --parts."
        )
    first = np.load(work / "first.npy")
    ends = np.append(first[1:], len(examples.ids))
    parts = [examples.part[a:b] for a, b in zip(first, ends)]
    shards = [
        [number for number, part in enumerate(parts) if (part == place).any()] for place in range(len(result.splits))
    ]
    files.write(work / "shards.json", json.dumps(shards))
    stages.save(work / "part.npy", array=examples.part)
    stages.save(work / "copies.npy", array=examples.copies)
    log.info("writing %d examples", sum(result.splits.values()))
    engine.each(functools.partial(stages.write_shard, work, out, settings), range(len(found.shards)))
    _write_removed(work, out, found, first, examples)
    names = list(result.splits)
    paths = [
        [out / records.shard_name(name, number, len(kept)) for number in range(len(kept))]
        for name, kept in zip(names, shards)
    ]
    lengths = {
        name: [int((parts[number] == place).sum()) for number in kept]
        for place, (name, kept) in enumerate(zip(names, shards))
    }
    sizes = {name: sum(path.stat().st_size for path in each) for name, each in zip(names, paths)}
    description = f"Curated by ssl_keras {ssl_keras.__version__}."
    records.describe(out, stages.columns_of(found), lengths, sizes, found.classes, description)
    about = {
        "format": FORMAT,
        "ssl_keras": ssl_keras.__version__,
        "settings": result.settings,
        "kind": found.kind,
        "rate": found.rate,
        "classes": list(found.classes),
        "splits": result.splits,
        "removed": {name: count for name, count in result.funnel.items() if name},
        "near_detail": result.near_detail,
        "not_compared": result.not_compared,
        "sha256": {path.name: files.sha256(path) for path in [*itertools.chain(*paths), out / REMOVED]},
    }
    files.write_json(out / DONE, about)


def _write_removed(work, out, found, first, examples):
    """Writes what is removed, one JSON line each: id, input, name, reason, value, and the id of the copy that stays."""
    content = io.BytesIO()
    with gzip.GzipFile(fileobj=content, mode="wb", mtime=0, filename="") as packed:
        for number, (shard, start) in enumerate(zip(found.shards, first)):
            with np.load(stages.features_path(work, number)) as features:
                names = stages.names_of(features)
            for row in np.flatnonzero(examples.reason[start : start + len(names)]):
                at = start + row
                line = {
                    "id": f"{int(examples.ids[at]):016x}",
                    "input": shard["input"],
                    "name": files.printable(names[row]),
                    "reason": REASONS[examples.reason[at]],
                    "value": round(float(examples.value[at]), 6),
                }
                if examples.near[at] >= 0:
                    line["near"] = f"{int(examples.ids[examples.near[at]]):016x}"
                packed.write((json.dumps(line, ensure_ascii=True) + "\n").encode())
    files.write(out / REMOVED, content.getvalue())


def describe_funnel(result):
    """Returns the funnel in one line: "100 examples, words 20, near copy 3, kept 77"."""
    total = sum(result.funnel.values())
    removed = [f"{name} {count:,}" for name, count in result.funnel.items() if name]
    return ", ".join([f"{total:,} examples", *removed, f"kept {result.funnel.get('', 0):,}"])
