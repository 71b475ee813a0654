"""Images as tensors: the one place that turns pixels into numbers in [0, 1]."""

import tensorflow as tf


def unit_range(image):
    """Image of any shape -> float32 in [0, 1]: uint8 is divided by 255, floats pass."""
    if image.dtype == tf.uint8:
        return tf.cast(image, tf.float32) / 255.0
    return tf.cast(image, tf.float32)
