"""Our autoencoder's training against the tutorial's own stock code: speed, memory, loss, and replicas.

    python benchmarks/autoencoder.py                 all of it, about 3 minutes on 2 cores
    python benchmarks/autoencoder.py --rounds 5      fewer interleaved epochs

Both train the same network on the same 55,000 Fashion-MNIST images (random bytes of that
shape where they are not prepared: the time is the same), batch 256, float32, on all cores.
Writes benchmarks/autoencoder.json.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import keras
import numpy as np
import tensorflow as tf

from ssl_keras.data import sources
from ssl_keras.data.batches import Batches
from ssl_keras.data.splits import images
from ssl_keras.objectives import autoencoder
from ssl_keras.training.optimizer import Adam
from ssl_keras.training.strategy import strategy

BATCH = 256
WIDTHS = (784, 256, 128, 64, 128, 256, 784)
PAIRS = list(zip(WIDTHS[:-1], WIDTHS[1:]))
# Multiply-adds an example: the product, its weight gradient, its input gradient (the first layer needs none).
MULTIPLY_ADDS = 3 * sum(a * b for a, b in PAIRS) - WIDTHS[0] * WIDTHS[1]


def source():
    try:
        return sources.load("tfds:fashion_mnist").train
    except RuntimeError as error:
        print(f"{error}\nUsing random bytes instead.", file=sys.stderr)
        image = np.random.default_rng(0).integers(0, 256, (55_000, 28, 28, 1), np.uint8)
        return images("random", image)


def stock(train):
    """A function that trains the tutorial's model for an epoch and returns its loss."""
    x_train = train.column("image").reshape(-1, 784).astype("float32") / 255
    keras.utils.set_random_seed(0)
    x = image = keras.Input((784,))
    for width in WIDTHS[1:-1]:
        x = keras.layers.Dense(width, activation="relu")(x)
    model = keras.Model(image, keras.layers.Dense(784, activation="sigmoid")(x))
    model.compile(optimizer="adam", loss="binary_crossentropy")

    def epoch(_):
        return model.fit(x_train, x_train, epochs=1, batch_size=BATCH, shuffle=True, verbose=0).history["loss"][0]

    return epoch


def ours(train, where=None, jit=False):
    """The same with our objective."""
    where = where or tf.distribute.get_strategy()
    with where.scope():
        keras.utils.set_random_seed(0)
        model = autoencoder.build(autoencoder.Settings(), train.spec())
        model.compile(Adam(), steps_per_execution=64, jit_compile=jit)
    batches = Batches(train, BATCH, preprocess=model.preprocess)
    steps = batches.steps_per_epoch

    def epoch(number):
        data = batches.dataset(number * steps, None, where)
        return model.fit(data, steps_per_epoch=steps, verbose=0).history["loss"][0]

    return epoch


def interleaved(rounds):
    """Seconds per epoch of each, one after the other in every round; the first round warms up."""
    train = source()
    runs = {"stock": stock(train), "ours": ours(train), "ours, XLA": ours(train, jit=True)}
    seconds, losses = {name: [] for name in runs}, {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            losses[name].append(run(number))
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}, {k: v[-1] for k, v in losses.items()}


def ratio(theirs, mine):
    """(median, lowest, highest) of the paired ratios; n pairs bracket the median with 1 − 2^(1−n) confidence."""
    ratios = [a / b for a, b in zip(theirs, mine)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def product_rate(repeats=300):
    """GFLOP/s of the network's own matrix products, forward and backward, and of 2048³ ones.

    The network's are independent of each other here, so that all cores are busy at all times;
    in training each waits for the one before. It is a bound, not a peer.
    """

    @tf.function
    def network_products(inputs, weights, outputs):
        total = 0.0
        for _ in tf.range(repeats):
            for index, (x, w, g) in enumerate(zip(inputs, weights, outputs)):
                total += tf.matmul(x, w)[0, 0] + tf.matmul(x, g, transpose_a=True)[0, 0]
                if index:
                    total += tf.matmul(g, w, transpose_b=True)[0, 0]
        return total

    @tf.function
    def large(a):
        return tf.matmul(a, a)

    inputs = [tf.random.normal((BATCH, a)) for a, _ in PAIRS]
    weights = [tf.random.normal(pair) for pair in PAIRS]
    outputs = [tf.random.normal((BATCH, b)) for _, b in PAIRS]
    square = tf.random.normal((2048, 2048))
    best = {}
    for _ in range(4):
        start = time.perf_counter()
        network_products(inputs, weights, outputs).numpy()
        rate = 2e-9 * MULTIPLY_ADDS * BATCH * repeats / (time.perf_counter() - start)
        best["network's products"] = max(best.get("network's products", 0), rate)
        start = time.perf_counter()
        for _ in range(10):
            result = large(square)
        result.numpy()
        rate = 2e-9 * 2048**3 * 10 / (time.perf_counter() - start)
        best["2048³ products"] = max(best.get("2048³ products", 0), rate)
    return best


def alone(what):
    """In a process of its own: peak memory, and for replicas the time of an epoch."""
    if what == "worker":
        where = tf.distribute.MultiWorkerMirroredStrategy()
    elif what == "two replicas":
        where = strategy("mirrored", 2)
    else:
        where = None
    train = source()
    run = stock(train) if what == "stock" else ours(train, where)
    seconds = []
    for number in range(3):
        start = time.perf_counter()
        loss = run(number)
        seconds.append(time.perf_counter() - start)
    # VmHWM, not ru_maxrss: a child's ru_maxrss starts from its parent's.
    status = pathlib.Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024
    print(json.dumps({"seconds": min(seconds), "loss": loss, "peak MiB": peak}))


def in_processes():
    """Peak memory and epoch time of each way of running, one after the other."""
    result = {}
    for what in ("stock", "ours", "two replicas"):
        out = subprocess.run([sys.executable, HERE, "--alone", what], capture_output=True, text=True, check=True)
        result[what] = json.loads(out.stdout.splitlines()[-1])
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in (a, b)]
    workers = []
    for index in range(2):
        cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                [sys.executable, HERE, "--alone", "worker"],
                env=dict(os.environ, TF_CONFIG=json.dumps(cluster)),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
    out = [worker.communicate()[0] for worker in workers]
    result["two workers"] = json.loads(out[0].splitlines()[-1])
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--alone")
    asked = parser.parse_args()
    if asked.alone:
        alone(asked.alone)
        return
    seconds, losses = interleaved(asked.rounds)
    rates = product_rate()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    examples = 55_000 // BATCH * BATCH
    report = {
        "machine": f"{os.cpu_count()} cores",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "seconds per epoch": medians,
        "all seconds": seconds,
        "loss after the last epoch": losses,
        "stock / ours": ratio(seconds["stock"], seconds["ours"]),
        "stock / ours, XLA": ratio(seconds["stock"], seconds["ours, XLA"]),
        "GFLOP/s": rates | {name: 2e-9 * MULTIPLY_ADDS * examples / s for name, s in medians.items()},
        "processes": in_processes(),
    }
    HERE.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
