"""The attribution methods that fit a network, each as one function from inputs to maps.

Shapes: `B` batch, `T` tokens or frames.
"""

import functools
import typing

import numpy as np

from ssl_keras.interpretation import gradients, occlusion
from ssl_keras.interpretation import units as parts
from ssl_keras.interpretation.grad_cam import enlarge, grad_cam
from ssl_keras.interpretation.integrated import integrated_gradients
from ssl_keras.interpretation.rollout import rollout
from ssl_keras.networks import waveform

INTEGRATED = "integrated gradients"
WINDOWS = 7  # occlusion windows along each side of an image
FRAMES, BANDS = 5, 8  # of an occlusion window in a spectrogram
CELL = 4  # frames and bands of a unit of a spectrogram


class Method(typing.NamedTuple):
    """A method for one network.

    Attributes:
        attribute: function (inputs (B, …), index (B,)) -> float32 (B, *positions), 0 at padding.
        quick: the same with fewer gradients, where exact sums do not matter.
        is_complete: whether the attributions should sum to the difference of scores.
    """

    attribute: typing.Callable
    quick: typing.Callable
    is_complete: bool = False


def available(explained, units_of):
    """Compiles the methods that fit a network: {name: `Method`}.

    Args:
        explained: an `Explained`.
        units_of: function from inputs to units, such as `units_of` of this module.
    """
    along_path = functools.partial(integrated_gradients, explained)
    functions = {
        "gradient × input": functools.partial(gradients.gradient_x_input, explained),
        "SmoothGrad": functools.partial(gradients.smooth_grad, explained),
        "occlusion": functools.partial(_occlude, explained, units_of),
    }
    for name, make in {
        "Grad-CAM": grad_cam,
        "attention rollout": rollout,
        "gradient rollout": functools.partial(rollout, weighted=True),
    }.items():
        try:
            run = make(explained.network)
        except ValueError:  # has no convolutions, or no attention
            continue
        functions[name] = functools.partial(_on_positions, explained, run)
    found = {name: Method(function, function) for name, function in functions.items()}
    complete = Method(along_path, functools.partial(along_path, tolerance=np.inf), is_complete=True)
    return {INTEGRATED: complete} | found


def units_of(explained, tokenizer=None):
    """Returns the function from inputs (B, …) to units that suits a network, see `interpretation/units.py`.

    Units are pixels, words (tokens without a tokenizer), 20 ms of samples, or CELL frames by CELL bands.
    """
    if explained.at == "vectors" and tokenizer is not None:
        return lambda inputs: parts.words(np.asarray(inputs), tokenizer)
    if explained.at == "samples":
        hop = _hop(explained.network)
        return lambda inputs: parts.frames(explained.valid(inputs), hop)
    return lambda inputs: parts.pixels(explained.valid(inputs), CELL if explained.at == "bands" else 1)


def _hop(network):
    """Returns the number of samples of a frame, or 160 for a network that ssl_keras did not build."""
    return next((layer.hop for layer in network.layers if isinstance(layer, waveform.Frames)), 160)


def _occlude(explained, units_of, inputs, index):
    shape = explained.valid(inputs).shape[1:]
    if explained.at == "pixels":
        return occlusion.occlude_windows(explained, inputs, index, [max(1, side // WINDOWS) for side in shape])
    if explained.at == "bands":
        return occlusion.occlude_windows(explained, inputs, index, (min(FRAMES, shape[0]), BANDS))
    return occlusion.occlude_units(explained, inputs, index, units_of(inputs))


def _on_positions(explained, run, inputs, index):
    """Enlarges the maps of `run` to the positions of the representation."""
    maps, valid = run(inputs, index), explained.valid(inputs)
    if maps.shape == valid.shape:
        return maps
    if maps.ndim == 3:
        return enlarge(maps, valid.shape[1:])
    if explained.at == "samples":  # the last frame may be cut off
        maps = np.repeat(maps, _hop(explained.network), 1)[:, : valid.shape[1]]
        return np.where(valid, maps, 0)
    return np.where(valid, maps[..., None], 0)
