"""Objectives, one file per system; the file's name is the objective's name.

Each file is an `ObjectiveModule`.
"""

from __future__ import annotations

import importlib
import pkgutil
import typing

if typing.TYPE_CHECKING:  # names alone are listed without TensorFlow
    import keras

    from ssl_keras.engine.config import Training
    from ssl_keras.engine.objective import Objective


@typing.runtime_checkable
class ObjectiveModule(typing.Protocol):
    """The names that a file of this folder must define.

    It may define `head(settings, spec)` too: a fresh graph of the `Objective`'s `head`, the network that is
    saved beside the encoder. Without it a saved encoder has none.
    """

    DEFAULTS: Training
    """How to train where nothing else is asked for."""
    Settings: type
    """A frozen dataclass of what defines the system; its fields are the flags of the command line."""

    def prepare(settings, splits, init=None):
        """(settings, splits) as `build` and the views take them.

        Refuses data that do not suit, and fills in what data or the saved encoder `init` decide.
        """

    def encoder(settings, spec) -> keras.Model:
        """A fresh encoder graph; `spec` is `splits.train.spec()`."""

    def build(settings, spec, encoder=None) -> Objective:
        """The objective; `encoder` is a functional graph, or a function like the module's own, the default."""


def names():
    """The objectives there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module(name) -> ObjectiveModule:
    """The module of the objective `name`. Raises ValueError saying which exist."""
    if name not in names():
        raise ValueError(f"Unknown objective {name!r}. There are: {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name}")
