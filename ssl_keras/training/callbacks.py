"""What keeps a run safe: its metrics, its checkpoints, the best, early stopping, signals, progress."""

import contextlib
import csv
import io
import logging
import math
import signal
import sys
import threading
import time

import keras
from tqdm import tqdm

from ssl_keras import files
from ssl_keras.training import checkpoint, speed

EXIT_TERMINATED = 128 + signal.SIGTERM  # of a run that has saved its state; Ctrl-C raises KeyboardInterrupt
SECONDS_BETWEEN_LINES = 10  # of progress, where the output is no terminal
SHARES = ("accuracy", "top1")  # names of metrics that are 1 where all is right
DUE = 1  # what a worker says to the others where no signal came, and it is time to save

log = logging.getLogger(__name__)


class RunCallback(keras.callbacks.Callback):
    """Writes metrics.csv and checkpoints, keeps the best, stops early, saves on signals.

    Of several workers each has one; the chief's writes.
    """

    def __init__(self, folder, training, total, interval, workers):
        super().__init__()
        self.folder, self.training, self.total, self.interval = folder, training, total, interval
        self.workers = workers
        self.checkpoints = checkpoint.Checkpoints(folder / "checkpoints", workers)
        self.checkpoints.remove_leftovers()
        self.notes = {"best": None, "best_step": 0, "waited": 0, "seconds": 0.0, "warnings": []}
        self.rows, self.metrics_to_restore = [], None
        self.stop, self.signal = False, None
        self.bar, self.started, self.last_line = None, time.monotonic(), 0.0
        self.saved, self.clock = self.started, speed.Clock()

    def restore(self, objective):
        """Loads the newest checkpoint, if any; returns the step."""
        notes = self.checkpoints.restore(objective)
        step = int(objective.step.numpy())
        if notes is not None:
            self.notes |= notes
            if not _is_finite(self.notes["best"]):  # of a run of 0.1.0, which took any first one
                self.notes["best"] = None
            self.stop = self._patience_spent()
            if step % self.interval and step < self.total:  # `fit` resets the metrics; they go on after that
                self.metrics_to_restore = files.read_variables(checkpoint.metric_variables(objective))
            log.info("Resuming %s at step %d of %d", self.folder, step, self.total)
        path = self.folder / "metrics.csv"
        if path.exists():  # rows from after the checkpoint are written again
            self.rows = [row for row in read_metrics(path) if int(row["step"]) <= step]
        return step

    @contextlib.contextmanager
    def signals(self):
        """Saves before SIGINT or SIGTERM ends the run; handlers exist on the main thread alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # None is a handler that was not set from Python, and cannot be put back from there.
        before = {n: signal.getsignal(n) or signal.SIG_DFL for n in (signal.SIGINT, signal.SIGTERM)}

        def note(number, _):
            self.signal = number
            signal.signal(number, before[number])  # a second one ends it at once
            log.warning("Caught %s: saving at the next step, then stopping.", signal.Signals(number).name)

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def progress(self, step):
        """A bar on a terminal, a line every few seconds elsewhere."""
        self.started = self.saved = time.monotonic()
        quiet = not (sys.stderr.isatty() and self.workers.is_chief)
        with tqdm(total=self.total, initial=step, unit=" steps", desc=self.folder.name, disable=quiet) as bar:
            self.bar = bar
            yield

    def on_epoch_begin(self, epoch, logs=None):
        if self.metrics_to_restore is not None:
            files.assign_variables(checkpoint.metric_variables(self.model), self.metrics_to_restore)
            self.metrics_to_restore = None

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.step.numpy())
        self.clock.tick(step, time.monotonic() - self.began)
        self._show(step, logs)
        if step % self.interval and step < self.total:
            said = self._said()
            if said:
                self._save(best=False)
            if said > DUE:
                self._leave()

    def on_epoch_end(self, epoch, logs=None):
        row = {"step": int(self.model.step.numpy())} | {k: float(v) for k, v in sorted(logs.items())}
        self.rows.append(row)
        table = io.StringIO()
        writer = csv.DictWriter(table, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        if self.workers.is_chief:
            files.write(self.folder / "metrics.csv", table.getvalue())
            for warning in self.model.warnings(row):
                log.warning("step %d: %s", row["step"], warning)
        self._look_at(row)
        before = self.notes["best"]
        # NaN is less than nothing, and nothing is less than NaN: as the first it would be the best for ever.
        best = _is_finite(row["val_loss"]) and (
            before is None or self.model.keep_last_checkpoint or row["val_loss"] < before
        )
        if best:
            self.notes |= {"best": row["val_loss"], "best_step": row["step"], "waited": 0}
        else:
            self.notes["waited"] += 1
        self._save(best)
        if self._patience_spent():
            self.stop = self.model.stop_training = True
        if self._said() > DUE:
            self._leave()

    def _look_at(self, row):
        """Warns of an evaluation that looks wrong; the summary keeps what is said, once."""
        loss = row["val_loss"]
        if not _is_finite(loss):
            self._warn("not finite", row["step"], f"the held-out loss is not finite ({loss}): it is never the best")
        if len(self.rows) == 1:
            found = [f"{name} is 0" for name in ("loss", "val_loss") if row[name] == 0]
            found += [f"{name} is 100%" for name, value in row.items() if name.endswith(SHARES) and value == 1]
            if found:
                self._warn(
                    "easy",
                    row["step"],
                    f"{' and '.join(found)} at the first evaluation. Where the data are not that "
                    "easy, there is nothing to learn in them, or they give the answer away",
                )

    def _warn(self, kind, step, sentence):
        text = f"step {step}: {sentence}."
        if self.workers.is_chief:
            log.warning("%s", text)
        if kind not in (said for said, _ in self.notes["warnings"]):
            self.notes["warnings"].append((kind, text))

    def _said(self):
        """0, or the signal that came to any of the workers, who then stop together, or DUE."""
        minutes = self.training.checkpoint_minutes
        due = minutes and time.monotonic() - self.saved > 60 * minutes
        number = int(self.workers.every(self.signal or (DUE if due else 0)).max())
        if number > DUE:
            self.signal = number
        return number

    def finish(self, objective):
        """Loads the best weights; returns the outcome."""
        step = int(objective.step.numpy())
        last = {k: float(v) for k, v in self.rows[-1].items()} if self.rows else {}
        best_step, best = self.notes["best_step"], self.notes["best"]
        if best is None and last:
            log.warning("No held-out loss of %s was finite: the last weights are kept.", self.folder)
        if best is None or not self.checkpoints.restore_best(objective):
            loss = last.get("val_loss")
            best_step, best = step, loss if _is_finite(loss) else None
        warnings = [text for _, text in self.notes["warnings"]]
        return (
            last
            | self.notes.get("speed", {})
            | ({"warnings": warnings} if warnings else {})
            | {
                "step": step,
                "best_step": best_step,
                "best_val_loss": best,
                "seconds": round(self.notes["seconds"], 1),
                "stopped_early": step < self.total,
            }
        )

    def _patience_spent(self):
        return 0 < self.training.patience <= self.notes["waited"]

    def _save(self, best):
        now = time.monotonic()
        self.notes["seconds"] += now - self.started
        self.started = now
        seconds = self.clock.per_step()
        if seconds:
            self.notes["speed"] = speed.rates(self.model, self.training, seconds)
        self.checkpoints.save(self.model, self.notes, best)
        self.saved = time.monotonic()

    def _leave(self):
        log.warning("Saved %s at step %d; --resume goes on from there.", self.folder, int(self.model.step.numpy()))
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(EXIT_TERMINATED)

    def _show(self, step, logs):
        loss = float(logs["loss"])
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self.bar.update(step - self.bar.n if not self.bar.disable else 0)
        now = time.monotonic()
        late = now - self.last_line > SECONDS_BETWEEN_LINES or step == self.total
        if self.bar.disable and self.workers.is_chief and late:
            if self.last_line:
                rate = (step - self.last_step) / (now - self.last_line)
                left = (self.total - step) / rate if rate else math.inf
                log.info("step %d of %d, loss %.4f, %.0f steps/s, %.0f s left", step, self.total, loss, rate, left)
            self.last_line, self.last_step = now, step


def read_metrics(path):
    """[{column: text}] of a metrics.csv; a last line that is not whole is left out, and said."""
    table, _, rest = path.read_text("utf-8").rpartition("\n")
    if rest:
        log.warning("%s is damaged: it ends within a line, which is left out.", path)
    return list(csv.DictReader(table.splitlines()))


def _is_finite(loss):
    return loss is not None and math.isfinite(loss)
