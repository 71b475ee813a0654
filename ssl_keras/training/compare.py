"""Runs side by side."""

import csv
import json


def compare(root):
    """A Markdown table of the runs in a folder: outcomes, and the settings in which they differ.

    Raises:
        ValueError: no runs there.
    """
    found = sorted(path.parent for path in root.glob("*/settings.json") if (path.parent / "metrics.csv").exists())
    if not found:
        raise ValueError(
            f"No runs in {root}. Expected folders with a metrics.csv, which a run writes after its first interval."
        )
    settings = [json.loads((folder / "settings.json").read_text("utf-8")) for folder in found]
    keys = list(dict.fromkeys(key for each in settings for key in each))
    differing = [key for key in keys if len({json.dumps(each.get(key)) for each in settings}) > 1]
    header = ["run", "step", "best val_loss", "at step", "test_loss", "test_accuracy", "seconds", *differing]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for folder, each in zip(found, settings):
        summary = folder / "summary.json"
        outcome = json.loads(summary.read_text("utf-8")) if summary.exists() else _unfinished(folder)
        names = ("step", "best_val_loss", "best_step", "test_loss", "test_accuracy", "seconds")
        cells = [folder.name] + [_cell(outcome.get(name)) for name in names] + [_cell(each.get(k)) for k in differing]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _unfinished(folder):
    """What metrics.csv tells of a run that has not ended."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    best = min(rows, key=lambda row: float(row["val_loss"]))
    step = f"{rows[-1]['step']} (unfinished)"
    return {"step": step, "best_val_loss": float(best["val_loss"]), "best_step": best["step"]}


def _cell(value):
    return "–" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
