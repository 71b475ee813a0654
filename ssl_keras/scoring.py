"""The command `score`, which the objectives that write sequences share."""

import dataclasses

import tyro

from ssl_keras import encoders
from ssl_keras.data import sources


@dataclasses.dataclass(frozen=True)
class Score:
    """Measures decoded targets against the right ones: the share of wrong symbols and of wrong sequences."""

    encoder: tyro.conf.Positional[str]
    """A saved encoder's name or path."""
    data: str
    """With targets: pairs:FILE, cmudict, a translation set of tfds; of sound, transcripts:FILE or connected:DATA."""
    part: str = "test"
    """validation or test."""
    record: bool = False
    """Write the result into the encoder's card."""


def command(kind, arguments, measure, title=lambda asked, source: source.name):
    """Parses, measures, prints and, if so asked, records.

    Args:
        kind: `Score`, or a class derived from it.
        arguments: of the command line.
        measure: function (what was asked, the part of the data) to {name: number}.
        title: function of the same to the result's name in the card.

    Raises:
        ValueError: an unknown part; data without targets.
    """
    asked = tyro.cli(kind, prog="ssl-keras score", args=arguments)
    if asked.part not in ("validation", "test"):
        raise ValueError(f"part must be validation or test. Received: {asked.part!r}")
    source = getattr(sources.load(asked.data), asked.part)
    source.column_spec("target")
    result = measure(asked, source)
    for name, value in result.items():
        print(f"{name}: {value:.2%}" if isinstance(value, float) else f"{name}: {value}")
    if asked.record:
        encoders.record(asked.encoder, title(asked, source), result)
