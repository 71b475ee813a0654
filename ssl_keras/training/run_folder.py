"""The folder of a run: its name, its lock, its settings, and the checks before a run starts or resumes in it."""

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

FORMAT = 4  # of settings.json; a run with another format cannot be resumed
DATA_KEYS = {"data", "examples", "fingerprint", "held_out", "tokenizer_sha256", "vocabulary"}
# Settings that affect where and how fast a run goes and what it shows, but not what it learns.
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
NOTES = {"version"}  # entries of settings.json that are not compared on resume
# Settings that are names or paths, with the entries that identify their content. They may change if these do not.
CONTENT_KEYS = {
    "data": {"examples", "fingerprint", "held_out"},
    "init": {"init_weights"},
    "encoder": {"encoder_weights"},
    "teacher": {"teacher_weights"},
    "tokenizer": {"tokenizer_sha256"},
}
INITIAL_FILES = {"settings.json", "data.json"}  # what a run writes before it trains
NUM_SHOWN = 3  # file names in a message
MAX_NAME_BYTES = 255  # the limit of most file systems
# Control characters, line separators and lone surrogates, which garble messages or cannot be encoded.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
KINDS = re.compile(r"pretrain \w+|finetune")  # `kind` in the settings of a run
# Files of a run that was killed before it wrote its settings.
LEFTOVER = re.compile(rf"{re.escape(locks.NAME)}|\.settings\.json\.\d+\.partial|\.writable\.\d+(\.partial)?")
log = logging.getLogger(__name__)


@contextlib.contextmanager
def open_run(training, splits, strategy, kind, settings, default_name):
    """Creates or reopens the folder of a run, and locks it inside the context.

    Args:
        training: `Training`.
        splits: `Splits`. On resume they must be the same as before.
        strategy: the distribution strategy.
        kind: the kind of run, such as "pretrain autoencoder" or "finetune".
        settings: JSON-serializable dict of the objective's settings.
        default_name: name of the folder if `training.run` is empty. A name that is too long is shortened. If a
            run on other data has this name, a hash of the data is appended.

    Yields:
        (the folder, a `pathlib.Path`; the settings written there, a flat dict).

    Raises:
        ValueError: there are fewer examples than a batch, or the batch does not divide among the replicas; the name
            of the run is not valid, or that of a class or the data is not UTF-8; the folder does not belong to a run,
            is in use, or belongs to a run with other settings (which are shown) or of another version; the run has
            started and `resume` is off; the workers differ in any of this.
        PermissionError: the folder cannot be written.
    """
    _check_name(training.run)
    check_divisible(training.batch_size, strategy.num_replicas_in_sync, training.accumulate)
    Batches(splits.train, training.batch_size)  # raises if the data do not fit the batch size
    _check_encodable(*splits.train.classes, splits.train.name)
    asked = {k: v for k, v in dataclasses.asdict(training).items() if k not in CHANGEABLE_ON_RESUME}
    asked |= {"data": splits.train.base, "examples": len(splits.train), "fingerprint": splits.train.fingerprint()}
    asked["held_out"] = [splits.validation.fingerprint(), splits.test.fingerprint()]
    if splits.train.tokenizer:
        asked["tokenizer_sha256"] = splits.train.tokenizer.sha256
    if training.init is not None:
        asked["init_weights"] = cards.read(encoders.find(training.init))["weights"]["sha256"][:16]
    asked = json.loads(json.dumps({"format": FORMAT, "kind": kind, **asked, **settings}))
    folder = pathlib.Path(training.runs) / (training.run or _folder_name(training, default_name, asked["fingerprint"]))
    workers = Workers(strategy)
    # All workers must agree on `resume` and `steps_per_execution` too: otherwise one would wait for the others forever.
    shared = [_compared(asked), folder.name, training.resume, training.steps_per_execution]
    workers.agree("settings and data", json.dumps(shared, sort_keys=True))
    new = workers.is_chief and not folder.exists()
    try:
        with _locked(folder, workers):
            _check_settings(folder, asked, training.resume)
            workers.wait()  # until all have read the settings
            files.make_folder(folder)
            if workers.is_chief:
                files.write_json(folder / "settings.json", asked | {"version": ssl_keras.__version__})
            yield folder, asked
    except BaseException:
        if new:
            _remove_unstarted(folder)
        raise


def _remove_unstarted(folder):
    """Removes a folder that was created for a run that then failed its checks, unless it contains anything else."""
    with contextlib.suppress(OSError):
        names = os.listdir(folder)
        for name in names if set(names) <= INITIAL_FILES else ():
            (folder / name).unlink()
        folder.rmdir()


def _check_encodable(*names):
    """Raises ValueError if a name cannot be written to the card, before training rather than after it."""
    for name in names:
        try:
            str(name).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"The name {name!a} is not UTF-8 and cannot be saved. {files.utf8_advice(str(name))}"
            ) from None


def _check_name(run):
    """Raises ValueError if the name of a run's folder is a path, cannot be printed, or is too long."""
    if run and (not run.strip() or run in (".", "..") or re.search(r"[/\\]", run)):
        raise ValueError(
            f"run must be a plain name, not a path. Received: {run!r}. "
            "Set the folder that contains the run's folder with --runs (runs=)."
        )
    if UNPRINTABLE.search(run):
        raise ValueError(f"run must be UTF-8 without control characters. Received: {run!r}")
    if len(run.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"run must be a name of at most {MAX_NAME_BYTES} bytes. Received: {len(run.encode())}")


def _folder_name(training, default_name, fingerprint):
    """Returns the folder's name for a run without a name of its own."""
    name = files.shorten(UNPRINTABLE.sub("-", default_name))
    hashed, runs = f"{name}-{fingerprint[:8]}", pathlib.Path(training.runs)
    if (runs / hashed).exists():
        return hashed
    saved = _read_settings(runs / name)
    if training.resume or saved.get("format") != FORMAT or saved.get("fingerprint") == fingerprint:
        return name  # `_check_settings` decides whether that run may be resumed
    log.warning("%s belongs to a run on other data or labels. This run uses %s.", runs / name, runs / hashed)
    return hashed


def _read_settings(folder):
    """Returns the settings.json of a run, or {} if it is missing or cannot be read."""
    try:
        saved = json.loads((folder / "settings.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return saved if isinstance(saved, dict) and KINDS.fullmatch(str(saved.get("kind"))) else {}


@contextlib.contextmanager
def _locked(folder, workers):
    """Locks the folder, on the chief, inside the context. If the chief fails, all workers raise."""
    with contextlib.ExitStack() as stack:
        error = None
        if workers.is_chief:
            try:
                _check_is_run(folder)
                files.make_folder(folder)
                stack.enter_context(locks.alone_in(folder))
            except (ValueError, OSError) as found:
                error = found
        workers.raise_together(error)
        yield


def _check_is_run(folder):
    """Raises ValueError if the folder contains files that no run has written, so that none is overwritten."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not all(map(LEFTOVER.fullmatch, names)) and not _is_run(folder, names):
        raise ValueError(
            f"{folder} was not made by a run. Expected the folder of a run, an empty folder, or none. Received: a "
            f"folder with {', '.join(names[:NUM_SHOWN])}{', …' if len(names) > NUM_SHOWN else ''}. "
            "Choose another --run name (run=), or another folder for runs (--runs, runs=)."
        )
    replacing.check(folder / "encoder")


def _is_run(folder, names):
    checkpoints = folder / "checkpoints"
    started = any(checkpoint.STEP.fullmatch(path.name) for path in checkpoints.glob("*"))
    if "settings.json" in names:
        try:
            json.loads((folder / "settings.json").read_text("utf-8"))
        except (ValueError, RecursionError):
            return started  # `_check_settings` reports that the file is damaged
        return bool(_read_settings(folder))
    # The user may have removed damaged settings. An empty folder of checkpoints contains nothing to lose.
    empty = names == ["checkpoints"] and checkpoints.is_dir() and not any(checkpoints.iterdir())
    return started or empty


def _compared(asked):
    """Returns the settings without notes, and without names and paths whose content is compared instead."""
    skipped = NOTES | {name for name in CONTENT_KEYS if _has_content_keys(name, asked)}
    return {key: value for key, value in asked.items() if key not in skipped}


def _has_content_keys(name, asked):
    return all(asked.get(key) is not None for key in CONTENT_KEYS[name])


def _extends(saved, asked):
    """Returns whether a run only gets more steps, which change nothing before them if the learning rate is constant."""
    constant = saved.get("schedule") == asked.get("schedule") == "constant"
    return constant and 0 < saved.get("steps", 0) <= asked["steps"]


def _check_settings(folder, asked, resume):
    """Raises ValueError if the folder's run has started with other settings, or has started and `resume` is off.

    More steps at a constant learning rate are not other settings: the run goes further than was asked before.
    """
    path = folder / "settings.json"
    started = any((folder / "checkpoints").glob("*.safetensors"))  # settings alone may be from a run that was refused
    if path.exists() and started:
        try:
            saved = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged ({error}). Restore it from a copy, or remove it and use the same flags as before."
            ) from error
        if saved.get("format") != FORMAT:
            raise ValueError(
                f"{folder} belongs to a run of another ssl_keras version. Expected settings.json with format {FORMAT}. "
                f"Received: {saved.get('format', 1)}. Finish the run with that version, or choose another --run name "
                "(run=)."
            )
        keys = {k for k in (saved.keys() | asked.keys()) - NOTES if saved.get(k) != asked.get(k)}
        for name in sorted(keys & CONTENT_KEYS.keys()):
            if _has_content_keys(name, saved) and _has_content_keys(name, asked) and not keys & CONTENT_KEYS[name]:
                log.warning(
                    "%s: %s changed from %r to %r. The content is the same, so the run resumes.",
                    folder,
                    name,
                    saved.get(name),
                    asked.get(name),
                )
                keys.remove(name)
        if _extends(saved, asked):
            keys.discard("steps")
        keys = sorted(keys)
        if keys:
            difference = "".join(f"\n  {k}: was {saved.get(k)!r}, is now {asked.get(k)!r}" for k in keys)
            what = "on other data" if set(keys) <= DATA_KEYS else "with other settings"
            raise ValueError(f"{folder} belongs to a run {what}:{difference}\nChoose another --run name (run=).")
    if resume and not started:
        for other in sorted(folder.parent.glob("*/settings.json")):
            if other.parent != folder and _compared(_read_settings(other.parent)) == _compared(asked):
                log.warning(
                    "%s has no checkpoint and starts from step 0. %s has the same data and settings. "
                    "Use --run %s to resume it.",
                    folder,
                    other.parent,
                    other.parent.name,
                )
    if started and not resume:
        raise ValueError(
            f"{folder} contains a run that has started. Add --resume (resume=True) to resume it, or choose another "
            "--run name (run=)."
        )
