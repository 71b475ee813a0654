"""What every objective is tested with: small settings, and a source that suits it.

`tests/objectives/test_contract.py` checks them on one device, `tests/support/strategies.py` on several.
"""

import dataclasses
import functools
import itertools
import pydoc_data.topics
import types

import keras
import numpy as np
import pytest
import teachers
import tensorflow as tf

from ssl_keras import files, objectives
from ssl_keras.data import audio, targets, text_pairs, tokenizer, tokens, word_pieces
from ssl_keras.data.batches import Batches
from ssl_keras.data.readers import captions, pairs, text
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits, hold_out
from ssl_keras.downstream import supervised
from ssl_keras.networks import Network
from ssl_keras.networks.dense import classifier_head
from ssl_keras.objectives import (
    autoencoder,
    causal_lm,
    classifier,
    contrastive,
    ctc,
    dcgan,
    distillation,
    freematch,
    image_text,
    jigsaw,
    masked_autoencoder,
    masked_lm,
    recurrent_lm,
    rotation,
    sentence,
    seq2seq,
    wav2vec2,
)
from ssl_keras.planning import cost
from ssl_keras.training import checkpoint
from ssl_keras.training.optimizer import Adam


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective under test.

    Attributes:
        module: where it is documented.
        build: function of a source's spec to the objective.
        overfit: share of its first loss that one batch must be trained down to in 200 steps; None for a
            game, whose players each have a test of their own.
        floor: function of a batch to the lowest loss there can be, subtracted from both.
        splits: function to the data it is tested on.
        accumulates: whether micro-batches give the whole batch's update; else they are refused.
    """

    module: object
    build: object
    overfit: float = 0.1
    floor: object = staticmethod(lambda batch: 0.0)
    splits: object = staticmethod(lambda: load("digits"))
    accumulates: bool = True


def gray_entropy(batch):
    """The binary cross-entropy of gray pixels with themselves: no reconstruction is below it."""
    x = tf.cast(batch["image"], tf.float64) / 255
    entropy = -tf.math.xlogy(x, x) - tf.math.xlogy(1 - x, 1 - x)
    return float(tf.reduce_mean(entropy))


def build_finetune(spec):
    encoder = Network("dense", image_shape=spec["image"][0], widths=(32, 16)).build()
    return classifier.Classifier(encoder, classifier_head(16, 10), name="finetune", label_smoothing=0.1, dropout=0.1)


TINY = {"layers": 2, "heads": 2, "width": 32, "hidden": 48, "context": 12, "tokenizer": "characters"}


@functools.cache
def prepared(module, **options):
    """(settings, splits) of a language objective on the beginnings of some documents."""
    documents = [value[:200] for _, value in sorted(pydoc_data.topics.topics.items())]
    return module.prepare(module.Settings(**TINY, **options), hold_out(text.documents("documents", documents)))


def language(module, overfit, accumulates=True, **options):
    return Case(
        module,
        lambda spec: module.build(prepared(module, **options)[0], spec),
        overfit,
        splits=lambda: prepared(module, **options)[1],
        accumulates=accumulates,
    )


PAIRS = [
    (word, " ".join(word[::2].upper()))
    for word in sorted(set("".join(pydoc_data.topics.topics.values()).split()))
    if word.isalpha() and word.isascii()
][:400]


@functools.cache
def prepared_sequences(module, **options):
    """(settings, splits) of recurrent networks: on words, or on words with every other letter of theirs."""
    splits = pairs.split(pairs.named("words", *zip(*PAIRS)))
    return module.prepare(module.Settings(width=16, context=12, **options), splits)


def recurrent(module, overfit, **options):
    return Case(
        module,
        lambda spec: module.build(prepared_sequences(module, **options)[0], spec),
        overfit,
        splits=lambda: prepared_sequences(module, **options)[1],
    )


@functools.cache
def tones():
    """Clips of three tones each, whose order is their label, of many lengths and voices."""
    random, orders = np.random.default_rng(0), list(itertools.permutations((400, 700, 1200)))
    made, labels = [], np.arange(200) % len(orders)
    for label in labels:
        parts = [
            np.sin(2 * np.pi * tone * random.uniform(0.9, 1.1) * np.arange(random.integers(300, 700)) / 8_000)
            for tone in orders[label]
        ]
        made.append(0.5 * np.concatenate(parts) + random.normal(0, 0.02, sum(map(len, parts))))
    names = [f"{label}_{'ab'[i % 2]}_{i}.wav" for i, label in enumerate(labels)]
    classes = ["".join(order) for order in itertools.permutations("abc")]
    return hold_out(audio.clips("tones", made, 8_000, names, labels, classes))


@functools.cache
def prepared_sounds(**options):
    """(settings, splits) of a small network for tones."""
    small = {
        "width": 16,
        "layers": 1,
        "heads": 2,
        "channels": 8,
        "codes": 8,
        "projection": 16,
        "seconds": 0.2,
        "cross_clip_negatives": 4,
    }
    return wav2vec2.prepare(wav2vec2.Settings(**small | options), tones())


@functools.cache
def prepared_sayings(**options):
    """(settings, splits) of the same network, for what tones come in a clip."""
    parts = []
    for part in tones():
        target = np.array(part.classes, object)[part.arrays["label"]]
        parts.append(dataclasses.replace(part, arrays=part.arrays | {"target": target}))
    small = {"width": 16, "layers": 1, "heads": 2, "channels": 8}
    return ctc.prepare(ctc.Settings(**small | options), Splits(*parts))


def sound(overfit, **options):
    return Case(
        wav2vec2,
        lambda spec: wav2vec2.build(prepared_sounds(**options)[0], spec),
        overfit,
        splits=lambda: prepared_sounds(**options)[1],
        accumulates=False,
    )


@functools.cache
def prepared_captions(**options):
    """(settings, splits) of two small networks for digits and what they are called."""
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

    def called(source):
        names = [
            f"{words[label]}\n{'small' if row % 2 else 'gray'} {words[label]}"
            for row, label in enumerate(source.column("label"))
        ]
        return captions.source(source.name, source.column("image"), [name.split("\n") for name in names])

    small = {
        "width": 4,
        "text_layers": 1,
        "text_heads": 2,
        "text_width": 16,
        "projection": 8,
        "context": 16,
        "tokenizer": "characters",
        "crop": 0.6,
    }
    settings = image_text.Settings(**small | options)
    return image_text.prepare(settings, Splits(*map(called, small_digits())))


def image_and_text(overfit, **options):
    return Case(
        image_text,
        lambda spec: image_text.build(prepared_captions(**options)[0], spec),
        overfit,
        splits=lambda: prepared_captions(**options)[1],
        accumulates=False,
    )


def vision(module, overfit, accumulates=False, **options):
    """A network small enough for many cases; its images are augmented anew every time."""
    own = {contrastive: {"projection": (16, 8)}, dcgan: {"latent": 8}}
    network = {} if module in (dcgan, masked_autoencoder) else {"network": "cnn"}
    options = {"width": 4} | network | own.get(module, {}) | options
    return Case(
        module,
        lambda spec: module.build(module.Settings(**options), spec),
        overfit,
        splits=small_digits,
        accumulates=accumulates,
    )


@functools.cache
def prepared_matching():
    """(settings, splits) of few labeled digits, joined with all others."""
    settings = freematch.Settings(network="cnn", width=4, labels_per_class=8, unlabeled_ratio=2, shift=0.1)
    return freematch.prepare(settings, small_digits())


@functools.cache
def small_digits():
    return load("digits", image_size=16)


@functools.cache
def prepared_students(kind, **options):
    """(settings, splits) of a small student of a teacher of the same kind of data."""
    data = {"image": small_digits, "tokens": words, "waveform": tones}[kind]()
    return distillation.prepare(distillation.Settings(teacher=teachers.saved(kind), **options), data)


def words():
    """The words of `PAIRS`, in lines of four, as texts."""
    lines = [" ".join(word.lower() for word, _ in PAIRS[i : i + 4]) for i in range(0, len(PAIRS), 4)]
    return hold_out(text.documents("words", [line + f" {index}" for line in lines for index in "abc"]))


@functools.cache
def prepared_target(kind):
    """(`Target`, splits) of the words of `PAIRS`: tags or labels by letter, or the number of letters of a pair."""
    source = text.documents("words", [" ".join(word.lower() for word, _ in PAIRS[i : i + 2]) for i in range(200)])
    texts = source.arrays["text"]
    if kind == "tags":
        tagged = [" ".join("B-V" if word[0] in "aeiou" else "O" for word in each.split()) for each in texts]
        source.arrays["tags"] = np.array(tagged, object)
    elif kind == "labels":
        source.arrays["labels"] = np.array([[letter in each for letter in "aeio"] for each in texts], np.float32)
        source = dataclasses.replace(source, classes=tuple("aeio"))
    else:
        lengths = np.array([len(each) for each in texts])
        source.arrays.update(text2=texts[::-1], label=lengths - lengths.min())
        source = dataclasses.replace(source, classes=tuple(map(str, range(40))))
    splits, target = targets.prepare(hold_out(source), kind)
    reader, context = tokenizer.train("characters", list(texts), 0, tokens.checksum(texts)), 24
    if kind == "number":
        return target, text_pairs.tokenize(splits, reader, context)
    made = tokens.tokenize_texts(splits, reader, context)
    return target, word_pieces.add_tags(splits, made, target.names, context) if kind == "tags" else made


def build_supervised(kind):
    target, splits = prepared_target(kind)
    reader = splits.train.tokenizer
    encoder = Network(
        "transformer",
        vocabulary=reader.vocabulary,
        context=24,
        layers=1,
        heads=2,
        width=16,
        architecture="bert",
        causal=False,
        separator=text_pairs.separator(reader) if kind == "number" else -1,
    ).build()
    return supervised.Supervised(encoder, classifier_head(16, target.outputs), target, dropout=0.05, name="finetune")


def finetuned(kind, overfit):
    return Case(supervised, lambda spec: build_supervised(kind), overfit, splits=lambda: prepared_target(kind)[1])


def distilled(kind, overfit, accumulates=False, **options):
    return Case(
        distillation,
        lambda spec: distillation.build(prepared_students(kind, **options)[0], spec),
        overfit,
        splits=lambda: prepared_students(kind, **options)[1],
        accumulates=accumulates,
    )


CASES = {
    "autoencoder": Case(
        autoencoder, lambda spec: autoencoder.build(autoencoder.Settings((64, 32)), spec), floor=gray_entropy
    ),
    "autoencoder, denoising": Case(
        autoencoder,
        lambda spec: autoencoder.build(autoencoder.Settings((64, 32), gaussian_noise=0.1, masking_noise=0.2), spec),
        # The noise differs at every step, so one batch is never the same twice.
        overfit=0.3,
        floor=gray_entropy,
    ),
    "finetune": Case(classifier, build_finetune),
    "finetune, tags": finetuned("tags", 0.5),
    "finetune, labels": finetuned("labels", 0.5),
    "finetune, pairs and numbers": finetuned("number", 0.5),
    # Without crops all backgrounds are the same black, and rounding tips many ReLUs over at once.
    "rotation": vision(rotation, 0.5, crop=0.6),
    # Each of the four turns of an image skips branches on its own.
    "rotation, vit": vision(rotation, 0.9, network="vit", width=16, layers=2, patch=8, drop_path=0.2, accumulates=True),
    "classifier": vision(classifier, 0.5, classes=10, mixup=0.4, shift=0.1),
    "jigsaw": vision(jigsaw, 0.8, hidden=16),
    # Other patches are hidden at every step.
    "masked_autoencoder": vision(
        masked_autoencoder,
        0.9,
        accumulates=True,
        width=16,
        layers=1,
        decoder_width=8,
        decoder_layers=1,
        crop=0.6,
        flip=False,
    ),
    "contrastive": vision(contrastive, 0.8),
    "contrastive, local_global": vision(contrastive, 0.9, loss="local_global"),
    "contrastive, vicreg": vision(contrastive, 0.9, loss="vicreg"),
    "contrastive, lejepa": vision(contrastive, 0.9, loss="lejepa", sigreg_weight=0.5, local_views=2, noise=0.05),
    "freematch": Case(
        freematch,
        lambda spec: freematch.build(prepared_matching()[0], spec),
        0.8,
        splits=lambda: prepared_matching()[1],
        accumulates=False,
    ),
    "dcgan": vision(dcgan, None, shift=0.1, color=0.5),
    # With the default penalty of 10, plain SGD diverges within five steps, and rounding decides the weights.
    "dcgan, wasserstein": vision(dcgan, None, loss="wasserstein", critic_steps=2, penalty=1.0),
    "dcgan, spectral": vision(dcgan, None, normalization="spectral"),
    "distillation": distilled("tokens", 0.9, width=16, layers=1, heads=2, context=16, loss="similarity"),
    "distillation, components": distilled("tokens", 0.5, True, width=16, layers=1, heads=2, loss="components"),
    "distillation, images": distilled("image", 0.5, width=4, crop=0.6, projection=8),
    "distillation, audio": distilled("waveform", 0.5, True, width=16, layers=1, heads=2, frontend="mel"),
    # Windows are cut, and tokens hidden, at other places every time.
    "causal_lm": language(causal_lm, 0.6),
    "causal_lm, gpt2": language(causal_lm, 0.6, architecture="gpt2", remat=True, dropout=0.05),
    "causal_lm, llama": language(causal_lm, 0.6, architecture="llama", kv_heads=1, untied=True, dropout=0.05),
    "masked_lm": language(masked_lm, 0.9, whole_words=True),
    # Texts with other masks every time.
    "sentence": language(sentence, 0.5, False, pooling="last", passage=20),
    "sentence, pairs": dataclasses.replace(
        recurrent(sentence, 0.5, layers=1, heads=2, tokenizer="characters"), accumulates=False
    ),
    # Ten names for the examples of a batch: what is alike is no negative, and few are left.
    "image_text": image_and_text(0.9),
    "image_text, sigmoid": image_and_text(0.9, loss="sigmoid"),
    "wav2vec2": sound(0.9, gumbel_start=0.5),
    "wav2vec2, mel": sound(0.9, frontend="mel", context="recurrent", speed=0.1, noise=0.1),
    "ctc": Case(ctc, lambda spec: ctc.build(prepared_sayings()[0], spec), 0.5, splits=lambda: prepared_sayings()[1]),
    "recurrent_lm": recurrent(recurrent_lm, 0.9, layers=1),
    "seq2seq": recurrent(
        seq2seq, 0.5, task="pairs", symbols=True, layers=1, dropout=0.1, scheduled_sampling=0.2, label_smoothing=0.1
    ),
}


def uncovered():
    """Objectives without a case: there must be none."""
    return set(objectives.names()) - {name.split(",")[0] for name in CASES}


def weighted(views):
    """Views that give the examples unequal weights, some of them 0, by their position."""

    def wrapped(batch, random):
        batch = dict(batch)
        position = random.first + tf.range(random.rows)
        batch["weight"] = tf.cast(position % 5, tf.float32) / 2.0
        return views(batch, random)

    return wrapped


def compile_objective(objective, optimizer, **kwargs):
    """Compiles any objective; in fine-tuning the encoder has an optimizer of its own."""
    fresh = [Adam() if optimizer == "adam" else keras.optimizers.get(optimizer)]
    if objective.name == "finetune":
        fresh.append(type(fresh[0]).from_config(fresh[0].get_config()))
    objective.compile(*fresh, **kwargs)
    return objective


class Trajectory:
    """A case's training from fixed weights, which can be gone over again: what it runs is built and traced once.

    Args:
        case: a `Case`.
        strategy: where it trains.
        unequal: whether the examples of a batch have unequal weights.
        executions, **kwargs: as of `Objective.compile`.

    Attributes:
        objective: the compiled objective, as the last call left it.
        traced: a list with an entry for each time that a step of training was traced.
    """

    def __init__(
        self, case, strategy, *, optimizer="adam", batch_size=60, executions=1, seed=3, unequal=True, **kwargs
    ):
        self.splits, self.strategy, self.executions, self.traced = case.splits(), strategy, executions, []
        with strategy.scope():
            keras.utils.set_random_seed(seed)
            self.objective = objective = compile_objective(
                case.build(self.splits.train.spec()), optimizer, steps_per_execution=executions, **kwargs
            )
        step = objective.train_step
        objective.train_step = lambda batch: (self.traced.append(1), step(batch))
        views, preprocess_eval = (
            weighted(views) if unequal else views for views in (objective.preprocess, objective.preprocess_eval)
        )
        self.batches = Batches(self.splits.train, batch_size, seed=seed, preprocess=views)
        self.equal = Batches(self.splits.train, batch_size, seed=seed, preprocess=objective.preprocess)
        self.held_out_batches = Batches(self.splits.validation, batch_size, preprocess=preprocess_eval, shuffle=False)
        # `fit` resets the metrics.
        self.state = {k: v for k, v in checkpoint.variables(objective).items() if not k.startswith("metrics/")}
        self.start = files.read_variables(self.state)

    @functools.cached_property
    def dataset(self):
        return self.batches.dataset(0, None, self.strategy)

    @functools.cached_property
    def held_out_dataset(self):
        return self.held_out_batches.dataset(0, self.held_out_batches.steps_per_epoch, self.strategy)

    def restart(self):
        """Puts back the weights, the optimizers and the step with which it began."""
        if int(self.objective.step.numpy()):
            files.assign_variables(self.state, self.start)

    def after(self, steps, unequal=True, executions=None, **kwargs):
        """Trains so many steps from the start; returns their losses and metrics. `unequal` is as of the whole.

        The number of `executions` may be another one: it is an input of what is traced.
        """
        with self.strategy.scope():
            self.restart()
            self.objective.steps_per_execution = executions or self.executions
            data = self.dataset if unequal else self.equal.dataset(0, None, self.strategy)
            history = self.objective.fit(data, steps_per_epoch=steps, epochs=1, verbose=0, **kwargs).history
        return {key: values[-1] for key, values in history.items()}

    def held_out(self):
        """The held-out metrics of the objective as it is."""
        with self.strategy.scope():
            return self.objective.evaluate(
                self.held_out_dataset, steps=self.held_out_batches.steps_per_epoch, verbose=0, return_dict=True
            )

    @functools.cached_property
    def first(self):
        """(losses and metrics, weights, held-out metrics) after three steps, which several tests look at."""
        return self.after(3), self.weights(), self.held_out()

    def weights(self, trainable=False):
        """The weights as they are, a list of arrays."""
        variables = self.objective.trainable_variables if trainable else self.objective.weights
        return [variable.numpy() for variable in variables]


def train(case, strategy, *, steps=5, held_out=False, **options):
    """Trains a case from fixed weights; returns (objective, losses and metrics, held-out metrics if asked for)."""
    run = Trajectory(case, strategy, **options)
    logs = run.after(steps)
    return run.objective, logs, run.held_out() if held_out else {}


def planned(name, asked):
    """The `planning.Work` of a case."""
    case = CASES[name]
    module = types.SimpleNamespace(build=lambda settings, spec: case.build(spec))
    return cost.of_traced(module, None, case.splits(), asked, cost.Passes())


ONE = tf.distribute.get_strategy()
# Adam's steps do not depend on the gradient's size; `strategies.py` compares those of plain descent.
OPTIONS = {"batch_size": 16, "clip_norm": 0.05}


every_objective = pytest.mark.parametrize("name", [name for name in CASES if "," not in name])
# Variants only run with the long proofs: they take minutes, and share the code that is tested.
every_case = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "," in name else []) for name in CASES]
)


@functools.cache
def trajectory(name):
    """The `Trajectory` of a case on one device; its tests share it, and each begins with what it looks at."""
    return Trajectory(CASES[name], ONE, **OPTIONS)
