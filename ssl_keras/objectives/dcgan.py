"""DCGAN (Radford et al. 2015): a generator of images, trained against a discriminator.

The tutorial's section 4.4, with its signs corrected (see the errata). D is the discriminator's logit, G the
generator, x are images and z latents; all terms are means over the batch:

- `non_saturating` (Goodfellow et al. 2014, section 3):
      discriminator   softplus(−D(x)) + softplus(D(G(z)))
      generator       softplus(−D(G(z)))
- `wasserstein` (Arjovsky et al. 2017, with the penalty of Gulrajani et al. 2017, equation 3):
      discriminator   D(G(z)) − D(x) + λ·(‖∇D(y)‖ − 1)²,   y between x and G(z)
      generator       −D(G(z))

Both networks are updated simultaneously from one forward pass, each by its own optimizer. Extra `critic_steps`
train the discriminator alone, on the same images and with other latents. Augmentations apply to real and
generated images alike (Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training"). Latents
are uniform in [−1, 1], keyed by (seed, step, position). The saved, shown and evaluated generator is the EMA of
its weights over steps.

Departures: the paper updates the networks in turn, at a learning rate of 2e-4, which takes longer. Batch
normalization has separate statistics for real and generated batches; its moving statistics, which features
are computed with, are those of real images. Augmented colors are clipped to [0, 1], and clipped values have no
gradient. Only the discriminator's trunk is saved: with `--init` its last unit is initialized again.

Shapes: `B` batch, `H W C` image, `Z` latent, `D` features.

With the loss wasserstein, the metric `penalized_gradient_norm` is the mean ‖∇D(y)‖, which the penalty pulls to 1.

Metrics:

- `loss`, the discriminator's without the penalty, and `generator_loss`: nats per image, or the critic's units.
- `real` and `fake`: mean of σ(D), in [0, 1], on real and generated images; with wasserstein the mean of D.
- `diversity`: mean distance of generated images to their nearest neighbors in the batch, divided by that of real
  images: about 1 if both vary alike, near 0 in collapse. Only FID and KID (`--classifier`) detect missing
  classes, and no metric here measures the quality of images.
- `gradient_norm` of the discriminator and `generator_gradient_norm` (training only).
"""

import dataclasses
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras import encoders, losses
from ssl_keras.data.augment_images import Augmentation, augment, draw_numbers
from ssl_keras.data.images import unit_range
from ssl_keras.data.random import ReplayedRandom
from ssl_keras.data.ranges import Range
from ssl_keras.encoders import card as cards
from ssl_keras.engine import moving_average
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.evaluation import generative
from ssl_keras.inference import sampling
from ssl_keras.modalities import vision
from ssl_keras.networks import Network, conv, dcgan

DEFAULTS = Training(epochs=20, batch_size=128, learning_rate=5e-4, beta_1=0.5, report_every=5)
LOSSES = ("non_saturating", "wasserstein")
NUM_SHOWN = 8  # samples along each side of the grid
# Thresholds of warnings: on the discriminator's loss, the generator's gradient norm and the diversity of an interval.
WON, VANISHED, COLLAPSED = 0.01, 1e-4, 0.25
MIN_STEPS = 200  # no warnings before, since at first all samples are the same gray


@dataclasses.dataclass(frozen=True)
class Settings(Augmentation):
    """The discriminator and the generator, their loss, and the augmentation of images."""

    loss: Literal[*LOSSES] = "non_saturating"
    """Loss: the non-saturating GAN loss, or the Wasserstein loss with a gradient penalty (WGAN-GP)."""
    width: Annotated[int, Range(1, 1 << 12)] = 64
    """Number of channels in the discriminator's first stage and in the generator's last stage."""
    latent: Annotated[int, Range(1, 1 << 16)] = 100
    """Size of the latent vector, the input of the generator."""
    normalization: Literal["", *dcgan.NORMALIZATIONS] = ""
    """Normalization in the discriminator. By default layer with the loss wasserstein, else batch."""
    penalty: Annotated[float, Range(0)] = 10.0
    """Weight λ of the gradient penalty (loss wasserstein). 0 disables it."""
    critic_steps: Annotated[int, Range(1, 100)] = 1
    """Number of discriminator updates per generator update."""
    generator_lr_ratio: Annotated[float, Range(0, open="low")] = 1.0
    """Learning rate of the generator, as a multiple of that of the discriminator."""
    ema_decay: Annotated[float, Range(0, 1, open="high")] = 0.995
    """Decay per step of the exponential moving average (EMA) of the generator's weights. 0 disables it."""
    classifier: str = ""
    """Name or path of a saved classifier, whose features are used for the FID and KID that TensorBoard shows.
    By default neither is computed."""

    def __post_init__(self):
        super().__post_init__()
        if self.loss == "wasserstein" and self.normalization == "batch":
            raise ValueError(
                "normalization must be layer or spectral with the loss wasserstein, whose gradient penalty is defined "
                "on single images. Received: batch"
            )

    @property
    def norm(self):
        """The discriminator's normalization; an empty setting is replaced by the default."""
        return self.normalization or ("layer" if self.loss == "wasserstein" else "batch")


def prepare(settings, splits, init=None):
    """Returns settings and splits unchanged.

    Raises:
        ValueError: no images; sides that are not 4 to 7 pixels after halving; `classifier` is not a classifier, or
            takes images of another shape.
    """
    shape, _ = splits.train.column_spec("image")
    dcgan.stages(shape)
    if settings.classifier:
        card = cards.read(encoders.find(settings.classifier))
        if not cards.is_classifier(card):
            raise ValueError(f"Expected a saved encoder with a classifier. Received: {settings.classifier}")
        cards.check_image_shape(card, splits.train)
    return settings, splits


def encoder(settings, spec):
    """Returns the discriminator's trunk, image (B, H, W, C) -> features (B, D), as a `Network`."""
    return Network("dcgan_trunk", image_shape=spec["image"][0], width=settings.width, normalization=settings.norm)


def head(settings, spec):
    """Returns the generator, latent (B, Z) -> image (B, H, W, C) in [0, 1], as a `Network`."""
    return Network("generator", image_shape=spec["image"][0], latent=settings.latent, width=settings.width)


own_trunk = encoder


def build(settings, spec, encoder=own_trunk):
    """Returns the objective.

    Args:
        settings: `Settings`, completed by `prepare`.
        spec: `splits.train.spec()`.
        encoder: any function or functional graph from images to (B, D). The discriminator adds one unit to its
            features or, for the default encoder, to its last stage.

    Raises:
        ValueError: the encoder's input or output does not fit, or it has unsuitable batch normalization.
    """
    network = vision.chosen_encoder(settings, spec, encoder)
    features = network.output
    if encoder is own_trunk:
        features = network.get_layer(f"stage_{dcgan.stages(spec['image'][0]) - 1}").output
    dcgan.check_batch_norms(network, allowed=settings.norm == "batch")
    discriminator = dcgan.discriminator(
        network, features, settings.norm == "spectral", bias=settings.loss != "wasserstein"
    )
    return DCGAN(settings, network, discriminator, *(head(settings, spec).build() for _ in range(2)))


class DCGAN(Objective):
    """Holds `encoder`, the `discriminator` on top of it, `generator`, and `head`, the generator's EMA."""

    keep_last_checkpoint, min_batch_size = True, 2

    def __init__(self, settings, encoder, discriminator, generator, average):
        super().__init__(name="dcgan")
        self.settings, self.encoder, self.discriminator = settings, encoder, discriminator
        self.generator, self.head, self.generator_optimizer, self.judge = generator, average, None, None
        average.set_weights(generator.get_weights())
        average.trainable = False
        self.generator_loss = keras.metrics.Mean("generator_loss")
        self.real, self.fake = keras.metrics.Mean("real"), keras.metrics.Mean("fake")
        self.diversity = keras.metrics.Mean("diversity")
        self.generator_gradient_norm = keras.metrics.Mean("generator_gradient_norm")
        self.player_norms = [self.gradient_norm, self.generator_gradient_norm]
        if settings.loss == "wasserstein" and settings.penalty:
            self.penalized_gradient_norm = keras.metrics.Mean("penalized_gradient_norm")

    def compile(self, optimizer="adam", generator_optimizer=None, **kwargs):
        """Compiles with the discriminator's optimizer and the generator's, by default with the same configuration."""
        optimizer = keras.optimizers.get(optimizer)
        self.generator_optimizer = generator_optimizer or type(optimizer).from_config(optimizer.get_config())
        super().compile(optimizer, **kwargs)

    def optimizer_groups(self):
        return [
            (self.optimizer, self.discriminator.trainable_variables),
            (self.generator_optimizer, self.generator.trainable_variables),
        ]

    def optimizers(self, make):
        settings, (critic, generator) = self.settings, (self.discriminator, self.generator)
        return [
            make(critic.trainable_variables, updates=settings.critic_steps),
            make(generator.trainable_variables, share=settings.generator_lr_ratio),
        ]

    def on_weights_loaded(self):
        self.generator.set_weights(self.head.get_weights())

    def preprocess(self, batch, random):
        """Augments `image`; adds `latent` (B, critic_steps, Z), and random numbers to augment generated images."""
        settings = self.settings
        return (
            batch
            | {
                "image": augment(batch["image"], random, settings, "real"),
                "latent": 2 * random.uniform("latent", (settings.critic_steps, settings.latent)) - 1,
                "between": random.uniform("between", (settings.critic_steps, 1, 1, 1)),
            }
            | draw_numbers(random, "fake")
        )

    def preprocess_eval(self, batch, random):
        return batch | {"latent": 2 * random.uniform("latent", (1, self.settings.latent)) - 1}

    def train_step(self, batch):
        critic = self.optimizer_groups()[:1]
        for turn in range(1, self.settings.critic_steps):
            self.descend(lambda batch, turn=turn: self._critic_loss(batch, turn), batch, critic)
        self.descend(self.losses, batch)
        moving_average.update([self.head], [self.generator], self.settings.ema_decay, self)

    def test_step(self, batch):
        """Evaluates the EMA of the generator, and the discriminator in inference mode."""
        generated = self.head(batch["latent"][:, 0], training=False)
        real, fake = (self.discriminator(x, training=False) for x in (unit_range(batch["image"]), generated))
        self.measure(batch, real, fake, generated)

    def losses(self, batch, turn=0):
        """Returns both networks' summed losses and the number of images; updates the metrics."""
        generated = self.generator(batch["latent"][:, turn], training=True)
        augmented = augment(generated, ReplayedRandom(batch), self.settings, "fake")
        real = self.discriminator(batch["image"], training=True)
        with conv.freeze_statistics():
            fake = self.discriminator(augmented, training=True)
        critic, generator = self.measure(batch, real, fake, generated)
        if self.settings.loss == "wasserstein" and self.settings.penalty:
            critic += self.settings.penalty * self.gradient_penalty(batch, augmented, turn)
        return [critic, generator], tf.reduce_sum(example_weight(batch))

    def _critic_loss(self, batch, turn):
        (critic, _), count = self.losses(batch, turn)
        return [critic], count

    def player_losses(self, real, fake):
        """Returns the discriminator's and the generator's loss, (B,) each, from logits (B,) of real and fake images."""
        if self.settings.loss == "wasserstein":
            return fake - real, -fake
        return tf.nn.softplus(-real) + tf.nn.softplus(fake), tf.nn.softplus(-fake)

    def measure(self, batch, real, fake, generated):
        """Returns both networks' summed losses; updates the metrics."""
        weight = example_weight(batch)
        score = tf.identity if self.settings.loss == "wasserstein" else tf.sigmoid
        critic, generator = self.player_losses(real, fake)
        metrics = (self.loss_metric, self.generator_loss, self.real, self.fake)
        for metric, value in zip(metrics, (critic, generator, score(real), score(fake))):
            metric.update_state(value, weight)
        ratio = losses.nearest_distance(generated, weight) / losses.nearest_distance(unit_range(batch["image"]), weight)
        self.diversity.update_state(tf.where(tf.math.is_finite(ratio), ratio, 1.0), tf.reduce_sum(weight))
        return tf.reduce_sum(weight * critic), tf.reduce_sum(weight * generator)

    def gradient_penalty(self, batch, generated, turn):
        """Returns Σ weight · (‖∇D(y)‖ − 1)² at points y between generated and real images."""
        mix = batch["between"][:, turn]  # (B, 1, 1, 1)
        points = mix * batch["image"] + (1 - mix) * tf.stop_gradient(generated)
        with conv.freeze_statistics():
            # Halved, since the paper's gradient is with respect to images in [-1, 1].
            norm = 0.5 * losses.gradient_norms(self.discriminator, points)
        weight = example_weight(batch)
        self.penalized_gradient_norm.update_state(norm, weight)
        return tf.reduce_sum(weight * tf.square(norm - 1.0))

    # ----- warnings and reports -----------------------------------------------

    def warnings(self, logs):
        """Warns of a discriminator that has won, of a vanished gradient and of collapse."""
        found = []
        if self.step < MIN_STEPS:
            return found
        if self.settings.loss == "non_saturating" and logs["loss"] < WON:
            found.append(
                f"the discriminator has won: its loss is {logs['loss']:.2g} nats, and its gradients no longer help the "
                "generator. Try a lower learning rate, --shift and --color, or --normalization spectral."
            )
        if logs["generator_gradient_norm"] < VANISHED:
            found.append(f"the generator's gradient has vanished: its norm is {logs['generator_gradient_norm']:.2g}.")
        if logs["diversity"] < COLLAPSED:
            found.append(
                f"the samples have collapsed: they are {logs['diversity']:.2g} times as far apart as real images. "
                "Try --loss wasserstein --critic-steps 3, or another --seed."
            )
        return found

    def report(self, batch, examples, splits):
        """Images, a grid of samples from fixed latents, the logits of both and, given a classifier, FID and KID."""
        return Report(
            images={
                "real": [unit_range(batch["image"])],
                "samples": tf.split(sampling.sample(self.head, NUM_SHOWN**2, seed=0), NUM_SHOWN),
            },
            histograms=self._logits(examples()),
            scalars=self._distance(splits) if self.settings.classifier else {},
        )

    def _logits(self, batch):
        """Returns {name: the discriminator's logits} of held-out images and of as many samples."""
        real = self.discriminator(unit_range(batch["image"]), training=False)
        generated = sampling.sample(self.head, len(real), seed=0)
        return {"D(real)": real, "D(fake)": self.discriminator(generated, training=False)}

    def _distance(self, splits):
        """Returns {tag: distance} between samples and validation images, on a classifier's features."""
        if self.judge is None:
            self.judge = generative.FeatureClassifier(self.settings.classifier)
        real = splits.validation.column("image")
        distances = self.judge.distances(real, sampling.sample(self.head, len(real), seed=0))
        return {f"quality/{name}": value for name, value in distances.items()}
