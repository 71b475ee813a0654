"""Strategies by name."""

import functools
import logging
import os

import tensorflow as tf

from ssl_keras.training import rendezvous, workers

log = logging.getLogger(__name__)
STRATEGIES = ("auto", "one", "mirrored", "multi_worker")


def strategy(name="auto", replicas=0):
    """A `tf.distribute` strategy; call it before TensorFlow touches a device.

    Args:
        name: "one", the default device; "mirrored", one replica on every local GPU; "auto", the one or the other, by
            whether there are several GPUs; "multi_worker", the processes of `TF_CONFIG` or Slurm, each with
            all its GPUs (see `training/workers.py`).
        replicas: with "mirrored": use that many GPUs or, where there is no GPU, that
            many logical CPUs (which share the cores: to try things out, not for speed).

    Raises:
        ValueError: unknown name; fewer GPUs than replicas; replicas with "one" or "multi_worker"; no such cluster.
        RuntimeError: TensorFlow has already started with other devices; the scope of another strategy, or a graph, is
            open; eager execution is off.
        TimeoutError: a worker did not come.
    """
    if name not in STRATEGIES:
        raise ValueError(f"Unknown strategy {name!r}. There are: {', '.join(STRATEGIES)}.")
    if not tf.executing_eagerly():
        raise RuntimeError(
            "Expected eager execution. Received: a call within a tf.function or a tf.Graph, or after "
            "disable_eager_execution. Call it outside."
        )
    chosen = _chosen(name, replicas)
    if tf.distribute.has_strategy() and chosen is not tf.distribute.get_strategy():
        raise RuntimeError(
            f"The scope of a {type(tf.distribute.get_strategy()).__name__} is open, and strategy {name!r} is another. "
            "Call it outside of the scope; or strategy 'one' takes that of the scope."
        )
    return chosen


def _chosen(name, replicas):
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # already started, and with it the choice made
            break
    if name == "auto":
        if "TF_CONFIG" in os.environ:
            log.warning("TF_CONFIG is left aside: --strategy auto is for one machine, multi_worker for several.")
        name = "mirrored" if len(gpus) > 1 or replicas > 1 else "one"
    if name == "multi_worker":
        if replicas:
            raise ValueError(f"Under multi_worker each worker takes all its GPUs. Received: replicas={replicas}")
        return _multi_worker()
    if name == "one":
        if replicas > 1:
            raise ValueError(f"Strategy 'one' has one replica. Received: replicas={replicas}")
        return tf.distribute.get_strategy()
    if gpus:
        if replicas > len(gpus):
            raise ValueError(f"replicas={replicas}, but this machine has {len(gpus)} GPUs.")
        return _mirrored(tuple(f"GPU:{i}" for i in range(replicas or len(gpus))))
    return _mirrored(_logical_cpus(max(replicas, 1)))


@functools.cache
def _multi_worker():
    resolver = workers.cluster()
    rendezvous.warn_of_callers(resolver)
    rendezvous.gather(resolver)
    with rendezvous.watched(rendezvous.patience()):
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


@functools.cache
def _mirrored(devices):
    """One strategy for each set of devices: a process cannot hold two of the same."""
    return tf.distribute.MirroredStrategy(devices)


def _logical_cpus(count):
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu)
    if len(configured or [None]) != count:
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
        except RuntimeError as error:
            raise RuntimeError(
                f"Cannot make {count} logical CPUs: TensorFlow has already started in this process. "
                "Choose the strategy first, before any tensor is made."
            ) from error
    return tuple(f"CPU:{i}" for i in range(count))
