"""Checks and times every objective on one GPU: against the CPU, against two logical replicas, and in 16 bits.

    python benchmarks/gpu.py            ten minutes at most; writes benchmarks/gpu.json
    python benchmarks/gpu.py --smoke    the same on CPUs with tiny networks, to see that it runs; keeps nothing

Each objective trains the same batches from the same weights on four devices:

- `cpu`: the CPU, in float32;
- `one`: one GPU, in float32 without TF32;
- `two`: two logical replicas on that GPU, each with half of the batch;
- `bfloat16`: one GPU with `mixed_bfloat16`.

It reports the largest difference of a weight from `one` after three steps of SGD, examples per second, MFU, and the
error of `ssl-keras plan`: planned over measured memory, and over measured seconds of a step at 40% utilization.
What is in benchmarks/gpu.json is not measured again. The data are synthetic or built in.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import keras
import numpy as np
import tensorflow as tf

from ssl_keras import files, objectives
from ssl_keras.data import audio
from ssl_keras.data.batches import Batches
from ssl_keras.data.readers import captions, pairs
from ssl_keras.data.sources import load
from ssl_keras.data.splits import Splits, from_arrays, hold_out
from ssl_keras.engine.precision import dtype_policy
from ssl_keras.planning import cost, flops

STEPS, SECONDS, MINUTES = 3, 2.0, 10.0  # steps that are compared; seconds that are timed; minutes of the whole
LEARNING_RATE = 1e-2
RATE, SAMPLES = 16_000, 24_000
DEVICES = ("one", "two", "cpu", "bfloat16")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def photos(side=96, count=1024):
    """Smooth random color images with ten labels."""
    coarse = np.random.default_rng(0).random((count, 6, 6, 3), np.float32)
    image = tf.image.resize(coarse, (side, side), "bicubic").numpy().clip(0, 1)
    return from_arrays(image, np.arange(count) % 10)


@functools.cache
def images(smoke):
    return load("digits") if smoke else photos()


@functools.cache
def text(smoke):
    return load("pydoc")


@functools.cache
def captioned(smoke):
    def named(part):
        label = part.column("label")
        return captions.source(part.name, part.column("image"), [[NAMES[i], f"photo {NAMES[i]}"] for i in label])

    return Splits(*map(named, images(smoke)))


@functools.cache
def words(smoke):
    found = sorted(set(" ".join(NAMES * 3).split()) | {a + b for a in NAMES for b in NAMES})
    return pairs.split(pairs.named("words", found, [" ".join(word.upper()) for word in found]))


@functools.cache
def sounds(smoke):
    random = np.random.default_rng(0)
    tones = [np.sin(2 * np.pi * hertz * np.arange(SAMPLES) / RATE) for hertz in np.geomspace(200, 2000, 10)]
    clips = [0.3 * tones[i % 10] + random.normal(0, 0.02, SAMPLES) for i in range(256)]
    return hold_out(audio.clips("tones", clips, RATE, label=np.arange(256) % 10, classes=NAMES))


@functools.cache
def spoken(smoke):
    def transcribed(part):
        target = np.array(part.classes, object)[part.arrays["label"]]
        return dataclasses.replace(part, arrays=part.arrays | {"target": target})

    return Splits(*map(transcribed, sounds(smoke)))


TINY_SOUND = {"channels": 16, "width": 16, "layers": 1, "heads": 2}
SOUND = {"channels": 512, "width": 512, "layers": 6, "heads": 8}
TINY_TEXT = {"layers": 1, "heads": 2, "width": 32, "context": 32}
TEXT = {"layers": 6, "heads": 8, "width": 512, "context": 256}
CNN, RESNET = {"width": 4}, {"network": "resnet50"}
# Objective: (data, settings, batch size; settings and batch size of --smoke).
OBJECTIVES = {
    "autoencoder": (images, {"widths": (2048, 1024, 256)}, 512, {"widths": (32, 16)}, 32),
    "classifier": (images, RESNET, 256, CNN, 32),
    "rotation": (images, RESNET, 128, CNN, 32),
    "jigsaw": (images, RESNET, 64, CNN, 32),
    "contrastive": (images, RESNET, 256, CNN, 32),
    "dcgan": (images, {"width": 64}, 128, {"width": 4}, 32),
    "causal_lm": (text, TEXT, 64, TINY_TEXT, 8),
    "masked_lm": (text, TEXT, 64, TINY_TEXT, 8),
    "recurrent_lm": (text, {"width": 512, "layers": 2}, 128, {"width": 16, "layers": 1, "context": 16}, 16),
    "seq2seq": (words, {"task": "pairs", "width": 256}, 32, {"task": "pairs", "width": 16, "layers": 1}, 16),
    "wav2vec2": (sounds, SOUND, 32, TINY_SOUND, 16),
    "ctc": (spoken, SOUND, 32, TINY_SOUND, 16),
    "image_text": (captioned, {"network": "resnet50", "text_layers": 4}, 256, CNN | {"text_layers": 1}, 32),
}


def strategies(smoke):
    """{device: strategy}; without a GPU logical CPUs stand for it."""
    kind = "CPU" if smoke else "GPU"
    device = tf.config.list_physical_devices(kind)
    if not device:
        raise SystemExit("TensorFlow finds no GPU. Expected one; --smoke runs on CPUs.")
    memory = None if smoke else 0.45 * memory_of(device[0])
    half = tf.config.LogicalDeviceConfiguration(memory_limit=memory and int(memory / 2**20))
    tf.config.set_logical_device_configuration(device[0], [half] * 2)
    one = tf.distribute.OneDeviceStrategy(f"{kind}:0")
    two = tf.distribute.MirroredStrategy(
        [f"{kind}:0", f"{kind}:1"],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),  # NCCL takes no two replicas on one GPU
    )
    return {"one": one, "two": two, "cpu": tf.distribute.OneDeviceStrategy("CPU:0"), "bfloat16": one}


def memory_of(gpu):
    """Bytes of the GPU's kind, or 16 GB where it is unknown."""
    name = tf.config.experimental.get_device_details(gpu).get("device_name", "").lower()
    return next((figures["memory"] for kind, figures in flops.GPUS.items() if kind in name), 16e9)


def build(name, smoke, precision):
    """(objective, settings, splits, batch size), compiled with SGD, in the scope that is open."""
    data, settings, batch, tiny, few = OBJECTIVES[name]
    module = objectives.module(name)
    settings, splits = module.prepare(module.Settings(**(tiny if smoke else settings)), data(smoke))
    keras.utils.set_random_seed(0)
    with dtype_policy(precision):
        objective = module.build(settings, splits.train.spec())
        objective.total_steps = 1000
        sgd = [keras.optimizers.SGD(LEARNING_RATE) for _ in objective.optimizers(lambda variables, **_: None)]
        objective.compile(*sgd, steps_per_execution=1 if smoke else 8)
    return objective, settings, splits, few if smoke else batch


def measure(name, device, strategy, smoke):
    """{what: value} of one objective on one device; `weights` after three steps."""
    precision = "mixed_bfloat16" if device == "bfloat16" else "float32"
    with strategy.scope():
        objective, settings, splits, batch = build(name, smoke, precision)
        objective.rows = batch // strategy.num_replicas_in_sync
        batches = Batches(splits.train, batch, preprocess=objective.preprocess, longest=objective.longest)
        started = time.perf_counter()
        logs = objective.fit(batches.dataset(0, None, strategy), steps_per_epoch=STEPS, verbose=0).history
        made = {"weights": [v.numpy() for v in objective.trainable_variables]}
        made |= {"losses": {key: values[-1] for key, values in logs.items()}}
        made["compilation, s"] = time.perf_counter() - started
        if device == "cpu" and not smoke:
            return made  # compared, not timed: a step takes seconds
        if not smoke:
            tf.config.experimental.reset_memory_stats("GPU:0")
        data, steps = batches.dataset(STEPS, None, strategy), 8
        objective.fit(data, steps_per_epoch=steps, verbose=0)  # traces the longer execution
        started = time.perf_counter()
        objective.fit(data, steps_per_epoch=steps, verbose=0)
        steps = max(8, int(SECONDS / (time.perf_counter() - started)) * 8) if not smoke else 8
        started = time.perf_counter()
        objective.fit(data, steps_per_epoch=steps, verbose=0)
        seconds = (time.perf_counter() - started) / steps
    made |= {"batch": batch, "seconds of a step": seconds, "examples/s": batch / seconds}
    count = flops.operations(objective.step_graph)
    if count:
        made["MFU"] = count / seconds / flops.peak(precision)[0]
    if device == "one":
        made |= planned(name, settings, splits, batch, seconds, smoke)
    return made


def planned(name, settings, splits, batch, seconds, smoke):
    """The planner's numbers over those that were measured."""
    asked = cost.Plan(gpus=1, batch_size=batch, precision="float32", utilization=0.4)
    work = cost.of_traced(objectives.module(name), settings, splits, asked, cost.Passes())
    made = {"planned seconds over measured": batch * work.operations / (0.4 * flops.peak()[0]) / seconds}
    if not smoke:
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
        made["planned memory over measured"] = sum(work.memory.values()) / peak
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="run on CPUs with tiny networks; keeps nothing")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="minutes after which no further objective starts (default 10)"
    )
    parser.add_argument("objectives", nargs="*", help="which ones; by default all")
    asked = parser.parse_args()
    names = asked.objectives or list(OBJECTIVES)
    assert OBJECTIVES.keys() == set(objectives.names()), "an objective is missing here"
    devices = strategies(asked.smoke)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    path = pathlib.Path(tempfile.mkdtemp()) / "gpu.json" if asked.smoke else HERE.with_suffix(".json")
    report = json.loads(path.read_text("utf-8")) if path.exists() else {}
    report.setdefault("device", flops.peak()[1])
    report.setdefault("tensorflow", tf.__version__)
    deadline = time.monotonic() + 60 * asked.minutes
    for name in names:
        if name in report:
            continue
        if time.monotonic() > deadline:
            print(f"{name}: no time left; run it again", flush=True)
            continue
        rows, reference = {}, None
        for device in DEVICES:
            row = measure(name, device, devices[device], asked.smoke)
            weights = row.pop("weights")
            reference = weights if reference is None else reference
            row["largest difference of a weight"] = max(float(np.abs(a - b).max()) for a, b in zip(weights, reference))
            rows[device] = row
            keras.backend.clear_session()
        report[name] = rows
        files.write_json(path, report)
        print(name, json.dumps(rows), flush=True)
    print(table(report))


def table(report):
    """One row per objective: rates, MFU, differences, and the planner's error."""
    lines = [
        "| objective | examples/s | bfloat16 | two replicas | MFU | bfloat16 | CPU differs by | two replicas differ by "
        "| planned / measured: time | memory |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rows in report.items():
        if not isinstance(rows, dict):
            continue
        one, two, cpu, half = (rows[device] for device in DEVICES)
        cells = [f"{row['examples/s']:,.0f}" for row in (one, half, two)]
        cells += [f"{row['MFU']:.1%}" if "MFU" in row else "–" for row in (one, half)]
        cells += [f"{row['largest difference of a weight']:.0e}" for row in (cpu, two)]
        cells += [
            f"{one[key]:.2f}" if key in one else "–"
            for key in ("planned seconds over measured", "planned memory over measured")
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
