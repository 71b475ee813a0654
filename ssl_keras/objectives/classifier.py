"""Classifier: predict an image's label (supervised).

`downstream/finetune.py` trains the same class from saved encoders. The objective `rotation` implements
the tutorial's section 4.2, where the classes come from the image itself.

The loss is the softmax cross-entropy in nats, averaged over images, with label smoothing ε:

    −Σ_y t_y·log softmax(z)_y,   t_y = (1 − ε)·[y is the label] + ε/Y.

Mixup (Zhang et al. 2018) mixes each image, and its loss, with its neighbor's in the batch; the weight is drawn
from Beta(α, α). Departure: neighbors instead of a permutation of the batch. The order is random anyway,
and no images have to move between replicas or workers.

With `ema_decay`, the exponential moving average of the weights is evaluated and saved (Tarvainen & Valpola 2017).
With `class_weights`, the loss of class c is multiplied by N/(Y·N_c), where N_c of the N examples are of class c.

Shapes: `B` batch, `H W C` image, `D` features, `Y` classes; in fine-tuning also `T` tokens, whose hidden
states (B, T, D) are averaged.

Metrics: `loss`, nats per example; `accuracy`, in [0, 1] (chance is 1/Y);
`gradient_norm`, global norm before clipping (training only).
"""

import dataclasses
from typing import Annotated

import keras
import numpy as np
import scipy.stats
import tensorflow as tf
import tyro

from ssl_keras import losses
from ssl_keras.data import augment_audio, masking
from ssl_keras.data.augment_images import Augmentation, augment
from ssl_keras.data.images import unit_range
from ssl_keras.data.inputs import augment_waveforms, network_input
from ssl_keras.data.ranges import Range
from ssl_keras.data.splits import check_classes
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import example_weight
from ssl_keras.engine.report import Report
from ssl_keras.modalities import vision
from ssl_keras.modalities.classification import PairObjective
from ssl_keras.networks import Network, waveform
from ssl_keras.networks.dropout import draw_keys, dropout
from ssl_keras.networks.vit_block import draw_depth, stochastic_depth

DEFAULTS = Training(
    epochs=20, batch_size=256, learning_rate=2e-3, schedule="cosine", final_rate=0.0, warmup=200, weight_decay=1e-2
)
NONE = Augmentation()
BETA_TABLE = 1025  # points at which Beta's quantile function is tabulated; it is linear in between
Smoothing, Mixup = Annotated[float, Range(0, 1, open="high")], Annotated[float, Range(0, 100)]
Decay = Annotated[float, Range(0, 1, open="high")]


@dataclasses.dataclass(frozen=True)
class Settings(vision.Settings):
    """The encoder, the augmentation of its images, and regularization."""

    label_smoothing: Smoothing = 0.0
    """Label smoothing: fraction of the target distribution that is spread over all classes. 0 disables it."""
    mixup: Mixup = 0.0
    """Mixup: parameter α of the Beta distribution of the mixing weights. 0 disables it."""
    classes: Annotated[int, Range(0, 1 << 20), tyro.conf.Suppress] = 0  # has no flag: `prepare` sets it


def prepare(settings, splits, init=None):
    """Completes the settings with the number of classes; returns the splits unchanged.

    Raises:
        ValueError: no images; no labels; labels of one class only.
    """
    settings, splits = vision.prepare(settings, splits, init)
    check_classes(splits.train)
    return dataclasses.replace(settings, classes=len(splits.train.classes)), splits


encoder = vision.encoder


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be any function or functional graph from images to (B, D).

    Raises:
        ValueError: the encoder's input or output does not fit; the number of classes is not set.
    """
    if not settings.classes:
        raise ValueError("The number of classes is not set. Call prepare(settings, splits), or set classes.")
    network = vision.chosen_encoder(settings, spec, encoder)
    head = Network("classifier_head", features=network.output_shape[-1], classes=settings.classes).build()
    objective = Classifier(
        network, head, augmentation=settings, label_smoothing=settings.label_smoothing, mixup=settings.mixup
    )
    objective.settings = settings
    return objective


class Classifier(PairObjective):
    """Holds `encoder` and `head`; trains on `batch["image"]`, `["tokens"]` or `["waveform"]`, and `["label"]`.

    The best weights are those of the highest validation accuracy. The loss would choose others: on few labels it
    rises with the network's confidence while the accuracy still improves (Guo et al. 2017, section 3).

    Args:
        encoder: functional graph, input -> features (B, D), or tokens (B, T) -> states (B, T, D).
        head: functional graph, features (B, D) -> logits (B, Y).
        augmentation: `Augmentation` of images, or `AudioAugmentation` of waveforms.
        label_smoothing: fraction of the target that is spread over all classes.
        mixup: α of mixup; 0 disables it.
        ema_decay: decay of the moving average of the weights, which `encoder` and `head` then are; 0 disables it.
        class_weights: (Y,) factors of the loss of each class, or None.
        dropout: dropout rate of the features, and inside of a text transformer that is not frozen; 0 disables it.
        frozen: bool, whether the encoder is frozen.
        name: name of the objective.

    Attributes:
        noise_samples: number of samples in the longest clip of the data, if waveforms are augmented.
    """

    best_metric = "accuracy"

    def __init__(
        self,
        encoder,
        head,
        *,
        augmentation=NONE,
        label_smoothing=0.0,
        mixup=0.0,
        ema_decay=0.0,
        class_weights=None,
        dropout=0.0,
        frozen=False,
        name="classifier",
    ):
        if frozen:  # otherwise left as it is, since a user's encoder may have frozen layers
            encoder.trainable = False
        super().__init__(encoder, head, ema_decay, name)
        self.class_weights, self.dropout = class_weights, dropout
        self.augmentation, self.label_smoothing, self.frozen = augmentation, label_smoothing, frozen
        self.predicts_classes, self.noise_samples = True, None
        # The quantile function of Beta(α, α) at equally spaced probabilities.
        self.shares = scipy.stats.beta.ppf(np.linspace(0, 1, BETA_TABLE), mixup, mixup) if mixup else None
        self.accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")

    def preprocess(self, batch, random):
        """Augments the input; mixup adds `partner` (B,), the second label, and `share` (B,), the first one's weight."""
        batch = masking.trim_texts(batch) | draw_keys(random, self.dropout)
        if "waveform" in batch and isinstance(self.augmentation, augment_audio.AudioAugmentation):
            rate = self.encoder.get_layer("frames").hop * waveform.FRAMES_PER_SECOND
            return augment_waveforms(batch, random, self.augmentation, rate, self.noise_samples)
        if "image" not in batch:
            return batch
        image = augment(batch["image"], random, self.augmentation)
        batch |= draw_depth(self.encoder, random)
        if self.shares is None:
            return batch | {"image": image}
        place = random.uniform("mixup", ()) * (BETA_TABLE - 1)  # (B,)
        low = tf.minimum(tf.cast(place, tf.int32), BETA_TABLE - 2)
        below, above = (tf.gather(tf.constant(self.shares, tf.float32), low + step) for step in (0, 1))
        share = below + (place - tf.cast(low, tf.float32)) * (above - below)
        # In a batch of odd size the last image has no neighbor, and is mixed with itself.
        partner = tf.minimum(tf.bitwise.bitwise_xor(tf.range(random.rows), 1), random.rows - 1)
        own = share[:, None, None, None]
        mixed = own * image + (1 - own) * tf.gather(image, partner)
        return batch | {"image": mixed, "partner": tf.gather(batch["label"], partner), "share": share}

    def preprocess_eval(self, batch, random):
        return masking.trim_texts(batch)

    def batch_loss(self, batch, training):
        """Returns the summed loss and the sum of the examples' weights; updates `accuracy`."""
        weight, label = example_weight(batch), batch["label"]  # (B,)
        pair = self.student if training else self.averaged
        with stochastic_depth(batch), dropout(batch, self.dropout if training else 0):
            logits = pair.logits(network_input(batch), training, self.frozen)  # (B, Y)
        self.accuracy.update_state(label, logits, weight)
        loss = self._cross_entropy(label, logits, training)
        if "share" in batch:
            other = self._cross_entropy(batch["partner"], logits, training)
            loss = batch["share"] * loss + (1 - batch["share"]) * other
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def _cross_entropy(self, label, logits, training):
        """Returns the loss (B,). Held-out losses have no smoothing and no class weights."""
        if not training:
            return losses.smoothed_cross_entropy(label, logits)
        loss = losses.smoothed_cross_entropy(label, logits, self.label_smoothing)
        if self.class_weights is None:
            return loss
        return tf.gather(tf.constant(self.class_weights, tf.float32), label) * loss

    def report(self, batch, examples, splits):
        """The images after augmentation."""
        return Report(images={"views": [unit_range(batch["image"])]} if "image" in batch else {})
