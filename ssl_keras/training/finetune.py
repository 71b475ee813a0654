"""Fine-tuning: a head on a pretrained encoder, trained with labels.

The tutorial's section 3.2. The loss is the softmax cross-entropy in nats, the average
over examples. The encoder is frozen, or learns at a lower rate than the new head.

Shapes: `B` batch, `D` features, `Y` classes; `T` tokens, whose hidden states (B, T, D) are averaged.

Metrics: `loss`, nats per example; `accuracy`, in [0, 1]; `gradient_norm` (training only).
"""

import dataclasses

import keras
import tensorflow as tf

from ssl_keras import card as cards
from ssl_keras import encoders, files
from ssl_keras.data.inputs import network_input
from ssl_keras.data.sources import few_labels, load
from ssl_keras.networks.dense import classifier_head
from ssl_keras.networks.transformer import pool
from ssl_keras.objective import Objective, example_weight
from ssl_keras.tensorboard import TensorBoard
from ssl_keras.training import run as runs
from ssl_keras.training.distribution import strategy as choose_strategy
from ssl_keras.training.optimizer import make as make_optimizer


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is learned, and how fast."""

    labels_per_class: int = 0
    """Use so many labels of each class; 0 is all."""
    label_seed: int = 0
    """Which ones."""
    freeze: bool = False
    """Leave the encoder as it is."""
    encoder_rate: float = 0.1
    """The encoder's learning rate as a share of the head's."""
    scratch: bool = False
    """Forget the pretrained weights: the baseline."""

    def __post_init__(self):
        if self.labels_per_class < 0:
            raise ValueError(f"labels_per_class must be at least 0. Received: {self.labels_per_class}")
        if not self.encoder_rate > 0:
            raise ValueError(f"encoder_rate must be positive; use freeze for 0. Received: {self.encoder_rate}")


DEFAULTS = runs.Training(steps=1000, batch_size=64)


class Finetune(Objective):
    """Holds `encoder` and `head`; trains on `batch["image"]`, or `["tokens"]`, and `batch["label"]`."""

    def __init__(self, settings, encoder, head):
        super().__init__(name="finetune")
        self.settings, self.encoder, self.head = settings, encoder, head
        self.encoder.trainable = not settings.freeze
        self.encoder_optimizer = None
        self.accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")

    def compile(self, optimizer="adam", encoder_optimizer="adam", **kwargs):
        """An optimizer for the head, and another one for the encoder, where it is not frozen."""
        if not self.settings.freeze:
            self.encoder_optimizer = keras.optimizers.get(encoder_optimizer)
        super().compile(optimizer, **kwargs)

    def groups(self):
        head = [(self.optimizer, self.head.trainable_variables)]
        return head if self.settings.freeze else head + [(self.encoder_optimizer, self.encoder.trainable_variables)]

    def views(self, batch, draws):
        return batch

    def train_step(self, batch):
        mean, count = self.descend(lambda batch: self.errors(batch, training=True), batch)
        self.loss_metric.update_state(mean, count)

    def test_step(self, batch):
        total, count = self.errors(batch, training=False)
        self.loss_metric.update_state(tf.math.divide_no_nan(total, count), count)

    def errors(self, batch, training):
        """Summed loss and number of examples; updates `accuracy`."""
        weight = example_weight(batch)  # (B,)
        x = network_input(batch)
        features = self.encoder(x, training=training and not self.settings.freeze)
        if len(features.shape) == 3:
            features = pool(features, x)  # (B, D)
        logits = self.head(features, training=training)  # (B, Y)
        self.accuracy.update_state(batch["label"], logits, weight)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["label"], logits)  # (B,)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)


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
    splits = data or load(training.data, training.image_size)
    splits = check_labelled(splits, folder_of_encoder, card)
    if settings.labels_per_class:
        splits = splits._replace(train=few_labels(splits.train, settings.labels_per_class, settings.label_seed))
        # A few labels make a small batch; that is no reason to refuse.
        training = dataclasses.replace(training, batch_size=min(training.batch_size, len(splits.train)))
    weights = card["weights"]["sha256"][:16]
    asked = {"encoder": card["name"], "encoder_weights": weights, **dataclasses.asdict(settings)}
    default_name = f"finetune-{card['name']}-{splits.train.short_name}"
    folder, asked = runs.open_run(training, splits, strategy, "finetune", asked, default_name)

    # 2 Initialise from the pretrained encoder. 3 Choose the loss.
    with strategy.scope(), runs.conditions(training):
        make = network or (lambda: encoders.build(card, head=False)[0])
        # Loaded first in any case: that checks the card before a graph of its making is built.
        encoder = encoders.load_encoder(folder_of_encoder, network=network and network(), precision=training.precision)
        encoder = make() if settings.scratch else encoder
        head = classifier_head(card["features"], len(splits.train.classes))
        objective = Finetune(settings, encoder, head)
        total = runs.total_steps(training, splits)
        runs.compile_objective(
            objective, training, splits, make_optimizer(training, total, head.trainable_variables),
            make_optimizer(training, total, encoder.trainable_variables, settings.encoder_rate),
        )
        # 4 Train. 5 Evaluate.
        board = TensorBoard(folder, splits, training, asked)
        outcome = runs.train(objective, splits, training, folder, strategy, [board, *callbacks])
        test = runs.held_out(objective, splits.test, training.batch_size, strategy)
        outcome |= {f"test_{key}": value for key, value in test.items()}
        encoders.save_encoder(
            folder / "encoder", encoder, name=folder.name, objective=card["objective"],
            settings=None if network else cards.settings(card),
            spec=splits.train.spec(), head=head, classes=splits.train.classes, tokenizer=splits.train.tokenizer,
            data={"name": splits.train.name, "examples": len(splits.train)},
            training=asked | {"outcome": outcome},
        )
        board.close(objective, outcome)
    files.write_json(folder / "summary.json", outcome)
    return outcome | {"folder": str(folder)}


def check_labelled(splits, folder, card):
    """The labelled splits as an encoder takes them.

    Raises:
        ValueError: no labels, or not what the encoder takes.
    """
    for source in splits:
        source.column_spec("label")
    return encoders.prepare(folder, card, splits)
