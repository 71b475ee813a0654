"""Objectives: one module each, named like the objective; every module implements `ObjectiveModule`."""

from __future__ import annotations

import importlib
import pkgutil
import typing

if typing.TYPE_CHECKING:  # `names` must not import TensorFlow
    from ssl_keras.engine.config import Training
    from ssl_keras.engine.objective import Objective
    from ssl_keras.networks import Network


@typing.runtime_checkable
class ObjectiveModule(typing.Protocol):
    """The interface of a module in this folder."""

    DEFAULTS: Training
    """Default training settings."""
    Settings: type
    """A frozen dataclass of the objective's settings; each field is a flag of the command line."""

    def prepare(settings, splits, init=None):
        """Returns (settings, splits) for `build` and `preprocess`.

        Completes the settings from the data and the saved encoder `init`. Raises ValueError for unsuitable data.
        """

    def encoder(settings, spec) -> Network:
        """Returns the encoder as a `Network`, whose `build()` makes the graph; `spec` is `splits.train.spec()`."""

    def build(settings, spec, encoder=None) -> Objective:
        """Returns the objective; `encoder` is a functional graph, a `Network` or a function, by default the module's.

        The objective's `head`, which is saved with the encoder, must be built from a `Network`.
        """


def names():
    """Returns the names of all objectives, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module(name) -> ObjectiveModule:
    """Imports the module of the objective `name`. Raises ValueError if there is none."""
    if name not in names():
        raise ValueError(f"Unknown objective {name!r}. Expected one of {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name}")
