"""SimCLR on Fashion-MNIST: ours through `fit`, and lightly's loop in PyTorch; speed, and quality after equal time.

    python benchmarks/contrastive.py speed       images/s of the whole loop, augmentation included
    python benchmarks/contrastive.py quality     kNN accuracy after the same wall time, three seeds
    python benchmarks/contrastive.py pipeline    images/s of our input pipeline alone over those that a step consumes
    python benchmarks/contrastive.py             all of them, about 27 minutes on 2 cores
    python benchmarks/contrastive.py --quick     all of them in seconds, to see that they run; keeps nothing

The numbers go into benchmarks/contrastive.json after every measurement. Recorded numbers are not
measured again. An interrupted run resumes; move the file away to start from scratch.

Both train the same network (`cnn`, width 32, and a projection of 256 and 128) with the same
initialization, batch 256, temperature, and Adam with one constant learning rate, so that a run may be
stopped at any time; float32, on all cores, neither side compiled (no XLA, no `torch.compile`).
Both make the same two views: a crop of at least 0.3 of the area and an aspect of 3/4 to 4/3, a flip of
half of them, brightness and contrast changed in 0.8 of them by up to 0.4. Small differences stay: the
kernels of stride 2 see another border (SAME in TensorFlow, 1 pixel all round in PyTorch); ours puts both
views through the network in one pass and one set of batch statistics, lightly's one after the other.

What lightly's side has, from its own examples: `SimCLRTransform`, `NTXentLoss`, `ProjectionHead`, images
from PIL, a `DataLoader`. Its transform leaves out what does nothing on gray images (saturation, hue, gray) and
what ours leaves out by default (blur, normalization). For its speed: all cores, channels last,
the fused Adam, workers that live on from epoch to epoch. `speed` measures it with no worker, one and two, and
compares ours with the fastest of the three; `quality` trains with that many, so it needs `speed` first.
"""

import dataclasses
import functools
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import numpy as np
from contenders import Process, interval, main, medians, rounds

OURS, PIPELINE, STEP = "ours", "our pipeline alone", "our step alone"
WORKERS = {f"lightly, PyTorch, workers: {count}": count for count in (0, 1, 2)}

# A process has one framework: the other's threads would be idle at best, and TensorFlow and PyTorch's
# triton, which both bring LLVM, crash when the second one is loaded.
if WORKERS.keys() & set(sys.argv):
    import torch
    from lightly.loss import NTXentLoss
    from lightly.models.modules.heads import ProjectionHead
    from lightly.transforms import SimCLRTransform
    from PIL import Image
else:
    import keras
    import tensorflow as tf

    from ssl_keras.data.batches import Batches
    from ssl_keras.data.sources import load
    from ssl_keras.engine.config import Training
    from ssl_keras.evaluation import probes
    from ssl_keras.evaluation.features import compile_network, pixels
    from ssl_keras.objectives import contrastive
    from ssl_keras.training.run import compile_objective

DATA, BATCH, RATE, TEMPERATURE = "tfds:fashion_mnist", 256, 1e-3, 0.2
WIDTH, PROJECTION = 32, (256, 128)
CROP, COLOR = 0.3, 0.5
STEPS_PER_EXECUTION = 4  # short executions: a run is stopped between two of them
NEIGHBORS, KNOWN = 20, 10_000


@dataclasses.dataclass(frozen=True)
class Plan:
    """Durations of the parts."""

    rounds: int = 5
    seconds: float = 20.0  # of each contender, in a round
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: float = 120.0  # seconds of compiling and training before quality is measured


QUICK = Plan(rounds=1, seconds=2.0, seeds=(0,), budget=5.0)


# ----- the contenders, each in a process of its own


class Contender:
    """The interface that `contenders.serve` needs."""

    batch, steps_per_execution = BATCH, STEPS_PER_EXECUTION

    def keep(self, folder):
        for part in ("known", "validation"):
            np.save(folder / f"{part}-features.npy", self.features(np.load(folder / f"{part}.npy")))


class Ours(Contender):
    """`Contrastive`, through `fit`, on the endless dataset of `Batches`."""

    def __init__(self, folder, seed):
        self.seed, self.splits = seed, load(DATA)

    def build(self):
        settings = contrastive.Settings(
            width=WIDTH, temperature=TEMPERATURE, projection=PROJECTION, crop=CROP, color=COLOR
        )
        training = Training(
            batch_size=BATCH, learning_rate=RATE, seed=self.seed, steps_per_execution=STEPS_PER_EXECUTION
        )
        keras.utils.set_random_seed(self.seed)
        self.model = contrastive.build(settings, self.splits.train.spec())
        compile_objective(self.model, training, self.splits)
        self.batches = Batches(self.splits.train, BATCH, seed=self.seed, preprocess=self.model.preprocess)
        return sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)

    def steps(self, count):
        self.model.fit(self.batches.dataset(int(self.model.step.numpy())), steps_per_epoch=count, verbose=0)

    def train(self, until):
        def look(batch, logs):
            self.model.stop_training = time.perf_counter() >= until

        stop = keras.callbacks.LambdaCallback(on_train_batch_end=look)
        # More steps than there is time for; the callback stops it.
        self.model.fit(self.batches.dataset(), steps_per_epoch=1_000_000, verbose=0, callbacks=[stop])
        return int(self.model.step.numpy())

    def features(self, image):
        run = compile_network(self.model.encoder)
        return np.concatenate([run(part.astype(np.float32) / 255).numpy() for part in chunks(image)])


class Step(Ours):
    """Our training on batches whose views lie in memory."""

    def build(self):
        parameters = super().build()
        # Its tuner's thread sleeps up to ten seconds, and the end of an iterator waits for it.
        options = tf.data.Options()
        options.autotune.enabled = False
        ready = self.batches.dataset(0, STEPS_PER_EXECUTION).cache().repeat().with_options(options)
        self.batches.dataset = lambda step: ready
        return parameters


class Pipeline(Ours):
    """Our batches, taken and thrown away."""

    def steps(self, count):
        for _ in self.batches.dataset(0, count):
            pass


def convolution(channels, filters, stride=1):
    layers = [
        torch.nn.Conv2d(channels, filters, 3, stride, 1, bias=False),
        torch.nn.BatchNorm2d(filters),
        torch.nn.ReLU(inplace=True),
    ]
    torch.nn.init.kaiming_normal_(layers[0].weight, nonlinearity="relu")
    return layers


class Lightly(Contender):
    """The loop of lightly's example of SimCLR (examples/pytorch/simclr.py)."""

    def __init__(self, folder, seed, workers):
        self.seed, self.workers = seed, workers
        self.images = np.load(folder / "train.npy")[..., 0]
        torch.set_num_threads(os.cpu_count())

    def build(self):
        torch.manual_seed(self.seed)
        layers, channels = convolution(1, WIDTH), WIDTH
        for filters in (WIDTH, 2 * WIDTH, 4 * WIDTH):
            layers += convolution(channels, filters, 2) + convolution(filters, filters)
            channels = filters
        self.encoder = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        hidden, out = PROJECTION
        head = ProjectionHead(
            [(channels, hidden, torch.nn.BatchNorm1d(hidden), torch.nn.ReLU()), (hidden, out, None, None, False)]
        )
        for layer in head.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.xavier_uniform_(layer.weight)  # as Keras does
        self.model = torch.nn.Sequential(self.encoder, head).to(memory_format=torch.channels_last)
        self.loss = NTXentLoss(temperature=TEMPERATURE)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE, eps=1e-7, fused=True)
        transform = SimCLRTransform(
            input_size=self.images.shape[1],
            cj_strength=COLOR,
            cj_sat=0.0,
            cj_hue=0.0,
            min_scale=CROP,
            random_gray_scale=0.0,
            gaussian_blur=0.0,
            normalize=None,
        )
        self.loader = torch.utils.data.DataLoader(
            Views(self.images, transform),
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )
        return sum(p.numel() for p in self.model.parameters())

    def step(self, views):
        # The network's own input is -1 to 1, as ours.
        first, second = (self.model((2 * x - 1).contiguous(memory_format=torch.channels_last)) for x in views)
        self.loss(first, second).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def batches(self):
        while True:
            yield from self.loader

    def steps(self, count):
        for _, views in zip(range(count), self.batches()):
            self.step(views)

    def train(self, until):
        done, batches = 0, self.batches()
        while time.perf_counter() < until:
            self.step(next(batches))
            done += 1
        return done

    def features(self, image):
        self.encoder.eval()
        with torch.inference_mode():
            return np.concatenate(
                [
                    self.encoder(2 * torch.from_numpy(part).permute(0, 3, 1, 2) / 255 - 1).numpy()
                    for part in chunks(image)
                ]
            )


class Views:
    """A map-style dataset of the views of PIL images."""

    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index]))


def chunks(image, size=500):
    return [image[start : start + size] for start in range(0, len(image), size)]


CONTENDERS = {OURS: Ours, PIPELINE: Pipeline, STEP: Step} | {
    name: functools.partial(Lightly, workers=count) for name, count in WORKERS.items()
}


# ----- the parts


def speed(plan, report, splits, folder, keep):
    part = report.setdefault("speed", {})
    done = part.setdefault("rounds, images/s", [])
    rounds(HERE, (OURS, *WORKERS), plan.rounds, plan.seconds, done, folder, keep)
    part["images/s, median"] = medians(done)
    part["theirs"] = theirs = max(WORKERS, key=part["images/s, median"].get)
    part["ours / theirs"] = interval([each[OURS] / each[theirs] for each in done])


def pipeline(plan, report, splits, folder, keep):
    part = report.setdefault("pipeline", {})
    done = part.setdefault("rounds, images/s", [])
    rounds(HERE, (PIPELINE, STEP), plan.rounds, plan.seconds, done, folder, keep)
    part["images/s, median"] = medians(done)
    part["pipeline / step"] = interval([each[PIPELINE] / each[STEP] for each in done])


def quality(plan, report, splits, folder, keep):
    theirs = report.get("speed", {}).get("theirs")
    if theirs is None:
        raise SystemExit("Measure speed first: it says with how many workers lightly's loop is fastest.")
    part = report.setdefault("quality", {})
    runs = part.setdefault("runs", [])
    known, validation = splits.train.take(np.arange(KNOWN)), splits.validation
    parts = {"known": known, "validation": validation}
    for which, source in parts.items():
        np.save(folder / f"{which}.npy", source.column("image"))
    for seed in plan.seeds:
        for name in (OURS, theirs):
            if any(run["seed"] == seed and run["name"] == name for run in runs):
                continue
            process = Process(HERE, name, folder, seed)
            answer = process.ask("train", plan.budget)
            process.close()
            known_x, validation_x = (np.load(folder / f"{which}-features.npy") for which in parts)
            accuracy = probes.knn(known_x, known.column("label"), validation_x, validation.column("label"), NEIGHBORS)
            runs.append({"name": name, "seed": seed, "kNN accuracy": accuracy, **answer})
            keep()
            print(runs[-1], flush=True)
    assert len({run["parameters"] for run in runs}) == 1, runs
    accuracies = {name: [run["kNN accuracy"] for run in runs if run["name"] == name] for name in (OURS, theirs)}
    part["kNN accuracy"] = {name: interval(values) for name, values in accuracies.items()}
    part["ours − theirs"] = interval([a - b for a, b in zip(accuracies[OURS], accuracies[theirs])])
    pixels = [pixels(source) for source in parts.values()]
    part["kNN accuracy of pixels"] = probes.knn(
        pixels[0], known.column("label"), pixels[1], validation.column("label"), NEIGHBORS
    )


def prepare(folder):
    """The data, and its training images where a contender without TensorFlow finds them."""
    splits = load(DATA)
    np.save(folder / "train.npy", splits.train.column("image"))
    return splits


PARTS = {"speed": speed, "quality": quality, "pipeline": pipeline}


if __name__ == "__main__":
    main(
        sys.modules[__name__],
        PARTS,
        Plan(),
        QUICK,
        contender=lambda name, folder, seed: CONTENDERS[name](folder, seed),
        prepare=prepare,
    )
