# %% [markdown]
# # 1 An autoencoder, step by step
#
# The tutorial's worked example (its section 5) in the five steps of its section 3.1:
# prepare the data, initialize, choose the loss, train, evaluate. The network is dense,
# 784-256-128-64-128-256-784; Adam; binary cross-entropy; 100 epochs in batches of 256.
#
#     python tutorials/01_autoencoder.py            Fashion-MNIST, about 2 minutes on 2 cores
#     python tutorials/01_autoencoder.py --smoke    the digits, a few seconds
#
# What a full run must find, within 2% or 3 standard deviations over seeds 0, 1, 2:

# %%
EXPECTED = {  # name: (mean, standard deviation)
    "test loss, nats per pixel": (0.2649, 0.0002),
    "test mean squared error": (0.00697, 0.00008),
    "linear probe on the codes, all labels": (0.837, 0.002),
}

# %%
import logging
import math
import pathlib
import sys

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import keras
import matplotlib.figure
import numpy as np

from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import load
from ssl_keras.evaluation import probes
from ssl_keras.evaluation.features import compile_network, extract_features, pixels
from ssl_keras.objectives.autoencoder import Settings, build
from ssl_keras.pictures import picture_grid

SMOKE = "--smoke" in sys.argv
OUT = pathlib.Path("results/01_autoencoder")
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)

# %% [markdown]
# ## Step 1: prepare the data
#
# Images as uint8, no labels. 55,000 to learn from; 5,000 held out to choose by; 10,000
# never touched until the end. A batch is a function of (seed, step) alone.

# %%
splits = load("digits" if SMOKE else "tfds:fashion_mnist")
print("Step 1:", ", ".join(f"{part.name}: {len(part):,} images" for part in splits))
seed = 0
batch_size, epochs = (64, 2) if SMOKE else (256, 100)
batches = Batches(splits.train, batch_size, seed=seed)
held_out = Batches(splits.validation, batch_size, shuffle=False)

# %% [markdown]
# ## Step 2: initialize
#
# At random here. From a saved encoder instead: `pretrain.initialize(model.encoder, NAME)`,
# or `--init NAME` on the command line.

# %%
keras.utils.set_random_seed(seed)
model = build(Settings(), splits.train.spec())
print(f"Step 2: {model.encoder.count_params() + model.decoder.count_params():,} weights at random")

# %% [markdown]
# ## Step 3: choose the loss
#
# The objective *is* the loss and its `train_step`: binary cross-entropy between the image
# and its reconstruction, in nats per pixel. Gray pixels cannot be predicted for free: the
# images' own entropy is the floor, and what counts is the distance to it.

# %%
model.compile(keras.optimizers.Adam(), steps_per_execution=32)
pixels = pixels(splits.validation).astype(np.float64)
inside = np.clip(pixels, 1e-12, 1 - 1e-12)
floor = float(np.mean(-inside * np.log(inside) - (1 - inside) * np.log(1 - inside)))
print(f"Step 3: binary cross-entropy; no reconstruction is below {floor:.4f} nats per pixel")

# %% [markdown]
# ## Step 4: train
#
# Keras' own `fit`, with its own callbacks. `ssl-keras pretrain autoencoder` does the same
# with checkpoints that resume exactly, and TensorBoard.

# %%
print(f"Step 4: {epochs} epochs of {batches.steps_per_epoch} steps")
every = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda epoch, logs: print(
        f"  epoch {epoch + 1:3}: loss {logs['loss']:.4f}, held out {logs['val_loss']:.4f}", flush=True
    ) if epoch % 10 == 9 or epoch == 0 else None
)
history = model.fit(
    batches.dataset(), steps_per_epoch=batches.steps_per_epoch, epochs=epochs, verbose=0, callbacks=[every],
    validation_data=held_out.dataset(0, held_out.steps_per_epoch), validation_steps=held_out.steps_per_epoch,
).history

# %% [markdown]
# ## Step 5: evaluate
#
# On held-out images: the reconstruction, and what the 64 numbers know about the labels
# that they never saw, beside the pixels and an untrained network.

# %%
test = Batches(splits.test, batch_size, shuffle=False)
result = model.evaluate(
    test.dataset(0, test.steps_per_epoch), steps=test.steps_per_epoch, verbose=0, return_dict=True
)
keras.utils.set_random_seed(seed)
untrained = build(Settings(), splits.train.spec()).encoder
labels = [part.column("label") for part in splits]
accuracy = {}
for name, network in (("the codes", model.encoder), ("an untrained network", untrained)):
    embed = compile_network(network)
    features = [extract_features(embed, part) for part in splits]
    pairs = [array for pair in zip(features, labels) for array in pair]
    accuracy[name], _ = probes.linear_probe(*pairs)
    print(f"Step 5: linear probe on {name}: {accuracy[name]:.1%}")
found = {
    "test loss, nats per pixel": result["loss"],
    "test mean squared error": result["mse"],
    "linear probe on the codes, all labels": accuracy["the codes"],
}

# %% [markdown]
# ## Look at it

# %%
figure = matplotlib.figure.Figure(figsize=(10, 6))
above, below = figure.subplots(2, 1, height_ratios=(1, 1.4))
above.plot(history["loss"], label="training")
above.plot(history["val_loss"], label="held out")
above.axhline(floor, color="gray", linestyle=":", label="the images' own entropy")
above.set_xlabel("epoch")
above.set_ylabel("nats per pixel")
above.legend()
shown = splits.test.column("image")[:12] / np.float32(255)
below.imshow(picture_grid([shown, model.reconstruct(shown)])[..., 0], cmap="gray")
below.set_title("held-out images, and what 64 numbers keep of them")
below.axis("off")
figure.savefig(OUT / "autoencoder.png", dpi=120, bbox_inches="tight")
print(f"Pictures: {OUT}/autoencoder.png")

# %% [markdown]
# ## Does it agree with what is promised above?

# %%
wrong = []
for name, value in found.items():
    mean, sd = EXPECTED[name]
    agrees = math.isfinite(value) and abs(value - mean) <= max(0.02 * mean, 3 * sd)
    print(f"{name}: {value:.4f}" + ("" if SMOKE else f", expected {mean:.4f} ± {sd:.4f}: {'yes' if agrees else 'NO'}"))
    wrong += [] if agrees or SMOKE else [name]
sys.exit(f"not as expected: {', '.join(wrong)}" if wrong else 0)
