"""Reports of an evaluation: its table as Markdown, CSV, JSON and a chart."""

import matplotlib.figure
import numpy as np

from ssl_keras import files
from ssl_keras.downstream.columns import DISTURBED, MEASURES, WHOLE
from ssl_keras.files import tables
from ssl_keras.pictures import figure_png

FILES = ("table.md", "table.csv", "table.json", "table.png")
DIGEST = "Hash of the encoders, the data and the settings: "


def markdown(table):
    """Formats the table as Markdown, with accuracies in percent ± the standard deviation over label seeds."""
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in table.items():
        lines.append(f"| {name} | " + " | ".join(_cell(c, row.get(c)) for c in columns) + " |")
    return "\n".join(lines) + "\n"


def _cell(column, value):
    if value is None:
        return "–"
    mean, sd = value
    if column in MEASURES:
        return f"{mean:.2f}"
    return f"{100 * mean:.1f}" + (f" ± {100 * sd:.1f}" if sd else "")


def has_digest(folder, digest):
    """Returns whether the table in a folder was saved with this digest, or there is none."""
    path = folder / "table.md"
    return not path.is_file() or f"{DIGEST}{digest}\n" in path.read_text("utf-8", errors="replace")


def differences(found, baseline="scratch"):
    """Formats `Measured.differences` as Markdown, in points with 95% intervals; empty if there are none.

    Columns with one label seed have no interval and are left out.
    """
    shown = {
        row: {column: each for column, each in columns.items() if each.interval is not None}
        for row, columns in found.items()
    }
    columns = list(dict.fromkeys(column for row in shown.values() for column in row))
    if not columns:
        return ""
    lines = [f"| difference to {baseline}, points | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in shown.items():
        cells = (row.get(column) for column in columns)
        shown_cells = ("–" if c is None else f"{100 * c.mean:+.1f} [{_interval(c)}]" for c in cells)
        lines.append(f"| {name} | " + " | ".join(shown_cells) + " |")
    return "\n".join(lines) + "\n"


def _interval(difference):
    return ", ".join(f"{100 * end:+.1f}" for end in difference.interval)


def save(table, folder, title, digest="", more=""):
    """Writes the table and its chart, `FILES`, into a folder.

    Args:
        digest: hash of the encoders, the data and the settings, for `has_digest`.
        more: Markdown that follows the table.
    """
    files.make_folder(folder)
    end = f"\n{DIGEST}{digest}\n" if digest else ""
    files.write(folder / "table.md", f"{title}\n\n{markdown(table)}" + (more and f"\n{more}") + end)
    files.write_json(folder / "table.json", table)
    cells = [[row, column, *value] for row, columns in table.items() for column, value in columns.items()]
    tables.write_csv(folder / "table.csv", [["row", "column", "mean", "sd"], *cells])
    files.write(folder / "table.png", figure_png(plot(table, title)))


def plot(table, title):
    """Draws the accuracies as a bar chart, with a group for each number of labels and a bar for each row."""
    hidden = ("kNN", *DISTURBED, *MEASURES)
    columns = [c for c in next(iter(table.values())) if c not in hidden and not c.endswith(WHOLE)]
    figure = matplotlib.figure.Figure(figsize=(9, 4))
    axes = figure.subplots()
    width = 0.8 / len(table)
    for index, (name, row) in enumerate(table.items()):
        x = np.arange(len(columns)) + (index - (len(table) - 1) / 2) * width
        mean, sd = zip(*(row[column] for column in columns))
        axes.bar(x, 100 * np.array(mean), width, yerr=100 * np.array(sd), label=name, capsize=2)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_xlabel("labels")
    low = min(mean for row in table.values() for c, (mean, _) in row.items() if c in columns)
    axes.set_ylim(max(0, 100 * low - 10), 100)
    axes.set_ylabel("test accuracy, %")
    axes.set_title(title)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure
