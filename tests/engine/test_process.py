"""A run restores the process-wide state that it changes, and is not affected by the state that it finds."""

import contextlib
import os
import random
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism, is_op_determinism_enabled

from ssl_keras.engine.precision import dtype_policy
from ssl_keras.engine.process import seeded
from ssl_keras.training.strategy import strategy


def draws():
    return [
        random.random(),
        float(np.random.rand()),
        float(tf.random.uniform(())),
        float(keras.random.uniform(())),
        float(keras.layers.Dense(1).kernel_initializer((3, 2))[0, 0]),
    ]


def test_generators_are_restored():
    keras.utils.set_random_seed(5)
    expected = draws() + draws()
    keras.utils.set_random_seed(5)
    first = draws()
    seen = []
    for _ in range(2):
        with seeded(3):
            seen.append(draws())
    keras.utils.set_random_seed(3)
    assert seen == [draws()] * 2
    keras.utils.set_random_seed(5)
    assert draws() == first
    with contextlib.suppress(ZeroDivisionError), seeded(3):
        draws()
        raise ZeroDivisionError
    assert first + draws() == expected


def test_deterministic_ops_are_restored():
    try:
        for before in (False, True):
            tf.config.experimental.enable_op_determinism() if before else disable_op_determinism()
            with seeded(0, deterministic=True):
                assert is_op_determinism_enabled()
            assert is_op_determinism_enabled() == before
            with seeded(0):
                assert is_op_determinism_enabled() == before
    finally:
        tf.config.experimental.enable_op_determinism()


def test_dtype_policy_is_restored():
    keras.config.set_dtype_policy("mixed_float16")
    with dtype_policy("float32"):
        assert keras.config.dtype_policy().name == "float32"
    assert keras.config.dtype_policy().name == "mixed_float16"


def test_scope_of_another_strategy_is_refused():
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        with pytest.raises(RuntimeError, match="inside the scope of a OneDeviceStrategy"):
            strategy("mirrored")
        assert strategy("auto") is tf.distribute.get_strategy()


def test_graph_mode_is_refused():
    with tf.Graph().as_default(), pytest.raises(RuntimeError, match="Expected eager execution"):
        strategy()


@pytest.mark.parametrize("chosen", ["jax", ""])
def test_other_backend_is_ignored(chosen):
    environment = os.environ | {"KERAS_BACKEND": chosen, "PYTHONPATH": os.pathsep.join(sys.path)}
    if not chosen:
        del environment["KERAS_BACKEND"]  # then keras.json sets the backend
    code = "import os, ssl_keras; print(os.environ['KERAS_BACKEND'])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "tensorflow"
    assert ("Ignoring KERAS_BACKEND=jax" in done.stderr) == bool(chosen)


def test_keras_imported_with_another_backend_is_refused_in_one_line():
    code = (
        "import sys, types; sys.modules['keras'] = types.SimpleNamespace(config=types.SimpleNamespace("
        "backend=lambda: 'jax')); import ssl_keras"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: ssl_keras needs Keras' TensorFlow backend.")
