"""Masked autoencoding against the same vision transformer from scratch, and a CNN after equal time.

    python benchmarks/mae.py --data tfds:fashion_mnist --per-class 60
    python benchmarks/mae.py --data folder:cifar10 --per-class 90

A network of 1.2M parameters is pretrained for `--minutes`, and a CNN for the same time with NT-Xent. Then all arms are
fine-tuned with the same four settings for each label seed; one is chosen on a part of the validation split that is at
most as large as the labels. Each run adds its numbers to benchmarks/mae.json. Recorded runs are not repeated, and an
interrupted run resumes from its checkpoint. `--smoke` runs everything for a few steps, and records nothing.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import numpy as np

from ssl_keras import files, objectives
from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import load
from ssl_keras.downstream import finetune
from ssl_keras.evaluation.paired import paired_difference
from ssl_keras.training.pretrain import pretrain
from ssl_keras.training.run import compile_objective

NETWORK = {"network": "vit", "width": 128, "layers": 6, "patch": 4}  # 1.2M parameters
PRETRAINING = {  # arm: (objective, settings)
    "MAE": ("masked_autoencoder", NETWORK | {"crop": 0.5, "decoder_width": 128, "decoder_layers": 2}),
    "CNN": ("contrastive", {"network": "cnn", "width": 48, "pool_grid": 2, "shift": 0.1, "flip": True}),
}
ARMS = {"MAE": ("MAE", False), "ViT from scratch": ("MAE", True), "CNN": ("CNN", False)}
GRID = [(rate, steps) for rate in (3e-4, 1e-3) for steps in (300, 1000)]
VIEWS = {"flip": True, "shift": 0.07}
MEASURED_STEPS = 30
RESULT = HERE.with_suffix(".json")


def results():
    """Returns {data: {"steps": …, "pretraining": …, labels per class: {arm: {label seed: …}}}}."""
    return json.loads(RESULT.read_text()) if RESULT.exists() else {}


def note(value, *keys):
    """Adds a value to the file, where another of these scripts may have written in between."""
    known = place = results()
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value
    files.write_json(RESULT, known)


def recorded(*keys):
    """Returns a value of the file, or None."""
    place = results()
    for key in keys:
        place = place.get(key, {})
    return place or None


def steps_within(module, settings, training, splits, seconds):
    """Returns the number of training steps that fit into the time, from a measured rate."""
    settings, splits = module.prepare(settings, splits)
    objective = module.build(settings, splits.train.spec())
    compile_objective(objective, dataclasses.replace(training, steps=1000, epochs=0), splits)
    batches = Batches(splits.train, training.batch_size, preprocess=objective.preprocess)
    objective.fit(batches.dataset(), steps_per_epoch=3, verbose=0)
    started = time.perf_counter()
    objective.fit(batches.dataset(3), steps_per_epoch=MEASURED_STEPS, verbose=0)
    return max(1, int(seconds * MEASURED_STEPS / (time.perf_counter() - started)))


def pretrained(asked, splits, arm):
    """Returns the folder of an arm's run, which is made or resumed if it is not there."""
    name, options = PRETRAINING[arm]
    module = objectives.module(name)
    settings = module.Settings(**options)
    known = None if asked.smoke else recorded(asked.data, "pretraining", arm)
    if known and pathlib.Path(known["folder"]).exists():
        return known["folder"]
    training = dataclasses.replace(module.DEFAULTS, data=asked.data, tensorboard=False, epochs=0, resume=True)
    steps = recorded(asked.data, "steps", arm)
    if asked.smoke:
        steps = 3
    elif steps is None:
        steps = steps_within(module, settings, training, splits, 60 * asked.minutes)
        note(steps, asked.data, "steps", arm)
    run = f"mae-{'smoke-' * asked.smoke}{splits.train.short_name}-{arm}"
    warmup = min(training.warmup, max(1, steps // 10))
    outcome = pretrain(name, settings, dataclasses.replace(training, steps=steps, warmup=warmup, run=run), data=splits)
    if not asked.smoke:
        kept = ("folder", "steps", "seconds", "test_loss")
        note({key: outcome[key] for key in kept if key in outcome}, asked.data, "pretraining", arm)
    return outcome["folder"]


def measure(asked, splits, folder, scratch, seed):
    """Fine-tunes with each of the four settings; returns the test accuracy of the one that validation chooses."""
    tried = []
    for rate, steps in GRID[: 1 if asked.smoke else None]:
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
            {"validation": outcome["val_accuracy"], "test": outcome["test_accuracy"], "rate": rate, "steps": steps}
        )
    best = max(tried, key=lambda each: each["validation"])
    return {"accuracy": best["test"], "tried": tried}


def table(arms, baseline="ViT from scratch"):
    """Returns Markdown: mean ± standard deviation over label seeds, and the paired difference to the baseline."""
    lines = [f"| arm | test accuracy, % | difference to {baseline} | seeds |", "|---|---:|---:|---:|"]
    for arm, seeds in arms.items():
        scores = [100 * each["accuracy"] for each in seeds.values()]
        shared = [seed for seed in seeds if seed in arms.get(baseline, {})]
        text = "–"
        if shared and arm != baseline:
            pair = ([100 * arms[name][seed]["accuracy"] for seed in shared] for name in (arm, baseline))
            found = paired_difference(*pair)
            text = f"{found.mean:+.1f}"
            text += "" if found.interval is None else " [{:+.1f}, {:+.1f}]".format(*found.interval)
        sd = f" ± {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
        lines.append(f"| {arm} | {np.mean(scores):.1f}{sd} | {text} | {len(scores)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="tfds:fashion_mnist", help="labeled images")
    parser.add_argument("--per-class", type=int, default=60, help="labels per class; 0 uses all")
    parser.add_argument("--minutes", type=float, default=45.0, help="of pretraining of each network")
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2, 3, 4), help="label seeds")
    parser.add_argument("--smoke", action="store_true", help="a few steps of each arm; records nothing")
    asked = parser.parse_args()
    splits = load(asked.data)
    for seed in asked.seeds[: 1 if asked.smoke else None]:
        for arm, (source, scratch) in ARMS.items():
            keys = (asked.data, str(asked.per_class), arm, str(seed))
            if asked.smoke or recorded(*keys) is None:
                found = measure(asked, splits, pretrained(asked, splits, source), scratch, seed)
                print(arm, seed, found, flush=True)
                if not asked.smoke:
                    note(found, *keys)
    if not asked.smoke:
        print(table(recorded(asked.data, str(asked.per_class))))


if __name__ == "__main__":
    main()
