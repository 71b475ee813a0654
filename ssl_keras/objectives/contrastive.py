"""Contrastive learning (SimCLR, AMDIM, VICReg): map two views of an image to similar features.

The tutorial's reference is AMDIM (Bachman et al. 2019, "Learning representations by maximizing mutual
information across views"). The mutual information between views is at least log K
minus the InfoNCE loss, in nats, for K candidates (van den Oord et al. 2018, equation 5). The losses are in `losses.py`:

- `nt_xent`: InfoNCE between whole views, with all other views of the batch as negatives (SimCLR, Chen et al. 2020).
- `local_global`: `nt_xent` plus InfoNCE between each whole view and the other view's positions in the last
  two stages (the multi-scale part of AMDIM).
- `vicreg`: no negatives; views agree, and features have variance and are decorrelated (Bardes et al. 2022).

Departures: Adam instead of LARS, since batches are small; batch normalization only after the hidden layers of
the projection head; AMDIM's own network and its 5→5 pairs are not used; see also `data/augment_images.py`.

Shapes: `B` batch (`b` a replica's part), `H W C` image, `D` features, `Z` projection, `P` positions.

Metrics: `loss`, nats per image, or VICReg's weighted sum; `top1`, accuracy of retrieving an image's second
view by its first from the batch, in [0, 1]; `alignment`, mean squared distance between the two views' normalized
features (Wang & Isola 2020), in [0, 4]; `gradient_norm` (training only). Loss and top-1 depend on the batch size.
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
from ssl_keras.networks.vit_block import blocks_of, draw_depth, stochastic_depth

DEFAULTS = Training(
    epochs=50, batch_size=256, learning_rate=2e-3, schedule="cosine", final_rate=0.0, warmup=200, weight_decay=1e-4
)
LOSSES = ("nt_xent", "local_global", "vicreg")
LOCAL_STAGES = 2  # number of last stages whose positions are compared
MAX_POSITIONS = 49  # in a stage; larger maps are average-pooled


@dataclasses.dataclass(frozen=True)
class Settings(vision.Settings):
    """The encoder, the loss and its projection head, and the augmentation that makes two views of an image."""

    loss: Literal[*LOSSES] = "nt_xent"
    """Loss: that of SimCLR (nt_xent), the same with the local terms of AMDIM (local_global), or that of VICReg
    (vicreg), which has no negatives."""
    temperature: Annotated[float, Range(0, open="low")] = 0.2
    """Temperature, which divides the cosine similarities (losses nt_xent and local_global)."""
    projection: tuple[Annotated[int, Range(1)], ...] = (256, 128)
    """Number of units in each layer of the projection head, which is discarded after training."""
    crop: Annotated[float, Range(0, 1, open="low")] = 0.3
    """Minimum area of a random crop, as a fraction of the image area; the crop is resized to the image's size.
    1 disables cropping."""
    flip: bool = True
    """Flip each view horizontally with probability 0.5."""
    color: Annotated[float, Range(0, 1 / JITTER)] = 0.5
    """Strength of color jitter of brightness and contrast and, for RGB images, saturation and hue. 0 disables it."""
    gray: Annotated[float, Range(0, 1)] = 0.2
    """Probability of converting an RGB view to grayscale. 0 disables it."""

    def __post_init__(self):
        super().__post_init__()
        if not self.projection:
            raise ValueError(f"projection must be one or more positive integers. Received: {self.projection}")


prepare = vision.prepare
encoder = vision.encoder


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be any function or functional graph from images to (B, D).

    Raises:
        ValueError: the encoder's input or output does not fit.
    """
    network = vision.chosen_encoder(settings, spec, encoder)
    return Contrastive(settings, network, *projectors(settings, network))


def projectors(settings, network):
    """Returns (projection head, graph that also outputs the last stages or None, the projection heads of these)."""
    whole = projector(network.output_shape[-1], settings.projection, "projector")
    if settings.loss != "local_global":
        return whole, None, ()
    if blocks_of(network):
        raise ValueError(
            "local_global compares stages of several sizes, and vit has none. Use --network cnn or resnet18, or --loss "
            "nt_xent."
        )
    maps = stage_maps(network)[-LOCAL_STAGES:]
    if len(maps) < LOCAL_STAGES:
        raise ValueError(f"local_global needs an encoder of at least {LOCAL_STAGES} stages. Received: {len(maps)}")
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
        views = {view: augment(batch["image"], random, self.settings, view) for view in ("view_a", "view_b")}
        return batch | views | draw_depth(self.encoder, random, copies=2)

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training):
        """Returns the summed loss and the number of images; updates the metrics."""
        settings, weight = self.settings, example_weight(batch)  # (b,)
        both = tf.concat([batch["view_a"], batch["view_b"]], 0)  # (2b, H, W, C), with common batch statistics
        if self.trunk is None:
            with stochastic_depth(batch):
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
        """Returns the loss of each whole view against the other's positions in one stage (2b, h, w, channels)."""
        side = max(stage.shape[1:3])
        factor = -(-side // int(MAX_POSITIONS**0.5))
        if factor > 1:
            stage = tf.nn.avg_pool2d(stage, factor, factor, "SAME")
        positions = stage.shape[1] * stage.shape[2]
        local = projector(tf.reshape(stage, (-1, stage.shape[-1])), training=training)
        local = tf.reshape(local, (-1, positions, local.shape[-1]))  # (2b, P, Z)
        local_first, local_second = tf.split(local, 2)
        temperature = self.settings.temperature
        return 0.5 * (
            losses.local_global(first, local_second, weight, temperature)
            + losses.local_global(second, local_first, weight, temperature)
        )

    def _measure(self, first, second, features, weight):
        self.top1.update_state(losses.top1(first, second, weight), weight)
        a, b = tf.split(losses.l2_normalize(features), 2)
        self.alignment.update_state(tf.reduce_sum(tf.square(a - b), axis=1), weight)

    def report(self, batch, examples, splits):
        """Rows of images and their two views."""
        return Report(images={"views": [unit_range(batch["image"]), batch["view_a"], batch["view_b"]]})
