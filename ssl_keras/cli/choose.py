"""The command `choose`."""

import dataclasses
import logging
import pathlib
from typing import Annotated

from ssl_keras import files, startup
from ssl_keras.choosing import report
from ssl_keras.choosing.choose import PAGE, Question, choose, finish
from ssl_keras.cli.flags import DataFlags, OverwriteFlag, parse
from ssl_keras.cli.inspect import aligned
from ssl_keras.data.ranges import Range
from ssl_keras.data.sources import load

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choose(DataFlags, OverwriteFlag):
    """A dataset, the labels that may be used, and the time."""

    minutes: Annotated[float, Range(0, open="low")] = 30.0
    """Budget of the whole command, in minutes."""
    labels_per_class: Annotated[int, Range(0)] | None = None
    """Number of labels per class that the measure uses, and at most as many validation labels. None uses 10, or as
    many as the smallest class has. 0 measures without labels."""
    label_seeds: Annotated[int, Range(1)] = 5
    """Number of random draws of these labels, over which accuracies are averaged."""
    encoder: tuple[str, ...] = ()
    """Names or paths of saved encoders that are measured too, such as an imported public one."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of the pretraining runs."""
    out: str = ""
    """Folder for the table, the page and the runs. By default choices/DATA. The same command resumes a killed search
    in it."""


def choose_command(arguments):
    asked = parse(Choose, "choose", arguments)
    question = Question(
        asked.data,
        asked.image_size,
        asked.minutes,
        asked.labels_per_class,
        asked.label_seeds,
        asked.encoder,
        asked.seed,
    )
    splits = load(asked.data, asked.image_size)
    out = pathlib.Path(asked.out or f"choices/{files.shorten(splits.train.short_name)}").expanduser()
    try:
        choice = choose(question, splits, out, asked.overwrite, started=startup.begun)
    except KeyboardInterrupt:
        log.warning("Stopped. The same command continues the search in %s.", files.printable(str(out)))
        raise
    print(aligned(report.table(choice)))
    print(*choice["recommendation"], sep="\n")
    print(f"More time: {choice['expectation']}")
    report.write_page(out / PAGE, choice)
    finish(out, choice)
    print(f"Saved in {files.printable(str(out))}: choice.json, {PAGE}, and the encoder {choice['encoder']}")
