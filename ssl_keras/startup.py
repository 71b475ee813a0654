"""Startup: quiet import of TensorFlow, and the global Keras settings of this package."""

import contextlib
import os
import sys
import tempfile
import time

# Global Keras settings under which networks are built, whatever keras.json or the calling program sets.
SETTINGS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}


@contextlib.contextmanager
def keras_settings():
    """Applies `SETTINGS` and an empty name scope inside the context, and restores the previous ones after it."""
    import keras
    from keras.src.backend.common import global_state

    before = {name: getattr(keras.config, name)() for name in SETTINGS}
    # A name scope would become part of the weights' names. Keras leaves one behind when a layer call fails.
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


begun = None  # `time.monotonic()` at the last call of `start_tensorflow`, with which a command begins


def start_tensorflow():
    """Imports TensorFlow and discards its startup messages, which no setting turns off.

    If the import fails, they are written to stderr.
    """
    global begun
    begun = time.monotonic()
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured:
        stderr = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            captured.seek(0)
            os.write(stderr, captured.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
