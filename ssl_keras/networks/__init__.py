"""Networks: builders from plain keywords to functional graphs, and the list of what may be built.

A saved encoder's card names a builder of `BUILDERS` and its keywords. Nothing else is called on a card's word, and
each keyword is checked against the builder's annotations first.
"""

import dataclasses
import functools
import inspect
import typing

import keras
import numpy as np

from ssl_keras.data import ranges
from ssl_keras.networks import conv, dcgan, dense, recurrent, towers, transformer, waveform
from ssl_keras.startup import keras_settings


@dataclasses.dataclass(frozen=True)
class Builder:
    """A function that builds a graph, and what evaluation and fine-tuning need to know of its graphs.

    Attributes:
        build: function of plain keywords, each annotated, and `name` to a functional graph.
        kind: the kind of network, which chooses what fine-tuning tries: dense, convolution, transformer, recurrent or
            sound; or "head" for what is put on an encoder's features.
        any_size: whether the graph takes images of any size.
        states: whether the graph gives a state of each token (B, T, D), which are averaged over those that are not
            padding, or else features (B, D).
        parts: function of a graph of this builder to its named parts, or None where it is only called.
    """

    build: typing.Callable
    kind: str
    any_size: bool = False
    states: bool = False
    parts: typing.Callable | None = None


def _convolution(build):
    return Builder(build, "convolution", any_size=True, parts=conv.stage_maps)


# What `--network` chooses among: builders that take `image_shape`, `width` and `pool_grid`, the last two with
# defaults, to graphs that take images of any size and have layers `stage_0`, `stage_1`, ….
IMAGE_ENCODERS = {
    "cnn": _convolution(conv.builder_of("cnn")),
    "resnet18": _convolution(conv.builder_of("resnet18")),
    "resnet34": _convolution(conv.builder_of("resnet34")),
    "resnet50": _convolution(conv.builder_of("resnet50")),
    "resnet101": _convolution(conv.builder_of("resnet101")),
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
    "attending_decoder": Builder(recurrent.attending_decoder, "head"),
    "frame_classifier": Builder(waveform.frame_classifier, "head"),
    "generator": Builder(dcgan.generator, "head"),
    "towers": Builder(towers.towers, "head"),
}


class Network:
    """A network that can be built: the name of a builder and its keywords.

    Args:
        builder: a key of `BUILDERS`.
        **keywords: of that builder.

    Raises:
        ValueError: an unknown builder; a keyword that is unknown, missing, or does not fit its annotation.
    """

    def __init__(self, builder, **keywords):
        if builder not in BUILDERS:
            raise ValueError(f"Unknown network {builder!r}. There are: {', '.join(BUILDERS)}.")
        hints, defaults = _hints(builder), _defaults(builder)
        unknown = sorted(keywords.keys() - hints.keys())
        if unknown:
            raise ValueError(f"The network {builder} has no {', '.join(unknown)}. Expected: {', '.join(hints)}.")
        missing = sorted(hints.keys() - defaults.keys() - keywords.keys())
        if missing:
            raise ValueError(f"The network {builder} needs {', '.join(missing)}.")
        # All of them, so that a saved description does not depend on what the defaults come to be.
        self.builder, self.keywords = builder, defaults | {k: _frozen(value) for k, value in keywords.items()}
        for name, value in self.keywords.items():
            ranges.check(f"{builder}'s {name}", value, hints[name])

    @property
    def kind(self):
        """As of `Builder`."""
        return BUILDERS[self.builder].kind

    @property
    def any_size(self):
        """As of `Builder`."""
        return BUILDERS[self.builder].any_size

    @property
    def max_tokens(self):
        """The most tokens that the graph takes, or None where there is no such limit."""
        return self.keywords["context"] if self.builder == "transformer" else None

    def __eq__(self, other):
        return isinstance(other, Network) and self.to_json() == other.to_json()

    def __repr__(self):
        return f"Network({self.builder!r}, {', '.join(f'{k}={v!r}' for k, v in self.keywords.items())})"

    def to_json(self):
        """{"builder": …, keyword: value}, as a card holds it."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in self.keywords.items()}
        return {"builder": self.builder, **plain}

    @classmethod
    def from_json(cls, entry):
        """The network of a card's entry. Raises ValueError as the class, and where it is no such entry."""
        if not isinstance(entry, dict) or not isinstance(entry.get("builder"), str):
            raise ValueError(f"Expected a network: a builder and its keywords. Received: {str(entry)[:100]}")
        return cls(**entry)

    def build(self):
        """A fresh functional graph, which remembers this description."""
        with keras_settings():
            graph = BUILDERS[self.builder].build(**self.keywords)
        graph.description = self
        return graph


def description(graph):
    """The `Network` that a graph was built from; None for a graph of another architecture."""
    return getattr(graph, "description", None)


def gives_states(graph):
    """Whether a graph gives states (B, T, D) of tokens; of another architecture, whether its output has three axes."""
    network = description(graph)
    return len(graph.output_shape) == 3 if network is None else BUILDERS[network.builder].states


def realize(encoder, *arguments):
    """The graph that `encoder` stands for: a graph, a `Network`, or a function of `arguments` to one of these.

    A `keras.Sequential`, or a graph that names its one input or output, becomes a functional graph of the same layers.

    Raises:
        ValueError: something else, such as a subclass of `keras.Model`, whose input and output nothing tells.
    """
    made = encoder if isinstance(encoder, keras.Model | Network) or not callable(encoder) else encoder(*arguments)
    if isinstance(made, Network):
        return made.build()
    inputs, outputs = getattr(made, "inputs", None), getattr(made, "outputs", None)
    if not isinstance(made, keras.Model) or not inputs or not outputs or len(inputs) > 1 or len(outputs) > 1:
        raise ValueError(
            "Expected an encoder as a functional graph, keras.Model(input, output), of one input and one output, or a "
            f"keras.Sequential that begins with keras.Input(shape). Received: {_told(made)}. "
            "Call it on an input: x = keras.Input(shape); encoder = keras.Model(x, yours(x))"
        )
    if isinstance(made, keras.Sequential) or not all(map(keras.utils.is_keras_tensor, (made.input, made.output))):
        return keras.Model(inputs[0], outputs[0], name=made.name)
    return made


def _told(made):
    """Words for something that is no encoder."""
    if not isinstance(made, keras.Model):
        return type(made).__name__
    if isinstance(made, keras.Sequential):
        return "one without keras.Input"
    if not getattr(made, "inputs", None):
        return f"a subclass, {type(made).__name__}"
    return f"a graph of {len(made.inputs)} inputs and {len(made.outputs)} outputs"


def _frozen(value):
    """A keyword's value as a card holds it, with tuples for lists: NumPy's scalars become Python's."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(entry) for entry in value)
    return value.item() if isinstance(value, np.generic) else value


@functools.cache
def _hints(builder):
    """{keyword: annotation} of a builder's keywords, without the graph's name."""
    hints = typing.get_type_hints(BUILDERS[builder].build, include_extras=True)
    return {name: hint for name, hint in hints.items() if name not in ("name", "return")}


@functools.cache
def _defaults(builder):
    """{keyword: default} of those of a builder's keywords that have one."""
    parameters = inspect.signature(BUILDERS[builder].build).parameters
    return {
        name: parameters[name].default
        for name in _hints(builder)
        if parameters[name].default is not inspect.Parameter.empty
    }
