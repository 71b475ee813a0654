"""The precision that networks are built in."""

import contextlib

import keras


@contextlib.contextmanager
def dtype_policy(policy):
    """Builds what is built inside under this Keras dtype policy, and puts the old one back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
