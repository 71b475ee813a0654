"""Convolutional encoders: functional graphs from images of any size to features.

- `cnn`: three stages of two convolutions each.
- `resnet18`, `resnet34`: basic blocks. `resnet50`, `resnet101`: bottlenecks, with the stride in the 3×3
  convolution (He et al. 2016, "Deep residual learning for image recognition", table 1).

Every convolution is followed by batch normalization; the last scale of each residual branch starts at 0
(Goyal et al. 2017, section 5.1). The small stem is a 3×3 convolution, the large one the paper's 7×7 convolution with
stride 2 and pooling.

The outputs of the stages are the layers `stage_0`, `stage_1`, …. Features are the last stage's mean over
the pool grid, so a graph takes images of other sizes than the size that it was trained on.

Shapes: `B` batch, `H W C` image, `D` features.
"""

import contextlib
import contextvars
import re
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.ranges import ImageShape, Range
from ssl_keras.networks.pixels import Color, PixelNorm, check_colors

BLOCKS = {  # network: (kind of block, blocks in each stage, default width)
    "cnn": ("plain", (1, 1, 1), 32),
    "resnet18": ("basic", (2, 2, 2, 2), 64),
    "resnet34": ("basic", (3, 4, 6, 3), 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 64),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 64),
}
SMALL_IMAGE = 64  # largest side in pixels for which the stem is small by default
EXPANSION = 4  # output channels of a bottleneck over its width
STAGE = re.compile(r"stage_\d+")
MAX_POOL_GRID = 16  # cells along each side
MOMENTUM = 0.9  # of batch statistics: even a run of a few hundred steps must forget those of its first steps


def builder_of(network):
    """Returns the function that builds one network of BLOCKS."""
    kind, stages, default_width = BLOCKS[network]

    def build(
        image_shape: ImageShape,
        width: Annotated[int, Range(1, 1 << 12)] = default_width,
        pool_grid: Annotated[int, Range(1, MAX_POOL_GRID)] = 1,
        *,
        stem: Literal["by_size", "small", "large"] = "by_size",
        padding: Literal["same", "symmetric"] = "same",
        mean: Color = (0.5,),
        deviation: Color = (0.5,),
        resize: Annotated[int, Range(0, 1 << 12)] = 0,
        name="encoder",
    ):
        """Returns a convolutional encoder, image (B, H, W, C) float in [0, 1] -> features (B, D) float32.

        D is pool_grid² times 4·width for `cnn`, 8·width for basic blocks, 32·width for bottlenecks.

        Args:
            image_shape: (H, W, C) of the training images; C is fixed.
            width: channels of the first stage, doubled at each further stage.
            pool_grid: cells along each side of the pool grid; 1 averages over the whole map. More cells keep spatial
                detail, which helps if all images are framed alike.
            stem: "small" or "large"; "by_size" is small if no side of image_shape exceeds SMALL_IMAGE.
            padding: where a convolution or a pooling with stride 2 pads an even side: on its far end alone ("same", as
                in TensorFlow) or on both ("symmetric", as in PyTorch).
            mean, deviation: color that is subtracted from, and divides, the pixels; one number, or one for each
                channel.
            resize: side of the square to which images are resized first, in pixels; 0 keeps their size.
            name: name of the graph.

        Raises:
            ValueError: numbers of colors that do not fit the channels; a deviation that is not positive.
        """
        check_colors(mean, deviation, image_shape[2])
        image = keras.Input((None, None, image_shape[2]), name="image")
        x = PixelNorm(1, mean, deviation, resize, dtype="float32", name="center")(image)
        if stem == "large" or (stem == "by_size" and max(image_shape[:2]) > SMALL_IMAGE):
            x = conv_norm(x, width, 7, 2, padding, name="stem")
            if symmetric := padding == "symmetric":
                x = keras.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)  # after a ReLU: zeros change no maximum
            x = keras.layers.MaxPooling2D(3, 2, "valid" if symmetric else "same", name="stem_pool")(x)
        else:
            x = conv_norm(x, width, 3, 1, padding, name="stem")
        for stage, blocks in enumerate(stages):
            for block in range(blocks):
                output = f"stage_{stage}" if block == blocks - 1 else None
                stride = 2 if block == 0 and (stage > 0 or kind == "plain") else 1
                x = BLOCK[kind](x, width * 2**stage, stride, padding, f"stage_{stage}_{block}", output)
        x = PlacePool(pool_grid, dtype="float32", name="features")(x)  # (B, D)
        return keras.Model(image, x, name=name)

    return build


def stage_maps(encoder):
    """Returns the outputs (B, h, w, channels) of a graph's layers `stage_0`, `stage_1`, …, in this order.

    Raises:
        ValueError: the graph has no such layers.
    """
    stages = {int(layer.name[6:]): layer.output for layer in encoder.layers if STAGE.fullmatch(layer.name)}
    if not stages:
        names = [layer.name for layer in encoder.layers][:5]
        raise ValueError(f"Expected a graph with layers stage_0, stage_1, …. Received: layers {names}")
    return [stages[index] for index in sorted(stages)]


def conv_norm(x, filters, size, stride=1, padding="same", activation="relu", scale="ones", name=None, output=None):
    """Applies a convolution without bias, batch normalization and an activation."""
    if symmetric := padding == "symmetric" and stride > 1 and size > 1:
        x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    x = keras.layers.Conv2D(
        filters,
        size,
        stride,
        "valid" if symmetric else "same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = BatchNorm(gamma_initializer=scale, name=f"{name}_norm")(x)
    return keras.layers.Activation(activation, name=output or f"{name}_out")(x) if activation else x


def plain_block(x, width, stride, padding, name, output):
    """Applies two 3×3 convolutions, the first one strided."""
    x = conv_norm(x, width, 3, stride, padding, name=f"{name}_0")
    return conv_norm(x, width, 3, name=f"{name}_1", output=output)


def basic_block(x, width, stride, padding, name, output):
    """Applies a residual block of two 3×3 convolutions."""
    branch = conv_norm(x, width, 3, stride, padding, name=f"{name}_0")
    branch = conv_norm(branch, width, 3, activation=None, scale="zeros", name=f"{name}_1")
    return add_shortcut(x, branch, width, stride, name, output)


def bottleneck_block(x, width, stride, padding, name, output):
    """Applies a residual block of a 1×1, a 3×3 and a 1×1 convolution."""
    branch = conv_norm(x, width, 1, name=f"{name}_0")
    branch = conv_norm(branch, width, 3, stride, padding, name=f"{name}_1")
    branch = conv_norm(branch, width * EXPANSION, 1, activation=None, scale="zeros", name=f"{name}_2")
    return add_shortcut(x, branch, width * EXPANSION, stride, name, output)


def add_shortcut(x, branch, filters, stride, name, output):
    """Adds the shortcut to the residual branch; if the shape changes, a 1×1 convolution projects the shortcut."""
    if x.shape[-1] != filters or stride != 1:
        x = conv_norm(x, filters, 1, stride, activation=None, name=f"{name}_short")
    x = keras.layers.Add(name=f"{name}_sum")([x, branch])
    return keras.layers.Activation("relu", name=output or f"{name}_out")(x)


BLOCK = {"plain": plain_block, "basic": basic_block, "bottleneck": bottleneck_block}


def pool_places(x, places):
    """Averages a map of any size over the cells of a pool grid, row by row: (B, h, w, C) -> (B, places²·C).

    Cell i of a side extends from ⌊i·h/places⌋ to ⌈(i + 1)·h/places⌉.
    """
    if places == 1:
        return tf.reduce_mean(x, axis=(1, 2))
    x = tf.einsum("ih,bhwc->biwc", _cell_means(places, tf.shape(x)[1]), x)
    x = tf.einsum("jw,biwc->bijc", _cell_means(places, tf.shape(x)[2]), x)
    return tf.reshape(x, (-1, places**2 * x.shape[-1]))


def _cell_means(places, size):
    """Returns weights (places, size), each row of which averages over one cell."""
    cell, place = tf.range(places)[:, None], tf.range(size)
    inside = (place >= cell * size // places) & (place < -(-(cell + 1) * size // places))
    inside = tf.cast(inside, tf.float32)
    return inside / tf.reduce_sum(inside, axis=1, keepdims=True)


@keras.saving.register_keras_serializable("ssl_keras")
class PlacePool(keras.layers.Layer):
    """`pool_places` as a layer."""

    def __init__(self, places, **kwargs):
        super().__init__(**kwargs)
        self.places = places

    def call(self, x):
        return pool_places(x, self.places)

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], self.places**2 * x.shape[-1]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | {"places": self.places}


# Whether moving statistics are updated. A context variable, since replicas are traced in threads that take turns.
_UPDATES_STATISTICS = contextvars.ContextVar("updates_statistics", default=True)


@contextlib.contextmanager
def freeze_statistics():
    """Keeps the moving statistics of every `BatchNorm` unchanged; layers in training still normalize by the batch."""
    token = _UPDATES_STATISTICS.set(False)
    try:
        yield
    finally:
        _UPDATES_STATISTICS.reset(token)


@keras.saving.register_keras_serializable("ssl_keras")
class BatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization(synchronized=True)`, faster on one replica and exact on several.

    It has the same formula, statistics and variables (Ioffe & Szegedy 2015, algorithm 1). One replica runs
    TensorFlow's fused kernel, where Keras makes some eight passes over memory. Several replicas compute the
    statistics of the whole batch in two passes. Keras computes the variance as E[x²] − E[x]², which loses all
    digits if a channel hardly varies, as on black backgrounds.
    """

    def __init__(self, momentum=MOMENTUM, epsilon=1e-5, synchronized=True, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, synchronized=synchronized, **kwargs)
        if not (self.center and self.scale and self.axis == -1):
            raise ValueError(
                "BatchNorm needs center=True, scale=True and axis=-1. Otherwise use keras.layers.BatchNormalization. "
                f"Received: center={self.center}, scale={self.scale}, axis={self.axis}"
            )

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
            centered = x - mean_of_all
            variance_of_all = replica.all_reduce(tf.distribute.ReduceOp.MEAN, tf.reduce_mean(tf.square(centered), axes))
            y = centered * (tf.math.rsqrt(variance_of_all + self.epsilon) * gamma) + beta
            self._update_statistics(mean, mean_of_all, variance, variance_of_all)
            return tf.cast(y, inputs.dtype)
        known = ([], []) if learning else (mean, variance)
        x = inputs if len(inputs.shape) == 4 else inputs[:, None, None, :]  # the kernel takes four axes
        y, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=known[0], variance=known[1], epsilon=self.epsilon, is_training=learning
        )
        if learning:
            # The kernel returns the unbiased variance, n/(n − 1) times the one that Keras averages.
            n = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], tf.float32)
            self._update_statistics(mean, batch_mean, variance, batch_variance * ((n - 1.0) / n))
        return tf.reshape(y, tf.shape(inputs))

    def _update_statistics(self, mean, batch_mean, variance, batch_variance):
        if not _UPDATES_STATISTICS.get():
            return
        self.moving_mean.assign(mean * self.momentum + batch_mean * (1.0 - self.momentum))
        self.moving_variance.assign(variance * self.momentum + batch_variance * (1.0 - self.momentum))
