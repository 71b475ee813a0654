"""Vision transformer (Dosovitskiy et al. 2021): a functional graph from images of any size to features.

Patches are projected to tokens, positions are added, and pre-norm transformer blocks follow. Options cover the public
models that `encoders/` reads: a class token, register tokens (Darcet et al. 2024), LayerScale (Touvron et al. 2021,
"Going deeper with image transformers"), a norm before the first block, and three forms of GELU.

Sizes: the default (patch 4, 6 blocks of width 192, 2.7M parameters) is for images of 28 to 64 pixels. The paper's are
S (patch 16, 12 × 384), B (patch 16, 12 × 768) and L (patch 16, 24 × 1024). A head has 64 features.

Departures: positions are fixed sines by default, and features the mean over patches (Beyer et al. 2022, "Better plain
ViT baselines for ImageNet-1k"). An image whose side is not a multiple of the patch is padded with the mean color at the
bottom and the right, so that none of its pixels is lost.

Shapes: `B` batch, `H W C` image, `h w` grid of patches, `N = h·w`, `P` prefix (class and register tokens), `T = P + N`,
`D` width.
"""

import typing
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.ranges import ImageShape, Range
from ssl_keras.networks import positions as grids
from ssl_keras.networks.conv import MAX_POOL_GRID
from ssl_keras.networks.pixels import Color, PixelNorm, check_colors
from ssl_keras.networks.transformer import MAX_LAYERS
from ssl_keras.networks.vit_block import GELU, Rate, VisionBlock, blocks_of, num_heads
from ssl_keras.networks.vit_ends import Norm, Patches, PoolTokens
from ssl_keras.networks.vit_probe import ProbePool


def vit(
    image_shape: ImageShape,
    width: Annotated[int, Range(1, 1 << 12)] = 192,
    pool_grid: Annotated[int, Range(1, MAX_POOL_GRID)] = 1,
    *,
    patch: Annotated[int, Range(1, 1 << 8)] = 4,
    layers: Annotated[int, Range(1, MAX_LAYERS)] = 6,
    heads: Annotated[int, Range(0, 1 << 10)] = 0,
    hidden: Annotated[int, Range(0, 1 << 16)] = 0,
    class_token: bool = True,
    registers: Annotated[int, Range(0, 1 << 8)] = 0,
    features: Literal["mean", "class", "probe"] = "mean",
    positions: Literal["sine", "learned"] = "sine",
    antialias: bool = False,
    input_norm: bool = False,
    patch_bias: bool = True,
    layer_scale: Annotated[float, Range(0, 1)] = 0.0,
    gelu: Literal[*GELU] = "exact",
    epsilon: Annotated[float, Range(0, 1, open="both")] = 1e-6,
    drop_path: Rate = 0.0,
    mean: Color = (0.5,),
    deviation: Color = (0.5,),
    resize: Annotated[int, Range(0, 1 << 12)] = 0,
    name="encoder",
):
    """Returns a vision transformer, image (B, H, W, C) float in [0, 1] -> features (B, D) float32.

    Args:
        image_shape: (H, W, C) of the training images: C is fixed, and H, W give the native grid of the positions,
            which are interpolated for images of other sizes.
        width: D.
        pool_grid: cells along each side of the pool grid, over which the patches' states are averaged; 1 gives
            `features`.
        patch: side of a patch, in pixels.
        layers, heads, hidden: number of blocks; attention heads per block, 0 is one for 64 features; units of the MLPs'
            hidden layer, 0 is 4·width.
        class_token: whether there is a class token.
        registers: number of register tokens, which stand after the class token and have no positions.
        features: "mean" of the patches' states, the state of the "class" token, or attention pooling with a learned
            "probe", as in SigLIP.
        positions: "sine" or "learned".
        antialias: whether the interpolation of positions is antialiased, as in DINOv2 with registers.
        input_norm: whether a norm stands before the first block, as in CLIP.
        patch_bias: whether the projection of patches has a bias.
        layer_scale: initial value of LayerScale; 0 leaves it out.
        gelu: form of the GELU.
        epsilon: added to variances in the norms.
        drop_path: rate of stochastic depth of the last block.
        mean, deviation: color that is subtracted from, and divides, the pixels; one number, or one for each channel.
        resize: side of the square to which images are resized first, in pixels; 0 keeps their size.
        name: name of the graph.

    Raises:
        ValueError: heads that do not divide the width; "class" features without a class token; a pool grid without
            "mean" features; numbers of colors that do not fit the channels; a deviation that is not positive.
    """
    heads = heads or num_heads(width)
    _check(image_shape, width, heads, class_token, features, pool_grid, mean, deviation)
    grid = tuple(-(-side // patch) for side in image_shape[:2])
    image = keras.Input((None, None, image_shape[2]), name="image")
    x = PixelNorm(patch, mean, deviation, resize, dtype="float32", name="pixels")(image)
    x = Patches(patch, width, patch_bias, name="patches")(x)
    x = Tokens(grid, class_token, registers, positions, antialias, name="tokens")(x)
    if input_norm:
        x = Norm(epsilon, name="input_norm")(x)
    for index in range(layers):
        rate = drop_path * (index + 1) / layers
        x = VisionBlock(heads, hidden or 4 * width, gelu, layer_scale, epsilon, rate, index, name=f"block_{index}")(x)
    x = Norm(epsilon, dtype="float32", name="norm")(x)
    prefix = int(class_token) + registers
    if features == "probe":
        x = ProbePool(heads, hidden or 4 * width, gelu, epsilon, dtype="float32", name="features")(x)
        return keras.Model(image, x, name=name)
    x = PoolTokens(prefix, features, pool_grid, patch, resize, dtype="float32", name="features")(x, image)
    return keras.Model(image, x, name=name)


def _check(image_shape, width, heads, class_token, features, pool_grid, mean, deviation):
    if width % heads:
        raise ValueError(f"width must be a multiple of heads. Received: width {width}, {heads} heads")
    if features == "class" and not class_token:
        raise ValueError('features "class" needs a class token. Received: class_token=False. Use features="mean".')
    if features != "mean" and pool_grid > 1:
        raise ValueError(
            f'pool_grid must be 1 with features "{features}". Received: {pool_grid}. Use features="mean" for a pool '
            "grid."
        )
    check_colors(mean, deviation, image_shape[2])


class Parts(typing.NamedTuple):
    """Layers of a graph of `vit`; `input_norm` is None if the graph has none."""

    pixels: PixelNorm
    patches: Patches
    tokens: "Tokens"
    input_norm: Norm | None
    blocks: list
    norm: Norm


def parts(encoder):
    """Returns the `Parts` of a graph. Raises ValueError if it is not a graph of `vit`."""
    layers = {layer.name: layer for layer in encoder.layers}
    blocks = blocks_of(encoder)
    if not blocks or not isinstance(layers.get("tokens"), Tokens):
        raise ValueError(
            "The encoder must be a graph of networks.vit.vit, since its layers are used one by one. "
            f"Received: layers {sorted(layers)[:5]}"
        )
    names = ("pixels", "patches", "tokens", "input_norm")
    return Parts(*(layers.get(name) for name in names), blocks, layers["norm"])


def patch_maps(encoder):
    """Returns the map of patches of a graph in a list, [(B, h, w, D)]. Raises ValueError as `parts`."""
    return [parts(encoder).patches.output]


def encode(parts, tokens, training=False):
    """Returns the states (B, T, D) float32 of tokens (B, T, D) after all blocks and the norm."""
    if parts.input_norm is not None:
        tokens = parts.input_norm(tokens)
    for block in parts.blocks:
        tokens = block(tokens, training=training)
    return parts.norm(tokens)


@keras.saving.register_keras_serializable("ssl_keras")
class Tokens(keras.layers.Layer):
    """Adds positions to patches and puts the class and register tokens before them: (B, h, w, D) -> (B, T, D)."""

    def __init__(self, grid, class_token, registers, positions, antialias, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.options = {
            "grid": tuple(grid),
            "class_token": class_token,
            "registers": registers,
            "positions": positions,
            "antialias": antialias,
        }
        self.grid, self.antialias, self.prefix = tuple(grid), antialias, int(class_token) + registers

    def build(self, shape):
        width, options = shape[-1], self.options
        normal, (height, wide) = keras.initializers.RandomNormal(stddev=0.02), self.grid
        self.class_token = self.add_weight((width,), normal, name="class_token") if options["class_token"] else None
        self.registers = None
        if options["registers"]:
            self.registers = self.add_weight((options["registers"], width), normal, name="registers")
        if options["positions"] == "learned":
            self.positions = self.add_weight((height * wide, width), normal, name="positions")
        else:
            self.positions = tf.constant(grids.sine_positions(height, wide, width))

    def positioned(self, x):
        """Adds the positions, interpolated if the grid is not the native one: (B, h, w, D) -> (B, N, D)."""
        height, wide = (x.shape[axis] or tf.shape(x)[axis] for axis in (1, 2))
        table = tf.cast(tf.convert_to_tensor(self.positions), tf.float32)
        if tuple(x.shape[1:3]) != self.grid:
            table = grids.resize(tf.reshape(table, (*self.grid, -1)), height, wide, self.antialias)
        flat = tf.reshape(x, (-1, height * wide, x.shape[-1]))
        return flat + tf.cast(tf.reshape(table, (-1, x.shape[-1])), x.dtype)

    def prefixed(self, x):
        """Puts the class and register tokens before tokens (B, n, D): (B, P + n, D)."""
        own = [] if self.class_token is None else [tf.convert_to_tensor(self.class_token)[None]]
        own += [] if self.registers is None else [tf.convert_to_tensor(self.registers)]
        if not own:
            return x
        own = tf.cast(tf.concat(own, 0), x.dtype)[None]  # (1, P, D)
        return tf.concat([tf.tile(own, (tf.shape(x)[0], 1, 1)), x], 1)

    def call(self, x):
        return self.prefixed(self.positioned(x))

    def compute_output_spec(self, x):
        batch, height, wide, width = x.shape
        length = None if None in (height, wide) else height * wide + self.prefix
        return keras.KerasTensor((batch, length, width), self.compute_dtype)

    def get_config(self):
        return super().get_config() | self.options
