# %% [markdown]
# # 4 Image classification, without labels and with them
#
# The tutorial's section 4.2: the objective `rotation` (was `classifier` without labels), then `classifier` (was
# `classifier --labels`). The tutorial counts classification among the self-supervised tasks where the classes come from the
# image itself. Here they are four: the image is turned by 0, 90, 180 or 270 degrees, and the network
# says by how far (RotNet). To see which way is up it must see what the image shows. Then the same
# network learns the labels, with augmentation; last, both questions meet: how much do the features
# that turning taught know about the labels?
#
#     python tutorials/04_classifier.py            Fashion-MNIST, about 12 minutes of one slow core
#     python tutorials/04_classifier.py --smoke    the digits, half a minute
#
# What a full run must find at least (chance is 0.25 for turns and 0.1 for labels):

# %%
AT_LEAST = {
    "turns told right, test": 0.95,
    "labels told right, test": 0.86,
    "linear probe, few labels: turns' encoder over random init": 0.04,
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

from ssl_keras.data.augment_images import Augmentation, augment
from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.sources import load
from ssl_keras.data.splits import few_label_indices
from ssl_keras.evaluation import probes
from ssl_keras.evaluation.features import compile_network, extract_features, pixels
from ssl_keras.objectives import classifier, rotation
from ssl_keras.objectives.rotation import NUM_ROTATIONS, rotate
from ssl_keras.pictures import picture_grid
from ssl_keras.training.run import compile_objective

SMOKE = "--smoke" in sys.argv
OUT = pathlib.Path("results/04_classifier")
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)

# %% [markdown]
# ## Step 1: prepare the data
#
# Images as uint8; labels are there, and turning does not look at them. `pool_grid=2` keeps four places of the
# last stage apart, since these images are all framed alike; small shifts keep the network from counting on it.

# %%
splits = load("digits", 16) if SMOKE else load("tfds:fashion_mnist")
print("Step 1:", ", ".join(f"{part.name}: {len(part):,} images" for part in splits))
settings, splits = rotation.prepare(rotation.Settings(width=4 if SMOKE else 16, pool_grid=2, shift=0.1), splits)
# All four turns of an image are in the batch: 256 images are 1024 for the network.
training = dataclasses.replace(
    rotation.DEFAULTS, epochs=2 if SMOKE else 4, batch_size=64 if SMOKE else 256, warmup=10 if SMOKE else 100,
    steps_per_execution=10 if SMOKE else 32,
)

# %% [markdown]
# ## Step 2: initialize
#
# At random here: a convolutional network, (B, H, W, C) -> (B, D), and a head, (B, D) -> (B, 4).
# From a saved encoder instead: `pretrain.initialize(model.encoder, NAME)`, or `--init NAME`.

# %%
keras.utils.set_random_seed(training.seed)
model = rotation.build(settings, splits.train.spec())
print(f"Step 2: {model.encoder.count_params() + model.head.count_params():,} weights at random, "
      f"{model.encoder.output_shape[-1]} features")

# %% [markdown]
# ## Step 3: choose the loss
#
# Cross-entropy, −log P of the right turn, in nats. Who only guesses pays log 4.

# %%
compile_objective(model, training, splits)
print(f"Step 3: cross-entropy; guessing costs log {NUM_ROTATIONS} = {math.log(NUM_ROTATIONS):.3f} nats")

# %% [markdown]
# ## Step 4: train
#
# `ssl-keras pretrain rotation` does the same with checkpoints that resume exactly, and TensorBoard.

# %%
def fit(model):
    """Trains it on all epochs and prints a line for each; the history."""
    batches = Batches(splits.train, training.batch_size, seed=training.seed, preprocess=model.preprocess)
    # Held-out images are neither augmented nor in another order.
    held_out = Batches(splits.validation, training.batch_size, preprocess=model.preprocess_eval, shuffle=False)
    every = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(
        f"  epoch {epoch + 1}: loss {logs['loss']:.3f}, held out {logs['val_loss']:.3f}, "
        f"right {logs['val_accuracy']:.1%}", flush=True
    ))
    return model.fit(
        batches.dataset(), steps_per_epoch=batches.steps_per_epoch, epochs=training.epochs, verbose=0,
        callbacks=[every], validation_steps=held_out.steps_per_epoch,
        validation_data=held_out.dataset(0, held_out.steps_per_epoch),
    ).history


def accuracy_of(model):
    """On the test split, in [0, 1]."""
    test = Batches(splits.test, training.batch_size, preprocess=model.preprocess_eval, shuffle=False)
    return model.evaluate(
        test.dataset(0, test.steps_per_epoch), steps=test.steps_per_epoch, verbose=0, return_dict=True
    )["accuracy"]


print(f"Step 4: {training.epochs} epochs of {len(splits.train) // training.batch_size} steps")
history = {"turns": fit(model)}

# %% [markdown]
# ## Step 5: evaluate
#
# On turned test images. It cannot reach 100%: a bag without handles, or an 8, looks the same upside down.

# %%
turns_right = accuracy_of(model)
print(f"Step 5: {turns_right:.1%} of turns right (chance {1 / NUM_ROTATIONS:.0%})")
shown = splits.test.column("image")[:8] / np.float32(255)
images = rotate(tf.constant(shown))  # (32, H, W, C): all at 0°, then all at 90°, …
guessed = np.argmax(model.head(model.encoder(images, training=False)), axis=1).reshape(NUM_ROTATIONS, -1)

# %% [markdown]
# ## Augmentation, all of it
#
# Before the labels: what keeps a network from learning images by heart. Each is a field of
# `Augmentation`, a flag on the command line, and off by default; they combine. The images are dyed
# here, since gray ones have no saturation or hue to change, and no colors to take away.

# %%
dyes = np.array([(1, .6, .5), (.5, 1, .6), (.6, .7, 1), (1, .9, .4), (1, .6, 1), (.4, 1, 1), (1, .8, .7), (.8, .7, 1)])
colored = tf.constant(shown[..., :1] * dyes[:, None, None].astype(np.float32))  # (8, H, W, 3)
rows = {"as it is": Augmentation()} | {
    f"{name} {value}": Augmentation(**{name: value}) for name, value in (
        ("crop", 0.3), ("flip", True), ("shift", 0.2), ("color", 1.0), ("gray", 0.5), ("blur", 1.0), ("cutout", 0.4)
    )
} | {"several": Augmentation(crop=0.5, flip=True, shift=0.1, color=0.5, gray=0.2)}
views = [augment(colored, BatchRandom(0, 0, 0, len(colored)), options) for options in rows.values()]
side = shown.shape[1]
figure = matplotlib.figure.Figure(figsize=(7, 8))
axes = figure.subplots()
axes.imshow(picture_grid(views))
axes.set_yticks(side * np.arange(len(rows)) + side / 2, list(rows))
axes.set_xticks([])
axes.set_title("every augmentation, on eight test images")
figure.savefig(OUT / "augmentation.png", dpi=120, bbox_inches="tight")

# %% [markdown]
# ## The same five steps, with labels
#
# The objective `classifier`: another head and another question; data, network and training stay. Shifts, and for clothes mirror
# images, change no label; so they are free examples. (A mirrored digit is another sign.) Here all
# labels are used: what few are worth is tutorial 7.

# %%
asked = classifier.Settings(width=settings.width, pool_grid=2, shift=0.1, flip=not SMOKE)
asked, splits = classifier.prepare(asked, splits)
keras.utils.set_random_seed(training.seed)
supervised = classifier.build(asked, splits.train.spec())
compile_objective(supervised, training, splits)
print(f"With labels, {asked.classes} classes: guessing costs {math.log(asked.classes):.3f} nats")
history["labels"] = fit(supervised)
labels_right = accuracy_of(supervised)
print(f"        {labels_right:.1%} of labels right")

# %% [markdown]
# ## What turning taught
#
# The encoder stands still; a linear classifier on its features gets few labels. Beside it the same
# network untrained, whose features are not worthless, and the pixels. Mean over draws of labels.

# %%
per_class, label_seeds = (20, (0, 1)) if SMOKE else (60, (0, 1, 2, 3, 4))
labels = [part.column("label") for part in splits]


def probe(features):
    """Mean and standard deviation of test accuracy over label seeds, of (train, validation, test) features."""
    accuracy = []
    for seed in label_seeds:
        few = few_label_indices(splits.train, per_class, seed)
        accuracy.append(probes.linear_probe(
            features[0][few], labels[0][few], features[1], labels[1], features[2], labels[2]
        )[0])
    return np.mean(accuracy), np.std(accuracy, ddof=1)


keras.utils.set_random_seed(training.seed)
untrained = rotation.encoder(settings, splits.train.spec()).build()
known = {"pixels": probe([pixels(part) for part in splits])}
for name, network in (("random init", untrained), ("turns", model.encoder)):
    embed = compile_network(network)
    known[name] = probe([extract_features(embed, part) for part in splits])
for name, (mean, sd) in known.items():
    print(f"Linear probe, {per_class} labels per class, {name}: {mean:.1%} ± {sd:.1%}")
found = {
    "turns told right, test": turns_right,
    "labels told right, test": labels_right,
    "linear probe, few labels: turns' encoder over random init": known["turns"][0] - known["random init"][0],
}

# %% [markdown]
# ## Look at it

# %%
figure = matplotlib.figure.Figure(figsize=(9, 5))
for index, axes in enumerate(figure.subplots(NUM_ROTATIONS, len(shown)).flat):
    turn, column = divmod(index, len(shown))
    axes.imshow(images[index, ..., 0], cmap="gray")
    axes.axis("off")
    right = guessed[turn, column] == turn
    axes.set_title(f"{90 * guessed[turn, column]}°", color="green" if right else "red", fontsize=9)
figure.suptitle("turned by 0°, 90°, 180°, 270° against the clock; above each what the network says")
figure.tight_layout()
figure.savefig(OUT / "turns.png", dpi=120, bbox_inches="tight")

figure = matplotlib.figure.Figure(figsize=(10, 4))
left, right = figure.subplots(1, 2)
for (name, curves), color in zip(history.items(), ("C0", "C1")):
    epochs = 1 + np.arange(len(curves["loss"]))
    left.plot(epochs, curves["accuracy"], color=color, linestyle=":", label=f"{name}, training")
    left.plot(epochs, curves["val_accuracy"], color=color, label=f"{name}, held out")
left.set_xticks(epochs)
left.set_xlabel("epoch")
left.set_ylabel("right")
left.legend()
mean, sd = (100 * np.array(values) for values in zip(*known.values()))
right.bar(list(known), mean, yerr=sd, capsize=3, color=["gray", "lightgray", "C0"])
right.set_ylabel("test accuracy, %")
right.set_title(f"linear probe, {per_class} labels per class")
figure.tight_layout()
figure.savefig(OUT / "classifier.png", dpi=120, bbox_inches="tight")
print(f"Pictures: {OUT}/turns.png, {OUT}/augmentation.png, {OUT}/classifier.png")

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
