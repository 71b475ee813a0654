"""Rotation prediction (RotNet, Gidaris et al. 2018): predict which of four rotations was applied to an image.

The tutorial's section 4.2 counts classification as self-supervised if the classes come from the image itself.
Here the classes are the rotations by 0, 90, 180 and 270 degrees ("Unsupervised representation learning by
predicting image rotations", equations 1 to 3). All four rotations of an image are in the batch. The
objective `classifier` learns labels instead.

The loss is the softmax cross-entropy in nats, averaged over rotated images: −log softmax(z)_y, y the rotation.

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
from ssl_keras.networks.vit_block import draw_depth, stochastic_depth

DEFAULTS = Training(
    epochs=20, batch_size=256, learning_rate=2e-3, schedule="cosine", final_rate=0.0, warmup=200, weight_decay=1e-2
)
NUM_ROTATIONS = 4


@dataclasses.dataclass(frozen=True)
class Settings(vision.Settings):
    """The encoder, and the augmentation of images before they are rotated."""


def prepare(settings, splits, init=None):
    """Returns the splits unchanged, and the settings as from `vision.prepare`.

    Raises:
        ValueError: no images; images that are not square.
    """
    settings, splits = vision.prepare(settings, splits, init)
    shape, _ = splits.train.column_spec("image")
    if shape[0] != shape[1]:
        raise ValueError(f"Expected square images, whose shape rotations keep. Received: {shape}. Set image_size.")
    return settings, splits


encoder = vision.encoder


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be any function or functional graph from images to (B, D).

    Raises:
        ValueError: the encoder's input or output does not fit.
    """
    network = vision.chosen_encoder(settings, spec, encoder)
    head = Network("classifier_head", features=network.output_shape[-1], classes=NUM_ROTATIONS)
    return Rotation(settings, network, head.build())


class Rotation(Objective):
    """Holds `encoder` and `head`; trains both to predict the rotations of `batch["image"]`."""

    def __init__(self, settings, encoder, head):
        super().__init__(name="rotation")
        self.settings, self.encoder, self.head = settings, encoder, head
        self.accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")

    def preprocess(self, batch, random):
        """Augments `image`."""
        batch |= draw_depth(self.encoder, random, NUM_ROTATIONS)
        return batch | {"image": augment(batch["image"], random, self.settings)}

    def preprocess_eval(self, batch, random):
        return batch

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training):
        """Returns the summed loss and the number of images; updates `accuracy`."""
        image = rotate(unit_range(batch["image"]))  # (4B, N, N, C)
        turn = tf.repeat(tf.range(NUM_ROTATIONS), tf.shape(batch["image"])[0])  # (4B,)
        weight = tf.tile(example_weight(batch), [NUM_ROTATIONS]) / NUM_ROTATIONS
        with stochastic_depth(batch):
            features = self.encoder(image, training=training)
        logits = self.head(features, training=training)  # (4B, 4)
        self.accuracy.update_state(turn, logits, weight)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(turn, logits)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def report(self, batch, examples, splits):
        """A row of images for each rotation."""
        return Report(images={"turns": tf.split(rotate(unit_range(batch["image"])), NUM_ROTATIONS)})


def rotate(image):
    """Rotates images by 0, 90, 180 and 270 degrees counterclockwise, in this order: (B, N, N, C) -> (4B, N, N, C)."""
    return tf.concat([tf.image.rot90(image, turns) for turns in range(NUM_ROTATIONS)], 0)
