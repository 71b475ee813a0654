"""Scripts outside the package, as modules."""

import importlib.util
import pathlib

ROOT = pathlib.Path(__file__).parents[2]


def benchmark(name):
    """Returns benchmarks/NAME.py as a module."""
    found = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
