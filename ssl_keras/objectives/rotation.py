"""Rotation: predict by how far an image was turned. The tutorial's section 4.2; was `classifier` without labels.

The tutorial counts classification among the self-supervised tasks where the classes come from the image
itself. Here they are four: an image is turned by 0, 90, 180 and 270 degrees, and the network says by how
far (RotNet, Gidaris et al. 2018, "Unsupervised representation learning by predicting image rotations",
equations 1 to 3: all four turns of an image are in the batch). `classifier` learns labels.

The loss is the softmax cross-entropy in nats, averaged over turned images: −log softmax(z)_y, y the turn.

Shapes: `B` batch, `N` side, `C` channels, `D` features.

Metrics: `loss`, nats per image; `accuracy`, in [0, 1] (chance is 1/4); `gradient_norm`, global norm before
clipping (training only).
"""

import dataclasses

import keras
import tensorflow as tf

from ssl_keras.data.augment_images import augment
from ssl_keras.data.images import unit_range
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.modalities import vision
from ssl_keras.networks import Network

DEFAULTS = Training(
    epochs=20, batch_size=256, learning_rate=2e-3, schedule="cosine", final_rate=0.0, warmup=200, weight_decay=1e-2
)
NUM_ROTATIONS = 4


@dataclasses.dataclass(frozen=True)
class Settings(vision.Settings):
    """A convolutional network, and how images are augmented before they are turned."""


def prepare(settings, splits, init=None):
    """Images as they are.

    Raises:
        ValueError: no images; oblong ones.
    """
    settings, splits = vision.prepare(settings, splits, init)
    shape, _ = splits.train.column_spec("image")
    if shape[0] != shape[1]:
        raise ValueError(f"Turned images keep their shape only if it is square: set image_size. Received: {shape}")
    return settings, splits


encoder = vision.encoder


def build(settings, spec, encoder=encoder):
    """The objective; `encoder` may be any function or functional graph from images to (B, D).

    Raises:
        ValueError: a given encoder whose input or output does not fit.
    """
    network = vision.chosen_encoder(settings, spec, encoder)
    head = Network("classifier_head", features=network.output_shape[-1], classes=NUM_ROTATIONS)
    return Rotation(settings, network, head.build())


class Rotation(Objective):
    """Holds `encoder` and `head`; trains both to tell the turns of `batch["image"]`."""

    def __init__(self, settings, encoder, head):
        super().__init__(name="rotation")
        self.settings, self.encoder, self.head = settings, encoder, head
        self.accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")

    def preprocess(self, batch, random):
        """Augments `image`."""
        return batch | {"image": augment(batch["image"], random, self.settings)}

    def preprocess_eval(self, batch, random):
        return batch

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training):
        """Summed loss and number of images; updates `accuracy`."""
        image = turned(unit_range(batch["image"]))  # (4B, N, N, C)
        turn = tf.repeat(tf.range(NUM_ROTATIONS), tf.shape(batch["image"])[0])  # (4B,)
        weight = tf.tile(example_weight(batch), [NUM_ROTATIONS]) / NUM_ROTATIONS
        logits = self.head(self.encoder(image, training=training), training=training)  # (4B, 4)
        self.accuracy.update_state(turn, logits, weight)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(turn, logits)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def report(self, batch, examples, splits):
        """A row of the images for each turn."""
        return Report(images={"turns": tf.split(turned(unit_range(batch["image"])), NUM_ROTATIONS)})


def turned(image):
    """(B, N, N, C) -> (4B, N, N, C): turned by 0, 90, 180 and 270 degrees against the clock, in this order."""
    return tf.concat([tf.image.rot90(image, turns) for turns in range(NUM_ROTATIONS)], 0)
