# %% [markdown]
# # 5 Jigsaw puzzles, and how a network cheats at them
#
# An image is cut into tiles, the tiles are shuffled, and the network says in which order they are
# (Noroozi & Favaro 2016). To know where a tile belongs it must know what the tile shows, or so it is
# meant: where tiles touch, their edges fit, and the edges alone give the order away. So each tile is
# cut smaller than its cell, at a random place in it. Here the network is trained both ways, and each
# is tried on both kinds of puzzles.
#
#     python tutorials/05_jigsaw.py            Fashion-MNIST, about 25 minutes of one slow core
#     python tutorials/05_jigsaw.py --smoke    the digits, half a minute
#
# What a full run must find at least (chance is 1/24 for a puzzle of 2×2 tiles):

# %%
AT_LEAST = {
    "puzzles with gaps solved, test": 0.95,
    "trained without gaps: what is lost where there are gaps": 0.40,
    "linear probe, few labels: puzzles' encoder over random init": 0.025,
}

# %%
import dataclasses
import itertools
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
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.sources import load
from ssl_keras.data.splits import few_label_indices
from ssl_keras.evaluation import probes
from ssl_keras.evaluation.features import compile_network, extract_features, pixels
from ssl_keras.objectives import jigsaw
from ssl_keras.objectives.jigsaw import Jigsaw, permutation_set
from ssl_keras.training.run import compile_objective

SMOKE = "--smoke" in sys.argv
OUT = pathlib.Path("results/05_jigsaw")
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)

# %% [markdown]
# ## Step 1: prepare the data
#
# Images as uint8, no labels. `jigsaw.prepare` fills in what their size decides: up to 35 pixels 2×2
# tiles, and all 24 permutations of them.

# %%
splits = load("digits" if SMOKE else "tfds:fashion_mnist")
print("Step 1:", ", ".join(f"{part.name}: {len(part):,} images" for part in splits))
settings, splits = jigsaw.prepare(jigsaw.Settings(width=4 if SMOKE else 32), splits)
training = dataclasses.replace(
    jigsaw.DEFAULTS, epochs=2 if SMOKE else 8, batch_size=64 if SMOKE else 256, warmup=10 if SMOKE else 200,
    steps_per_execution=10 if SMOKE else 32,
)


def model_of(gap):
    """A fresh network, the same whatever the gap."""
    keras.utils.set_random_seed(training.seed)
    model = jigsaw.build(dataclasses.replace(settings, gap=gap), splits.train.spec())
    compile_objective(model, training, splits)
    return model


# %% [markdown]
# ### The permutations
#
# Their Hamming distance is the number of tiles that lie elsewhere. Nine tiles have 362,880 orders, too
# many to tell apart, and two that differ in two tiles alone make the question a matter of luck. So 64
# are chosen, each as far as can be from those before. Of four tiles there are only 24: all are taken.

# %%
def distances(permutations):
    """All pairs' Hamming distances."""
    return np.array([(a != b).sum() for a, b in itertools.combinations(permutations, 2)])


four, nine = permutation_set(4, 24), permutation_set(9, 64)
at_random = np.stack([np.random.default_rng(i).permutation(9) for i in range(64)])
for name, some in (("4 tiles, all 24", four), ("9 tiles, 64 chosen", nine), ("9 tiles, 64 at random", at_random)):
    print(f"        {name + ':':23} distance {distances(some).mean():.2f} on average, at least {distances(some).min()}")

# %% [markdown]
# ### The tiles
#
# `preprocess` adds to the batch `tiles` (B, T, h, w, C), shuffled, and `permutation` (B,), the answer.

# %%
batch = {"image": tf.constant(splits.test.column("image")[:8])}
touching, apart = model_of(gap=0.0), model_of(settings.gap)
puzzles = {name: m.preprocess(batch, BatchRandom(0, 0, 0, 8)) for name, m in (("touching", touching), ("apart", apart))}
cell, size = splits.test.spec()["image"][0][0] // settings.grid, puzzles["apart"]["tiles"].shape[2]
print(f"        tiles {puzzles['apart']['tiles'].shape}: {size} of a cell's {cell} pixels, at one of "
      f"{(cell - size + 1) ** 2} places in it")

# %% [markdown]
# ## Step 2: initialize
#
# One encoder sees every tile by itself, (B·T, h, w, C) -> (B·T, D); a solver sees what it said of all
# of them, (B, T·D) -> (B, P). The encoder takes images of any size: tiles now, whole images later.

# %%
print(f"Step 2: {apart.encoder.count_params():,} weights of the encoder at random, "
      f"{apart.solver.count_params():,} of the solver")

# %% [markdown]
# ## Step 3: choose the loss
#
# Cross-entropy over the permutations, in nats per image.

# %%
permutations = len(apart.permutations)
print(f"Step 3: cross-entropy; guessing costs log {permutations} = {math.log(permutations):.3f} nats "
      f"and is right in {1 / permutations:.1%}")

# %% [markdown]
# ## Step 4: train, once with touching tiles and once with tiles apart
#
# `ssl-keras pretrain jigsaw` does the same with checkpoints that resume exactly, and TensorBoard;
# `--gap 0` lets edges touch.

# %%
def fit(model):
    """Trains it and prints a line for each second epoch; the history."""
    batches = Batches(splits.train, training.batch_size, seed=training.seed, preprocess=model.preprocess)
    held_out = Batches(splits.validation, training.batch_size, preprocess=model.preprocess_eval, shuffle=False)
    every = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(
        f"  epoch {epoch + 1}: loss {logs['loss']:.3f}, held out {logs['val_loss']:.3f}, "
        f"right {logs['val_accuracy']:.1%} (chance {1 / permutations:.1%})", flush=True
    ) if epoch % 2 else None)
    return model.fit(
        batches.dataset(), steps_per_epoch=batches.steps_per_epoch, epochs=training.epochs, verbose=0,
        callbacks=[every], validation_steps=held_out.steps_per_epoch,
        validation_data=held_out.dataset(0, held_out.steps_per_epoch),
    ).history


history = {}
for name, model in (("touching", touching), ("apart", apart)):
    print(f"Step 4: tiles {name}, {training.epochs} epochs of {len(splits.train) // training.batch_size} steps")
    history[name] = fit(model)

# %% [markdown]
# ## Step 5: evaluate, each on both kinds of puzzles
#
# A network that reads edges is lost where there are none to read. Not all of what it loses is that,
# though: tiles apart are smaller too. What the other network loses on puzzles without gaps, which
# are easier but for the size of their tiles, says how much the size is worth.

# %%
def solved(model, gap):
    """Share of the test puzzles with this gap that a trained network solves."""
    tried = Jigsaw(dataclasses.replace(settings, gap=gap), model.encoder, model.solver)
    tried.compile()
    test = Batches(splits.test, training.batch_size, preprocess=tried.preprocess_eval, shuffle=False)
    return tried.evaluate(
        test.dataset(0, test.steps_per_epoch), steps=test.steps_per_epoch, verbose=0, return_dict=True
    )["accuracy"]


table = np.array([[solved(model, gap) for gap in (0.0, settings.gap)] for model in (touching, apart)])
print(f"Step 5: {'puzzles solved':24}{'no gaps':>10}{'gaps':>10}   (chance {1 / permutations:.1%})")
for name, row in zip(("trained without gaps", "trained with gaps"), table):
    print(f"        {name:24}" + "".join(f"{value:>10.1%}" for value in row))

# %% [markdown]
# ## What puzzles taught
#
# The encoder stands still and sees whole images; a linear classifier on its features gets few labels.
# Beside it the same network untrained, and the pixels. Mean over draws of labels.

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


known = {"pixels": probe([pixels(part) for part in splits])}
untrained = model_of(settings.gap).encoder
for name, network in (("random init", untrained), ("touching", touching.encoder), ("apart", apart.encoder)):
    embed = compile_network(network)
    known[name] = probe([extract_features(embed, part) for part in splits])
for name, (mean, sd) in known.items():
    print(f"Linear probe, {per_class} labels per class, {name}: {mean:.1%} ± {sd:.1%}")
found = {
    "puzzles with gaps solved, test": table[1, 1],
    "trained without gaps: what is lost where there are gaps": table[0, 0] - table[0, 1],
    "linear probe, few labels: puzzles' encoder over random init": known["apart"][0] - known["random init"][0],
}

# %% [markdown]
# ## Look at it
#
# Tiles are drawn with white between them: the network sees each by itself.

# %%
def laid_out(tiles):
    """(T, h, w, C) -> one picture, row by row, with white between the tiles."""
    framed = np.pad(tiles[..., 0], ((0, 0), (1, 1), (1, 1)), constant_values=1.0)  # (T, h + 2, w + 2)
    grid, side = settings.grid, framed.shape[1]
    return framed.reshape(grid, grid, side, side).transpose(0, 2, 1, 3).reshape(grid * side, grid * side)


def put_back(tiles, permutation):
    """The tiles where a permutation says that they belong."""
    right = np.empty_like(tiles)
    right[permutation] = tiles
    return right


tiles, answer = puzzles["apart"]["tiles"].numpy(), puzzles["apart"]["permutation"].numpy()
features = apart.encoder(tiles.reshape(-1, *tiles.shape[2:]), training=False)
guessed = np.argmax(apart.solver(tf.reshape(features, (len(tiles), -1)), training=False), axis=1)
uncut, uncut_answer = puzzles["touching"]["tiles"].numpy(), puzzles["touching"]["permutation"].numpy()
rows = {
    "tiles that touch": [laid_out(put_back(t, four[a])) for t, a in zip(uncut, uncut_answer)],
    "tiles apart,\nat random places": [laid_out(put_back(t, four[a])) for t, a in zip(tiles, answer)],
    "shuffled": [laid_out(t) for t in tiles],
    "put back by\nthe network": [laid_out(put_back(t, four[g])) for t, g in zip(tiles, guessed)],
}
figure = matplotlib.figure.Figure(figsize=(10, 5))
grid = figure.subplots(len(rows), len(tiles))
for (name, pictures), line in zip(rows.items(), grid):
    for picture, axes in zip(pictures, line):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
for axes, right in zip(grid[-1], guessed == answer):
    axes.set_xlabel("right" if right else "wrong", color="green" if right else "red")
figure.savefig(OUT / "puzzles.png", dpi=120, bbox_inches="tight")

figure = matplotlib.figure.Figure(figsize=(14, 4))
left, middle, right = figure.subplots(1, 3)
for (name, curves), color in zip(history.items(), ("C1", "C0")):
    epochs = 1 + np.arange(len(curves["loss"]))
    left.plot(epochs, curves["loss"], color=color, linestyle=":", label=f"{name}, training")
    left.plot(epochs, curves["val_loss"], color=color, label=f"{name}, held out")
left.axhline(math.log(permutations), color="gray", linestyle="--", label="guessing")
left.set_xticks(epochs)
left.set_xlabel("epoch")
left.set_ylabel("nats per puzzle")
left.legend(fontsize="small")
for offset, (name, row, color) in enumerate(zip(("trained without gaps", "trained with gaps"), table, ("C1", "C0"))):
    middle.bar(np.arange(2) + 0.4 * offset - 0.2, 100 * row, 0.4, label=name, color=color)
middle.axhline(100 / permutations, color="gray", linestyle="--", label="chance")
middle.set_xticks([0, 1], ["puzzles without gaps", "with gaps"])
middle.set_ylabel("solved, %")
middle.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
mean, sd = (100 * np.array(values) for values in zip(*known.values()))
right.bar(list(known), mean, yerr=sd, capsize=3, color=["gray", "lightgray", "C1", "C0"])
right.set_ylabel("test accuracy, %")
right.set_title(f"linear probe, {per_class} labels per class")
figure.tight_layout()
figure.savefig(OUT / "jigsaw.png", dpi=120, bbox_inches="tight")
print(f"Pictures: {OUT}/puzzles.png, {OUT}/jigsaw.png")

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
