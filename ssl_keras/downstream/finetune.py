"""Fine-tuning: a head on a pretrained encoder, trained with labels.

The tutorial's section 3.2. What is trained is `objectives/classifier.py`, from a saved encoder.
The encoder is frozen, or frozen at first, or learns at a lower rate than the new head.
"""

import dataclasses
import logging
from typing import Annotated

import keras

from ssl_keras import encoders
from ssl_keras.data import inputs, summary
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.ranges import Range
from ssl_keras.data.sources import load
from ssl_keras.data.splits import check_classes, few_labels
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
    """What is learned, how fast, and how images are augmented."""

    labels_per_class: Annotated[int, Range(0)] = 0
    """Use so many labels of each class; 0 is all."""
    label_seed: int = 0
    """Which ones."""
    freeze: bool = False
    """Leave the encoder as it is."""
    encoder_lr_ratio: Annotated[float, Range(0, open="low")] = 0.1
    """The encoder's learning rate as a share of the head's; use freeze for 0."""
    frozen_steps: Annotated[int, Range(0)] = 0
    """Let the head learn alone for so many steps first (batch statistics of the encoder follow the data)."""
    label_smoothing: Smoothing = 0.0
    """Label smoothing: the share of the target that is spread over all classes."""
    mixup: Mixup = 0.0
    """Of images, α of the Beta distribution of shares; 0 is no mixup."""
    scratch: bool = False
    """Forget the pretrained weights: the baseline."""

    def __post_init__(self):
        super().__post_init__()
        if self.freeze and self.frozen_steps:
            raise ValueError(f"freeze and frozen_steps exclude each other. Received: frozen_steps={self.frozen_steps}")


log = logging.getLogger(__name__)
DEFAULTS = Training(steps=1000, batch_size=64)


def finetune(name, settings=Settings(), training=DEFAULTS, data=None, network=None, callbacks=()):
    """Fine-tunes a saved encoder on labels, and saves it with its head.

    Args:
        name: a saved encoder, by name or path.
        settings, training: see their classes; `training.data` names the data.
        data: `Splits` instead of `training.data`.
        network: for an encoder of your own architecture: a function that makes a fresh graph.
        callbacks: more Keras callbacks.

    Returns:
        The outcome: a dict with the run's `folder`, losses, and `test_accuracy` on the
        held-out test part.

    Raises:
        ValueError, RuntimeError, PermissionError: bad input, before training starts.
    """
    if training.init is not None:
        raise ValueError(f"finetune starts from the encoder it is given. Received: init={training.init!r}")
    # 1 Prepare the data.
    folder_of_encoder = encoders.find(name)
    card = cards.read(folder_of_encoder)
    strategy = choose_strategy(training.strategy, training.replicas)
    check_makes(network)
    loaded = data or load(training.data, training.image_size)
    splits = check_labeled(loaded, folder_of_encoder, card)
    about = runs.summarized(loaded, splits)
    augmented = settings.mixup or dataclasses.asdict(Augmentation()).items() - dataclasses.asdict(settings).items()
    if augmented and inputs.column(splits.train.arrays) != "image":
        raise ValueError(f"Augmentation and mixup are for images. {card['name']} takes none: leave them out.")
    if settings.labels_per_class:
        splits = splits._replace(train=few_labels(splits.train, settings.labels_per_class, settings.label_seed))
        # A few labels make a small batch; that is no reason to refuse.
        replicas = strategy.num_replicas_in_sync
        most = max(len(splits.train) // replicas * replicas, replicas)
        training = dataclasses.replace(training, batch_size=min(training.batch_size, most))
    weights = card["weights"]["sha256"][:16]
    asked = {"encoder": card["name"], "encoder_weights": weights, **dataclasses.asdict(settings)}
    default_name = f"finetune-{card['name']}-{splits.train.short_name}"
    run = open_run(training, splits, strategy, "finetune", asked, default_name)

    # 2 Initialize from the pretrained encoder. 3 Choose the loss.
    with run as (folder, asked), strategy.scope(), runs.conditions(training):
        # Loaded first in any case: that checks the card before a graph of its making is built.
        encoder = encoders.load_encoder(folder_of_encoder, network=network, precision=training.precision)
        if settings.scratch:
            encoder = realize(network) if network else cards.network(card).build()
        if not network:
            encoder.name = "encoder"  # in TensorBoard, beside that of pretraining
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
            log.warning("The encoder stands still for %d steps, and the run has %d.", settings.frozen_steps, total)
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
    """Raises ValueError where `network` is neither None nor a function that makes a fresh graph each time."""
    if network is None:
        return
    graphs = [] if isinstance(network, keras.Model) or not callable(network) else [realize(network), realize(network)]
    shared = graphs and {id(v) for v in graphs[0].variables} & {id(v) for v in graphs[1].variables}
    if not graphs or shared:
        raise ValueError(
            "network must be a function that makes a fresh graph each time. Received: "
            + ("one whose graphs share weights." if shared else f"a {type(network).__name__}.")
        )


def check_labeled(splits, folder, card):
    """The labeled splits as an encoder takes them.

    Raises:
        ValueError: no labels, one class alone, or not what the encoder takes.
    """
    check_classes(splits.train)
    for source in splits:
        source.column_spec("label")
    return encoders.adapt(folder, card, splits)
