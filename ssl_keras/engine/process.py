"""Process-wide state of a run: the seeds of all random generators, deterministic ops, and signals."""

import contextlib
import random
import signal
import threading

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.framework import config

KERAS_SEEDS = ("global_random_seed", "global_seed_generator")  # what `keras.utils.set_random_seed` sets


@contextlib.contextmanager
def seeded(seed, deterministic=False):
    """Seeds Python, NumPy, Keras and TensorFlow inside the context, and restores their previous states after it.

    With `deterministic`, TensorFlow's ops are deterministic inside the context.
    """
    python_state, numpy_state, eager = random.getstate(), np.random.get_state(), context.context()
    tensorflow_state = eager._seed, getattr(eager, "_rng", None)  # `_rng` does not exist before the first seed
    keras_state = {name: global_state.get_global_attribute(name) for name in KERAS_SEEDS}
    was_deterministic = config.is_op_determinism_enabled()
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not was_deterministic:
            config.disable_op_determinism()
        for name, value in keras_state.items():
            global_state.set_global_attribute(name, value)
        eager._seed, eager._rng = tensorflow_state
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextlib.contextmanager
def handling_signals(handle):
    """Calls `handle` with the `signal.Signals` on the first SIGINT or SIGTERM; a second one has its usual effect.

    Only the main thread can set signal handlers: in another one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # `getsignal` returns None for a handler that was not set from Python, which Python cannot restore.
    previous = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}

    def restore_and_handle(number, _):
        signal.signal(number, previous[number])
        handle(signal.Signals(number))

    for number in previous:
        signal.signal(number, restore_and_handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
