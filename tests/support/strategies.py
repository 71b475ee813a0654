"""Checks with several replicas or workers, in a separate process because TensorFlow can create logical devices only
once. `tests/training/test_strategies.py` runs it.

    python tests/support/strategies.py replicas OUT.json      two logical CPUs compared with one device
    python tests/support/strategies.py more OUT.json          the same for variants, and for the other optimizer
    python tests/support/strategies.py case OUT.json NAME     the same for a single case, with both optimizers
    python tests/support/strategies.py worker OUT.json        one of two workers (reads TF_CONFIG)
    python tests/support/strategies.py all-HOW OUT.npz        the weights of every case; HOW is a key of `HOWS`
    python tests/support/strategies.py commands OUT.json      the commands, on one of two workers
"""

import dataclasses
import functools
import json
import os
import pathlib
import sys
import unittest.mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import ssl_keras  # noqa: F401  # before TensorFlow, whose kernels it chooses

# isort: split
import keras
import numpy as np
import tensorflow as tf
from contract import CASES, Trajectory, train
from keras.src.activations import ALL_OBJECTS_DICT
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

from ssl_keras import losses
from ssl_keras.data.batches import Batches
from ssl_keras.data.sources import load
from ssl_keras.training.strategy import strategy

# At the kink of a ReLU a difference of the last digit may become one of 1e-4; softplus has none.
ALL_OBJECTS_DICT["relu"] = keras.activations.softplus

THOROUGH = ("autoencoder",)  # without `more`
VARIANTS = ("finetune, tags",)  # that are compared without `more`: each example has another number of targets
# Whose held-out metrics are compared without `more`: for each kind of data one, whose views need that most.
HELD_OUT = ("contrastive", "masked_lm", "wav2vec2", "seq2seq", "image_text")
ACCUMULATED = ("masked_lm",)  # with micro-batches: tokens, whose number differs from one to the next
SGD = {"optimizer": "sgd", "executions": 2}  # Adam would hide a doubled gradient, and so would clipping
# The one device steps through it, so that this is compared with what is traced too.
EAGERLY = {"run_eagerly": True}
XLA = ("causal_lm",)
MORE_XLA = ("autoencoder", "contrastive", "masked_lm", "dcgan", "recurrent_lm")
ALONE = {"all_gather": lambda x: x, "own_rows": tf.range}  # each replica has its own examples as negatives
CLIPPED = {"clip_norm": 0.05, "executions": 2}
OPTIONS = {"plain": SGD, "clip, accumulate, executions": CLIPPED | {"accumulate": 3}}


def largest_difference(ours, theirs):
    return max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in zip(ours.weights, theirs.weights))


@functools.cache
def path(name, where, **options):
    """Returns the `Trajectory` of a case under a strategy, cached for several comparisons."""
    return Trajectory(CASES[name], where, **options)


def replicas():
    """Returns {case: differences between two replicas and one device}."""
    two, one = strategy("mirrored", 2), tf.distribute.get_strategy()
    report = {"batches": batches_agree(two, one)}
    for name in (name for name in CASES if "," not in name or name in VARIANTS):
        options = {"accumulate": 3} if name in ACCUMULATED else {}
        here, there = path(name, one, **SGD, **EAGERLY, **options), path(name, two, **SGD, **options)
        report[name] = compared(here, there, name in HELD_OUT)
    for name in THOROUGH:
        report |= with_adam(name, one, two)
    for name in XLA:
        report[f"{name}, xla"] = with_xla(name, one)
    with unittest.mock.patch.multiple(losses, **ALONE):
        alone = Trajectory(CASES["contrastive"], two, **SGD)
        report["local negatives"] = compared(path("contrastive", one, **SGD, **EAGERLY), alone, held_out=False)
    report["metric sums"] = {
        "one": metric_sums(path("autoencoder", one, **SGD, **EAGERLY)),
        "two": metric_sums(path("autoencoder", two, **SGD)),
    }
    report["flow"] = flow(one=[], two=["--strategy", "mirrored", "--replicas", "2"])
    report["two replicas"] = exactly(two)
    report["float16"] = {"dcgan": float16("dcgan", two)}
    return report


def more():
    """Returns {case: differences} for the cases that `replicas` leaves out."""
    two, one = strategy("mirrored", 2), tf.distribute.get_strategy()
    report = {}
    for name in CASES:
        if "," in name:
            report[name] = in_full(name, one, two)
        elif name not in THOROUGH:  # variants share this
            report |= with_adam(name, one, two)
        if "," not in name and (name not in HELD_OUT or name not in ACCUMULATED):
            report[f"{name}, in full"] = in_full(name, one, two)
    with unittest.mock.patch.multiple(losses, **ALONE):
        report["local negatives"] = compared(
            *(Trajectory(CASES["image_text"], where, optimizer="sgd") for where in (one, two))
        )
    for name in MORE_XLA:
        report[f"{name}, xla"] = with_xla(name, one)
    report["float16"] = {"autoencoder": float16("autoencoder", two)}
    return report


def case(name):
    """Returns {case: differences} for one case."""
    two, one = strategy("mirrored", 2), tf.distribute.get_strategy()
    return {name: in_full(name, one, two)} | with_adam(name, one, two)


def with_xla(name, one):
    """Returns the difference that XLA makes. It is tested here, without the deterministic ops that exclude XLA."""
    plain, compiled = (
        train(CASES[name], one, clip_norm=0.05, jit_compile=jit, executions=executions)[0]
        for jit, executions in ((False, 1), (True, 4))
    )
    which = [compiled.jit_compile, plain.jit_compile]
    return {"difference": largest_difference(plain, compiled), "compiled": which == [True, False]}


def in_full(name, one, two):
    """Compares with micro-batches, if the case allows them, and with held-out metrics."""
    options = SGD | ({"accumulate": 3} if CASES[name].accumulates else {})
    return compared(path(name, one, **options), path(name, two, **options))


def with_adam(name, one, two):
    """Compares with Adam, clipping and micro-batches, and measures the effect of unequal example weights."""
    options = CLIPPED | ({"accumulate": 3} if CASES[name].accumulates else {})
    here = path(name, one, **options)
    found = compared(here, path(name, two, **options))
    unequal = here.weights()
    here.after(5, unequal=False)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(unequal, here.weights()))
    return {f"{name}, adam, clipped": found, f"{name}, weights matter": {"difference": difference}}


def compared(one, two, held_out=True):
    """Returns the largest differences of two trajectories after five steps, in weights, logs and held-out metrics."""
    logs = [each.after(5) for each in (one, two)]
    # A perplexity of hundreds cannot agree to 1e-5; its digits can.
    found = {"weights": largest_difference(one.objective, two.objective), "logs": furthest(*logs)}
    return found | ({"held out": furthest(one.held_out(), two.held_out())} if held_out else {})


def furthest(ours, theirs):
    return max(abs(ours[k] - theirs[k]) / max(1, abs(ours[k])) for k in ours)


def batches_agree(two, one):
    """Returns, for each batch, whether the two replicas' parts together equal the batch of one device."""
    source = load("digits").train
    batches = Batches(source, 60, seed=5)
    agree = []
    for whole, parts in zip(batches.dataset(3, 6, one), batches.dataset(3, 6, two)):
        joined = np.concatenate([part.numpy() for part in two.experimental_local_results(parts["image"])])
        agree.append(bool((joined == whole["image"].numpy()).all()))
    return agree


def float16(name, two):
    """Tests loss scaling on two replicas: an overflow halves the scale and changes no weights and no optimizers."""
    keras.config.set_dtype_policy("mixed_float16")
    objective, logs, _ = train(CASES[name], two)
    with two.scope():
        objective.state.loss_scale.assign(2.0**120)  # any gradient overflows
        state = [*objective.trainable_weights, *(v for each, _ in objective.optimizer_groups() for v in each.variables)]
        before = [np.array(v) for v in state]
        batches = Batches(CASES[name].splits().train, 60, preprocess=objective.preprocess)
        objective.fit(batches.dataset(0, None, two), steps_per_epoch=2, verbose=0)
    keras.config.set_dtype_policy("float32")
    return {
        "loss": logs["loss"],
        "scale": float(objective.state.loss_scale.numpy()),
        "optimizers": len(objective.optimizer_groups()),
        "moved": max(float(np.abs(np.array(v) - b).max()) for v, b in zip(state, before)),
    }


def metric_sums(run):
    """Returns the metrics' accumulators after three steps, with which a run may resume on other replicas."""
    run.after(3)
    return [float(v.numpy()) for metric in run.objective.metrics for v in metric.variables]


def flow(**hows):
    """Runs pretrain, finetune and evaluate from the command line; returns {name: exit codes and results}."""
    from ssl_keras.cli import main
    from ssl_keras.downstream import grids

    quick = {"rates": (3e-3,), "few_label_steps": (5,), "all_label_epochs": (1,)}
    grids.GRIDS["dense"] = dataclasses.replace(grids.GRIDS["dense"], **quick)
    flags = ["--steps", "15", "--eval-every", "5", "--batch-size", "60", "--report-every", "3"]
    outcome = {}
    for where, how in hows.items():
        # What it shows of a run under a strategy, it reads from what is spread over devices.
        board = ["--no-tensorboard"] if where == "one" else []
        codes = [
            main(["pretrain", "autoencoder", *flags, *board, *how, "--run", where]),
            main(["finetune", where, *flags, "--no-tensorboard", *how, "--run", f"tuned-{where}"]),
            main(["evaluate", where, "--budgets", "5", "--seeds", "1", "--out", f"table-{where}", *how]),
        ]
        summaries = [pathlib.Path("runs", run, "summary.json") for run in (where, f"tuned-{where}")]
        summaries.append(pathlib.Path(f"table-{where}", "table.json"))
        outcome[where] = {"codes": codes, "results": [json.loads(path.read_text()) for path in summaries]}
    return outcome


def exactly(strategy):
    """Returns weights, as hex, and metrics of the autoencoder and of an objective that compares examples."""
    report = {}
    for name, option in (*(("autoencoder", option) for option in OPTIONS), ("contrastive", "plain")):
        run = path(name, strategy, **OPTIONS[option])
        logs = run.after(5)
        weights = [w.tobytes().hex() for w in run.weights()]
        report[f"{name}, {option}"] = {"weights": weights, "logs": logs, "held out": run.held_out()}
    return report


HOWS = {
    "one": lambda: strategy("one"),
    "two": lambda: strategy("mirrored", 2),
    "workers": lambda: strategy("multi_worker"),
    "two-by-two": lambda: two_by_two(),
    "accumulated": lambda: strategy("one"),
    "bfloat16": lambda: strategy("one"),
}


def two_by_two():
    """Makes a worker with two logical CPUs. TensorFlow would use all GPUs of a worker, but only one CPU."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    with unittest.mock.patch.object(
        CollectiveAllReduceExtended,
        "_initialize_local_devices",
        lambda self, resolver, worker: (tuple(f"{worker}/device:CPU:{i}" for i in range(2)), "CPU"),
    ):
        return strategy("multi_worker")


def every_case(how, out):
    """Writes the weights and held-out loss of each case after five steps."""
    where, arrays = HOWS[how](), {}
    if how == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    for name, case in CASES.items():
        if how == "accumulated" and not case.accumulates:
            continue
        options = {"accumulate": 4} if how == "accumulated" else {}
        # At the usual rate a critic without clipping soon has weights in the hundreds.
        rate = 1e-3 if "wasserstein" in name else 1e-2
        objective, _, held_out = train(case, where, optimizer=keras.optimizers.SGD(rate), held_out=True, **options)
        arrays |= {f"{name}/{index}": weights.numpy() for index, weights in enumerate(objective.weights)}
        arrays[f"{name}/held out"] = np.float64(held_out["loss"])
    np.savez(out, **arrays)


if __name__ == "__main__":
    mode, out, *names = sys.argv[1:]
    if mode.startswith("all-"):
        # One thread: what several threads add up, they add up in an order that changes.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        every_case(mode.removeprefix("all-"), out)
        sys.exit()
    made = {
        "replicas": replicas,
        "more": more,
        "worker": lambda: exactly(tf.distribute.MultiWorkerMirroredStrategy()),
        "commands": lambda: flow(workers=["--strategy", "multi_worker"]),
        "case": lambda: case(*names),
    }
    result = made[mode]()
    pathlib.Path(out).write_text(json.dumps(result))
