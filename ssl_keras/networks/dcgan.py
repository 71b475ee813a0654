"""DCGAN's generator and discriminator as functional graphs.

Radford et al. 2015, "Unsupervised representation learning with deep convolutional generative adversarial
networks", section 3 and figure 1. The discriminator halves the sides by 5×5 convolutions with stride 2 until
4 to 7 pixels are left: 64 → 4 in four stages as in the paper, 32 → 4 in three, 28 → 7 in two. Stage i has
width·2^i channels, as in the authors' code. The generator has the same stages in reverse. Weights are drawn
from N(0, 0.02), scales of normalization from N(1, 0.02).

Departures: graphs take and return images in [0, 1], and rescale them to [−1, 1] inside. The discriminator has
no batch normalization with spectral normalization (Miyato et al. 2018), nor for a gradient penalty
(Gulrajani et al. 2017), which is defined on single images.

Shapes: `B` batch, `H W C` image, `Z` latent, `D` features.
"""

from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.ranges import ImageShape, Range
from ssl_keras.networks.conv import BatchNorm

KERNEL, STRIDE, SLOPE, SD = 5, 2, 0.2, 0.02
SMALLEST = range(4, 8)  # sides of the smallest map, in pixels
POOL_GRID = 4  # cells along each side over which the features of a stage are pooled (the paper's section 5)
NORMALIZATIONS = ("batch", "layer", "spectral")


def stages(image_shape):
    """Returns the number of stages, each of which halves the sides.

    Raises:
        ValueError: no number of halvings gives sides of 4 to 7 pixels.
    """
    height, width, _ = image_shape
    count = 0
    while max(height, width) not in SMALLEST and height % 2 == width % 2 == 0:
        height, width, count = height // 2, width // 2, count + 1
    if height not in SMALLEST or width not in SMALLEST or not count:
        raise ValueError(
            "Expected image sides that are 4 to 7 pixels after halving them one or more times, such as 28, 32, 64 "
            f"or 96: set image_size. Received: {tuple(image_shape)}"
        )
    return count


def normal(mean=0.0):
    return keras.initializers.RandomNormal(mean, SD)


def generator(
    image_shape: ImageShape,
    latent: Annotated[int, Range(1, 1 << 16)],
    width: Annotated[int, Range(1, 1 << 12)],
    name="generator",
):
    """Returns the generator, latent (B, Z) in [−1, 1] -> image (B, H, W, C) float32 in [0, 1]."""
    count = stages(image_shape)
    height, wide = (side // 2**count for side in image_shape[:2])
    channels = width * 2 ** (count - 1)
    z = keras.Input((latent,), name="latent")
    x = keras.layers.Dense(height * wide * channels, use_bias=False, kernel_initializer=normal(), name="project")(z)
    x = keras.layers.Reshape((height, wide, channels), name="reshape")(x)
    x = keras.layers.Activation("relu", name="relu_0")(BatchNorm(gamma_initializer=normal(1.0), name="norm_0")(x))
    for stage in range(1, count):
        x = keras.layers.Conv2DTranspose(
            channels // 2**stage,
            KERNEL,
            STRIDE,
            "same",
            use_bias=False,
            kernel_initializer=normal(),
            name=f"deconv_{stage}",
        )(x)
        x = BatchNorm(gamma_initializer=normal(1.0), name=f"norm_{stage}")(x)
        x = keras.layers.Activation("relu", name=f"relu_{stage}")(x)
    x = keras.layers.Conv2DTranspose(
        image_shape[2], KERNEL, STRIDE, "same", kernel_initializer=normal(), name=f"deconv_{count}"
    )(x)
    x = keras.layers.Activation("tanh", dtype="float32", name="tanh")(x)
    return keras.Model(z, keras.layers.Rescaling(0.5, 0.5, dtype="float32", name="image")(x), name=name)


def trunk(
    image_shape: ImageShape,
    width: Annotated[int, Range(1, 1 << 12)],
    normalization: Literal[*NORMALIZATIONS] = "batch",
    name="encoder",
):
    """Returns the discriminator's trunk, image (B, H, W, C) float in [0, 1] -> features (B, D) float32.

    Features are the maxima of every stage over a 4×4 grid; D is 16·width·(2^stages − 1). The stages are the
    layers `stage_0`, `stage_1`, ….

    Args:
        image_shape: (H, W, C).
        width: channels of the first stage, doubled at each further stage.
        normalization: "batch", "layer" or "spectral"; the first stage has no batch or layer normalization.
        name: name of the graph.
    """
    image = keras.Input(image_shape, name="image")
    x = keras.layers.Rescaling(2.0, -1.0, name="center")(image)  # to [-1, 1]
    maps = []
    for stage in range(stages(image_shape)):
        # Batch and layer normalization have a shift of their own; without them the convolution needs a bias.
        normalized = stage > 0 and normalization != "spectral"
        convolution = SpectralConv2D if normalization == "spectral" else keras.layers.Conv2D
        x = convolution(
            width * 2**stage,
            KERNEL,
            STRIDE,
            "same",
            use_bias=not normalized,
            kernel_initializer=normal(),
            name=f"conv_{stage}",
        )(x)
        if normalized and normalization == "batch":
            x = BatchNorm(gamma_initializer=normal(1.0), name=f"norm_{stage}")(x)
        elif normalized:
            x = keras.layers.LayerNormalization(axis=(1, 2, 3), name=f"norm_{stage}")(x)
        x = keras.layers.LeakyReLU(SLOPE, name=f"stage_{stage}")(x)
        maps.append(PlaceMax(POOL_GRID, dtype="float32", name=f"places_{stage}")(x))
    x = keras.layers.Concatenate(dtype="float32", name="features")(maps) if len(maps) > 1 else maps[0]
    return keras.Model(image, x, name=name)


def check_batch_norms(encoder, allowed):
    """Raises ValueError if a graph has batch normalization that a discriminator must not have.

    Args:
        encoder: the graph.
        allowed: whether `conv.BatchNorm` is allowed; `keras.layers.BatchNormalization` never is.
    """
    for layer in encoder.layers:
        ours = isinstance(layer, BatchNorm)
        if isinstance(layer, keras.layers.BatchNormalization) and not (ours and allowed):
            raise ValueError(
                "The encoder's batch normalization must be networks.conv.BatchNorm, and there must be none at all with "
                f"the loss wasserstein, or with normalization layer or spectral. Received: layer {layer.name}"
            )


def discriminator(encoder, judged, spectral=False, bias=True, name="discriminator"):
    """Returns the discriminator, image (B, H, W, C) -> logit (B,) float32: one unit on a tensor of the encoder.

    Args:
        encoder: functional graph of images.
        judged: tensor of this graph: the last stage of a `trunk`, as in the paper, or the features.
        spectral: whether the unit's kernel has spectral normalization.
        bias: whether the unit has a bias; it has no effect if only differences of logits count.
        name: name of the graph.
    """
    x = keras.layers.Flatten(name="discriminator_flatten")(judged)
    unit = SpectralDense if spectral else keras.layers.Dense
    x = unit(1, use_bias=bias, kernel_initializer=normal(), dtype="float32", name="discriminator_logit")(x)
    return keras.Model(encoder.input, x[:, 0], name=name)


@keras.saving.register_keras_serializable("ssl_keras")
class PlaceMax(keras.layers.Layer):
    """Takes the maxima of a map over the cells of a pool grid, row by row: (B, h, w, C) -> (B, places²·C).

    Cell i of a side extends from ⌊i·h/places⌋ to ⌈(i + 1)·h/places⌉.
    """

    def __init__(self, places, **kwargs):
        super().__init__(**kwargs)
        self.places = places

    def call(self, x):
        rows = tf.stack([tf.reduce_max(x[:, a:b], axis=1) for a, b in self._cells(x.shape[1])], axis=1)
        cells = [tf.reduce_max(rows[:, :, a:b], axis=2) for a, b in self._cells(x.shape[2])]
        return tf.reshape(tf.stack(cells, axis=2), (-1, self.places**2 * x.shape[-1]))

    def _cells(self, size):
        return [(i * size // self.places, -(-(i + 1) * size // self.places)) for i in range(self.places)]

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], self.places**2 * x.shape[-1]), self.compute_dtype)

    def get_config(self):
        return super().get_config() | {"places": self.places}


class Spectral:
    """Spectral normalization: divides a layer's kernel by an estimate of its largest singular value.

    Miyato et al. 2018, "Spectral normalization for generative adversarial networks", algorithm 1, with one step of
    power iteration per batch. The kernel is a matrix (inputs, outputs), and `u` its estimated right singular vector.
    Keras' wrapper `SpectralNormalization` overwrites the kernel itself, even in a step that fails.
    """

    # Saves all variables, since Keras' convolution and dense layers save their kernel and bias only.
    save_own_variables = keras.layers.Layer.save_own_variables
    load_own_variables = keras.layers.Layer.load_own_variables

    def build(self, input_shape):
        super().build(input_shape)
        self.u = self.add_weight(
            name="u",
            shape=(self.kernel.shape[-1],),
            initializer=keras.initializers.RandomNormal(),
            trainable=False,
            autocast=False,
        )

    def normalized_kernel(self, training):
        """Returns the kernel divided by its largest singular value; in training, one step of power iteration updates
        `u`."""
        kernel = tf.cast(tf.convert_to_tensor(self.kernel), tf.float32)
        matrix, u = tf.reshape(kernel, (-1, kernel.shape[-1])), tf.convert_to_tensor(self.u)
        fixed = tf.stop_gradient(matrix)
        v = tf.math.l2_normalize(tf.linalg.matvec(fixed, u))
        if training and self.trainable:
            u = tf.math.l2_normalize(tf.linalg.matvec(fixed, v, transpose_a=True))
            self.u.assign(u)
        else:
            u = tf.math.l2_normalize(u)
        sigma = tf.tensordot(v, tf.linalg.matvec(matrix, u), 1)
        return tf.cast(kernel / sigma, self.compute_dtype)


@keras.saving.register_keras_serializable("ssl_keras")
class SpectralConv2D(Spectral, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with spectral normalization."""

    def call(self, inputs, training=None):
        y = self.convolution_op(inputs, self.normalized_kernel(training))
        return y + tf.cast(self.bias, y.dtype) if self.use_bias else y


@keras.saving.register_keras_serializable("ssl_keras")
class SpectralDense(Spectral, keras.layers.Dense):
    """`keras.layers.Dense` with spectral normalization."""

    def call(self, inputs, training=None):
        y = tf.matmul(inputs, self.normalized_kernel(training))
        return y + tf.cast(self.bias, y.dtype) if self.use_bias else y
