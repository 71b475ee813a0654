# %% [markdown]
# # 15 Curation: what is worth learning from
#
# Self-supervised learning depends on large unlabeled data, and their quality and scale decide (the tutorial's first
# open problem). Nobody labels such data, so nobody looks at them either: they hold copies, menus, markup, blank
# pages, and often the test set. This script makes a small dirty corpus, curates it, and shows what was removed
# and why.
#
#     python tutorials/15_curation.py                 1,200 documents, a minute
#     python tutorials/15_curation.py FOLDER          your own folder of texts
#     python tutorials/15_curation.py --smoke         120 documents, half a minute
#
# What a full run on the made corpus must reach at least:

# %%
AT_LEAST = {
    "planted near copies that are removed": 0.95,
    "planted quotes of the evaluation text that are removed": 0.9,
    "clean documents that are kept": 0.9,
}

# %%
import json
import logging
import pathlib
import shutil
import sys

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import matplotlib.figure
import numpy as np

from ssl_keras.curation import report
from ssl_keras.curation.curate import curate
from ssl_keras.curation.engines import Local
from ssl_keras.curation.settings import Settings
from ssl_keras.curation.writing import describe_funnel
from ssl_keras.data import near_duplicates
from ssl_keras.data.sources import load

SMOKE, NAMED = "--smoke" in sys.argv, [each for each in sys.argv[1:] if not each.startswith("-")]
OUT = pathlib.Path("results/15_curation-smoke" if SMOKE else "results/15_curation")
shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir(parents=True)
logging.getLogger("absl").setLevel(logging.WARNING)

# %% [markdown]
# ## A dirty corpus
#
# Clean documents are sentences of Python's own documentation in a random order. Others are near copies of them
# (one word in a hundred is another), documents that quote an evaluation text, and markup.

# %%
random, count = np.random.default_rng(0), 120 if SMOKE else 1_200
topics = [text for part in load("pydoc") for text in part.column("text")]
sentences = [" ".join(each.split()) for text in topics for each in text.split(". ")]
sentences = sorted({each for each in sentences if 14 < len(each.split()) < 40 and each[0].isalpha()})
evaluation, sentences = sentences[::20], [each for row, each in enumerate(sentences) if row % 20]


def written(number):
    return ". ".join(random.choice(sentences, 12, replace=False)) + "."


documents = {f"clean-{number:04}": written(number) for number in range(count)}
for number in range(count // 6):
    words = documents[f"clean-{number:04}"].split()
    for place in random.integers(0, len(words), len(words) // 100):
        words[place] = "another"
    documents[f"near-{number:04}"] = " ".join(words)
for number in range(count // 12):
    quote = max(random.choice(evaluation, 3), key=len)
    documents[f"quote-{number:04}"] = f"{written(number)} {quote.upper()}. {written(number)}"
    documents[f"markup-{number:04}"] = "<div><p>" + "</p><p>".join(written(number).split()) + "</p></div>"
folder = OUT / "dirty"
folder.mkdir()
for name, text in documents.items():
    (folder / f"{name}.txt").write_text(text)
(OUT / "evaluation.csv").write_text("text\n" + "\n".join(json.dumps(each) for each in evaluation))

# %% [markdown]
# ## Curate it
#
# This is `ssl-keras curate text:FOLDER --against table:evaluation.csv --out clean --report report.html`. Each
# document is measured once; then copies are found by sketches of 120 bytes, without reading a text again.

# %%
data, against = (f"text:{NAMED[0]}", ()) if NAMED else (f"text:{folder}", [f"table:{OUT}/evaluation.csv"])
result = curate(
    [data], OUT / "clean", Settings(), Local(), against, look=lambda *found: report.write(OUT / "report.html", *found)
)
print(describe_funnel(result))

# %% [markdown]
# ## What was removed
#
# The report, `report.html`, has examples of each reason. Here is the funnel.

# %%
reasons = {name: number for name, number in result.funnel.items() if name}
figure = matplotlib.figure.Figure((7, 0.4 * len(reasons) + 1))
axes = figure.subplots()
axes.barh(list(reasons)[::-1], list(reasons.values())[::-1])
axes.set_xlabel("documents")
figure.savefig(OUT / "funnel.png", bbox_inches="tight")

# %% [markdown]
# ## Splits without leaks
#
# A random split would have copies on both sides. Here, near copies of each other are in one split, and nothing of the
# evaluation text is left.

# %%
splits = load(f"curated:{OUT}/clean")
print({name: len(part) for name, part in splits._asdict().items()})
leaks = near_duplicates.leaks(splits)
print("near copies across splits:", sum(map(len, leaks.values())))

# %%
if not NAMED:
    kept = {text for part in splits for text in part.column("text")}
    found = {
        kind: np.mean([text in kept for name, text in documents.items() if name.startswith(kind)])
        for kind in ("clean", "near", "quote", "markup")
    }
    pairs = [(documents[f"clean-{row:04}"], documents[f"near-{row:04}"]) for row in range(count // 6)]
    measured = {
        "planted near copies that are removed": float(np.mean([not {*pair} <= kept for pair in pairs])),
        "planted quotes of the evaluation text that are removed": float(1 - found["quote"]),
        "clean documents that are kept": float(
            np.mean([documents[f"clean-{row:04}"] in kept for row in range(count // 6, count)])
        ),
    }
    for name, value in measured.items():
        print(f"{name}: {value:.3f}, at least {AT_LEAST[name]}")
    (OUT / "results.json").write_text(json.dumps(measured, indent=2))
    if not SMOKE and any(value < AT_LEAST[name] for name, value in measured.items()):
        sys.exit("The curation does not reach what it must.")

# %% [markdown]
# ## Your own data
#
#     ssl-keras curate text:my_texts --dry-run --report page.html
#     ssl-keras curate text:my_texts --out clean --language en --against table:evaluation.csv
#     ssl-keras pretrain causal_lm --data curated:clean
#
# `docs/curation.md` has the rules, their sources, what they cost, and how to run this on a cluster.
