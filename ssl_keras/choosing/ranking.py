"""The order of the rows, and what it recommends."""

import shlex

import numpy as np

from ssl_keras.evaluation.paired import paired_difference

COLUMNS = ("probe", "kNN", "LiDAR", "RankMe", "loss")  # measurements, in the order of the table


def score(measured):
    """Returns the number by which arms are compared: mean probe accuracy or, without labels, LiDAR."""
    return float(np.mean(measured["probe"])) if "probe" in measured else float(measured["LiDAR"])


def rank(arms, baselines, per_class):
    """Returns the rows of the table, best first, [{"row", "kind", "score", …}].

    With labels all rows are ranked together, by the mean accuracy of the probe; among equals baselines come first, and
    then what has the more accurate neighbors. Without labels only arms are: effective ranks of networks that differ, or
    of features without a network, are not comparable.

    Args:
        arms: {name: measurements} of the trained arms.
        baselines: {row: measurements} of the others.
        per_class: labels per class; 0 without labels.
    """
    rows = [{"row": name, "kind": "arm", **measured} for name, measured in arms.items()]
    rows += [{"row": name, **measured} for name, measured in baselines.items()]
    for row in rows:
        row.pop("curve", None)
        row["ranked"] = bool(per_class) or row["kind"] == "arm"
        row["score"] = score(row) if row["ranked"] else None

    def order(row):
        is_arm = row["kind"] == "arm"  # what needs no pretraining comes first among equals
        return not row["ranked"], -(row["score"] or 0.0), is_arm, -float(np.mean(row.get("kNN", 0.0)))

    rows.sort(key=order)
    first = rows[0]
    for row in rows:
        row["behind"] = _behind(first, row) if per_class and row is not first else None
    return rows


def _behind(first, row):
    """Returns {"mean", "interval"} of the difference to the first row, over the label seeds that both have."""
    count = min(len(first["probe"]), len(row["probe"]))
    found = paired_difference(first["probe"][:count], row["probe"][:count])
    return {"mean": found.mean, "interval": found.interval}


def equals(rows):
    """Returns the names of the rows that the label seeds cannot tell from the first one.

    A row with one label seed has no interval. It is among them if it is not behind at all.
    """
    behind = [(row["row"], row["behind"]) for row in rows[1:] if row["behind"]]
    return [name for name, each in behind if (each["interval"] or [each["mean"]])[0] <= 0]


def recommendation(rows, question, per_class, command, dropped=()):
    """Returns sentences: what to do, the command for it, and which rows are as good as far as was measured.

    Args:
        rows: those of `rank`.
        question: `Question`.
        per_class: labels per class.
        command: words of the command that repeats the best arm.
        dropped: names of the arms that were left out.
    """
    first, data = rows[0], ["--data", question.data]
    if question.image_size:
        data += ["--image-size", str(question.image_size)]
    few = ["--labels-per-class", str(per_class)]
    made = {
        "arm": [f"Pretrain with {first['row']}:", shlex.join(command)],
        "features": [
            f"No pretraining was better than {first['row']} in this time: a linear classifier on them needs no network."
        ],
        "random": [f"No pretraining was better than the untrained network ({first['row']}) in this time."],
        "scratch": [
            "No pretraining was better than training on the labels alone in this time"
            + (":" if first.get("from") else ", from random weights."),
            *(
                [shlex.join(["ssl-keras", "finetune", first["from"], *data, *few, "--scratch"])]
                if first.get("from")
                else []
            ),
        ],
        "encoder": [
            f"No pretraining was better than the saved encoder {first['row']} in this time:",
            shlex.join(["ssl-keras", "finetune", first.get("from", ""), *data]),
        ],
    }[first["kind"]]
    if first["kind"] != "arm":
        best = next(row["row"] for row in rows if row["kind"] == "arm")
        made += [f"The best of what was pretrained is {best}:", shlex.join(command)]
    if not per_class:
        made.append(
            "Without labels this is the arm with the largest LiDAR, which is weak evidence. A few labels of each class "
            "decide more."
        )
    same = equals(rows) if per_class else []
    if same:
        made.append(
            f"These labels cannot tell {first['row']} from: {'; '.join(same)}. "
            "The 95% interval of the difference contains 0, or one draw of the labels does not tell them apart."
        )
    trained = [row["row"] for row in rows if row["kind"] == "arm"]
    untried = [name for name in dropped if name not in trained]
    if untried:
        made.append(
            f"Only {len(trained)} of {len(trained) + len(untried)} arms were trained. Left out: "
            f"{', '.join(untried)}. With more --minutes those that were too slow take part."
        )
    return made
