"""First and last layers of a vision transformer (`networks/vit.py`): patches, norm, pooling.

Shapes: as in `networks/vit.py`.
"""

import keras
import tensorflow as tf

from ssl_keras.networks.attention import dense, layer_norm
from ssl_keras.networks.conv import pool_places


def patch_grid(image, patch, side=0):
    """Returns the grid (h, w) of patches of images (B, H, W, C), which `PixelNorm` resizes to `side` unless it is 0."""
    sides = [side or image.shape[axis] or tf.shape(image)[axis] for axis in (1, 2)]
    return [-(-length // patch) for length in sides]


def cut_patches(image, patch):
    """Cuts images (B, h·patch, w·patch, C) into patches (B, h, w, patch·patch·C), rows of pixels first."""
    height, width = ((image.shape[axis] or tf.shape(image)[axis]) // patch for axis in (1, 2))
    channels = image.shape[3]
    x = tf.reshape(image, (-1, height, patch, width, patch, channels))
    return tf.reshape(tf.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height, width, patch * patch * channels))


def join_patches(patches, patch):
    """Joins patches (B, h, w, patch·patch·C) into images (B, h·patch, w·patch, C): the inverse of `cut_patches`."""
    height, width, size = patches.shape[1:]
    channels = size // patch**2
    x = tf.transpose(tf.reshape(patches, (-1, height, width, patch, patch, channels)), (0, 1, 3, 2, 4, 5))
    return tf.reshape(x, (-1, height * patch, width * patch, channels))


@keras.saving.register_keras_serializable("ssl_keras")
class Patches(keras.layers.Layer):
    """Projects patches to the width of the transformer: (B, h·patch, w·patch, C) -> (B, h, w, D)."""

    def __init__(self, patch, width, bias=True, **kwargs):
        super().__init__(**kwargs)
        self.patch, self.width, self.use_bias = patch, width, bias

    def build(self, shape):
        rows = self.patch**2 * shape[-1]
        limit = (6 / (rows + self.width)) ** 0.5
        uniform = keras.initializers.RandomUniform(-limit, limit)
        self.kernel = self.add_weight((rows, self.width), uniform, name="kernel")
        self.bias = self.add_weight((self.width,), "zeros", name="bias") if self.use_bias else None

    def call(self, image):
        return self.project(cut_patches(image, self.patch))

    def project(self, patches):
        """Projects patches (B, h, w, patch·patch·C) that are cut already: (B, h, w, D)."""
        height, width = (patches.shape[axis] or tf.shape(patches)[axis] for axis in (1, 2))
        flat = dense(tf.reshape(patches, (-1, height * width, patches.shape[3])), self.kernel, self.bias)
        return tf.reshape(flat, (-1, height, width, self.width))

    def compute_output_spec(self, image):
        sides = [side and side // self.patch for side in image.shape[1:3]]
        return keras.KerasTensor((image.shape[0], *sides, self.width), self.compute_dtype)

    def get_config(self):
        return super().get_config() | {"patch": self.patch, "width": self.width, "bias": self.use_bias}


@keras.saving.register_keras_serializable("ssl_keras")
class Norm(keras.layers.Layer):
    """Layer normalization (B, T, D), in float32 inside."""

    def __init__(self, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, shape):
        self.scale = self.add_weight((shape[-1],), "ones", name="scale")
        self.shift = self.add_weight((shape[-1],), "zeros", name="shift")

    def call(self, x):
        return layer_norm(x, self.epsilon, self.scale, self.shift)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def get_config(self):
        return super().get_config() | {"epsilon": self.epsilon}


@keras.saving.register_keras_serializable("ssl_keras")
class PoolTokens(keras.layers.Layer):
    """Returns features of states (B, T, D): the class token's, or the patches' means over a pool grid.

    The image, (B, H, W, C), gives the grid of the patches.
    """

    def __init__(self, prefix, features, pool_grid, patch, side=0, **kwargs):
        super().__init__(**kwargs)
        self.options = {"prefix": prefix, "features": features, "pool_grid": pool_grid, "patch": patch, "side": side}
        self.prefix, self.features, self.patch, self.side = prefix, features, patch, side
        self.pool_grid = pool_grid

    def call(self, states, image):
        if self.features == "class":
            return states[:, 0]
        if self.pool_grid == 1:
            return tf.reduce_mean(states[:, self.prefix :], 1)
        grid = patch_grid(image, self.patch, self.side)
        return pool_places(tf.reshape(states[:, self.prefix :], (-1, *grid, states.shape[-1])), self.pool_grid)

    def compute_output_spec(self, states, image):
        return keras.KerasTensor((states.shape[0], self.pool_grid**2 * states.shape[-1]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | self.options
