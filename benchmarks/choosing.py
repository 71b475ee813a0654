"""The self-supervised task for a kind of data: every objective for a few minutes on every dataset, features frozen.

    python benchmarks/choosing.py                     # 72 runs of 5 minutes, and what is around them
    python benchmarks/choosing.py --kind text         # one kind of data
    python benchmarks/choosing.py --smoke             # 8 steps on one dataset of each kind, in a file of its own

The measures are those of `ssl-keras choose`, by the same functions: a linear probe and neighbors on 10 labels per class
over label seeds 0 to 4, RankMe, LiDAR and the held-out loss. Beside each objective stands its untrained network, and
beside each dataset the features without a network. Nothing is chosen by any of these numbers: all objectives have their
default settings and a constant learning rate, and the test splits are not read.

The steps of a run follow from the minutes and its speed, which is measured once for each objective and dataset: on idle
cores with `--only-measure`; then two of these scripts with different `--seeds` or `--data` can share the cores. Each
run is added to choosing.json when it ends and is not repeated; a killed run resumes with the steps that were planned.
The minutes are those of the steps alone; loading, tracing, held-out evaluations and measuring come on top. At the end
the rank correlation (Spearman) of each measure with the probe is computed, over the objectives of each dataset.

$TFDS_DATA_DIR has the datasets of TFDS; $SSL_KERAS_DATA has cifar10_jpg, emoji_pairs, sms_spam and voices. CIFAR-10 is
its first 10,000 training images, re-encoded as JPEG (lossy).
"""

import argparse
import ast
import collections
import csv
import io
import json
import logging
import os
import pathlib
import platform
import sys
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import numpy as np
from measuring import Records
from PIL import Image
from scipy import stats

from ssl_keras import files, objectives
from ssl_keras.choosing.arms import ARMS
from ssl_keras.choosing.baselines import untrained
from ssl_keras.choosing.runs import Runs
from ssl_keras.choosing.yardstick import Yardstick
from ssl_keras.data.sources import load
from ssl_keras.data.splits import from_arrays

PER_CLASS, LABEL_SEEDS, SEEDS = 10, range(5), (0, 1)
PILOT_SECONDS, SMOKE_STEPS = 10.0, 8
EVALUATIONS = 10  # held-out evaluations of a run
SIDE, PITCH, BORDER, EMOJI_SIDE = 64, 66, 1, 32  # pixels of a tile of the sprite sheet
MIN_CATEGORY = 50  # emoji of a category
MIN_RECORDINGS = 20  # of a speaker
SHORTEST, MIN_DOCSTRINGS, MODULES = 40, 100, 8  # characters; docstrings of a package; packages
WORK = pathlib.Path("results/choosing")
MEASURES = {"RankMe": 1, "LiDAR": 1, "kNN": 1, "loss": -1}  # sign: whether larger is better


def data_folder(name):
    return pathlib.Path(os.environ.get("SSL_KERAS_DATA", "data")) / name


def unzipped(archive, name, at_least=1):
    """Returns a folder with the classes of a zip file that have `at_least` files, unzipped once below the data."""
    folder = WORK / "data" / name
    if not folder.exists():
        with files.new_folder(folder) as partial, zipfile.ZipFile(data_folder(archive)) as packed:
            members = [member for member in packed.namelist() if not member.endswith("/")]
            sizes = collections.Counter(os.path.dirname(member) for member in members)
            packed.extractall(partial, [member for member in members if sizes[os.path.dirname(member)] >= at_least])
    return folder


def table(name, rows):
    """Writes (text, label) rows as a table, once; returns its `Splits`."""
    path, content = WORK / "data" / f"{name}.csv", io.StringIO()
    csv.writer(content).writerows([("text", "label"), *rows])
    files.make_folder(path.parent)
    files.write(path, content.getvalue())
    return load(f"table:{path}")


def sms():
    lines = (data_folder("sms_spam") / "SMSSpamCollection").read_text("utf-8").splitlines()[1:]
    return table("sms", ((text, label) for label, _, text in (line.partition("\t") for line in lines)))


def python_documentation():
    """The docstrings of the standard library's largest packages; the label is the package."""
    root, found = pathlib.Path(os.__file__).parent, {}
    for path in sorted(root.glob("*/**/*.py")):
        package, *inner = path.relative_to(root).parts
        if package in ("site-packages", "test", "idlelib", "lib2to3") or {"test", "tests"} & set(inner):
            continue
        tree = ast.parse(path.read_text("utf-8", errors="replace"))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))
        found.setdefault(package, []).extend(text for text in texts if len(text) >= SHORTEST)
    largest = sorted((name for name in found if len(found[name]) >= MIN_DOCSTRINGS), key=lambda name: -len(found[name]))
    return table("pydoc", ((text, name) for name in sorted(largest[:MODULES]) for text in found[name]))


def emoji():
    """Emoji drawings on white; the label is the category, of which the small ones are left out."""
    folder = data_folder("emoji_pairs")
    sheet = Image.open(folder / "google_sheet_256col_64px.png").convert("RGBA")
    rows = [json.loads(line) for line in (folder / "emoji.jsonl").read_text("utf-8").splitlines()]
    sizes = collections.Counter(row["category"] for row in rows)
    rows, images = [row for row in rows if sizes[row["category"]] >= MIN_CATEGORY], []
    for row in rows:
        x, y = (PITCH * row[f"sheet_{axis}"] + BORDER for axis in "xy")
        tile = Image.new("RGBA", (SIDE, SIDE), "white")
        tile.alpha_composite(sheet.crop((x, y, x + SIDE, y + SIDE)))
        images.append(np.asarray(tile.convert("RGB").resize((EMOJI_SIDE, EMOJI_SIDE), Image.Resampling.BOX)))
    classes = sorted({row["category"] for row in rows})
    label = [classes.index(row["category"]) for row in rows]
    return from_arrays(np.stack(images), label, classes=classes, name="emoji")


DATA = {
    "image": {
        "digits": lambda: load("digits"),
        "fashion_mnist": lambda: load("tfds:fashion_mnist"),
        "cifar10": lambda: load(f"folder:{unzipped('cifar10_jpg/cifar10_jpg_10k.zip', 'cifar10')}"),
        "bangla": lambda: load("tfds:cmaterdb/bangla"),
        "emoji": emoji,
    },
    "text": {"sms": sms, "trec": lambda: load("tfds:trec"), "pydoc": python_documentation},
    "waveform": {
        "spoken_digit": lambda: load("tfds:spoken_digit[*_theo_*]"),
        "speakers": lambda: load(f"audio:{unzipped('voices/voices.zip', 'voices', MIN_RECORDINGS)}"),
    },
}
OBJECTIVES = {
    "image": ("autoencoder", "rotation", "jigsaw", "contrastive", "masked_autoencoder"),
    "text": ("causal_lm", "masked_lm", "sentence"),
    "waveform": ("wav2vec2",),
}


def measure_run(results, runs, name, data, asked):
    """Measures an objective on a dataset with one seed, and its untrained network."""
    key = f"{data}, {name}, seed {runs.seed}"
    if results.get("runs", key):
        return

    def plan():
        speed = runs.pilot(name)
        steps = SMOKE_STEPS if asked.smoke else max(EVALUATIONS, int(60 * asked.minutes / speed.step))
        every = max(1, steps // EVALUATIONS)
        return {"steps": every * (steps // every), "every": every, "step": speed.step, "overhead": speed.overhead}

    known = results.once(plan, "plans", f"{data}, {name}")
    if asked.only_measure:
        return
    if not runs.encoder(name, pilot=True).exists():
        runs.pilot(name)
    results.once(lambda: untrained(runs.yardstick, runs.encoder(name, pilot=True), runs.seed), "untrained", key)

    def train():
        measured = runs.train(name, known["steps"], known["every"], known["step"])
        return measured | {"steps": known["steps"], "command": runs.command(name, known["steps"], known["every"])}

    results.once(train, "runs", key)


def measure_data(results, kind, data, asked):
    """Measures the objectives of a kind on a dataset."""
    listed = {arm.name: arm for arm in ARMS[kind]}
    arms = [listed[name] for name in OBJECTIVES[kind] if name in objectives.names()]
    for name in OBJECTIVES[kind]:
        if name not in objectives.names():
            print(f"{data}, {name}: this version has no such objective, so it is left out.", flush=True)
    splits = DATA[kind][data]()
    yardstick = Yardstick(splits, PER_CLASS, LABEL_SEEDS, views=True)
    results.once(lambda: dict([yardstick.of_baseline()]), "baselines", data)
    for seed in asked.seeds[: 1 if asked.smoke or asked.only_measure else None]:
        for arm in arms[:1] if asked.smoke else arms:
            folder = WORK / ("smoke" if asked.smoke else "runs") / f"{data}-{seed}"
            seconds = 0.5 if asked.smoke else PILOT_SECONDS
            runs = Runs(folder, splits, splits.train.base, None, [arm], yardstick, seed, seconds)
            measure_run(results, runs, arm.name, data, asked)


def correlations(runs):
    """Returns {dataset: {measure: Spearman's correlation with the probe over objectives and seeds}}.

    The held-out losses of different objectives are in different units; theirs shows what comparing them would give.
    Datasets with fewer than three objectives have none.
    """
    found, grouped = {}, {}
    for key, run in runs.items():
        data, objective, _ = key.split(", ")
        grouped.setdefault(data, []).append((objective, run))
    for data, rows in grouped.items():
        if len({objective for objective, _ in rows}) < 3:
            continue
        probe = [np.mean(run["probe"]) for _, run in rows]
        found[data] = {
            name: float(stats.spearmanr([sign * np.mean(run[name]) for _, run in rows], probe).statistic)
            for name, sign in MEASURES.items()
        }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=list(DATA), help="one kind of data; by default all")
    parser.add_argument("--data", nargs="*", help="datasets, by their names in DATA; by default all")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS, help="pretraining seeds")
    parser.add_argument("--only-measure", action="store_true", help="only the speeds, and the rows without training")
    parser.add_argument("--minutes", type=float, default=5.0, help="training time of each run (default: 5)")
    parser.add_argument(
        "--smoke", action="store_true", help="8 steps on one dataset of each kind, in a file of its own"
    )
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    files.make_folder(WORK)
    results = Records(WORK / "smoke.json" if asked.smoke else HERE.with_suffix(".json"))
    about = {
        "minutes": asked.minutes,
        "per_class": PER_CLASS,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    known = results.once(lambda: about, "about")
    if known["minutes"] != asked.minutes:
        sys.exit(f"{results.path} has runs of {known['minutes']:g} minutes. Move it away.")
    for kind in [asked.kind] if asked.kind else DATA:
        for data in list(DATA[kind])[:1] if asked.smoke else DATA[kind]:
            if not asked.data or data in asked.data:
                measure_data(results, kind, data, asked)
    results.add(correlations(results.get("runs") or {}), "correlations")
    print(json.dumps(results.get("correlations"), indent=2))


if __name__ == "__main__":
    main()
