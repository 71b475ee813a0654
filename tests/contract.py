"""What every objective is tested with: small settings, and a source that suits it.

`tests/test_contract.py` checks them on one device, `tests/strategies.py` on several.
"""

import dataclasses

import keras
import tensorflow as tf

from ssl_keras import objectives
from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import load
from ssl_keras.networks.dense import classifier_head, dense_encoder
from ssl_keras.objectives import autoencoder
from ssl_keras.training import finetune
from ssl_keras.training.optimizer import Adam


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective under test.

    Attributes:
        module: where it is documented.
        build: function of a source's spec to the objective.
        overfit: share of its first loss that one batch must be trained down to in 200 steps.
        floor: function of a batch to the lowest loss there can be, subtracted from both.
    """

    module: object
    build: object
    overfit: float = 0.1
    floor: object = staticmethod(lambda batch: 0.0)


def grey_entropy(batch):
    """The binary cross-entropy of grey pixels with themselves: no reconstruction is below it."""
    x = tf.cast(batch["image"], tf.float64) / 255
    entropy = -tf.math.xlogy(x, x) - tf.math.xlogy(1 - x, 1 - x)
    return float(tf.reduce_mean(entropy))


def build_finetune(spec):
    return finetune.Finetune(
        finetune.Settings(encoder_rate=0.5), dense_encoder(spec["image"][0], (32, 16)), classifier_head(16, 10)
    )


CASES = {
    "autoencoder": Case(
        autoencoder, lambda spec: autoencoder.build(autoencoder.Settings((64, 32)), spec), floor=grey_entropy
    ),
    "autoencoder, denoising": Case(
        autoencoder,
        lambda spec: autoencoder.build(autoencoder.Settings((64, 32), gaussian_noise=0.1, masking_noise=0.2), spec),
        # The noise differs at every step, so one batch is never the same twice.
        overfit=0.3, floor=grey_entropy,
    ),
    "finetune": Case(finetune, build_finetune),
}


def uncovered():
    """Objectives without a case: there must be none."""
    return set(objectives.names()) - {name.split(",")[0] for name in CASES}


def weighted(views):
    """Views that give the examples unequal weights, some of them 0, by their position."""

    def wrapped(batch, draws):
        batch = dict(batch)
        position = draws.first + tf.range(draws.rows)
        batch["weight"] = tf.cast(position % 5, tf.float32) / 2.0
        return views(batch, draws)

    return wrapped


def compile_objective(objective, optimizer, **kwargs):
    """Compiles any objective; `Finetune` makes its own optimizers from a rate."""
    if isinstance(objective, finetune.Finetune):
        objective.compile(learning_rate=1e-3, **kwargs)
    else:
        objective.compile(Adam() if optimizer == "adam" else keras.optimizers.get(optimizer), **kwargs)
    return objective


def train(case, strategy, *, optimizer="adam", steps=5, batch_size=60, executions=1, seed=3, unequal=True, **kwargs):
    """Trains a case from fixed weights; returns (objective, losses and metrics, held-out metrics)."""
    splits = load("digits")
    with strategy.scope():
        keras.utils.set_random_seed(seed)
        objective = compile_objective(
            case.build(splits.train.spec()), optimizer, steps_per_execution=executions, **kwargs
        )
        views = weighted(objective.views) if unequal else objective.views
        batches = Batches(splits.train, batch_size, seed=seed, views=views)
        history = objective.fit(
            batches.dataset(0, None, strategy), steps_per_epoch=steps, epochs=1, verbose=0
        ).history
        held_out = Batches(splits.validation, batch_size, views=views, shuffle=False)
        result = objective.evaluate(
            held_out.dataset(0, held_out.steps_per_epoch, strategy),
            steps=held_out.steps_per_epoch, verbose=0, return_dict=True,
        )
    return objective, {key: values[-1] for key, values in history.items()}, result
