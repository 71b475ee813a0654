"""Objectives, one file per system; the file's name is the objective's name."""

import importlib
import pkgutil


def names():
    """The objectives there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module(name):
    """The module of the objective `name`. Raises ValueError saying which exist."""
    if name not in names():
        raise ValueError(f"Unknown objective {name!r}. There are: {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name}")
