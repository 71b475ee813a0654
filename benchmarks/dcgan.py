"""DCGAN on Fashion-MNIST: ours, the common Keras recipe, and PyTorch; speed, and FID after equal time.

    python benchmarks/dcgan.py speed      images/s, five interleaved rounds
    python benchmarks/dcgan.py quality    FID of 10,000 samples after 4 minutes of each, three seeds: 50 minutes
    python benchmarks/dcgan.py            both
    python benchmarks/dcgan.py --quick    both in seconds, to see that they run; keeps nothing

The numbers go into benchmarks/dcgan.json after every measurement. What is there is not measured again.

All three train the same two networks (two stages, width 64, 100 latents), the same initialization,
batch 128, Adam with β₁ 0.5, the non-saturating loss; float32, on all cores, none compiled. Each has the
learning rate of two with which it comes nearer to the 5,000 validation images in two minutes. What differs:

- `Keras`: a `keras.Model` with two optimizers and a plain `train_step` under stock `fit`, as in Keras' own
  example (generative/dcgan_overriding_train_step): noisy labels, and new latents for the generator.
  Stock layers. Real and made images are judged apart, where the example, whose discriminator has no batch
  normalization, has them in one batch: with it such a generator learns next to nothing.
- `PyTorch`: the loop of its own DCGAN tutorial, on tensors in memory (no loader to wait for), channels
  last, the fused Adam. Its kernels of stride 2 see another border.
- ours: `dcgan` with its defaults: both players from one pass, four steps in a call, and the generator's
  moving average; the generator itself is measured too.

FID is on the features of the classifier that ships with the project, against the 10,000 test images; the
same number of training images stands beside it.
"""

import dataclasses
import os
import pathlib
import sys
import time
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import numpy as np
from contenders import Process, interval, main, medians, rounds

OURS, KERAS, PYTORCH, RAW = "ours", "Keras", "PyTorch", "ours, not averaged"
DATA, CLASSIFIER = "tfds:fashion_mnist", "classifier-fashion_mnist"
BATCH, WIDTH, LATENT, BETA, SAMPLES = 128, 64, 100, 0.5, 10_000

# A process has one framework, see benchmarks/contrastive.py.
IS_PYTORCH = any(argument.startswith(PYTORCH) for argument in sys.argv)
if IS_PYTORCH:
    import torch
else:
    import keras
    import tensorflow as tf

    from ssl_keras.data.batches import Batches
    from ssl_keras.data.sources import load
    from ssl_keras.evaluation import generative
    from ssl_keras.inference import sampling
    from ssl_keras.networks import dcgan as networks
    from ssl_keras.objectives import dcgan
    from ssl_keras.training.run import compile_objective


@dataclasses.dataclass(frozen=True)
class Plan:
    """Durations of the parts."""

    rounds: int = 5
    seconds: float = 20.0
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: float = 240.0
    rates: tuple[float, ...] = (2e-4, 5e-4)
    pilot: float = 120.0  # seconds for each of them


QUICK = Plan(rounds=1, seconds=2.0, seeds=(0,), budget=5.0, pilot=5.0)


class Ours:
    """`DCGAN`, through `fit`, on the endless dataset of `Batches`."""

    batch, steps_per_execution = BATCH, 4

    def __init__(self, folder, seed, rate):
        self.seed, self.rate, self.splits = seed, rate, load(DATA)

    def build(self):
        keras.utils.set_random_seed(self.seed)
        settings = dcgan.Settings(width=WIDTH, latent=LATENT)
        training = dataclasses.replace(
            dcgan.DEFAULTS,
            batch_size=BATCH,
            learning_rate=self.rate,
            beta_1=BETA,
            seed=self.seed,
            steps_per_execution=self.steps_per_execution,
        )
        self.model = dcgan.build(settings, self.splits.train.spec())
        compile_objective(self.model, training, self.splits)
        self.batches = Batches(self.splits.train, BATCH, seed=self.seed, preprocess=self.model.preprocess)
        return sum(v.shape.num_elements() for _, group in self.model.optimizer_groups() for v in group)

    def steps(self, count):
        self.model.fit(self.batches.dataset(int(self.model.step.numpy())), steps_per_epoch=count, verbose=0)

    def train(self, until):
        self.model.fit(
            self.batches.dataset(), steps_per_epoch=1_000_000, verbose=0, callbacks=[stopping(self.model, until)]
        )
        return int(self.model.step.numpy())

    def keep(self, folder):
        for name, generator in ((OURS, self.model.head), (RAW, self.model.generator)):
            np.save(folder / f"{name}.npy", sampling.sample(generator, SAMPLES, seed=self.seed).numpy())


def stopping(model, until):
    """A callback that ends `fit` when the time has come."""

    def look(batch, logs):
        model.stop_training = time.perf_counter() >= until

    return keras.callbacks.LambdaCallback(on_train_batch_end=look)


class KerasRecipe(Ours):
    """A plain `train_step` under stock `fit`."""

    steps_per_execution = 1

    def build(self):
        keras.utils.set_random_seed(self.seed)
        shape = self.splits.train.spec()["image"][0]
        with unittest.mock.patch.object(networks, "BatchNorm", keras.layers.BatchNormalization):
            generator = networks.generator(shape, LATENT, WIDTH)
            trunk = networks.trunk(shape, WIDTH)
            discriminator = networks.discriminator(trunk, trunk.get_layer("stage_1").output)
        self.model = Plain(generator, discriminator, self.rate)
        self.model.compile()
        images = self.splits.train.column("image")
        self.data = tf.data.Dataset.from_tensor_slices(images).shuffle(1024, seed=self.seed).repeat()
        self.data = self.data.batch(BATCH).map(lambda x: tf.cast(x, tf.float32) / 255).prefetch(2)
        options = tf.data.Options()
        options.autotune.enabled = False  # as ours, see benchmarks/contrastive.py
        self.data = self.data.with_options(options)
        return sum(v.shape.num_elements() for v in self.model.trainable_variables)

    def steps(self, count):
        self.model.fit(self.data, steps_per_epoch=count, verbose=0)

    def train(self, until):
        self.model.fit(self.data, steps_per_epoch=1_000_000, verbose=0, callbacks=[stopping(self.model, until)])
        return int(self.model.d_optimizer.iterations)

    def keep(self, folder):
        made = sampling.sample(self.model.generator, SAMPLES, seed=self.seed)
        np.save(folder / f"{KERAS}.npy", made.numpy())


if not IS_PYTORCH:

    class Plain(keras.Model):
        """Two networks, two optimizers."""

        def __init__(self, generator, discriminator, rate):
            super().__init__()
            self.generator, self.discriminator = generator, discriminator
            self.d_optimizer, self.g_optimizer = (keras.optimizers.Adam(rate, BETA) for _ in range(2))
            self.loss_fn = keras.losses.BinaryCrossentropy(from_logits=True)
            self.d_loss, self.g_loss = keras.metrics.Mean("d_loss"), keras.metrics.Mean("g_loss")

        def train_step(self, real):
            count = tf.shape(real)[0]
            made = self.generator(self.latents(count), training=True)
            labels = tf.concat([tf.ones((count, 1)), tf.zeros((count, 1))], 0)
            labels += 0.05 * tf.random.uniform(tf.shape(labels))
            with tf.GradientTape() as tape:
                judged = tf.concat([self.discriminator(images, training=True) for images in (made, real)], 0)
                d_loss = self.loss_fn(labels, judged[:, None])
            weights = self.discriminator.trainable_weights
            self.d_optimizer.apply_gradients(zip(tape.gradient(d_loss, weights), weights))
            with tf.GradientTape() as tape:
                judged = self.discriminator(self.generator(self.latents(count), training=True), training=True)
                g_loss = self.loss_fn(tf.zeros((count, 1)), judged[:, None])
            weights = self.generator.trainable_weights
            self.g_optimizer.apply_gradients(zip(tape.gradient(g_loss, weights), weights))
            self.d_loss.update_state(d_loss)
            self.g_loss.update_state(g_loss)
            return {"d_loss": self.d_loss.result(), "g_loss": self.g_loss.result()}

        def latents(self, count):
            return tf.random.uniform((count, LATENT), -1.0, 1.0)


class PyTorch:
    """The loop of PyTorch's DCGAN tutorial."""

    batch, steps_per_execution = BATCH, 1

    def __init__(self, folder, seed, rate):
        self.seed, self.rate = seed, rate
        images = np.load(folder / "train.npy").transpose(0, 3, 1, 2)
        self.images = torch.from_numpy(images.copy())
        torch.set_num_threads(os.cpu_count())

    def build(self):
        torch.manual_seed(self.seed)
        nn = torch.nn
        # The networks of `networks/dcgan.py` for 28×28.
        self.generator = nn.Sequential(
            nn.Linear(LATENT, 49 * 2 * WIDTH, bias=False),
            nn.Unflatten(1, (2 * WIDTH, 7, 7)),
            nn.BatchNorm2d(2 * WIDTH),
            nn.ReLU(True),
            nn.ConvTranspose2d(2 * WIDTH, WIDTH, 5, 2, 2, 1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(True),
            nn.ConvTranspose2d(WIDTH, 1, 5, 2, 2, 1),
            nn.Tanh(),
        ).to(memory_format=torch.channels_last)
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, WIDTH, 5, 2, 2),
            nn.LeakyReLU(0.2, True),
            nn.Conv2d(WIDTH, 2 * WIDTH, 5, 2, 2, bias=False),
            nn.BatchNorm2d(2 * WIDTH),
            nn.LeakyReLU(0.2, True),
            nn.Flatten(),
            nn.Linear(49 * 2 * WIDTH, 1),
        ).to(memory_format=torch.channels_last)
        for network in (self.generator, self.discriminator):
            for layer in network:
                if isinstance(layer, nn.BatchNorm2d):
                    nn.init.normal_(layer.weight, 1.0, 0.02)
                elif hasattr(layer, "weight"):
                    nn.init.normal_(layer.weight, 0.0, 0.02)
                if getattr(layer, "bias", None) is not None:
                    nn.init.zeros_(layer.bias)
        self.d_optimizer, self.g_optimizer = (
            torch.optim.Adam(network.parameters(), self.rate, (BETA, 0.999), eps=1e-7, fused=True)
            for network in (self.discriminator, self.generator)
        )
        self.loss = nn.BCEWithLogitsLoss()
        self.order, self.done = torch.randperm(len(self.images)), 0
        return sum(p.numel() for network in (self.generator, self.discriminator) for p in network.parameters())

    def step(self):
        per_epoch = len(self.images) // BATCH
        place = self.done % per_epoch
        if place == 0:
            self.order = torch.randperm(len(self.images))
        self.done += 1
        real = self.images[self.order[place * BATCH : (place + 1) * BATCH]].float().div(127.5).sub(1)
        real = real.contiguous(memory_format=torch.channels_last)
        one, zero = torch.ones(BATCH), torch.zeros(BATCH)
        self.discriminator.zero_grad()
        self.loss(self.discriminator(real)[:, 0], one).backward()
        made = self.generator(torch.rand(BATCH, LATENT) * 2 - 1)
        self.loss(self.discriminator(made.detach())[:, 0], zero).backward()
        self.d_optimizer.step()
        self.generator.zero_grad()
        self.loss(self.discriminator(made)[:, 0], one).backward()
        self.g_optimizer.step()

    def steps(self, count):
        for _ in range(count):
            self.step()

    def train(self, until):
        while time.perf_counter() < until:
            self.step()
        return self.done

    def keep(self, folder):
        self.generator.eval()
        with torch.inference_mode():
            made = [self.generator(torch.rand(500, LATENT) * 2 - 1) for _ in range(SAMPLES // 500)]
        np.save(folder / f"{PYTORCH}.npy", (torch.cat(made).permute(0, 2, 3, 1).numpy() + 1) / 2)


KINDS = {OURS: Ours, KERAS: KerasRecipe, PYTORCH: PyTorch}


def contender(name, folder, seed):
    """`KIND at RATE`."""
    kind, rate = name.split(" at ")
    return KINDS[kind](folder, seed, float(rate))


def speed(plan, report, splits, folder, keep):
    part = report.setdefault("speed", {})
    done = part.setdefault("rounds, images/s", [])
    names = {kind: f"{kind} at {plan.rates[0]}" for kind in KINDS}
    rounds(HERE, names.values(), plan.rounds, plan.seconds, done, folder, keep)
    part["images/s, median"] = medians(done)
    for kind in (KERAS, PYTORCH):
        part[f"ours / {kind}"] = interval([each[names[OURS]] / each[names[kind]] for each in done])


def quality(plan, report, splits, folder, keep):
    part = report.setdefault("quality", {})
    runs = part.setdefault("runs", [])
    eye = generative.FeatureClassifier(CLASSIFIER)
    test, train = (eye.features(each.column("image")) for each in (splits.test, splits.train))
    part |= eye.about | {"FID of 10,000 training images": generative.frechet_distance(test, train[:SAMPLES])}
    validation = eye.features(splits.validation.column("image"))
    pilots = part.setdefault("FID of pilots, validation images", {})
    for kind in KINDS:
        for rate in plan.rates:
            name = f"{kind} at {rate}"
            if name not in pilots:
                trained(name, folder, 0, plan.pilot)
                pilots[name] = generative.frechet_distance(validation, eye.features(np.load(folder / f"{kind}.npy")))
                keep()
                print(name, pilots[name], flush=True)
    for seed in plan.seeds:
        for kind in KINDS:
            if any(run["seed"] == seed and run["name"] == kind for run in runs):
                continue
            rate = min(plan.rates, key=lambda rate: pilots[f"{kind} at {rate}"])
            answer = trained(f"{kind} at {rate}", folder, seed, plan.budget)
            for name in (kind, RAW) if kind == OURS else (kind,):
                made = eye.features(np.load(folder / f"{name}.npy"))
                precision, recall = generative.precision_recall(test, made)
                runs.append(
                    {
                        "name": name,
                        "rate": rate,
                        "seed": seed,
                        "FID": generative.frechet_distance(test, made),
                        "KID": generative.kernel_distance(test, made)[0],
                        "precision": precision,
                        "recall": recall,
                        **answer,
                    }
                )
                print(runs[-1], flush=True)
            keep()
    for name in (*KINDS, RAW):
        distances = [run["FID"] for run in runs if run["name"] == name]
        part[f"FID, {name}"] = {"mean": float(np.mean(distances)), "low": min(distances), "high": max(distances)}


def trained(name, folder, seed, seconds):
    """Trains a contender for some seconds; leaves its samples in the folder."""
    process = Process(HERE, name, folder, seed)
    answer = process.ask("train", seconds)
    process.close()
    return answer


def prepare(folder):
    """The data, and its training images where a contender without TensorFlow finds them."""
    splits = load(DATA)
    np.save(folder / "train.npy", splits.train.column("image"))
    return splits


PARTS = {"speed": speed, "quality": quality}


if __name__ == "__main__":
    main(sys.modules[__name__], PARTS, Plan(), QUICK, contender, prepare)
