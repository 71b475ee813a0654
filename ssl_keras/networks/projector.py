"""Projection head between features and a contrastive loss, discarded after training (Chen et al. 2020, section 4.2)."""

import keras

from ssl_keras.networks.conv import BatchNorm


def projector(features, widths, name="projector"):
    """Returns an MLP (N, D) -> (N, Z), with batch normalization after its hidden layers."""
    x = inputs = keras.Input((features,), name="features")
    for index, width in enumerate(widths[:-1]):
        x = keras.layers.Dense(width, use_bias=False, name=f"dense_{index}")(x)
        x = keras.layers.Activation("relu", name=f"relu_{index}")(BatchNorm(name=f"norm_{index}")(x))
    # Without bias: it has no effect on vicreg, and little on the other losses.
    x = keras.layers.Dense(widths[-1], use_bias=False, dtype="float32", name="projection")(x)
    return keras.Model(inputs, x, name=name)
