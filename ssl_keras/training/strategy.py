"""Distribution strategies by name."""

import functools
import logging
import os

import tensorflow as tf

from ssl_keras.data.ranges import check
from ssl_keras.engine.config import Strategy
from ssl_keras.training import rendezvous, workers

log = logging.getLogger(__name__)


def strategy(name="auto", replicas=0):
    """Returns a `tf.distribute` strategy. Call it before TensorFlow initializes its devices.

    Args:
        name: "one": the default device. "mirrored": one replica on each local GPU. "auto": "mirrored" if there
            are several GPUs or `replicas` is larger than 1, else "one". "multi_worker": the cluster in `TF_CONFIG` or
            Slurm's variables, where each worker uses all its GPUs (see `training/workers.py`).
        replicas: number of replicas of "mirrored"; 0 means all GPUs. Without a GPU, replicas are logical CPUs, which
            share the cores: they are for testing and make nothing faster.

    Raises:
        ValueError: unknown name; more replicas than GPUs; replicas with "one" or "multi_worker"; no valid cluster.
        RuntimeError: TensorFlow has already initialized other devices; the scope of another strategy is open; eager
            execution is off.
        TimeoutError: a worker did not connect.
    """
    check("strategy", name, Strategy)
    if not tf.executing_eagerly():
        raise RuntimeError(
            "Expected eager execution. Received: a call inside a tf.function or tf.Graph, or after "
            "disable_eager_execution. Choose the strategy outside of them."
        )
    chosen = _make(name, replicas)
    if tf.distribute.has_strategy() and chosen is not tf.distribute.get_strategy():
        raise RuntimeError(
            f"Strategy {name!r} was requested inside the scope of a {type(tf.distribute.get_strategy()).__name__}. "
            "Leave that scope first, or use strategy 'one', which takes the strategy of the scope."
        )
    return chosen


def _make(name, replicas):
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # the devices are initialized, and memory growth is fixed from then on
            break
    if name == "auto":
        if "TF_CONFIG" in os.environ:
            log.warning("Ignoring TF_CONFIG: strategy auto uses this machine only. Use --strategy multi_worker.")
        name = "mirrored" if len(gpus) > 1 or replicas > 1 else "one"
    if name == "multi_worker":
        if replicas:
            raise ValueError(
                f"Under multi_worker each worker uses all its GPUs. Expected replicas=0. Received: replicas={replicas}"
            )
        return _multi_worker()
    if name == "one":
        if replicas > 1:
            raise ValueError(f"Strategy 'one' has one replica. Received: replicas={replicas}")
        return tf.distribute.get_strategy()
    if gpus:
        if replicas > len(gpus):
            raise ValueError(f"Expected at most {len(gpus)} replicas, one for each GPU. Received: replicas={replicas}")
        return _mirrored(tuple(f"GPU:{i}" for i in range(replicas or len(gpus))))
    return _mirrored(_logical_cpus(max(replicas, 1)))


@functools.cache
def _multi_worker():
    resolver = workers.cluster()
    rendezvous.warn_of_open_port(resolver)
    rendezvous.wait_for_workers(resolver)
    with rendezvous.watchdog(rendezvous.timeout()):
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)


@functools.cache
def _mirrored(devices):
    """Returns the strategy for these devices, cached because a process cannot have two for the same devices."""
    return tf.distribute.MirroredStrategy(devices)


def _logical_cpus(count):
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu)
    if len(configured or [None]) != count:
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
        except RuntimeError as error:
            raise RuntimeError(
                f"Cannot create {count} logical CPUs: TensorFlow has already started in this process. "
                "Choose the strategy before you create the first tensor."
            ) from error
    return tuple(f"CPU:{i}" for i in range(count))
