"""Commands on runs: `launch`, `runs`; and what `pretrain` and `finetune` print at the end of theirs."""

import dataclasses
import json
import pathlib

from ssl_keras import files
from ssl_keras.cli.flags import Positional, parse
from ssl_keras.training import launch
from ssl_keras.training.compare import compare


def launch_command(arguments):
    first = next((i for i, argument in enumerate(arguments) if argument in launch.COMMANDS), len(arguments))
    asked = parse(launch.Launch, "launch", arguments[:first])
    raise SystemExit(launch.launch(asked, arguments[first:]))


@dataclasses.dataclass(frozen=True)
class Runs:
    """The results of runs, and the settings in which they differ."""

    folder: Positional[str] = "runs"
    """Folder that contains the runs."""


def runs_command(arguments):
    print(compare(pathlib.Path(parse(Runs, "runs", arguments).folder)))


def print_outcome(outcome, training):
    """Prints the outcome of a run, where its encoder is, and how to see its curves, if there are any."""
    print(json.dumps(files.replace_nonfinite(outcome), indent=2))
    print(f"Encoder: {files.printable(outcome['folder'])}/encoder")
    if training.tensorboard:
        print(f"TensorBoard: tensorboard --logdir {files.printable(training.runs)}")
