"""Measures whether curation helps: the same network and steps on raw data, on each stage alone, and on all together.

    python benchmarks/curation_helps.py texts TREE PROSE MIXTURE    # 75 minutes of one core
    python benchmarks/curation_helps.py epochs TREE                 # 55 minutes
    python benchmarks/curation_helps.py images CIFAR10_ZIP          # 20 minutes

texts: TREE is a folder of documents; PROSE and MIXTURE are two folders of test documents, named before any loss is
seen, which are decontaminated from TREE in every arm and never filtered. The measure is bits per byte. Every arm trains
on the same number of characters, drawn by the seed, with one tokenizer.

epochs: a small text with the tree's own copies and without, trained for several epochs. Documents are drawn with all
their copies, and every tenth with its copies is held out. The measures are the held-out loss and the fraction of
generated sequences of 50 tokens that are verbatim in the training text.

images: CIFAR-10 files of which two classes are copied until they are 30% more, and 5% are blank; dirty, curated, and
clean. The measures are kNN accuracy and a linear probe on test images that no version contains.

`PLANS` has the sizes. Each run is written to curation_helps.json when it ends, and is not repeated, so a killed
measurement resumes. Two copies share two cores: run one with `--only-prepare` first, then two with `--threads 1` and
different `--seeds`. The table at the end has the change relative to the first arm, with its interval over the seeds.

The documents that docs/curation.md has numbers of are packages of Debian 12:

    apt-get download linux-doc-6.1=6.1.192-3 python3.11-doc=3.11.2-6+deb12u9 perl-doc=5.36.0-7+deb12u4 \\
        git-doc=1:2.39.5-0+deb12u3 nodejs-doc=18.20.4+dfsg-1~deb12u3 postgresql-doc-15=15.20-0+deb12u1
    for name in linux-doc python3.11-doc; do dpkg-deb -x $name*.deb tree; done                 # TREE
    for name in perl-doc git-doc; do dpkg-deb -x $name*.deb manuals; done
    mkdir prose; find manuals \\( -name "*.pod" -o -path "*git*" -name "*.txt" \\) -exec cp --parents -t prose {} +
    for name in nodejs-doc postgresql-doc; do dpkg-deb -x $name*.deb mixture; done             # MIXTURE
"""

import argparse
import dataclasses
import gzip
import io
import json
import os
import pathlib
import shutil
import zipfile

import numpy as np

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import tensorflow as tf
from PIL import Image

from ssl_keras import files
from ssl_keras.curation.curate import curate
from ssl_keras.curation.engines import Local
from ssl_keras.curation.items import read
from ssl_keras.curation.listing import listing
from ssl_keras.curation.measure import identify
from ssl_keras.curation.settings import Settings
from ssl_keras.data import tokenizer
from ssl_keras.data.readers.text import documents
from ssl_keras.data.records import Records
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits
from ssl_keras.encoders import load_encoder, load_tokenizer
from ssl_keras.evaluation import features, probes
from ssl_keras.evaluation.paired import paired_difference
from ssl_keras.inference import generation
from ssl_keras.objectives import causal_lm, contrastive
from ssl_keras.training.pretrain import pretrain

OUT, RESULTS = pathlib.Path(__file__).with_suffix(".json"), pathlib.Path("results")
LETTERS, WORDS = 20_000, 100  # of a document: the first ones that are used, and the fewest
SUFFIXES = ("", ".txt", ".md", ".rst", ".html", ".pod", ".gz")
VERBATIM, GENERATED, LENGTH = 50, 64, 100  # tokens of a sequence; texts that are generated, and tokens of each
COPIES, BLANK = 3, 20  # of an image of the copied classes, if it is copied; blank images are 1 / BLANK


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of a measurement.

    Attributes:
        size: characters of an arm, or clean images. test: characters, or images, of each test set.
        files: the most files of a tree that are read.
    """

    seeds: tuple
    steps: int
    size: int
    test: int
    files: int = 1_000_000


PLANS = {
    "texts": Plan((0, 1, 2, 3, 4), steps=1_000, size=8_000_000, test=600_000),
    "epochs": Plan((0, 1, 2), steps=2_000, size=2_000_000, test=300_000),  # some 6 epochs
    "images": Plan((0, 1, 2), steps=500, size=8_000, test=2_000),
}
SMOKE = {
    "texts": Plan((0,), steps=4, size=100_000, test=20_000, files=300),
    "epochs": Plan((0,), steps=4, size=50_000, test=20_000, files=300),
    "images": Plan((0,), steps=2, size=200, test=100),
}
LAYERS = {"texts": 2, "epochs": 4}
IMAGES = {"network": "cnn", "width": 16, "pool_grid": 2, "crop": 0.3, "flip": True, "color": 0.5, "gray": 0.2}
NONE = {"rules": ("off",), "parts": (1.0,), "near": 0.0}
ARMS = {
    "exact": Settings(**NONE),
    "exact + near": Settings(**NONE | {"near": 0.8}),
    "exact + rules": Settings(**NONE | {"rules": ("gopher", "markup")}),
    "exact + near + rules": Settings(parts=(1.0,)),
}
MEASURES = {
    "texts": {"prose": "val_bits_per_byte", "mixture": "test_bits_per_byte"},
    "epochs": {"held out": "test_bits_per_byte", "verbatim": "verbatim"},
    "images": {"kNN": "kNN", "linear probe": "linear probe"},
}


class Measurement:
    """The runs of one part of the file, by arm and seed; `work` takes what they share."""

    def __init__(self, what, seeds, smoke, only_prepare):
        self.plan, self.what, self.only_prepare = (SMOKE if smoke else PLANS)[what], what, only_prepare
        self.seeds = [seed for seed in self.plan.seeds if not seeds or seed in seeds]
        self.work = RESULTS / f"curation_helps-{what}{'-smoke' if smoke else ''}"
        self.path = self.work / "numbers.json" if smoke else OUT

    def runs(self):
        """{arm: {seed: numbers}} of the runs that have ended."""
        known = json.loads(self.path.read_text("utf-8")) if self.path.exists() else {}
        return known.get(self.what, {}).get("runs", {})

    def run(self, arms, function):
        """Calls `function(arm, its data, seed)` for all arms and seeds that are not in the file."""
        for seed in [] if self.only_prepare else self.seeds:
            for arm, data in arms.items():
                if str(seed) not in self.runs().get(arm, {}):
                    self._note(arm, seed, function(arm, data, seed))
                print(f"{arm}, seed {seed}:", self.runs()[arm][str(seed)], flush=True)

    def _note(self, arm, seed, numbers):
        known = json.loads(self.path.read_text("utf-8")) if self.path.exists() else {}  # another copy may have written
        part = known.setdefault(self.what, {"plan": dataclasses.asdict(self.plan), "runs": {}})
        part["runs"].setdefault(arm, {})[str(seed)] = numbers
        files.write_json(self.path, known)

    def table(self):
        """Lines of the change of each measure relative to the first arm, in percent, with its interval."""
        runs = self.runs()
        first, *others = runs
        for title, name in MEASURES[self.what].items():
            for arm in others:
                seeds = sorted(runs[first].keys() & runs[arm].keys())
                a, b = ([runs[each][seed][name] for seed in seeds] for each in (arm, first))
                found = paired_difference(a, b)
                scale = 100 / np.mean(b) if np.mean(b) else float("nan")
                ends = [] if found.interval is None else [f"{scale * end:+.2f}%" for end in found.interval]
                yield f"{title}: {arm} {scale * found.mean:+.2f}% of {first} [{', '.join(ends)}], {found.count} seeds"


def read_tree(tree, most):
    """Returns {relative path: text} of the documents of a tree, their first `LETTERS` characters, of `most` files."""
    found = {}
    paths = [pathlib.Path(folder, name) for folder, _, names in os.walk(tree) for name in names]  # follows no links
    paths = sorted(path for path in paths if not path.is_symlink())
    for path in paths[:: -(-len(paths) // most) or 1]:
        if path.suffix in SUFFIXES:
            try:
                with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
                    text = file.read(4 * LETTERS).decode("utf-8", "ignore")[:LETTERS]
            except (OSError, EOFError):
                continue
            if "\0" not in text and len(text.split()) >= WORDS:
                found[str(path.relative_to(tree))] = text
    return found


def write_texts(folder, texts):
    """Writes texts as JSON lines, once; returns the name of the dataset."""
    if not (folder / "documents.jsonl").exists():
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": text}) + "\n" for _, text in sorted(texts.items())]
        files.write(folder / "documents.jsonl", "".join(lines))
    return f"text:{folder}"


def curated(work, name, settings, against):
    """Curates WORK/raw; returns (texts {id: text} that stay, {id: (reason, id of the copy that stays)} of others)."""
    out = work / name.replace(" ", "")
    if not (out / "curation.json").exists():
        curate([f"text:{work}/raw"], out, settings, Local(), against)
    kept = Records(out, "train")
    kept = {row["id"].decode(): row["text"].decode() for row in kept[range(len(kept))]}
    with gzip.open(out / "removed.jsonl.gz") as file:
        return kept, {row["id"]: (row["reason"], row.get("near")) for row in map(json.loads, file)}


def raw_texts(work, gone):
    """Returns {id: text} of WORK/raw without what `gone` names as contaminated."""
    found = {}
    for shard in listing([f"text:{work}/raw"]).shards:
        for item in read(shard, "text"):
            name = f"{identify(shard['input'], item.name):016x}"
            if not item.problem and not gone.get(name, ("", None))[0].startswith("evaluation"):
                found[name] = item.content
    return found


def drawn(texts, seed, characters):
    """Returns texts in an order of the seed, `characters` together or all."""
    chosen, size = [], 0
    for row in np.random.default_rng(seed).permutation(len(texts)):
        if size >= characters:
            break
        chosen.append(texts[row][: characters - size])
        size += len(chosen[-1])
    return chosen


def make_tokenizer(work, texts):
    if not (work / "tokenizer.json").exists():
        files.write(work / "tokenizer.json", tokenizer.train("bpe", texts, 2_048, "curation_helps").json)


def train_language_model(measurement, arm, texts, validation, test, seed):
    """Returns the numbers of a run of `causal_lm`, and its folder. All arms use one tokenizer, trained on raw text.

    Validation is measured once, at the end, so that it chooses nothing.
    """
    what, steps, name = measurement.what, measurement.plan.steps, arm.replace(" + ", "-").replace(" ", "-")
    parts = {"train": texts, "validation": validation, "test": test}
    splits = Splits(*(documents(f"{name}-{part}", each) for part, each in parts.items()))
    run = f"{measurement.work.name}-{name}-{seed}"
    shutil.rmtree(pathlib.Path("runs") / run, ignore_errors=True)
    training = dataclasses.replace(
        causal_lm.DEFAULTS, steps=steps, eval_every=steps, seed=seed, tensorboard=False, run=run
    )
    settings = causal_lm.Settings(layers=LAYERS[what], tokenizer=str(measurement.work / "tokenizer.json"))
    outcome = pretrain("causal_lm", settings, training, splits)
    numbers = {key: value for key, value in outcome.items() if key.endswith("bits_per_byte") or key == "seconds"}
    return numbers | {"characters": sum(map(len, texts))}, pathlib.Path(outcome["folder"])


def measure_texts(measurement, tree, prose, mixture):
    """Bits per byte on two test sets: as validation the prose, as test the mixture."""
    work, plan = measurement.work, measurement.plan
    tests = {name: read_tree(path, plan.files) for name, path in (("prose", prose), ("mixture", mixture))}
    against = [write_texts(work / name, texts) for name, texts in tests.items()]
    tests = [drawn(list(texts.values()), 0, plan.test) for texts in tests.values()]
    write_texts(work / "raw", read_tree(tree, plan.files))
    arms = {}
    for name, settings in ARMS.items():
        kept, gone = curated(work, name, settings, against)
        arms[name] = list(kept.values())
    raw = list(raw_texts(work, gone).values())
    make_tokenizer(work, drawn(raw, 0, plan.size))

    def run(arm, texts, seed):
        return train_language_model(measurement, arm, drawn(texts, seed, plan.size), *tests, seed)[0]

    measurement.run({"raw": raw} | arms, run)


def measure_epochs(measurement, tree):
    """Held-out loss, and how much of generated text is verbatim in the training text, after many epochs."""
    work, plan = measurement.work, measurement.plan
    write_texts(work / "raw", read_tree(tree, plan.files))
    kept, gone = curated(work, "exact + near", ARMS["exact + near"], [])
    groups = {name: [text] for name, text in kept.items()}
    for name, text in raw_texts(work, gone).items():
        stays = name
        while stays in gone:
            stays = gone[stays][1]  # a copy may stay in favor of one that is a copy itself
        if name in gone and stays in groups:
            groups[stays].append(text)
    held_out = drawn([groups.pop(name)[0] for name in sorted(groups)[::10]], 0, plan.test)
    make_tokenizer(work, drawn([text for group in groups.values() for text in group], 0, 8 * plan.size))

    def run(arm, groups, seed):
        chosen, size = [], 0
        for row in np.random.default_rng(seed).permutation(len(groups)):
            if size < plan.size:
                chosen.append(groups[row])
                size += sum(map(len, groups[row]))
        texts = [text for group in chosen for text in (group if arm == "with copies" else group[:1])]
        return _verbatim(measurement, arm, texts, held_out, seed)

    whole = [groups[name] for name in sorted(groups)]
    measurement.run({"with copies": whole, "without copies": whole}, run)


def _verbatim(measurement, arm, texts, held_out, seed):
    numbers, folder = train_language_model(measurement, arm, texts, held_out, held_out, seed)
    encoder, words = load_encoder(folder / "encoder"), load_tokenizer(folder / "encoder")
    made = generation.write(encoder, words, "", LENGTH, count=GENERATED, seed=seed)
    known = set(_sequences(words.encode(texts)))
    found = [sequence in known for sequence in _sequences(words.encode(made))]
    return numbers | {"verbatim": float(np.mean(found)) if found else 0.0}


def _sequences(texts):
    """Yields the bytes of all sequences of `VERBATIM` tokens of texts."""
    for ids in texts:
        ids = np.array(ids, np.int32)
        yield from (ids[start : start + VERBATIM].tobytes() for start in range(len(ids) - VERBATIM + 1))


def measure_images(measurement, archive):
    """kNN and linear-probe accuracy of `contrastive` on clean labeled images, after training on three versions."""
    work, plan = measurement.work, measurement.plan
    if not (work / "curated" / "curation.json").exists():
        _write_images(work, archive, plan)
        curate([f"folder:{work}/dirty/train"], work / "curated", Settings(parts=(0.98, 0.01, 0.01)), Local())
    clean = load(f"folder:{work}/clean", 32)

    def run(arm, data, seed):
        name = f"{work.name}-{arm}-{seed}"
        shutil.rmtree(pathlib.Path("runs") / name, ignore_errors=True)
        changed = {
            "epochs": 0,
            "steps": plan.steps,
            "eval_every": plan.steps,
            "seed": seed,
            "run": name,
            "tensorboard": False,
        }
        training = dataclasses.replace(contrastive.DEFAULTS, **changed, batch_size=min(256, plan.size // 4))
        splits = Splits(load(data, 32).train, clean.validation, clean.test)
        outcome = pretrain("contrastive", contrastive.Settings(**IMAGES), training, splits)
        encoder = load_encoder(pathlib.Path(outcome["folder"]) / "encoder")
        (x, y), (vx, vy), (tx, ty) = [
            (features.extract_features(encoder, part), part.column("label")) for part in clean
        ]
        probe = probes.linear_probe(x, y, vx, vy, tx, ty)[0]
        return {"kNN": probes.knn(x, y, tx, ty), "linear probe": float(probe), "images": len(splits.train)}

    arms = {"dirty": f"folder:{work}/dirty", "curated": f"curated:{work}/curated", "clean": f"folder:{work}/clean"}
    measurement.run(arms, run)


def _write_images(work, archive, plan):
    """Writes the clean images and the dirty ones, both with the same validation and test images."""
    random = np.random.default_rng(0)
    with zipfile.ZipFile(archive) as packed:
        every = sorted(name for name in packed.namelist() if name.endswith(".jpg"))
        every = [every[row] for row in random.permutation(len(every))]
        training, test = ([name for name in every if name.split("/")[-3] == part] for part in ("train", "test"))
        chosen = {"train": training[: plan.size], "validation": training[plan.size :][: plan.test // 2]}
        classes = sorted({name.split("/")[-2] for name in every})
        for part, names in (chosen | {"test": test[: plan.test]}).items():
            for name in names:
                kind, content = name.split("/")[-2], packed.read(name)
                copied = part == "train" and kind in classes[:2] and random.random() < 0.5
                for version in ("clean", "dirty"):
                    _save(work / version / part / kind / pathlib.Path(name).name, content)
                for number in range(COPIES if copied else 0):
                    path = work / "dirty" / part / kind / f"{pathlib.Path(name).stem}-{number}.jpg"
                    _save(path, _encoded(Image.open(io.BytesIO(content)), quality=60 + 15 * number))
    for number in range(plan.size // BLANK):
        blank = Image.new("RGB", (32, 32), (number % 256, 40, 200))
        _save(work / "dirty" / "train" / classes[number % len(classes)] / f"blank{number}.jpg", _encoded(blank))


def _save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _encoded(image, quality=90):
    made = io.BytesIO()
    image.save(made, "jpeg", quality=quality)
    return made.getvalue()


def main():
    parts = {"texts": (measure_texts, 3), "epochs": (measure_epochs, 1), "images": (measure_images, 1)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=parts)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--threads", type=int, default=0, help="cores to use; 0 is all")
    parser.add_argument("--seeds", type=int, nargs="*", default=(), help="some of the plan's seeds")
    parser.add_argument("--only-prepare", action="store_true", help="curate, but train nothing")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, in a file of its own")
    asked = parser.parse_args()
    measure, wanted = parts[asked.what]
    if len(asked.paths) != wanted:
        parser.error(f"Expected {wanted} paths. Received: {len(asked.paths)}")
    if asked.threads:
        tf.config.threading.set_intra_op_parallelism_threads(asked.threads)
        tf.config.threading.set_inter_op_parallelism_threads(asked.threads)
    measurement = Measurement(asked.what, asked.seeds, asked.smoke, asked.only_prepare)
    measure(measurement, *asked.paths)
    for line in measurement.table() if measurement.runs() else []:
        print(line)


if __name__ == "__main__":
    main()
