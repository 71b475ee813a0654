"""Pretraining: any objective on unlabeled data, in the tutorial's five steps (its section 3.1)."""

import dataclasses
import logging

import keras

from ssl_keras import encoders, objectives
from ssl_keras.data import summary
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits
from ssl_keras.encoders.initialize import initialize
from ssl_keras.networks import description, realize
from ssl_keras.training import run as runs
from ssl_keras.training.run_folder import open_run
from ssl_keras.training.strategy import strategy as choose_strategy

log = logging.getLogger(__name__)


def pretrain(name, settings=None, training=None, data=None, encoder=None, callbacks=()):
    """Pretrains an objective and saves its encoder.

    Args:
        name: the objective, "autoencoder" say.
        settings: its `Settings`; None takes the defaults.
        training: `Training`; None takes the objective's `DEFAULTS`, which `dataclasses.replace`
            changes in part. `training.data` names the data.
        data: `Splits` instead of `training.data` (`splits.from_arrays`).
        encoder: your own functional encoder, or a function (settings, spec) that makes
            one inside the strategy's scope. It is saved without settings, and loads with
            `load_encoder(folder, network=...)`. Replicas then give what one device gives only
            without Dropout, which draws by itself on each, and with
            `BatchNormalization(synchronized=True)`.
        callbacks: more Keras callbacks; of several workers, each calls them.

    Returns:
        The outcome: a dict with the run's `folder`, losses on the held-out parts, steps
        and seconds. The encoder is in `folder`/encoder.

    Raises:
        ValueError, RuntimeError, PermissionError: bad input, before training starts.
        FloatingPointError: the loss became non-finite; the step is named.
    """
    module = objectives.module(name)
    settings = module.Settings() if settings is None else settings
    training = module.DEFAULTS if training is None else training
    # 1 Prepare the data: three parts, of which one is learned from.
    strategy = choose_strategy(training.strategy, training.replicas)
    if data is not None and not isinstance(data, Splits):
        raise ValueError(
            "data must be Splits, as `data.splits.from_arrays` and `data.readers.text.from_texts` make them. "
            f"Received: {type(data).__name__}"
        )
    loaded = data or load(training.data, training.image_size)
    if isinstance(encoder, keras.Model):
        encoder = realize(encoder)  # refused here, before anything is made
    default_name = f"{name}-{loaded.train.short_name}"
    settings, splits = module.prepare(settings, loaded, training.init)
    about = runs.summarized(loaded, splits)
    spec = splits.train.spec()
    asked = dataclasses.asdict(settings)
    run = open_run(training, splits, strategy, f"pretrain {name}", asked, default_name)

    with run as (folder, asked), strategy.scope(), runs.conditions(training):
        # 2 Initialize, at random or from a saved encoder. 3 The objective is the choice of loss.
        objective = module.build(settings, spec, **({} if encoder is None else {"encoder": encoder}))
        if training.init is not None:
            initialize(objective.encoder, training.init, objective.head, objective.skip_on_init)
            objective.on_weights_loaded()
        runs.compile_objective(objective, training, splits)

        def save(outcome):
            ours = description(objective.encoder) is not None
            encoders.save_encoder(
                folder / "encoder",
                objective.encoder,
                name=folder.name,
                spec=spec,
                head=objective.head if ours else None,
                classes=splits.train.classes if ours and objective.predicts_classes else (),
                tokenizer=splits.train.tokenizer,
                context=objective.context,
                decoding=objective.decoding if ours else None,
                trained_by={
                    "objective": name,
                    "settings": asked,
                    "outcome": outcome,
                    "data": {
                        "name": splits.train.name,
                        "examples": len(splits.train),
                        "summary": summary.compact(about),
                    },
                },
            )

        # 4 Train. 5 Evaluate on held-out unlabeled data, keeping the best.
        return runs.train_and_save(objective, splits, training, folder, strategy, asked, about, callbacks, save)
