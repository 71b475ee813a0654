"""Shared by the image objectives: settings of the encoder and of augmentation, and the check of the data.

Shapes: `B` batch, `H W C` image, `D` features.
"""

import dataclasses
import json
from typing import Annotated, Literal

import keras
import tensorflow as tf
import tyro

from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.ranges import Range
from ssl_keras.encoders import card as cards
from ssl_keras.encoders import catalog, inputs
from ssl_keras.modalities.settings import start_from
from ssl_keras.networks import IMAGE_ENCODERS, Network, realize
from ssl_keras.networks.conv import MAX_POOL_GRID
from ssl_keras.networks.transformer import MAX_LAYERS
from ssl_keras.networks.vit_block import Rate


@dataclasses.dataclass(frozen=True)
class Settings(Augmentation):
    """The encoder, and the augmentation of its images."""

    network: Literal[*IMAGE_ENCODERS] = "cnn"
    """Encoder architecture."""
    width: Annotated[int, Range(0, 1 << 12)] = 0
    """Number of channels in the encoder's first stage, or hidden size of vit. 0 uses the architecture's default."""
    pool_grid: Annotated[int, Range(1, MAX_POOL_GRID)] = 1
    """Side length, in cells, of the pool grid: the last stage is averaged over each cell. 1 is global average
    pooling; a larger grid keeps more spatial detail. It may differ from the pool grid of the --init encoder."""
    patch: Annotated[int, Range(0, 1 << 8)] = 0
    """Side length of a patch, in pixels (network vit). 0 uses 4."""
    layers: Annotated[int, Range(0, MAX_LAYERS)] = 0
    """Number of transformer blocks in the encoder (network vit). 0 uses 6."""
    drop_path: Rate = 0.0
    """Stochastic depth: probability of skipping a branch of the last transformer block, for an image in a training step
    (network vit). It falls linearly towards the first block. 0 disables it."""
    layer_decay: Annotated[float, Range(0, 1, open="low")] = 1.0
    """Layer-wise decay of the learning rate, to continue from --init: factor from each stage or block of the encoder to
    the one before it. 1 gives all the same learning rate."""
    saved_network: Annotated[str, tyro.conf.Suppress] = ""  # of the --init encoder, as JSON: `prepare` sets it


# Settings that a run takes from the --init encoder: the keyword of its network.
NETWORK = {"network": "builder", "width": "width"}
VIT = NETWORK | {"patch": "patch", "layers": "layers"}


def prepare(settings, splits, init=None):
    """Returns the splits as they are, and the settings with the network of `init`.

    Raises:
        ValueError: no images; a setting contradicts the network of `init`; a pool grid larger than the last stage.
    """
    shape, _ = splits.train.column_spec("image")
    if init is not None:
        # Another kind of network is not an error here: `initialize` loads the weights that fit and reports the others.
        is_vit = (cards.read(catalog.find(init))["network"] or {}).get("builder") == "vit"
        kept, card = start_from(init, settings, IMAGE_ENCODERS, VIT if is_vit else NETWORK)
        if card is not None and settings.pool_grid == Settings.pool_grid:  # another value was asked for
            kept["pool_grid"] = card["network"]["pool_grid"]
        if card is not None and not _settings_describe(card["network"]):
            # The whole network is taken, and the images get its channels.
            kept["saved_network"] = json.dumps(card["network"])
            splits = inputs.adapt_images(card, splits)
        settings = dataclasses.replace(settings, **kept)
    _check_network(settings)
    if settings.pool_grid > 1:
        _check_pool_grid(settings, splits.train.spec())
    return settings, splits


def _settings_describe(saved):
    """Returns whether `Settings` can describe a saved network.

    They cannot describe a vision transformer, since the grid of its positions is that of its own images; nor options of
    imported networks, such as the colors of their images.
    """
    network = Network.from_json(saved)
    plain = {name: network.keywords[name] for name in ("image_shape", "width", "pool_grid")}
    return network.builder != "vit" and network == Network(network.builder, **plain)


def _check_network(settings):
    """Raises ValueError if settings of a vision transformer come with another network."""
    asked = {name: getattr(settings, name) for name in ("patch", "layers", "drop_path") if getattr(settings, name)}
    if asked and settings.network != "vit":
        raise ValueError(
            f"{', '.join(asked)} must be 0 for the network {settings.network}. Received: {asked}. Use --network vit."
        )


def _check_pool_grid(settings, spec):
    """Raises ValueError if the last stage is smaller than the pool grid."""
    shape = spec["image"][0]
    with tf.Graph().as_default():  # nothing is allocated
        graph = encoder(settings, spec).build()
        last = keras.Model(graph.input, IMAGE_ENCODERS[settings.network].maps(graph)[-1])
        side = min(last.compute_output_shape((1, *shape))[1:3])
    if settings.pool_grid > side:
        resize = graph.description.keywords.get("resize")
        size = f"{resize}×{resize}, to which it resizes images" if resize else "×".join(map(str, shape[:2]))
        raise ValueError(
            f"pool_grid must be at most {side}, the side of {settings.network}'s last stage for {size}. "
            f"Received: {settings.pool_grid}"
        )


def encoder(settings, spec):
    """Returns the encoder, image (B, H, W, C) -> features (B, D), as a `Network`."""
    if settings.saved_network:
        keywords = json.loads(settings.saved_network) | {"pool_grid": settings.pool_grid}
        if settings.network == "vit":
            keywords["drop_path"] = settings.drop_path
            if settings.pool_grid > 1:
                keywords["features"] = "mean"
        return Network.from_json(keywords)
    names = ("width", "patch", "layers", "drop_path")
    asked = {name: getattr(settings, name) for name in names if getattr(settings, name)}
    return Network(settings.network, image_shape=spec["image"][0], pool_grid=settings.pool_grid, **asked)


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
