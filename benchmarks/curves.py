"""Curves of good runs and of a collapsed one, for docs/choosing.md.

    python benchmarks/curves.py              # Fashion-MNIST; three runs of 1,000 steps
    python benchmarks/curves.py --smoke      # digits, a few steps, in a folder of its own

NT-Xent and LeJEPA have their default settings. The third run is LeJEPA without SIGReg: it only asks for equal features
of two views of an image, so constant features are optimal. The measures are those of `ssl-keras choose`, of the
untrained network and at each of `STEPS`: a linear probe on 10 labels per class over label seeds 0 to 4, RankMe, LiDAR
and the held-out loss. The test split is not read. The numbers go to benchmarks/curves.json, the picture to
docs/curves.png. Recorded points are not measured again, and a killed run resumes.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import matplotlib.figure
import numpy as np
from measuring import Records

from ssl_keras import files
from ssl_keras.choosing.arms import Arm
from ssl_keras.choosing.baselines import untrained
from ssl_keras.choosing.runs import Runs
from ssl_keras.choosing.yardstick import Yardstick
from ssl_keras.data.sources import load
from ssl_keras.pictures import figure_png

PER_CLASS, LABEL_SEEDS, SEED = 10, range(5), 0
EVERY = 25  # steps between held-out evaluations
STEPS = (25, 50, 100, 200, 400, 600, 800, 1000)
RUNS = (
    Arm("NT-Xent", "contrastive"),
    Arm("LeJEPA", "contrastive", {"loss": "lejepa"}),
    Arm("LeJEPA without SIGReg", "contrastive", {"loss": "lejepa", "sigreg_weight": 0.0}),
)
MARKERS = "os^"
WORK = pathlib.Path("results/curves")


def measure(records, runs, name, steps):
    """Records what a run measures before training and at each of `steps`."""

    def before():
        runs.pilot(name)
        return untrained(runs.yardstick, runs.encoder(name, pilot=True), SEED)

    records.once(before, name, "0")
    for step in steps:
        records.once(lambda step=step: runs.train(name, step, EVERY), name, str(step))


def draw(records, path):
    """Writes a picture with a panel for each measure, and a curve for each run."""
    figure = matplotlib.figure.Figure(figsize=(14, 3.4), layout="constrained")
    panels = figure.subplots(1, 4)
    titles = {
        "probe": "linear probe, accuracy in %",
        "RankMe": "RankMe",
        "LiDAR": "LiDAR",
        "loss": "held-out loss, relative to the first",
    }
    for panel, (key, title) in zip(panels, titles.items()):
        for marker, (name, points) in zip(MARKERS, records.get().items()):
            known = sorted((int(step), np.mean(point[key])) for step, point in points.items() if key in point)
            steps, values = map(np.array, zip(*known))
            values = {"probe": 100 * values, "loss": values / values[0]}.get(key, values)
            panel.plot(steps, values, marker=marker, markersize=4, label=name)
        panel.set(title=title, xlabel="steps", ylim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, loc="lower right")
    files.write(path, figure_png(figure))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="digits and a few steps, in a folder of its own")
    asked = parser.parse_args()
    work = WORK / "smoke" if asked.smoke else WORK
    files.make_folder(work)
    records = Records(work / "curves.json" if asked.smoke else HERE.with_suffix(".json"))
    splits = load("digits" if asked.smoke else "tfds:fashion_mnist")
    yardstick = Yardstick(splits, PER_CLASS, LABEL_SEEDS, views=True)
    runs = Runs(work, splits, splits.train.base, None, RUNS, yardstick, SEED, 0.5)
    for arm in RUNS:
        measure(records, runs, arm.name, STEPS[: 2 if asked.smoke else None])
    picture = work / "curves.png" if asked.smoke else HERE.parents[1] / "docs" / "curves.png"
    draw(records, picture)
    print(picture)


if __name__ == "__main__":
    main()
