"""Few labels: what fine-tuning, its switches and unlabeled images are worth, with and without pretraining.

    python benchmarks/few_labels.py --data tfds:fashion_mnist --encoder contrastive-fashion_mnist --per-class 10

Each run adds its test accuracy to benchmarks/few_labels.json. Recorded runs are not repeated, and an interrupted run
resumes from its checkpoint. Nothing is chosen: all arms have fixed settings. What the semi-supervised ones have was
chosen on the validation split of Fashion-MNIST with label seed 5, which is not measured here.

An arm takes, on 2 cores and Fashion-MNIST, about 40 s without and 6 minutes with unlabeled images for each label seed.
`--smoke` runs every arm for a few steps, and records nothing.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
from measuring import Records, summary

from ssl_keras import encoders
from ssl_keras.data.sources import load
from ssl_keras.downstream import finetune
from ssl_keras.encoders import card as cards
from ssl_keras.objectives import freematch

VIEWS = {"flip": True, "shift": 0.07}
TUNED = {"encoder_lr_ratio": 1.0}
ARMS = {
    "scratch": TUNED | {"scratch": True},
    "fine-tuned": TUNED,
    "probe init": TUNED | {"probe_init": True},
    "layer decay": TUNED | {"layer_decay": 0.65},
    "averaged": TUNED | {"ema_decay": 0.99},
    "all three": TUNED | {"probe_init": True, "layer_decay": 0.65, "ema_decay": 0.99},
    "scratch, semi-supervised": {"unlabeled": True, "scratch": True},
    "semi-supervised": {"unlabeled": True, "probe_init": True},
}
SUPERVISED = dataclasses.replace(finetune.DEFAULTS, steps=400, schedule="cosine", final_rate=0.0)
SEMI_SUPERVISED = freematch.DEFAULTS
RECORDS = Records(HERE.with_suffix(".json"))  # {data and encoder: {labels per class: {arm: {label seed: …}}}}


def measure(asked, splits, arm, seed):
    """Fine-tunes as the arm says, or resumes it; returns {"accuracy", "seconds", "steps"}."""
    options = dict(ARMS[arm])
    unlabeled = options.pop("unlabeled", False)
    settings = finetune.Settings(
        **VIEWS, **options, labels_per_class=asked.per_class, label_seed=seed, unlabeled=asked.data if unlabeled else ""
    )
    training = SEMI_SUPERVISED if unlabeled else SUPERVISED
    if asked.smoke:
        training = dataclasses.replace(training, steps=2, warmup=1)
    training = dataclasses.replace(
        training,
        data=asked.data,
        run=f"few-{splits.train.short_name}-{asked.per_class}-{arm.replace(', ', '-').replace(' ', '-')}-{seed}",
        tensorboard=False,
        resume=True,
        seed=seed,
    )
    outcome = finetune.finetune(asked.encoder, settings, training, data=splits)
    shutil.rmtree(pathlib.Path(outcome["folder"]) / "checkpoints")  # the accuracy is recorded, and they are large
    found = {"accuracy": outcome["test_accuracy"], "seconds": outcome["seconds"], "steps": outcome["step"]}
    return found | {key: outcome[key] for key in ("used_fraction", "val_pseudo_accuracy") if key in outcome}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="tfds:fashion_mnist", help="labeled images")
    parser.add_argument("--encoder", default="contrastive-fashion_mnist", help="saved encoder")
    parser.add_argument("--per-class", type=int, default=10, help="labels per class")
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2, 3, 4), help="label seeds")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--smoke", action="store_true", help="a few steps of each arm; records nothing")
    asked = parser.parse_args()
    splits = load(asked.data)
    name = cards.read(encoders.find(asked.encoder))["name"]
    key, per_class = f"{splits.train.short_name}, {name}", str(asked.per_class)
    for seed in asked.seeds:
        for arm in asked.arms:
            if asked.smoke:
                print(arm, measure(asked, splits, arm, seed))
            else:
                RECORDS.once(lambda at=(arm, seed): measure(asked, splits, *at), key, per_class, arm, str(seed))
    if not asked.smoke:
        print(summary(RECORDS.get(key, per_class), "scratch"))


if __name__ == "__main__":
    main()
