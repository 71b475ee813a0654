"""Pixel scaling: the only place that converts images to [0, 1]."""

import tensorflow as tf


def unit_range(image):
    """Converts images of any shape to float32 in [0, 1]: uint8 is divided by 255, floats are unchanged."""
    if image.dtype == tf.uint8:
        return tf.cast(image, tf.float32) / 255.0
    return tf.cast(image, tf.float32)
