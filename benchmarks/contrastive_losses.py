"""kNN accuracy of contrastive losses after equal time: nt_xent, vicreg, lejepa, and the better two with multi-crop.

    python benchmarks/contrastive_losses.py --data tfds:fashion_mnist --minutes 10
    python benchmarks/contrastive_losses.py --data folder:cifar10 --minutes 10
    python benchmarks/contrastive_losses.py --data tfds:fashion_mnist --minutes 30 --seeds 0 1 2 --arms nt_xent lejepa

Neighbors are of the training split, queries of the validation split; the test split is not looked at. Each run adds its
accuracy to benchmarks/contrastive_losses.json. Recorded runs are not repeated, and an interrupted run resumes from its
checkpoint. The number of steps follows from the minutes and the rate, which is measured once for each arm: on idle
cores with `--only-measure`; then two of these scripts with different `--seeds` or `--arms` can share the cores.
Each arm has the defaults of its loss; nothing is chosen. `--smoke` runs each arm for a few steps, and records nothing.
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
from measuring import Records, steps_within

from ssl_keras import encoders
from ssl_keras.data.sources import load
from ssl_keras.evaluation import collapse, probes
from ssl_keras.evaluation.features import extract_features
from ssl_keras.objectives import contrastive
from ssl_keras.training.pretrain import pretrain

NETWORK = {"network": "cnn", "width": 48}  # 0.8M parameters
MULTI_CROP = {"local_views": 4}
LOSSES = {
    "nt_xent": {"loss": "nt_xent"},
    "vicreg": {"loss": "vicreg", "projection": (512, 512)},
    "lejepa": {"loss": "lejepa"},
}
ARMS = LOSSES | {f"{name}, multi-crop": options | MULTI_CROP for name, options in LOSSES.items()}
RECORDS = Records(HERE.with_suffix(".json"))  # {data: {minutes: {arm: {"steps", seed: {"knn", "rankme", …}}}}}


def steps_of(asked, splits, arm):
    """Returns (settings, training without steps, the number of steps that fit, measured if it is not recorded)."""
    settings = contrastive.Settings(**NETWORK, **ARMS[arm])
    training = dataclasses.replace(contrastive.DEFAULTS, data=asked.data, epochs=0)
    if asked.smoke:
        return settings, training, 3
    place = asked.data, f"{asked.minutes:g}", arm, "steps"
    known = RECORDS.once(lambda: steps_within(asked.minutes, contrastive, settings, training, splits), *place)
    return settings, training, known


def measure(asked, splits, arm, seed):
    """Pretrains, or resumes it; returns {"knn", "rankme", "seconds", "steps"}."""
    settings, training, steps = steps_of(asked, splits, arm)
    smoke = "smoke-" * asked.smoke
    training = dataclasses.replace(
        training,
        steps=steps,
        warmup=min(training.warmup, max(1, steps // 10)),
        seed=seed,
        tensorboard=False,
        resume=True,
        run=f"losses-{smoke}{splits.train.short_name}-{asked.minutes:g}-{arm.replace(', ', '-')}-{seed}",
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
    parser.add_argument("--only-measure", action="store_true", help="only how many steps fit")
    parser.add_argument("--smoke", action="store_true", help="a few steps of each arm; records nothing")
    asked = parser.parse_args()
    splits, minutes = load(asked.data), f"{asked.minutes:g}"
    if asked.only_measure:
        for arm in asked.arms:
            steps_of(asked, splits, arm)
        return
    for seed in asked.seeds[: 1 if asked.smoke else None]:
        for arm in asked.arms:
            if asked.smoke:
                print(arm, measure(asked, splits, arm, seed), flush=True)
            else:
                place = asked.data, minutes, arm, str(seed)
                RECORDS.once(lambda at=(arm, seed): measure(asked, splits, *at), *place)
    if not asked.smoke:
        print(table(RECORDS.get(asked.data, minutes)))


if __name__ == "__main__":
    main()
