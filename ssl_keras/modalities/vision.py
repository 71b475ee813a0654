"""What the image objectives share: their network and augmentation as settings, and the check of the data.

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
    """A convolutional network, and how its images are augmented."""

    network: Literal[*IMAGE_ENCODERS] = "cnn"
    """The architecture, see `networks/`."""
    width: Annotated[int, Range(0, 1 << 12)] = 0
    """Channels of the first stage; 0 is the network's own."""
    pool_grid: Annotated[int, Range(1, MAX_POOL_GRID)] = 1
    """Places along each side over which the last stage is averaged; more keeps where something is. A run that starts
    from an encoder may ask for others than that has: they have no weights."""


# What a network that starts from a saved encoder takes over from it.
NETWORK = {"network": "builder", "width": "width"}


def prepare(settings, splits, init=None):
    """Images as they are; the network is that of the encoder that a run starts from.

    Raises:
        ValueError: no images; a network asked for that is not that of `init`; more places than there are.
    """
    shape, _ = splits.train.column_spec("image")
    if init is not None:
        # Of another kind: `initialize` takes what fits, and says what does not.
        kept, card = start_from(init, settings, IMAGE_ENCODERS, NETWORK)
        if card is not None and settings.pool_grid == Settings.pool_grid:  # else asked for
            kept["pool_grid"] = card["network"]["pool_grid"]
        settings = dataclasses.replace(settings, **kept)
    if settings.pool_grid > 1:
        _check_places(settings, splits.train.spec())
    return settings, splits


def _check_places(settings, spec):
    """Raises ValueError where the last stage is smaller than the grid that it is averaged over."""
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
    """The encoder, image (B, H, W, C) -> features (B, D), as a `Network`."""
    own_width = {"width": settings.width} if settings.width else {}
    return Network(settings.network, image_shape=spec["image"][0], pool_grid=settings.pool_grid, **own_width)


def chosen_encoder(settings, spec, encoder):
    """The graph that `build` was given, as a graph, a `Network` or a function of (settings, spec) to one of these.

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
