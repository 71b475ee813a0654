"""Pretraining against scratch on color photographs: contrastive, jigsaw and rotation, with 10% and with all labels.

    python benchmarks/cifar10.py --data folder:cifar10 --minutes 10

Three seeds each. Each run adds its numbers to benchmarks/cifar10.json; recorded numbers are not measured again,
and an interrupted run resumes from its checkpoint. The data are any labeled folder of small photographs. The
numbers in docs/results.md use the first 10,000 training and 2,000 test images of CIFAR-10, re-encoded as JPEG
(quality 75, lossy): 9,000 for training and 1,000 for validation.

The number of pretraining steps follows from the minutes and the rate, which is measured once per objective. Two of
these scripts with `--threads 1` and different `--seeds` or `--objectives` share two cores fairly; run both with
`--only-measure` first. `downstream.evaluate` then measures the encoders of a seed, and scratch: a linear probe, and
training with crops, flips and shifts, whose learning rate and length are chosen on the validation split.
"""

import argparse
import dataclasses
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import numpy as np
import tensorflow as tf
from measuring import Records, steps_within

from ssl_keras import objectives
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.sources import load
from ssl_keras.downstream import grids, report
from ssl_keras.downstream.table import evaluate
from ssl_keras.training.pretrain import pretrain

NETWORK = {"network": "cnn", "width": 16, "pool_grid": 2}  # small, so that ten minutes are many steps
CHANGED = {"crop": 0.3, "flip": True, "color": 0.5, "gray": 0.2}
SETTINGS = {
    "contrastive": CHANGED,
    "jigsaw": {"flip": True, "color": 0.5, "gray": 0.2},
    "rotation": {"crop": 0.5, "flip": True, "color": 0.5},
}
SEEDS = (0, 1, 2)
GRID = grids.Grid((1e-3, 3e-3), (150, 400), (6, 20), 64, 128, (Augmentation(crop=0.5, flip=True, shift=0.1),))
RECORDS = Records(HERE.with_suffix(".json"))


def asked_of(name):
    """Returns (settings, training) of an objective."""
    module = objectives.module(name)
    return module.Settings(**NETWORK, **SETTINGS[name]), dataclasses.replace(module.DEFAULTS, epochs=0, report_every=0)


def pretrained(name, seed, splits):
    """Pretrains an encoder for the recorded number of steps, or resumes it; returns its folder."""
    settings, training = asked_of(name)
    steps = RECORDS.get("steps", name)
    training = dataclasses.replace(
        training, steps=steps, eval_every=max(1, steps // 10), seed=seed, run=f"cifar10-{name}-{seed}", resume=True
    )
    if RECORDS.get("pretraining", f"{name}, seed {seed}") is None:
        outcome = pretrain(name, settings, training, data=splits)
        RECORDS.add({k: outcome[k] for k in ("seconds", "test_loss")}, "pretraining", f"{name}, seed {seed}")
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
        settings, training = asked_of(name)
        module = objectives.module(name)
        RECORDS.once(lambda at=(module, settings, training): steps_within(asked.minutes, *at, splits), "steps", name)
    if asked.only_measure:
        return
    for seed in asked.seeds:
        encoders = [pretrained(name, seed, splits) for name in asked.objectives]
        if RECORDS.get("tables", str(seed)) is None and not asked.only_pretrain:
            RECORDS.add(evaluate(encoders, splits, (per_class,), (seed,), grid=GRID), "tables", str(seed))
    if RECORDS.get("tables"):
        print(report.markdown(summary(RECORDS.get("tables"))))


if __name__ == "__main__":
    main()
