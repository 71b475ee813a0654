"""What pretraining is worth on color photographs: contrastive, jigsaw, rotation and scratch, at 10% and all labels.

    python benchmarks/cifar10.py --data folder:cifar10 --minutes 10

Three seeds each. The numbers go into benchmarks/cifar10.json after every run; what is there is not
computed again, and a run that was cut off goes on from its checkpoint. The data: any labeled folder of
small photographs; the numbers in the README are of the first 10,000 training and 2,000 test images of
CIFAR-10, re-encoded as JPEG (quality 75, lossy), of which 9,000 are learned from and 1,000 chosen by.

Pretraining takes so many steps as fit into the minutes at the rate that is measured first, once for
each objective, on the threads that TensorFlow has. `--threads 1` and two of these scripts at once, for
other `--seeds` or `--objectives`, share two cores fairly; `--only-measure` in both of them comes first.
Then `downstream.evaluate` measures the encoders of a seed and scratch alike: a linear probe, and
training with crops, flips and shifts, its learning rate and length chosen on the validation part.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import numpy as np
import tensorflow as tf

from ssl_keras import files, objectives
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import load
from ssl_keras.downstream import grids, report
from ssl_keras.downstream.table import evaluate
from ssl_keras.training.pretrain import pretrain
from ssl_keras.training.run import compile_objective

NETWORK = {"network": "cnn", "width": 16, "pool_grid": 2}  # small, so that ten minutes are many steps
CHANGED = {"crop": 0.3, "flip": True, "color": 0.5, "gray": 0.2}
SETTINGS = {
    "contrastive": CHANGED,
    "jigsaw": {"flip": True, "color": 0.5, "gray": 0.2},
    "rotation": {"crop": 0.5, "flip": True, "color": 0.5},
}
SEEDS = (0, 1, 2)
GRID = grids.Grid((1e-3, 3e-3), (150, 400), (6, 20), 64, 128, (Augmentation(crop=0.5, flip=True, shift=0.1),))
MEASURED_STEPS = 30
RESULT = HERE.with_suffix(".json")


def steps_within(name, settings, training, splits, seconds):
    """How many steps of training fit into the time, as measured after the first ones."""
    module = objectives.module(name)
    settings, splits = module.prepare(settings, splits)
    objective = module.build(settings, splits.train.spec())
    compile_objective(objective, dataclasses.replace(training, steps=1000), splits)
    batches = Batches(splits.train, training.batch_size, preprocess=objective.preprocess)
    objective.fit(batches.dataset(), steps_per_epoch=3, verbose=0)
    started = time.perf_counter()
    objective.fit(batches.dataset(3), steps_per_epoch=MEASURED_STEPS, verbose=0)
    return max(1, int(seconds * MEASURED_STEPS / (time.perf_counter() - started)))


def results():
    """What is in the file."""
    return json.loads(RESULT.read_text()) if RESULT.exists() else {"steps": {}, "pretraining": {}, "tables": {}}


def note(part, key, value):
    """Adds to the file, where another of these scripts may have written in between."""
    known = results()
    known[part][key] = value
    files.write_json(RESULT, known)


def asked_of(name):
    """How an objective is pretrained here: (settings, training)."""
    module = objectives.module(name)
    return module.Settings(**NETWORK, **SETTINGS[name]), dataclasses.replace(module.DEFAULTS, epochs=0, report_every=0)


def pretrained(name, seed, splits):
    """The folder of an encoder that was pretrained for the steps that are noted; where it was cut off, it goes on."""
    settings, training = asked_of(name)
    steps = results()["steps"][name]
    training = dataclasses.replace(
        training, steps=steps, eval_every=max(1, steps // 10), seed=seed, run=f"cifar10-{name}-{seed}", resume=True
    )
    if f"{name}, seed {seed}" not in results()["pretraining"]:
        outcome = pretrain(name, settings, training, data=splits)
        note("pretraining", f"{name}, seed {seed}", {k: outcome[k] for k in ("seconds", "test_loss")})
    return f"runs/{training.run}"


def summary(tables):
    """{row: {column: (mean, sd) over seeds}}; rows are named without their seeds."""
    gathered = {}
    for seed, table in tables.items():
        for row, columns in table.items():
            name = row.replace("cifar10-", "").replace(f"-{seed},", ",")
            for column, (mean, _) in columns.items():
                gathered.setdefault(name, {}).setdefault(column, []).append(mean)

    def mean_sd(values):
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    return {row: {column: mean_sd(v) for column, v in each.items()} for row, each in gathered.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="labeled images, folder:PATH")
    parser.add_argument("--minutes", type=float, default=10.0, help="of pretraining each encoder")
    parser.add_argument("--threads", type=int, default=0, help="cores to use; 0 is all")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--objectives", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--only-measure", action="store_true", help="only how many steps fit")
    parser.add_argument("--only-pretrain", action="store_true", help="no tables yet")
    asked = parser.parse_args()
    if asked.threads:
        tf.config.threading.set_intra_op_parallelism_threads(asked.threads)
        tf.config.threading.set_inter_op_parallelism_threads(asked.threads)
    splits = load(asked.data)
    per_class = len(splits.train) // (10 * len(splits.train.classes))  # 10% of the labels
    for name in asked.objectives:
        if name not in results()["steps"]:
            note("steps", name, steps_within(name, *asked_of(name), splits, 60 * asked.minutes))
    if asked.only_measure:
        return
    for seed in asked.seeds:
        encoders = [pretrained(name, seed, splits) for name in asked.objectives]
        if str(seed) not in results()["tables"] and not asked.only_pretrain:
            note("tables", str(seed), evaluate(encoders, splits, (per_class,), (seed,), grid=GRID))
    if results()["tables"]:
        print(report.markdown(summary(results()["tables"])))


if __name__ == "__main__":
    main()
