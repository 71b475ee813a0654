"""DCGAN: a generator learns to make images that a discriminator takes for real ones.

The tutorial's section 4.4, with its signs mended (errata). With D the discriminator's logit, G the
generator, x images, z latents, all means over the batch:

- `non_saturating` (Goodfellow et al. 2014, section 3; networks of Radford et al. 2015):
      discriminator   softplus(−D(x)) + softplus(D(G(z)))
      generator       softplus(−D(G(z)))
- `wasserstein` (Arjovsky et al. 2017, with the penalty of Gulrajani et al. 2017, equation 3):
      discriminator   D(G(z)) − D(x) + λ·(‖∇D(y)‖ − 1)²,   y between x and G(z)
      generator       −D(G(z))

Both players learn from one pass, each by its own optimizer and from where both stand; extra
`critic_steps` train the discriminator alone, on the same images and with other latents. An
augmentation is applied to real and made images alike (Zhao et al. 2020, "Differentiable
augmentation for data-efficient GAN training"). Latents are uniform in [−1, 1], drawn by (seed, step,
position). What is saved, shown and measured is the generator's moving average over steps.

Departures: the paper's players take turns, at a learning rate of 2e-4, which takes longer; real and
made batches each have statistics of their own, and what features are normalized with afterwards is the
real ones' average; augmented colors are clipped to [0, 1], where no gradient passes. Of the
discriminator the trunk alone is saved: with `--init` its last unit begins anew.

Shapes: `B` batch, `H W C` image, `Z` latent, `D` features.

Of wasserstein `penalized_gradient_norm` is logged too, the mean ‖∇D(y)‖, which the penalty pulls to 1.

Metrics: `loss`, the discriminator's without the penalty, and `generator_loss`: nats per image, or the
critic's units; `real` and `fake`, the mean of σ(D) on images and on made ones, in [0, 1], of wasserstein
D itself; `diversity`, the distance from a made image to the nearest other one of the batch over that
of real images: about 1 where they vary alike, 0 where a few come again and again (collapse; of classes
that never come, `--classifier` tells); `gradient_norm` of the discriminator and
`generator_gradient_norm` (training only). No loss here says how good the images are.
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
NUM_SHOWN = 8  # images along each side of the grid of samples
# What a lost game looks like, in the metrics of an interval; at first all samples are one gray.
WON, VANISHED, COLLAPSED, EARLY = 0.01, 1e-4, 0.25, 200


@dataclasses.dataclass(frozen=True)
class Settings(Augmentation):
    """The two networks, what they play for, and how images are augmented."""

    loss: Literal[*LOSSES] = "non_saturating"
    """non_saturating, or wasserstein."""
    width: Annotated[int, Range(1, 1 << 12)] = 64
    """Channels of the discriminator's first stage and the generator's last."""
    latent: Annotated[int, Range(1, 1 << 16)] = 100
    """Numbers that an image is made from."""
    normalization: Literal["", *dcgan.NORMALIZATIONS] = ""
    """The discriminator's: batch, layer or spectral; nothing: batch, or layer with wasserstein."""
    penalty: Annotated[float, Range(0)] = 10.0
    """With wasserstein: λ, the weight of the gradient penalty."""
    critic_steps: Annotated[int, Range(1, 100)] = 1
    """Updates of the discriminator for each of the generator."""
    generator_lr_ratio: Annotated[float, Range(0, open="low")] = 1.0
    """The generator's learning rate over the discriminator's."""
    ema_decay: Annotated[float, Range(0, 1, open="high")] = 0.995
    """Decay of the generator's moving average, for each step."""
    classifier: str = ""
    """A saved classifier of such images: TensorBoard shows the samples' FID and KID on its features."""

    def __post_init__(self):
        super().__post_init__()
        if self.loss == "wasserstein" and self.normalization == "batch":
            raise ValueError(
                "wasserstein penalizes the gradient of each image by itself, which batch normalization mixes with the "
                "others': choose normalization layer or spectral. Received: batch"
            )

    @property
    def norm(self):
        """The discriminator's normalization, the default filled in."""
        return self.normalization or ("layer" if self.loss == "wasserstein" else "batch")


def prepare(settings, splits, init=None):
    """Images as they are.

    Raises:
        ValueError: no images; sides that do not halve to 4 to 7 pixels; a classifier that is none or
            takes others.
    """
    shape, _ = splits.train.column_spec("image")
    dcgan.stages(shape)
    if settings.classifier:
        card = cards.read(encoders.find(settings.classifier))
        if not cards.is_classifier(card):
            raise ValueError(f"{settings.classifier} is no classifier. Expected one that was trained with labels.")
        cards.check_image_shape(card, splits.train)
    return settings, splits


def encoder(settings, spec):
    """The encoder, the discriminator's trunk: image (B, H, W, C) -> features (B, D), as a `Network`."""
    return Network("dcgan_trunk", image_shape=spec["image"][0], width=settings.width, normalization=settings.norm)


def head(settings, spec):
    """The generator, saved beside the encoder: latent (B, Z) -> image (B, H, W, C) in [0, 1], as a `Network`."""
    return Network("generator", image_shape=spec["image"][0], latent=settings.latent, width=settings.width)


own_trunk = encoder


def build(settings, spec, encoder=own_trunk):
    """The objective; `encoder` may be any function or functional graph from images to (B, D), which is
    then judged by its features. It is saved alone, without the generator.

    Raises:
        ValueError: a given encoder whose input or output does not fit; batch normalization in it that
            the loss, or replicas, do not bear.
    """
    network = vision.chosen_encoder(settings, spec, encoder)
    judged = network.output
    if encoder is own_trunk:
        judged = network.get_layer(f"stage_{dcgan.stages(spec['image'][0]) - 1}").output
    dcgan.check_batch_norms(network, allowed=settings.norm == "batch")
    discriminator = dcgan.discriminator(
        network, judged, settings.norm == "spectral", bias=settings.loss != "wasserstein"
    )
    return DCGAN(settings, network, discriminator, *(head(settings, spec).build() for _ in range(2)))


class DCGAN(Objective):
    """Holds `encoder` and the `discriminator` on top of it, `generator` and `head`, its moving average."""

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
        """The discriminator's optimizer, and the generator's; by default one just like it."""
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
        """Augments `image`; adds `latent` (B, critic_steps, Z), and the numbers that made images are changed by."""
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
            self.descend(lambda batch, turn=turn: self._critic_alone(batch, turn), batch, critic)
        self.descend(self.losses, batch)
        tf.distribute.get_replica_context().merge_call(self._average)

    def test_step(self, batch):
        """Of the saved generator, and a discriminator as it is used afterwards."""
        made = self.head(batch["latent"][:, 0], training=False)
        real, fake = (self.discriminator(x, training=False) for x in (unit_range(batch["image"]), made))
        self.measure(batch, real, fake, made)

    def losses(self, batch, turn=0):
        """One pass: the players' summed losses, and the number of images; updates the metrics."""
        made = self.generator(batch["latent"][:, turn], training=True)
        changed = augment(made, ReplayedRandom(batch), self.settings, "fake")
        real = self.discriminator(batch["image"], training=True)
        with conv.freeze_statistics():
            fake = self.discriminator(changed, training=True)
        critic, generator = self.measure(batch, real, fake, made)
        if self.settings.loss == "wasserstein" and self.settings.penalty:
            critic += self.settings.penalty * self.gradient_penalty(batch, changed, turn)
        return [critic, generator], tf.reduce_sum(example_weight(batch))

    def _critic_alone(self, batch, turn):
        (critic, _), count = self.losses(batch, turn)
        return [critic], count

    def player_losses(self, real, fake):
        """The discriminator's and the generator's loss of each pair of logits (B,): (B,) each."""
        if self.settings.loss == "wasserstein":
            return fake - real, -fake
        return tf.nn.softplus(-real) + tf.nn.softplus(fake), tf.nn.softplus(-fake)

    def measure(self, batch, real, fake, made):
        """Both players' summed losses; updates the metrics."""
        weight = example_weight(batch)
        show = tf.identity if self.settings.loss == "wasserstein" else tf.sigmoid
        critic, generator = self.player_losses(real, fake)
        metrics = (self.loss_metric, self.generator_loss, self.real, self.fake)
        for metric, value in zip(metrics, (critic, generator, show(real), show(fake))):
            metric.update_state(value, weight)
        ratio = losses.nearest_distance(made, weight) / losses.nearest_distance(unit_range(batch["image"]), weight)
        self.diversity.update_state(tf.where(tf.math.is_finite(ratio), ratio, 1.0), tf.reduce_sum(weight))
        return tf.reduce_sum(weight * critic), tf.reduce_sum(weight * generator)

    def gradient_penalty(self, batch, made, turn):
        """Σ weight · (‖∇D(y)‖ − 1)² at points y on the lines from made to real images."""
        share = batch["between"][:, turn]  # (B, 1, 1, 1)
        points = share * batch["image"] + (1 - share) * tf.stop_gradient(made)
        with conv.freeze_statistics():
            # In the units of [-1, 1], which networks see.
            norm = 0.5 * losses.gradient_norms(self.discriminator, points)
        weight = example_weight(batch)
        self.penalized_gradient_norm.update_state(norm, weight)
        return tf.reduce_sum(weight * tf.square(norm - 1.0))

    def _average(self, strategy):
        """Cross-replica: moves the average towards the generator."""
        decay = moving_average.warmed_up(self.settings.ema_decay, self.step)
        moving_average.follow(strategy, self.head.variables, self.generator.variables, decay, self.failed_step)

    # ----- what a run shows of it ---------------------------------------------

    def warnings(self, logs):
        """What in an interval's metrics looks like a lost game."""
        said = []
        if self.step < EARLY:
            return said
        if self.settings.loss == "non_saturating" and logs["loss"] < WON:
            said.append(
                f"the discriminator has won: its loss is {logs['loss']:.2g} nats, and it teaches the generator little. "
                "Try a lower learning rate, --shift and --color, or --normalization spectral."
            )
        if logs["generator_gradient_norm"] < VANISHED:
            said.append(f"the generator's gradient has vanished: its norm is {logs['generator_gradient_norm']:.2g}.")
        if logs["diversity"] < COLLAPSED:
            said.append(
                f"the samples have collapsed: they are {logs['diversity']:.2g} times as far apart as the images. "
                "Try --loss wasserstein --critic-steps 3, or start again with another --seed."
            )
        return said

    def report(self, batch, examples, splits):
        """Images, a grid of samples from latents that stay the same, the logits of both, and the samples' distance."""
        return Report(
            images={
                "real": [unit_range(batch["image"])],
                "samples": tf.split(sampling.sample(self.head, NUM_SHOWN**2, seed=0), NUM_SHOWN),
            },
            histograms=self._logits(examples()),
            scalars=self._distance(splits) if self.settings.classifier else {},
        )

    def _logits(self, batch):
        """{name: the discriminator's logits} of held-out images and of as many samples."""
        real = self.discriminator(unit_range(batch["image"]), training=False)
        made = sampling.sample(self.head, len(real), seed=0)
        return {"D(real)": real, "D(fake)": self.discriminator(made, training=False)}

    def _distance(self, splits):
        """{tag: distance} of the samples from the validation images, on a classifier's features."""
        if self.judge is None:
            self.judge = generative.FeatureClassifier(self.settings.classifier)
        real = splits.validation.column("image")
        distances = self.judge.distances(real, sampling.sample(self.head, len(real), seed=0))
        return {f"quality/{name}": value for name, value in distances.items()}
