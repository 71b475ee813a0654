"""The report of a choice: a table, a picture of quality over time, and a self-contained page."""

import shlex

import matplotlib.figure
import numpy as np

from ssl_keras.pictures import figure_png, page

MAX_LINES = 6  # of baselines in the picture
HEADER = [
    "",
    "probe, %",
    "kNN, %",
    "behind, points",
    "LiDAR",
    "RankMe",
    "held-out loss",
    "steps",
    "training, s",
    "examples/s",
]


def table(choice):
    """Returns the rows of the table as cells, the header first; columns that no row has are left out."""
    rows = [HEADER, *map(_cells, choice["rows"])]
    kept = [place for place in range(len(HEADER)) if place == 0 or any(row[place] not in ("", "–") for row in rows[1:])]
    return [[row[place] for place in kept] for row in rows]


def _cells(row):
    behind = row["behind"]
    shown = "–"
    if behind:
        interval = behind["interval"] and ", ".join(f"{100 * end:.1f}" for end in behind["interval"])
        shown = f"{100 * behind['mean']:.1f} [{interval or 'one draw'}]"
    return [
        row["row"],
        _percent(row.get("probe")),
        _percent(row.get("kNN")),
        shown,
        _number(row.get("LiDAR"), ".1f"),
        _number(row.get("RankMe"), ".1f"),
        _number(row.get("loss"), ".4g"),
        _number(row.get("steps"), ",d"),
        _number(row.get("train_seconds"), ".0f"),
        _number(row.get("examples_per_second"), ",.0f"),
    ]


def _percent(scores):
    if not scores:
        return "–"
    return f"{100 * np.mean(scores):.1f}" + (f" ± {100 * np.std(scores, ddof=1):.1f}" if len(scores) > 1 else "")


def _number(value, how):
    return "–" if value is None else format(value, how)


def plot(choice):
    """Draws the quality, RankMe and held-out loss of each arm over its training time, with the baselines as lines."""
    figure = matplotlib.figure.Figure(figsize=(14, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    percent = 100 if choice["labels_per_class"] else 1
    quality = "probe, %" if choice["labels_per_class"] else "LiDAR"
    titles = {"score": quality, "RankMe": "RankMe", "loss": "held-out loss, relative to the first"}
    for axes, (key, title) in zip(panels, titles.items()):
        for name, points in choice["curves"].items():
            known = [point for point in points if key in point]
            scale = {"score": percent, "loss": 1 / (known[0]["loss"] or 1.0) if known else 1.0}.get(key, 1.0)
            x, y = [point["train_seconds"] for point in known], [scale * point[key] for point in known]
            axes.plot(x, y, marker="o", markersize=4, label=name)
        if max(map(len, choice["curves"].values()), default=1) > 1:
            axes.set_xscale("log")
        axes.set_xlabel("training, s")
        axes.set_title(title)
    others = [row for row in choice["rows"] if row["kind"] != "arm" and row["ranked"]]
    _lines(panels[0], {row["row"]: percent * row["score"] for row in others[:MAX_LINES]})
    _lines(panels[1], {row["row"]: row["RankMe"] for row in choice["rows"] if row["kind"] == "random"})
    panels[2].legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _lines(axes, values):
    """Draws a horizontal line for each of {row: value}."""
    for place, (name, value) in enumerate(values.items()):
        axes.axhline(value, color="gray", linestyle=("--", ":", "-.")[place % 3], linewidth=1)
        axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), fontsize="x-small")


def write_page(path, choice):
    """Writes the page of a choice, atomically."""
    labels = choice["labels_per_class"]
    seeds = choice["label_seeds"]
    measured = (
        f"Frozen features, {labels} labels per class, mean ± standard deviation over {seeds} draws of the labels. "
        "Probes are measured on at most as many validation labels. The test split was not read."
        if labels
        else "Measured without labels, on validation examples. The test split was not read."
    )
    reasons = [f"{name}: {reason}" for name, reason in (choice["failed"] | choice["not_tried"]).items()]
    page.write(
        path,
        f"Which self-supervised task for {choice['data']}?",
        page.heading("Recommendation"),
        *map(page.paragraph, choice["recommendation"]),
        page.heading("What was measured"),
        page.paragraph(measured),
        page.table(table(choice)),
        page.picture(
            figure_png(plot(choice)),
            "Quality, RankMe and held-out loss over training time; lines without points are baselines",
        ),
        page.heading("What to expect from more time"),
        page.paragraph(choice["expectation"]),
        page.heading("Repeat the best pretraining"),
        page.quotation(shlex.join(choice["command"])),
        page.heading("Not tried, or left out"),
        page.listing(reasons or ["nothing"]),
        page.heading("The data"),
        page.table(choice["look"]["table"]),
        page.listing(choice["look"]["notes"] or ["no remarks"]),
        page.heading("The search"),
        page.paragraph(_search(choice)),
    )


def _search(choice):
    layout = choice["layout"]
    sizes = ", ".join(map(str, layout["sizes"]))
    how = (
        f"Successive halving: {sizes} arms in the rungs, and {layout['factor']} times the training time from one rung "
        "to the next."
        if len(layout["sizes"]) > 1
        else f"One rung: each of {sizes} arms was trained once."
    )
    return f"{how} It took {choice['seconds'] / 60:.1f} of {choice['minutes']:g} minutes."
