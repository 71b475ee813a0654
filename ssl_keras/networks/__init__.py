"""Networks: functions that build functional graphs from plain keywords, and the registry of these builders.

A saved encoder's card names a builder in `BUILDERS` and its keywords. A card can cause no other call, and each keyword
is first checked against the builder's annotations.
"""

import dataclasses
import functools
import inspect
import re
import typing

import keras
import numpy as np

from ssl_keras.data import ranges
from ssl_keras.networks import (
    conv,
    dcgan,
    dense,
    mae_decoder,
    recurrent,
    towers,
    transformer,
    untied_head,
    vit,
    waveform,
)
from ssl_keras.startup import keras_settings


@dataclasses.dataclass(frozen=True)
class Builder:
    """A function that builds a graph, with the facts about its graphs that evaluation and fine-tuning need.

    Attributes:
        build: function from plain keywords, each annotated, and `name`, to a functional graph.
        kind: "dense", "convolution", "vision_transformer", "transformer", "recurrent" or "sound", which selects the
            search grid of fine-tuning; or "head" for a network on top of an encoder.
        any_size: whether the graph takes images of any size.
        states: whether the graph returns a state per token, (B, T, D), to be pooled without padding, see `pooling_of`;
            otherwise it returns features (B, D).
        parts: function that returns the named parts of a graph; None if nothing needs them.
        maps: function that returns the maps (B, h, w, channels) of a graph of images, the last of which a pool grid
            divides; None for other graphs.
    """

    build: typing.Callable
    kind: str
    any_size: bool = False
    states: bool = False
    parts: typing.Callable | None = None
    maps: typing.Callable | None = None


def _convolution(build):
    return Builder(build, "convolution", any_size=True, parts=conv.stage_maps, maps=conv.stage_maps)


# The choices of `--network`: builders from `image_shape` and, with defaults, `width` and `pool_grid`, to graphs that
# take images of any size.
IMAGE_ENCODERS = {
    "cnn": _convolution(conv.builder_of("cnn")),
    "resnet18": _convolution(conv.builder_of("resnet18")),
    "resnet34": _convolution(conv.builder_of("resnet34")),
    "resnet50": _convolution(conv.builder_of("resnet50")),
    "resnet101": _convolution(conv.builder_of("resnet101")),
    "vit": Builder(vit.vit, "vision_transformer", any_size=True, parts=vit.parts, maps=vit.patch_maps),
}
BUILDERS = {
    **IMAGE_ENCODERS,
    "dense": Builder(dense.dense_encoder, "dense"),
    "dcgan_trunk": Builder(dcgan.trunk, "convolution", parts=conv.stage_maps),
    "transformer": Builder(transformer.transformer, "transformer", states=True, parts=transformer.parts),
    "recurrent": Builder(recurrent.recurrent_encoder, "recurrent", states=True, parts=recurrent.parts),
    "waveform": Builder(waveform.waveform_encoder, "sound", parts=waveform.parts),
    "classifier_head": Builder(dense.classifier_head, "head"),
    "masked_head": Builder(transformer.masked_head, "head"),
    "untied_head": Builder(untied_head.untied_head, "head"),
    "attending_decoder": Builder(recurrent.attending_decoder, "head"),
    "frame_classifier": Builder(waveform.frame_classifier, "head"),
    "generator": Builder(dcgan.generator, "head"),
    "mae_decoder": Builder(mae_decoder.mae_decoder, "head"),
    "towers": Builder(towers.towers, "head"),
}


class Network:
    """The description of a network: the name of a builder and its keywords.

    Args:
        builder: a key of `BUILDERS`.
        **keywords: the builder's arguments.

    Raises:
        ValueError: an unknown builder; a keyword that is unknown, is missing or does not fit its annotation.
    """

    def __init__(self, builder, **keywords):
        if builder not in BUILDERS:
            raise ValueError(f"Unknown network {builder!r}. Expected one of {', '.join(BUILDERS)}.")
        hints, defaults = _hints(builder), _defaults(builder)
        unknown = sorted(keywords.keys() - hints.keys())
        if unknown:
            raise ValueError(
                f"The network {builder} has no argument {', '.join(unknown)}. Expected: {', '.join(hints)}."
            )
        missing = sorted(hints.keys() - defaults.keys() - keywords.keys())
        if missing:
            raise ValueError(f"The network {builder} needs values for {', '.join(missing)}.")
        # With the defaults, so that a saved description stays the same if these change.
        self.builder, self.keywords = builder, defaults | {k: _to_plain(value) for k, value in keywords.items()}
        for name, value in self.keywords.items():
            ranges.check(f"{builder}'s {name}", value, hints[name])

    @property
    def kind(self):
        """The kind of network, see `Builder`."""
        return BUILDERS[self.builder].kind

    @property
    def any_size(self):
        """True if the graph takes images of any size."""
        return BUILDERS[self.builder].any_size

    @property
    def max_tokens(self):
        """The largest number of tokens that the graph takes, or None if there is no limit."""
        return self.keywords["context"] if self.builder == "transformer" else None

    def __eq__(self, other):
        return isinstance(other, Network) and self.to_json() == other.to_json()

    def __repr__(self):
        return f"Network({self.builder!r}, {', '.join(f'{k}={v!r}' for k, v in self.keywords.items())})"

    def to_json(self):
        """Returns {"builder": …, keyword: value}, as it is stored in a card."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in self.keywords.items()}
        return {"builder": self.builder, **plain}

    @classmethod
    def from_json(cls, entry):
        """Reads the network of a card's entry. Raises ValueError if the entry is not a valid network."""
        if not isinstance(entry, dict) or not isinstance(entry.get("builder"), str):
            raise ValueError(f"Expected a network, with a builder and its keywords. Received: {str(entry)[:100]}")
        return cls(**entry)

    def build(self):
        """Builds a functional graph with fresh weights; `description` of the graph returns this object."""
        with keras_settings():
            graph = BUILDERS[self.builder].build(**self.keywords)
        graph.description = self
        return graph


def description(graph):
    """Returns the `Network` that a graph was built from, or None for a graph that was built otherwise."""
    return getattr(graph, "description", None)


def gives_states(graph):
    """Returns whether a graph outputs states (B, T, D); without a description, whether its output has three axes."""
    network = description(graph)
    return len(graph.output_shape) == 3 if network is None else BUILDERS[network.builder].states


def pooling_of(graph):
    """Returns how states (B, T, D) of a graph become features: "mean" unless its description has another `pooling`."""
    network = description(graph)
    return "mean" if network is None else network.keywords.get("pooling", "mean")


def pooled_features(encoder, x, training=False):
    """Returns an encoder's features (B, D) of a batch of inputs; states (B, T, D) are pooled, see `pooling_of`."""
    features = encoder(x, training=training)
    return transformer.pool(features, x, pooling_of(encoder)) if len(features.shape) == 3 else features


def copy_of(graph):
    """Returns a new graph with the same layers and the same weights."""
    network = description(graph)
    copy = keras.models.clone_model(graph) if network is None else network.build()
    copy.set_weights(graph.get_weights())
    return copy


DEPTH = re.compile(r"(stage|block|recurrent)_\d+")  # names of layers that form one level of depth
EMBEDDINGS = {"patches", "tokens"}  # layers of a vision transformer before its blocks, which form another one


def depth_groups(graph):
    """Splits the trainable variables of a graph into levels of depth, from the input to the output.

    A level is a stage or block of the project's networks, or a layer of other graphs. Norms, which have no matrix, are
    on the level of the layer before them.
    """
    groups, last = [], None
    for layer in graph.layers:
        variables = layer.trainable_variables
        match = DEPTH.match(layer.name)
        level = match[0] if match else "embeddings" if layer.name in EMBEDDINGS else layer.name
        if groups and (level == last or all(len(v.shape) < 2 for v in variables)):
            groups[-1].extend(variables)
        elif variables:
            groups.append(list(variables))
            last = level
    return groups


def split_by_depth(graph, variables):
    """Returns (the `depth_groups` of a graph, the list of those `variables` that are in none of them)."""
    levels = depth_groups(graph)
    own = {id(variable) for level in levels for variable in level}
    return levels, [variable for variable in variables if id(variable) not in own]


def realize(encoder, *arguments):
    """Returns `encoder` as a functional graph.

    `encoder` is a graph, a `Network`, or a function of `arguments` that returns one of these. A `keras.Sequential`, or
    a graph with a dict of one input or output, is turned into a functional graph of the same layers.

    Raises:
        ValueError: anything else, such as a subclass of `keras.Model`, whose input and output are not known.
    """
    graph = encoder if isinstance(encoder, keras.Model | Network) or not callable(encoder) else encoder(*arguments)
    if isinstance(graph, Network):
        return graph.build()
    inputs, outputs = getattr(graph, "inputs", None), getattr(graph, "outputs", None)
    if not isinstance(graph, keras.Model) or not inputs or not outputs or len(inputs) > 1 or len(outputs) > 1:
        raise ValueError(
            "Expected an encoder as a functional graph, keras.Model(input, output), with one input and one output, or "
            f"a keras.Sequential that begins with keras.Input(shape). Received: {_describe(graph)}. "
            "Call it on an input: x = keras.Input(shape); encoder = keras.Model(x, yours(x))"
        )
    if isinstance(graph, keras.Sequential) or not all(map(keras.utils.is_keras_tensor, (graph.input, graph.output))):
        return keras.Model(inputs[0], outputs[0], name=graph.name)
    return graph


def _describe(graph):
    """Describes an object that is not an encoder, for an error message."""
    if not isinstance(graph, keras.Model):
        return type(graph).__name__
    if isinstance(graph, keras.Sequential):
        return "a keras.Sequential without keras.Input"
    if not getattr(graph, "inputs", None):
        return f"a subclass of keras.Model, {type(graph).__name__}"
    return f"a graph with {len(graph.inputs)} inputs and {len(graph.outputs)} outputs"


def _to_plain(value):
    """Converts a keyword's value to plain Python: lists to tuples, NumPy scalars to numbers."""
    if isinstance(value, list | tuple):
        return tuple(_to_plain(entry) for entry in value)
    return value.item() if isinstance(value, np.generic) else value


@functools.cache
def _hints(builder):
    """Returns {keyword: annotation} of a builder, without the graph's name."""
    hints = typing.get_type_hints(BUILDERS[builder].build, include_extras=True)
    return {name: hint for name, hint in hints.items() if name not in ("name", "return")}


@functools.cache
def _defaults(builder):
    """Returns {keyword: default} of a builder, for the keywords that have a default."""
    parameters = inspect.signature(BUILDERS[builder].build).parameters
    return {
        name: parameters[name].default
        for name in _hints(builder)
        if parameters[name].default is not inspect.Parameter.empty
    }
