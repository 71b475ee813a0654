"""The projection between features and a contrastive loss, thrown away afterwards (Chen et al. 2020, section 4.2)."""

import keras

from ssl_keras.networks.conv import BatchNorm


def projector(features, widths, name="projector"):
    """(N, D) -> (N, Z): a multi-layer perceptron, batch norm after its hidden layers."""
    x = inputs = keras.Input((features,), name="features")
    for index, width in enumerate(widths[:-1]):
        x = keras.layers.Dense(width, use_bias=False, name=f"dense_{index}")(x)
        x = keras.layers.Activation("relu", name=f"relu_{index}")(BatchNorm(name=f"norm_{index}")(x))
    # A bias would be without effect on vicreg, and nearly so on the others.
    x = keras.layers.Dense(widths[-1], use_bias=False, dtype="float32", name="projection")(x)
    return keras.Model(inputs, x, name=name)
