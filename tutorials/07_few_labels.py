# %% [markdown]
# # 7 What encoders are worth with few labels
#
# What pretraining is for: many images, few labels. Every saved encoder of images that fits the data is
# measured at 1, 10 and 60 labels per class, beside what it must beat: the pixels, and the same network
# untrained. The encoder stands still, and a linear classifier learns on its features.
#
#     python tutorials/07_few_labels.py              Fashion-MNIST, 19 minutes of one core
#     python tutorials/07_few_labels.py --trained    fine-tuning and training from scratch too: far longer
#     python tutorials/07_few_labels.py --smoke      two tiny encoders of digits, half a minute
#
# What a full run must find at least:

# %%
AT_LEAST = {
    "10 labels per class: the best encoder over random init": 0.05,
    "10 labels per class: the best encoder over pixels": 0.07,
    "60 labels per class over 10, the least gain of any row": 0.05,
    "10 labels per class over 1, the least gain of any row": 0.15,
}

# %%
import dataclasses
import logging
import math
import pathlib
import sys
import tempfile

from ssl_keras.startup import start_tensorflow

start_tensorflow()

from ssl_keras import encoders
from ssl_keras.data.sources import load
from ssl_keras.data.splits import few_labels
from ssl_keras.downstream import report
from ssl_keras.downstream.table import evaluate
from ssl_keras.encoders import card as cards
from ssl_keras.objectives import contrastive, rotation
from ssl_keras.training.pretrain import pretrain

SMOKE, TRAINED = "--smoke" in sys.argv, "--trained" in sys.argv
OUT = pathlib.Path("results/07_few_labels")
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)

# %% [markdown]
# ## Step 1: prepare the data
#
# Which labels are drawn matters more than most methods do when they are few. So each number is a mean
# over draws, the same for every row, ± the standard deviation between draws.

# %%
splits = load("digits", 8) if SMOKE else load("tfds:fashion_mnist")
budgets, label_seeds = (1, 10, 60), (0, 1) if SMOKE else (0, 1, 2, 3, 4)
print("Step 1:", ", ".join(f"{part.name}: {len(part):,} images" for part in splits))
for budget in budgets:
    print(f"        {budget} per class: {len(few_labels(splits.train, budget, 0)):,} of {len(splits.train):,} labels")

# %% [markdown]
# ## Steps 2 to 4: choose encoders
#
# They are ready: those that ship in `saved_models`, and those in a `saved_models` folder here. One fits
# if it takes images of this shape. One whose head was trained with labels has seen far more of them
# than a few, and is left out. In the short form two tiny ones are pretrained here.

# %%
if SMOKE:
    folder = tempfile.TemporaryDirectory()  # gone with the script
    names = []
    for objective, settings in (
        ("rotation", rotation.Settings(width=4)), ("contrastive", contrastive.Settings(width=4, flip=False)),
    ):
        training = dataclasses.replace(
            rotation.DEFAULTS, epochs=0, steps=40, eval_every=40, batch_size=64, warmup=10, report_every=0,
            runs=folder.name,
        )
        names.append(pretrain(objective, settings, training, data=splits)["folder"])
else:
    names = []
    for path in encoders.available().values():
        card = cards.read(path)
        image = card["input"].get("image")
        fits = image and tuple(image["shape"]) == splits.train.spec()["image"][0]
        if path.parent.name == "saved_models" and fits and card["network"] and not cards.is_classifier(card):
            names.append(path)
    if not names:
        sys.exit(f"no encoder in saved_models takes images like those of {splits.train.base}")
for name in names:
    card = cards.read(encoders.find(name))
    trained_by = card["trained_by"]
    print(f"        {card['name']}: {trained_by['objective']}, {card['parameters']:,} weights, {card['features']} "
          f"features, pretrained on {trained_by['data']['name']}")

# %% [markdown]
# ## Step 5: evaluate
#
# The regularization of each probe is chosen on validation labels, and the test split only reported on.
# Whoever has ten labels a class has no thousands more to choose by. So each choice uses at most as many
# validation labels of a class as training labels. `ssl-keras evaluate NAME NAME … --data DATA` makes the
# same table; `--whole-validation` adds what 5,000 validation labels would have chosen.
#
# `--trained` adds, for every encoder, fine-tuning, and for every architecture the same network from
# scratch: both are tuned over the same grid, which is what makes it long.

# %%
table = evaluate(names, splits, budgets, label_seeds, trained=TRAINED)
print(report.markdown(table))
title = f"{splits.train.base}, test accuracy, label seeds 0–{label_seeds[-1]}"
report.save(table, OUT, title)

# %% [markdown]
# ## How to read it
#
# - A row that does not beat `random init` has learned nothing; one that does not beat `pixels` has
#   learned nothing that was not there for the taking.
# - Two rows that differ by less than their ± may be the same.
# - `feature sd`, `RankMe`, `alignment` and `uniformity` need no label (tutorial 6); `noise` and `shift`
#   are the probe of all labels on test images that were disturbed.

# %%
frozen = {row: columns for row, columns in table.items() if row.endswith(", frozen")}
baselines = {row: columns for row, columns in table.items() if row.startswith(("pixels", "random init"))}


def best(rows, column):
    """The highest mean accuracy of any row."""
    return max(columns[column][0] for columns in rows.values())


def least_gain(more, fewer):
    """Returns the smallest gain that more labels bring to the frozen rows."""
    return min(columns[more][0] - columns[fewer][0] for columns in (frozen | baselines).values())


untrained = {row: columns for row, columns in baselines.items() if row != "pixels"}
for budget in budgets:
    column = f"{budget} per class"
    accuracy, row = max((columns[column][0], row) for row, columns in frozen.items())
    print(f"{budget:2} per class: {row} {accuracy:.1%}, pixels {table['pixels'][column][0]:.1%}, "
          f"random init {best(untrained, column):.1%}")
found = {
    "10 labels per class: the best encoder over random init":
        best(frozen, "10 per class") - best(untrained, "10 per class"),
    "10 labels per class: the best encoder over pixels":
        best(frozen, "10 per class") - table["pixels"]["10 per class"][0],
    "60 labels per class over 10, the least gain of any row": least_gain("60 per class", "10 per class"),
    "10 labels per class over 1, the least gain of any row": least_gain("10 per class", "1 per class"),
}

# %% [markdown]
# ## Look at it

# %%
print(f"Table: {OUT}/table.md, {OUT}/table.csv; picture: {OUT}/table.png")

# %% [markdown]
# ## Does it agree with what is promised above?

# %%
wrong = []
for name, value in found.items():
    agrees = math.isfinite(value) and value >= AT_LEAST[name]
    promise = "" if SMOKE else f", expected at least {AT_LEAST[name]}: {'yes' if agrees else 'NO'}"
    print(f"{name}: {value:.4f}{promise}")
    wrong += [] if agrees or SMOKE else [name]
sys.exit(f"not as expected: {', '.join(wrong)}" if wrong else 0)
