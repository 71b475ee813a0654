"""Comparison of runs: a table of their outcomes and of the settings in which they differ."""

import json
import logging
import math

from ssl_keras.training.callbacks import read_metrics

log = logging.getLogger(__name__)


def compare(root):
    """Returns a Markdown table of the runs in the folder `root`.

    Folders that are damaged or are not runs are skipped with a warning.

    Raises:
        ValueError: the folder contains no runs.
    """
    found = {}
    for path in sorted(root.glob("*/settings.json")):
        if (path.parent / "metrics.csv").exists():
            try:
                found[path.parent] = _settings(path), _outcome(path.parent)
            except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
                log.warning("Skipping %s: %s: %s", path.parent, type(error).__name__, error)
    if not found:
        raise ValueError(
            f"No runs in {root}. Expected folders with a metrics.csv, which a run writes at its first evaluation."
        )
    settings = [each for each, _ in found.values()]
    keys = list(dict.fromkeys(key for each in settings for key in each))
    differing = [key for key in keys if len({json.dumps(each.get(key)) for each in settings}) > 1]
    header = ["run", "step", "best val_loss", "at step", "test_loss", "test_accuracy", "seconds", *differing]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for folder, (each, outcome) in found.items():
        names = ("step", "best_val_loss", "best_step", "test_loss", "test_accuracy", "seconds")
        cells = [folder.name] + [_cell(outcome.get(name)) for name in names] + [_cell(each.get(k)) for k in differing]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _settings(path):
    settings = json.loads(path.read_text("utf-8"))
    if not isinstance(settings, dict) or "kind" not in settings:
        raise ValueError("its settings.json was not written by a run")
    return settings


def _outcome(folder):
    """Returns the summary of a run, or that of the rows in metrics.csv if the run has not ended."""
    summary = folder / "summary.json"
    if summary.exists():
        return dict(json.loads(summary.read_text("utf-8")))
    rows = read_metrics(folder / "metrics.csv")
    if not rows:
        raise ValueError("its metrics.csv has no rows")
    outcome = {"step": f"{rows[-1]['step']} (unfinished)"}
    finite = [row for row in rows if math.isfinite(float(row["val_loss"]))]  # NaN has no order
    if finite:
        best = min(finite, key=lambda row: float(row["val_loss"]))
        outcome |= {"best_val_loss": float(best["val_loss"]), "best_step": best["step"]}
    return outcome


def _cell(value):
    """Formats a value for one cell of the table."""
    if value is None or value != value:  # NaN, which summaries of version 0.1.0 may contain
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else " ".join(str(value).split())
