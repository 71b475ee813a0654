"""FreeMatch (Wang et al. 2023, "FreeMatch: self-adaptive thresholding for semi-supervised learning"): labels for few
images, and the network's own confident predictions for all others.

A weakly augmented view of an unlabeled image gives a pseudo-label, its most probable class. A strongly augmented view
is trained to predict it, if its probability is above a threshold (FixMatch, Sohn et al. 2020, equation 4):

    L = H(y, p(labeled)) + λ · mean over unlabeled images of [max q ≥ τ(argmax q)] · H(argmax q, p(strong view)),

where q are the probabilities of the weak view. The threshold follows the network's confidence, and is lower for
classes of which it is less confident (FreeMatch, section 4.1):

    τ ← m·τ + (1 − m)·mean of max q,   p̃ ← m·p̃ + (1 − m)·mean of q,   τ(c) = τ · p̃(c) / max p̃.

Departures: m is 0.99 instead of 0.999, since runs are short. The thresholds of a step are those before it. There is
no fairness loss. The strong view has shifts, colors, blur and cutout, and crops if asked for, not RandAugment. Weak
views are normalized by their own batch statistics.

The moving average of the weights is evaluated and saved.

Shapes: `B` labeled images, `R` unlabeled images for each, `N = B·R`, `H W C` image, `D` features, `Y` classes.

Metrics: `loss`, nats per labeled image; `accuracy`, of labeled images; `used_fraction`, fraction of the images whose
pseudo-label is above the threshold, in [0, 1]; `excess`, the largest difference between the fraction of a class among
the used pseudo-labels and among the labels; `gradient_norm`. In training, `threshold`, τ. On held-out labeled images,
`pseudo_accuracy`, the accuracy of the used pseudo-labels.
"""

import dataclasses
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf
import tyro

from ssl_keras import losses
from ssl_keras.data import unlabeled
from ssl_keras.data.augment_images import JITTER, Augmentation, augment
from ssl_keras.data.images import unit_range
from ssl_keras.data.random import BatchRandom
from ssl_keras.data.ranges import Range
from ssl_keras.data.splits import check_classes, few_labels
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import example_weight
from ssl_keras.engine.report import Report
from ssl_keras.modalities import vision
from ssl_keras.modalities.classification import PairObjective
from ssl_keras.networks import Network, conv

DEFAULTS = Training(
    steps=2000, batch_size=32, learning_rate=5e-4, schedule="cosine", final_rate=0.0, warmup=50, weight_decay=1e-2
)
MOMENTUM = 0.99  # m, of the threshold and of the mean probabilities
EMA_DECAY = 0.999
WEAK = Augmentation(shift=0.1)  # the weak view, if the settings have no augmentation
STRONG = {"shift": 0.125, "gray": 0.2, "blur": 0.3}  # of the strong view, with what the settings add
MIN_STEPS = 200  # before which nothing is warned of
UNUSED = 0.01  # fraction of unlabeled images that are used, below which they teach nothing
EXCESS = 0.3  # by which a class may have more pseudo-labels than labels


@dataclasses.dataclass(frozen=True)
class Matching:
    """The unlabeled images in a batch, and their strongly augmented view."""

    unlabeled_ratio: Annotated[int, Range(1, 64)] = 4
    """Number of unlabeled images for each labeled image of a batch (semi-supervised training)."""
    unlabeled_weight: Annotated[float, Range(0)] = 1.0
    """Weight of the loss of unlabeled images, relative to that of labeled ones (semi-supervised training)."""
    strong_crop: Annotated[float, Range(0, 1, open="low")] = 1.0
    """Minimum area of a random crop in the strong view of an unlabeled image, as a fraction of the image area.
    1 disables cropping."""
    strong_color: Annotated[float, Range(0, 1 / JITTER)] = 1.25
    """Strength of color jitter in the strong view of an unlabeled image. 0 disables it."""
    strong_cutout: Annotated[float, Range(0, 1)] = 0.6
    """Side length of the gray square in the strong view of an unlabeled image, as a fraction of the image's side.
    0 disables it."""


@dataclasses.dataclass(frozen=True)
class Settings(Matching, vision.Settings):
    """The encoder, the choice of labeled images, and the views of unlabeled ones."""

    labels_per_class: Annotated[int, Range(1)] = 10
    """Number of labeled training examples per class. The labels of all others are not used."""
    label_seed: int = 0
    """Seed of the random choice of examples for --labels-per-class."""
    ema_decay: Annotated[float, Range(0, 1, open="high")] = EMA_DECAY
    """Decay of the exponential moving average of the weights, which gives the pseudo-labels and is saved."""
    frequencies: Annotated[tuple[float, ...], tyro.conf.Suppress] = ()  # has no flag: `prepare` sets it


def prepare(settings, splits, init=None):
    """Returns (settings with the frequencies of the labeled classes, splits that join labeled and unlabeled images).

    Raises:
        ValueError: no images; no labels; labels of one class only; a class has fewer than `labels_per_class`;
            stochastic depth.
    """
    if settings.drop_path:
        raise ValueError(f"drop_path must be 0 for freematch, which does not draw it. Received: {settings.drop_path}")
    settings, splits = vision.prepare(settings, splits, init)
    check_classes(splits.train)
    labeled = few_labels(splits.train, settings.labels_per_class, settings.label_seed)
    joined = unlabeled.with_unlabeled(labeled, splits.train, settings.unlabeled_ratio, settings.label_seed)
    return dataclasses.replace(settings, frequencies=frequencies(labeled)), splits._replace(train=joined)


def frequencies(labeled):
    """Returns the frequency of each class among labeled examples, a tuple of floats.

    Raises:
        ValueError: a class has no example.
    """
    counts = np.bincount(labeled.column("label"), minlength=len(labeled.classes))
    missing = [name for name, count in zip(labeled.classes, counts) if not count]
    if missing:
        raise ValueError(
            f"{labeled.name}: expected labeled examples of every class. Received: none of {', '.join(missing)}. "
            "Semi-supervised training cannot discover classes: add labels of these, or leave them out."
        )
    return tuple(float(share) for share in counts / counts.sum())


encoder = vision.encoder


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be any function or functional graph from images to (B, D).

    Raises:
        ValueError: the encoder's input or output does not fit; the frequencies of the classes are not set.
    """
    if not settings.frequencies:
        raise ValueError("The classes are not set. Call prepare(settings, splits), or set frequencies.")
    network = vision.chosen_encoder(settings, spec, encoder)
    head = Network("classifier_head", features=network.output_shape[-1], classes=len(settings.frequencies)).build()
    return FreeMatch(network, head, settings.frequencies, settings, ema_decay=settings.ema_decay)


class Confidence(keras.layers.Layer):
    """The threshold τ, the mean probabilities p̃ (Y,), and the counts (Y,) of used pseudo-labels, as moving averages."""

    def __init__(self, frequencies, **kwargs):
        super().__init__(**kwargs)
        self.frequencies, classes = np.asarray(frequencies, np.float32), len(frequencies)
        uniform = keras.initializers.Constant(1 / classes)
        self.threshold = self.add_weight((), uniform, trainable=False, name="threshold")
        self.mean = self.add_weight((classes,), uniform, trainable=False, name="mean")
        expected = keras.initializers.Constant(self.frequencies)
        self.used = self.add_weight((classes,), expected, trainable=False, name="used")

    def pseudo_labels(self, probabilities):
        """Returns pseudo-labels (N,) int32, and 1.0 for those above their class' threshold or else 0.0, (N,)."""
        label = tf.argmax(probabilities, axis=1, output_type=tf.int32)
        thresholds = self.threshold * self.mean / tf.reduce_max(self.mean)  # (Y,)
        used = tf.reduce_max(probabilities, axis=1) >= tf.gather(thresholds, label)
        return label, tf.cast(used, tf.float32)

    def update(self, probabilities, label, used, weight):
        """Moves the averages towards the images of all replicas, whose `weight` (N,) is 0 for padding."""
        counts = tf.one_hot(label, len(self.frequencies)) * (used * weight)[:, None]
        sums = [
            tf.reduce_sum(weight),
            tf.reduce_sum(weight * tf.reduce_max(probabilities, axis=1)),
            tf.linalg.matvec(probabilities, weight, transpose_a=True),
            tf.reduce_sum(counts, axis=0),
        ]
        replica = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync > 1:
            sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        count, *totals = sums
        for average, total in zip((self.threshold, self.mean, self.used), totals):
            average.assign(MOMENTUM * average + (1 - MOMENTUM) * tf.math.divide_no_nan(total, count))

    def excess(self):
        """Returns the largest difference of a class' fraction of the used pseudo-labels to its fraction of labels."""
        return tf.reduce_max(tf.math.divide_no_nan(self.used, tf.reduce_sum(self.used)) - self.frequencies)


class FreeMatch(PairObjective):
    """Trains on `batch["image"]`, `["label"]` and `["unlabeled"]` (B, R, H, W, C), see `data/unlabeled.py`.

    Args:
        encoder: functional graph, image -> features (B, D).
        head: functional graph, features (B, D) -> logits (B, Y).
        frequencies: the frequency of each class among the labeled examples, Y floats.
        settings: `Matching` and `Augmentation`. The latter makes the weak view, and augments labeled images.
        ema_decay: decay of the moving average of the weights; `encoder` and `head` are that average.
        class_weights: (Y,) factors of the loss of each class of labeled images, or None.
        name: name of the objective.
    """

    batch_coupled = keep_last_checkpoint = True  # thresholds are those of the batch; few labels cannot choose weights

    def __init__(
        self, encoder, head, frequencies, settings, *, ema_decay=EMA_DECAY, class_weights=None, name="freematch"
    ):
        super().__init__(encoder, head, ema_decay, name)
        self.settings, self.class_weights, self.predicts_classes = settings, class_weights, True
        self.confidence = Confidence(frequencies, name="confidence")
        weak = {field.name: getattr(settings, field.name) for field in dataclasses.fields(Augmentation)}
        self.weak = WEAK if Augmentation(**weak) == Augmentation() else Augmentation(**weak)
        self.strong = Augmentation(
            **STRONG,
            flip=self.weak.flip,
            crop=settings.strong_crop,
            color=settings.strong_color,
            cutout=settings.strong_cutout,
        )
        self.accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
        self.used_fraction, self.pseudo_accuracy = (
            keras.metrics.Mean(metric) for metric in ("used_fraction", "pseudo_accuracy")
        )
        self.threshold, self.excess = keras.metrics.Mean("threshold"), keras.metrics.Mean("excess")

    def is_measured(self, metric, training):
        return super().is_measured(metric, training) and metric is not (
            self.pseudo_accuracy if training else self.threshold
        )

    def preprocess(self, batch, random):
        """Augments `image`, and replaces `unlabeled` by its views `weak` and `strong`, (B, R, H, W, C) each."""
        many = batch.get("unlabeled", batch["image"][:, None])  # held-out images have no others
        ratio, *shape = many.shape[1:]
        flat = tf.reshape(many, (-1, *shape))  # (N, H, W, C)
        each = BatchRandom(random.seed, random.step, random.first * ratio, random.rows * ratio)
        views = {"weak": self.weak, "strong": self.strong}
        views = {name: augment(flat, each, options, name) for name, options in views.items()}
        batch = {name: column for name, column in batch.items() if name != "unlabeled"}
        return (
            batch
            | {"image": augment(batch["image"], random, self.weak, "labeled")}
            | {name: tf.reshape(view, (-1, ratio, *shape)) for name, view in views.items()}
        )

    def preprocess_eval(self, batch, random):
        return batch

    def batch_loss(self, batch, training=True):
        """Returns the summed loss and the number of labeled images; updates the thresholds and the metrics."""
        weight, (ratio, *shape) = example_weight(batch), batch["weak"].shape[1:]
        weak, strong = (tf.reshape(batch[view], (-1, *shape)) for view in ("weak", "strong"))  # (N, H, W, C)
        with conv.freeze_statistics():  # of the weak views: they need no gradient, so they are passed alone
            probabilities = tf.stop_gradient(tf.nn.softmax(self.student.logits(weak, training=True)))  # (N, Y)
        label, used = self._match(probabilities, tf.repeat(weight, ratio))
        # The others have common batch statistics.
        logits = self.student.logits(tf.concat([batch["image"], strong], 0), training=True)
        count = tf.shape(batch["image"])[0]
        labeled, strong = logits[:count], logits[count:]  # (B, Y), (N, Y)
        unsupervised = used * losses.smoothed_cross_entropy(label, strong)  # (N,)
        self.accuracy.update_state(batch["label"], labeled, weight)
        loss = losses.smoothed_cross_entropy(batch["label"], labeled)  # (B,)
        if self.class_weights is not None:
            loss *= tf.gather(tf.constant(self.class_weights, tf.float32), batch["label"])
        loss += self.settings.unlabeled_weight * tf.reduce_mean(tf.reshape(unsupervised, (-1, ratio)), axis=1)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def _match(self, probabilities, weight):
        """Returns pseudo-labels (N,), and 1.0 for those that are used (N,); updates the thresholds and the metrics."""
        label, used = self.confidence.pseudo_labels(probabilities)
        self.confidence.update(probabilities, label, used, weight)
        self.used_fraction.update_state(used, weight)
        self.threshold.update_state(self.confidence.threshold)
        self.excess.update_state(self.confidence.excess())
        return label, used

    def test_step(self, batch):
        """Evaluates the averaged weights, and the pseudo-labels that they give to held-out labeled images."""
        weight, label = example_weight(batch), batch["label"]
        logits = self.averaged.logits(unit_range(batch["image"]), training=False)
        pseudo, used = self.confidence.pseudo_labels(tf.nn.softmax(logits))
        correct = tf.cast(tf.equal(tf.cast(pseudo, label.dtype), label), tf.float32)
        self.accuracy.update_state(label, logits, weight)
        self.used_fraction.update_state(used, weight)
        self.pseudo_accuracy.update_state(correct, weight * used)
        self.excess.update_state(self.confidence.excess())
        self.score(tf.reduce_sum(weight * losses.smoothed_cross_entropy(label, logits)), tf.reduce_sum(weight))

    def warnings(self, logs):
        """Warns if no image is above the threshold, and of a class that swallows the others (confirmation bias)."""
        found = []
        if self.step < MIN_STEPS:
            return found
        if logs["used_fraction"] < UNUSED:
            found.append(
                f"only {logs['used_fraction']:.1%} of the unlabeled images are above the threshold, so they teach "
                "almost nothing. Use more labels, or check that both kinds of images show the same classes."
            )
        if logs["excess"] > EXCESS:
            found.append(
                f"confirmation bias: one class has {logs['excess']:.0%} more of the pseudo-labels than of the labels. "
                "Use more labels, a lower learning rate or --unlabeled-weight, or start from another encoder."
            )
        return found

    def report(self, batch, examples, splits):
        """The weak and the strong view of images."""
        return Report(images={"views": [batch["weak"][:, 0], batch["strong"][:, 0]]})
