"""Jigsaw puzzles: the permutations, the tiles, and that a solved puzzle is the image."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.data.random import BatchRandom
from ssl_keras.data.splits import from_arrays
from ssl_keras.engine.config import Training
from ssl_keras.networks.dense import dense_encoder
from ssl_keras.objectives import jigsaw
from ssl_keras.objectives.jigsaw import Settings, permutation_set
from ssl_keras.training.pretrain import pretrain


def distances(chosen):
    return [int((a != b).sum()) for a, b in itertools.combinations(chosen, 2)]


def test_permutations_are_far_from_each_other():
    nine = permutation_set(9, 64)
    assert nine.shape == (64, 9)
    assert (np.sort(nine, 1) == np.arange(9)).all()
    assert min(distances(nine)) >= 7  # among 64 random ones, two are as near as 4
    rng = np.random.default_rng(0)
    random = [rng.permutation(9) for _ in range(64)]
    assert min(distances(random)) < min(distances(nine))
    assert np.mean(distances(random)) < np.mean(distances(nine))
    assert min(distances(permutation_set(9, 9))) == 9  # nine can differ everywhere, as in a Latin square
    four = permutation_set(4, 24)
    assert len({tuple(p) for p in four}) == 24
    assert min(distances(permutation_set(4, 4))) == 4


def objective_of(side, channels=1, **options):
    spec = {"image": ((side, side, channels), tf.uint8)}
    return jigsaw.build(Settings(width=4, **options), spec)


@pytest.mark.parametrize(("side", "grid", "count"), [(28, 2, 24), (35, 2, 24), (36, 3, 64)])
def test_grid_and_permutations_follow_the_size(side, grid, count):
    objective = objective_of(side)
    assert objective.settings.grid == grid
    assert objective.permutations.shape == (count, grid**2)


@pytest.mark.parametrize("side", [28, 36])
def test_a_puzzle_put_right_is_the_image(side, rng):
    objective = objective_of(side, gap=0.0)
    image = tf.constant(rng.integers(0, 256, (5, side, side, 1), np.uint8))
    batch = objective.preprocess({"image": image}, BatchRandom(0, 3, 0, 5))
    grid, size = objective.settings.grid, side // objective.settings.grid
    for one, tiles, index in zip(image.numpy(), batch["tiles"].numpy(), batch["permutation"].numpy()):
        right = np.empty_like(tiles)
        right[objective.permutations[index]] = tiles
        rows = right.reshape(grid, grid, size, size)
        np.testing.assert_allclose(rows.transpose(0, 2, 1, 3).reshape(side, side), one[..., 0] / 255, atol=1e-6)


def test_tiles_lie_in_their_cells_with_jitter_and_gap():
    side, objective = 30, objective_of(30, gap=0.2)
    place = np.arange(side * side, dtype=np.float32).reshape(1, side, side, 1) / side**2
    image = tf.constant(np.repeat(place, 600, 0))
    batch = objective.preprocess({"image": image}, BatchRandom(0, 0, 0, 600))
    size = 12
    assert batch["tiles"].shape == (600, 4, size, size, 1)
    corner = np.rint(batch["tiles"].numpy()[:, :, 0, 0, 0] * side**2).astype(int)
    order = objective.permutations[batch["permutation"].numpy()]
    rows, columns = np.divmod(corner, side)
    free_rows, free_columns = rows - 15 * (order // 2), columns - 15 * (order % 2)
    for free in (free_rows, free_columns):
        assert set(np.unique(free)) == {0, 1, 2, 3}
        assert np.bincount(free.ravel()).min() > 0.2 * free.size
    assert abs(np.corrcoef(free_rows.ravel(), free_columns.ravel())[0, 1]) < 0.1
    assert np.bincount(batch["permutation"], minlength=24).min() > 5


def test_puzzles_belong_to_their_positions(rng):
    objective = objective_of(28)
    image = tf.constant(rng.integers(0, 256, (16, 28, 28, 1), np.uint8))
    whole = objective.preprocess({"image": image}, BatchRandom(0, 3, 0, 16))
    part = objective.preprocess({"image": image[4:8]}, BatchRandom(0, 3, 4, 4))
    np.testing.assert_array_equal(whole["tiles"][4:8], part["tiles"])
    np.testing.assert_array_equal(whole["permutation"][4:8], part["permutation"])


def test_one_encoder_sees_each_tile_by_itself(rng):
    """Changing a tile changes only its own features."""
    objective = objective_of(28)
    tiles = rng.random((2, 4, 11, 11, 1), np.float32)
    other = tiles.copy()
    other[:, 2] = rng.random((2, 11, 11, 1))
    seen = []
    objective.solver = lambda x, training: seen.append(x.numpy().reshape(2, 4, -1)) or tf.zeros((2, 24))
    for some in (tiles, other):
        batch = {"tiles": tf.constant(some), "permutation": tf.zeros(2, tf.int32)}
        objective.batch_loss(batch, training=False)
    same = np.isclose(seen[0], seen[1], atol=1e-6).all((0, 2))
    assert same.tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"grid": 4}, "grid must be"),
        ({"grid": 2, "permutations": 25}, "permutations must be 2 to 24"),
        ({"gap": 1.0}, "gap must be"),
        ({"hidden": 0}, "hidden must be"),
        ({"permutations": 1}, "permutations must be"),
    ],
)
def test_settings_are_checked(bad, message):
    with pytest.raises(ValueError, match=message):
        Settings(**bad)


@pytest.mark.fit
def test_images_too_small_are_refused(rng):
    tiny = from_arrays(rng.integers(0, 256, (50, 10, 10), np.uint8))
    with pytest.raises(ValueError, match="Tiles must be at least 6 pixels a side"):
        pretrain("jigsaw", Settings(), Training(steps=2, batch_size=8), data=tiny)
    with pytest.raises(ValueError, match=r"from keras.Input\(\(None, None, C\)\)"):
        jigsaw.build(Settings(), {"image": ((28, 28, 1), tf.uint8)}, dense_encoder((28, 28, 1)))
