"""Flags that several commands share, and how a dataclass becomes a command's flags."""

import dataclasses

import tyro

Positional = tyro.conf.Positional


def parse(kind, command, arguments, **options):
    """The arguments of `ssl-keras COMMAND` as an instance of the dataclass `kind`; exits on wrong usage."""
    return tyro.cli(kind, prog=f"ssl-keras {command}", args=arguments, config=(tyro.conf.OmitArgPrefixes,), **options)


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
class RecordFlag:
    """Whether the encoder's card keeps the result."""

    record: bool = False
    """Write the result into the encoder's card as well."""


def held_out_part(splits, part):
    """The part of the splits that a command measures. Raises ValueError unless it is validation or test."""
    if part not in ("validation", "test"):
        raise ValueError(f"part must be validation or test. Received: {part!r}")
    return getattr(splits, part)
