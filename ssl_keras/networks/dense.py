"""Fully connected encoder and decoder for images.

Shapes: `B` batch, `H W C` image, `P = H·W·C` pixels, `D` features.
"""

import math
from typing import Annotated

import keras

from ssl_keras.data.ranges import ImageShape, Range


def dense_encoder(
    image_shape: ImageShape, widths: tuple[Annotated[int, Range(1, 1 << 20)], ...] = (256, 128, 64), name="encoder"
):
    """Returns a dense encoder, image (B, H, W, C) float in [0, 1] -> features (B, D = widths[-1]) float32, all ReLU."""
    image = keras.Input(image_shape, name="image")
    x = keras.layers.Flatten(name="pixels")(image)  # (B, P)
    for index, width in enumerate(widths):
        x = keras.layers.Dense(width, activation="relu", name=f"dense_{index}")(x)
    features = keras.layers.Reshape((x.shape[-1],), dtype="float32", name="features")(x)
    return keras.Model(image, features, name=name)


def dense_decoder(features, image_shape, widths=(128, 256), name="decoder"):
    """Returns a dense decoder, features (B, D) -> {"logits": (B, H, W, C), "image": their sigmoid, in [0, 1]}.

    Both outputs are float32, under mixed precision as well.
    """
    code = keras.Input((features,), name="features")
    x = code
    for index, width in enumerate(widths):
        x = keras.layers.Dense(width, activation="relu", name=f"dense_{index}")(x)
    x = keras.layers.Dense(math.prod(image_shape), name="pixels")(x)  # (B, P)
    logits = keras.layers.Reshape(image_shape, dtype="float32", name="logits")(x)
    image = keras.layers.Activation("sigmoid", dtype="float32", name="image")(logits)
    return keras.Model(code, {"logits": logits, "image": image}, name=name)


def classifier_head(
    features: Annotated[int, Range(1, 1 << 24)], classes: Annotated[int, Range(1, 1 << 20)], name="head"
):
    """Returns a linear classifier, features (B, D) -> logits (B, classes) float32."""
    x = keras.Input((features,), name="features")
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(x, logits, name=name)


def per_token(head, states):
    """Applies a `classifier_head` to each token in inference mode, states (B, T, D) -> logits (B, T, classes)."""
    for layer in head.layers[1:]:
        states = layer(states, training=False)
    return states
