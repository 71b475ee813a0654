"""Objectives, one file per system; the file's name is the objective's name."""

import importlib
import pathlib
import pkgutil
import re


def names():
    """The objectives there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def module(name):
    """The module of the objective `name`. Raises ValueError saying which exist."""
    if name not in names():
        raise ValueError(f"Unknown objective {name!r}. There are: {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name}")


def commands():
    """{command: [the objectives whose modules define `command_command(arguments)`]}.

    Read from the source text: to import an objective takes TensorFlow, which takes seconds.
    """
    found = {}
    for name in names():
        source = pathlib.Path(__path__[0], f"{name}.py").read_text("utf-8")
        for command in re.findall(r"^def (\w+)_command\(", source, re.M):
            found.setdefault(command, []).append(name)
    return found
