"""Contrastive learning (SimCLR, AMDIM, VICReg, LeJEPA): map views of an image to similar features.

The tutorial's reference is AMDIM (Bachman et al. 2019, "Learning representations by maximizing mutual
information across views"). The mutual information between views is at least log K
minus the InfoNCE loss, in nats, for K candidates (van den Oord et al. 2018, equation 5). The losses are in `losses.py`:

- `nt_xent`: InfoNCE between whole views, with all other views of the batch as negatives (SimCLR, Chen et al. 2020).
- `local_global`: `nt_xent` plus InfoNCE between each whole view and the other view's positions in the last
  two stages (the multi-scale part of AMDIM).
- `vicreg`: views agree, and features have variance and are decorrelated (Bardes et al. 2022).
- `lejepa`: views agree, and random projections of the features are tested against a standard Gaussian, SIGReg
  (Balestriero & LeCun 2025). The projections are drawn by (seed, step), the same on all replicas.

The last two have no negatives, and are not contrastive in that sense; they share everything else with the first two.

Multi-crop (Caron et al. 2020, SwAV, section 3.2) adds small views of small parts of the image. Each is compared with
both whole views, and the loss is the mean over all pairs; `lejepa` compares all views with the mean of the whole ones.

Departures: SIGReg has 256 projections instead of 1024; Adam instead of LARS, since batches are small; batch
normalization only after the hidden layers of the projection head; AMDIM's own network and its 5→5 pairs are not
used; see also `data/augment_images.py`.

Shapes: `B` batch (`b` a replica's part), `H W C` image, `D` features, `Z` projection, `P` positions.

Metrics: `loss`, nats per image, or the weighted sums of VICReg and LeJEPA; `top1`, accuracy of retrieving an
image's second view by its first from the batch, in [0, 1]; `alignment`, mean squared distance between the two
views' normalized features (Wang & Isola 2020), in [0, 4]; `gradient_norm` (training only). Loss and top-1
depend on the batch size.
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
LOSSES = ("nt_xent", "local_global", "vicreg", "lejepa")
VIEWS = ("view_a", "view_b")
NUM_SLICES = 256  # random projections in SIGReg; the paper's 1024 cost more than a small network's step
COLLAPSED, FAILED = 1e-3, 0.05  # alignment and top-1 below which all images have nearly the same features
LOCAL_STAGES = 2  # number of last stages whose positions are compared
MAX_POSITIONS = 49  # in a stage; larger maps are average-pooled


@dataclasses.dataclass(frozen=True)
class Settings(vision.Settings):
    """The encoder, the loss and its projection head, and the augmentation that makes two views of an image."""

    loss: Literal[*LOSSES] = "nt_xent"
    """Loss: that of SimCLR (nt_xent), the same with the local terms of AMDIM (local_global), or those of VICReg
    (vicreg) and LeJEPA (lejepa), which have no negatives."""
    sigreg_weight: Annotated[float, Range(0, 1)] = 0.05
    """Weight of SIGReg; the invariance has one minus this weight (loss lejepa)."""
    local_views: Annotated[int, Range(0, 16)] = 0
    """Multi-crop: number of additional views of half the side length, each of a part of the image of an area between
    --local-crop and --crop. 0 disables it."""
    local_crop: Annotated[float, Range(0, 1, open="low")] = 0.1
    """Minimum area of the random crop of an additional view, as a fraction of the image area (multi-crop)."""
    noise: Annotated[float, Range(0, 1)] = 0.0
    """Standard deviation of Gaussian noise added to the pixels of each view, which are in [0, 1]. 0 disables it."""
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
        if self.local_views and self.loss == "local_global":
            raise ValueError(
                f"local_views must be 0 for the loss local_global. Received: {self.local_views}. Use another loss."
            )
        if self.local_views and self.local_crop > self.crop:
            raise ValueError(
                f"local_crop must be at most crop. Received: local_crop={self.local_crop}, crop={self.crop}"
            )


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
        self.local_names = [f"local_{index}" for index in range(settings.local_views)]
        self.top1 = keras.metrics.Mean("top1")
        self.alignment = keras.metrics.Mean("alignment")

    def preprocess(self, batch, random):
        """Adds views, float32 in [0, 1]; runs in tf.data.

        These are `view_a` and `view_b` (B, H, W, C), and with multi-crop `local_0`, … (B, H/2, W/2, C). The seed of
        the slices of SIGReg, `slices` (B, 2), is the same in all rows.
        """
        settings, image = self.settings, batch["image"]
        views = {view: augment(image, random, settings, view) for view in VIEWS}
        if settings.local_views:
            small, size = dataclasses.replace(settings, crop=settings.local_crop), self._local_size(image)
            for view in self.local_names:
                views[view] = augment(image, random, small, view, size, most=settings.crop)
        if settings.noise:
            for view, x in views.items():
                noise = settings.noise * random.normal(f"{view}/noise", x.shape[1:])
                views[view] = tf.clip_by_value(x + noise, 0.0, 1.0)
        if settings.loss == "lejepa":
            drawn = tf.stack([tf.constant(random.seed, tf.int64), tf.cast(random.step, tf.int64)])
            views["slices"] = tf.tile(drawn[None], (random.rows, 1))
        return batch | views | draw_depth(self.encoder, random, copies=2 + settings.local_views)

    def _local_size(self, image):
        """Returns the size (height, width) of the small views."""
        return tuple(-(-side // 2) for side in image.shape[1:3])

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training):
        """Returns the summed loss and the number of images; updates the metrics."""
        settings, weight = self.settings, example_weight(batch)  # (b,)
        maps = ()
        if self.trunk is None:
            features = self._encode(batch, training)  # (V·b, D)
        else:
            both = tf.concat([batch["view_a"], batch["view_b"]], 0)  # (2b, H, W, C), with common batch statistics
            features, *maps = self.trunk(both, training=training)
        views = tf.split(self.projector(features, training=training), 2 + settings.local_views)  # (b, Z) each
        first, second, *small = views
        if settings.loss == "lejepa":
            slices = losses.unit_slices(batch["slices"][0], first.shape[-1], NUM_SLICES)
            loss = losses.lejepa(tf.stack(views), 2, weight, slices, settings.sigreg_weight)
        else:
            pairs = [(first, second), *((whole, part) for whole in (first, second) for part in small)]
            loss = tf.add_n([self._compare(*pair, weight) for pair in pairs]) / len(pairs)
        for stage, local_projector in zip(maps, self.local_projectors):
            loss += self._local(first, second, stage, local_projector, weight, training)
        self._measure(first, second, features[: 2 * tf.shape(weight)[0]], weight)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def _encode(self, batch, training):
        """Returns the features (V·b, D) of all views; the whole ones, and the small ones, share batch statistics."""
        whole = tf.concat([batch[view] for view in VIEWS], 0)
        with stochastic_depth({"depth": batch["depth"][:, :2]} if "depth" in batch else {}):
            features = self.encoder(whole, training=training)
        if not self.local_names:
            return features
        small = tf.concat([batch[view] for view in self.local_names], 0)
        with stochastic_depth({"depth": batch["depth"][:, 2:]} if "depth" in batch else {}):
            return tf.concat([features, self.encoder(small, training=training)], 0)

    def _compare(self, first, second, weight):
        """Returns the loss (b,) of two views' projections."""
        if self.settings.loss == "vicreg":
            return losses.vicreg(first, second, weight)
        return losses.nt_xent(first, second, weight, self.settings.temperature)

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

    def warnings(self, logs):
        """Warns of collapse, by the validation metrics where there are any."""
        alignment, top1 = (logs.get(f"val_{name}", logs.get(name)) for name in ("alignment", "top1"))
        if alignment > COLLAPSED or top1 > FAILED:
            return []
        return [
            f"All images have nearly the same features (alignment {alignment:.2g}, top-1 {top1:.2g}): the encoder has "
            "collapsed. Lower --learning-rate, or use another --loss."
        ]

    def report(self, batch, examples, splits):
        """Rows of images and their views; TensorBoard's RankMe shows a collapse."""
        small = {"small views": [batch[view] for view in self.local_names]} if self.local_names else {}
        return Report(images={"views": [unit_range(batch["image"]), batch["view_a"], batch["view_b"]]} | small)
