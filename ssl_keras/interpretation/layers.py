"""Layers of an encoder: the accuracy of a linear probe on each (Alain & Bengio 2016), and what excites a feature.

Shapes: `N` examples, `D` features of one layer.
"""

import keras
import numpy as np

from ssl_keras.evaluation import probes
from ssl_keras.evaluation.features import compile_network, extract_features
from ssl_keras.networks import conv, pooling_of
from ssl_keras.networks.transformer import Pool

STRENGTHS = (0.001, 0.03, 1.0)  # candidates for the inverse regularization of the probes


def names(encoder):
    """Returns the names of an encoder's layers, from input to output: its stages, or else all layers with weights."""
    stages = [layer.name for layer in encoder.layers if conv.STAGE.fullmatch(layer.name)]
    weighted = [
        layer.name for layer in encoder.layers if layer.variables and not isinstance(layer, keras.layers.InputLayer)
    ]
    found = stages or weighted
    last = encoder.layers[-1].name
    return found if last in found else [*found, last]


def features_of_layers(encoder, *sources, chosen=None, batch_size=256):
    """Extracts the features of all layers in one pass: for each source {layer: float32 (N, D)}, in order.

    Maps are averaged over their places, and frames over those that are not padding. States of tokens are pooled as the
    encoder's features are.

    Args:
        encoder: functional graph of images, tokens or waveforms.
        *sources: `Source`s as the encoder takes them.
        chosen: names of layers; by default those of `names`.
        batch_size: number of examples in a batch.
    """
    chosen = names(encoder) if chosen is None else chosen
    pooled = [_pool(encoder, encoder.get_layer(name).output) for name in chosen]
    joined = keras.layers.Concatenate(dtype="float32", name="layers")(pooled) if len(pooled) > 1 else pooled[0]
    embed, ends = compile_network(keras.Model(encoder.input, joined)), np.cumsum([each.shape[-1] for each in pooled])
    parts = [np.split(extract_features(embed, source, batch_size), ends[:-1], axis=1) for source in sources]
    return [dict(zip(chosen, part)) for part in parts]


def probe_layers(encoder, train, validation, test, strengths=STRENGTHS):
    """Returns {layer: test accuracy in [0, 1] of a linear probe on its features}, from input to output.

    Args:
        encoder: functional graph.
        train, validation, test: labeled `Source`s as the encoder takes them. The validation split selects each probe's
            regularization.
        strengths: candidates for scikit-learn's C.
    """
    parts = features_of_layers(encoder, train, validation, test)
    labels = [source.column("label") for source in (train, validation, test)]
    accuracies = {}
    for name in parts[0]:
        arrays = [value for part, label in zip(parts, labels) for value in (part[name], label)]
        accuracies[name], _ = probes.linear_probe(*arrays, strengths)
    return accuracies


def most_exciting(features, feature, count=8):
    """Returns the indices of the examples with the largest values of a feature, int (count,), the largest first.

    Args:
        features: (N, D).
        feature: index of the feature.
        count: number of examples.
    """
    return np.argsort(-features[:, feature], kind="stable")[:count]


def varied_features(features, count):
    """Returns the indices of the features with the largest variance over examples, int (count,)."""
    return np.argsort(-features.var(0), kind="stable")[:count]


def _pool(encoder, tensor):
    """Averages a layer's output over places or frames, or pools it over tokens: (B, …, D) -> (B, D)."""
    if len(tensor.shape) == 4:
        return keras.layers.GlobalAveragePooling2D(dtype="float32")(tensor)
    if len(tensor.shape) != 3:
        return keras.layers.Flatten(dtype="float32")(tensor) if len(tensor.shape) > 2 else tensor
    frames = next((layer.output for layer in encoder.layers if layer.name == "frames"), None)
    if frames is None and "int" in encoder.input.dtype:
        frames = encoder.input
    if frames is None:
        return keras.layers.GlobalAveragePooling1D(dtype="float32")(tensor)
    return Pool(pooling_of(encoder))(tensor, frames)
