"""Flags that several commands share, and how a dataclass becomes a command's flags."""

import dataclasses
import pathlib
import runpy
import types
import typing
from typing import Annotated, Literal

import tyro
from tyro import constructors

from ssl_keras.data.ranges import check_fields, range_of

Positional = tyro.conf.Positional
HeldOut = Literal["validation", "test"]  # the parts of `Splits` that a command measures


def parse(kind, command, arguments, **options):
    """The arguments of `ssl-keras COMMAND` as an instance of the dataclass `kind`; exits on wrong usage.

    That includes settings that check themselves. Raises ValueError for another number that is out of its range.
    """
    asked = tyro.cli(
        kind,
        prog=f"ssl-keras {command}",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
        registry=_with_ranges(),
        **options,
    )
    check_fields(asked)
    return asked


def _with_ranges():
    """Rules for tyro by which `--help` shows the `Range` of a dataclass's field in place of INT or FLOAT."""
    registry, asking = constructors.ConstructorRegistry(), []

    @registry.struct_rule
    def dataclass_rule(info):
        if asking or not dataclasses.is_dataclass(info.type):
            return None
        asking.append(info)  # so that the next line gets the answer of tyro's own rules
        spec = registry.get_struct_spec(info)
        asking.clear()
        if not isinstance(spec, constructors.StructConstructorSpec):
            return spec
        fields = tuple(dataclasses.replace(field, type=_shown(field.type)) for field in spec.fields)
        return dataclasses.replace(spec, fields=fields)

    return registry


def _shown(hint):
    """An annotation for tyro: each `Range` in it becomes the name that `--help` shows of the number."""
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
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(_shown, arguments))]  # noqa: UP007
    return tuple[tuple(map(_shown, arguments))] if origin is tuple else hint


def defaults(training, arguments):
    """A run's defaults; whoever asks for epochs does not want the default number of steps, nor the other way round."""
    asked = {argument.partition("=")[0] for argument in arguments}
    if "--epochs" in asked and "--steps" not in asked:
        return dataclasses.replace(training, steps=0)
    return dataclasses.replace(training, epochs=0) if "--steps" in asked and "--epochs" not in asked else training


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Which data."""

    data: str = "digits"
    """digits, folder:PATH (images), captions:FILE, emoji:FOLDER (images with captions), pydoc, text:PATH (text),
    table:FILE (text with labels), pairs:FILE, cmudict (texts with targets), audio:PATH, transcripts:FILE,
    connected:DATA, espeak (sound), tfds:NAME; of a kind that the command takes."""
    image_size: int | None = None
    """Of images: side length in pixels to resize to."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceFlags:
    """On which devices."""

    strategy: str = "auto"
    """auto (all local GPUs), one, mirrored, or multi_worker: as TF_CONFIG or Slurm's variables say."""
    replicas: int = 0
    """With mirrored: how many replicas (logical CPUs where there is no GPU)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkFlag:
    """An encoder's architecture, where it is your own."""

    network: str = ""
    """FILE.py:FUNCTION, for an encoder of your own architecture: your function, without arguments, that makes a fresh
    graph. The file is run."""

    def network_maker(self):
        """The function that `network` names, or None. Raises ValueError where there is none."""
        if not self.network:
            return None
        file, _, name = self.network.rpartition(":")
        if not pathlib.Path(file).is_file():
            raise ValueError(f"network must be FILE.py:FUNCTION, of a file that is there. Received: {self.network!r}")
        try:
            function = runpy.run_path(file).get(name)
        except Exception as error:
            raise ValueError(f"{file} cannot be run: {type(error).__name__}: {error}") from error
        if not callable(function):
            raise ValueError(f"{file} defines no function {name!r}.")
        return function


@dataclasses.dataclass(frozen=True, kw_only=True)
class OverwriteFlag:
    """Whether a file that exists is replaced."""

    overwrite: bool = False
    """Replace what is at --out already."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordFlag:
    """Whether the encoder's card keeps the result."""

    record: bool = False
    """Write the result into the encoder's card as well."""
