"""Precision: the Keras dtype policy under which networks are built."""

import contextlib

import keras

from ssl_keras.startup import keras_settings


@contextlib.contextmanager
def dtype_policy(policy):
    """Sets the Keras dtype policy and `startup.SETTINGS` inside the context; restores the previous ones after it."""
    before = keras.config.dtype_policy()
    with keras_settings():
        keras.config.set_dtype_policy(policy)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(before)
