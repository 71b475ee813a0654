"""Fine-tuning: trains a saved encoder and a new classification head on labels (the tutorial's section 3.2).

The objective is `objectives/classifier.py`. The encoder is frozen, frozen for some steps, or trained at a lower
learning rate than the head.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from typing import Annotated

import keras

from ssl_keras import encoders
from ssl_keras.data import inputs, summary
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.ranges import Range, check_kind
from ssl_keras.data.sources import as_splits
from ssl_keras.data.splits import Splits, check_classes, few_labels
from ssl_keras.encoders import card as cards
from ssl_keras.engine.config import Training, total_steps
from ssl_keras.networks import Network, realize
from ssl_keras.objectives.classifier import Classifier, Mixup, Smoothing
from ssl_keras.training import run as runs
from ssl_keras.training.optimizer import make as make_optimizer
from ssl_keras.training.run_folder import open_run
from ssl_keras.training.strategy import strategy as choose_strategy


@dataclasses.dataclass(frozen=True)
class Settings(Augmentation):
    """Fine-tuning, and the augmentation of images."""

    labels_per_class: Annotated[int, Range(0)] = 0
    """Number of labeled training examples per class. 0 uses all of them."""
    label_seed: int = 0
    """Seed of the random choice of examples for --labels-per-class."""
    freeze: bool = False
    """Freeze the encoder and train only the head."""
    encoder_lr_ratio: Annotated[float, Range(0, open="low")] = 0.1
    """Learning rate of the encoder, as a multiple of that of the head. To freeze the encoder, use --freeze."""
    frozen_steps: Annotated[int, Range(0)] = 0
    """Number of initial steps that train only the head. 0 trains the encoder from the start.
    Batch normalization statistics of the encoder are updated in these steps too."""
    label_smoothing: Smoothing = 0.0
    """Label smoothing: fraction of the target distribution that is spread over all classes. 0 disables it."""
    mixup: Mixup = 0.0
    """Mixup of images: parameter α of the Beta distribution of the mixing weights. 0 disables it."""
    scratch: bool = False
    """Initialize the encoder at random, as a baseline (training from scratch)."""

    def __post_init__(self):
        super().__post_init__()
        if self.freeze and self.frozen_steps:
            raise ValueError(
                "Expected freeze or frozen_steps, not both. "
                f"Received: freeze=True, frozen_steps={self.frozen_steps}. Leave one of them out."
            )


log = logging.getLogger(__name__)
DEFAULTS = Training(steps=1000, batch_size=64)


def finetune(
    name: str | os.PathLike,
    settings: Settings = Settings(),
    training: Training = DEFAULTS,
    data: Splits | str | None = None,
    network: Callable[[], keras.Model] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict:
    """Fine-tunes a saved encoder on labels, and saves it with its head.

    Args:
        name: a saved encoder, by name or path.
        settings, training: `Settings` and `Training`; `training.data` names the data.
        data: `Splits`, or the name of a dataset, to train on instead of `training.data`.
        network: for an encoder of your own architecture, a function that builds a new one.
        callbacks: additional Keras callbacks.

    Returns:
        The outcome: a dict with the run's `folder`, losses, and `test_accuracy` on the
        test split.

    Raises:
        ValueError, RuntimeError, PermissionError: invalid input; raised before training starts.
    """
    check_kind("settings", settings, Settings)
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
    loaded = as_splits(training.data if data is None else data, training.image_size)
    splits = check_labeled(loaded, folder_of_encoder, card)
    about = runs.summarize_data(loaded, splits)
    augmented = settings.mixup or dataclasses.asdict(Augmentation()).items() - dataclasses.asdict(settings).items()
    if augmented and inputs.column(splits.train.arrays) != "image":
        raise ValueError(
            f"Augmentation and mixup are for images, and {card['name']} is not an encoder of images. Leave these "
            "settings out."
        )
    if settings.labels_per_class:
        splits = splits._replace(train=few_labels(splits.train, settings.labels_per_class, settings.label_seed))
        # With few labels there may be less than a batch of examples, so the batch shrinks.
        replicas = strategy.num_replicas_in_sync
        max_batch_size = max(len(splits.train) // replicas * replicas, replicas)
        training = dataclasses.replace(training, batch_size=min(training.batch_size, max_batch_size))
    weights = card["weights"]["sha256"][:16]
    asked = {"encoder": card["name"], "encoder_weights": weights, **dataclasses.asdict(settings)}
    default_name = f"finetune-{card['name']}-{splits.train.short_name}"
    run = open_run(training, splits, strategy, "finetune", asked, default_name)

    # 2 Initialize from the pretrained encoder. 3 Choose the loss.
    with run as (folder, asked), strategy.scope(), runs.conditions(training):
        # Loaded even with `scratch`, because loading checks the card before a graph is built from it.
        encoder = encoders.load_encoder(folder_of_encoder, network=network, precision=training.precision)
        if settings.scratch:
            encoder = realize(network) if network else cards.network(card).build()
        if not network:
            encoder.name = "encoder"  # the same name as in pretraining, for comparison in TensorBoard
        head = Network("classifier_head", features=card["features"], classes=len(splits.train.classes)).build()
        objective = Classifier(
            encoder,
            head,
            augmentation=settings,
            label_smoothing=settings.label_smoothing,
            mixup=settings.mixup,
            frozen=settings.freeze,
            name="finetune",
        )
        total = total_steps(training, splits)
        if settings.frozen_steps >= total:
            log.warning(
                "frozen_steps is %d, but the run has only %d steps: the encoder is never trained.",
                settings.frozen_steps,
                total,
            )
        runs.compile_objective(
            objective,
            training,
            splits,
            make_optimizer(training, total, head.trainable_variables),
            make_optimizer(
                training, total, encoder.trainable_variables, settings.encoder_lr_ratio, settings.frozen_steps
            ),
        )

        def save(outcome):
            encoders.save_encoder(
                folder / "encoder",
                encoder,
                name=folder.name,
                spec=splits.train.spec(),
                head=head,
                classes=splits.train.classes,
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
    """Checks that the splits have labels, and adapts them to the encoder's input.

    Raises:
        ValueError: there are no labels, there is only one class, or the data do not fit the encoder.
    """
    check_classes(splits.train)
    for source in splits:
        source.column_spec("label")
    return encoders.adapt(folder, card, splits)
