"""Convolutional encoders: functional graphs from images of any size to features.

By name: `cnn`, three stages of two convolutions; `resnet18` and `resnet34` of basic blocks,
`resnet50` and `resnet101` of bottlenecks (He et al. 2016, "Deep residual learning for image
recognition", table 1, the stride in the 3×3 convolution). Every convolution is followed by batch
normalization; each residual branch's last scale starts at 0 (Goyal et al. 2017, section 5.1).
Images of up to 64 pixels go through a 3×3 convolution first, larger ones through the paper's
7×7 with stride 2 and pooling.

The stages' outputs are the layers `stage_0`, `stage_1`, …; features are the last one's mean over
positions, so a graph takes images of other sizes than those that it was trained on.

Shapes: `B` batch, `H W C` image, `D` features.
"""

import contextlib
import contextvars
import re
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.ranges import ImageShape, Range

BLOCKS = {  # network: (kind of block, blocks in each stage, its default width)
    "cnn": ("plain", (1, 1, 1), 32),
    "resnet18": ("basic", (2, 2, 2, 2), 64),
    "resnet34": ("basic", (3, 4, 6, 3), 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 64),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 64),
}
SMALL_IMAGE = 64  # pixels: up to here the first convolution keeps the size
EXPANSION = 4  # of a bottleneck: its output over its width
STAGE = re.compile(r"stage_\d+")
MAX_POOL_GRID = 16  # cells along each side
MOMENTUM = 0.9  # of batch statistics: a run of some hundred steps must be able to forget its first


def conv_encoder(
    image_shape: ImageShape,
    network: Literal[*BLOCKS] = "cnn",
    width: Annotated[int, Range(0, 1 << 12)] = 0,
    pool_grid: Annotated[int, Range(1, MAX_POOL_GRID)] = 1,
    name="encoder",
):
    """Image (B, H, W, C) float in [0, 1] -> features (B, D) float32.

    D is pool_grid² times 4·width for `cnn`, 8·width for basic blocks, 32·width for bottlenecks.

    Args:
        image_shape: (H, W, C) to be trained on; the longer side chooses the stem, C is fixed.
        network: one of BLOCKS.
        width: channels of the first stage, doubled at each of the next; 0 is the network's own.
        pool_grid: cells along each side, over each of which the last stage is averaged; 1 is the whole. More
            keep where something is, which tells much where all images are framed alike.
        name: of the graph.
    """
    if network not in BLOCKS:
        raise ValueError(f"network must be one of {', '.join(BLOCKS)}. Received: {network!r}")
    kind, stages, own = BLOCKS[network]
    width = width or own
    image = keras.Input((None, None, image_shape[2]), name="image")
    x = keras.layers.Rescaling(2.0, -1.0, name="center")(image)  # to [-1, 1]
    if max(image_shape[:2]) > SMALL_IMAGE:
        x = normalized(x, width, 7, 2, name="stem")
        x = keras.layers.MaxPooling2D(3, 2, "same", name="stem_pool")(x)
    else:
        x = normalized(x, width, 3, 1, name="stem")
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            last = block == blocks - 1
            stride = 2 if block == 0 and (stage > 0 or kind == "plain") else 1
            x = BLOCK[kind](x, width * 2**stage, stride, f"stage_{stage}_{block}", f"stage_{stage}" if last else None)
    x = PlacePool(pool_grid, dtype="float32", name="features")(x)  # (B, D)
    return keras.Model(image, x, name=name)


def builder_of(network):
    """`conv_encoder` of one of BLOCKS, with that network's own width as the default."""

    def build(
        image_shape: ImageShape,
        width: Annotated[int, Range(1, 1 << 12)] = BLOCKS[network][2],
        pool_grid: Annotated[int, Range(1, MAX_POOL_GRID)] = 1,
        name="encoder",
    ):
        return conv_encoder(image_shape, network, width, pool_grid, name)

    return build


def stage_maps(encoder):
    """The outputs (B, h, w, channels) of a graph's layers `stage_0`, `stage_1`, …, in their order.

    Raises:
        ValueError: a graph without such layers.
    """
    stages = {int(layer.name[6:]): layer.output for layer in encoder.layers if STAGE.fullmatch(layer.name)}
    if not stages:
        names = [layer.name for layer in encoder.layers][:5]
        raise ValueError(f"Expected a graph with layers stage_0, stage_1, …. Received: layers {names}")
    return [stages[index] for index in sorted(stages)]


def normalized(x, filters, size, stride=1, activation="relu", scale="ones", name=None, output=None):
    """Convolution without bias, batch normalization, activation."""
    x = keras.layers.Conv2D(
        filters, size, stride, "same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
    )(x)
    x = BatchNorm(gamma_initializer=scale, name=f"{name}_norm")(x)
    return keras.layers.Activation(activation, name=output or f"{name}_out")(x) if activation else x


def plain_block(x, width, stride, name, output):
    """Two convolutions, the first with the stride."""
    x = normalized(x, width, 3, stride, name=f"{name}_0")
    return normalized(x, width, 3, name=f"{name}_1", output=output)


def basic_block(x, width, stride, name, output):
    """Two 3×3 convolutions beside the shortcut."""
    branch = normalized(x, width, 3, stride, name=f"{name}_0")
    branch = normalized(branch, width, 3, activation=None, scale="zeros", name=f"{name}_1")
    return joined(x, branch, width, stride, name, output)


def bottleneck_block(x, width, stride, name, output):
    """1×1 down, 3×3, 1×1 up, beside the shortcut."""
    branch = normalized(x, width, 1, name=f"{name}_0")
    branch = normalized(branch, width, 3, stride, name=f"{name}_1")
    branch = normalized(branch, width * EXPANSION, 1, activation=None, scale="zeros", name=f"{name}_2")
    return joined(x, branch, width * EXPANSION, stride, name, output)


def joined(x, branch, filters, stride, name, output):
    """Their sum; where the shape changes, a 1×1 convolution brings the shortcut to it."""
    if x.shape[-1] != filters or stride != 1:
        x = normalized(x, filters, 1, stride, activation=None, name=f"{name}_short")
    x = keras.layers.Add(name=f"{name}_sum")([x, branch])
    return keras.layers.Activation("relu", name=output or f"{name}_out")(x)


BLOCK = {"plain": plain_block, "basic": basic_block, "bottleneck": bottleneck_block}


@keras.saving.register_keras_serializable("ssl_keras")
class PlacePool(keras.layers.Layer):
    """Map (B, h, w, C) of any size -> (B, places²·C): its means over the cells of a grid, row by row.

    Cell i of a side goes from ⌊i·h/places⌋ to ⌈(i + 1)·h/places⌉.
    """

    def __init__(self, places, **kwargs):
        super().__init__(**kwargs)
        self.places = places

    def call(self, x):
        if self.places == 1:
            return tf.reduce_mean(x, axis=(1, 2))
        x = tf.einsum("ih,bhwc->biwc", self._means(tf.shape(x)[1]), x)
        x = tf.einsum("jw,biwc->bijc", self._means(tf.shape(x)[2]), x)
        return tf.reshape(x, (-1, self.places**2 * x.shape[-1]))

    def _means(self, size):
        """(places, size): each row averages over one cell."""
        cell, place = tf.range(self.places)[:, None], tf.range(size)
        inside = (place >= cell * size // self.places) & (place < -(-(cell + 1) * size // self.places))
        inside = tf.cast(inside, tf.float32)
        return inside / tf.reduce_sum(inside, axis=1, keepdims=True)

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], self.places**2 * x.shape[-1]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | {"places": self.places}


# Whether a batch's statistics go into the running ones. Replicas are traced in threads that take turns.
_KEEPS = contextvars.ContextVar("keeps", default=True)


@contextlib.contextmanager
def statistics_kept():
    """While it lasts, `BatchNorm`s normalize by what passes, and their running statistics stay as they are."""
    token = _KEEPS.set(False)
    try:
        yield
    finally:
        _KEEPS.reset(token)


@keras.saving.register_keras_serializable("ssl_keras")
class BatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization(synchronized=True)`, faster on one replica and exact on several.

    The same formula, statistics and variables (Ioffe & Szegedy 2015, algorithm 1). On one replica
    it is TensorFlow's fused kernel, where Keras makes some eight passes over memory. Over several,
    the statistics are those of the whole batch, in two passes: Keras' own take E[x²] − E[x]², which
    loses all digits where a channel hardly varies, as on black backgrounds.
    """

    def __init__(self, momentum=MOMENTUM, epsilon=1e-5, synchronized=True, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, synchronized=synchronized, **kwargs)
        if not (self.center and self.scale and self.axis == -1):
            raise ValueError("BatchNorm has scale, shift and channels last. Else use keras.layers.BatchNormalization.")

    def call(self, inputs, training=None, mask=None):
        learning = bool(training and self.trainable)
        replica = tf.distribute.get_replica_context()
        gamma, beta, mean, variance = (
            tf.cast(v, tf.float32) for v in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        if learning and replica is not None and replica.num_replicas_in_sync > 1:
            x = tf.cast(inputs, tf.float32)
            axes = list(range(len(x.shape) - 1))
            mean_of_all = replica.all_reduce(tf.distribute.ReduceOp.MEAN, tf.reduce_mean(x, axes))
            centerd = x - mean_of_all
            variance_of_all = replica.all_reduce(tf.distribute.ReduceOp.MEAN, tf.reduce_mean(tf.square(centerd), axes))
            y = centerd * (tf.math.rsqrt(variance_of_all + self.epsilon) * gamma) + beta
            self._keep(mean, mean_of_all, variance, variance_of_all)
            return tf.cast(y, inputs.dtype)
        known = ([], []) if learning else (mean, variance)
        x = inputs if len(inputs.shape) == 4 else inputs[:, None, None, :]  # what the kernel takes
        y, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=known[0], variance=known[1], epsilon=self.epsilon, is_training=learning
        )
        if learning:
            # The kernel gives n/(n − 1) times the batch's variance, Keras keeps the batch's own.
            n = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
            self._keep(mean, batch_mean, variance, batch_variance * ((n - 1.0) / n))
        return tf.reshape(y, tf.shape(inputs))

    def _keep(self, mean, batch_mean, variance, batch_variance):
        if not _KEEPS.get():
            return
        self.moving_mean.assign(mean * self.momentum + batch_mean * (1.0 - self.momentum))
        self.moving_variance.assign(variance * self.momentum + batch_variance * (1.0 - self.momentum))
