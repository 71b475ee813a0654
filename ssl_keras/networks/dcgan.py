"""DCGAN's generator and discriminator (Radford et al. 2015, "Unsupervised representation learning with
deep convolutional generative adversarial networks", section 3 and figure 1), as functional graphs.

Both halve, or double, the image's side by 5×5 convolutions with stride 2 until 4 to 7 pixels are
left: 64 → 4 in four stages as in the paper, 32 → 4 in three, 28 → 7 in two. Channels are
width·2^i in stage i of the discriminator and the same backwards in the generator, as in the authors'
code. Weights are drawn from N(0, 0.02), scales of normalization from N(1, 0.02).

Departures: images are in [0, 1] outside, as everywhere here, and in [−1, 1] inside; with spectral
normalization (Miyato et al. 2018) or for a gradient penalty (Gulrajani et al. 2017, which wants each
image judged by itself) the discriminator has no batch normalization.

Shapes: `B` batch, `H W C` image, `Z` latent, `D` features.
"""

from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.ranges import ImageShape, Range
from ssl_keras.networks.conv import BatchNorm

KERNEL, STRIDE, SLOPE, SD = 5, 2, 0.2, 0.02
SMALLEST = range(4, 8)  # pixels along a side of the smallest map
GRID = 4  # places along each side that the features keep of every stage (the paper's section 5)
NORMALIZATIONS = ("batch", "layer", "spectral")


def stages(image_shape):
    """How often the sides are halved.

    Raises:
        ValueError: sides that do not come down to 4 to 7 pixels by halving.
    """
    height, width, _ = image_shape
    count = 0
    while max(height, width) not in SMALLEST and height % 2 == width % 2 == 0:
        height, width, count = height // 2, width // 2, count + 1
    if height not in SMALLEST or width not in SMALLEST or not count:
        raise ValueError(
            "Expected image sides that are 4 to 7 pixels after halving them at least once: 28, 32, 64, 96, …: set "
            f"image_size. Received: {tuple(image_shape)}"
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
    """Latent (B, Z) in [−1, 1] -> image (B, H, W, C) float32 in [0, 1]."""
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
    """Image (B, H, W, C) float in [0, 1] -> features (B, D) float32: every stage's maxima on a 4×4 grid.

    The stages are the layers `stage_0`, `stage_1`, …; D is 16·width·(2^stages − 1).

    Args:
        image_shape: (H, W, C).
        width: channels of the first stage, doubled at each of the next.
        normalization: batch, layer or spectral; the first stage has no batch or layer normalization.
        name: of the graph.
    """
    image = keras.Input(image_shape, name="image")
    x = keras.layers.Rescaling(2.0, -1.0, name="center")(image)  # to [-1, 1]
    maps = []
    for stage in range(stages(image_shape)):
        # A shift follows where there is a normalization; else the convolution needs one.
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
        maps.append(PlaceMax(GRID, dtype="float32", name=f"places_{stage}")(x))
    x = keras.layers.Concatenate(dtype="float32", name="features")(maps) if len(maps) > 1 else maps[0]
    return keras.Model(image, x, name=name)


def check_batch_norms(encoder, allowed):
    """Raises ValueError where a graph has batch normalization that a discriminator does not bear.

    Args:
        allowed: `BatchNorm` is; without, none is.
    """
    for layer in encoder.layers:
        ours = isinstance(layer, BatchNorm)
        if isinstance(layer, keras.layers.BatchNormalization) and not (ours and allowed):
            raise ValueError(
                f"{layer.name}: batch normalization must be networks.conv.BatchNorm, whose statistics are the real "
                "images', and with wasserstein there must be none. Take another encoder."
            )


def discriminator(encoder, judged, spectral=False, bias=True, name="discriminator"):
    """Image (B, H, W, C) -> logit (B,) float32: one unit on top of a tensor of the encoder's graph.

    Args:
        encoder: functional graph of images.
        judged: that tensor: the last stage of a `trunk`, as in the paper, or the features.
        spectral: normalize the unit's kernel.
        bias: where only differences of logits count, there is nothing for it to learn.
        name: of the graph.
    """
    x = keras.layers.Flatten(name="discriminator_flatten")(judged)
    unit = SpectralDense if spectral else keras.layers.Dense
    x = unit(1, use_bias=bias, kernel_initializer=normal(), dtype="float32", name="discriminator_logit")(x)
    return keras.Model(encoder.input, x[:, 0], name=name)


@keras.saving.register_keras_serializable("ssl_keras")
class PlaceMax(keras.layers.Layer):
    """Map (B, h, w, C) -> (B, places²·C): its maxima over the cells of a grid, row by row.

    Cell i of a side goes from ⌊i·h/places⌋ to ⌈(i + 1)·h/places⌉.
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
    """A kernel divided by its largest singular value, as one step of power iteration a batch has it so far.

    Miyato et al. 2018, "Spectral normalization for generative adversarial networks", algorithm 1: the
    kernel as a matrix (inputs, outputs), and `u` its running right singular vector.
    Keras' wrapper `SpectralNormalization` overwrites the kernel itself, even in a step that fails.
    """

    # All variables: those of Keras' convolution and dense layer save their kernel and bias alone.
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

    def normalized(self, training):
        """The kernel over its largest singular value; in training `u` takes a step."""
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
    """`keras.layers.Conv2D` whose kernel has spectral norm 1."""

    def call(self, inputs, training=None):
        y = self.convolution_op(inputs, self.normalized(training))
        return y + tf.cast(self.bias, y.dtype) if self.use_bias else y


@keras.saving.register_keras_serializable("ssl_keras")
class SpectralDense(Spectral, keras.layers.Dense):
    """`keras.layers.Dense` whose kernel has spectral norm 1."""

    def call(self, inputs, training=None):
        y = tf.matmul(inputs, self.normalized(training))
        return y + tf.cast(self.bias, y.dtype) if self.use_bias else y
