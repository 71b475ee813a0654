"""The command `curate`."""

import dataclasses
import logging
import pathlib
import tempfile
from typing import Annotated, Literal

from ssl_keras import files
from ssl_keras.cli.flags import Positional, one_or_more, parse
from ssl_keras.curation import engines, report
from ssl_keras.curation.curate import curate
from ssl_keras.curation.settings import Settings
from ssl_keras.curation.writing import describe_funnel
from ssl_keras.data.ranges import Range
from ssl_keras.engine.process import handling_signals

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curate(Settings):
    """A curation of datasets, and its result."""

    data: Annotated[Positional[tuple[str, ...]], one_or_more("DATA")]
    """Datasets of one kind to curate together: text:PATH, table:FILE, folder:PATH, captions:FILE, audio:PATH or
    tfds:NAME[SPLIT]."""
    out: str = ""
    """Folder for the result, which --data curated:FOLDER and TensorFlow Datasets open. The same command resumes it."""
    against: tuple[str, ...] = ()
    """Evaluation datasets whose examples, and near copies of them, are removed. Names as of the datasets to curate."""
    engine: Literal["local", "beam"] = "local"
    """Program that runs the stages. beam is Apache Beam; arguments after -- are its options, such as
    -- --runner=FlinkRunner."""
    workers: Annotated[int, Range(1)] = 1
    """Number of processes of the local engine."""
    dry_run: bool = False
    """Measure and decide, but write only the report."""
    report: str = ""
    """HTML page to write, with what was removed, why, and examples of it."""
    overwrite: bool = False
    """Replace an existing --report."""

    def settings(self):
        """Returns the `Settings` among the flags."""
        return Settings(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Settings)})


def curate_command(arguments):
    place = arguments.index("--") if "--" in arguments else len(arguments)
    asked, options = parse(Curate, "curate", arguments[:place]), arguments[place + 1 :]
    if bool(asked.out) == asked.dry_run:
        raise ValueError("Expected --out FOLDER, or --dry-run. Received: " + ("both" if asked.out else "neither"))
    if options and asked.engine != "beam":
        raise ValueError(f"Expected arguments after -- only with --engine beam. Received: {' '.join(options)}")
    if asked.report:
        files.check_output(asked.report, asked.overwrite)
    engine = engines.Beam(options) if asked.engine == "beam" else engines.Local(asked.workers)

    def look(work, result):
        if asked.report:
            report.write(asked.report, work, result)

    with _ending_on_signals(asked.dry_run), tempfile.TemporaryDirectory() as temporary:
        out = pathlib.Path(asked.out).expanduser() if asked.out else pathlib.Path(temporary) / "dry"
        result = curate(asked.data, out, asked.settings(), engine, asked.against, asked.dry_run, look=look)
    print(describe_funnel(result))
    if not asked.dry_run:
        print(f"{asked.out}: " + ", ".join(f"{name} {count:,}" for name, count in result.splits.items()))


def _ending_on_signals(dry_run):
    """Ends the command on SIGINT or SIGTERM with a line, and lets it remove its locks and temporary files."""

    def handle(number):
        left = "Nothing was written." if dry_run else "The same command resumes."
        log.warning("Received %s: stopping. %s", number.name, left)
        raise SystemExit(128 + number)

    return handling_signals(handle)
