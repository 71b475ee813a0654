"""All text stages of `ssl-keras curate` next to datatrove's two Gopher filters, on the same documents.

    python benchmarks/curation_speed.py TREE             # needs requirements-bench.txt; 2 minutes on one core
    python benchmarks/curation_speed.py TREE --quick     # sees that it runs; keeps nothing

Ours: `curate` with Gopher's rules, from a file of texts to a written dataset, so with exact and near copies. Theirs:
GopherRepetitionFilter and then, for what it keeps, GopherQualityFilter, with their defaults, on texts in memory. Both
look at sequences of 2 to 10 words, in one process and on one core. Their tokenizer counts punctuation as words, so they
remove more.

A round gives both the next `DOCUMENTS` texts of the tree, each first in every other round. The measure is megabytes
of text per second of CPU; the first round warms up. `kept` is the fraction of texts that each one's rules keep.
The numbers are in benchmarks/curation_speed.json, by the name of the tree.
"""

import argparse
import gzip
import importlib.metadata
import json
import pathlib
import statistics
import tempfile
import time

from contenders import interval, machine
from curation import documents
from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

from ssl_keras import files
from ssl_keras.curation.curate import curate
from ssl_keras.curation.engines import Local
from ssl_keras.curation.settings import Settings

OUT = pathlib.Path(__file__).with_suffix(".json")
ROUNDS, DOCUMENTS = 9, 200  # measured rounds, and documents of each
SETTINGS = Settings(rules=("gopher",), parts=(1.0,))
COPIES = {"exact copy", "near copy"}


class Ours:
    """The command, on a file of JSON lines; what its rules keep, without the search for copies, are `kept`."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, texts, number):
        path, out = self.folder / f"{number}.jsonl", self.folder / f"out{number}"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        start = time.process_time()
        curate([f"text:{path}"], out, SETTINGS, Local())
        seconds = time.process_time() - start
        with gzip.open(out / "removed.jsonl.gz") as file:
            rows = [row for row in map(json.loads, file) if row["reason"] not in COPIES]
        places = {int(row["name"].rpartition(":")[2]) for row in rows}
        starts, place = [], 0
        for line in path.read_bytes().splitlines(keepends=True):
            starts.append(place)
            place += len(line)
        return seconds, [start not in places for start in starts]


class Theirs:
    """The filters, on texts in memory."""

    def __init__(self):
        self.filters = GopherRepetitionFilter(), GopherQualityFilter()

    def __call__(self, texts, number):
        start = time.process_time()
        kept = [all(self._keeps(each, text) for each in self.filters) for text in texts]
        return time.process_time() - start, kept

    @staticmethod
    def _keeps(rule, text):
        found = rule.filter(Document(text=text, id=""))
        return found[0] if isinstance(found, tuple) else found


def measure(tree, rounds, count):
    some = documents(tree, (rounds + 1) * count)
    parts = [
        some[number * len(some) // (rounds + 1) : (number + 1) * len(some) // (rounds + 1)]
        for number in range(rounds + 1)
    ]
    done, decided, size = [], [], 0
    with tempfile.TemporaryDirectory() as temporary:
        contenders = {"ours": Ours(pathlib.Path(temporary)), "datatrove": Theirs()}
        for number, texts in enumerate(parts):
            megabytes, rates, kept = sum(len(text.encode()) for text in texts) / 1e6, {}, {}
            for name in list(contenders)[:: 1 if number % 2 else -1]:
                seconds, kept[name] = contenders[name](texts, number)
                rates[name] = megabytes / seconds
            if number:
                done.append(rates)
                decided += zip(kept["ours"], kept["datatrove"])
                size += megabytes
            print(f"round {number} of {rounds}", {name: round(rate, 2) for name, rate in rates.items()}, flush=True)
    return {
        "machine": machine(),
        "datatrove": importlib.metadata.version("datatrove"),
        "documents": len(decided),
        "megabytes": size,
        "rounds, MB/s of CPU": done,
        "MB/s of CPU, median": {name: statistics.median(each[name] for each in done) for name in contenders},
        "ours / datatrove": interval([each["ours"] / each["datatrove"] for each in done]),
        "kept": dict(zip(contenders, map(statistics.mean, zip(*decided)))),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, and no file")
    asked = parser.parse_args()
    found = measure(asked.tree, *((1, 20) if asked.quick else (ROUNDS, DOCUMENTS)))
    print(json.dumps(found, indent=1))
    if not asked.quick:
        known = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}
        files.write_json(OUT, known | {pathlib.Path(asked.tree).name: found})
