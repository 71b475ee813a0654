"""What a run sets in its process, and gives back: seeds of all generators, deterministic ops."""

import contextlib
import random

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.framework import config

KERAS_SEEDS = ("global_random_seed", "global_seed_generator")  # what `keras.utils.set_random_seed` sets


@contextlib.contextmanager
def seeded(seed, deterministic=False):
    """Seeds the generators of Python, NumPy, Keras and TensorFlow while it lasts; then each goes on where it was.

    With `deterministic` ops give the same bits every time, as long.
    """
    python, arrays, eager = random.getstate(), np.random.get_state(), context.context()
    of_tensorflow = eager._seed, getattr(eager, "_rng", None)  # there is none before the first seed
    of_keras = {name: global_state.get_global_attribute(name) for name in KERAS_SEEDS}
    was_deterministic = config.is_op_determinism_enabled()
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not was_deterministic:
            config.disable_op_determinism()
        for name, value in of_keras.items():
            global_state.set_global_attribute(name, value)
        eager._seed, eager._rng = of_tensorflow
        np.random.set_state(arrays)
        random.setstate(python)
