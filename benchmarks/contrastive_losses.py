"""kNN accuracy of contrastive losses after equal time: nt_xent, vicreg, lejepa, and the better two with multi-crop.

    python benchmarks/contrastive_losses.py --data tfds:fashion_mnist --minutes 10
    python benchmarks/contrastive_losses.py --data folder:cifar10 --minutes 10
    python benchmarks/contrastive_losses.py --data tfds:fashion_mnist --minutes 30 --seeds 0 1 2 --arms nt_xent lejepa

Neighbors are of the training split, queries of the validation split; the test split is not looked at. Each run adds its
accuracy to benchmarks/contrastive_losses.json. Recorded runs are not repeated, and an interrupted run resumes from its
checkpoint. The number of steps follows from the minutes and the rate, which is measured once for each arm. Each arm has
the defaults of its loss; nothing is chosen. `--smoke` runs each arm for a few steps, and records nothing.
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

from ssl_keras import encoders, files
from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import load
from ssl_keras.evaluation import collapse, probes
from ssl_keras.evaluation.features import extract_features
from ssl_keras.objectives import contrastive
from ssl_keras.training.pretrain import pretrain
from ssl_keras.training.run import compile_objective

NETWORK = {"network": "cnn", "width": 48}  # 0.8M parameters
MULTI_CROP = {"local_views": 4}
LOSSES = {
    "nt_xent": {"loss": "nt_xent"},
    "vicreg": {"loss": "vicreg", "projection": (512, 512)},
    "lejepa": {"loss": "lejepa"},
}
ARMS = LOSSES | {f"{name}, multi-crop": options | MULTI_CROP for name, options in LOSSES.items()}
MEASURED_STEPS = 30
RESULT = HERE.with_suffix(".json")


def results():
    """Returns {data: {minutes: {arm: {"steps": …, seed: {"knn", "rankme", "seconds"}}}}}."""
    return json.loads(RESULT.read_text()) if RESULT.exists() else {}


def arm_of(data, minutes, arm):
    """Returns what is recorded of an arm."""
    return results().get(data, {}).get(minutes, {}).get(arm, {})


def note(data, minutes, arm, key, value):
    """Adds to the file, where another of these scripts may have written in between."""
    known = results()
    known.setdefault(data, {}).setdefault(minutes, {}).setdefault(arm, {})[key] = value
    files.write_json(RESULT, known)


def steps_within(settings, splits, seconds):
    """Returns the number of training steps that fit into the time, from a measured rate."""
    objective = contrastive.build(settings, splits.train.spec())
    compile_objective(objective, dataclasses.replace(contrastive.DEFAULTS, epochs=0, steps=1000), splits)
    batches = Batches(splits.train, contrastive.DEFAULTS.batch_size, preprocess=objective.preprocess)
    objective.fit(batches.dataset(), steps_per_epoch=3, verbose=0)
    started = time.perf_counter()
    objective.fit(batches.dataset(3), steps_per_epoch=MEASURED_STEPS, verbose=0)
    return max(1, int(seconds * MEASURED_STEPS / (time.perf_counter() - started)))


def measure(asked, splits, arm, seed):
    """Pretrains, or resumes it; returns {"knn", "rankme", "seconds", "steps"}."""
    settings, minutes = contrastive.Settings(**NETWORK, **ARMS[arm]), f"{asked.minutes:g}"
    steps = 3 if asked.smoke else arm_of(asked.data, minutes, arm).get("steps")
    if steps is None:
        steps = steps_within(settings, splits, 60 * asked.minutes)
        note(asked.data, minutes, arm, "steps", steps)
    smoke = "smoke-" * asked.smoke
    training = dataclasses.replace(
        contrastive.DEFAULTS,
        data=asked.data,
        epochs=0,
        steps=steps,
        warmup=min(contrastive.DEFAULTS.warmup, max(1, steps // 10)),
        seed=seed,
        tensorboard=False,
        resume=True,
        run=f"losses-{smoke}{splits.train.short_name}-{minutes}-{arm.replace(', ', '-')}-{seed}",
    )
    outcome = pretrain("contrastive", settings, training, data=splits)
    network = encoders.load_encoder(outcome["folder"])
    train, validation = (extract_features(network, part) for part in (splits.train, splits.validation))
    labels = (part.column("label") for part in (splits.train, splits.validation))
    train_label, validation_label = labels
    return {
        "knn": probes.knn(train, train_label, validation, validation_label),
        "rankme": collapse.rankme(validation),
        "seconds": outcome["seconds"],
        "steps": outcome["step"],
    }


def table(arms):
    """Returns Markdown: the mean and the range over seeds."""
    lines = ["| loss | kNN accuracy, % | range | RankMe | steps | seeds |", "|---|---:|---:|---:|---:|---:|"]
    for arm, known in arms.items():
        runs = [value for key, value in known.items() if key != "steps"]
        if runs:
            scores = [100 * run["knn"] for run in runs]
            rank, steps = np.mean([run["rankme"] for run in runs]), runs[0]["steps"]
            lines.append(
                f"| {arm} | {np.mean(scores):.1f} | {min(scores):.1f} – {max(scores):.1f} | {rank:.0f} | {steps:,} | "
                f"{len(runs)} |"
            )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="tfds:fashion_mnist", help="labeled images")
    parser.add_argument("--minutes", type=float, default=10.0, help="of pretraining")
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1))
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(LOSSES))
    parser.add_argument("--smoke", action="store_true", help="a few steps of each arm; records nothing")
    asked = parser.parse_args()
    splits, minutes = load(asked.data), f"{asked.minutes:g}"
    for seed in asked.seeds[: 1 if asked.smoke else None]:
        for arm in asked.arms:
            if asked.smoke:
                print(arm, measure(asked, splits, arm, seed), flush=True)
            elif str(seed) not in arm_of(asked.data, minutes, arm):
                note(asked.data, minutes, arm, str(seed), measure(asked, splits, arm, seed))
    if not asked.smoke:
        print(table(results()[asked.data][minutes]))


if __name__ == "__main__":
    main()
