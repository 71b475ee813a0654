"""The choice: looks at the data, races the objectives that take them, and ranks them next to baselines.

FOLDER/search.json   what has been measured; the same command resumes a killed search
FOLDER/runs/         the runs of the arms, each with its encoder
FOLDER/choice.json   the result, written last
FOLDER/choice.html   a page with the table, the curves and the reasons
"""

import dataclasses
import logging
import pathlib
import shutil
import time

import numpy as np

from ssl_keras import encoders, files
from ssl_keras.choosing import arms as table
from ssl_keras.choosing import baselines, curve, ranking
from ssl_keras.choosing.halving import Halving
from ssl_keras.choosing.look import look
from ssl_keras.choosing.runs import Runs
from ssl_keras.choosing.state import NAME, State
from ssl_keras.choosing.yardstick import Yardstick
from ssl_keras.data.splits import check_classes
from ssl_keras.encoders import card as cards
from ssl_keras.files import locks

CHOICE, PAGE = "choice.json", "choice.html"
LABELS = 10  # labels per class, where the data have as many and nothing was asked for
START_SECONDS, ARM_SECONDS = 10, 12  # the least that a search, and each of its arms, takes before any speed is measured
REPORT_SECONDS = 4  # for the table and the page
PILOT_FRACTION, MAX_PILOT = 0.03, 10.0  # of the budget, over all arms; seconds of an arm
PLAN = {"dropped": {}, "layout": {}, "every": {}}  # entries of a search that follow from its minutes
EMPTY = {"minutes": None, "data": None, "speeds": {}, "baselines": {}, "rungs": []} | PLAN
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Question:
    """The data, the labels that may be used, and the budget.

    Attributes:
        data: name of the dataset.
        image_size: side length of images, or None.
        minutes: budget of the whole command.
        labels_per_class: labels per class that are used; 0 uses none, and None as many as `LABELS` if there are any.
        label_seeds: number of random draws of these labels.
        encoders: names or paths of saved encoders that take part.
        seed: seed of the runs.
    """

    data: str
    image_size: int | None = None
    minutes: float = 30.0
    labels_per_class: int | None = None
    label_seeds: int = 5
    encoders: tuple[str, ...] = ()
    seed: int = 0


def choose(question, splits, out, overwrite=False, arms=None, started=None):
    """Finds the self-supervised task for a dataset, or resumes the search in a folder.

    Args:
        question: `Question`.
        splits: `Splits`, those that `question.data` names.
        out: the folder of the result.
        overwrite: whether a finished result there, or another search, is replaced.
        arms: the [`Arm`] to try; None takes those of the data's kind.
        started: `time.monotonic()` at the start of the command, from which the budget counts; None is now.

    Returns:
        The choice, a JSON-serializable dict: "rows", "winner", "command", "expectation", …

    Raises:
        ValueError: the data, the labels, an encoder or the budget do not allow a search; `out` has another one.
    """
    started, out = time.monotonic() if started is None else started, pathlib.Path(out).expanduser()
    _check_out(out, overwrite)
    kind = table.kind_of(splits)
    per_class = labels_per_class(splits, question.labels_per_class)
    yardstick = Yardstick(splits, per_class, range(question.label_seeds))
    weights = _check_encoders(question.encoders, yardstick.splits)
    log.info("%s: %s. Looking for objectives that take them.", splits.train.base, table.KINDS[kind])
    chosen, reasons = table.applicable(splits, arms)
    _check_minutes(question.minutes, len(chosen))
    for name, reason in reasons.items():
        log.info("not tried: %s: %s", name, reason)
    asked = {name: value for name, value in dataclasses.asdict(question).items() if name != "minutes"} | {
        "fingerprints": [part.fingerprint() for part in splits[:2]],
        "weights": weights,
        "arms": [list(arm) for arm in chosen],
    }
    files.make_folder(out)
    with locks.alone_in(out):
        state = _state(out, asked, question.minutes, overwrite, started)
        if state["data"] is None:
            state["data"] = look(splits, kind)
            state.save()
        seconds = 60 * question.minutes
        pilot = min(PILOT_FRACTION * seconds / len(chosen), MAX_PILOT)
        runs = Runs(out, splits, question.data, question.image_size, chosen, yardstick, question.seed, pilot)
        found = _search(state, runs, question, seconds)
        return _conclude(state, runs, found, question, reasons, kind, per_class)


def _state(out, asked, minutes, overwrite, started):
    """Opens the state of the search in a folder; with `overwrite`, a finished search or another one is removed."""
    names = [name for name, *_ in asked["arms"]]
    if overwrite and (out / CHOICE).exists():
        _remove(out, names)
    try:
        return _with_minutes(State(out / NAME, asked, EMPTY, started=started), minutes, out)
    except ValueError:
        if not overwrite:
            raise
    _remove(out, names)
    return _with_minutes(State(out / NAME, asked, EMPTY, started=started), minutes, out)


def _with_minutes(state, minutes, out):
    """Returns the state of a search with this budget; one that has only measured speeds gets a new plan.

    Raises:
        ValueError: arms have been trained for another budget.
    """
    if state["minutes"] not in (None, minutes):
        if state["rungs"]:
            raise ValueError(
                f"{out} has a search with --minutes {state['minutes']:g} that has begun to train. Received: "
                f"{minutes:g}. Resume it with its --minutes, add --overwrite to replace it, or choose another --out."
            )
        state.restart(PLAN)
    state["minutes"] = minutes
    return state


def _search(state, runs, question, seconds):
    """Returns the measurements of the arms; those of the baselines are in the state."""

    def train(name, steps, every):
        return runs.train(name, steps, every, state["speeds"][name][0])

    search = Halving(state, train, ranking.score, seconds, REPORT_SECONDS)
    search.pilots(list(runs.arms), runs.pilot)
    baselines.measure_all(state, runs, question.encoders, seconds)
    return search.run(list(runs.arms))


def _conclude(state, runs, found, question, reasons, kind, per_class):
    """Returns the choice, as `choose` does."""
    rows = ranking.rank(found, state["baselines"], per_class)
    for row in rows:  # an untrained network is described by the encoder of any arm that has it
        trained = [name for name in row.get("arms", ()) if name in found]
        row["from"] = str(runs.encoder(trained[0])) if trained else row.get("from", "")
    winner, best_arm = rows[0]["row"], next(row["row"] for row in rows if row["kind"] == "arm")
    points = found[best_arm]["curve"]
    errors = None
    if per_class:
        errors = [_standard_error(rung["measured"][best_arm]["probe"]) for rung in state["rungs"][: len(points)]]
    command = runs.command(best_arm, found[best_arm]["steps"], state["every"][best_arm])
    return {
        "data": question.data,
        "kind": kind,
        "labels_per_class": per_class,
        "label_seeds": question.label_seeds if per_class else 0,
        "minutes": question.minutes,
        "rows": rows,
        "winner": winner,
        "recommendation": ranking.recommendation(rows, question, per_class, command, state["dropped"]),
        "best_arm": best_arm,
        "command": command,
        "encoder": str(runs.encoder(best_arm)),
        "expectation": curve.expectation(
            [point["steps"] / points[0]["steps"] for point in points],
            [point["score"] for point in points],
            errors,
            1.0 if per_class else np.inf,
            bool(per_class),
        ),
        "curves": {name: measured["curve"] for name, measured in found.items()},
        "not_tried": reasons,
        "failed": state["dropped"],
        "layout": state["layout"],
        "look": state["data"],
        "seconds": state.spent(),
    }


def _standard_error(scores):
    return float(np.std(scores, ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else 0.1


def finish(out, choice):
    """Writes choice.json, and removes what only the search needed."""
    out = pathlib.Path(out).expanduser()
    files.write_json(out / CHOICE, choice)
    for folder in (out / "runs").glob("pilot-*"):
        shutil.rmtree(folder)


def labels_per_class(splits, asked):
    """Returns the number of labels per class that are used; 0 for none.

    Raises:
        ValueError: labels are asked for and there are none, or only one class.
    """
    has = "label" in splits.train.arrays
    if asked and not has:
        try:
            splits.train.column_spec("label")  # raises, and tells why there are none
        except ValueError as error:
            raise ValueError(f"{error} To measure without labels, leave out --labels-per-class.") from None
    if asked == 0 or not has:
        return 0
    try:
        check_classes(splits.train)
    except ValueError as error:
        raise ValueError(f"{error} To measure without labels, use --labels-per-class 0.") from None
    counts = np.bincount(splits.train.column("label"), minlength=len(splits.train.classes))
    return asked or max(1, min(LABELS, int(counts.min())))


def _check_encoders(names, splits):
    """Returns the hashes of the weights of saved encoders. Raises ValueError if one is unknown or does not fit."""
    weights = []
    for name in names:
        folder = encoders.find(name)
        card = cards.read(folder)
        encoders.adapt(folder, card, splits)
        weights.append(card["weights"]["sha256"][:16])
    return weights


def _check_minutes(minutes, count):
    least = (START_SECONDS + ARM_SECONDS * count + REPORT_SECONDS) / 60
    if minutes < least:
        raise ValueError(
            f"The budget is too short. Expected at least --minutes {least:.1f}, to start and measure {count} arms. "
            f"Received: {minutes:g}"
        )


def _check_out(out, overwrite):
    """Raises ValueError if a folder has a result, and must not be replaced, or something that is not a search."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is a file. Choose another --out.")
    if (out / CHOICE).exists():
        if not overwrite:
            raise ValueError(f"{out} has a finished choice. Add --overwrite to replace it, or choose another --out.")
    elif not (out / NAME).exists() and any(path.name != locks.NAME for path in out.iterdir()):
        raise ValueError(f"{out} is not empty, and is not a search. Choose another --out.")


def _remove(out, names):
    """Removes a search, and its runs of these arms and of those of the table; other runs in the folder stay."""
    for name in (CHOICE, PAGE, NAME):
        (out / name).unlink(missing_ok=True)
    for name in {*names, *(arm.name for arms in table.ARMS.values() for arm in arms)}:
        for folder in (out / "runs" / name, out / "runs" / f"pilot-{name}"):
            shutil.rmtree(folder, ignore_errors=True)
