"""Pretraining: any objective on unlabelled data, in the tutorial's five steps (its section 3.1)."""

import dataclasses
import logging

import numpy as np

from ssl_keras import encoders, objectives
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits
from ssl_keras.training import run as runs
from ssl_keras.training.distribution import strategy as choose_strategy

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
            "data must be Splits, as sources.from_arrays and text.from_texts make them. "
            f"Received: {type(data).__name__}"
        )
    splits = data or load(training.data, training.image_size)
    default_name = f"{name}-{splits.train.short_name}"
    settings, splits = module.prepare(settings, splits, training.init)
    spec = splits.train.spec()
    asked = dataclasses.asdict(settings)
    folder, asked = runs.open_run(training, splits, strategy, f"pretrain {name}", asked, default_name)

    with strategy.scope(), runs.conditions(training):
        # 2 Initialise, at random or from a saved encoder. 3 The objective is the choice of loss.
        objective = module.build(settings, spec, **({} if encoder is None else {"encoder": encoder}))
        if training.init is not None:
            initialise(objective.encoder, training.init, getattr(objective, "head", None), objective.not_taken_over)
            objective.initialised()
        runs.compile_objective(objective, training, splits)

        def save(outcome):
            encoders.save_encoder(
                folder / "encoder", objective.encoder, name=folder.name, objective=name,
                settings=settings if encoder is None else None, spec=spec,
                head=getattr(objective, "head", None) if encoder is None else None,
                classes=splits.train.classes if getattr(settings, "labels", False) and encoder is None else (),
                tokenizer=splits.train.tokenizer,
                data={"name": splits.train.name, "examples": len(splits.train)},
                training=asked | {"outcome": outcome},
            )

        # 4 Train. 5 Evaluate on held-out unlabelled data, keeping the best.
        return runs.train_and_save(objective, splits, training, folder, strategy, asked, callbacks, save)


def initialise(encoder, name, head=None, fresh=()):
    """Copies the weights of a saved encoder that match by name and shape; lists the others.

    A head is taken over whole, but for its weights named in `fresh`, where the saved one has its shapes; else
    it stays as it is.

    Returns:
        The names left as they were: (in the new encoder, in the saved one).

    Raises:
        ValueError: nothing matches.
    """
    saved, saved_head, _ = encoders.load_with_head(name)
    saved = encoders.named_variables(saved)
    new = encoders.named_variables(encoder)
    matched = [key for key in new if key in saved and saved[key].shape == new[key].shape]
    if not matched:
        raise ValueError(
            f"Nothing in the encoder {name} fits this one. Expected weights such as "
            f"{ {k: tuple(v.shape) for k, v in list(new.items())[:3]} }. "
            f"Received: { {k: tuple(v.shape) for k, v in list(saved.items())[:3]} }"
        )
    for key in matched:
        new[key].assign(np.asarray(saved[key]))
    left = sorted(new.keys() - set(matched)), sorted(saved.keys() - set(matched))
    log.info("Initialised %d of %d weights from %s", len(matched), len(new), name)
    if head is not None and saved_head is not None:
        theirs, ours = (
            {key: v for key, v in encoders.named_variables(network).items() if key not in fresh}
            for network in (saved_head, head)
        )
        if {key: v.shape for key, v in theirs.items()} == {key: v.shape for key, v in ours.items()}:
            for key, variable in ours.items():
                variable.assign(np.asarray(theirs[key]))
            log.info("and its %s%s", head.name, f", but for {', '.join(fresh)}" if fresh else "")
        else:
            log.warning("Its %s does not fit this one, which begins at random.", head.name)
    if any(left):
        log.warning("Not initialised: %s; not used from %s: %s", left[0], name, left[1])
    return left
