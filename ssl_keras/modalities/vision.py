"""Shared by the image objectives: settings of the encoder and of augmentation, and the check of the data.

Shapes: `B` batch, `H W C` image, `D` features.
"""

import dataclasses
from typing import Annotated, Literal

import keras
import tensorflow as tf

from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.ranges import Range
from ssl_keras.modalities.settings import start_from
from ssl_keras.networks import IMAGE_ENCODERS, Network, realize
from ssl_keras.networks.conv import MAX_POOL_GRID, stage_maps


@dataclasses.dataclass(frozen=True)
class Settings(Augmentation):
    """The encoder, and the augmentation of its images."""

    network: Literal[*IMAGE_ENCODERS] = "cnn"
    """Encoder architecture."""
    width: Annotated[int, Range(0, 1 << 12)] = 0
    """Number of channels in the encoder's first stage. 0 uses the architecture's default."""
    pool_grid: Annotated[int, Range(1, MAX_POOL_GRID)] = 1
    """Side length, in cells, of the pool grid: the last stage is averaged over each cell. 1 is global average
    pooling; a larger grid keeps more spatial detail. It may differ from the pool grid of the --init encoder."""


# Settings that a run takes from the --init encoder: the keyword of its network.
NETWORK = {"network": "builder", "width": "width"}


def prepare(settings, splits, init=None):
    """Returns the splits as they are, and the settings with the network of `init`.

    Raises:
        ValueError: no images; a setting contradicts the network of `init`; a pool grid larger than the last stage.
    """
    shape, _ = splits.train.column_spec("image")
    if init is not None:
        # Another kind of network is not an error here: `initialize` loads the weights that fit and reports the others.
        kept, card = start_from(init, settings, IMAGE_ENCODERS, NETWORK)
        if card is not None and settings.pool_grid == Settings.pool_grid:  # another value was asked for
            kept["pool_grid"] = card["network"]["pool_grid"]
        settings = dataclasses.replace(settings, **kept)
    if settings.pool_grid > 1:
        _check_pool_grid(settings, splits.train.spec())
    return settings, splits


def _check_pool_grid(settings, spec):
    """Raises ValueError if the last stage is smaller than the pool grid."""
    shape = spec["image"][0]
    with tf.Graph().as_default():  # nothing is allocated
        graph = encoder(settings, spec).build()
        last = keras.Model(graph.input, stage_maps(graph)[-1])
        side = min(last.compute_output_shape((1, *shape))[1:3])
    if settings.pool_grid > side:
        raise ValueError(
            f"pool_grid must be at most {side}, the side of {settings.network}'s last stage for images {tuple(shape)}. "
            f"Received: {settings.pool_grid}"
        )


def encoder(settings, spec):
    """Returns the encoder, image (B, H, W, C) -> features (B, D), as a `Network`."""
    width = {"width": settings.width} if settings.width else {}
    return Network(settings.network, image_shape=spec["image"][0], pool_grid=settings.pool_grid, **width)


def chosen_encoder(settings, spec, encoder):
    """Returns the encoder given to `build` as a graph, see `realize`.

    Raises:
        ValueError: its input or output does not fit.
    """
    network = realize(encoder, settings, spec)
    expected, received = spec["image"][0], network.input_shape[1:]
    fits = len(received) == len(expected) and all(r in (None, e) for r, e in zip(received, expected))
    if not fits or len(network.output_shape) != 2:
        raise ValueError(
            f"The encoder must map images {tuple(expected)} to features (D,). Received: "
            f"{tuple(received)} -> {tuple(network.output_shape[1:])}"
        )
    return network
