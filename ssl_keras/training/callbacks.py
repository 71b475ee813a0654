"""`RunCallback`: metrics, checkpoints, the best weights, early stopping, signals and progress of a run."""

import contextlib
import csv
import io
import logging
import math
import signal
import sys
import time

import keras
from tqdm import tqdm

from ssl_keras import files
from ssl_keras.engine.process import handling_signals
from ssl_keras.training import checkpoint, speed

EXIT_TERMINATED = 128 + signal.SIGTERM  # exit code after SIGTERM, once the state is saved
SECONDS_BETWEEN_LINES = 10  # between progress lines, if the output is not a terminal
ACCURACIES = ("accuracy", "top1")  # endings of the names of metrics that are 1 at best
CHECKPOINT_DUE = 1  # shared by workers in place of a signal number when it is time to save

log = logging.getLogger(__name__)


class RunCallback(keras.callbacks.Callback):
    """Writes metrics.csv and checkpoints, keeps the best weights, stops early, saves on signals.

    Each worker has one; only the chief writes.
    """

    def __init__(self, folder, training, total, interval, workers):
        super().__init__()
        self.folder, self.training, self.total, self.interval = folder, training, total, interval
        self.workers = workers
        self.checkpoints = checkpoint.Checkpoints(folder / "checkpoints", workers)
        self.checkpoints.remove_leftovers()
        self.notes = {"best": None, "best_step": 0, "score": None, "waited": 0, "seconds": 0.0, "warnings": []}
        self.rows, self.metrics_to_restore = [], None
        self.stop, self.signal = False, None
        self.bar, self.started, self.last_line = None, time.monotonic(), 0.0
        self.saved, self.clock = self.started, speed.Clock()

    def restore(self, objective):
        """Loads the newest checkpoint, if there is one; returns the step."""
        notes = self.checkpoints.restore(objective)
        step = int(objective.step.numpy())
        if notes is not None:
            self.notes |= notes
            if not _is_finite(self.notes["best"]):  # version 0.1.0 took the first loss even if it was not finite
                self.notes["best"] = None
            self.stop = self._patience_spent()
            if step % self.interval and step < self.total:  # `fit` resets the metrics, so restore them after that
                self.metrics_to_restore = files.read_variables(checkpoint.metric_variables(objective))
            log.info("Resuming %s at step %d of %d", self.folder, step, self.total)
        path = self.folder / "metrics.csv"
        if path.exists():  # drop rows from after the checkpoint; they will be written again
            self.rows = [row for row in read_metrics(path) if int(row["step"]) <= step]
        return step

    def signals(self):
        """Saves a checkpoint before SIGINT or SIGTERM ends the run."""

        def handle(number):
            self.signal = number
            log.warning("Received %s: saving a checkpoint, then stopping.", number.name)

        return handling_signals(handle)

    @contextlib.contextmanager
    def progress(self, step):
        """Shows a progress bar on a terminal, and logs a line every ten seconds elsewhere."""
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
        self._show_progress(step, logs)
        if step % self.interval and step < self.total:
            request = self._shared_request()
            if request:
                self._save(best=False)
            if request > CHECKPOINT_DUE:
                self._exit()

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
        self._check_metrics(row)
        metric = self.model.best_metric
        score = row[f"val_{metric}"] if metric else -row["val_loss"]
        # No number is more than NaN: a NaN loss at the first evaluation would stay the best.
        finite, best_so_far = _is_finite(row["val_loss"]), self.notes["score"]
        improved = finite and (best_so_far is None or self.model.keep_last_checkpoint or score > best_so_far)
        best = improved or finite and metric is not None and score == best_so_far  # later weights have trained longer
        if best:
            self.notes |= {"best": row["val_loss"], "best_step": row["step"], "score": score}
        self.notes["waited"] = 0 if improved else self.notes["waited"] + 1
        self._save(best)
        if self._patience_spent():
            self.stop = self.model.stop_training = True
        if self._shared_request() > CHECKPOINT_DUE:
            self._exit()

    def _check_metrics(self, row):
        """Warns about suspicious metrics; the summary keeps the first warning of each kind."""
        loss = row["val_loss"]
        if not _is_finite(loss):
            text = f"the validation loss is not finite ({loss}); these weights do not count as the best"
            self._warn("not finite", row["step"], text)
        if len(self.rows) == 1:
            found = [f"{name} is 0" for name in ("loss", "val_loss") if row[name] == 0]
            accuracies = [name for name in row if name.startswith("val_") and name.endswith(ACCURACIES)]
            found += [f"{name} is 100%" for name in accuracies if row[name] == 1]  # few examples are soon learned
            if found:
                self._warn(
                    "easy",
                    row["step"],
                    f"{' and '.join(found)} at the first evaluation. The data may be too easy, "
                    "contain nothing to learn, or reveal the answer",
                )

    def _warn(self, kind, step, sentence):
        text = f"step {step}: {sentence}."
        if self.workers.is_chief:
            log.warning("%s", text)
        if kind not in (kind for kind, _ in self.notes["warnings"]):
            self.notes["warnings"].append((kind, text))

    def _shared_request(self):
        """Returns the signal that any worker received, so that all stop together; else CHECKPOINT_DUE or 0."""
        minutes = self.training.checkpoint_minutes
        due = minutes and time.monotonic() - self.saved > 60 * minutes
        request = int(self.workers.all_gather(self.signal or (CHECKPOINT_DUE if due else 0)).max())
        if request > CHECKPOINT_DUE:
            self.signal = request
        return request

    def finish(self, objective):
        """Loads the best weights; returns the outcome: metrics of the last evaluation, and the best of what chose."""
        step = int(objective.step.numpy())
        last = {k: float(v) for k, v in self.rows[-1].items()} if self.rows else {}
        best_step, best = self.notes["best_step"], self.notes["best"]
        metric, chosen = objective.best_metric, {}
        if best is None and last:
            log.warning("%s: no validation loss was finite. Keeping the last weights.", self.folder)
        if best is None or not self.checkpoints.restore_best(objective):
            loss = last.get("val_loss")
            best_step, best = step, loss if _is_finite(loss) else None
        elif metric:
            chosen = {f"best_val_{metric}": self.notes["score"]}
        warnings = [text for _, text in self.notes["warnings"]]
        return (
            last
            | self.notes.get("speed", {})
            | ({"warnings": warnings} if warnings else {})
            | {
                "step": step,
                "best_step": best_step,
                **chosen,
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

    def _exit(self):
        log.warning("Saved %s at step %d. Use --resume to continue.", self.folder, int(self.model.step.numpy()))
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(EXIT_TERMINATED)

    def _show_progress(self, step, logs):
        loss = float(logs["loss"])
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self.bar.update(step - self.bar.n if not self.bar.disable else 0)
        now = time.monotonic()
        due = now - self.last_line > SECONDS_BETWEEN_LINES or step == self.total
        if self.bar.disable and self.workers.is_chief and due:
            if self.last_line:
                rate = (step - self.last_step) / (now - self.last_line)
                left = (self.total - step) / rate if rate else math.inf
                log.info("step %d/%d: loss %.4f, %.3g steps/s, %.0f s left", step, self.total, loss, rate, left)
            self.last_line, self.last_step = now, step


def read_metrics(path):
    """Returns the rows of a metrics.csv, [{column: text}]. Warns about an incomplete last line and skips it."""
    table, _, rest = path.read_text("utf-8").rpartition("\n")
    if rest:
        log.warning("%s is damaged: its last line is incomplete and is ignored.", path)
    return list(csv.DictReader(table.splitlines()))


def _is_finite(loss):
    return loss is not None and math.isfinite(loss)
