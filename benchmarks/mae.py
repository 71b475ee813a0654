"""Masked autoencoding against the same vision transformer from scratch, and a CNN after equal time.

    python benchmarks/mae.py --data tfds:fashion_mnist --per-class 60
    python benchmarks/mae.py --data folder:cifar10 --per-class 90

A network of 1.2M parameters is pretrained for `--minutes`, and a CNN for the same time with NT-Xent. Then all arms are
fine-tuned with the same four settings for each label seed; one is chosen on a part of the validation split that is at
most as large as the labels. With all labels (`--per-class 0 --seeds 0`) there is one setting. Each run adds its numbers
to benchmarks/mae.json. Recorded runs are not repeated, and an interrupted run resumes from its checkpoint. `--smoke`
runs everything for a few steps, and records nothing.

The steps that fit are measured on idle cores, once: `--only-measure`. Afterwards two of these scripts with different
`--arms` can share the cores.
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
from measuring import Records, steps_within, summary

from ssl_keras import objectives
from ssl_keras.data.sources import load
from ssl_keras.downstream import finetune
from ssl_keras.training.pretrain import pretrain

NETWORK = {"network": "vit", "width": 128, "layers": 6, "patch": 4}  # 1.2M parameters
PRETRAINING = {  # arm: (objective, settings)
    "MAE": ("masked_autoencoder", NETWORK | {"crop": 0.5, "decoder_width": 128, "decoder_layers": 2}),
    "CNN": ("contrastive", {"network": "cnn", "width": 48, "pool_grid": 2, "shift": 0.1, "flip": True}),
}
ARMS = {"MAE": ("MAE", False), "ViT from scratch": ("MAE", True), "CNN": ("CNN", False)}
GRID = [(rate, steps) for rate in (3e-4, 1e-3) for steps in (300, 1000)]
WITH_ALL = [(1e-3, 3000)]  # the only setting with all labels
VIEWS = {"flip": True, "shift": 0.07}
EVALUATIONS = 20  # of a fine-tuning run; the best weights are kept
RECORDS = Records(
    HERE.with_suffix(".json")
)  # {data: {"steps", "pretraining", labels per class: {arm: {label seed: …}}}}


def training_of(asked, module):
    return dataclasses.replace(module.DEFAULTS, data=asked.data, tensorboard=False, epochs=0, resume=True)


def steps_of(asked, splits, arm):
    """Returns the number of steps of an arm's pretraining, which is measured if it is not recorded."""
    name, options = PRETRAINING[arm]
    module = objectives.module(name)
    asked_of = module, module.Settings(**options), training_of(asked, module), splits
    return RECORDS.once(lambda: steps_within(asked.minutes, *asked_of), asked.data, "steps", arm)


def pretrained(asked, splits, arm):
    """Returns the folder of an arm's run, which is made or resumed if it is not there."""
    name, options = PRETRAINING[arm]
    module = objectives.module(name)
    settings = module.Settings(**options)
    known = None if asked.smoke else RECORDS.get(asked.data, "pretraining", arm)
    if known and pathlib.Path(known["folder"]).exists():
        return known["folder"]
    training = training_of(asked, module)
    steps = 3 if asked.smoke else steps_of(asked, splits, arm)
    run = f"mae-{'smoke-' * asked.smoke}{splits.train.short_name}-{arm}"
    warmup = min(training.warmup, max(1, steps // 10))
    outcome = pretrain(name, settings, dataclasses.replace(training, steps=steps, warmup=warmup, run=run), data=splits)
    if not asked.smoke:
        kept = ("folder", "steps", "seconds", "test_loss")
        RECORDS.add({key: outcome[key] for key in kept if key in outcome}, asked.data, "pretraining", arm)
    return outcome["folder"]


def measure(asked, splits, folder, scratch, seed):
    """Fine-tunes with each of the four settings; returns the test accuracy of the one that validation chooses."""
    tried = []
    grid = GRID if asked.per_class else WITH_ALL
    for rate, steps in grid[: 1 if asked.smoke else None]:
        settings = finetune.Settings(
            **VIEWS,
            labels_per_class=asked.per_class,
            label_seed=seed,
            scratch=scratch,
            encoder_lr_ratio=1.0,
        )
        run = f"mae-tuned-{pathlib.Path(folder).name}-{asked.per_class}-{scratch}-{rate}-{steps}-{seed}"
        training = dataclasses.replace(
            finetune.DEFAULTS,
            data=asked.data,
            steps=2 if asked.smoke else steps,
            eval_every=1 if asked.smoke else steps // EVALUATIONS,
            learning_rate=rate,
            schedule="cosine",
            final_rate=0.0,
            warmup=1 if asked.smoke else 30,
            weight_decay=0.05,
            seed=seed,
            run=run,
            resume=True,
            tensorboard=False,
        )
        outcome = finetune.finetune(folder, settings, training, data=splits)
        shutil.rmtree(pathlib.Path(outcome["folder"]) / "checkpoints", ignore_errors=True)
        tried.append(
            {"validation": outcome["best_val_accuracy"], "test": outcome["test_accuracy"], "rate": rate, "steps": steps}
        )
    best = max(tried, key=lambda each: each["validation"])
    return {"accuracy": best["test"], "tried": tried}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="tfds:fashion_mnist", help="labeled images")
    parser.add_argument("--per-class", type=int, default=60, help="labels per class; 0 uses all")
    parser.add_argument("--minutes", type=float, default=45.0, help="of pretraining of each network")
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2, 3, 4), help="label seeds")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--only-measure", action="store_true", help="only how many steps of pretraining fit")
    parser.add_argument("--smoke", action="store_true", help="a few steps of each arm; records nothing")
    asked = parser.parse_args()
    splits = load(asked.data)
    if asked.only_measure:
        for source in PRETRAINING:
            steps_of(asked, splits, source)
        return
    for seed in asked.seeds[: 1 if asked.smoke else None]:
        for arm in asked.arms:
            source, scratch = ARMS[arm]
            keys = (asked.data, str(asked.per_class), arm, str(seed))
            if asked.smoke or RECORDS.get(*keys) is None:
                found = measure(asked, splits, pretrained(asked, splits, source), scratch, seed)
                print(arm, seed, found, flush=True)
                if not asked.smoke:
                    RECORDS.add(found, *keys)
    if not asked.smoke:
        print(summary(RECORDS.get(asked.data, str(asked.per_class)), "ViT from scratch"))


if __name__ == "__main__":
    main()
