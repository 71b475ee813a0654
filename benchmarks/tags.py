"""Tags of words: a constructed corpus whose tags depend on the neighbors of a word.

    python benchmarks/tags.py               about 2 minutes on one core
    python benchmarks/tags.py --smoke       a few steps; the numbers mean nothing

A number is tagged only before a unit, and a name of one or two words only after the word "class". Both also occur
elsewhere without a tag, and so do units and "class". Half of the names and numbers of the validation split, and of the
test split, are not in the training split, nor in each other. Sentences are drawn with a fixed seed.

`masked_lm-trec` is fine-tuned with `--target tags`, and its F1 of spans on the test split is compared with that of a
table of each word's most common tag in the training split; a word that is not in the table is O. The settings are
fixed: nothing was chosen on the test split. This proves that the path from a file to tags works. It does not show what
the encoder is worth on a real corpus, since three rules make all tags.

The result is written into benchmarks/tags.json. It needs `pip install nervaluate`.
"""

import argparse
import collections
import dataclasses
import itertools
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import numpy as np

from ssl_keras import files
from ssl_keras.downstream import finetune
from ssl_keras.evaluation import target_scores

ENCODER = "masked_lm-trec"
SENTENCES = {"train": 1600, "validation": 200, "test": 300}
WORDS = 500  # names, and numbers, that only one of the splits has
UNITS = ("kilograms", "miles", "hours", "dollars", "gallons", "degrees")
FILLERS = [
    *("the", "of", "and", "in", "a", "was", "by", "on", "with", "from", "at", "first", "last", "old", "new", "country"),
    *("city", "river", "film", "book", "game", "song", "president", "king", "queen", "team", "school", "year"),
    *("people", "world", "war", "music", "name", "word", "water", "state"),
]
SYLLABLES = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
TRAINING = dataclasses.replace(
    finetune.DEFAULTS,
    steps=600,
    batch_size=32,
    learning_rate=1e-3,
    schedule="cosine",
    warmup=50,
    eval_every=100,
    tensorboard=False,
)
SETTINGS = finetune.Settings(target="tags", encoder_lr_ratio=1.0)


def vocabularies(random):
    """Returns {split: (names, numbers)}; those for held-out splits are half those of training, and half their own."""
    names = random.permutation(["".join(each) for each in itertools.product(SYLLABLES, SYLLABLES)])
    numbers = random.permutation(np.arange(100, 10_000).astype(str))
    names, numbers = (np.split(words[: 3 * WORDS], 3) for words in (names, numbers))
    train, *others = zip(names, numbers)
    held_out = [tuple(map(np.concatenate, zip(train, other))) for other in others]
    return dict(zip(SENTENCES, (train, *held_out)))


def sentence(random, names, numbers):
    """Returns [(word, tag)] of a sentence of three to five events between other words."""
    made = []
    for _ in range(random.integers(3, 6)):
        made += [(word, "O") for word in random.choice(FILLERS, random.integers(1, 3))]
        event = random.integers(6)
        spoken = random.choice(names, random.integers(1, 3))
        if event == 0:
            made += [(random.choice(numbers), "B-QUANTITY"), (random.choice(UNITS), "O")]
        elif event == 1:
            made += [("class", "O"), *((name, f"{'BI'[place > 0]}-NAME") for place, name in enumerate(spoken))]
        elif event == 2:
            made.append((random.choice(numbers), "O"))
        elif event == 3:
            made += [(name, "O") for name in spoken]
        else:
            made.append((random.choice(UNITS) if event == 4 else "class", "O"))
    return [*made, (random.choice(FILLERS), "O"), (".", "O")]


def corpus(seed=0):
    """Returns {split: [[(word, tag), …], …]}."""
    random = np.random.default_rng(seed)
    words = vocabularies(random)
    return {
        split: [[(str(word), tag) for word, tag in sentence(random, *words[split])] for _ in range(count)]
        for split, count in SENTENCES.items()
    }


def write(folder, sentences):
    """Writes a file in the layout of CoNLL for each split."""
    for split, each in sentences.items():
        text = "\n\n".join("\n".join(" ".join(row) for row in rows) for rows in each)
        (folder / f"{split}.txt").write_text(text + "\n")


def unseen(sentences):
    """Returns the fraction of the tagged words of the test split that the training split does not contain."""
    known = {word for rows in sentences["train"] for word, _ in rows}
    tagged = [word for rows in sentences["test"] for word, tag in rows if tag != "O"]
    return sum(word not in known for word in tagged) / len(tagged)


def table_scores(sentences):
    """Returns the scores of a table of each word's most common tag in training."""
    counts = collections.defaultdict(collections.Counter)
    for rows in sentences["train"]:
        for word, tag in rows:
            counts[word][tag] += 1
    table = {word: each.most_common(1)[0][0] for word, each in counts.items()}
    true = [[tag for _, tag in rows] for rows in sentences["test"]]
    return target_scores.span_scores(true, [[table.get(word, "O") for word, _ in rows] for rows in sentences["test"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few steps, nothing is written")
    asked = parser.parse_args()
    target_scores.check_span_scores()
    sentences, started = corpus(), time.perf_counter()
    training = dataclasses.replace(TRAINING, steps=3, warmup=1, eval_every=3) if asked.smoke else TRAINING
    with tempfile.TemporaryDirectory() as folder:
        write(pathlib.Path(folder), sentences)
        training = dataclasses.replace(training, runs=f"{folder}/runs", run="tags")
        outcome = finetune.finetune(ENCODER, SETTINGS, training, data=f"tags:{folder}")
    result = {
        "encoder": ENCODER,
        "sentences": SENTENCES,
        "unseen": round(unseen(sentences), 4),
        "table": {name: round(value, 4) for name, value in table_scores(sentences).items()},
        "fine-tuned": {
            name: round(outcome[f"test_{name}"], 4) for name in ("span_f1", "span_precision", "span_recall")
        },
        "validation loss": round(outcome["best_val_loss"], 4),
        "steps": training.steps,
        "seconds": round(time.perf_counter() - started),
    }
    print(result)
    if not asked.smoke:
        files.write_json(HERE.with_suffix(".json"), result)


if __name__ == "__main__":
    main()
