"""Fine-tuning: trains a saved encoder and a new head on labels (the tutorial's section 3.2).

The objective is `objectives/classifier.py` or, with unlabeled images, `objectives/freematch.py`; for numbers, tags and
several labels of texts it is `supervised.py`. The encoder is frozen, frozen for some steps, or trained at a lower
learning rate than the head.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import keras
import numpy as np

from ssl_keras import encoders
from ssl_keras.data import inputs, summary, targets, unlabeled
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.ranges import Range, check_kind
from ssl_keras.data.sources import as_splits
from ssl_keras.data.splits import Splits, check_classes, few_labels
from ssl_keras.downstream import targeting
from ssl_keras.downstream.columns import validation_rows
from ssl_keras.downstream.supervised import Supervised
from ssl_keras.encoders import card as cards
from ssl_keras.encoders.inputs import native_size
from ssl_keras.engine.config import Training, total_steps
from ssl_keras.evaluation.features import extract_features
from ssl_keras.evaluation.probes import linear_layer
from ssl_keras.networks import Network, depth_groups, realize
from ssl_keras.objectives import freematch
from ssl_keras.objectives.classifier import Classifier, Decay, Mixup, Smoothing
from ssl_keras.training import run as runs
from ssl_keras.training.optimizer import level_ratios
from ssl_keras.training.optimizer import make as make_optimizer
from ssl_keras.training.run_folder import open_run
from ssl_keras.training.strategy import strategy as choose_strategy


@dataclasses.dataclass(frozen=True)
class Settings(freematch.Matching, Augmentation):
    """Fine-tuning, the augmentation of images, and semi-supervised fine-tuning."""

    target: Literal[*targets.KINDS] | None = None
    """Target that the head predicts: the class of an example or, of a text, a number, the tag of each word, or several
    labels at once. None is tags or labels if the data have a column of these, and otherwise class."""
    labels_per_class: Annotated[int, Range(0)] = 0
    """Number of labeled training examples per class. 0 uses all of them."""
    label_seed: int = 0
    """Seed of the random choice of examples for --labels-per-class."""
    freeze: bool = False
    """Freeze the encoder and train only the head."""
    encoder_lr_ratio: Annotated[float, Range(0, open="low")] | None = None
    """Learning rate of the encoder, as a multiple of that of the head. None is 0.1, or 1 with --unlabeled.
    To freeze the encoder, use --freeze."""
    layer_decay: Annotated[float, Range(0, 1, open="low")] = 1.0
    """Layer-wise decay of the learning rate: factor from each stage or block of the encoder to the one before it.
    1 gives all the same learning rate."""
    probe_init: bool = False
    """Initialize the head with a linear probe, fitted on the features of the labeled examples (LP-FT). Otherwise it is
    initialized at random."""
    ema_decay: Decay = 0.0
    """Decay of the exponential moving average of the weights, which is then evaluated and saved in their place.
    0 disables it. With --unlabeled, 0 means 0.999."""
    class_weights: bool = False
    """Weight the loss of each class by the inverse of its frequency, for classes of unequal size."""
    frozen_steps: Annotated[int, Range(0)] = 0
    """Number of initial steps that train only the head. 0 trains the encoder from the start.
    Batch normalization statistics of the encoder are updated in these steps too."""
    label_smoothing: Smoothing = 0.0
    """Label smoothing: fraction of the target distribution that is spread over all classes. 0 disables it."""
    mixup: Mixup = 0.0
    """Mixup of images: parameter α of the Beta distribution of the mixing weights. 0 disables it."""
    dropout: Annotated[float, Range(0, 1, open="high")] = 0.0
    """Dropout rate of the features and, in a text transformer that is not frozen, of the embeddings and of each block's
    outputs of attention and MLP. 0 disables dropout."""
    scratch: bool = False
    """Initialize the encoder at random, as a baseline (training from scratch)."""
    unlabeled: str = ""
    """Dataset, by name, whose images are also learned from without their labels (semi-supervised fine-tuning). All are
    used, except for a test or validation split that came with the data, and exact copies of the held-out images of
    --data, which it may be. Empty disables it."""

    def __post_init__(self):
        super().__post_init__()
        if self.freeze and self.frozen_steps:
            raise ValueError(
                "Expected freeze or frozen_steps, not both. "
                f"Received: freeze=True, frozen_steps={self.frozen_steps}. Leave one of them out."
            )
        off = {name: getattr(self, name) for name in ("freeze", "frozen_steps", "mixup", "label_smoothing", "dropout")}
        if self.unlabeled and any(off.values()):
            raise ValueError(
                "Expected unlabeled without freeze, frozen_steps, mixup, label_smoothing and dropout. Received: "
                + ", ".join(f"{name}={value}" for name, value in off.items() if value)
                + ". Leave these settings out."
            )
        if self.scratch and self.probe_init:
            raise ValueError(
                "Expected scratch or probe_init, not both, since random features give no useful head. "
                "Received: both. Leave one of them out."
            )


log = logging.getLogger(__name__)
DEFAULTS = Training(steps=1000, batch_size=64)
ENCODER_LR_RATIO = 0.1


def defaults(unlabeled):
    """Returns the default `Training`, with unlabeled images or without."""
    return freematch.DEFAULTS if unlabeled else DEFAULTS


def finetune(
    name: str | os.PathLike,
    settings: Settings = Settings(),
    training: Training | None = None,
    data: Splits | str | None = None,
    network: Callable[[], keras.Model] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict:
    """Fine-tunes a saved encoder on labels, and saves it with its head.

    Args:
        name: a saved encoder, by name or path.
        settings: `Settings`.
        training: `Training`, whose `data` names the data; None is `defaults(settings.unlabeled)`.
        data: `Splits`, or the name of a dataset, to train on instead of `training.data`.
        network: for an encoder of your own architecture, a function that builds a new one.
        callbacks: additional Keras callbacks.

    Returns:
        The outcome: a dict with the run's `folder`, losses, and scores on the test split: `test_accuracy`; of numbers
        `test_pearson`, `test_spearman` and `test_rmse`; of tags also `test_span_f1`, `test_span_precision` and
        `test_span_recall`; of several labels also `test_f1_macro` and `test_f1_micro`.

    Raises:
        ValueError, RuntimeError, PermissionError: invalid input; raised before training starts.
    """
    check_kind("settings", settings, Settings)
    training = defaults(settings.unlabeled) if training is None else training
    check_kind("training", training, Training)
    if training.init is not None:
        raise ValueError(
            f"init must be None: fine-tuning starts from the encoder {str(name)!r}. Received: init={training.init!r}"
        )
    # 1 Prepare the data.
    if isinstance(data, str | os.PathLike):
        training, data = dataclasses.replace(training, data=data), None
    folder_of_encoder = encoders.find(name)
    card = cards.read(folder_of_encoder)
    strategy = choose_strategy(training.strategy, training.replicas)
    check_makes(network)
    size = training.image_size or native_size(card)
    loaded = as_splits(training.data if data is None else data, size)
    loaded, target = targets.prepare(loaded, settings.target)
    targeting.check(settings, target)
    splits = targeting.adapt(folder_of_encoder, card, loaded, target)
    about = runs.summarize_data(loaded, splits)
    _check_augmentation(settings, splits, card)
    held_out = splits[1:]
    splits = _with_few_labels(splits, settings)
    labeled = splits.train
    if settings.unlabeled:
        joined, others = _with_unlabeled(labeled, held_out, settings, size, folder_of_encoder, card)
        splits, about = splits._replace(train=joined), about | {"unlabeled": others}
    # With few examples there may be less than a batch, so the batch shrinks.
    replicas = strategy.num_replicas_in_sync
    max_batch_size = max(len(splits.train) // replicas * replicas, replicas)
    training = dataclasses.replace(training, batch_size=min(training.batch_size, max_batch_size))
    weights = card["weights"]["sha256"][:16]
    asked = {"encoder": card["name"], "encoder_weights": weights, **dataclasses.asdict(settings), "target": target.kind}
    default_name = f"finetune-{card['name']}-{splits.train.short_name}"
    run = open_run(training, splits, strategy, "finetune", asked, default_name)

    # 2 Initialize from the pretrained encoder. 3 Choose the loss.
    with run as (folder, asked), strategy.scope(), runs.conditions(training):
        # Loaded even with `scratch`, because loading checks the card before a graph is built from it.
        encoder = encoders.load_encoder(folder_of_encoder, network=network, precision=training.precision)
        if settings.scratch:
            encoder = realize(network) if network else cards.network(card).build()
        encoder = targeting.with_segments(encoder, splits, loaded)
        if not network:
            encoder.name = "encoder"  # the same name as in pretraining, for comparison in TensorBoard
        head = Network("classifier_head", features=card["features"], classes=target.outputs).build()
        if settings.probe_init:
            features = extract_features(encoder, labeled)
            head.set_weights(linear_layer(features, labeled.column("label"), len(labeled.classes)))
        objective = _objective(encoder, head, labeled, settings, target)
        total = total_steps(training, splits)
        if settings.frozen_steps >= total:
            log.warning(
                "frozen_steps is %d, but the run has only %d steps: the encoder is never trained.",
                settings.frozen_steps,
                total,
            )
        runs.compile_objective(objective, training, splits, *_optimizers(objective.student, training, total, settings))

        def save(outcome):
            outcome |= targeting.scores(encoder, head, target, splits.test, loaded.test, card)
            encoders.save_encoder(
                folder / "encoder",
                encoder,
                name=folder.name,
                spec=splits.train.spec(),
                head=targeting.in_units(head, target),
                classes=target.names,
                target=targeting.entry(target, loaded),
                tokenizer=splits.train.tokenizer,
                context=card["input"].get("tokens", {}).get("context"),
                licenses=card["licenses"],
                trained_by={
                    "objective": "finetune",
                    "settings": asked,
                    "outcome": outcome,
                    "data": {
                        "name": splits.train.name,
                        "examples": len(splits.train),
                        "converted": splits.train.converted,
                        "summary": summary.compact(about),
                    },
                },
            )

        # 4 Train. 5 Evaluate.
        return runs.train_and_save(objective, splits, training, folder, strategy, asked, about, callbacks, save)


def _check_augmentation(settings, splits, card):
    """Raises ValueError if images are to be augmented and there are none."""
    augmented = settings.mixup or dataclasses.asdict(Augmentation()).items() - dataclasses.asdict(settings).items()
    if augmented and inputs.column(splits.train.arrays) != "image":
        raise ValueError(
            f"Augmentation and mixup are for images, and {card['name']} is not an encoder of images. Leave these "
            "settings out."
        )


def _with_few_labels(splits, settings):
    """Returns the splits with `labels_per_class` training examples; weights are chosen on no more labels than these."""
    count, seed = settings.labels_per_class, settings.label_seed
    if not count:
        return splits
    rows = validation_rows(splits.validation, count, seed)
    return splits._replace(train=few_labels(splits.train, count, seed), validation=splits.validation.take(rows))


def _with_unlabeled(labeled, held_out, settings, size, folder, card):
    """Returns the labeled images joined with unlabeled ones, as the encoder takes them, and {"data", "examples", …}."""
    if inputs.column(labeled.arrays) != "image":
        raise ValueError(
            f"unlabeled is for images, and {card['name']} is not an encoder of images. Leave this setting out."
        )
    freematch.frequencies(labeled)  # raises if a class has no labels
    pool = unlabeled.undivided(as_splits(settings.unlabeled, size))
    pool = encoders.adapt(folder, card, pool).train
    others = unlabeled.without_copies(pool, held_out)
    joined = unlabeled.with_unlabeled(labeled, others, settings.unlabeled_ratio, settings.label_seed)
    copies = len(pool) - len(others)
    log.info(
        "Learning from %d labeled and %d unlabeled images; left out: %d copies of validation and test images",
        len(labeled),
        len(others),
        copies,
    )
    return joined, {"data": settings.unlabeled, "examples": len(others), "copies_of_held_out": copies}


def _objective(encoder, head, labeled, settings, target):
    """Returns the objective: with labels alone, or with unlabeled images too."""
    if target.kind != "class":
        return Supervised(
            encoder,
            head,
            target,
            ema_decay=settings.ema_decay,
            dropout=settings.dropout,
            frozen=settings.freeze,
            name="finetune",
        )
    weights = class_weights(labeled) if settings.class_weights else None
    if settings.unlabeled:
        return freematch.FreeMatch(
            encoder,
            head,
            freematch.frequencies(labeled),
            settings,
            ema_decay=settings.ema_decay or freematch.EMA_DECAY,
            class_weights=weights,
            name="finetune",
        )
    return Classifier(
        encoder,
        head,
        augmentation=settings,
        label_smoothing=settings.label_smoothing,
        mixup=settings.mixup,
        ema_decay=settings.ema_decay,
        class_weights=weights,
        dropout=settings.dropout,
        frozen=settings.freeze,
        name="finetune",
    )


def class_weights(labeled):
    """Returns N/(Y·N_c) for each class c, where N_c of N examples are of class c; Y classes have examples."""
    counts = np.bincount(labeled.column("label"), minlength=len(labeled.classes))
    return len(labeled) / (np.count_nonzero(counts) * np.maximum(counts, 1))


def _optimizers(pair, training, total, settings):
    """Returns the head's optimizer, and those of the encoder: one, or one for each level of depth."""
    head = make_optimizer(training, total, pair.head.trainable_variables)
    ratio = settings.encoder_lr_ratio or (1.0 if settings.unlabeled else ENCODER_LR_RATIO)
    levels = [pair.encoder.trainable_variables]
    if settings.layer_decay < 1 and levels[0]:
        levels = depth_groups(pair.encoder)
    ratios = level_ratios(levels, settings.layer_decay)
    return head, *(
        make_optimizer(training, total, variables, ratio * each, settings.frozen_steps)
        for variables, each in zip(levels, ratios)
    )


def check_makes(network):
    """Raises ValueError unless `network` is None or a function that builds a new network in each call."""
    if network is None:
        return
    graphs = [] if isinstance(network, keras.Model) or not callable(network) else [realize(network), realize(network)]
    shared = graphs and {id(v) for v in graphs[0].variables} & {id(v) for v in graphs[1].variables}
    if not graphs or shared:
        raise ValueError(
            "network must be a function that builds a new network in each call. Received: "
            + ("a function whose networks share weights." if shared else f"a {type(network).__name__}.")
        )


def check_labeled(splits, folder, card):
    """Checks that the splits have classes of single examples, and adapts them to the encoder's input.

    Raises:
        ValueError: there are no labels, there is only one class, texts are in pairs, or the data do not fit the
            encoder.
    """
    if "text2" in splits.train.arrays:
        raise ValueError(
            f"{splits.train.name} has pairs of texts. Expected single examples with classes. Evaluate pairs with "
            "ssl-keras finetune, which scores the test split."
        )
    check_classes(splits.train)
    for source in splits:
        source.column_spec("label")
    return encoders.adapt(folder, card, splits)
