# %% [markdown]
# # 6 Contrastive learning: two views of an image know each other
#
# The tutorial's multi-view learning. An image is changed twice at random; a network maps both views to
# features, and is asked which of many views belongs to which (InfoNCE). What the views share is what
# the image shows; so that is what features must keep. The answer's quality is a lower bound of the
# mutual information between views.
#
#     python tutorials/06_contrastive.py            Fashion-MNIST, 36 minutes of one core
#     python tutorials/06_contrastive.py --smoke    the digits, half a minute
#
# What a full run must find at least. The bound is at most log 256 = 5.5 nats, and 0 for who knows
# nothing; the effective rank is at most 128, and 1 after a collapse.

# %%
AT_LEAST = {
    "mutual information of two views, nats": 3.5,
    "effective rank (RankMe) of test features": 35.0,
    "linear probe, 10 labels per class: over random init": 0.1,
}

# %%
import dataclasses
import logging
import math
import pathlib
import sys

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import keras
import matplotlib.figure
import numpy as np
import tensorflow as tf

from ssl_keras import losses
from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import load
from ssl_keras.data.splits import few_label_indices
from ssl_keras.evaluation import collapse, probes
from ssl_keras.evaluation.features import compile_network, crop_images, extract_features, pixels
from ssl_keras.objectives import contrastive
from ssl_keras.pictures import neighbors, picture_grid
from ssl_keras.training.run import compile_objective

SMOKE = "--smoke" in sys.argv
OUT = pathlib.Path("results/06_contrastive")
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)

# %% [markdown]
# ## Step 1: prepare the data
#
# Images as uint8, no labels. `views` adds `view_a` and `view_b` (B, H, W, C) to the batch, each cropped
# to 30 to 100% of the area, mirrored or not, lighter or darker. What differs between them is what
# features are taught to forget: so clothes may be mirrored, and digits may not.

# %%
splits = load("digits", 16) if SMOKE else load("tfds:fashion_mnist")
print("Step 1:", ", ".join(f"{part.name}: {len(part):,} images" for part in splits))
settings = contrastive.Settings(
    width=8 if SMOKE else 32, projection=(32, 16) if SMOKE else (256, 128), flip=not SMOKE
)
settings, splits = contrastive.prepare(settings, splits)
training = dataclasses.replace(
    contrastive.DEFAULTS, epochs=4 if SMOKE else 12, batch_size=64 if SMOKE else 256, warmup=10 if SMOKE else 200,
    steps_per_execution=10 if SMOKE else 32,
)

# %% [markdown]
# ## Step 2: initialize
#
# At random here. The encoder, (B, H, W, C) -> (B, D), is what is kept; the projection, (B, D) -> (B, Z),
# is thrown away: the loss makes what it sees forget more than is good for what comes later.

# %%
keras.utils.set_random_seed(training.seed)
model = contrastive.build(settings, splits.train.spec())
print(f"Step 2: {model.encoder.count_params():,} weights of the encoder at random, "
      f"{model.projector.count_params():,} of the projection")

# %% [markdown]
# ## Step 3: choose the loss
#
# InfoNCE by hand: of K candidates, row i of `second` belongs to row i of `first`. Scores are cosines
# over a temperature, and the loss is −log softmax of the right one. If all rows are the same it is
# log K, whatever the temperature: who cannot tell candidates apart can only guess.

# %%
def info_nce(first, second, temperature):
    """Mean loss in nats of (K, Z) views: row i of the one belongs to row i of the other."""
    first, second = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second))
    scores = first @ second.T / temperature  # (K, K)
    most = scores.max(axis=1)
    return float(np.mean(most + np.log(np.exp(scores - most[:, None]).sum(axis=1)) - np.diag(scores)))


temperature = settings.temperature
corners = np.eye(4, dtype=np.float32)  # four directions, as far from each other as can be
print("Step 3: four vectors by hand, log 4 =", f"{math.log(4):.3f}")
for name, first, second in (
    ("all the same", np.ones((4, 4)), np.ones((4, 4))),
    ("each other's", corners, corners),
    ("the neighbor's", corners, np.roll(corners, 1, axis=0)),
):
    print(f"        {name:16} {info_nce(first, second, temperature):.3f} nats")

# %% [markdown]
# `nt_xent` asks both ways at once, and every other view of the batch is a candidate, those of its own
# side too: 2·K − 1 of them. VICReg has no candidates (`loss="vicreg"`), and `local_global` asks for
# places in the image as well.

# %%
ones = tf.ones((4, 4))
same = losses.nt_xent(ones, ones, tf.ones(4), temperature).numpy().mean()
print(f"        nt_xent of the same vector four times: {same:.3f}, log 7 = {math.log(7):.3f}")
compile_objective(model, training, splits)

# %% [markdown]
# ## What could go wrong: collapse
#
# If views only had to agree, one vector for all images would do. Four measures see that, none needs a
# label: the features' standard deviation on the unit sphere times √D; their effective rank;
# uniformity, the log of a mean over pairs (0 if all are alike, −4 if well spread); and alignment, the
# squared distance of an image and a crop of it, which is best at 0, and worthless there if the others
# say collapse. Also here: what the projections know, and the mutual information.

# %%
labels = [part.column("label") for part in splits]
whole = len(splits.test) // training.batch_size * training.batch_size  # the bound is of batches of one size
measured = Batches(splits.test.take(np.arange(whole)), training.batch_size, preprocess=model.preprocess, shuffle=False)


def measures(features, cropped):
    """{name: value} of test features (N, D) and those of crops."""
    return {
        "feature sd": collapse.feature_sd(features), "RankMe": collapse.rankme(features),
        "alignment": collapse.alignment(features, cropped), "uniformity": collapse.uniformity(features),
    }


def mutual_information():
    """log K − InfoNCE, nats: what one view says of the other, at least (van den Oord et al. 2018, equation 5).

    K is the batch. Only second views are candidates: the bound wants candidates that are independent,
    and two views of one image are not.
    """
    project = tf.function(lambda view: model.projector(model.encoder(view, training=False), training=False))
    loss = [
        info_nce(project(batch["view_a"]).numpy(), project(batch["view_b"]).numpy(), temperature)
        for batch in measured.dataset(0, measured.steps_per_epoch)
    ]
    return math.log(training.batch_size) - np.mean(loss)


def state():
    """The encoder's features of train, validation and test; its measures."""
    embed = compile_network(model.encoder)
    features = [extract_features(embed, part) for part in splits]
    crops = extract_features(embed, splits.test, preprocess=crop_images)
    return features, measures(features[2], crops) | {"bound, nats": mutual_information()}


before, health_before = state()

# %% [markdown]
# ## Step 4: train
#
# `ssl-keras pretrain contrastive` does the same with checkpoints that resume exactly, and
# TensorBoard, which shows the four measures as they change, the views and nearest neighbors.

# %%
print(f"Step 4: {training.epochs} epochs of {len(splits.train) // training.batch_size} steps")
batches = Batches(splits.train, training.batch_size, seed=training.seed, preprocess=model.preprocess)
held_out = Batches(splits.validation, training.batch_size, preprocess=model.preprocess_eval, shuffle=False)
every = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(
    f"  epoch {epoch + 1:2}: loss {logs['loss']:.3f}, held out {logs['val_loss']:.3f}, "
    f"partner found {logs['val_top1']:.1%}", flush=True
) if epoch % 3 == 2 or epoch == 0 else None)
history = model.fit(
    batches.dataset(), steps_per_epoch=batches.steps_per_epoch, epochs=training.epochs, verbose=0, callbacks=[every],
    validation_data=held_out.dataset(0, held_out.steps_per_epoch), validation_steps=held_out.steps_per_epoch,
).history

# %% [markdown]
# ## Step 5: evaluate
#
# First without labels: the measures before and after, beside those of a collapse.

# %%
after, health = state()
alike = np.ones_like(after[2])
collapsed = measures(alike, alike) | {"bound, nats": 0.0}
print(f"Step 5: {'':14}{'before':>10}{'after':>10}{'collapse':>10}")
for name in health:
    values = (round(some[name], 2) + 0.0 for some in (health_before, health, collapsed))  # 0.0: no −0.00
    print(f"        {name:14}" + "".join(f"{value:>10.2f}" for value in values))
print(f"        of {training.batch_size} candidates the bound is at most {math.log(training.batch_size):.2f} nats")

# %% [markdown]
# Then with few labels: a linear classifier on features that stand still. Mean over draws of labels.

# %%
per_class, label_seeds = 10, (0, 1) if SMOKE else (0, 1, 2, 3, 4)
known = {}
pixels = [pixels(part) for part in splits]
for name, features in (("pixels", pixels), ("random init", before), ("contrastive", after)):
    accuracy = []
    for seed in label_seeds:
        few = few_label_indices(splits.train, per_class, seed)
        accuracy.append(probes.linear_probe(
            features[0][few], labels[0][few], features[1], labels[1], features[2], labels[2]
        )[0])
    known[name] = np.mean(accuracy), np.std(accuracy, ddof=1)
    print(f"Linear probe, {per_class} labels per class, {name}: {known[name][0]:.1%} ± {known[name][1]:.1%}")
found = {
    "mutual information of two views, nats": health["bound, nats"],
    "effective rank (RankMe) of test features": health["RankMe"],
    "linear probe, 10 labels per class: over random init": known["contrastive"][0] - known["random init"][0],
}

# %% [markdown]
# ## Look at it

# %%
side = splits.test.spec()["image"][0][0]
pairs = {k: v[:8] for k, v in measured.dataset(0, 1).get_single_element().items()}
shown = model.report(pairs, lambda: pairs, splits).images["views"]
figure = matplotlib.figure.Figure(figsize=(8, 3.2))
axes = figure.subplots()
axes.imshow(picture_grid(shown)[..., 0], cmap="gray")
axes.set_yticks(side * np.arange(3) + side / 2, ["image", "one view", "the other"])
axes.set_xticks([])
axes.set_title("two views of each image")
figure.savefig(OUT / "views.png", dpi=120, bbox_inches="tight")

some = slice(0, 5_000)
figure = matplotlib.figure.Figure(figsize=(12, 3.8))
for axes, (name, features) in zip(figure.subplots(1, 3), (
    ("pixels", pixels), ("random init", before), ("contrastive", after)
)):
    axes.imshow(picture_grid(neighbors(splits.test.column("image")[some], features[2][some]))[..., 0], cmap="gray")
    axes.axhline(side - 0.5, color="white", linewidth=2)
    axes.set_title(f"nearest by {name}")
    axes.axis("off")
figure.suptitle("test images (above the line) and their five nearest, best first")
figure.tight_layout()
figure.savefig(OUT / "neighbors.png", dpi=120, bbox_inches="tight")

figure = matplotlib.figure.Figure(figsize=(10, 4))
left, right = figure.subplots(1, 2)
epochs = 1 + np.arange(len(history["loss"]))
left.plot(epochs, history["loss"], label="training")
left.plot(epochs, history["val_loss"], label="held out")
left.axhline(math.log(2 * training.batch_size - 1), color="gray", linestyle=":", label="guessing")
left.set_xticks(epochs)
left.set_xlabel("epoch")
left.set_ylabel("nats per view")
left.legend()
mean, sd = (100 * np.array(values) for values in zip(*known.values()))
right.bar(list(known), mean, yerr=sd, capsize=3, color=["gray", "lightgray", "C0"])
right.set_ylabel("test accuracy, %")
right.set_title(f"linear probe, {per_class} labels per class")
figure.tight_layout()
figure.savefig(OUT / "contrastive.png", dpi=120, bbox_inches="tight")
print(f"Pictures: {OUT}/views.png, {OUT}/neighbors.png, {OUT}/contrastive.png")

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
