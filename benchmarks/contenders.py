"""Shared parts of the benchmarks: contenders in processes of their own, interleaved rounds, a command line.

A contender is an object with `build()`, which returns its number of parameters; `steps(count)`, which trains
that many steps; `train(until)`, which trains until `time.perf_counter()` says so and returns the steps
done; and `keep(folder)`, which leaves what it has learned there as arrays. It has `batch` and
`steps_per_execution`.
"""

import argparse
import dataclasses
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import threadpoolctl

from ssl_keras import files


def machine():
    """Returns the number of cores and their kind, as the linear algebra library names it."""
    kinds = {each.get("architecture") for each in threadpoolctl.threadpool_info()} - {None}
    return f"{os.cpu_count()} cores ({', '.join(sorted(kinds))})"


def interval(ratios):
    """The median of ratios, and the two of them between which the true median lies with 15/16 confidence.

    As many are left out at either end as that allows: none of five to eight, one of nine, five of twenty-one. Fewer
    than five have no range of that confidence; theirs is that of all.
    """
    count, ordered = len(ratios), sorted(ratios)
    # The true median lies below all but k of them as often as at most k of `count` tosses of a coin are heads.
    tails = itertools.accumulate(math.comb(count, k) for k in range(count // 2))
    left_out = max((k for k, tail in enumerate(tails) if 32 * tail <= 2**count), default=0)
    return {"median": statistics.median(ordered), "low": ordered[left_out], "high": ordered[-1 - left_out]}


def serve(one, folder):
    """Does what it is told on stdin and answers on stdout, a line of JSON each.

    `round SECONDS`: about that many seconds of steps, none of them compiling. `train SECONDS`:
    builds, trains from nothing, and leaves what it learned in the folder.
    """
    print(json.dumps("ready"), flush=True)
    parameters, rate = None, None
    for line in sys.stdin:
        what, seconds = line.split()
        start = time.perf_counter()
        if what == "train":
            answer = {"parameters": one.build(), "steps": one.train(start + float(seconds))}
            answer["seconds"] = time.perf_counter() - start
            one.keep(folder)
        else:
            if rate is None:
                parameters = one.build()
                one.steps(2 * one.steps_per_execution)  # compiles
                rate = timed(one, 2 * one.steps_per_execution)
            executions = max(1, round(float(seconds) * rate / one.steps_per_execution))
            rate = timed(one, executions * one.steps_per_execution)
            answer = {"parameters": parameters, "images/s": one.batch * rate}
        print(json.dumps(answer), flush=True)


def timed(one, count):
    """Steps a second."""
    start = time.perf_counter()
    one.steps(count)
    return count / (time.perf_counter() - start)


class Process:
    """A contender, from outside: `script --contender NAME --folder FOLDER --seed SEED` must `serve` it."""

    def __init__(self, script, name, folder, seed=0):
        self.name, self.log = name, folder / f"{name}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, script, "--contender", name, "--folder", folder, "--seed", str(seed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} has ended:\n{self.log.read_text()[-4000:]}")
        return json.loads(line)

    def ask(self, what, seconds):
        time.sleep(1)  # until the last one's threads and workers sleep
        print(what, seconds, file=self.process.stdin, flush=True)
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def rounds(script, names, count, seconds, done, folder, keep, sizes_within=0.0):
    """Interleaved rounds of images/s; a first one warms up.

    Args:
        script: see `Process`.
        names: of the contenders.
        count: rounds in all.
        seconds: of each contender in a round.
        done: the rounds of an earlier run; new ones are added.
        folder: for the contenders.
        keep: called after each round.
        sizes_within: by which share the contenders' numbers of parameters may differ.
    """
    if len(done) >= count:
        return
    processes = {name: Process(script, name, folder) for name in names}
    for process in processes.values():
        process.ask("round", min(seconds, 5.0))
    while len(done) < count:
        answers = {name: process.ask("round", seconds) for name, process in processes.items()}
        sizes = [answer["parameters"] for answer in answers.values()]
        assert max(sizes) <= (1 + sizes_within) * min(sizes), answers
        done.append({name: answer["images/s"] for name, answer in answers.items()})
        keep()
        print(f"round {len(done)} of {count}", {k: round(v) for k, v in done[-1].items()}, flush=True)
    for process in processes.values():
        process.close()


def medians(done):
    """{name: median} of rounds."""
    return {name: statistics.median(each[name] for each in done) for name in done[0]}


def main(script, parts, plan, quick, contender, prepare):
    """The command line of a benchmark, whose docstring and file are those of `script`.

    Args:
        script: its module; the numbers go into a file beside it, after every measurement.
        parts: {name: function (plan, report, data, folder, keep)}. It notes what it finds in `report[name]`, which may
            hold what an earlier run found, and calls `keep` to have it written.
        plan, quick: dataclasses that say how long to measure: in earnest, and to see that it all runs.
        contender: function (name, folder, seed) that makes one.
        prepare: function of a folder to `data`; what it leaves in the folder is there for the contenders.
    """
    parser = argparse.ArgumentParser(description=script.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *parts], default=[])
    parser.add_argument("--quick", action="store_true", help="see that all of it runs; keeps nothing")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.contender:
        serve(contender(flags.contender, flags.folder, flags.seed), flags.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        path = pathlib.Path(script.__file__).resolve().with_suffix(".json")
        if flags.quick:
            path, plan = folder / path.name, quick
        report = json.loads(path.read_text("utf-8")) if path.exists() else {}
        asked = json.loads(json.dumps(dataclasses.asdict(plan)))
        if report.setdefault("plan", asked) != asked:
            raise SystemExit(
                f"{path} was measured with {report['plan']}, not with {asked}. Move it away to start from scratch."
            )
        data = prepare(folder)
        for name in flags.parts or parts:
            versions = {package: importlib.metadata.version(package) for package in ("tensorflow", "keras")}
            report.setdefault(name, {"machine": machine(), **versions})  # where it was begun
            parts[name](plan, report, data, folder, lambda: files.write_json(path, report))
            files.write_json(path, report)
            print(json.dumps({name: report[name]}, indent=2, ensure_ascii=False), flush=True)
