"""Costs and savings of each switch for every objective, and the overhead of `fit` and of checkpoints.

    python benchmarks/cost.py switches      every objective and switch: an hour on 2 cores
    python benchmarks/cost.py fit           `fit` against a bare loop over `tf.function`: 10 minutes
    python benchmarks/cost.py checkpoints   seconds and bytes of a checkpoint: 2 minutes
    python benchmarks/cost.py --quick       all of it in five minutes, to see that it runs; keeps nothing

The numbers go into benchmarks/cost.json after every measurement; what is there is not measured again. At its end each
prints the tables that are in docs/cost.md.

- `switches`: the same network, batches and seed with one switch changed. `loss` is that of the held-out part (of
  DCGAN the discriminator's of the last steps) after 60 steps; `memory` by how much the process has grown since
  before the network was built, at its highest; `time` the median of the ratios of interleaved rounds to `plain`, with
  the range that holds the true one with 94% confidence. `planned` is what `ssl-keras plan` says of an example's
  operations and of the memory, to compare with what was measured; `peak` what a large product of matrices reaches.
- `fit`: `Objective.fit` with its defaults, and what one would write without Keras: a loop in Python that calls
  `tf.function(train_step)` on the batches of the same dataset. Interleaved rounds; either begins each of them with a
  new iterator.
- `checkpoints`: `Checkpoints.save` of a whole state, the median of five, and its share of five minutes, between which
  a run saves.

Not for claims about GPUs: there other things pay.
"""

import dataclasses
import json
import os
import pathlib
import re
import resource
import statistics
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import tensorflow as tf
from contenders import Process, interval, main, medians

from ssl_keras import objectives
from ssl_keras.data.batches import Batches
from ssl_keras.data.readers import captions
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits
from ssl_keras.planning import cost, flops
from ssl_keras.training import run as runs
from ssl_keras.training.checkpoint import Checkpoints

SMALL = {"network": "cnn", "width": 16}
# Of objectives (classifier costs what rotation does, seq2seq has as many forms as pairs have lengths) a network that a
# laptop trains, and data that it finds: (settings, data, training).
OBJECTIVES = {
    "autoencoder": ({}, "digits", {}),
    "rotation": (SMALL, "digits", {"batch_size": 128}),
    "jigsaw": (SMALL, "digits", {"batch_size": 128}),
    "contrastive": (SMALL, "digits", {"batch_size": 128}),
    "dcgan": ({"width": 16}, "digits", {"batch_size": 64}),
    "causal_lm": ({}, "pydoc", {}),
    "masked_lm": ({}, "pydoc", {}),
    "recurrent_lm": ({"width": 128, "layers": 1}, "pydoc", {"batch_size": 64}),
    "wav2vec2": ({"channels": 64, "width": 64, "layers": 2, "heads": 2}, "tfds:spoken_digit", {"batch_size": 32}),
    "ctc": ({"channels": 64, "width": 64, "layers": 2, "heads": 2}, "connected:tfds:spoken_digit", {"batch_size": 16}),
    "image_text": (
        {"width": 16, "text_width": 64, "text_heads": 2, "tokenizer": "characters"},
        "captions",
        {"batch_size": 128},
    ),
}
PLAIN = "plain"
SWITCHES = {
    PLAIN: {},
    "one step a call": {"steps_per_execution": 1},
    "bfloat16": {"precision": "mixed_bfloat16"},
    "float16": {"precision": "mixed_float16"},
    "accumulate 4": {"accumulate": 4},
    "remat": {"remat": True},
    "XLA": {"jit": True},
}
TRANSFORMERS = ("causal_lm", "masked_lm")  # which can rematerialize
OF_MANY_LENGTHS = ("wav2vec2", "ctc")  # XLA compiles each length of a batch: minutes for 60 steps
BARE = "bare loop"
OVERHEAD = "time over the bare loop's"
FIT = ("autoencoder", "contrastive", "causal_lm")
STATES = {"autoencoder": {}, "causal_lm": {"size": "small"}, "causal_lm, medium": {"size": "medium"}}
FIVE_MINUTES = 300.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """Durations of the parts."""

    objectives: tuple[str, ...] = tuple(OBJECTIVES)
    steps: int = 60  # after which the loss is compared
    rounds: int = 5
    seconds: float = 1.0
    fit: tuple[str, ...] = FIT
    fit_rounds: int = 15
    fit_seconds: float = 5.0
    states: tuple[str, ...] = tuple(STATES)
    saves: int = 5


QUICK = Plan(
    objectives=("autoencoder", "causal_lm"),
    steps=4,
    rounds=1,
    seconds=0.5,
    fit=FIT[:1],
    fit_rounds=1,
    fit_seconds=0.5,
    states=tuple(STATES)[:1],
    saves=1,
)


def digits_with_names():
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    splits = load("digits", image_size=32)
    return Splits(
        *(
            captions.source(part.name, part.column("image"), [[words[label]] for label in part.column("label")])
            for part in splits
        )
    )


class Contender:
    """An objective with a switch: "causal_lm|XLA"; or the bare loop."""

    def __init__(self, name, folder, seed):
        self.objective, self.switch = name.split("|")
        self.module, self.seed, self.model = objectives.module(self.objective), seed, None

    @property
    def batch(self):
        return self.training.batch_size

    @property
    def steps_per_execution(self):
        return self.training.steps_per_execution

    def build(self):
        if self.model is not None:
            return self.model.count_params()
        settings, data, training = OBJECTIVES[self.objective]
        switch = dict(SWITCHES.get(self.switch, {}))
        settings = self.module.Settings(**settings, **{key: switch.pop(key) for key in ("remat",) if key in switch})
        plain = {
            "jit": False,
            "report_every": 0,
            "steps": 1000,
            "epochs": 0,
            "warmup": 0,
            "schedule": "constant",
            "steps_per_execution": 16,
            "seed": self.seed,
        }
        self.training = dataclasses.replace(self.module.DEFAULTS, **plain | training | switch)
        self.settings, self.splits = self.module.prepare(
            settings, digits_with_names() if data == "captions" else load(data)
        )
        self.before = grown()
        with runs.conditions(self.training):
            self.model = self.module.build(self.settings, self.splits.train.spec())
            runs.compile_objective(self.model, self.training, self.splits)
        self.model.rows = self.training.batch_size
        self.batches = Batches(self.splits.train, self.training.batch_size, preprocess=self.model.preprocess)
        if self.switch == BARE:
            self.bare = tf.function(lambda batch: self.model.train_step(batch), autograph=False)
        return self.model.count_params()

    def steps(self, count):
        data = self.batches.dataset(int(self.model.step))
        if self.switch == BARE:
            for batch in data.take(count):
                self.bare(batch)
            self.model.loss_metric.result().numpy()  # until all is done
            return
        self.model.fit(data, steps_per_epoch=count, verbose=0)

    def train(self, until):
        """As many steps as the plan says, however long they take."""
        count = int(os.environ["COST_STEPS"])
        self.steps(count)
        return count

    def keep(self, folder):
        held = runs.held_out(self.model, self.splits.validation, self.training.batch_size, tf.distribute.get_strategy())
        last = float(self.model.loss_metric.result())
        found = {"loss": last if self.objective == "dcgan" else held["loss"], "memory": grown() - self.before}
        if self.switch == PLAIN:
            asked = cost.Plan(gpus=1, batch_size=self.training.batch_size, precision="float32")
            work = cost.of_traced(self.module, self.settings, self.splits, asked, cost.Passes())
            found["planned"] = {"operations": work.operations, "memory": sum(work.memory.values())}
            found["parameters"], found["batch"] = work.parameters, self.training.batch_size
            found["peak"] = flops.peak()[0]
        (pathlib.Path(folder) / f"{self.objective}-{self.switch}.json").write_text(json.dumps(found))


def grown():
    """The most bytes that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def switches(plan, report, data, folder, keep):
    os.environ["COST_STEPS"] = str(plan.steps)
    for objective in plan.objectives:
        measured = report["switches"].setdefault(objective, {})
        wanted = [
            switch
            for switch in SWITCHES
            if (switch != "remat" or objective in TRANSFORMERS)
            and (switch != "XLA" or objective not in OF_MANY_LENGTHS)
        ]
        if all(switch in measured for switch in wanted):
            continue
        plain = Process(str(HERE), f"{objective}|{PLAIN}", folder)
        for switch in wanted:
            if switch not in measured:
                measured[switch] = found(objective, switch, plan, folder, plain)
                keep()
                print(objective, switch, measured[switch], flush=True)
        plain.close()
    print(table_of_switches(report["switches"]), table_of_plans(report["switches"]), sep="\n\n")


def found(objective, switch, plan, folder, plain):
    """{loss, memory, time}; of what is refused, why."""
    process = plain if switch == PLAIN else Process(str(HERE), f"{objective}|{switch}", folder)
    try:
        process.ask("train", 0)
        made = json.loads((folder / f"{objective}-{switch}.json").read_text())
        plain.ask("round", min(plan.seconds, 2.0))
        if switch == PLAIN:
            rates = [process.ask("round", plan.seconds)["images/s"] for _ in range(plan.rounds)]
            return made | {"examples/s": statistics.median(rates), "processor": processor()}
        process.ask("round", min(plan.seconds, 2.0))
        ratios = []
        for _ in range(plan.rounds):
            before, after = (each.ask("round", plan.seconds)["images/s"] for each in (plain, process))
            ratios.append(before / after)
        return made | {"time": interval(ratios)}
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        if "accumulate must be 1" not in reason and not (switch == "XLA" and "XLA" in str(error)):
            raise
        return {"refused": reason[:300]}
    finally:
        if process is not plain:
            process.close()


def processor():
    """Returns the processor's name, and whether it has bfloat16 instructions, without which bfloat16 is not faster."""
    told = pathlib.Path("/proc/cpuinfo")
    text = told.read_text() if told.exists() else ""
    name = re.search(r"^model name\s*: (.*)", text, re.M)
    return f"{name[1] if name else 'unknown'}, {'with' if 'bf16' in text else 'without'} bfloat16"


def of_objectives(measured):
    """(objective, what was measured of it), without the notes beside them."""
    return [(name, rows) for name, rows in measured.items() if isinstance(rows, dict)]


def ranged(ratio):
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def table_of_switches(measured):
    lines = ["| objective | switch | time, times that of `plain` | memory, MB | loss |", "|---|---|---:|---:|---:|"]
    for objective, rows in of_objectives(measured):
        for switch, row in rows.items():
            if "refused" in row:
                lines.append(f"| {objective} | {switch} | refused | | |")
                continue
            spent = ranged(row["time"]) if "time" in row else "1"
            lines.append(f"| {objective} | {switch} | {spent} | {row['memory'] / 1e6:,.0f} | {row['loss']:.4f} |")
    return "\n".join(lines)


def table_of_plans(measured):
    """Formats the plan next to the measurement."""
    lines = [
        "| objective | batch | parameters | MFLOP an example | examples/s | MFU | memory planned, MB | measured | on |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for objective, rows in of_objectives(measured):
        row = rows[PLAIN]
        rate, planned = row["examples/s"], row["planned"]
        lines.append(
            f"| {objective} | {row['batch']} | {row['parameters']:,} | {planned['operations'] / 1e6:,.1f} | "
            f"{rate:,.0f} | {rate * planned['operations'] / row['peak']:.0%} | "
            f"{planned['memory'] / 1e6:,.0f} | {row['memory'] / 1e6:,.0f} | {row['processor']} |"
        )
    return "\n".join(lines)


def table_of_fit(measured):
    lines = [
        "| objective | `fit`, examples/s | bare loop | time of `fit`, times that of the loop |",
        "|---|---:|---:|---:|",
    ]
    for objective, row in of_objectives(measured):
        rates = row["examples/s"]
        lines.append(f"| {objective} | {rates[PLAIN]:,.0f} | {rates[BARE]:,.0f} | {ranged(row[OVERHEAD])} |")
    return "\n".join(lines)


def table_of_checkpoints(measured):
    lines = ["| | MB | s | share of five minutes |", "|---|---:|---:|---:|"]
    for name, row in of_objectives(measured):
        size, share = row["bytes"] / 1e6, row["share of five minutes"]
        lines.append(f"| {name} | {size:,.0f} | {row['seconds']:.2f} | {share:.2%} |")
    return "\n".join(lines)


def fit(plan, report, data, folder, keep):
    for objective in plan.fit:
        measured = report["fit"].setdefault(objective, {"rounds": []})
        names = [f"{objective}|{PLAIN}", f"{objective}|{BARE}"]
        if len(measured["rounds"]) < plan.fit_rounds:
            processes = {name: Process(str(HERE), name, folder) for name in names}
            for process in processes.values():
                process.ask("round", 2.0)
            while len(measured["rounds"]) < plan.fit_rounds:
                measured["rounds"].append(
                    {name.split("|")[1]: processes[name].ask("round", plan.fit_seconds)["images/s"] for name in names}
                )
                keep()
            for process in processes.values():
                process.close()
        done = measured["rounds"]
        measured |= {"examples/s": medians(done), OVERHEAD: interval([each[BARE] / each[PLAIN] for each in done])}
        report["fit"][objective] = measured
        print(objective, measured[OVERHEAD], flush=True)
    print(table_of_fit(report["fit"]))


def checkpoints(plan, report, data, folder, keep):
    for name in plan.states:
        if name in report["checkpoints"]:
            continue
        objective = name.split(",")[0]
        module = objectives.module(objective)
        settings, splits = module.prepare(module.Settings(**STATES[name]), load(OBJECTIVES[objective][1]))
        model = module.build(settings, splits.train.spec())
        runs.compile_objective(model, dataclasses.replace(module.DEFAULTS, optimizer="adam"), splits)
        with tempfile.TemporaryDirectory(dir=HERE.parent) as there:
            saver, seconds = Checkpoints(pathlib.Path(there)), []
            for step in range(plan.saves):
                model.step.assign(step)
                start = time.perf_counter()
                saver.save(model, {}, best=False)
                seconds.append(time.perf_counter() - start)
            size = saver.paths()[-1].stat().st_size
        median = statistics.median(seconds)
        report["checkpoints"][name] = {"bytes": size, "seconds": median, "share of five minutes": median / FIVE_MINUTES}
        keep()
    print(table_of_checkpoints(report["checkpoints"]))


if __name__ == "__main__":
    parts = {"switches": switches, "fit": fit, "checkpoints": checkpoints}
    main(sys.modules["__main__"], parts, Plan(), QUICK, Contender, lambda folder: None)
