"""Flags that several commands share, and the parser that turns a dataclass into flags."""

import dataclasses
import pathlib
import runpy
import types
import typing
from typing import Annotated, Literal

import tyro
from tyro import constructors

from ssl_keras.cli import commands
from ssl_keras.data import tokenizer
from ssl_keras.data.ranges import Range, check_fields, range_of
from ssl_keras.engine.config import Strategy

Positional = tyro.conf.Positional
HeldOut = Literal["validation", "test"]  # the splits that a command can measure on
UNIONS = (typing.Union, types.UnionType)
PLACEHOLDERS = {  # flag: what `--help` shows in place of STR
    "choice": "NAME",
    "classifier": "ENCODER",
    "compare": "ENCODER",
    "data": "DATA",
    "language": "CODE",
    "report": "FILE",
    "images": "FOLDER",
    "init": "ENCODER",
    "init_image": "ENCODER",
    "init_text": "ENCODER",
    "network": "FILE.py:FUNCTION",
    "out": "PATH",
    "prompt": "TEXT",
    "run": "NAME",
    "runs": "FOLDER",
    "stop": "TEXT",
    "teacher": "ENCODER",
    "texts": "FILE",
    "tokenizer": f"{{{','.join(tokenizer.KINDS)}}}|PATH",
}


def group(title):
    """Returns an annotation that has `--help` show a dataclass's flags as "TITLE options"."""
    return tyro.conf.arg(name=title)


def one_or_more(name):
    """Returns an annotation that has `--help` show a positional tuple as NAME [NAME ...]."""
    return tyro.conf.arg(metavar=f"{name} [{name} ...]", help_behavior_hint="(one or more)")


def parse(kind, command, arguments, summary=None, example=None):
    """Parses the arguments of `ssl-keras COMMAND` into an instance of a dataclass; exits on wrong usage.

    Args:
        kind: the dataclass, whose fields are the flags.
        command: the command, followed by the objective where it has one.
        arguments: a list of strings.
        summary, example: lines above the flags in `--help`; by default those of `commands.COMMANDS`.

    Raises:
        ValueError: a value is outside its range. (A dataclass that checks itself exits instead, as on wrong usage.)
    """
    if summary is None and command in commands.COMMANDS:
        summary, example = commands.COMMANDS[command].summary, commands.COMMANDS[command].example
    asked = tyro.cli(
        kind,
        prog=f"ssl-keras {command}",
        args=arguments,
        description=summary and commands.described(summary, example),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalMetavarFromFieldName),
        registry=_registry(),
    )
    check_fields(asked)
    return asked


def _registry():
    """Returns rules that change what tyro shows in `--help`; of what it parses, only `none` is new, for None."""
    registry, structs, primitives = constructors.ConstructorRegistry(), [], []

    def default_rules(guard, rule, info):
        guard.append(info)  # makes the rules below step aside
        try:
            return rule(info)
        finally:
            guard.clear()

    @registry.struct_rule
    def dataclass_rule(info):
        if structs or not dataclasses.is_dataclass(info.type):
            return None
        spec = default_rules(structs, registry.get_struct_spec, info)
        if not isinstance(spec, constructors.StructConstructorSpec):
            return spec
        return dataclasses.replace(spec, fields=tuple(map(_shown_field, spec.fields)))

    @registry.primitive_rule
    def choice_rule(info):
        if primitives or info.type_origin not in (*UNIONS, Literal):
            return None
        spec = default_rules(primitives, registry.get_primitive_spec, info)
        return _without_none(spec) if isinstance(spec, constructors.PrimitiveConstructorSpec) else spec

    return registry


def _without_none(spec):
    """Hides None and the empty choice, which both stand for a default, and shows the default None as `none`."""
    return dataclasses.replace(
        spec,
        metavar=spec.metavar.removeprefix("{None}|").replace("{None,", "{").replace("{,", "{").replace("{0}", "0"),
        instance_from_str=lambda given: spec.instance_from_str(["None"] if given == ["none"] else given),
        str_from_instance=lambda value: ["none"] if value is None else spec.str_from_instance(value),
    )


def _shown_field(field):
    """Returns a field whose range, placeholder and default are shown in `--help` as a user types them."""
    if dataclasses.is_dataclass(field.default):  # a group of flags
        return field
    hint, *extras = typing.get_args(field.type) if typing.get_origin(field.type) is Annotated else (field.type,)
    is_text = hint in (str, str | None) and Positional not in extras
    shown = tyro.conf.arg(
        metavar=PLACEHOLDERS.get(field.name) if is_text else None,
        help_behavior_hint=lambda default: "" if default in ("", "''") else f"(default: {default})",
    )
    return dataclasses.replace(
        field,
        type=Annotated[(_shown(field.type), shown, *extras)],  # what the extras say comes last, and wins
        helptext=lambda: " ".join((field.helptext() or "").split()),
    )


def _shown(hint):
    """Returns an annotation for tyro in which each `Range` names the number in `--help`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    bounds = range_of(hint)
    if bounds is not None:
        kind = arguments[0]
        number = constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=bounds.symbols(kind),
            instance_from_str=lambda given: kind(given[0]),
            is_instance=lambda value: isinstance(value, int if kind is int else int | float),
            str_from_instance=lambda value: [str(value)],
        )
        return Annotated[(kind, number, *hint.__metadata__)]
    if origin in UNIONS:
        return typing.Union[tuple(map(_shown, arguments))]  # noqa: UP007
    return tuple[tuple(map(_shown, arguments))] if origin is tuple else hint


def defaults(training, arguments):
    """Returns a run's defaults: no default steps where epochs are asked for, and no default epochs with steps."""
    asked = {argument.partition("=")[0] for argument in arguments}
    if "--epochs" in asked and "--steps" not in asked:
        return dataclasses.replace(training, steps=0)
    return dataclasses.replace(training, epochs=0) if "--steps" in asked and "--epochs" not in asked else training


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderArgument:
    """The saved encoder that a command works with."""

    encoder: Positional[str]
    """Name or path of a saved encoder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFlags:
    """The dataset that a command reads."""

    data: str = "digits"
    """Dataset, by name.
    Images: digits, folder:PATH. Images with captions: captions:FILE, emoji:FOLDER.
    Text: pydoc, text:PATH. Text with labels: table:FILE. Texts with targets: pairs:FILE, cmudict.
    Audio: audio:PATH, espeak. Audio with transcripts: transcripts:FILE, connected:DATA.
    What ssl-keras curate wrote: curated:FOLDER. TensorFlow Datasets: tfds:NAME."""
    image_size: int | None = None
    """Side length, in pixels, of the square to which images are resized. None is that of the saved encoder, or else
    keeps their size."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceFlags:
    """The devices that a command computes on."""

    strategy: Strategy = "auto"
    """Distribution strategy. auto uses all local GPUs, or the CPU. one uses the first GPU, or the CPU. mirrored uses
    --replicas local devices. multi_worker uses the cluster described by TF_CONFIG or Slurm's variables."""
    replicas: Annotated[int, Range(0)] = 0
    """Number of replicas for the strategies auto and mirrored: GPUs or, on a machine without GPUs, logical CPUs (for
    tests). 0 means all GPUs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkFlag:
    """The architecture of an encoder that ssl_keras did not build."""

    network: str = ""
    """Function that builds your own encoder: it takes no arguments and returns a new functional Keras model in each
    call. The file is executed. Needed only for encoders pretrained with your own network."""

    def network_maker(self):
        """Returns the function that `network` names, or None. Raises ValueError if there is no such function."""
        if not self.network:
            return None
        file, _, name = self.network.rpartition(":")
        if not pathlib.Path(file).is_file():
            raise ValueError(f"network must be FILE.py:FUNCTION, with a file that exists. Received: {self.network!r}")
        try:
            function = runpy.run_path(file).get(name)
        except Exception as error:
            raise ValueError(f"{file} cannot be run: {type(error).__name__}: {error}") from error
        if not callable(function):
            raise ValueError(f"{file} defines no function {name!r}.")
        return function


@dataclasses.dataclass(frozen=True, kw_only=True)
class OverwriteFlag:
    """Permission to replace files."""

    overwrite: bool = False
    """Replace existing files at --out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordFlag:
    """Permission to change the encoder's card."""

    record: bool = False
    """Add the results to the encoder's card.json."""
