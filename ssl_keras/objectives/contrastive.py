"""Contrastive multi-view learning: two views of an image know each other among all others.

The tutorial's reference for it is AMDIM (Bachman et al. 2019, "Learning representations by
maximizing mutual information across views"): InfoNCE is a lower bound of the mutual information
between views, log K nats above the negative loss for K candidates (van den Oord et al. 2018,
equation 5). One network, one step, and a choice of the loss, see `losses.py`:

- `nt_xent`: InfoNCE between whole views, with all others of the batch as negatives (SimCLR, Chen et al. 2020);
- `local_global`: that, and the whole of each view against the places of the other in the last two
  stages (the multi-scale part of AMDIM);
- `vicreg`: no negatives; views agree, features vary, and do not repeat each other (Bardes et al. 2022).

Departures: Adam instead of LARS (batches are small); a batch norm after the projection's hidden
layers alone; AMDIM's own network and its 5→5 pairs are not used; augmentation see `data/augment_images.py`.

Shapes: `B` batch, `H W C` image, `D` features, `Z` projection, `P` places.

Metrics: `loss`, nats per image, or VICReg's weighted sum; `top1`, the share of views that
are nearest to their own partner among the batch's second views, in [0, 1]; `alignment`, the mean
squared distance of partners' features on the unit sphere (Wang & Isola 2020), in [0, 4];
`gradient_norm` (training only). Loss and matches depend on the batch size.
"""

import dataclasses
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras import losses
from ssl_keras.data.augment_images import JITTER, augment
from ssl_keras.data.images import unit_range
from ssl_keras.data.ranges import Range
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.modalities import vision
from ssl_keras.networks.conv import stage_maps
from ssl_keras.networks.projector import projector

DEFAULTS = Training(
    epochs=50, batch_size=256, learning_rate=2e-3, schedule="cosine", final_rate=0.0, warmup=200, weight_decay=1e-4
)
LOSSES = ("nt_xent", "local_global", "vicreg")
LOCAL_STAGES = 2  # the last ones, whose places are compared
MAX_PLACES = 49  # of a stage; larger maps are averaged in squares


@dataclasses.dataclass(frozen=True)
class Settings(vision.Settings):
    """The loss, its projection, and what makes two views of an image."""

    loss: Literal[*LOSSES] = "nt_xent"
    """nt_xent, local_global or vicreg."""
    temperature: Annotated[float, Range(0, open="low")] = 0.2
    """What similarities are divided by; vicreg has none."""
    projection: tuple[Annotated[int, Range(1)], ...] = (256, 128)
    """Units of the layers between the features and the loss; thrown away afterwards."""
    crop: Annotated[float, Range(0, 1, open="low")] = 0.3
    """The least share of the area that a random crop keeps."""
    flip: bool = True
    """Mirror half of the views."""
    color: Annotated[float, Range(0, 1 / JITTER)] = 0.5
    """Strength of changes of brightness, contrast and, in color, saturation and hue."""
    gray: Annotated[float, Range(0, 1)] = 0.2
    """Probability that the colors are taken away."""

    def __post_init__(self):
        super().__post_init__()
        if not self.projection:
            raise ValueError("projection must be one or more positive integers. Received none.")


prepare = vision.prepare
encoder = vision.encoder


def build(settings, spec, encoder=encoder):
    """The objective; `encoder` may be any function or functional graph from images to (B, D).

    Raises:
        ValueError: a given encoder whose input or output does not fit.
    """
    network = vision.chosen_encoder(settings, spec, encoder)
    return Contrastive(settings, network, *projectors(settings, network))


def projectors(settings, network):
    """The projection of the features and, for `local_global`, one of each local stage and the graph that has them."""
    whole = projector(network.output_shape[-1], settings.projection, "projector")
    if settings.loss != "local_global":
        return whole, None, ()
    maps = stage_maps(network)[-LOCAL_STAGES:]
    if len(maps) < LOCAL_STAGES:
        raise ValueError(f"local_global needs an encoder of {LOCAL_STAGES} stages or more. Received: {len(maps)}")
    trunk = keras.Model(network.input, [network.output, *maps], name="trunk")
    return (
        whole,
        trunk,
        tuple(projector(x.shape[-1], settings.projection, f"local_projector_{i}") for i, x in enumerate(maps)),
    )


class Contrastive(Objective):
    """Holds `encoder` and `projector`; trains on `batch["view_a"]` and `batch["view_b"]`."""

    batch_coupled, min_batch_size = True, 2

    def __init__(self, settings, encoder, projector, trunk=None, local_projectors=()):
        super().__init__(name="contrastive")
        self.settings, self.encoder, self.projector = settings, encoder, projector
        self.trunk, self.local_projectors = trunk, list(local_projectors)
        self.top1 = keras.metrics.Mean("top1")
        self.alignment = keras.metrics.Mean("alignment")

    def preprocess(self, batch, random):
        """Adds `view_a` and `view_b` (B, H, W, C) float32 in [0, 1]; runs in tf.data."""
        return batch | {view: augment(batch["image"], random, self.settings, view) for view in ("view_a", "view_b")}

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training):
        """Summed loss and number of images of a batch; updates the metrics."""
        settings, weight = self.settings, example_weight(batch)  # (b,)
        both = tf.concat([batch["view_a"], batch["view_b"]], 0)  # (2b, H, W, C): one pass, one set of statistics
        if self.trunk is None:
            features, maps = self.encoder(both, training=training), ()
        else:
            features, *maps = self.trunk(both, training=training)
        first, second = tf.split(self.projector(features, training=training), 2)  # (b, Z) each
        if settings.loss == "vicreg":
            loss = losses.vicreg(first, second, weight)
        else:
            loss = losses.nt_xent(first, second, weight, settings.temperature)
        for stage, local_projector in zip(maps, self.local_projectors):
            loss += self._local(first, second, stage, local_projector, weight, training)
        self._measure(first, second, features, weight)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def _local(self, first, second, stage, projector, weight, training):
        """Each view's whole against the places of the other in one stage (2b, h, w, channels)."""
        side = max(stage.shape[1:3])
        factor = -(-side // int(MAX_PLACES**0.5))
        if factor > 1:
            stage = tf.nn.avg_pool2d(stage, factor, factor, "SAME")
        places = stage.shape[1] * stage.shape[2]
        local = projector(tf.reshape(stage, (-1, stage.shape[-1])), training=training)
        local = tf.reshape(local, (-1, places, local.shape[-1]))  # (2b, P, Z)
        here, there = tf.split(local, 2)
        temperature = self.settings.temperature
        return 0.5 * (
            losses.local_global(first, there, weight, temperature)
            + losses.local_global(second, here, weight, temperature)
        )

    def _measure(self, first, second, features, weight):
        self.top1.update_state(losses.top1(first, second, weight), weight)
        a, b = tf.split(losses.l2_normalize(features), 2)
        self.alignment.update_state(tf.reduce_sum(tf.square(a - b), axis=1), weight)

    def report(self, batch, examples, splits):
        """Rows of the images and of their two views."""
        return Report(images={"views": [unit_range(batch["image"]), batch["view_a"], batch["view_b"]]})
