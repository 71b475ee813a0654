"""Faithfulness of attributions: deletion and insertion areas on five shipped encoders, next to random order.

    python benchmarks/faithfulness.py                              all encoders, about 10 minutes of one core
    python benchmarks/faithfulness.py contrastive-fashion_mnist    one of them
    python benchmarks/faithfulness.py --quick                      all of it on a few examples; keeps nothing

The numbers go into benchmarks/faithfulness.json after every method. Recorded methods are not measured again, so an
interrupted run resumes; move the file away to start from scratch.

What is explained is the logit of the class that a linear probe predicts, for test examples that are evenly spaced over
the split. The probe is fitted on 2,000 training examples, and the validation split chooses its regularization. The
scores of the curves are probabilities. Units are pixels, words, or cells of four frames by four mel bands; a unit that
is absent is black, [MASK], or silent.

An area is a mean over the examples, with a 95% t-interval. Gains are differences to random order of the same examples,
so their intervals are paired. Random order is the mean of two orders of each example. Nothing is tuned.
"""

import dataclasses
import functools
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import numpy as np
from contenders import main
from scipy import stats

from ssl_keras.data.sources import load
from ssl_keras.evaluation.features import evenly_spaced
from ssl_keras.interpretation import completeness_error, faithfulness, methods, outputs, questions, score_difference
from ssl_keras.interpretation import units as parts
from ssl_keras.interpretation.report import explained_of

ENCODERS = {
    "autoencoder-fashion_mnist": "tfds:fashion_mnist",
    "masked_lm-trec": "tfds:trec",
    "rotation-fashion_mnist": "tfds:fashion_mnist",
    "speech-spoken_digit": "tfds:spoken_digit",
    "contrastive-fashion_mnist": "tfds:fashion_mnist",
}
RANDOM = "random order"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Sizes of the measurement."""

    examples: int = 200
    checked: int = 8  # examples of the sanity check
    steps: int = 10
    orders: int = 2


QUICK = Plan(examples=6, checked=2, steps=4, orders=1)


def interval(values):
    """Returns [mean, low, high] with a 95% t-interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return [float(np.mean(values)), float(np.mean(values) - half), float(np.mean(values) + half)]


def measure(name, plan, report, data, folder, keep):
    """Measures all methods on one encoder; `report[name]` may have those of an earlier run."""
    made = report[name]
    loaded = questions.open_encoder(name, data(ENCODERS[name]))
    rows = evenly_spaced(len(loaded.splits.test), plan.examples)
    question = questions.ask(loaded, "test", rows, "probe")
    explained = explained_of(loaded, question)
    units_of = methods.units_of(explained, loaded.tokenizer if explained.at == "vectors" else None)
    inputs, index, units = question.inputs, question.index, units_of(question.inputs)
    arguments = {"transform": functools.partial(outputs.probabilities, question.output), "steps": plan.steps}
    labels = loaded.splits.test.take(rows).column("label")
    made["examples"], made["accuracy of the probe"] = len(rows), float(np.mean(index == labels))
    random = faithfulness.random_areas(explained, inputs, index, units, orders=plan.orders, **arguments)
    done = made.setdefault("methods", {})
    done[RANDOM] = {curve: interval(random[curve]) for curve in faithfulness.CURVES}
    for method, found in methods.available(explained, units_of).items():
        if method in done:
            continue
        start = time.process_time()
        maps = found.attribute(inputs, index)
        seconds = time.process_time() - start
        areas = faithfulness.areas(explained, inputs, index, parts.totals(maps, units), units, **arguments)
        row = {curve: interval(areas[curve]) for curve in faithfulness.CURVES}
        row |= {f"{c} gain": interval(s * (areas[c] - random[c])) for c, s in (("deletion", -1), ("insertion", 1))}
        few = slice(0, plan.checked)
        again = functools.partial(found.quick, inputs[few], index[few])
        row["randomized"] = list(faithfulness.sanity_check(explained.network, again).values())[-1]
        if found.is_complete:
            errors = completeness_error(maps, *score_difference(explained, inputs, index))
            row["complete"] = float(np.mean(errors <= 0.01))
        row["CPU seconds"] = seconds
        done[method] = row
        keep()
        print(name, method, row, flush=True)


if __name__ == "__main__":
    measured = {name: functools.partial(measure, name) for name in ENCODERS}
    main(sys.modules["__main__"], measured, Plan(), QUICK, None, lambda folder: functools.cache(load))
