"""Checkpoints: everything a run needs to go on exactly, one atomic file each.

A checkpoint holds weights, optimizer state, seed generators, metric accumulators and the
step. The data position is no state: batch `step` is a function of (seed, step).
"""

import hashlib
import json
import logging
import re
import time

import safetensors
import tensorflow as tf

from ssl_keras import files
from ssl_keras.files import assign_variables, read_variables
from ssl_keras.training.workers import Workers

BEST = "best.safetensors"
STEP = re.compile(r"step-\d{10,}\.safetensors")  # no other name: a copy that somebody keeps there is not ours to remove
LEFTOVER = re.compile(rf"\.({re.escape(BEST)}|{STEP.pattern})\.\d+\.partial")
LATE = 60.0  # seconds; NFS looks anew for a file after that, as it is usually set up
log = logging.getLogger(__name__)


def variables(objective):
    """{name: variable} of all that changes in training, names stable across processes."""
    state = {name: getattr(objective.state, name) for name in ("step", "loss_scale", "finite_steps")}
    # By position: Keras numbers unnamed layers anew in every network of a process.
    for place, network in enumerate(objective.layers):
        state |= {f"weights/{place}/{i:04d}/{v.name}": v for i, v in enumerate(network.variables)}
    for index, (optimizer, _) in enumerate(objective.optimizer_groups()):
        state |= {f"optimizers/{index}/{i}/{v.name}": v for i, v in enumerate(optimizer.variables)}
    return state | metric_variables(objective)


def metric_variables(objective):
    """{name: variable} of the metrics' accumulators."""
    return {f"metrics/{metric.name}/{i}": v for metric in objective.metrics for i, v in enumerate(metric.variables)}


class Checkpoints:
    """The checkpoints of one run: the last two, and the best.

    Args:
        folder: where `step-0000000123.safetensors` and `best.safetensors` live.
        workers: who trains, `Workers`; their chief writes, and all of them look whether it is what they have.
    """

    KEEP = 2

    def __init__(self, folder, workers=None):
        self.folder, self.workers = folder, workers or Workers(tf.distribute.get_strategy())
        files.make_folder(folder)

    def paths(self):
        """The ordinary checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*.safetensors") if STEP.fullmatch(path.name))

    def remove_leftovers(self):
        """Removes what a writer that was killed has left. Only for a run that holds its folder: no other may write."""
        if self.workers.is_chief:
            for path in list(self.folder.iterdir()):
                if LEFTOVER.fullmatch(path.name):
                    path.unlink()

    def save(self, objective, notes, best=False):
        """Writes the state; `notes` is JSON-able. The previous file stays until this one is whole.

        Raises:
            ValueError: a worker has another state, or does not see the file that the chief wrote.
        """
        values = read_variables(variables(objective))  # by all: to read a metric is to sum it over the workers
        digest, step = _digest(values), int(values["step"])
        self.workers.agree(f"state at step {step}", digest)
        path = self.folder / f"step-{step:010d}.safetensors"
        if self.workers.is_chief:
            content = files.tensors_to_bytes(values, {"notes": json.dumps(notes), "sha256": digest})
            if best:  # first: the notes in the ordinary file already call it the best
                files.write(self.folder / BEST, content)
            files.write(path, content)
        self.workers.wait()
        seen = _seen(path, digest)
        self.workers.agree(f"checkpoint {path}", "the file that the chief wrote" if seen else "no such file")
        if self.workers.is_chief:
            for old in self.paths()[: -self.KEEP]:
                old.unlink()

    def restore(self, objective):
        """Loads the newest whole checkpoint into the objective; returns its notes, or None.

        A file that is damaged is named in a warning, and the one before it is taken.

        Raises:
            ValueError: there are checkpoints, and none can be used; workers see different ones.
        """
        reason, found = None, None
        for path in reversed(self.paths()):
            try:
                found, reason = (path.name, *self._read(objective, path)), None
                break
            except ValueError as error:
                log.warning("Skipping a checkpoint: %s", error)
                reason = error
        # Before any of it is taken over: to set a variable is for all workers at once.
        self.workers.agree(
            f"newest checkpoint in {self.folder}", "none" if found is None else f"{found[0]} {_digest(found[1])}"
        )
        if reason is not None:
            raise ValueError(f"No checkpoint in {self.folder} can be used: {reason} Start again in another folder.")
        if found is None:
            return None
        _, values, notes = found
        assign_variables(variables(objective), values)
        return notes

    def restore_best(self, objective):
        """Loads the best state, and says whether it could be read; all workers do, or none.

        Raises:
            ValueError: workers see different ones.
        """
        values = None
        try:
            values, _ = self._read(objective, self.folder / BEST)
        except (ValueError, OSError) as error:
            log.warning("The best weights cannot be read, so the last ones are kept: %s", error)
        self.workers.agree("best checkpoint", "none" if values is None else _digest(values))
        if values is not None:
            assign_variables(variables(objective), values)
        return values is not None

    def load(self, objective, path):
        """Loads one checkpoint file; returns its notes. Raises ValueError where it is damaged."""
        values, notes = self._read(objective, path)
        assign_variables(variables(objective), values)
        return notes

    def _read(self, objective, path):
        """({name: array}, notes) of a file that fits an objective."""
        state = variables(objective)
        expected = {name: (tuple(v.shape), _numpy_dtype(v)) for name, v in state.items()}
        content = path.read_bytes()
        values = files.bytes_to_tensors(content, expected, path.name)
        metadata = _metadata(path)
        if metadata.get("sha256") != _digest(values):
            raise ValueError(f"{path.name}: its content does not match its checksum.")
        return values, json.loads(metadata["notes"])


def _numpy_dtype(variable):
    dtype = variable.dtype
    return dtype if isinstance(dtype, str) else dtype.as_numpy_dtype


def _seen(path, digest):
    """Whether a checkpoint is there and has this digest; shared storage may show a new file late."""
    until = time.monotonic() + LATE
    while not (path.exists() and _metadata(path).get("sha256") == digest):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _metadata(path):
    with safetensors.safe_open(path, "numpy") as file:
        return file.metadata() or {}


def _digest(values):
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(name.encode())
        digest.update(values[name].tobytes())
    return digest.hexdigest()
