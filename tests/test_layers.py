"""Imports go downwards only: each unit of the package imports what stands to its left in ORDER, and itself."""

import ast
import pathlib

import pytest

import ssl_keras

ROOT = pathlib.Path(ssl_keras.__file__).parent
ORDER = (
    "files",
    "startup",
    "data",
    "networks",
    "losses",
    "engine",
    "planning",
    "encoders",
    "evaluation",
    "pictures",
    "modalities",
    "inference",
    "interpretation",
    "objectives",
    "training",
    "downstream",
    "curation",
    "choosing",
    "cli",
    "__main__",
)
MAX_UNITS = 20
BY_NAME = {"import_module", "__import__", "find_spec", "walk_packages", "iter_modules"}
ROOT_TABLE = "__init__.py"  # the public names, which are imported when they are used
TABLES = {ROOT_TABLE, "cli/__init__.py", "objectives/__init__.py"}  # import by name, from a table or a folder


def imported(source):
    """(line, "ssl_keras.…") of every import in a file's text, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def upward(path, source):
    """Lines of a file of the package that import what does not stand to its left, or by name."""
    parts = path.parts
    own = parts[0].removesuffix(".py")
    left = ORDER if str(path) == ROOT_TABLE else ORDER[: ORDER.index(own) + 1]
    wrong = []
    for line, name in imported(source):
        if name.startswith("."):
            wrong.append(f"{path}:{line}: relative import {name}")
        names = name.split(".")
        unit = names[1] if names[0] == "ssl_keras" and len(names) > 1 else ""
        if unit in ORDER and unit not in left:
            wrong.append(f"{path}:{line}: {own} imports {unit}")
    if str(path) not in TABLES:
        wrong += [
            f"{path}:{node.lineno}: imports by name"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) in BY_NAME
            and not _is_foreign(node.args)
        ]
    return wrong


def _is_foreign(arguments):
    """Whether what is imported by name is another project's package: an extra."""
    name = arguments[0] if arguments else None
    return isinstance(name, ast.Constant) and isinstance(name.value, str) and not name.value.startswith("ssl_keras")


def test_every_unit_has_its_place():
    units = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    units -= {"__init__", "__pycache__", "saved_models"}
    assert units == set(ORDER)
    assert len(units) <= MAX_UNITS


def test_imports_go_downwards():
    wrong = [
        line
        for path in sorted(ROOT.rglob("*.py"))
        if "saved_models" not in path.parts
        for line in upward(path.relative_to(ROOT), path.read_text("utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_package_has_a_circle():
    """Files of one package import each other without a circle; a package's `__init__` stands above its files."""
    files = {path.relative_to(ROOT): path.read_text("utf-8") for path in ROOT.rglob("*.py")}
    names = {".".join(("ssl_keras", *path.with_suffix("").parts)).removesuffix(".__init__"): path for path in files}
    edges = {path: set() for path in files}
    for path, source in files.items():
        if str(path) == ROOT_TABLE:
            continue
        for _, name in imported(source):
            known = name if name in names else name.rpartition(".")[0]
            if known in names and names[known] != path:
                edges[path].add(names[known])
    state = {}

    def visit(path, trail):
        if state.get(path) == "done":
            return
        assert state.get(path) != "open", f"circle: {' → '.join(map(str, [*trail, path]))}"
        state[path] = "open"
        for other in sorted(edges[path]):
            visit(other, [*trail, path])
        state[path] = "done"

    for path in sorted(edges):
        visit(path, [])


@pytest.mark.parametrize(
    "source",
    [
        "from ssl_keras.training import run",
        "import ssl_keras.objectives.dcgan",
        "def f():\n    from ssl_keras import encoders",
        "import importlib\nimportlib.import_module('ssl_keras.cli')",
        "from . import batches",
    ],
)
def test_the_test_above_can_fail(source):
    assert upward(pathlib.Path("data/sources.py"), source)
    assert not upward(pathlib.Path("data/sources.py"), "from ssl_keras import files\nfrom ssl_keras.data import cache")
