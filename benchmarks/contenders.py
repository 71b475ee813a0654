"""What side-by-side measurements share: contenders in processes of their own, and interleaved rounds.

A contender is an object with `build()`, which returns its number of parameters; `steps(count)`, which trains
so many steps; `train(until)`, which trains until `time.perf_counter()` says so and returns the steps
done; and `keep(folder)`, which leaves what it has learned there as arrays. It has `batch` and
`steps_per_execution`.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import threadpoolctl


def machine():
    """How many cores, and of which kind (as the linear algebra library calls it: whether there is AVX-512, say)."""
    kinds = {each.get("architecture") for each in threadpoolctl.threadpool_info()} - {None}
    return f"{os.cpu_count()} cores ({', '.join(sorted(kinds))})"


def interval(ratios):
    """The median of n ratios, and the range that holds the true median with 1 − 2^(1−n) confidence."""
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def serve(one, folder):
    """Does what it is told on stdin and answers on stdout, a line of JSON each.

    `round SECONDS`: about so many seconds of steps, none of them compiling. `train SECONDS`:
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
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
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


def rounds(script, names, count, seconds, done, folder, keep):
    """Interleaved rounds of images/s; a first one warms up.

    Args:
        script: see `Process`.
        names: of the contenders.
        count: rounds in all.
        seconds: of each contender in a round.
        done: the rounds of an earlier run; new ones are added.
        folder: for the contenders.
        keep: called after each round.
    """
    if len(done) >= count:
        return
    processes = {name: Process(script, name, folder) for name in names}
    for process in processes.values():
        process.ask("round", min(seconds, 5.0))
    while len(done) < count:
        answers = {name: process.ask("round", seconds) for name, process in processes.items()}
        assert len({answer["parameters"] for answer in answers.values()}) == 1, answers
        done.append({name: answer["images/s"] for name, answer in answers.items()})
        keep()
        print(f"round {len(done)} of {count}", {k: round(v) for k, v in done[-1].items()}, flush=True)
    for process in processes.values():
        process.close()


def medians(done):
    """{name: median} of rounds."""
    return {name: statistics.median(each[name] for each in done) for name in done[0]}
