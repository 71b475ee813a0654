"""Few labels of texts: public, distilled and self-supervised encoders, next to word counts and training from scratch.

    python benchmarks/few_texts.py --data tfds:trec --encoders runs/minilm english --per-class 10
    python benchmarks/few_texts.py --data table:SMSSpamCollection --encoders english --per-class 0 --seeds 0

Each row adds its test accuracies to benchmarks/few_texts.json, and recorded ones are not repeated. Rows: a linear probe
on TF-IDF; of each encoder a probe on its frozen features, and fine-tuning, whose head starts from a probe (LP-FT). With
`--scratch`, the last encoder's network is also trained from random weights. Nothing is chosen but the strength of a
probe and the step of fine-tuning, by as many validation labels as there are training labels.

The learning rates are fixed. They were compared with label seeds 10 and 11, which are not measured, at 10 labels per
class of TREC, by their 10 validation labels per class: `--choose-rate 3e-5 1e-4 3e-4` for MiniLM and for english, and
`--choose-rate 3e-4 1e-3 3e-3 --scratch` for training from scratch.
"""

import argparse
import dataclasses
import os
import pathlib
import shutil
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from ssl_keras.startup import start_tensorflow

start_tensorflow()

import numpy as np
from measuring import Records, summary

from ssl_keras import encoders
from ssl_keras.data.sources import load
from ssl_keras.data.tokens import texts_of
from ssl_keras.downstream import finetune
from ssl_keras.downstream.columns import ALL, few_column
from ssl_keras.downstream.table import Prober
from ssl_keras.encoders import card as cards
from ssl_keras.evaluation.features import tf_idf

RECORDS = Records(HERE.with_suffix(".json"))
RATE, SCRATCH_RATE = 1e-4, 3e-4
STEPS = {10: 100, 50: 200, 0: 600}  # by the labels per class
TUNING = dataclasses.replace(finetune.DEFAULTS, batch_size=16, schedule="cosine", final_rate=0.0, warmup=10)


def probe(splits, per_class, seeds, folder=None):
    """Probes frozen features of an encoder, or TF-IDF without one; returns {seed: {"accuracy"}}."""
    prober = Prober([per_class] if per_class else [], seeds, None)
    if folder is None:
        row, _ = prober.features(tf_idf(*map(texts_of, splits)), splits)
    else:
        row, _ = prober.network(encoders.load_encoder(folder), encoders.adapt(folder, cards.read(folder), splits))
    scores = row[few_column(per_class)] if per_class else row[ALL] * len(seeds)
    return {seed: {"accuracy": score} for seed, score in zip(seeds, scores)}


def train(splits, per_class, seed, folder, scratch=False, rate=None):
    """Fine-tunes an encoder, or trains its network from scratch; returns the outcome."""
    card = cards.read(folder)
    rate = rate or (SCRATCH_RATE if scratch else RATE)
    settings = finetune.Settings(
        labels_per_class=per_class, label_seed=seed, encoder_lr_ratio=1.0, probe_init=not scratch, scratch=scratch
    )
    run = (
        f"few-{splits.train.short_name}-{card['name']}-{per_class}-{'scratch' if scratch else 'tuned'}-{seed}-{rate:g}"
    )
    steps = STEPS[per_class]
    training = dataclasses.replace(
        TUNING,
        steps=steps,
        learning_rate=rate,
        eval_every=max(10, steps // 10),
        seed=seed,
        run=run,
        tensorboard=False,
        resume=True,
    )
    outcome = finetune.finetune(folder, settings, training, data=splits)
    shutil.rmtree(outcome["folder"])
    return outcome


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="tfds:trec", help="labeled texts")
    parser.add_argument("--encoders", nargs="*", default=[], help="names or paths of saved encoders")
    parser.add_argument("--per-class", type=int, default=10, choices=STEPS, help="labels per class; 0 is all")
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2, 3, 4), help="label seeds")
    parser.add_argument("--frozen-only", action="store_true", help="no fine-tuning")
    parser.add_argument("--scratch", action="store_true", help="also train the last encoder's network from scratch")
    parser.add_argument("--choose-rate", type=float, nargs="*", help="learning rates to compare, and record nothing")
    asked = parser.parse_args()
    splits = load(asked.data)
    data, per_class = splits.train.short_name, asked.per_class
    place = data, str(per_class)
    folders = [encoders.find(name) for name in asked.encoders]
    if asked.choose_rate:
        for folder in folders:
            for rate in asked.choose_rate:
                found = [train(splits, per_class, seed, folder, asked.scratch, rate) for seed in (10, 11)]
                scores = [each["val_accuracy"] for each in found]
                print(
                    cards.read(folder)["name"], rate, [round(each, 3) for each in scores], np.mean(scores), flush=True
                )
        return

    def missing(row):
        return [seed for seed in asked.seeds if RECORDS.get(*place, row, str(seed)) is None]

    frozen = {"TF-IDF": None} | {f"{cards.read(each)['name']}, frozen": each for each in folders}
    for row, folder in frozen.items():
        if seeds := missing(row):
            for seed, found in probe(splits, per_class, seeds, folder).items():
                RECORDS.add(found, *place, row, str(seed))
    rows = {} if asked.frozen_only else {f"{cards.read(each)['name']}, fine-tuned": (each, False) for each in folders}
    if asked.scratch:
        rows[f"scratch, like {cards.read(folders[-1])['name']}"] = (folders[-1], True)
    for row, (folder, scratch) in rows.items():
        for seed in missing(row):
            outcome = train(splits, per_class, seed, folder, scratch)
            found = {"accuracy": outcome["test_accuracy"], "seconds": outcome["seconds"], "step": outcome["step"]}
            RECORDS.add(found, *place, row, str(seed))
            print(row, seed, f"{outcome['test_accuracy']:.3f}", f"{outcome['seconds']:.0f} s", flush=True)
    print(summary(RECORDS.get(*place), "TF-IDF"))


if __name__ == "__main__":
    main()
