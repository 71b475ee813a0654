"""Starts TensorFlow and Keras as this package needs them."""

import contextlib
import os
import sys
import tempfile

# Keras' global settings that our networks are built with, whatever keras.json or the program says.
SETTINGS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}


@contextlib.contextmanager
def keras_settings():
    """Sets Keras' global settings to ours, outside of any name scope, while it lasts, and puts the old ones back."""
    import keras
    from keras.src.backend.common import global_state

    before = {name: getattr(keras.config, name)() for name in SETTINGS}
    # A scope would become a part of the weights' names. One stays behind where a call of a layer failed.
    scopes = global_state.get_global_attribute("name_scope_stack")
    global_state.set_global_attribute("name_scope_stack", None)
    _set(keras.config, SETTINGS)
    try:
        yield
    finally:
        _set(keras.config, before)
        global_state.set_global_attribute("name_scope_stack", scopes)


def _set(config, settings):
    for name, value in settings.items():
        getattr(config, f"set_{name}")(value)


def start_tensorflow():
    """Imports TensorFlow without its start-up notes, which no setting turns off and which bury our lines.

    What it wrote is shown where the import fails.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
