"""The vision transformer: against NumPy loops, closed forms, invariances and, in slow tests, PyTorch."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras.data.random import BatchRandom
from ssl_keras.networks import Network, conv, depth_groups, positions, vit, vit_block, vit_ends
from tests.networks.test_transformer import loop_attention


def build(side=16, channels=3, **options):
    """A small network whose weights are all random."""
    keras.utils.set_random_seed(0)
    network = Network(
        "vit", image_shape=(side, side, channels), **{"width": 8, "layers": 2, "heads": 2, "patch": 4} | options
    ).build()
    rng = np.random.default_rng(0)
    for variable in network.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.3, variable.shape))
    return network


def keys(x, a):
    """Keys' cubic kernel, from its definition."""
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def loop_interpolation(old, new, antialias):
    """The weights, one by one, in float64."""
    weights, scale = np.zeros((new, old)), old / new
    for i in range(new):
        center = (i + 0.5) * scale - 0.5
        for j in range(-old, 2 * old):
            if antialias:
                if 0 <= j < old:
                    weights[i, j] += keys((center - j) / max(scale, 1.0), -0.5)
            else:
                weights[i, min(max(j, 0), old - 1)] += keys(center - j, -0.75)
        if antialias:
            weights[i] /= weights[i].sum()
    return weights


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("old", "new"), [(7, 7), (7, 4), (7, 12), (4, 3), (16, 5)])
def test_interpolation_equals_a_loop(old, new, antialias):
    ours = positions.interpolation(old, new, antialias).numpy()
    np.testing.assert_allclose(ours, loop_interpolation(old, new, antialias), atol=1e-5)
    np.testing.assert_allclose(ours.sum(1), 1, atol=1e-5)  # a constant stays a constant
    np.testing.assert_allclose(ours, ours[::-1, ::-1], atol=1e-5)  # and a mirror image a mirror image
    if old == new:
        np.testing.assert_allclose(ours, np.eye(old), atol=1e-6)


@pytest.mark.slow  # test_interpolation_equals_a_loop has the same kernel
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(9, 5), (3, 2), (16, 11), (37, 37), (20, 41)])
def test_interpolation_equals_torch(rng, antialias, size):
    torch = pytest.importorskip("torch")
    grid = rng.normal(size=(16, 11, 6)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(grid.transpose(2, 0, 1)[None]), size, mode="bicubic", align_corners=False, antialias=antialias
    )[0]
    ours = positions.resize(tf.constant(grid), *size, antialias)
    np.testing.assert_allclose(ours, theirs.numpy().transpose(1, 2, 0), atol=1e-5)


def test_sine_positions_equal_a_loop():
    table = positions.sine_positions(3, 5, 8).reshape(3, 5, 8)
    for row in range(3):
        for column in range(5):
            for i in range(2):
                rate = 10_000 ** (-i / 2)
                expected = [f(p * rate) for p in (column, row) for f in (math.sin, math.cos)]
                np.testing.assert_allclose(table[row, column, i::2], expected, atol=1e-6)
    with pytest.raises(ValueError, match="width must be a multiple of 4 for sine positions. Received: 6"):
        positions.sine_positions(2, 2, 6)


def norm(x, scale, shift, epsilon=1e-6):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + shift


def exact_gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(("gelu", "function"), [("exact", exact_gelu), ("quick", quick_gelu), ("tanh", tanh_gelu)])
def test_a_network_equals_loops(rng, gelu, function):
    """Everything by hand, in float64: patches, positions, prefix, blocks with LayerScale, norms, features."""
    network = build(
        gelu=gelu,
        registers=2,
        layer_scale=0.5,
        input_norm=True,
        features="class",
        mean=(0.1, 0.2, 0.3),
        deviation=(0.5, 0.6, 0.7),
        positions="learned",
    )
    w = {v.path: np.asarray(v, np.float64) for v in network.variables}
    image = rng.random((2, 16, 16, 3))
    pixels = (image - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    x = np.zeros((2, 16, 8))
    for row in range(4):
        for column in range(4):
            patch = pixels[:, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].reshape(2, -1)
            place = row * 4 + column
            x[:, place] = patch @ w["patches/kernel"] + w["patches/bias"] + w["tokens/positions"][place]
    prefix = np.concatenate([w["tokens/class_token"][None], w["tokens/registers"]])
    x = np.concatenate([np.broadcast_to(prefix, (2, 3, 8)), x], 1)
    x = norm(x, w["input_norm/scale"], w["input_norm/shift"])
    for i in range(2):
        b = {path.split("/")[1]: value for path, value in w.items() if path.startswith(f"block_{i}/")}
        h = norm(x, b["attention_norm_scale"], b["attention_norm_shift"]) @ b["attention_in"] + b["attention_in_bias"]
        q, k, v = (part.reshape(2, 19, 2, 4) for part in np.split(h, 3, -1))
        y = loop_attention(q, k, v, False, np.ones((2, 19), bool)).reshape(2, 19, 8)
        x = x + b["attention_layer_scale"] * (y @ b["attention_out"] + b["attention_out_bias"])
        h = function(norm(x, b["mlp_norm_scale"], b["mlp_norm_shift"]) @ b["mlp_in"] + b["mlp_in_bias"])
        x = x + b["mlp_layer_scale"] * (h @ b["mlp_out"] + b["mlp_out_bias"])
    x = norm(x, w["norm/scale"], w["norm/shift"])
    np.testing.assert_allclose(network(image.astype(np.float32)), x[:, 0], atol=1e-4)


def test_weights_of_attention_sum_to_one(rng):
    network = build()
    x = rng.normal(size=(2, 17, 8)).astype(np.float32)
    weights = vit.parts(network).blocks[0].attention_weights(x)
    assert weights.shape == (2, 2, 17, 17)
    np.testing.assert_allclose(tf.reduce_sum(weights, -1), np.ones((2, 2, 17)), atol=1e-5)


@pytest.mark.parametrize(("options", "size"), [({}, 8), ({"pool_grid": 2}, 32), ({"features": "class"}, 8)])
def test_images_of_any_size(rng, options, size):
    """Also those that are not multiples of the patch, and in a graph that does not know the size."""
    network = build(positions="learned", **options)
    assert network.output_shape == (None, size)
    image = rng.random((2, 21, 18, 3)).astype(np.float32)
    unknown = tf.function(network, input_signature=[tf.TensorSpec((None, None, None, 3))])
    features = network(image)
    assert features.shape == (2, size)
    np.testing.assert_allclose(unknown(image), features, atol=1e-5)
    # Padding has the mean color: an image that ends with it is as good as a cropped one.
    gray = np.full((2, 24, 20, 3), 0.5, np.float32)
    gray[:, :21, :18] = image
    np.testing.assert_allclose(network(gray), features, atol=1e-5)


def test_features_are_means_over_patches(rng):
    network = build(registers=1)
    image = rng.random((2, 16, 16, 3)).astype(np.float32)
    states = keras.Model(network.input, vit.parts(network).norm.output)(image).numpy()[:, 2:]
    np.testing.assert_allclose(network(image), states.mean(1), atol=1e-5)
    quarters = build(registers=1, pool_grid=2)
    expected = states.reshape(2, 4, 4, 8)[:, :2, 2:].mean((1, 2))
    np.testing.assert_allclose(quarters(image)[:, 8:16], expected, atol=1e-5)


def test_without_positions_patches_have_no_order(rng):
    """The mean over patches does not change if patches change places, once all positions are equal."""
    network = build(positions="learned")
    table = vit.parts(network).tokens.positions
    image = rng.random((2, 16, 16, 3)).astype(np.float32)
    moved = np.concatenate([image[:, 4:], image[:, :4]], 1)
    assert np.abs(network(image) - network(moved)).max() > 1e-2
    table.assign(tf.zeros_like(table))
    np.testing.assert_allclose(network(image), network(moved), atol=1e-5)


def test_patches_are_cut_and_joined(rng):
    image = rng.random((2, 8, 12, 3)).astype(np.float32)
    patches = vit_ends.cut_patches(tf.constant(image), 4)
    assert patches.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(patches[1, 1, 2], image[1, 4:8, 8:12].reshape(-1))
    np.testing.assert_array_equal(vit_ends.join_patches(patches, 4), image)


def test_images_are_resized_inside(rng):
    network = build(resize=16)
    image = rng.random((2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(network(image), build()(image), atol=1e-6)
    large = np.repeat(np.repeat(image, 3, 1), 3, 2)
    assert network(large).shape == (2, 8)
    plain = build()(np.full((1, 16, 16, 3), 0.3, np.float32))
    np.testing.assert_allclose(network(np.full((1, 40, 30, 3), 0.3, np.float32)), plain, atol=1e-5)


def test_levels_of_depth():
    levels = depth_groups(build(positions="learned", input_norm=True, registers=2))
    assert [level[0].path.split("/")[0] for level in levels] == ["patches", "block_0", "block_1"]
    assert {v.path for v in levels[0]} >= {"tokens/positions", "tokens/registers", "input_norm/scale"}
    assert [v.path for v in levels[-1]][-2:] == ["norm/scale", "norm/shift"]


def test_stochastic_depth_skips_branches(rng):
    """A skipped branch adds nothing, and a kept one is divided by the probability to keep it."""
    network = build(drop_path=0.5, layers=2)
    first, last = vit_block.blocks_of(network)
    assert (first.rate, last.rate) == (0.25, 0.5)
    x = rng.normal(size=(2, 5, 8)).astype(np.float32)
    numbers = np.ones((2, 1, 4), np.float32)
    numbers[0, 0, 2:] = 0  # the first image skips both branches of the last block
    with vit_block.stochastic_depth({"depth": tf.constant(numbers)}):
        y = last(x, training=True).numpy()
        np.testing.assert_array_equal(last(x, training=False), last(x))
    np.testing.assert_array_equal(y[0], x[0])
    attention = last(x) - x  # both branches together, without depth
    assert np.abs(y[1] - x[1]).max() > np.abs(attention[1]).max()
    np.testing.assert_array_equal(last(x, training=True), last(x))  # outside of an objective nothing is skipped


def test_stochastic_depth_depends_on_the_position_alone():
    network = build(drop_path=0.2)
    whole = vit_block.draw_depth(network, BatchRandom(0, 3, 0, 8), 2)["depth"]
    half = vit_block.draw_depth(network, BatchRandom(0, 3, 4, 4), 2)["depth"]
    np.testing.assert_array_equal(whole[4:], half)
    assert vit_block.draw_depth(build(), BatchRandom(0, 3, 0, 8)) == {}
    assert vit_block.draw_depth(conv.builder_of("cnn")((8, 8, 1), width=2), BatchRandom(0, 3, 0, 8)) == {}


@pytest.mark.parametrize("copies_first", [True, False])
def test_copies_of_an_image_skip_on_their_own(copies_first):
    numbers = tf.reshape(tf.range(12.0), (3, 2, 2))
    with vit_block.stochastic_depth({"depth": numbers}, copies_first):
        flat = vit_block._DEPTH.get()
    expected = [0, 4, 8, 2, 6, 10] if copies_first else [0, 2, 4, 6, 8, 10]
    np.testing.assert_array_equal(flat[:, 0], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "width must be a multiple of heads. Received: width 8, 3 heads"),
        ({"class_token": False, "features": "class"}, 'features "class" needs a class token'),
        ({"pool_grid": 2, "features": "class"}, 'pool_grid must be 1 with features "class". Received: 2'),
        ({"mean": (0.5, 0.5)}, "mean must have 1 or 3 numbers"),
        ({"deviation": (0.0,)}, "deviation must be positive"),
        ({"patch": 0}, "vit's patch must be 1 to 256. Received: 0"),
        ({"width": 6}, "width must be a multiple of 4 for sine positions. Received: 6"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_heads_follow_from_the_width():
    for width, heads in ((192, 3), (384, 6), (768, 12), (1024, 16), (32, 1), (200, 2)):
        assert vit_block.num_heads(width) == heads


@pytest.mark.parametrize(("width", "layers", "millions"), [(384, 12, 22.1), (768, 12, 86.6), (1024, 24, 304.3)])
def test_the_papers_sizes(width, layers, millions):
    """S, B and L as DeiT and the paper count them, with learned positions and a classifier of 1000 classes."""
    with tf.Graph().as_default():
        network = Network(
            "vit", image_shape=(224, 224, 3), width=width, layers=layers, patch=16, positions="learned"
        ).build()
    count = network.count_params() + width + 1000 * (width + 1)  # the class token has a position there
    assert round(count / 1e6, 1) == millions
