"""Checkpoints: the complete state of a run, each in one file that is written atomically.

A checkpoint contains weights, optimizer state, seed generators, metric accumulators and the
step. It needs no position in the data, since the batch of a step is a function of (seed, step).
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
STEP = re.compile(r"step-\d{10,}\.safetensors")  # files with other names, such as a user's copies, are never removed
LEFTOVER = re.compile(rf"\.({re.escape(BEST)}|{STEP.pattern})\.\d+\.partial")
FILE_TIMEOUT = 60.0  # seconds to wait for a new file; by default NFS refreshes its cache within that time
log = logging.getLogger(__name__)


def variables(objective):
    """Returns {name: variable} of the whole training state, with names that are the same in every process."""
    state = {name: getattr(objective.state, name) for name in ("step", "loss_scale", "finite_steps")}
    # By position, because the numbers that Keras gives to unnamed layers depend on what was built before.
    for place, network in enumerate(objective.layers):
        state |= {f"weights/{place}/{i:04d}/{v.name}": v for i, v in enumerate(network.variables)}
    for index, (optimizer, _) in enumerate(objective.optimizer_groups()):
        state |= {f"optimizers/{index}/{i}/{v.name}": v for i, v in enumerate(optimizer.variables)}
    return state | metric_variables(objective)


def metric_variables(objective):
    """Returns {name: variable} of the metrics' accumulators."""
    return {f"metrics/{metric.name}/{i}": v for metric in objective.metrics for i, v in enumerate(metric.variables)}


class Checkpoints:
    """The checkpoints of one run: the last two and the best.

    Args:
        folder: the folder of `step-0000000123.safetensors` and `best.safetensors`.
        workers: the `Workers` that train. The chief writes; all verify that they have the same state.
    """

    KEEP = 2

    def __init__(self, folder, workers=None):
        self.folder, self.workers = folder, workers or Workers(tf.distribute.get_strategy())
        files.make_folder(folder)

    def paths(self):
        """Returns the checkpoints except the best, oldest first."""
        return sorted(path for path in self.folder.glob("step-*.safetensors") if STEP.fullmatch(path.name))

    def remove_leftovers(self):
        """Removes partial files of killed writers. Call it only with the folder locked, so that nobody else writes."""
        if self.workers.is_chief:
            for path in list(self.folder.iterdir()):
                if LEFTOVER.fullmatch(path.name):
                    path.unlink()

    def save(self, objective, notes, best=False):
        """Writes the state and `notes`, a JSON-serializable dict. Earlier files stay until this one is complete.

        Raises:
            ValueError: the workers' states differ, or a worker does not see the file that the chief wrote.
        """
        values = read_variables(variables(objective))  # on all workers: reading a metric sums it over them
        digest, step = _digest(values), int(values["step"])
        self.workers.agree(f"state at step {step}", digest)
        path = self.folder / f"step-{step:010d}.safetensors"
        if self.workers.is_chief:
            content = files.tensors_to_bytes(values, {"notes": json.dumps(notes), "sha256": digest})
            if best:  # before the other file, whose notes already say that this step is the best
                files.write(self.folder / BEST, content)
            files.write(path, content)
        self.workers.wait()
        visible = _wait_for_file(path, digest)
        self.workers.agree(f"checkpoint {path}", "the file that the chief wrote" if visible else "no such file")
        if self.workers.is_chief:
            for old in self.paths()[: -self.KEEP]:
                old.unlink()

    def restore(self, objective):
        """Loads the newest intact checkpoint into the objective; returns its notes, or None without checkpoints.

        Damaged files are skipped with a warning.

        Raises:
            ValueError: all checkpoints are damaged, or the workers see different ones.
        """
        reason, found = None, None
        for path in reversed(self.paths()):
            try:
                found, reason = (path.name, *self._read(objective, path)), None
                break
            except ValueError as error:
                log.warning("Skipping a checkpoint: %s", error)
                reason = error
        # Compare before assigning: an assignment needs all workers, and one without a checkpoint would not take part.
        self.workers.agree(
            f"newest checkpoint in {self.folder}", "none" if found is None else f"{found[0]} {_digest(found[1])}"
        )
        if reason is not None:
            raise ValueError(f"No checkpoint in {self.folder} can be used: {reason} Start the run in another folder.")
        if found is None:
            return None
        _, values, notes = found
        assign_variables(variables(objective), values)
        return notes

    def restore_best(self, objective):
        """Loads the best checkpoint; returns whether it could be read. All workers load it, or none.

        Raises:
            ValueError: the workers see different files.
        """
        values = None
        try:
            values, _ = self._read(objective, self.folder / BEST)
        except (ValueError, OSError) as error:
            log.warning("Cannot read the best weights. Keeping the last ones. %s", error)
        self.workers.agree("best checkpoint", "none" if values is None else _digest(values))
        if values is not None:
            assign_variables(variables(objective), values)
        return values is not None

    def load(self, objective, path):
        """Loads one checkpoint file; returns its notes. Raises ValueError if it is damaged."""
        values, notes = self._read(objective, path)
        assign_variables(variables(objective), values)
        return notes

    def _read(self, objective, path):
        """Reads a file and checks that it fits the objective; returns ({name: array}, notes)."""
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


def _wait_for_file(path, digest):
    """Waits for a checkpoint with this digest, since shared storage may show it late; returns whether it appeared."""
    deadline = time.monotonic() + FILE_TIMEOUT
    while not (path.exists() and _metadata(path).get("sha256") == digest):
        if time.monotonic() > deadline:
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
