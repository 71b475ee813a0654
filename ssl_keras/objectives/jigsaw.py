"""Jigsaw puzzles (Noroozi & Favaro 2016): predict the permutation that shuffled the tiles of an image.

The tutorial cites "Unsupervised learning of visual representations by solving jigsaw puzzles". An image
is cut into a grid of cells, one tile is taken from each, and the tiles are shuffled by one of a
fixed set of permutations with large Hamming distances. The encoder is applied to each tile separately; the solver,
a small MLP, combines their features and predicts the permutation.

Tiles are smaller than their cells and placed in them at random (section 4.2). Otherwise the encoder could
solve the puzzle from matching edges, without learning what the tiles show.

The loss is the softmax cross-entropy over the permutations, in nats per image.

Departures: tiles are not normalized separately, since the encoder later takes whole images without
normalization; each image gives one puzzle per step.

Shapes: `B` batch, `H W C` image, `T` tiles, `h w` tile, `D` features, `P` permutations.

Metrics: `loss`, nats per image (chance is log P); `accuracy`, in [0, 1] (chance is 1/P);
`gradient_norm`, global norm before clipping (training only).
"""

import dataclasses
import itertools
import math
from typing import Annotated, Literal

import keras
import numpy as np
import tensorflow as tf

from ssl_keras.data.augment_images import augment
from ssl_keras.data.images import unit_range
from ssl_keras.data.ranges import Range
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective, example_weight
from ssl_keras.engine.report import Report
from ssl_keras.modalities import vision
from ssl_keras.networks.vit_block import draw_depth, stochastic_depth

DEFAULTS = Training(
    epochs=20, batch_size=256, learning_rate=2e-3, schedule="cosine", final_rate=0.0, warmup=200, weight_decay=1e-4
)
NINE_TILES_FROM = 36  # smallest side in pixels for 3×3 tiles; tiles of smaller images would show too little
DEFAULT_PERMUTATIONS = 64
MIN_TILE = 6  # smallest side of a tile, in pixels


@dataclasses.dataclass(frozen=True)
class Settings(vision.Settings):
    """The encoder, the augmentation of its images, and the puzzle."""

    grid: Literal[0, 2, 3] = 0
    """Number of tiles along each side. 0 uses 3 for images with sides of at least 36 pixels, else 2."""
    permutations: Annotated[int, Range(2)] | Literal[0] = 0
    """Number of permutations, which are the classes to predict. 0 uses 64, or all 24 permutations of 2×2 tiles."""
    gap: Annotated[float, Range(0, 1, open="high")] = 0.15
    """Fraction of a grid cell's side that its tile, which is placed at random, does not cover. 0 lets neighboring tiles
    touch."""
    hidden: Annotated[int, Range(1)] = 256
    """Number of hidden units in the head, which predicts the permutation from the features of all tiles."""

    def __post_init__(self):
        super().__post_init__()
        maximum = math.factorial((self.grid or 3) ** 2)
        if self.permutations > maximum:
            raise ValueError(f"permutations must be 2 to {maximum}, or 0. Received: {self.permutations}")


def filled(settings, shape):
    """Returns the settings with grid and permutations set. Raises ValueError if images are too small."""
    side = min(shape[:2])
    grid = settings.grid or (3 if side >= NINE_TILES_FROM else 2)
    most = math.factorial(grid**2)
    settings = dataclasses.replace(
        settings, grid=grid, permutations=settings.permutations or min(DEFAULT_PERMUTATIONS, most)
    )
    if tile_size(side, grid, settings.gap) < MIN_TILE:
        raise ValueError(
            f"Tiles must be at least {MIN_TILE} pixels a side. Received: images {tuple(shape)}, {grid}×{grid} "
            f"tiles, gap {settings.gap}. Use larger images, fewer tiles or a smaller gap."
        )
    return settings


def prepare(settings, splits, init=None):
    """Completes the settings from the images' size. Raises ValueError if tiles are too small."""
    settings, splits = vision.prepare(settings, splits, init)
    return filled(settings, splits.train.column_spec("image")[0]), splits


encoder = vision.encoder


def build(settings, spec, encoder=encoder):
    """Returns the objective; `encoder` may be any function or functional graph from images of any size to (B, D).

    Raises:
        ValueError: the encoder's input or output does not fit.
    """
    settings = filled(settings, spec["image"][0])
    network = vision.chosen_encoder(settings, spec, encoder)
    if None not in network.input_shape[1:3]:
        raise ValueError(
            "The encoder must take both tiles and whole images, from keras.Input((None, None, C)). "
            f"Received: {tuple(network.input_shape[1:])}"
        )
    return Jigsaw(settings, network, solver(settings, network.output_shape[-1]))


def solver(settings, features):
    """Returns the solver, features of the tiles in order (B, T·D) -> logits (B, P) float32."""
    x = inputs = keras.Input((settings.grid**2 * features,), name="tiles")
    x = keras.layers.Dense(settings.hidden, activation="relu", name="hidden")(x)
    logits = keras.layers.Dense(settings.permutations, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="solver")


def tile_size(side, grid, gap):
    """Returns the side of a tile, in pixels."""
    return int(side // grid * (1 - gap) + 1e-6)


def permutation_set(tiles, count):
    """Chooses permutations greedily, each as far from the earlier ones as possible: int32 (count, tiles).

    Algorithm 1 of Noroozi & Favaro 2016: maximizes the minimum Hamming distance; the mean breaks ties.
    """
    every = np.array(list(itertools.permutations(range(tiles))), np.int8)
    chosen = [0]  # the identity; by symmetry any other one is as good
    least, total = np.full(len(every), tiles), np.zeros(len(every), np.int64)
    for _ in range(count - 1):
        distance = (every != every[chosen[-1]]).sum(1)
        least, total = np.minimum(least, distance), total + distance
        # A permutation that is already chosen has distance 0, and is not chosen again.
        chosen.append(int(np.argmax(least * (len(chosen) * tiles + 1) + total)))
    return every[chosen].astype(np.int32)


class Jigsaw(Objective):
    """Holds `encoder` and `solver`; trains on `batch["tiles"]` and `batch["permutation"]`."""

    def __init__(self, settings, encoder, solver):
        super().__init__(name="jigsaw")
        self.settings, self.encoder, self.solver = settings, encoder, solver
        self.permutations = permutation_set(settings.grid**2, settings.permutations)  # (P, T)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")

    def preprocess(self, batch, random):
        """Adds shuffled `tiles` (B, T, h, w, C) float32 in [0, 1] and `permutation` (B,); runs in tf.data."""
        image = augment(batch["image"], random, self.settings)
        index = tf.cast(random.uniform("permutation", ()) * len(self.permutations), tf.int32)  # (B,)
        order = tf.gather(self.permutations, index)  # (B, T): tile at each position
        tiles = self._tiles(image, random.uniform("jitter", (2, self.settings.grid**2)))
        batch |= draw_depth(self.encoder, random, self.settings.grid**2)
        return batch | {"tiles": tf.gather(tiles, order, batch_dims=1), "permutation": index}

    def _tiles(self, image, jitter):
        """Cuts images (B, H, W, C) into tiles (B, T, h, w, C) in order; `jitter` (B, 2, T) in [0, 1) places them."""
        grid, gap = self.settings.grid, self.settings.gap
        cells = np.stack(np.divmod(np.arange(grid**2), grid))  # (2, T): row and column of each tile
        for axis, side in enumerate(image.shape[1:3]):
            cell, size = side // grid, tile_size(side, grid, gap)
            free = tf.cast(jitter[:, axis] * (cell - size + 1), tf.int32)  # (B, T), 0 .. cell − size
            where = (cells[axis] * cell + free)[..., None] + tf.range(size)  # (B, T, size)
            # First the rows of every tile from the image, then its columns from these rows.
            image = tf.gather(image, where, axis=1 if axis == 0 else 3, batch_dims=1 + axis)
        return image

    def train_step(self, batch):
        self.descend(lambda batch: self.batch_loss(batch, training=True), batch)

    def test_step(self, batch):
        self.score(*self.batch_loss(batch, training=False))

    def batch_loss(self, batch, training):
        """Returns the summed loss and the number of images; updates `accuracy`."""
        weight = example_weight(batch)  # (B,)
        tiles = batch["tiles"]
        with stochastic_depth(batch, copies_first=False):
            features = self.encoder(tf.reshape(tiles, (-1, *tiles.shape[2:])), training=training)  # (B·T, D)
        features = tf.reshape(features, (-1, tiles.shape[1] * features.shape[-1]))  # (B, T·D)
        logits = self.solver(features, training=training)  # (B, P)
        self.accuracy.update_state(batch["permutation"], logits, weight)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["permutation"], logits)
        return tf.reduce_sum(weight * loss), tf.reduce_sum(weight)

    def report(self, batch, examples, splits):
        """Images, and their puzzles with the tiles side by side."""
        image, tiles = unit_range(batch["image"]), batch["tiles"]
        rows = tf.split(tiles, self.settings.grid, axis=1)  # grid of (B, grid, h, w, C)
        puzzle = tf.concat([tf.concat(tf.unstack(row, axis=1), axis=2) for row in rows], axis=1)
        return Report(images={"puzzles": [image, tf.image.resize(puzzle, image.shape[1:3], "nearest")]})
