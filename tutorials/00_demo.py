# %% [markdown]
# # The whole way in three minutes
#
# Pretrain an encoder on 1,295 real handwritten digits without their labels; measure it
# with few labels beside the baselines; load it as a plain Keras model; fine-tune it.
# Every step is one call, and has the same name on the command line.

# %%
import logging
import os
import pathlib
import shutil
import sys
import time

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import matplotlib.figure
import numpy as np

from ssl_keras.data.sources import load
from ssl_keras.downstream import report
from ssl_keras.downstream.finetune import Settings as FinetuneSettings
from ssl_keras.downstream.finetune import finetune
from ssl_keras.downstream.table import evaluate
from ssl_keras.encoders import load_classifier, load_encoder
from ssl_keras.engine.config import Training
from ssl_keras.objectives.autoencoder import Settings
from ssl_keras.pictures import picture_grid
from ssl_keras.training.pretrain import pretrain

logging.basicConfig(level=logging.INFO, format="%(message)s")
logging.getLogger("absl").setLevel(logging.WARNING)
SMOKE = "--smoke" in sys.argv  # a few seconds instead of minutes, to see that everything runs
RUNS = pathlib.Path(os.environ.get("SSL_KERAS_DEMO", "runs/demo"))
shutil.rmtree(RUNS, ignore_errors=True)  # the demo starts from scratch each time
started = time.monotonic()

# %% [markdown]
# ## 1 Pretrain, without labels

# %%
print("1. Pretraining an autoencoder on the digits, without labels")
training = Training(data="digits", epochs=4 if SMOKE else 200, batch_size=128, runs=str(RUNS))
outcome = pretrain("autoencoder", Settings(masking_noise=0.2), training)
print(f"   reconstruction loss on held-out digits: {outcome['test_loss']:.4f} nats per pixel\n")

# %% [markdown]
# ## 2 Evaluate, beside what it must beat
#
# `pixels` needs no network; `random init` is the same network untrained; `scratch` is the
# same network trained on the same labels.

# %%
print("2. Measuring it with 10 labels per class, beside its baselines")
name, digits = outcome["folder"], load("digits")
table = evaluate(name, digits, budgets=(10,), seeds=(0,) if SMOKE else (0, 1, 2), trained=not SMOKE)
print(report.markdown(table))
report.save(table, RUNS / "table", "autoencoder on digits, test accuracy, label seeds 0–2")

# %% [markdown]
# ## 3 Load it: a plain functional Keras model

# %%
print("3. Loading the encoder: a plain Keras model")
encoder = load_encoder(name)
image = digits.test.column("image")[:8] / np.float32(255)
print(f"   {encoder.input_shape} -> {encoder.output_shape}, features of 8 images: {encoder(image).shape}\n")

# %% [markdown]
# ## 4 Fine-tune it on 10 labels per class

# %%
print("4. Fine-tuning it on 10 labels per class")
tuned = finetune(
    name, FinetuneSettings(labels_per_class=10),
    Training(data="digits", steps=20 if SMOKE else 500, batch_size=64, runs=str(RUNS)),
)
print(f"   test accuracy {tuned['test_accuracy']:.1%}\n")

# %% [markdown]
# ## 5 Look

# %%
classifier = load_classifier(tuned["folder"])
guess = classifier.predict(image, verbose=0).argmax(1)
figure = matplotlib.figure.Figure(figsize=(8, 1.6))
axes = figure.subplots()
axes.imshow(picture_grid([image])[..., 0], cmap="gray")
axes.set_xticks(28 * np.arange(8) + 14, [f"“{digits.test.classes[g]}”" for g in guess])
axes.set_yticks([])
figure.savefig(RUNS / "predictions.png", dpi=120, bbox_inches="tight")
print(f"Done in {time.monotonic() - started:.0f} s. Look at {RUNS}/predictions.png and {RUNS}/table/table.png,")
print(f"and, with `make tensorboard`, at reconstructions, curves and the projector of {RUNS}.")
