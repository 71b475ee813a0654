"""Each module of `ssl_keras/objectives` satisfies `ObjectiveModule`, and builds an `Objective`."""

import dataclasses
import inspect
import json
import pathlib
import subprocess
import sys
import types

import keras
import pytest
from contract import CASES

from ssl_keras import objectives
from ssl_keras.engine.config import Training
from ssl_keras.engine.objective import Objective
from ssl_keras.engine.report import Report
from ssl_keras.networks import description
from ssl_keras.objectives import ObjectiveModule

SCRIPT = """
import importlib, json, sys
import ssl_keras, tensorflow, keras
before = set(sys.modules)
from ssl_keras import objectives
names = objectives.names()
for name in names:
    importlib.import_module(f"ssl_keras.objectives.{name}")
print(json.dumps([names, sorted(set(sys.modules) - before)]))
"""
# Slow to import, and not needed to train.
LATER = {"tensorboard", "sklearn", "PIL", "matplotlib"}
FUNCTIONS = ("prepare", "encoder", "build")
every_module = pytest.mark.parametrize("name", objectives.names())


def departures(module):
    """Returns the ways in which a module is not an `ObjectiveModule`, as sentences."""
    wrong = [f"no {name}" for name in ("DEFAULTS", "Settings", *FUNCTIONS) if not hasattr(module, name)]
    expected = {name: getattr(ObjectiveModule, name) for name in FUNCTIONS}
    for name, function in expected.items():
        if hasattr(module, name):
            wanted = inspect.signature(function).parameters.values()
            there = list(inspect.signature(getattr(module, name)).parameters.values())
            if [p.name for p in there[: len(wanted)]] != [p.name for p in wanted]:
                wrong.append(f"{name} takes {[p.name for p in there]}")
            # Parameters that are optional in the protocol, or unknown to it, must have defaults.
            required = [p.name for p in there if p.default is p.empty]
            if not set(required) <= {p.name for p in wanted if p.default is p.empty}:
                wrong.append(f"{name} requires {required}")
    return wrong


@every_module
def test_every_module_is_an_objective_module(name):
    module = objectives.module(name)
    assert isinstance(module, ObjectiveModule)
    assert departures(module) == []
    assert isinstance(module.DEFAULTS, Training)
    assert dataclasses.is_dataclass(module.Settings)
    assert module.Settings.__dataclass_params__.frozen
    module.Settings()  # each setting has a default


@pytest.mark.parametrize(
    "change",
    [
        {"build": lambda settings, spec: None},
        {"prepare": lambda splits, settings, init=None: None},
        {"encoder": lambda settings, spec, width: None},
        {"encoder": None},
    ],
)
def test_the_test_above_can_fail(change):
    names = ("DEFAULTS", "Settings", *FUNCTIONS)
    module = types.SimpleNamespace(**{name: getattr(objectives.module("autoencoder"), name) for name in names})
    assert departures(module) == []
    for name, function in change.items():
        setattr(module, name, function) if function else delattr(module, name)
    assert departures(module)


@every_module
def test_what_is_built_has_the_declared_members(name):
    objective = CASES[name].build(CASES[name].splits().train.spec())
    assert isinstance(objective, Objective)
    assert isinstance(objective.encoder, keras.Model)
    assert objective.head is None or isinstance(objective.head, keras.Model)
    assert description(objective.encoder) is not None
    assert objective.head is None or description(objective.head) is not None
    assert objective.player_norms[0] is objective.gradient_norm
    assert objective.total_steps is None


def test_whether_the_head_predicts_classes():
    said = {
        name: case.build(case.splits().train.spec()).predicts_classes
        for name, case in CASES.items()
        if name in ("rotation", "classifier", "finetune", "dcgan")
    }
    assert said == {"rotation": False, "classifier": True, "finetune": True, "dcgan": False}


def test_a_report_is_empty_by_default():
    def refused():
        raise AssertionError("no examples are needed")

    assert Objective().report({}, refused, None) == Report()


def test_what_only_some_need_is_imported_where_it_is_used():
    root = pathlib.Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=True)
    names, new = json.loads(ended.stdout.splitlines()[-1])
    assert {f"ssl_keras.objectives.{name}" for name in names} <= set(new)
    assert not [module for module in new if module.partition(".")[0] in LATER]
    assert "ssl_keras.training.tensorboard" not in new
