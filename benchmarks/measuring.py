"""Shared by grids of trainings: a file of numbers, the steps that fit into some minutes, and a summary."""

import dataclasses
import json

import numpy as np

from ssl_keras import files
from ssl_keras.choosing.runs import Stopwatch
from ssl_keras.data.batches import Batches
from ssl_keras.evaluation.paired import paired_difference
from ssl_keras.training.run import compile_objective

TIMED_SECONDS, MAX_TIMED_STEPS = 10.0, 1000


class Records:
    """Numbers in a JSON file, by their keys from the outermost to the innermost.

    The file is read before each change, since another script may have written in between.
    """

    def __init__(self, path):
        self.path = path

    def get(self, *keys):
        """Returns what is recorded, or None."""
        place = json.loads(self.path.read_text("utf-8")) if self.path.exists() else {}
        for key in keys:
            place = place.get(key) if isinstance(place, dict) else None
        return place

    def add(self, value, *keys):
        """Records a value, in place of an earlier one."""
        known = place = self.get()
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
        files.write_json(self.path, known)

    def once(self, measure, *keys):
        """Returns what is recorded; if there is nothing, measures and records it."""
        found = self.get(*keys)
        if found is None:
            found = measure()
            self.add(found, *keys)
            print(*keys, found, sep=": ", flush=True)
        return found


def seconds_per_step(module, settings, training, splits):
    """Returns the seconds of a training step, over some ten seconds after the graph is traced.

    Args:
        module: the objective's.
        settings, splits: as `module.prepare` returns them.
        training: its `Training`.
    """
    objective = module.build(settings, splits.train.spec())
    objective.adapt(splits.train)
    compile_objective(objective, dataclasses.replace(training, steps=MAX_TIMED_STEPS, epochs=0), splits)
    batches = Batches(splits.train, training.batch_size, preprocess=objective.preprocess)
    watch = Stopwatch(TIMED_SECONDS)
    objective.fit(batches.dataset(), steps_per_epoch=MAX_TIMED_STEPS, callbacks=[watch], verbose=0)
    return watch.step


def steps_within(minutes, module, settings, training, splits):
    """Returns the number of training steps that fit into the time; `module.prepare` is called first."""
    settings, splits = module.prepare(settings, splits)
    return max(1, int(60 * minutes / seconds_per_step(module, settings, training, splits)))


def summary(arms, baseline):
    """Returns Markdown: mean ± standard deviation over label seeds, and the paired difference to the baseline.

    Args:
        arms: {arm: {label seed: {"accuracy": in [0, 1], …}}}.
        baseline: one of the arms, which may be missing.
    """
    lines = [f"| arm | test accuracy, % | difference to {baseline} | seeds |", "|---|---:|---:|---:|"]
    for arm, seeds in arms.items():
        scores = [100 * each["accuracy"] for each in seeds.values()]
        sd = f" ± {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
        shared = [seed for seed in seeds if seed in arms.get(baseline, {})]
        text = "–"
        if shared and arm != baseline:
            found = paired_difference(*([100 * arms[a][seed]["accuracy"] for seed in shared] for a in (arm, baseline)))
            text = f"{found.mean:+.1f}"
            text += "" if found.interval is None else " [{:+.1f}, {:+.1f}]".format(*found.interval)
        lines.append(f"| {arm} | {np.mean(scores):.1f}{sd} | {text} | {len(scores)} |")
    return "\n".join(lines)
