# %% [markdown]
# # 16 A masked autoencoder: the worked example today
#
# The tutorial's worked example squeezes an image through 64 numbers and rebuilds it. A masked autoencoder
# (He et al. 2022) hides three quarters of the image instead. The encoder, a vision transformer, sees the
# visible patches alone; a small decoder must guess the hidden ones.
#
#     python tutorials/16_masked_autoencoder.py            Fashion-MNIST, about 20 minutes on 2 cores
#     python tutorials/16_masked_autoencoder.py --smoke    digits and a tiny network, half a minute
#
# What a full run must find at least:

# %%
AT_LEAST = {
    "guessing better than the mean of each patch": 0.2,
    "fine-tuning over the same network from scratch": 0.0,
}

# %%
import dataclasses
import logging
import math
import pathlib
import sys

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import tensorflow as tf

from ssl_keras import files, pictures
from ssl_keras.data.batches import Batches
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.sources import load
from ssl_keras.downstream import finetune
from ssl_keras.encoders import load_with_head
from ssl_keras.objectives import masked_autoencoder
from ssl_keras.training.pretrain import pretrain

SMOKE = "--smoke" in sys.argv
OUT = pathlib.Path("results/16_masked_autoencoder-smoke" if SMOKE else "results/16_masked_autoencoder")
RUNS = {"runs": str(OUT / "runs"), "resume": True, "tensorboard": False}
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)

# %% [markdown]
# ## 1 and 2: the data, and a network with random weights
#
# A 28×28 image has 7×7 patches of 4×4 pixels. With a mask ratio of 0.75 the encoder sees 12 of 49, so a step
# costs about a quarter of what all patches would cost. That is why hiding much is not only a harder task,
# but also a cheaper one.

# %%
splits = load("digits", 16) if SMOKE else load("tfds:fashion_mnist")
small = {"width": 16, "layers": 1, "decoder_width": 8, "decoder_layers": 1} if SMOKE else {"width": 128}
settings = masked_autoencoder.Settings(**small, crop=0.5, flip=not SMOKE)
settings, splits = masked_autoencoder.prepare(settings, splits)
objective = masked_autoencoder.build(settings, splits.train.spec())
print(f"{objective.encoder.count_params():,} parameters; {objective.visible} of {objective.patches} patches are visible")

# %% [markdown]
# ## 3 The loss, by hand
#
# The target is each hidden patch with its own mean and deviation taken out: what matters is the pattern of a
# patch, not its brightness. Predicting zeros, that is the mean of each patch, costs about 1.

# %%
some = Batches(splits.validation, 8, shuffle=False)
batch = {name: tf.constant(value) for name, value in some.numpy(0).items()}
batch = objective.preprocess_eval(batch, BatchRandom(0, 0, 0, 8))
pixels = objective.pixels(batch["image"])
target, mean, deviation = objective.targets(pixels)
predicted, place = objective.predict_patches(pixels, batch["noise"])
hidden = tf.cast(place >= objective.visible, tf.float32)
by_hand = tf.reduce_sum(tf.reduce_mean((predicted - target) ** 2, -1) * hidden) / tf.reduce_sum(hidden)
total, count = objective.batch_loss(batch, training=False)
print(f"loss by hand {float(by_hand):.4f}, of the objective {float(total / count):.4f}")
assert abs(float(by_hand) - float(total / count)) < 1e-4

# %% [markdown]
# ## 4 and 5: train, and evaluate on held-out images
#
#     ssl-keras pretrain masked_autoencoder --data tfds:fashion_mnist --width 128 --crop 0.5 --epochs 20 --warmup 200

# %%
short = {"epochs": 0, "steps": 20, "batch_size": 64, "warmup": 5} if SMOKE else {"epochs": 20, "warmup": 200}
training = dataclasses.replace(masked_autoencoder.DEFAULTS, **short, **RUNS, run="mae", report_every=0)
outcome = pretrain("masked_autoencoder", settings, training, data=splits)
print(f"test loss {outcome['test_loss']:.3f}; the mean of each patch costs about 1")

# %% [markdown]
# ## Look at it
#
# Images, what the encoder saw of them, and what the decoder made of it. The visible patches are copied.

# %%
encoder, decoder, _ = load_with_head(outcome["folder"])
trained = masked_autoencoder.MaskedAutoencoder(settings, encoder, decoder, objective.visible)
rows = trained.report(batch, None, splits).images["reconstructions"]
files.write(OUT / "reconstructions.png", pictures.png([pictures.enlarged(tf.convert_to_tensor(row), 3) for row in rows]))
print(f"Pictures: {OUT}/reconstructions.png")

# %% [markdown]
# ## What it is worth: ten labels of each class
#
# The decoder is left out. The encoder is fine-tuned on few labels, and so is the same network from scratch.
# Lower layers, which are more general, get lower rates (`--layer-decay`).

# %%
accuracy = {}
for name, scratch in (("from scratch", True), ("pretrained", False)):
    asked = finetune.Settings(
        labels_per_class=10, scratch=scratch, encoder_lr_ratio=1.0, layer_decay=1.0 if scratch else 0.75, shift=0.07
    )
    steps = {"steps": 4, "batch_size": 16} if SMOKE else {"steps": 400, "schedule": "cosine", "final_rate": 0.0}
    tuned = finetune.finetune(
        outcome["folder"],
        asked,
        dataclasses.replace(finetune.DEFAULTS, **steps, warmup=2, run=name.replace(" ", "-"), **RUNS),
        data=splits,
    )
    accuracy[name] = tuned["test_accuracy"]
    print(f"{name}: {accuracy[name]:.1%}")
files.write_json(OUT / "accuracy.json", accuracy | {"test_loss": outcome["test_loss"]})

# %% [markdown]
# ## Does it agree with what is promised above?

# %%
found = {
    "guessing better than the mean of each patch": 1 - outcome["test_loss"],
    "fine-tuning over the same network from scratch": accuracy["pretrained"] - accuracy["from scratch"],
}
wrong = []
for name, value in found.items():
    agrees = math.isfinite(value) and value >= AT_LEAST[name]
    promise = "" if SMOKE else f", expected at least {AT_LEAST[name]}: {'yes' if agrees else 'NO'}"
    print(f"{name}: {value:.4f}{promise}")
    wrong += [] if agrees or SMOKE else [name]
sys.exit(f"not as expected: {', '.join(wrong)}" if wrong else 0)
