"""Documents agree with the code: imports, modules, commands, flags and quoted messages exist."""

import ast
import importlib
import pathlib
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from ssl_keras import cli, objectives
from ssl_keras.data.batches import Batches

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


def lines():
    return [(path.name, line) for path in DOCUMENTS for line in path.read_text().splitlines()]


def test_imports_are_there():
    found = [re.match(r"from (ssl_keras[\w.]*) import ([\w, ]+)", line) for _, line in lines()]
    found = [match.groups() for match in found if match]
    assert found
    for module, names in found:
        for name in names.split("#")[0].split(","):
            if not hasattr(importlib.import_module(module), name.strip()):
                importlib.import_module(f"{module}.{name.strip()}")


def test_modules_that_are_named_are_there():
    """`networks/conv.py` and the like, in backquotes, from the package's or the project's root."""
    named = {path for _, line in lines() for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)", line)}
    assert len(named) > 10
    missing = [path for path in named if not ((ROOT / path).exists() or (ROOT / "ssl_keras" / path).exists())]
    assert {path for path in missing if "simsiam" not in path} == set()  # the worked example, which is not shipped


def test_names_that_follow_a_module_are_in_it():
    """`data/masking.py` `hash_rows` and the like."""
    pairs = {pair for _, line in lines() for pair in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)` `(\w+)`", line)}
    assert len(pairs) > 10
    files = {path: next(p for p in (ROOT / path, ROOT / "ssl_keras" / path) if p.exists()) for path, _ in pairs}
    assert not [pair for pair in pairs if not re.search(rf"\b{pair[1]}\b", files[pair[0]].read_text("utf-8"))]


def test_flags_are_there(capsys):
    shown, missing = {}, []
    for name, line in lines():
        for command, rest in re.findall(r"ssl-keras (\w+)([^`#|]*)", line):
            of_objective = command in ("pretrain", "plan")
            words = [command, *rest.split()[:of_objective]]
            if command not in cli.COMMANDS or (of_objective and words[-1] not in objectives.names()):
                continue
            if tuple(words) not in shown:
                with pytest.raises(SystemExit):
                    cli.main([*words, "--help"])
                shown[tuple(words)] = re.findall(r"--[\w-]+", capsys.readouterr().out)
            missing += [
                (name, words, flag) for flag in re.findall(r"--[a-z][\w-]*", rest) if flag not in shown[tuple(words)]
            ]
    assert len(shown) > 10
    assert not missing


@pytest.mark.fit
def test_the_worked_objective_learns(monkeypatch, digits):
    code = re.search(r"```python\n(.+?)```", (ROOT / "docs" / "adding_an_objective.md").read_text("utf-8"), re.DOTALL)[
        1
    ]
    module = types.ModuleType("simsiam")
    monkeypatch.setitem(sys.modules, "simsiam", module)  # where dataclasses look for annotations
    exec(compile(code, "simsiam.py", "exec"), vars(module))
    assert isinstance(module, objectives.ObjectiveModule)
    objective = module.build(module.Settings(width=4, crop=0.6), digits.train.spec())
    objective.compile("adam")
    batches = Batches(digits.train, 64, preprocess=objective.preprocess)
    losses = objective.fit(batches.dataset(0), steps_per_epoch=20, epochs=3, verbose=0).history["loss"]
    assert -1 <= losses[-1] < losses[0] - 0.1
    view = np.full((2, 28, 28, 1), 0.5, np.float32)
    objective.predictor = lambda z, training: z
    total, weight = objective.batch_loss({"view_a": view, "view_b": view}, training=False)
    np.testing.assert_allclose(total / weight, -1, atol=1e-6)  # equal views, identity predictor


def check_tables(root):
    command = [sys.executable, root / "docs" / "tables.py", "--check"]
    return subprocess.run(command, capture_output=True, text=True)


def test_tables_equal_the_measurements():
    checked = check_tables(ROOT)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("file", "number", "other", "table"),
    [
        ("docs/results.md", "| 72.6 ± 1.9 |", "| 72.7 ± 1.9 |", "headline"),
        ("benchmarks/measured.json", "0.2649", "0.2648", "autoencoder-seeds"),
    ],
    ids=["page", "data"],
)
def test_a_changed_number_is_found(file, number, other, table, tmp_path):
    for pattern in ("README.md", "docs/*.*", "benchmarks/*.json", "saved_models/*/card.json"):
        for path in ROOT.glob(pattern):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    text = (tmp_path / file).read_text()
    assert number in text
    (tmp_path / file).write_text(text.replace(number, other, 1))
    checked = check_tables(tmp_path)
    assert checked.returncode == 1
    assert checked.stderr.splitlines()[1:] == [f"results.md: {table}"]


def messages():
    """The texts of the package: strings, and f-strings with a mark in place of each value."""
    for path in (ROOT / "ssl_keras").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(each.value if isinstance(each, ast.Constant) else "\0" for each in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_quoted_messages_are_those_of_the_code():
    """Capitals, numbers and … stand for values; a row of another library's message names it in parentheses."""
    pages = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8").partition("## Exit codes")[0]
    rows = re.findall(r"^\| (`.*?)(?<!\\) \| ", pages, flags=re.MULTILINE)
    quotes = [
        quote
        for row in rows
        if not row.endswith("(TensorFlow)") | row.endswith("(Keras)")
        for quote in re.findall("`([^`]+)`", row)
    ]
    assert len(quotes) > 40
    texts = list(messages())
    missing = [
        quote
        for quote in quotes
        if not any(all(part in text for part in re.split(r"…|\b[A-Z]+\b|\b\d+\b", quote)) for text in texts)
    ]
    assert not missing
