"""`--help` of every command and objective: one line, an example that parses, and a help text for every flag."""

import importlib
import re
import shlex
import typing

import pytest
import tyro

from ssl_keras import objectives
from ssl_keras.cli import COMMANDS, commands, flags, main

OF_OBJECTIVES = ("pretrain", "plan")
PAGES = [
    *([name] for name in COMMANDS),
    *([command, objective] for command in OF_OBJECTIVES for objective in objectives.names()),
]


@pytest.fixture
def fields(monkeypatch):
    """The fields whose flags `--help` has shown."""
    shown, original = [], flags._shown_field

    def shown_field(field):
        result = original(field)
        if result is not field and tyro.conf.Suppress not in typing.get_args(field.type):
            shown.append(result)
        return result

    monkeypatch.setattr(flags, "_shown_field", shown_field)
    return shown


class Parsed(Exception):
    """Raised in place of running a command."""


def parses(words, monkeypatch):
    """Checks that a command line of `ssl-keras` parses, without running it."""

    def parse(*arguments):
        flags.parse(*arguments)
        raise Parsed

    module = importlib.import_module(f"ssl_keras.cli.{COMMANDS[words[0]].module}")
    monkeypatch.setattr(module, "parse", parse)
    with pytest.raises(Parsed):
        main(words)


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_help_has_a_line_an_example_and_the_flags(words, fields, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    usage, blank, line, *rest = shown.splitlines()
    assert usage.startswith(f"usage: ssl-keras {' '.join(words)}")
    assert not blank
    assert re.fullmatch(r"\S.*[.?]", line)
    assert rest[:2] == ["", "Example:"]
    assert "None}" not in shown
    assert "(default: )" not in shown
    assert "''" not in shown
    for field in fields:
        assert len((field.helptext() or "").split()) > 1, field.name
    program, *example = shlex.split(rest[2])
    assert (program, example[: len(words)]) == ("ssl-keras", words)
    parses(example, monkeypatch)
    if words == ["launch"]:
        parses(example[example.index("pretrain") :], monkeypatch)


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    listed = re.findall(r"^    (\w+) (?:.*)  (?=[A-Z])", shown, flags=re.M)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("command", OF_OBJECTIVES)
def test_help_lists_the_objectives(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    for name in objectives.names():
        first = objectives.module(name).__doc__.partition("\n")[0]
        assert re.search(rf"^    {name} +{re.escape(first)}$", shown, flags=re.M)
    with pytest.raises(SystemExit) as caught:
        main([command])
    assert caught.value.code == 2


def test_every_objective_has_examples():
    assert sorted(commands.EXAMPLES) == objectives.names()


@pytest.mark.parametrize("given", ["none", "None"])
def test_none_can_be_typed_as_it_is_shown(given):
    assert flags.parse(flags.DataFlags, "some", ["--image-size", given]).image_size is None
