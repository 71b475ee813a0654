# %% [markdown]
# # 2 A causal language model, step by step
#
# The tutorial's section 4.1 in the five steps of its section 3.1. From unlabeled text alone a
# network learns P(x_{t+1} | x₁…x_t): a softmax over the inner products of f(x₁…x_t) with the
# embedding of each token. Here a token is a character, f a transformer with 0.8 million
# parameters, and the text one million characters of Shakespeare.
#
#     python tutorials/02_causal_lm.py            tiny_shakespeare, about 2 minutes on 2 cores
#     python tutorials/02_causal_lm.py --smoke    Python's own documentation, a few seconds
#
# What a full run must find, within 2% or 3 standard deviations over seeds 0, 1, 2:

# %%
EXPECTED = {  # name: (mean, standard deviation)
    "test loss, nats per character": (1.576, 0.011),
    "test bits per byte": (2.273, 0.016),
}

# %%
import collections
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

from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import load
from ssl_keras.inference import generation
from ssl_keras.modalities import language
from ssl_keras.objectives import causal_lm
from ssl_keras.training.run import compile_objective

SMOKE = "--smoke" in sys.argv
OUT = pathlib.Path("results/02_causal_lm")
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)

# %% [markdown]
# ## Step 1: prepare the data
#
# Text becomes a stream of token numbers in a memory-mapped file, made once. A batch is cut out
# of it at random places, which are a function of (seed, step) alone; held-out text is read in
# disjoint windows, each token predicted once.

# %%
settings = causal_lm.Settings(
    tokenizer="characters", context=32 if SMOKE else 128, layers=2 if SMOKE else 4, width=64 if SMOKE else 128
)
settings, splits = causal_lm.prepare(settings, load("pydoc" if SMOKE else "tfds:tiny_shakespeare"))
tokenizer = splits.train.tokenizer
stream = splits.train.arrays["tokens"].stream
print(f"Step 1: {len(stream):,} characters to learn from, {tokenizer.vocabulary} different tokens")
print("       ", repr(tokenizer.decode(stream[:60])))
training = dataclasses.replace(
    causal_lm.DEFAULTS, steps=60 if SMOKE else 2000, batch_size=8 if SMOKE else 16, jit=not SMOKE,
)
batches = Batches(splits.train, training.batch_size, seed=training.seed)
keras.utils.set_random_seed(training.seed)

# %% [markdown]
# ## Step 2: initialize
#
# At random here. From a saved encoder, or from a GPT-2 that someone else trained:
# `ssl-keras import FOLDER`, then `--init NAME`.

# %%
model = causal_lm.build(settings, splits.train.spec())
print(f"Step 2: {model.encoder.count_params():,} weights at random; the output layer is the embedding itself")

# %% [markdown]
# ## Step 3: choose the loss
#
# −log P of the token that really came next, in nats. A network that knows nothing pays log V for
# each; one that knows how often each character occurs, their entropy; one that knows pairs of
# characters, less. These are what there is to beat.

# %%
compile_objective(model, training, splits)  # Muon, warm-up and cosine, clipping, XLA
counts = np.bincount(stream, minlength=tokenizer.vocabulary) + 1e-9
pairs = collections.Counter(zip(stream[:-1].tolist(), stream[1:].tolist()))
test = splits.test.arrays["tokens"].stream
unigram = -np.mean(np.log(counts[test] / counts.sum()))
bigram = -np.mean([
    math.log((pairs[a, b] + 0.1) / (counts[a] + 0.1 * tokenizer.vocabulary)) for a, b in zip(test[:-1].tolist(), test[1:].tolist())
])
print(f"Step 3: cross-entropy. Uniform {math.log(tokenizer.vocabulary):.3f}, unigram {unigram:.3f}, bigram {bigram:.3f} nats")

# %% [markdown]
# ## Step 4: train
#
# Keras' own `fit`. `ssl-keras pretrain causal_lm` does the same with checkpoints that resume
# exactly, and TensorBoard.

# %%
interval = max(training.steps // 20, 1)
held_out = Batches(splits.validation, 64, preprocess=model.preprocess, shuffle=False)
every = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda epoch, logs: print(
        f"  step {(epoch + 1) * interval:4}: loss {logs['loss']:.3f}, held out {logs['val_loss']:.3f}", flush=True
    ) if epoch % 5 == 4 or epoch == 0 else None
)
print(f"Step 4: {training.steps} steps of {training.batch_size} × {settings.length} tokens")
batches = Batches(splits.train, training.batch_size, seed=training.seed, preprocess=model.preprocess)
history = model.fit(
    batches.dataset(), steps_per_epoch=interval, epochs=training.steps // interval, verbose=0, callbacks=[every],
    validation_data=held_out.dataset(0, held_out.steps_per_epoch), validation_steps=held_out.steps_per_epoch,
).history

# %% [markdown]
# ## Step 5: evaluate
#
# The loss on text that it has never seen; then let it write.

# %%
last = Batches(splits.test, 64, preprocess=model.preprocess, shuffle=False)
result = model.evaluate(
    last.dataset(0, last.steps_per_epoch), steps=last.steps_per_epoch, verbose=0, return_dict=True
)
found = {"test loss, nats per character": result["loss"], "test bits per byte": result["bits_per_byte"]}
print(f"Step 5: {result['loss']:.4f} nats per character, perplexity {result['perplexity']:.2f}")
for temperature in (0.5, 1.0):
    text = generation.write(
        model.encoder, tokenizer, "The " if SMOKE else "ROMEO:\n", 60 if SMOKE else 300, temperature=temperature, seed=1
    )
    print(f"\n--- temperature {temperature}\n{text}\n---")

# %% [markdown]
# ## Look at it
#
# The curve, and where the heads look: each row is a character, its columns those before it.

# %%
figure = matplotlib.figure.Figure(figsize=(10, 9))
above, below = figure.subplots(2, 1, height_ratios=(1, 1.6))
x = interval * (1 + np.arange(len(history["loss"])))
above.plot(x, history["loss"], label="training")
above.plot(x, history["val_loss"], label="held out")
for value, name in ((unigram, "unigram"), (bigram, "bigram")):
    above.axhline(value, color="gray", linestyle=":")
    above.text(x[-1], value, name, ha="right", va="bottom", color="gray")
above.set_xlabel("step")
above.set_ylabel("nats per character")
above.legend()
window = splits.validation.gather(np.array([0]))["tokens"][:, : 24 if SMOKE else 40]
maps = language.attention_maps(model.encoder, tf.constant(window))
heads = np.concatenate([np.pad(np.sqrt(m[0]), ((0, 0), (1, 1), (1, 1)), constant_values=0.5) for m in maps[:: max(len(maps) // 2, 1)]])
rows = 2
grid = np.concatenate([np.concatenate(list(row), axis=1) for row in np.split(heads, rows)], axis=0)
below.imshow(grid, cmap="gray")
below.set_title(f"attention of two layers (rows), their heads side by side, on {tokenizer.decode(window[0])!r}", fontsize=8)
below.axis("off")
figure.savefig(OUT / "causal_lm.png", dpi=120, bbox_inches="tight")
print(f"Pictures: {OUT}/causal_lm.png")

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
