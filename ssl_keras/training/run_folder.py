"""A run's folder: what it holds, and whether a run may go on in it."""

import dataclasses
import json
import pathlib

from ssl_keras import files
from ssl_keras.data.batches import Batches, check_divisible
from ssl_keras.training.workers import Workers

# Settings that say where and how fast a run goes, not what it learns: they may change on resume.
DATA_KEYS = {"data", "examples", "fingerprint", "held_out", "tokenizer_sha256", "vocabulary"}
CHANGEABLE_ON_RESUME = {"strategy", "replicas", "steps_per_execution", "save_minutes", "run", "runs", "resume"}


def open_run(training, splits, strategy, kind, settings, default_name):
    """Makes or reopens the run's folder.

    Args:
        training: `Training`.
        splits: `Splits`; its training part is part of what must agree on resume.
        strategy: the one to train under.
        kind: "pretrain autoencoder", "finetune", …: so is this.
        settings: JSON-able dict of the objective's settings.
        default_name: the folder's name where `training.run` is empty.

    Returns:
        (the folder, a `pathlib.Path`; the settings written there, a flat dict).

    Raises:
        ValueError: fewer examples than a batch, or a batch that does not divide; the folder
            belongs to other settings (the difference is shown), or the run has begun and
            `resume` is off; workers that differ in any of this.
        PermissionError: the folder cannot be written.
    """
    check_divisible(training.batch_size, strategy.num_replicas_in_sync, training.accumulate)
    Batches(splits.train, training.batch_size)  # refuses here what cannot be trained on
    folder = pathlib.Path(training.runs) / (training.run or default_name)
    asked = {k: v for k, v in dataclasses.asdict(training).items() if k not in CHANGEABLE_ON_RESUME}
    asked |= {"data": splits.train.base, "examples": len(splits.train), "fingerprint": splits.train.fingerprint()}
    asked["held_out"] = [splits.validation.fingerprint(), splits.test.fingerprint()]
    if splits.train.tokenizer:
        asked["tokenizer_sha256"] = splits.train.tokenizer.sha256
    asked = json.loads(json.dumps({"kind": kind, **asked, **settings}))
    workers = Workers(strategy)
    # What may change on resume must still be the same for all of them: who reads metrics when the others do not waits.
    alike = [asked, folder.name, training.resume, training.steps_per_execution]
    workers.agree("settings and data", json.dumps(alike, sort_keys=True))
    path = folder / "settings.json"
    begun = any((folder / "checkpoints").glob("*.safetensors"))  # else a request that was refused later
    if path.exists() and begun:
        try:
            there = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged ({error}). Put it back from a copy; or, with the same flags as before, remove it."
            ) from error
        keys = sorted(k for k in there.keys() | asked.keys() if there.get(k) != asked.get(k))
        if keys:
            difference = "".join(f"\n  {k}: there {there.get(k)!r}, asked for {asked.get(k)!r}" for k in keys)
            what = "on other data" if set(keys) <= DATA_KEYS else "with other settings"
            raise ValueError(f"{folder} belongs to a run {what}:{difference}\nChoose another --run name (run=).")
    if begun and not training.resume:
        raise ValueError(
            f"{folder} has begun. Add --resume (resume=True) to go on with it, or choose another --run name (run=)."
        )
    workers.wait()  # all have looked
    files.make_folder(folder)
    if workers.is_chief:
        files.write_json(path, asked)
    return folder, asked
