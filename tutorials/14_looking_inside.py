# %% [markdown]
# # 14 Looking inside: what an encoder responds to, and whether the picture can be trusted
#
# The tutorial's section 8 names an open problem: the training process is complex; how to explain the model's
# behavior and decisions. Pictures of "what the network looks at" are easily drawn and easily wrong, so each one
# here comes with its check: attributions must sum to the score (completeness), and removing what they point to
# must change the score more than removing pixels, words or sounds at random (deletion).
#
#     python tutorials/14_looking_inside.py            shipped encoders, Fashion-MNIST, TREC, spoken_digit, 2 minutes
#     python tutorials/14_looking_inside.py --smoke    some of them on digits, made-up questions and tones, a minute
#
# What a full run must find at least:

# %%
AT_LEAST = {
    "images: maps that sum to the score within 1%": 0.7,
    "images: deletion area below random order, the least of the encoders": 0.1,
    "text: accuracy of the best layer over the embeddings": 0.01,
    "text: maps that sum to the score within 1%": 0.9,
    "audio: deletion area below random order": 0.2,
}

# %%
import functools
import logging
import math
import pathlib
import sys

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import matplotlib.figure
import numpy as np

from ssl_keras.data import audio
from ssl_keras.data.readers import text
from ssl_keras.data.sources import load
from ssl_keras.data.splits import hold_out
from ssl_keras.evaluation.features import evenly_spaced
from ssl_keras.interpretation import (
    available,
    areas,
    completeness_error,
    integrated_gradients,
    outputs,
    place_features,
    principal_colors,
    probe_layers,
    questions,
    random_areas,
    score_difference,
    units_of,
)
from ssl_keras.interpretation import units as parts
from ssl_keras.interpretation.report import explained_of
from ssl_keras.pictures import heat

SMOKE = "--smoke" in sys.argv
OUT = pathlib.Path("results/14_looking_inside")
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)
SHOWN, MEASURED = (3, 3) if SMOKE else (6, 50)  # examples in a picture, and behind a number

# %% [markdown]
# ## Step 1: ask
#
# An attribution explains one number. Here it is the logit of the class that a linear probe predicts: the
# probe is the same kind for every encoder, so that the maps differ because the features do. Encoders with a
# head of their own can be asked for its classes, and without labels there are similarities and features.


# %%
def explain(name, splits, question="probe"):
    """Explains test examples of a shipped encoder by integrated gradients, with their checks."""
    loaded = questions.open_encoder(name, splits)
    asked = questions.ask(loaded, "test", evenly_spaced(len(loaded.splits.test), MEASURED), question)
    explained = explained_of(loaded, asked)
    units = units_of(explained, loaded.tokenizer if explained.at == "vectors" else None)(asked.inputs)
    maps = integrated_gradients(explained, asked.inputs, asked.index)
    error = completeness_error(maps, *score_difference(explained, asked.inputs, asked.index))
    curves = {"transform": functools.partial(outputs.probabilities, asked.output), "steps": 8}
    removed = areas(explained, asked.inputs, asked.index, parts.totals(maps, units), units, **curves)["deletion"]
    random = random_areas(explained, asked.inputs, asked.index, units, orders=2, **curves)["deletion"]
    print(f"{name}: {np.mean(error <= 0.01):.0%} of the maps sum to the score within 1%; deletion {removed.mean():.3f}, "
          f"in random order {random.mean():.3f}")
    return loaded, asked, explained, units, maps, error, float((random - removed).mean())


# %% [markdown]
# ## Step 2: what four kinds of features of Fashion-MNIST look at
#
# Contrastive, rotation, autoencoder and supervised features, on the same garments. Red pixels raise the logit,
# blue ones lower it. Nearly all maps of three encoders sum to the score. The contrastive probe changes so fast
# along the path that 512 gradients are too few for three quarters of its maps: the check says so.

# %%
images = load("digits" if SMOKE else "tfds:fashion_mnist")
encoders = ["rotation-fashion_mnist", "classifier-fashion_mnist"]
if not SMOKE:
    encoders = ["contrastive-fashion_mnist", *encoders, "autoencoder-fashion_mnist"]
found_images = {name: explain(name, images) for name in encoders}
shown = next(iter(found_images.values()))[1].inputs[:SHOWN]
figure = matplotlib.figure.Figure(figsize=(1.5 * (1 + len(encoders)), 1.5 * SHOWN))
grid = figure.subplots(SHOWN, 1 + len(encoders))
for row in range(SHOWN):
    grid[row, 0].imshow(shown[row, ..., 0], cmap="gray")
    for column, (name, (_, asked, _, _, maps, _, _)) in enumerate(found_images.items(), 1):
        grid[row, column].imshow(heat.over_image(shown[row], maps[row]))
        grid[row, column].set_title(asked.words[row].removeprefix("class "), fontsize=7)
        grid[0, column].annotate(name.partition("-")[0], (0.5, 1.35), xycoords="axes fraction", ha="center")
for axes in grid.flat:
    axes.axis("off")
figure.savefig(OUT / "images.png", dpi=120, bbox_inches="tight")

# %% [markdown]
# Dense features need no question: the last map of a convolutional encoder has a vector at each of its few
# places. Their three largest principal components, as colors, with one basis for all garments, show which
# places are alike for the encoder.

# %%
figure = matplotlib.figure.Figure(figsize=(1.5 * SHOWN, 4.5))
grid = figure.subplots(3, SHOWN)
for row, name in enumerate(encoders[:2], 1):
    maps, valid = place_features(found_images[name][0].encoder, found_images[name][1].inputs)
    for column, colors in enumerate(principal_colors(maps, valid)[:SHOWN]):
        grid[0, column].imshow(shown[column, ..., 0], cmap="gray")
        grid[row, column].imshow(colors)
for axes in grid.flat:
    axes.axis("off")
figure.savefig(OUT / "places.png", dpi=120, bbox_inches="tight")

# %% [markdown]
# ## Step 3: what BERT's layers know of TREC
#
# The masked language model never saw a label. A linear probe on each of its layers tells where the kind of
# answer (a person, a place, a number) is easiest to read.

# %%
if SMOKE:
    asked = [f"{'Who' if i % 2 else 'Where'} {verb} the {noun} of number {i} ?" for i in range(60)
             for verb, noun in (("is", "king"), ("saw", "river"), ("was", "capital"))]
    texts = hold_out(text.documents("made up", asked, [i // 3 % 2 for i in range(len(asked))], ["place", "person"]))
else:
    texts = load("tfds:trec")
loaded, asked, _, units, word_maps, text_error, _ = explain("masked_lm-trec", texts)
accuracies = probe_layers(loaded.encoder, *loaded.splits)
for layer, accuracy in accuracies.items():
    print(f"  linear probe on {layer}: {accuracy:.1%}")
lines = []
for row, words in enumerate(parts.texts(asked.inputs, units, loaded.tokenizer)[:SHOWN]):
    totals = parts.totals(word_maps[row : row + 1], units[row : row + 1])[0]
    lines.append((asked.words[row], list(zip(words, heat.scaled(totals)))))
    print(f"  {asked.words[row]}:", " ".join(f"{word}({100 * value:+.0f})" for word, value in lines[-1][1]))
figure = matplotlib.figure.Figure(figsize=(6, 3))
axes = figure.subplots()
axes.bar(list(accuracies), [100 * value for value in accuracies.values()])
axes.set_ylabel("test accuracy of a linear probe, %")
figure.savefig(OUT / "layers.png", dpi=120, bbox_inches="tight")

# %% [markdown]
# ## Step 4: what decides for a recognizer of digits
#
# The speech encoder learned from sound alone; a probe on it recognizes digits. The map is over the frames and
# bands of the log-mel spectrogram, so it shows when, and at which frequencies, a digit is recognized.

# %%
if SMOKE:
    seconds = np.arange(4_000) / 8_000
    tones = [np.sin(2 * np.pi * (300 + 400 * (i % 2) + i) * seconds) / 3 for i in range(60)]
    clips = hold_out(audio.clips("tones", tones, 8_000, label=[i % 2 for i in range(60)], classes=["low", "high"]))
else:
    clips = load("tfds:spoken_digit")
_, asked, explained, _, band_maps, _, audio_gain = explain("speech-spoken_digit", clips)
bands, valid = explained.represent(asked.inputs)[..., 0], explained.valid(asked.inputs)
figure = matplotlib.figure.Figure(figsize=(2.2 * SHOWN, 4))
grid = figure.subplots(2, SHOWN)
for column in range(SHOWN):
    frames = int(valid[column, :, 0].sum())
    grid[0, column].imshow(bands[column, :frames].T[::-1], cmap="gray", aspect="auto")
    grid[0, column].set_title(asked.words[column], fontsize=8)
    grid[1, column].imshow(heat.over_bands(bands[column, :frames], band_maps[column, :frames]), aspect="auto")
for axes in grid.flat:
    axes.axis("off")
figure.savefig(OUT / "audio.png", dpi=120, bbox_inches="tight")

# %% [markdown]
# ## Step 5: compare methods, and doubt them
#
# `available` lists the methods that fit a network. `ssl-keras explain NAME --data DATA --out report.html` draws
# all of them for chosen examples and prints the checks next to every picture; benchmarks/faithfulness.json has
# the same for 200 examples of five encoders (docs/interpretation.md).

# %%
loaded, asked, explained, units, *_ = found_images["classifier-fashion_mnist"]
few = slice(0, SHOWN)
for name, method in available(explained, units_of(explained)).items():
    values = parts.totals(method.attribute(asked.inputs[few], asked.index[few]), units[few])
    transform = functools.partial(outputs.probabilities, asked.output)
    made = areas(explained, asked.inputs[few], asked.index[few], values, units[few], transform, steps=8)
    print(f"  {name:20} deletion {made['deletion'].mean():.3f}, insertion {made['insertion'].mean():.3f}")

# %% [markdown]
# ## Does it agree with what is promised above?

# %%
print(f"Pictures: {OUT}/images.png, places.png, layers.png, audio.png")
layers = list(accuracies.values())
found = {
    "images: maps that sum to the score within 1%": np.mean([np.mean(e[5] <= 0.01) for e in found_images.values()]),
    "images: deletion area below random order, the least of the encoders": min(e[6] for e in found_images.values()),
    "text: accuracy of the best layer over the embeddings": max(layers) - layers[0],
    "text: maps that sum to the score within 1%": np.mean(text_error <= 0.01),
    "audio: deletion area below random order": audio_gain,
}
wrong = []
for name, value in found.items():
    agrees = math.isfinite(value) and value >= AT_LEAST[name]
    promise = "" if SMOKE else f", expected at least {AT_LEAST[name]}: {'yes' if agrees else 'NO'}"
    print(f"{name}: {value:.4f}{promise}")
    wrong += [] if agrees or SMOKE else [name]
sys.exit(f"not as expected: {', '.join(wrong)}" if wrong else 0)
