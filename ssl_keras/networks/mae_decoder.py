"""The decoder of a masked autoencoder (He et al. 2022, section 3): from the states of visible patches to all pixels.

A learned mask token stands for each hidden patch. All tokens get fixed sine positions, and a few transformer blocks and
a linear layer predict the pixels of each patch.

Shapes: `B` batch, `P` prefix (class and register tokens), `V` visible patches, `N` patches, `D` width of the encoder,
`E` width of the decoder, `K` = patch·patch·channels.
"""

from typing import Annotated

import keras
import tensorflow as tf

from ssl_keras.data.ranges import ImageShape, Range
from ssl_keras.networks.positions import sine_positions
from ssl_keras.networks.transformer import MAX_LAYERS
from ssl_keras.networks.vit_block import VisionBlock, num_heads
from ssl_keras.networks.vit_ends import Norm


def mae_decoder(
    features: Annotated[int, Range(1, 1 << 12)],
    image_shape: ImageShape,
    patch: Annotated[int, Range(1, 1 << 8)],
    width: Annotated[int, Range(4, 1 << 12)] = 128,
    layers: Annotated[int, Range(1, MAX_LAYERS)] = 2,
    heads: Annotated[int, Range(0, 1 << 10)] = 0,
    hidden: Annotated[int, Range(0, 1 << 16)] = 0,
    prefix: Annotated[int, Range(0, 1 << 8)] = 1,
    epsilon: Annotated[float, Range(0, 1, open="both")] = 1e-6,
    name="decoder",
):
    """Returns a decoder, states (B, P + V, D) and the place of each patch (B, N) -> pixels (B, N, K) float32.

    The place of a patch is its index among the visible patches followed by the hidden ones, int32.

    Args:
        features: D.
        image_shape: (H, W, C), in whole patches.
        patch: side of a patch, in pixels.
        width: E, a multiple of 4.
        layers, heads, hidden: as in `networks.vit.vit`.
        prefix: P.
        epsilon: added to variances in the norms.
        name: name of the graph.

    Raises:
        ValueError: sides that are not multiples of the patch; heads that do not divide the width.
    """
    height, wide, channels = image_shape
    if height % patch or wide % patch:
        raise ValueError(f"Expected images in whole patches of {patch} pixels. Received: {tuple(image_shape)}")
    heads = heads or num_heads(width)
    if width % heads:
        raise ValueError(f"width must be a multiple of heads. Received: width {width}, {heads} heads")
    states = keras.Input((None, features), name="states")
    place = keras.Input((height // patch * (wide // patch),), dtype="int32", name="place")
    x = keras.layers.Dense(width, name="embed")(states)
    x = Restore((height // patch, wide // patch), prefix, name="restore")(x, place)
    for index in range(layers):
        x = VisionBlock(heads, hidden or 4 * width, "exact", 0.0, epsilon, 0.0, index, name=f"block_{index}")(x)
    x = Norm(epsilon, name="norm")(x)
    x = keras.layers.Cropping1D((prefix, 0), name="without_prefix")(x)
    pixels = keras.layers.Dense(patch**2 * channels, dtype="float32", name="pixels")(x)
    return keras.Model([states, place], pixels, name=name)


@keras.saving.register_keras_serializable("ssl_keras")
class Restore(keras.layers.Layer):
    """Puts mask tokens in the places of hidden patches, and adds positions: (B, P + V, E) -> (B, P + N, E)."""

    def __init__(self, grid, prefix, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.grid, self.prefix = tuple(grid), prefix

    def build(self, x_shape, place_shape):
        self.mask_token = self.add_weight(
            (x_shape[-1],), keras.initializers.RandomNormal(stddev=0.02), name="mask_token"
        )
        self.positions = sine_positions(*self.grid, x_shape[-1])

    def call(self, x, place):
        prefix, visible = x[:, : self.prefix], x[:, self.prefix :]
        mask = tf.cast(tf.convert_to_tensor(self.mask_token), x.dtype)
        hidden = place.shape[1] - tf.shape(visible)[1]
        mask = tf.tile(mask[None, None], (tf.shape(x)[0], hidden, 1))
        patches = tf.gather(tf.concat([visible, mask], 1), place, batch_dims=1)  # (B, N, E)
        return tf.concat([prefix, patches + tf.cast(self.positions, x.dtype)], 1)

    def compute_output_spec(self, x, place):
        return keras.KerasTensor((x.shape[0], self.prefix + place.shape[1], x.shape[2]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | {"grid": self.grid, "prefix": self.prefix}
