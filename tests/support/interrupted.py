"""Pretrains like the command line and interrupts itself; `tests/training/test_resume.py` runs it.

    python tests/support/interrupted.py HOW FLAGS…

HOW is one of:

- `not`: no interruption.
- `SIGTERM`, `SIGINT`, `SIGKILL`: a signal that the process sends to itself at step 13 (or `$STEP`).
- `due`: SIGKILL at that step, in a run that writes a checkpoint after every step.
- `write`: SIGKILL with half of a checkpoint's bytes written.
- `resume`: resumes several runs, one after the other.

Several values separated by commas start one process each, with a run of that name and its output in HOW.txt; their
exit codes are printed.
"""

import builtins
import os
import signal
import sys

import keras

from ssl_keras import files
from ssl_keras.cli import main
from ssl_keras.startup import start_tensorflow
from ssl_keras.training import run

STEP = int(os.environ.get("STEP", "13"))


class Interrupt(keras.callbacks.Callback):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.step.numpy()) == STEP:
            os.kill(os.getpid(), self.number)


class HalfWritten:
    """A file that writes half of the third checkpoint's bytes and then kills the process."""

    count = 0

    def __init__(self, descriptor, *arguments):
        self.file = builtins.open(descriptor, *arguments)  # noqa: SIM115
        self.path = os.readlink(f"/proc/self/fd/{self.file.fileno()}")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        if "step-" in self.path:
            HalfWritten.count += 1
            if HalfWritten.count == 3:
                self.file.write(content[: len(content) // 2])
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.file.write(content)


def interrupted(how, flags):
    """Runs the command; returns its exit code unless it is killed."""
    start_tensorflow()
    if how == "write":
        files.open = HalfWritten
    elif how.startswith("SIG") or how == "due":
        plain, number = run.train, getattr(signal, how, signal.SIGKILL)
        run.train = lambda *arguments: plain(*arguments[:5], [*arguments[5], Interrupt(number)])
        flags = flags + (["--checkpoint-minutes", "1e-9"] if how == "due" else [])
    if how == "resume":
        return max(main([*flags, "--resume", "--run", name]) for name in os.environ["RUNS"].split())
    return main(flags)


def forked(how, flags):
    """Forks a process for one interruption, since importing TensorFlow in each would take most of the time."""
    process = os.fork()
    if process:
        return process
    with open(f"{how}.txt", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    code = 1
    try:
        code = interrupted(how, [*flags, "--run", how])
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    hows, *flags = sys.argv[1:]
    if "," not in hows:
        sys.exit(interrupted(hows, flags))
    processes = {how: forked(how, flags) for how in hows.split(",")}
    for how, process in processes.items():
        print(how, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
