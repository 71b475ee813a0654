"""Objectives, one file per system; the file's name is the objective's name.

Each file is an `ObjectiveModule`.
"""

from __future__ import annotations

import importlib
import pkgutil
import typing

if typing.TYPE_CHECKING:  # names alone are listed without TensorFlow
    from ssl_keras.engine.config import Training
    from ssl_keras.engine.objective import Objective
    from ssl_keras.networks import Network


@typing.runtime_checkable
class ObjectiveModule(typing.Protocol):
    """The names that a file of this folder must define."""

    DEFAULTS: Training
    """How to train where nothing else is asked for."""
    Settings: type
    """A frozen dataclass of what defines the system; its fields are the flags of the command line."""

    def prepare(settings, splits, init=None):
        """(settings, splits) as `build` and `preprocess` take them.

        Refuses data that do not suit, and fills in what data or the saved encoder `init` decide.
        """

    def encoder(settings, spec) -> Network:
        """The encoder as a description, whose `build()` makes the graph; `spec` is `splits.train.spec()`."""

    def build(settings, spec, encoder=None) -> Objective:
        """The objective; `encoder` is a graph, a `Network`, or a function like the module's own, the default.

        What is saved beside the encoder, the objective's `head`, must be a graph that a `Network` built.
        """


def names():
    """The objectives there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module(name) -> ObjectiveModule:
    """The module of the objective `name`. Raises ValueError saying which exist."""
    if name not in names():
        raise ValueError(f"Unknown objective {name!r}. There are: {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name}")
