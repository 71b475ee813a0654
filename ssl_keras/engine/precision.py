"""The precision that networks are built in."""

import contextlib

import keras

from ssl_keras.startup import keras_settings


@contextlib.contextmanager
def dtype_policy(policy):
    """Builds what is built inside under this Keras dtype policy and `startup.SETTINGS`, and puts the old ones back."""
    before = keras.config.dtype_policy()
    with keras_settings():
        keras.config.set_dtype_policy(policy)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(before)
