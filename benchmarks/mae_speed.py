"""A training step of the masked autoencoder next to one of `transformers`' ViTMAEForPreTraining in PyTorch.

    python benchmarks/mae_speed.py             needs requirements-bench.txt
    python benchmarks/mae_speed.py --quick     sees that it runs; keeps nothing

Both have the same sizes, batch and normalized pixels, on images that lie in memory. Ours runs through `fit`, with its
pipeline, compiled by XLA and not; theirs is eager, and compiled by `torch.compile`. Rounds are interleaved, and each
contender has a process of its own. The numbers are in benchmarks/mae_speed.json; `share of peak` is ours over the speed
of a large matrix product on this machine.
"""

import dataclasses
import functools
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import numpy as np
from contenders import interval, main, medians, rounds

OURS = {"ours": False, "ours, XLA": True}
THEIRS = {"transformers, PyTorch": False, "transformers, torch.compile": True}
# A process has one framework; see benchmarks/contrastive.py.
if THEIRS.keys() & set(sys.argv):
    import torch
    import transformers
else:
    from ssl_keras.data.batches import Batches
    from ssl_keras.data.splits import from_arrays
    from ssl_keras.objectives import masked_autoencoder
    from ssl_keras.planning import flops
    from ssl_keras.training.run import compile_objective

SIDE, PATCH, BATCH, EXAMPLES = 32, 4, 128, 2048
WIDTH, LAYERS, DECODER_WIDTH, DECODER_LAYERS = 128, 6, 128, 2
RATE, DECAY, BETAS = 1e-3, 0.05, (0.9, 0.95)
STEPS_PER_EXECUTION = 8


@dataclasses.dataclass(frozen=True)
class Plan:
    """Durations."""

    rounds: int = 5
    seconds: float = 20.0  # of each contender, in a round


QUICK = Plan(rounds=1, seconds=2.0)


class Ours:
    """The objective, through `fit`."""

    batch, steps_per_execution = BATCH, STEPS_PER_EXECUTION

    def __init__(self, folder, seed, jit):
        self.folder, self.jit = folder, jit

    def build(self):
        splits = from_arrays(np.load(self.folder / "images.npy"))
        settings = masked_autoencoder.Settings(
            width=WIDTH,
            layers=LAYERS,
            patch=PATCH,
            decoder_width=DECODER_WIDTH,
            decoder_layers=DECODER_LAYERS,
            crop=1.0,
            flip=False,
        )
        settings, splits = masked_autoencoder.prepare(settings, splits)
        training = dataclasses.replace(
            masked_autoencoder.DEFAULTS,
            epochs=0,
            steps=10**6,
            batch_size=BATCH,
            learning_rate=RATE,
            weight_decay=DECAY,
            steps_per_execution=STEPS_PER_EXECUTION,
            jit=self.jit,
        )
        self.model = masked_autoencoder.build(settings, splits.train.spec())
        compile_objective(self.model, training, splits)
        self.model.rows = BATCH
        self.batches = Batches(splits.train, BATCH, preprocess=self.model.preprocess)
        return sum(int(np.prod(v.shape)) for v in self.model.trainable_variables)

    def steps(self, count):
        self.model.fit(self.batches.dataset(int(self.model.step.numpy())), steps_per_epoch=count, verbose=0)


class Theirs:
    """ViTMAEForPreTraining with the fused AdamW."""

    batch, steps_per_execution = BATCH, 1

    def __init__(self, folder, seed, compiled):
        self.compiled = compiled
        images = np.load(folder / "images.npy")[:BATCH] / np.float32(127.5) - 1
        self.images = torch.tensor(images.transpose(0, 3, 1, 2).copy())
        torch.set_num_threads(os.cpu_count())

    def build(self):
        config = transformers.ViTMAEConfig(
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=WIDTH // 64,
            intermediate_size=4 * WIDTH,
            image_size=SIDE,
            patch_size=PATCH,
            decoder_hidden_size=DECODER_WIDTH,
            decoder_num_hidden_layers=DECODER_LAYERS,
            decoder_num_attention_heads=DECODER_WIDTH // 64,
            decoder_intermediate_size=4 * DECODER_WIDTH,
            norm_pix_loss=True,
        )
        model = transformers.ViTMAEForPreTraining(config).train()
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, RATE, betas=BETAS, weight_decay=DECAY, fused=True)
        self.model = torch.compile(model) if self.compiled else model
        return sum(parameter.numel() for parameter in learned)

    def steps(self, count):
        for _ in range(count):
            self.model(self.images).loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


CONTENDERS = {name: functools.partial(Ours, jit=jit) for name, jit in OURS.items()} | {
    name: functools.partial(Theirs, compiled=compiled) for name, compiled in THEIRS.items()
}


def speed(plan, report, data, folder, keep):
    part = report.setdefault("speed", {})
    done = part.setdefault("rounds, images/s", [])
    # Their class token has a position, and their norms are counted alike: sizes differ by a few thousandths.
    rounds(HERE, tuple(CONTENDERS), plan.rounds, plan.seconds, done, folder, keep, sizes_within=0.01)
    part["images/s, median"] = found = medians(done)
    ours, theirs = (max(names, key=found.get) for names in (OURS, THEIRS))
    part["ours / theirs"] = interval([each[ours] / each[theirs] for each in done])
    part["fastest"] = [ours, theirs]
    model = Ours(folder, 0, jit=False)
    model.build()
    model.steps(STEPS_PER_EXECUTION)
    operations = flops.operations(model.model.step_graph) / BATCH
    peak, source = flops.peak()
    part["FLOPs of an image"], part["peak"] = operations, {"FLOP/s": peak, "source": source}
    part["share of peak"] = found[ours] * operations / peak


def prepare(folder):
    """Leaves random images where every contender finds them."""
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (EXAMPLES, SIDE, SIDE, 3), np.uint8))


if __name__ == "__main__":
    main(
        sys.modules[__name__],
        {"speed": speed},
        Plan(),
        QUICK,
        contender=lambda name, folder, seed: CONTENDERS[name](folder, seed),
        prepare=prepare,
    )
