"""A run's folder: what it holds, and whether a run may go on in it."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import re

import ssl_keras
from ssl_keras import encoders, files
from ssl_keras.data.batches import Batches, check_divisible
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import replacing
from ssl_keras.files import locks
from ssl_keras.training import checkpoint
from ssl_keras.training.workers import Workers

FORMAT = 4  # of settings.json: another version's run cannot be resumed
DATA_KEYS = {"data", "examples", "fingerprint", "held_out", "tokenizer_sha256", "vocabulary"}
# Settings that say where and how fast a run goes and what it shows, not what it learns: they may change on resume.
CHANGEABLE_ON_RESUME = {
    "strategy",
    "replicas",
    "steps_per_execution",
    "checkpoint_minutes",
    "tensorboard",
    "run",
    "runs",
    "resume",
}
NOTES = {"version"}  # in settings.json: told, and not compared on resume
# Settings that are a name or a path, and what tells what lies there: the same by another name goes on.
NAMES = {
    "data": {"examples", "fingerprint", "held_out"},
    "init": {"init_weights"},
    "encoder": {"encoder_weights"},
    "tokenizer": {"tokenizer_sha256"},
}
BEGINNING = {"settings.json", "data.json"}  # what a run writes before it trains
NUM_SHOWN = 3  # names of files in a message
LONGEST = 255  # bytes of a name that storage takes
# Control characters, ends of lines, and what is no UTF-8: they would garble messages, or cannot be written.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
KINDS = re.compile(r"pretrain \w+|finetune")  # `kind` in the settings of a run
# What a run that was killed before it wrote its settings may leave.
LEFTOVER = re.compile(rf"{re.escape(locks.NAME)}|\.settings\.json\.\d+\.partial|\.writable\.\d+(\.partial)?")
log = logging.getLogger(__name__)


@contextlib.contextmanager
def open_run(training, splits, strategy, kind, settings, default_name):
    """Makes or reopens the run's folder, and holds it while the context lasts.

    Args:
        training: `Training`.
        splits: `Splits`; its training part is part of what must agree on resume.
        strategy: the one to train under.
        kind: "pretrain autoencoder", "finetune", …: so is this.
        settings: JSON-able dict of the objective's settings.
        default_name: the folder's name where `training.run` is empty; one that is too long is shortened, and one
            that a run on other data has is lengthened by a hash of these.

    Yields:
        (the folder, a `pathlib.Path`; the settings written there, a flat dict).

    Raises:
        ValueError: fewer examples than a batch, or a batch that does not divide; a name that is no plain one, or, of a
            class or the data, is not UTF-8; the folder is no run's, another run is going on there, it belongs to
            other settings (the difference is shown) or another version, or the run has begun and `resume` is off;
            workers that differ in any of this.
        PermissionError: the folder cannot be written.
    """
    _check_name(training.run)
    check_divisible(training.batch_size, strategy.num_replicas_in_sync, training.accumulate)
    Batches(splits.train, training.batch_size)  # refuses here what cannot be trained on
    _check_words(*splits.train.classes, splits.train.name)
    asked = {k: v for k, v in dataclasses.asdict(training).items() if k not in CHANGEABLE_ON_RESUME}
    asked |= {"data": splits.train.base, "examples": len(splits.train), "fingerprint": splits.train.fingerprint()}
    asked["held_out"] = [splits.validation.fingerprint(), splits.test.fingerprint()]
    if splits.train.tokenizer:
        asked["tokenizer_sha256"] = splits.train.tokenizer.sha256
    if training.init is not None:
        asked["init_weights"] = cards.read(encoders.find(training.init))["weights"]["sha256"][:16]
    asked = json.loads(json.dumps({"format": FORMAT, "kind": kind, **asked, **settings}))
    folder = pathlib.Path(training.runs) / (training.run or _own_name(training, default_name, asked["fingerprint"]))
    workers = Workers(strategy)
    # What may change on resume must still be the same for all of them: who reads metrics when the others do not waits.
    alike = [_told(asked), folder.name, training.resume, training.steps_per_execution]
    workers.agree("settings and data", json.dumps(alike, sort_keys=True))
    new = workers.is_chief and not folder.exists()
    try:
        with _held(folder, workers):
            _check_settings(folder, asked, training.resume)
            workers.wait()  # all have looked
            files.make_folder(folder)
            if workers.is_chief:
                files.write_json(folder / "settings.json", asked | {"version": ssl_keras.__version__})
            yield folder, asked
    except BaseException:
        if new:
            _remove_unbegun(folder)
        raise


def _remove_unbegun(folder):
    """Removes a folder that was made for a run that was then refused; once something else is in it, it stays."""
    with contextlib.suppress(OSError):
        names = os.listdir(folder)
        for name in names if set(names) <= BEGINNING else ():
            (folder / name).unlink()
        folder.rmdir()


def _check_words(*words):
    """Raises ValueError where a name of the data cannot be written to the card, once all of the training is done."""
    for word in words:
        try:
            str(word).encode()
        except UnicodeEncodeError:
            raise ValueError(f"The name {word!a} is not UTF-8, and cannot be saved. Rename it.") from None


def _check_name(run):
    """Raises ValueError where the name of a run's folder would lead elsewhere: here, so that it is said in one line."""
    if run and (not run.strip() or run in (".", "..") or re.search(r"[/\\]", run)):
        raise ValueError(
            f"run must be a plain name, the last part of a path. Received: {run!r}. "
            "Give the folder that the run's folder is to be in with --runs (runs=)."
        )
    if UNPRINTABLE.search(run):
        raise ValueError(f"run must be a name without control characters, in UTF-8. Received: {run!r}")
    if len(run.encode()) > LONGEST:
        raise ValueError(f"run must be a name of at most {LONGEST} bytes. Received: {len(run.encode())}")


def _own_name(training, default_name, fingerprint):
    """The name of the folder of a run that was given none."""
    name = files.shorten(UNPRINTABLE.sub("-", default_name))
    own, runs = f"{name}-{fingerprint[:8]}", pathlib.Path(training.runs)
    if (runs / own).exists():
        return own
    there = _read_settings(runs / name)
    if training.resume or there.get("format") != FORMAT or there.get("fingerprint") == fingerprint:
        return name  # whether the run there may go on is seen to later
    log.warning("%s is of a run on other data, so this one is in %s.", runs / name, runs / own)
    return own


def _read_settings(folder):
    """The settings.json of a run, or nothing where there is none that can be read."""
    try:
        there = json.loads((folder / "settings.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return there if isinstance(there, dict) and KINDS.fullmatch(str(there.get("kind"))) else {}


@contextlib.contextmanager
def _held(folder, workers):
    """The chief holds the folder while it lasts; where it cannot, or must not, all workers raise."""
    with contextlib.ExitStack() as held:
        error = None
        if workers.is_chief:
            try:
                _check_ours(folder)
                files.make_folder(folder)
                held.enter_context(locks.alone_in(folder))
            except (ValueError, OSError) as found:
                error = found
        workers.raise_together(error)
        yield


def _check_ours(folder):
    """Raises ValueError where a folder holds what no run has made, and what a run would overwrite."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not all(map(LEFTOVER.fullmatch, names)) and not _is_run(folder, names):
        raise ValueError(
            f"{folder} was not made by a run. Expected the folder of a run, an empty one, or none. Received: one with "
            f"{', '.join(names[:NUM_SHOWN])}{', …' if len(names) > NUM_SHOWN else ''}. "
            "Choose another --run name (run=), or another folder of runs (--runs, runs=)."
        )
    replacing.check(folder / "encoder")


def _is_run(folder, names):
    checkpoints = folder / "checkpoints"
    begun = any(checkpoint.STEP.fullmatch(path.name) for path in checkpoints.glob("*"))
    if "settings.json" in names:
        try:
            json.loads((folder / "settings.json").read_text("utf-8"))
        except (ValueError, RecursionError):
            return begun  # `_check_settings` says that they are damaged
        return bool(_read_settings(folder))
    # They may have been removed, since they were damaged; an empty folder of checkpoints loses nothing.
    empty = names == ["checkpoints"] and checkpoints.is_dir() and not any(checkpoints.iterdir())
    return begun or empty


def _told(asked):
    """The settings without notes, and without the names of what is told by its content."""
    told = NOTES | {name for name in NAMES if _is_told(name, asked)}
    return {key: value for key, value in asked.items() if key not in told}


def _is_told(name, asked):
    return all(asked.get(key) is not None for key in NAMES[name])


def _check_settings(folder, asked, resume):
    """Raises ValueError where a run has begun in the folder, with other settings, or without `resume`."""
    path = folder / "settings.json"
    begun = any((folder / "checkpoints").glob("*.safetensors"))  # else a request that was refused later
    if path.exists() and begun:
        try:
            there = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged ({error}). Put it back from a copy; or, with the same flags as before, remove it."
            ) from error
        if there.get("format") != FORMAT:
            raise ValueError(
                f"{folder} belongs to a run of another version of ssl_keras: its settings.json has format "
                f"{there.get('format', 1)}. Expected {FORMAT}. Finish it with that version, or choose another --run "
                "name (run=)."
            )
        keys = {k for k in (there.keys() | asked.keys()) - NOTES if there.get(k) != asked.get(k)}
        for name in sorted(keys & NAMES.keys()):
            if _is_told(name, there) and _is_told(name, asked) and not keys & NAMES[name]:
                log.warning(
                    "%s: %s was %r and is %r now: the content is the same, and it goes on.",
                    folder,
                    name,
                    there.get(name),
                    asked.get(name),
                )
                keys.remove(name)
        keys = sorted(keys)
        if keys:
            difference = "".join(f"\n  {k}: there {there.get(k)!r}, asked for {asked.get(k)!r}" for k in keys)
            what = "on other data" if set(keys) <= DATA_KEYS else "with other settings"
            raise ValueError(f"{folder} belongs to a run {what}:{difference}\nChoose another --run name (run=).")
    if resume and not begun:
        for other in sorted(folder.parent.glob("*/settings.json")):
            if other.parent != folder and _told(_read_settings(other.parent)) == _told(asked):
                log.warning(
                    "%s begins anew. %s is a run with the same data and settings: --run %s goes on with that one.",
                    folder,
                    other.parent,
                    other.parent.name,
                )
    if begun and not resume:
        raise ValueError(
            f"{folder} has begun. Add --resume (resume=True) to go on with it, or choose another --run name (run=)."
        )
