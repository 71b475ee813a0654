# %% [markdown]
# # 13 From 100 labels to the best that they give
#
# Ten labels of each class, and 55,000 images without any. Each step uses more of what there is, and
# shows what it gained on the test split:
#
# 1. the pixels,
# 2. the features of an encoder that was pretrained without labels (a linear probe),
# 3. fine-tuning of this encoder, from the probe's solution,
# 4. the unlabeled images a second time: the network's confident predictions as labels (FreeMatch).
#
#     python tutorials/13_semi_supervised.py            Fashion-MNIST, 5 minutes on 2 idle cores
#     python tutorials/13_semi_supervised.py --smoke    digits and a tiny encoder, half a minute
#
# What a full run must find at least:

# %%
AT_LEAST = {
    "the probe over the pixels": 0.05,
    "semi-supervised over the probe": 0.03,
    "semi-supervised over fine-tuning": 0.02,
}

# %%
import dataclasses
import logging
import math
import pathlib
import sys

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import matplotlib.figure
import numpy as np

from ssl_keras import encoders, files
from ssl_keras.data.sources import load
from ssl_keras.data.splits import few_label_indices
from ssl_keras.downstream import classes, finetune
from ssl_keras.downstream.columns import validation_rows
from ssl_keras.evaluation.features import compile_network, extract_features, pixels
from ssl_keras.evaluation.probes import linear_probe
from ssl_keras.objectives import contrastive, freematch
from ssl_keras.pictures import figure_png
from ssl_keras.training.pretrain import pretrain

SMOKE = "--smoke" in sys.argv
OUT = pathlib.Path("results/13_semi_supervised-smoke" if SMOKE else "results/13_semi_supervised")
RUNS = {"runs": str(OUT / "runs"), "resume": True, "tensorboard": False}
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)
PER_CLASS, LABEL_SEED = 10, 0

# %% [markdown]
# ## The data and the encoder
#
# Only the labels of 100 training images are used, and of as many validation images to choose the
# regularization of a probe. All other labels are hidden.

# %%
splits = load("digits", 16) if SMOKE else load("tfds:fashion_mnist")
few = few_label_indices(splits.train, PER_CLASS, LABEL_SEED)
choice = validation_rows(splits.validation, PER_CLASS, LABEL_SEED)
label, test_label = splits.train.column("label")[few], splits.test.column("label")
print(f"{splits.train.name}: {len(few)} labels, {len(splits.train):,} images; {len(choice)} labels to choose by")
if SMOKE:
    training = dataclasses.replace(contrastive.DEFAULTS, epochs=0, steps=20, batch_size=64, warmup=5, report_every=0)
    settings = contrastive.Settings(width=4, flip=False)
    training = dataclasses.replace(training, run="tiny", **RUNS)
    name = pretrain("contrastive", settings, training, data=splits)["folder"]
else:
    name = "contrastive-fashion_mnist"

# %% [markdown]
# ## Steps 1 and 2: pixels, and the features of a pretrained encoder


# %%
def probe(features):
    """Returns the test accuracy of a linear probe on the features of the three splits."""
    train, validation, test = features
    chosen = validation[choice], splits.validation.column("label")[choice]
    return linear_probe(train[few], label, *chosen, test, test_label)[0]


accuracy = {"pixels": probe([pixels(part) for part in splits])}
embed = compile_network(encoders.load_encoder(name))
accuracy["probe"] = probe([extract_features(embed, part) for part in splits])
for step, value in accuracy.items():
    print(f"{step}: {value:.1%}")

# %% [markdown]
# ## Step 3: fine-tuning
#
# The head starts as the linear probe (LP-FT): a random head would first disturb the features that it is
# meant to use. The moving average of the weights is kept, since 100 labels cannot choose a step to stop at.

# %%
views = {} if SMOKE else {"flip": True, "shift": 0.07}
own = {"labels_per_class": PER_CLASS, "label_seed": LABEL_SEED, "probe_init": True, **views}
short = {"steps": 4, "batch_size": 16, "warmup": 1} if SMOKE else {}
common = RUNS | {"image_size": 16 if SMOKE else None}
tuned = finetune.finetune(
    name,
    finetune.Settings(**own, ema_decay=0.99, encoder_lr_ratio=1.0),
    dataclasses.replace(
        finetune.DEFAULTS, **{"steps": 400, "schedule": "cosine", "final_rate": 0.0} | short, run="tuned", **common
    ),
    data=splits,
)
accuracy["fine-tuned"] = tuned["test_accuracy"]
print(f"fine-tuned: {tuned['test_accuracy']:.1%}")

# %% [markdown]
# ## Step 4: the unlabeled images again
#
# A weakly augmented view of an unlabeled image gets the label that the network predicts. If the network
# is confident enough, a strongly augmented view is trained to get the same. How confident is enough
# follows from the network's own confidence, class by class.
#
#     ssl-keras finetune contrastive-fashion_mnist --data tfds:fashion_mnist --unlabeled tfds:fashion_mnist \
#         --labels-per-class 10 --probe-init --flip --shift 0.07

# %%
semi = finetune.finetune(
    name,
    finetune.Settings(**own, unlabeled="digits" if SMOKE else "tfds:fashion_mnist"),
    dataclasses.replace(freematch.DEFAULTS, **short, run="semi", **common),
    data=splits,
)
accuracy["semi-supervised"] = semi["test_accuracy"]
print(
    f"semi-supervised: {semi['test_accuracy']:.1%}; at the end {semi['used_fraction']:.0%} of the unlabeled images are "
    f"used, and of {len(choice)} held-out images {semi['val_pseudo_accuracy']:.0%} get the right pseudo-label"
)

# %% [markdown]
# ## Look at it
#
# Which classes are confused, and whether the network knows when it is wrong: self-training makes a
# network certain, not right. The reliability diagram shows by how much.

# %%
model = encoders.load_classifier(semi["folder"])
logits = np.concatenate([
    model.predict_on_batch(splits.test.gather(rows)["image"] / np.float32(255))
    for rows in np.array_split(np.arange(len(splits.test)), max(1, len(splits.test) // 500))
])
exponentials = np.exp(logits - logits.max(1, keepdims=True))
about = classes.save(OUT, splits.test.classes, test_label, exponentials / exponentials.sum(1, keepdims=True))
print(f"expected calibration error: {about['expected_calibration_error']:.3f}")
figure = matplotlib.figure.Figure(figsize=(6, 3.5))
axes = figure.subplots()
bars = axes.bar(list(accuracy), [100 * value for value in accuracy.values()])
axes.bar_label(bars, fmt="%.1f")
axes.margins(y=0.1)
axes.set_ylabel("test accuracy, %")
axes.set_title(f"{splits.train.base}, {PER_CLASS} labels per class, label seed {LABEL_SEED}")
files.write(OUT / "steps.png", figure_png(figure))
files.write_json(OUT / "steps.json", accuracy | about)
print(f"Pictures: {OUT}/steps.png, {OUT}/confusion.png, {OUT}/reliability.png; by class: {OUT}/classes.csv")

# %% [markdown]
# ## Does it agree with what is promised above?

# %%
found = {
    "the probe over the pixels": accuracy["probe"] - accuracy["pixels"],
    "semi-supervised over the probe": accuracy["semi-supervised"] - accuracy["probe"],
    "semi-supervised over fine-tuning": accuracy["semi-supervised"] - accuracy["fine-tuned"],
}
wrong = []
for name, value in found.items():
    agrees = math.isfinite(value) and value >= AT_LEAST[name]
    promise = "" if SMOKE else f", expected at least {AT_LEAST[name]}: {'yes' if agrees else 'NO'}"
    print(f"{name}: {value:.4f}{promise}")
    wrong += [] if agrees or SMOKE else [name]
sys.exit(f"not as expected: {', '.join(wrong)}" if wrong else 0)
