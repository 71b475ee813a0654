"""Dense features: the features of every place of an image, token of a text, or frame of a clip.

- `principal_colors` shows the first three principal components as red, green and blue, with one basis for a whole set,
  as in Amir et al. 2021, "Deep ViT features as dense visual descriptors". Equal colors are similar features.
- `similarities` shows which places are like one place.

Shapes: `N` examples, `P…` places (h w, or T), `C` features.
"""

import keras
import numpy as np

from ssl_keras.interpretation.grad_cam import map_layer
from ssl_keras.interpretation.gradients import MAX_ROWS
from ssl_keras.networks import gives_states
from ssl_keras.networks.vit_block import blocks_of
from ssl_keras.networks.vit_ends import patch_grid

COMPONENTS, TAILS = 3, (1, 99)  # percentiles of a component that are shown as 0 and 1
MAX_PLACES = 50_000  # evenly spaced places, from which the basis is computed


def place_features(encoder, inputs, layer=None):
    """Returns (the features of every place, float32 (N, P…, C); which places are not padding, bool (N, P…)).

    Args:
        encoder: functional graph of images, tokens or waveforms.
        inputs: (N, …) as the network takes them.
        layer: name of the layer; by default the last map of a convolutional network, the states of tokens or patches,
            or the layer "norm" of an encoder of audio.

    Raises:
        ValueError: the network has no places, such as a dense one.
    """
    layers = {each.name: each for each in encoder.layers}
    if layer is not None:
        output = encoder.get_layer(layer).output
    elif gives_states(encoder):
        output = encoder.output
    elif "norm" in layers and ("frames" in layers or blocks_of(encoder)):
        output = layers["norm"].output
    else:
        output = _last_map(encoder)
    inputs = np.asarray(inputs)
    maps = _outputs(encoder, output, inputs)
    if layer is None and blocks_of(encoder):
        height, width = patch_grid(inputs, layers["pixels"].patch, layers["pixels"].side)
        maps = maps[:, -height * width :].reshape(len(maps), height, width, -1)  # without class and register tokens
    if inputs.dtype.kind == "i":
        return maps, inputs >= 0
    if "frames" in layers:
        return maps, layers["frames"](inputs).numpy() >= 0
    return maps, np.ones(maps.shape[:-1], bool)


def _outputs(encoder, output, inputs):
    graph = keras.Model(encoder.input, output)
    parts = [inputs[start : start + MAX_ROWS] for start in range(0, len(inputs), MAX_ROWS)]
    return np.concatenate([np.float32(graph(part, training=False)) for part in parts])


def _last_map(encoder):
    try:
        return map_layer(encoder).output
    except ValueError as error:
        raise ValueError(
            "Dense features need places: an encoder with convolutions, or of tokens or waveforms. Received: layers "
            f"{[each.name for each in encoder.layers][:5]}. Use the features of whole examples."
        ) from error


def principal_colors(maps, valid=None):
    """Returns the first three principal components of all places as colors in [0, 1]: float32 (N, P…, 3).

    Args:
        maps: (N, P…, C) features of every place of a whole set, which shares one basis and one scale.
        valid: (N, P…) bool, False for padding, which is black; None is all places.
    """
    valid = np.ones(maps.shape[:-1], bool) if valid is None else valid
    places = np.float64(maps[valid])  # (n, C)
    some = places[:: 1 + len(places) // MAX_PLACES]
    mean = some.mean(0)
    _, vectors = np.linalg.eigh(np.cov(some - mean, rowvar=False).reshape(maps.shape[-1], -1))
    basis = vectors[:, ::-1][:, :COMPONENTS]
    basis = basis * np.sign(basis[np.abs(basis).argmax(0), np.arange(basis.shape[1])])  # eigenvectors have no sign
    components = (places - mean) @ basis
    low, high = np.percentile(components, TAILS, axis=0)
    colors = np.zeros((*maps.shape[:-1], COMPONENTS), np.float32)
    shown = np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1)
    colors[valid] = np.pad(shown, ((0, 0), (0, COMPONENTS - shown.shape[1])))
    return colors


def similarities(maps, example, place):
    """Returns the cosine similarity of one place of one example with all places: float32 (N, P…) in [−1, 1].

    Args:
        maps: (N, P…, C).
        example: index of the example.
        place: its place, a tuple of P… indices.
    """
    unit = maps / np.maximum(np.linalg.norm(maps, axis=-1, keepdims=True), 1e-12)
    return (unit @ unit[(example, *np.atleast_1d(place))]).astype(np.float32)
