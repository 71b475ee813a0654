"""Masked autoencoder (MAE, He et al. 2022): reconstruct hidden patches of an image from the visible ones.

Most patches are hidden at random. A vision transformer encodes the visible ones alone, so a step costs a fraction of
one on all patches. A light decoder (`networks/mae_decoder.py`) then predicts the pixels of the hidden ones.

The loss is the squared error, averaged over the pixels of a patch and over the hidden patches (section 3):

    1/|M| · Σ_{i∈M} 1/K · ‖x̂_i − x_i‖²,   M the hidden patches, K the pixels of a patch.

The target x_i is the patch in the encoder's normalized colors or, with `normalize_pixels`, the patch minus its mean,
divided by its standard deviation √(s² + 1e-6), where s² is the unbiased variance (section 4.1).

Departures: held-out images are not augmented, and hide the same patches in each evaluation.

Shapes: `B` batch, `H W C` image, `N` patches, `V` visible patches, `K` = patch·patch·C, `D` width.

Metrics: `loss`, squared error in the target's units (with normalized pixels, predicting the mean gives about 1);
`gradient_norm`, global norm before clipping (training only).
"""

import dataclasses
from typing import Annotated, Literal

import tensorflow as tf

from ssl_keras import encoders
from ssl_keras.data.augment_images import augment
from ssl_keras.data.images import unit_range
from ssl_keras.data.ranges import Range
from ssl_keras.encoders import card as cards
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.modalities import vision
from ssl_keras.networks import Network, description, vit
from ssl_keras.networks.transformer import MAX_LAYERS
from ssl_keras.networks.vit_block import draw_depth, stochastic_depth
from ssl_keras.networks.vit_ends import cut_patches, join_patches

DEFAULTS = Training(
    epochs=100,
    batch_size=256,
    learning_rate=1.5e-3,
    schedule="cosine",
    final_rate=0.0,
    warmup=500,
    weight_decay=0.05,
    beta_2=0.95,
)
EPSILON = 1e-6  # added to the variance of a patch
GRAY = 0.5  # of hidden patches in pictures


@dataclasses.dataclass(frozen=True)
class Settings(vision.Settings):
    """The encoder, the augmentation of its images, the mask and the decoder."""

    network: Literal["vit"] = "vit"
    """Encoder architecture."""
    crop: Annotated[float, Range(0, 1, open="low")] = 0.2
    """Minimum area of a random crop, as a fraction of the image area; the crop is resized to the image's size.
    1 disables cropping."""
    flip: bool = True
    """Flip each image horizontally with probability 0.5."""
    mask_ratio: Annotated[float, Range(0, 1, open="both")] = 0.75
    """Mask ratio: fraction of an image's patches that are hidden from the encoder."""
    normalize_pixels: bool = True
    """Normalize the pixels of each target patch by their own mean and standard deviation."""
    decoder_width: Annotated[int, Range(4, 1 << 12)] = 128
    """Hidden size of the decoder, a multiple of 4. The decoder is saved with the encoder."""
    decoder_layers: Annotated[int, Range(1, MAX_LAYERS)] = 2
    """Number of transformer blocks in the decoder."""

    def __post_init__(self):
        super().__post_init__()
        if self.decoder_width % 4:
            raise ValueError(f"decoder_width must be a multiple of 4. Received: {self.decoder_width}")


def prepare(settings, splits, init=None):
    """Returns the splits, and the settings as from `vision.prepare`.

    Raises:
        ValueError: no images; sides that are not multiples of the patch; a mask that hides no patch, or all of them;
            `init` is not a vision transformer.
    """
    if init is not None and not cards.is_a(cards.read(encoders.find(init)), "vit"):
        raise ValueError(
            f"masked_autoencoder continues from a vision transformer. Received: init={str(init)!r}, another network. "
            "Choose another --init, or another objective for it, such as contrastive."
        )
    settings, splits = vision.prepare(settings, splits, init)
    _shape(settings, vision.encoder(settings, splits.train.spec()), splits.train.spec())
    return settings, splits


encoder = vision.encoder


def _shape(settings, network, spec):
    """Returns the shape (H, W, C) of the pixels that are reconstructed, and the number of visible patches."""
    keywords = network.keywords
    height, width, channels = spec["image"][0]
    patch, own = keywords["patch"], keywords["resize"]
    if own:
        height = width = own
    if height % patch or width % patch:
        size = f"--image-size {max(height // patch, 1) * patch}"
        why, remedy = "", f"Use {size}, or another --patch."
        if own:
            why = ", the size that the encoder gives to all images"
            remedy = f"Import the encoder again with --keep-size, and use {size}."
        raise ValueError(
            f"Expected images whose sides are multiples of the patch of {patch} pixels, since patches are "
            f"reconstructed as a whole. Received: {height}×{width}{why}. {remedy}"
        )
    patches = (height // patch) * (width // patch)
    visible = int(patches * (1 - settings.mask_ratio))
    if not 1 <= visible < patches:
        raise ValueError(
            f"Expected a mask_ratio that hides at least 1 of {patches} patches, and leaves at least 1. "
            f"Received: {settings.mask_ratio}, which leaves {visible}. Use smaller patches or another mask_ratio."
        )
    return (height, width, channels), visible


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be any function or functional graph that is a `networks.vit.vit`.

    Raises:
        ValueError: the encoder is not a vision transformer, or does not fit; see `prepare`.
    """
    network = vision.chosen_encoder(settings, spec, encoder)
    parts = vit.parts(network)
    keywords = description(network).keywords
    shape, visible = _shape(settings, description(network), spec)
    decoder = Network(
        "mae_decoder",
        features=keywords["width"],
        image_shape=shape,
        patch=keywords["patch"],
        width=settings.decoder_width,
        layers=settings.decoder_layers,
        prefix=parts.tokens.prefix,
        epsilon=keywords["epsilon"],
    )
    return MaskedAutoencoder(settings, network, decoder.build(), visible)


class MaskedAutoencoder(Objective):
    """Holds `encoder` and `head`, the decoder; trains both to reconstruct `batch["image"]`.

    Args:
        settings: `Settings`.
        encoder: a graph of `networks.vit.vit`.
        decoder: a graph of `networks.mae_decoder.mae_decoder`.
        visible: V.
    """

    def __init__(self, settings, encoder, decoder, visible):
        super().__init__(name="masked_autoencoder")
        self.settings, self.encoder, self.head, self.visible = settings, encoder, decoder, visible
        self.parts = vit.parts(encoder)
        self.patch = self.parts.pixels.patch
        self.patches = decoder.input_shape[1][1]  # N

    def preprocess(self, batch, random):
        """Augments `image`, and adds `noise` (B, N), whose lowest values are visible patches."""
        image = augment(batch["image"], random, self.settings)
        return batch | {"image": image, "noise": self._noise(random)} | draw_depth(self.encoder, random)

    def preprocess_eval(self, batch, random):
        """Adds `noise`; the image is not augmented."""
        return batch | {"noise": self._noise(random)}

    def _noise(self, random):
        return random.uniform("mask", (self.patches,))

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training):
        """Returns the summed loss and the number of images."""
        weight = example_weight(batch)  # (B,)
        pixels = self.pixels(batch["image"])
        with stochastic_depth(batch):
            predicted, place = self.predict_patches(pixels, batch["noise"], training)
        target = self.targets(pixels)[0]
        error = tf.reduce_mean(tf.square(predicted - target), -1)  # (B, N)
        hidden = tf.cast(place >= self.visible, tf.float32)
        loss = tf.reduce_sum(error * hidden, 1) / (self.patches - self.visible)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def pixels(self, image):
        """Returns images (B, H, W, C) in the encoder's colors and size, float32."""
        return self.parts.pixels(unit_range(image))

    def targets(self, pixels):
        """Returns the targets of all patches (B, N, K), and the mean and deviation (B, N, 1) taken out of them."""
        x = cut_patches(tf.cast(pixels, tf.float32), self.patch)
        x = tf.reshape(x, (-1, self.patches, x.shape[-1]))
        if not self.settings.normalize_pixels:
            return x, 0.0, 1.0
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        size = x.shape[-1]
        deviation = tf.sqrt(variance * (size / max(size - 1, 1)) + EPSILON)
        return (x - mean) / deviation, mean, deviation

    def states(self, pixels, noise, training=False):
        """Returns the states (B, P + V, D) of the visible patches in the order of their noise, and `place` (B, N).

        `place` is the index of each patch in the order of its noise, int32; those below V are visible.
        """
        order = tf.argsort(noise, axis=1, stable=True)
        place = tf.argsort(order, axis=1)
        tokens = self.parts.tokens.positioned(self.parts.patches(pixels))  # (B, N, D)
        tokens = tf.gather(tokens, order[:, : self.visible], batch_dims=1)
        return vit.encode(self.parts, self.parts.tokens.prefixed(tokens), training), place

    def predict_patches(self, pixels, noise, training=False):
        """Returns the predicted targets of all patches (B, N, K) float32, and `place` (B, N), see `states`."""
        states, place = self.states(pixels, noise, training)
        return self.head([states, place], training=training), place

    def report(self, batch, examples, splits):
        """Rows of images, the same with hidden patches in gray, and with their reconstructions."""
        pixels = self.pixels(batch["image"])
        predicted, place = self.predict_patches(pixels, batch["noise"])
        target, mean, deviation = self.targets(pixels)
        visible = (place < self.visible)[..., None]
        image, rebuilt = (
            self._picture(patches * deviation + mean, pixels)
            for patches in (target, tf.where(visible, target, predicted))
        )
        shown = self._picture(tf.cast(visible, tf.float32) * tf.ones_like(target), pixels, normalized=False)
        return Report(images={"reconstructions": [image, tf.where(shown > 0, image, GRAY), rebuilt]})

    def _picture(self, patches, pixels, normalized=True):
        """Returns images in [0, 1] that consist of patches (B, N, K)."""
        height, width = (side // self.patch for side in pixels.shape[1:3])
        image = join_patches(tf.reshape(patches, (-1, height, width, patches.shape[-1])), self.patch)
        if normalized:
            image = image * tf.constant(self.parts.pixels.deviation) + tf.constant(self.parts.pixels.mean)
        return tf.clip_by_value(image, 0.0, 1.0)
