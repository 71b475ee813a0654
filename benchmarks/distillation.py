"""Distillation of a shipped encoder into a quarter of its size, next to contrastive learning of the small network.

    python benchmarks/distillation.py                 about 3 hours on 2 cores
    python benchmarks/distillation.py --smoke         half a minute: digits, a few steps; the numbers mean nothing

The teacher is `contrastive-fashion_mnist`, the student the same kind of network with at most a quarter of its
parameters, on `tfds:fashion_mnist`. Everything is measured by kNN (20 neighbors from the training split) on the test
split:

- the teacher, and the student at random init;
- `distillation`, `--minutes` of training, seeds 0 to 2, with the loss `cosine` or those of `--losses`;
- `contrastive`, the student's network and as many minutes, seeds 0 to 2;
- `contrastive, longer`, these minutes and the teacher's (from its card), seed 0.

Augmentation and temperature are those of the teacher's card. The number of steps follows from the minutes, without
those that the teacher's features take, and from the rate. Both are measured once per objective, so nothing else may run
then (`--only-measure`), and the cache must not have the features yet. Afterwards two of these scripts with different
`--only` can share the cores. Each result is written into benchmarks/distillation.json as soon as it is there; recorded
numbers are not measured again, and an interrupted run resumes from its checkpoint.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import keras
from measuring import Records, seconds_per_step

from ssl_keras import encoders, objectives
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.sources import load
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation import probes
from ssl_keras.evaluation.features import extract_features
from ssl_keras.objectives import contrastive
from ssl_keras.objectives.distillation import LOSSES
from ssl_keras.training.pretrain import pretrain

TEACHER = "contrastive-fashion_mnist"
STUDENT = {"network": "cnn", "pool_grid": 2}
WIDTH, NARROW = 23, 4  # channels of the student's first stage; those of --smoke
LARGEST = 1 / 4  # parameters of the student, as a fraction of the teacher's
MINUTES = 15.0
FEW = 3  # steps of each run of --smoke


@dataclasses.dataclass(frozen=True)
class Run:
    """A row of the table: an objective, for a number of minutes, with a seed."""

    name: str
    objective: str
    settings: object
    minutes: float
    seed: int

    @property
    def key(self):
        return f"{self.name}, seed {self.seed}"


def settings_of(objective, width, loss="cosine"):
    """Returns the settings of an objective: the student's network, and what the teacher's card says of the rest."""
    known = cards.read(encoders.find(TEACHER))["trained_by"]["settings"]
    shared = {field.name: known[field.name] for field in dataclasses.fields(Augmentation)} | STUDENT | {"width": width}
    if objective == "distillation":
        own = {"teacher": TEACHER, "loss": loss}
    else:
        own = {"temperature": known["temperature"], "projection": tuple(known["projection"])}
    return objectives.module(objective).Settings(**shared, **own)


def training_of(objective, **changes):
    defaults = objectives.module(objective).DEFAULTS
    return dataclasses.replace(defaults, epochs=0, report_every=0, tensorboard=False, **changes)


def speed(run, splits):
    """Returns the number of training steps per minute, and the minutes of preparing the data."""
    module, training = objectives.module(run.objective), training_of(run.objective)
    started = time.perf_counter()
    settings, splits = module.prepare(run.settings, splits)
    preparation = (time.perf_counter() - started) / 60
    per_minute = 60 / seconds_per_step(module, settings, training, splits)
    return {"steps per minute": per_minute, "preparation, minutes": preparation}


def knn(network, splits):
    """Returns the accuracy of kNN on the test split, in [0, 1]."""
    train, test = splits.train, splits.test
    train_x, test_x = (extract_features(network, part) for part in (train, test))
    return probes.knn(train_x, train.column("label"), test_x, test.column("label"))


def train_and_measure(run, steps, splits, folder):
    """Trains a run, or resumes it; returns what it reached."""
    training = training_of(
        run.objective,
        steps=steps,
        eval_every=max(1, steps // 10),
        seed=run.seed,
        run=f"{run.name}-{run.seed}".replace(", ", "-").replace(" ", "-"),
        runs=str(folder),
        resume=True,
    )
    outcome = pretrain(run.objective, run.settings, training, data=splits)
    accuracy = knn(encoders.load_encoder(outcome["folder"]), splits)
    return {"kNN": accuracy, "steps": outcome["step"]} | {key: outcome[key] for key in ("seconds", "test_loss")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of training each student")
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2))
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=LOSSES[:1], help="of distillation")
    parser.add_argument("--only", nargs="*", metavar="ROW", help='such as "contrastive, seed 1"; the others come later')
    parser.add_argument("--only-measure", action="store_true", help="only the speeds")
    parser.add_argument("--runs", default="runs/distillation", help="folder of the runs")
    parser.add_argument("--smoke", action="store_true", help="digits, a few steps, nothing is kept")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if asked.smoke:
            asked.runs, asked.seeds = scratch, asked.seeds[:1]
        measure(asked, Records(pathlib.Path(scratch, "results.json") if asked.smoke else HERE.with_suffix(".json")))


def runs_of(asked, width, longer):
    """Returns the runs, in the order in which they are made."""
    made, small = [], settings_of("contrastive", width)
    length = "" if asked.minutes == MINUTES else f", {asked.minutes:g} minutes"
    for seed in asked.seeds:
        for loss in asked.losses:
            settings = settings_of("distillation", width, loss)
            made.append(Run(f"distillation, {loss}{length}", "distillation", settings, asked.minutes, seed))
        made.append(Run(f"contrastive{length}", "contrastive", small, asked.minutes, seed))
    if not length:
        made.append(Run("contrastive, longer", "contrastive", small, longer, 0))
    return [run for run in made if not asked.only or run.key in asked.only]


def measure(asked, results):
    """Measures all that the file does not have yet."""
    width = NARROW if asked.smoke else WIDTH
    splits = load("digits" if asked.smoke else "tfds:fashion_mnist")
    card = cards.read(encoders.find(TEACHER))
    keras.utils.set_random_seed(0)
    network = contrastive.encoder(settings_of("contrastive", width), splits.train.spec()).build()
    parameters = network.count_params()
    assert parameters <= LARGEST * card["parameters"], (parameters, card["parameters"])
    results.once(lambda: {"teacher": card["parameters"], "student": parameters}, "parameters")
    results.once(lambda: {"kNN": knn(encoders.load_encoder(TEACHER), splits)}, "teacher")
    results.once(lambda: {"kNN": knn(network, splits)}, "random init")
    longer = asked.minutes + card["trained_by"]["outcome"]["seconds"] / 60
    for run in runs_of(asked, width, longer):
        known = results.once(lambda run=run: speed(run, splits), f"{run.objective}, speed")
        if asked.only_measure:
            continue
        steps = int((run.minutes - known["preparation, minutes"]) * known["steps per minute"])
        steps = FEW if asked.smoke else max(1, steps)
        results.once(lambda at=(run, steps): train_and_measure(*at, splits, asked.runs), run.key)


if __name__ == "__main__":
    main()
