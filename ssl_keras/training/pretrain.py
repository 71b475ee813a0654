"""Pretraining: trains any objective on unlabeled data, in the five steps of the tutorial's section 3.1."""

import dataclasses
import logging
import os
import typing
from collections.abc import Callable, Sequence

import keras

from ssl_keras import encoders, objectives
from ssl_keras.data import inputs, summary
from ssl_keras.data.ranges import check_kind
from ssl_keras.data.sources import as_splits
from ssl_keras.data.splits import Splits
from ssl_keras.encoders.initialize import initialize
from ssl_keras.engine.config import Training
from ssl_keras.networks import description, realize
from ssl_keras.training import run as runs
from ssl_keras.training.guard import Guard
from ssl_keras.training.run_folder import open_run
from ssl_keras.training.strategy import strategy as choose_strategy

log = logging.getLogger(__name__)


def pretrain(
    name: str,
    settings: typing.Any = None,
    training: Training | None = None,
    data: Splits | str | None = None,
    encoder: keras.Model | Callable | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict:
    """Pretrains an objective and saves its encoder.

    Args:
        name: name of the objective, such as "autoencoder".
        settings: the objective's `Settings`; None uses the defaults.
        training: `Training`; None uses the objective's `DEFAULTS`. Use `dataclasses.replace` to
            change some of these.
        data: `Splits` (see `splits.from_arrays`), or the name of a dataset, to train on instead of `training.data`.
        encoder: your own functional encoder, or a function (settings, spec) that makes
            one inside the strategy's scope. Its architecture is not saved: load it with
            `load_encoder(folder, network=...)`. Several replicas match one device only if the encoder has
            no Dropout, which draws separately on each replica, and uses
            `BatchNormalization(synchronized=True)`.
        callbacks: additional Keras callbacks; every worker calls them.

    Returns:
        The outcome: a dict with the run's `folder`, its validation and test losses, steps
        and seconds. The encoder is in `folder`/encoder.

    Raises:
        ValueError, RuntimeError, PermissionError: invalid input; raised before training starts.
        FloatingPointError: the loss is not finite; the message gives the step.
    """
    module = objectives.module(name)
    settings = module.Settings() if settings is None else settings
    training = module.DEFAULTS if training is None else training
    check_kind("settings", settings, module.Settings)
    check_kind("training", training, Training)
    # 1 Prepare the data: training, validation and test splits.
    if isinstance(data, str | os.PathLike):
        training, data = dataclasses.replace(training, data=data), None
    strategy = choose_strategy(training.strategy, training.replicas)
    loaded = as_splits(training.data if data is None else data, training.image_size)
    if isinstance(encoder, keras.Model):
        encoder = realize(encoder)  # checks it before anything is written
    default_name = f"{name}-{loaded.train.short_name}"
    settings, splits = module.prepare(settings, loaded, training.init)
    about = runs.summarize_data(loaded, splits)
    spec = splits.train.spec()
    asked = dataclasses.asdict(settings)
    run = open_run(training, splits, strategy, f"pretrain {name}", asked, default_name)

    with run as (folder, asked), strategy.scope(), runs.conditions(training):
        # 2 Initialize at random or from a saved encoder. 3 Choose the loss, which the objective defines.
        objective = module.build(settings, spec, **({} if encoder is None else {"encoder": encoder}))
        objective.adapt(splits.train)
        if training.init is not None:
            initialize(objective.encoder, training.init, objective.head, objective.skip_on_init)
            objective.on_weights_loaded()
        watched = training.init is not None and inputs.column(spec) == "image"
        guard = Guard(objective.encoder, splits, training.keep_start) if watched else None
        runs.compile_objective(objective, training, splits)

        def save(outcome):
            if guard is not None:
                outcome |= guard.finish()
            is_described = description(objective.encoder) is not None
            encoders.save_encoder(
                folder / "encoder",
                objective.encoder,
                name=folder.name,
                spec=spec,
                head=objective.head if is_described else None,
                classes=splits.train.classes if is_described and objective.predicts_classes else (),
                tokenizer=splits.train.tokenizer,
                context=objective.context,
                decoding=objective.decoding if is_described else None,
                licenses=objective.teacher and {"data": None, "teacher": objective.teacher["license"]},
                trained_by={
                    "objective": name,
                    **({"teacher": dict(objective.teacher)} if objective.teacher else {}),
                    "settings": asked,
                    "outcome": outcome,
                    "data": {
                        "name": splits.train.name,
                        "examples": len(splits.train),
                        "summary": summary.compact(about),
                    },
                },
            )

        # 4 Train, keeping the best weights. 5 Evaluate on held-out unlabeled data.
        return runs.train_and_save(objective, splits, training, folder, strategy, asked, about, callbacks, save)
