"""Autoencoder (Hinton & Salakhutdinov 2006): reconstruct an image from a low-dimensional code.

The tutorial's worked example, in its section 5. With noise it is a denoising autoencoder (Vincent et al. 2008,
"Extracting and composing robust features"): the input is corrupted, the target is the clean image.

The loss is the binary cross-entropy between pixel x in [0, 1] and its reconstruction,
averaged over pixels and examples, in nats per pixel:

    −x·log σ(z) − (1 − x)·log(1 − σ(z)) = softplus(z) − x·z,   z the logit.

Departures: the loss is computed from logits by the right-hand side, which does not saturate, where
Keras clips σ(z) to [1e-7, 1 − 1e-7]. For gray values strictly between 0 and 1 the minimum of the loss
is the images' own entropy, not 0; see `docs/tutorial_map.md`.

Shapes: `B` batch, `H W C` image, `P = H·W·C` pixels, `D` features.

Metrics: `loss`, nats per pixel; `mse`, mean squared error per pixel, for pixels in [0, 1];
`gradient_norm`, global norm before clipping (training only).
"""

import dataclasses
import logging
import math
from typing import Annotated

import keras
import tensorflow as tf

from ssl_keras.data.images import unit_range
from ssl_keras.data.ranges import Range, check_fields
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.networks import Network, realize
from ssl_keras.networks.dense import dense_decoder

DEFAULTS = Training()
MANY_WEIGHTS = 10**8  # of the first and last layer together, above which `build` warns
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The autoencoder, and the noise added to its input."""

    widths: tuple[Annotated[int, Range(1)], ...] = (256, 128, 64)
    """Number of units in each layer of the encoder. The decoder mirrors them."""
    gaussian_noise: Annotated[float, Range(0)] = 0.0
    """Standard deviation of Gaussian noise added to the input pixels, which are in [0, 1]. 0 disables it."""
    masking_noise: Annotated[float, Range(0, 1, open="high")] = 0.0
    """Masking noise: probability that an input pixel is set to 0. 0 disables it."""

    def __post_init__(self):
        check_fields(self)
        if not self.widths:
            raise ValueError(f"widths must be one or more positive integers. Received: {self.widths}")


def prepare(settings, splits, init=None):
    """Returns settings and splits unchanged. Raises ValueError if the data has no images."""
    splits.train.column_spec("image")
    return settings, splits


def encoder(settings, spec):
    """Returns the encoder, image (B, H, W, C) -> features (B, D), as a `Network`."""
    return Network("dense", image_shape=spec["image"][0], widths=settings.widths)


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be any function or functional graph from images to (B, D).

    Raises:
        ValueError: the encoder's input or output does not fit.
    """
    image_shape = spec["image"][0]
    network = realize(encoder, settings, spec)
    if tuple(network.input_shape[1:]) != tuple(image_shape) or len(network.output_shape) != 2:
        raise ValueError(
            f"The encoder must map images {tuple(image_shape)} to features (D,). Received: "
            f"{tuple(network.input_shape[1:])} -> {tuple(network.output_shape[1:])}"
        )
    weights = 2 * math.prod(image_shape) * settings.widths[0]
    if weights > MANY_WEIGHTS:
        log.warning(
            "With images of %s the first and last layer have %d million weights, which take %.1f GB with the "
            "optimizer's state. Use smaller images (--image-size) or smaller layers (--widths).",
            "×".join(map(str, image_shape)),
            weights // 10**6,
            weights * 16 / 1e9,
        )
    decoder = dense_decoder(network.output_shape[-1], image_shape, settings.widths[-2::-1])
    return Autoencoder(settings, network, decoder)


def pixel_cross_entropy(image, logits):
    """Returns the binary cross-entropy in nats, averaged over pixels: two (B, H, W, C) -> (B,).

    The gradient with respect to the logits, (σ(z) − x) / P, is written out, since the graph contains this
    sigmoid already. Automatic differentiation would also compute the derivative of softplus.
    """
    pixels = math.prod(image.shape[1:])

    @tf.custom_gradient
    def mean_cross_entropy(logits):
        def gradient(upstream):  # (B,)
            scale = tf.reshape(upstream / pixels, (-1, 1, 1, 1))
            return scale * (tf.sigmoid(logits) - image)

        return tf.reduce_mean(tf.nn.softplus(logits) - image * logits, axis=(1, 2, 3)), gradient

    return mean_cross_entropy(logits)


class Autoencoder(Objective):
    """Holds `encoder` and `decoder`; trains both to reconstruct `batch["image"]`."""

    def __init__(self, settings, encoder, decoder):
        super().__init__(name="autoencoder")
        self.settings, self.encoder, self.decoder = settings, encoder, decoder
        self.squared_error = keras.metrics.Mean("mse")

    def preprocess(self, batch, random):
        """Adds `noisy` (B, H, W, C) float32 in [0, 1] if there is noise; runs in tf.data."""
        gaussian, masking = self.settings.gaussian_noise, self.settings.masking_noise
        if not gaussian and not masking:
            return batch
        noisy = unit_range(batch["image"])
        if gaussian:
            noise = random.normal("gaussian_noise", noisy.shape[1:])
            noisy = tf.clip_by_value(noisy + gaussian * noise, 0.0, 1.0)
        if masking:
            noisy *= tf.cast(random.uniform("masking_noise", noisy.shape[1:]) >= masking, tf.float32)
        return batch | {"noisy": noisy}

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training):
        """Returns the summed loss and the number of examples; updates `mse`."""
        image = unit_range(batch["image"])  # (B, H, W, C)
        weight = example_weight(batch)  # (B,)
        features = self.encoder(batch.get("noisy", image), training=training)  # (B, D)
        output = self.decoder(features, training=training)
        squared = tf.reduce_mean(tf.square(output["image"] - image), axis=(1, 2, 3))
        self.squared_error.update_state(squared, weight)
        return tf.reduce_sum(weight * pixel_cross_entropy(image, output["logits"])), tf.reduce_sum(weight)

    def reconstruct(self, image):
        """Reconstructs images (B, H, W, C), uint8 or float in [0, 1]: float32, same shape."""
        return self.decoder(self.encoder(unit_range(image), training=False), training=False)["image"]

    def report(self, batch, examples, splits):
        """Rows of images, their noisy versions if there is noise, and reconstructions."""
        image = unit_range(batch["image"])
        noisy = [batch["noisy"]] if "noisy" in batch else []
        return Report(images={"reconstructions": [image, *noisy, self.reconstruct((noisy or [image])[0])]})
