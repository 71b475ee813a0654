"""Networks that a card may build: builders, their keywords and annotations."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from ssl_keras import networks
from ssl_keras.engine.precision import dtype_policy
from ssl_keras.networks import BUILDERS, IMAGE_ENCODERS, Network, description, gives_states, realize

SMALL = {  # keywords of a small network of each builder
    **{name: {"image_shape": (32, 32, 3), "width": 4} for name in IMAGE_ENCODERS},
    "dense": {"image_shape": (8, 8, 1), "widths": (6, 4)},
    "dcgan_trunk": {"image_shape": (16, 16, 1), "width": 4},
    "transformer": {
        "vocabulary": 9,
        "context": 6,
        "layers": 1,
        "heads": 2,
        "width": 8,
        "architecture": "modern",
        "causal": True,
    },
    "recurrent": {"vocabulary": 9, "width": 4, "layers": 1},
    "waveform": {"rate": 8_000, "width": 8, "layers": 1, "heads": 2, "channels": 4},
    "classifier_head": {"features": 4, "classes": 3},
    "masked_head": {"vocabulary": 9, "width": 4},
    "untied_head": {"vocabulary": 9, "width": 4},
    "attending_decoder": {"vocabulary": 9, "width": 4, "layers": 1, "source_width": 4},
    "frame_classifier": {"width": 4, "symbols": 5},
    "generator": {"image_shape": (16, 16, 1), "latent": 3, "width": 4},
    "mae_decoder": {"features": 4, "image_shape": (8, 8, 1), "patch": 4, "width": 8, "layers": 1},
    "towers": {
        "features": 4,
        "vocabulary": 9,
        "context": 6,
        "text_layers": 1,
        "text_heads": 2,
        "text_width": 8,
        "projection": 5,
    },
}
every_builder = pytest.mark.parametrize("name", BUILDERS)
# The deeper ones have the same blocks as those of 18 and 50 layers, only more of them.
DEEPER = ("resnet34", "resnet101")
every_graph, every_image_encoder = (
    pytest.mark.parametrize(
        "name", [pytest.param(name, marks=[pytest.mark.slow] if name in DEEPER else []) for name in names]
    )
    for names in (BUILDERS, IMAGE_ENCODERS)
)


def test_every_builder_is_tested():
    assert SMALL.keys() == BUILDERS.keys()


@every_graph
def test_a_description_survives_json(name):
    network = Network(name, **SMALL[name])
    again = Network.from_json(json.loads(json.dumps(network.to_json())))
    assert again == network
    assert description(again.build()) == network


@every_graph
def test_two_graphs_of_a_description_have_the_same_variables(name):
    with tf.Graph().as_default():
        first, second = (Network(name, **SMALL[name]).build() for _ in range(2))
    assert [(v.path, v.shape) for v in first.variables] == [(v.path, v.shape) for v in second.variables]


@every_builder
def test_a_description_names_all_keywords(name):
    """Descriptions include defaults, so that saved ones stay the same if the defaults change."""
    keywords = Network(name, **SMALL[name]).keywords
    assert keywords.keys() >= SMALL[name].keys()
    assert not any(value is None for value in keywords.values())
    lean = {key: value for key, value in keywords.items() if key in SMALL[name]}
    assert Network(name, **lean).keywords == keywords


@every_builder
@pytest.mark.parametrize("value", [None, -1, 10**12, 0.5, "x", [1] * 2000, True, float("nan")])
def test_keywords_that_do_not_fit_are_refused(name, value):
    for keyword, good in SMALL[name].items():
        if value is True and good is True:
            continue
        with pytest.raises(ValueError, match=f"{name}'s {keyword} must be"):
            Network(name, **SMALL[name] | {keyword: value})


@every_builder
def test_unknown_and_missing_keywords_are_refused(name):
    with pytest.raises(ValueError, match=f"The network {name} has no argument telepathy. Expected: "):
        Network(name, **SMALL[name], telepathy=1)
    with pytest.raises(ValueError, match=f"The network {name} has no argument name"):
        Network(name, **SMALL[name], name="x")
    keyword, *_ = SMALL[name]
    with pytest.raises(ValueError, match=f"The network {name} needs .*{keyword}"):
        Network(name, **{key: value for key, value in SMALL[name].items() if key != keyword})


def test_unknown_builders_are_refused():
    with pytest.raises(ValueError, match="Unknown network 'eval'. Expected one of cnn, "):
        Network("eval")
    for entry in ("cnn", None, [], {}, {"builder": ["cnn"]}):
        with pytest.raises(ValueError, match="Expected a network, with a builder and its keywords"):
            Network.from_json(entry)


@every_graph
def test_what_a_builder_declares_holds(name):
    builder, graph = BUILDERS[name], Network(name, **SMALL[name]).build()
    if builder.kind == "head":
        return
    assert gives_states(graph) == builder.states == (len(graph.output_shape) == 3)
    assert builder.any_size == (len(graph.input_shape) == 4 and None in graph.input_shape[1:3])
    if builder.parts is not None:
        assert builder.parts(graph)
        other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        with pytest.raises(ValueError, match="Received: layers"):
            builder.parts(other)
    limit = Network(name, **SMALL[name]).max_tokens
    assert (limit is not None) == (name == "transformer")


@every_image_encoder
def test_every_image_encoder_can_be_chosen(name, rng):
    """Every choice of `--network` takes the keywords of `modalities.vision`, and images of any size."""
    graph = Network(name, image_shape=(32, 32, 3), pool_grid=2, width=4).build()
    for side in (32, 24):
        assert graph(rng.random((2, side, side, 3), np.float32)).shape[0] == 2
    *_, last = BUILDERS[name].maps(graph)
    assert len(last.shape) == 4
    assert graph.output.dtype == "float32"
    assert Network(name, image_shape=(32, 32, 3)).keywords["width"] >= 1


@every_image_encoder
def test_every_weight_of_an_image_encoder_learns(name, rng):
    """Each has a gradient, once no weight is 0; the last scale of a residual branch starts at 0."""
    graph = Network(name, image_shape=(32, 32, 3), width=4).build()
    for variable in graph.trainable_variables:
        variable.assign_add(0.1 * rng.standard_normal(variable.shape).astype(np.float32))
    target = rng.standard_normal((4, graph.output_shape[-1])).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(target * graph(rng.random((4, 32, 32, 3), np.float32), training=True))
    gradients = tape.gradient(loss, [variable.value for variable in graph.trainable_variables])
    for variable, gradient in zip(graph.trainable_variables, gradients):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
        assert np.any(gradient != 0), variable.path


def test_what_stands_for_a_graph_is_realized():
    network = Network("dense", **SMALL["dense"])
    graph = network.build()
    assert realize(graph) is graph
    assert description(realize(network)) == network
    assert description(realize(lambda *arguments: network, 1, 2)) == network
    mine = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    named = keras.Model({mine.inputs[0].name: mine.inputs[0]}, [mine.outputs[0]])
    for graph in (mine, named):
        made = realize(lambda graph=graph: graph)
        assert made.output.shape == (None, 2)
        assert made.input.shape == (None, 4)
        assert made.variables[0] is mine.variables[0]
    assert description(mine) is None
    assert networks.gives_states(mine) is False


class Own(keras.Model):
    def call(self, x):
        return x


def two_ended():
    x = keras.Input((4,))
    return keras.Model(x, [x, keras.layers.Dense(2)(x)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Own, "a subclass of keras.Model, Own"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), "a keras.Sequential without keras.Input"),
        (two_ended, "1 inputs and 2 outputs"),
        (lambda: keras.layers.Dense(2), "Received: Dense"),
        (lambda: None, "NoneType"),
    ],
)
def test_what_is_no_graph_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        realize(make)


# Residual networks have the same kinds of layers as cnn.
every_kind = pytest.mark.parametrize("name", [name for name in BUILDERS if name[:6] != "resnet"])


@every_kind
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_outputs_are_float32_in_any_precision(name, precision):
    with dtype_policy(precision):
        graph = Network(name, **SMALL[name]).build()
    assert {output.dtype for output in keras.tree.flatten(graph.output)} == {"float32"}
    assert {v.dtype for v in graph.variables} == {"float32"}


@every_kind
def test_the_settings_of_keras_do_not_matter(name):
    """A build ignores the settings of keras.json and of the program, and an outer name scope."""

    def told(graph):
        tensors = keras.tree.flatten([graph.input, graph.output])
        return [(x.shape, x.dtype) for x in tensors], [(v.path, v.shape, v.dtype) for v in graph.variables]

    network = Network(name, **SMALL[name])
    expected = told(network.build())
    settings = keras.config
    try:
        settings.set_floatx("float64")
        settings.set_epsilon(1e-3)
        settings.set_image_data_format("channels_first")
        with keras.name_scope("around"):
            assert told(network.build()) == expected
        assert (settings.floatx(), settings.epsilon(), settings.image_data_format()) == (
            "float64",
            1e-3,
            "channels_first",
        )
    finally:
        settings.set_floatx("float32")
        settings.set_epsilon(1e-7)
        settings.set_image_data_format("channels_last")
