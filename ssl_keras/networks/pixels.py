"""The first layer of an image encoder: the size and the colors of its images.

Shapes: `B` batch, `H W C` image.
"""

from typing import Annotated

import keras
import tensorflow as tf

from ssl_keras.data.ranges import Range

Color = tuple[Annotated[float, Range(-1e3, 1e3)], ...]  # for each channel, or one for all


def check_colors(mean, deviation, channels):
    """Raises ValueError if there are other numbers of colors than of channels, or a deviation is not positive."""
    for name, color in (("mean", mean), ("deviation", deviation)):
        if len(color) not in (1, channels):
            raise ValueError(f"{name} must have 1 or {channels} numbers, as images have channels. Received: {color}")
    if min(deviation) <= 0:
        raise ValueError(f"deviation must be positive. Received: {deviation}")


@keras.saving.register_keras_serializable("ssl_keras")
class PixelNorm(keras.layers.Layer):
    """Resizes images, normalizes their colors and pads their sides to whole patches: (B, H, W, C) float32."""

    def __init__(self, patch, mean, deviation, side=0, **kwargs):
        super().__init__(**kwargs)
        self.options = {"patch": patch, "mean": tuple(mean), "deviation": tuple(deviation), "side": side}
        self.patch, self.mean, self.deviation, self.side = patch, mean, deviation, side

    def call(self, image):
        if self.side and tuple(image.shape[1:3]) != (self.side, self.side):
            image = tf.image.resize(image, (self.side, self.side), "bicubic", antialias=True)
            image = tf.clip_by_value(image, 0.0, 1.0)  # bicubic interpolation overshoots at edges
        x = (image - tf.constant(self.mean, image.dtype)) / tf.constant(self.deviation, image.dtype)
        if self.patch == 1:
            return x
        missing = [-(x.shape[axis] or tf.shape(x)[axis]) % self.patch for axis in (1, 2)]
        if any(tf.is_tensor(pixels) or pixels for pixels in missing):
            x = tf.pad(x, [[0, 0], [0, missing[0]], [0, missing[1]], [0, 0]])
        return x

    def compute_output_spec(self, image):
        sides = [self.side or side for side in image.shape[1:3]]
        sides = [side and side + -side % self.patch for side in sides]
        return keras.KerasTensor((image.shape[0], *sides, image.shape[3]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | self.options
