"""Kills the workers of a run again and again, and records each kill.

    python tests/support/kills.py FOLDER [KILLS]

Prints a line for each kill; fails if the run does not end with success.
"""

import dataclasses
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
NAME = "autoencoder-digits"
RUN = [
    "pretrain",
    "autoencoder",
    "--data",
    "digits",
    "--batch-size",
    "64",
    "--eval-every",
    "10",
    "--steps-per-execution",
    "2",
    "--report-every",
    "0",
]
KINDS = ("chief", "worker", "all")


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill: who was killed, the newest checkpoint's step, whether that step is later than at the previous kill, and
    whether a checkpoint was being written."""

    kind: str
    step: int
    progress: bool
    writing: bool


def steps(kills):
    """Returns the number of steps that leaves room for this many kills with progress between them."""
    return 20 * kills + 40


def start(folder, kills, writer="slow"):
    """Starts the run under `ssl-keras launch`, with its output in FOLDER/log."""
    folder.mkdir(parents=True, exist_ok=True)
    path = [str(HERE / "writers"), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    with open(folder / "log", "w") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ssl_keras",
                "launch",
                "--workers",
                "2",
                "--restarts",
                str(kills + 5),
                *RUN,
                "--steps",
                str(steps(kills)),
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "TEST_WRITER": writer},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def newest(folder):
    """Returns the step of the newest checkpoint, or 0."""
    paths = (folder / "runs" / NAME / "checkpoints").glob("step-*.safetensors")
    return max((int(re.search(r"\d+", path.name).group()) for path in paths), default=0)


def partial(folder):
    """Returns whether there is a partly written checkpoint."""
    return any((folder / "runs" / NAME / "checkpoints").glob(".step-*.partial"))


def children(process):
    """Returns the workers' process ids, the chief's first."""
    try:
        return [int(n) for n in pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []


def both(process):
    """Returns the workers' process ids if there are two, else nothing."""
    found = children(process)
    return found if len(found) == 2 else None


def reached(folder, step):
    return newest(folder) >= step


def gone(process, numbers):
    """Returns whether the launcher has no more of these workers."""
    return not set(numbers) & set(children(process))


def kill(process, folder, count, seed=0, show=print):
    """Kills workers `count` times, each time after a restart; returns a `Kill` for each.

    The kills alternate between the chief, the other worker, and both. Every other kill that includes the chief waits
    until it writes a checkpoint.
    """
    draw, done, last = random.Random(seed), [], 0
    for index in range(count):
        kind, first = KINDS[index % 3], newest(folder)
        in_write = kind != "worker" and index % 2 == 0
        wanted = 10 * draw.randrange(1, 3) if index % 10 else 0  # one in ten before it has saved anything new
        alive = wait_for(process, both, process)
        if wanted:
            wait_for(process, reached, folder, first + wanted)
            time.sleep(draw.uniform(0, 0.3))
        else:
            time.sleep(draw.uniform(1, 12))
        if in_write:
            wait_for(process, partial, folder, pause=0.0005)
        for pid in {"chief": alive[:1], "worker": alive[1:], "all": alive}[kind]:
            os.kill(pid, signal.SIGKILL)
        wait_for(process, gone, process, alive)
        step = newest(folder)
        done.append(Kill(kind, step, step > last, partial(folder)))
        last = step
        show(
            f"kill {index + 1:3} of {kind:6} at step {step:5}{'' if done[-1].progress else ', no progress'}"
            f"{', inside a write' if done[-1].writing else ''}",
            flush=True,
        )
    return done


def wait_for(process, condition, *arguments, pause=0.01):
    while True:
        met = condition(*arguments)
        if met:
            return met
        if process.poll() is not None:
            raise AssertionError(f"The run ended with {process.returncode} before all kills were done.")
        time.sleep(pause)


if __name__ == "__main__":
    folder, kills = pathlib.Path(sys.argv[1]), int((sys.argv[2:] or [50])[0])
    process = start(folder, kills)
    kill(process, folder, kills)
    sys.exit(process.wait())
