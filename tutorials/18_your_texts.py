# %% [markdown]
# # 18 Your texts: a table with few labels
#
# The tutorial's promise for language is that an encoder which has read much text needs few labels. This walk
# takes a table of texts, of which few are labeled, and an encoder that ships with the package. It compares what
# one would try: counting words, the encoder as it is, pretraining it further on one's own texts (Gururangan et al.
# 2020, "Don't Stop Pretraining"), and fine-tuning.
#
#     python tutorials/18_your_texts.py                                TREC's questions, about 5 minutes on 2 cores
#     python tutorials/18_your_texts.py table:mine.csv                 your own: a column of texts, and one of labels
#     python tutorials/18_your_texts.py table:mine.csv runs/minilm     another encoder, here that of `make minilm`
#     python tutorials/18_your_texts.py --smoke                        made-up questions, half a minute
#
# What a full run on TREC must find, within 2% or 3 standard deviations (means and deviations over label seeds 0 to 9):

# %%
EXPECTED = {  # name: (mean, standard deviation)
    "word counts": (0.485, 0.083),
    "frozen": (0.552, 0.045),
    "fine-tuned": (0.544, 0.048),
}

# %%
import dataclasses
import logging
import pathlib
import sys

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import matplotlib.figure
import numpy as np

from ssl_keras import encoders
from ssl_keras.data.readers import text
from ssl_keras.data.sources import load
from ssl_keras.data.splits import few_label_indices, hold_out
from ssl_keras.data.tokens import texts_of
from ssl_keras.downstream import finetune
from ssl_keras.downstream.columns import validation_rows
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation import probes
from ssl_keras.evaluation.features import compile_network, extract_features, normalize, tf_idf
from ssl_keras.inference.search import TextRetriever, nearest
from ssl_keras.objectives import masked_lm, sentence
from ssl_keras.training.pretrain import pretrain

SMOKE = "--smoke" in sys.argv
GIVEN = [each for each in sys.argv[1:] if not each.startswith("--")]
DATA = GIVEN[0] if GIVEN else "tfds:trec"
ENCODER = GIVEN[1] if len(GIVEN) > 1 else "english"
PER_CLASS, SEED = 10, 0
OUT = pathlib.Path("results/18_your_texts-smoke" if SMOKE else "results/18_your_texts")
RUNS = {"runs": str(OUT / "runs"), "resume": True, "tensorboard": False}
OUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("absl").setLevel(logging.WARNING)

# %% [markdown]
# ## Step 1: look at the data
#
# Texts and labels come from a table. Ten of each class are labeled; all other texts but the held-out ones are used
# without labels, also rows that have none. As many validation labels choose everything that is chosen.

# %%
if SMOKE:
    asked = [
        f"{'Who' if i % 2 else 'Where'} {verb} the {noun} of number {i} ?"
        for i in range(40)
        for verb, noun in (("is", "king"), ("saw", "river"), ("was", "capital"))
    ]
    source = hold_out(text.documents("made up", asked, [i // 3 % 2 for i in range(len(asked))], ["place", "person"]))
else:
    source = load(DATA)
unlabeled = source
if DATA.startswith("table:") and not SMOKE:
    held_out = {*texts_of(source.validation), *texts_of(source.test)}
    texts = [each for part in load(f"{DATA}[text]") for each in texts_of(part) if each not in held_out]
    unlabeled = source._replace(train=text.documents(f"{DATA}, all rows", texts))
name_of_run = f"{cards.read(encoders.find(ENCODER))['name']}-{source.train.short_name}"
few, validation = few_label_indices(source.train, PER_CLASS, SEED), validation_rows(source.validation, PER_CLASS, SEED)
labels = [part.column("label") for part in source]
print(f"Step 1: {len(unlabeled.train):,} texts in {len(source.train.classes)} classes, {len(few)} of them labeled")
for row, example in zip(few[:3], texts_of(source.train.take(few[:3]))):
    print(f"        {source.train.classes[labels[0][row]]}: {example}")


def probe(features):
    """Fits a linear probe on the few labels; returns its accuracy on the test split."""
    train, held_out, test = features
    return probes.linear_probe(
        train[few], labels[0][few], held_out[validation], labels[1][validation], test, labels[2]
    )[0]


# %% [markdown]
# ## Step 2: the baseline, word counts
#
# A logistic regression on TF-IDF needs no network, and is hard to beat with many labels.

# %%
accuracy = {"word counts": probe(tf_idf(*map(texts_of, source)))}
print(f"Step 2: word counts {accuracy['word counts']:.1%}")

# %% [markdown]
# ## Step 3: an encoder as it is
#
# The features of a text are the mean of its tokens' states. They are scaled to norm 1, since the norm of a mean depends
# on the length of the text.

# %%


def features_of(encoder):
    """Returns the features of all three splits, of norm 1."""
    folder = encoders.find(encoder)
    data = encoders.adapt(folder, cards.read(folder), source)
    network = compile_network(encoders.load_encoder(folder))
    return [normalize(extract_features(network, part)) for part in data]


frozen = features_of(ENCODER)
accuracy["frozen"] = probe(frozen)
print(f"Step 3: {ENCODER}, frozen: {accuracy['frozen']:.1%}")

# %% [markdown]
# ## Step 4: pretrain further on your own texts
#
# All texts that are not held out, without labels. Masked words are what BERT learns from; `sentence` (SimCSE) keeps
# vectors of sentences far apart. From the command line:
#
#     ssl-keras pretrain masked_lm --init english --data "table:mine.csv[text]" --length 32 --steps 300 \
#         --learning-rate 1e-4
#     ssl-keras pretrain sentence --init english --data "table:mine.csv[text]" --length 32 --steps 300 \
#         --learning-rate 3e-5
#
# `[text]` stands for the texts of all rows. The commands hold out others than those of the labeled table; this script
# does not learn from the latter.

# %%
short = {"steps": 4, "batch_size": 16, "warmup": 1} if SMOKE else {"steps": 300, "batch_size": 32, "warmup": 30}
further = {"masked_lm": (masked_lm, 1e-4), "sentence": (sentence, 3e-5)}
for name, (objective, rate) in further.items():
    training = dataclasses.replace(
        objective.DEFAULTS, **short, **RUNS, epochs=0, learning_rate=rate, init=ENCODER, run=f"{name}-{name_of_run}"
    )
    outcome = pretrain(name, objective.Settings(length=16 if SMOKE else 32), training, data=unlabeled)
    accuracy[f"{name}, frozen"] = probe(features_of(outcome["folder"]))
    print(f"Step 4: {name} on these texts, frozen: {accuracy[f'{name}, frozen']:.1%}")

# %% [markdown]
# ## Step 5: fine-tune
#
# The head starts from the probe (LP-FT), and encoder and head are trained at one low rate.

# %%
tuning = dataclasses.replace(
    finetune.DEFAULTS,
    steps=4 if SMOKE else 100,
    batch_size=16,
    learning_rate=1e-4,
    schedule="cosine",
    final_rate=0.0,
    warmup=1 if SMOKE else 10,
    eval_every=2 if SMOKE else 10,
    run=f"tuned-{name_of_run}",
    **RUNS,
)
settings = finetune.Settings(labels_per_class=PER_CLASS, label_seed=SEED, encoder_lr_ratio=1.0, probe_init=True)
tuned = finetune.finetune(ENCODER, settings, tuning, data=source)
accuracy["fine-tuned"] = float(tuned["test_accuracy"])
print(f"Step 5: {ENCODER}, fine-tuned: {accuracy['fine-tuned']:.1%}")

# %% [markdown]
# ## Step 6: use it
#
#     ssl-keras finetune english --data table:mine.csv --probe-init --encoder-lr-ratio 1 --learning-rate 1e-4 --run tuned
#     ssl-keras predict tuned --data table:new.csv --out predictions.csv
#     ssl-keras search english "Where is the Eiffel tower?" --texts texts.txt

# %%
texts = list(texts_of(source.test))
retriever = TextRetriever(ENCODER)
print(f"Step 6: nearest to {texts[0]!r}:")
for place, similarity in nearest(retriever.of_query(texts[0]), retriever.of_texts(texts[1:]), 3):
    print(f"        {similarity:.2f} {texts[1 + place]}")

# %% [markdown]
# ## Look at it

# %%
figure = matplotlib.figure.Figure(figsize=(9, 4))
left, right = figure.subplots(1, 2)
left.barh(list(accuracy)[::-1], [100 * each for each in list(accuracy.values())[::-1]], color="C0")
left.set_xlabel("test accuracy, %")
left.set_title(f"{PER_CLASS} labels per class, one draw")
points = np.concatenate([frozen[2][labels[2] == each][:15] for each in range(len(source.train.classes))])
right.imshow(points @ points.T, vmin=0, vmax=1)
right.set_title("cosines of test texts, by class")
right.set_axis_off()
figure.tight_layout()
figure.savefig(OUT / "texts.png", dpi=120)
print(f"Pictures: {OUT}/texts.png")

# %% [markdown]
# ## Does it agree with what is promised above?

# %%
wrong = []
for name, (mean, sd) in EXPECTED.items() if not (SMOKE or GIVEN) else ():
    agrees = abs(accuracy[name] - mean) <= max(0.02 * mean, 3 * sd)
    print(f"{name}: {accuracy[name]:.3f}, expected {mean:.3f} ± {sd:.3f}: {'yes' if agrees else 'NO'}")
    wrong += [] if agrees else [name]
sys.exit(f"not as expected: {', '.join(wrong)}" if wrong else 0)
