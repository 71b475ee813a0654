"""Validation: ranges as annotations, and checks of values against annotations.

    width: Annotated[int, Range(1, 4096)] = 64

Settings dataclasses and network builders annotate their values like this. `check` validates them, and `--help` shows
them.
"""

import dataclasses
import math
import numbers
import os
import sys
import types
import typing

import numpy as np

MAX_ENTRIES = 1_000  # of a tuple, such as layer widths
OPEN_ENDS = ("", "low", "high", "both")


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`. `open` names the excluded ends: "low", "high" or "both"."""

    low: float = -math.inf
    high: float = math.inf
    open: str = ""

    def __post_init__(self):
        if self.open not in OPEN_ENDS:
            raise ValueError(f"open must be one of {', '.join(map(repr, OPEN_ENDS))}. Received: {self.open!r}")

    def __contains__(self, value):
        above = value > self.low if self.open in ("low", "both") else value >= self.low
        below = value < self.high if self.open in ("high", "both") else value <= self.high
        return above and below

    def __str__(self):
        """Returns the range as the words after "must be"."""
        if self.low == -math.inf and self.high == math.inf:
            return "a number"
        if self.high == math.inf:
            return f"{'more than' if self.open in ('low', 'both') else 'at least'} {_shown(self.low)}"
        if self.low == -math.inf:
            return f"{'less than' if self.open in ('high', 'both') else 'at most'} {_shown(self.high)}"
        return f"in {self._interval(', ')}" if self.open else f"{_shown(self.low)} to {_shown(self.high)}"

    def symbols(self, kind):
        """Returns the range as `--help` shows it, for a `kind` of int or float: {1..4096}, [0,1), FLOAT>0."""
        name = kind.__name__.upper()
        if self.low == -math.inf and self.high == math.inf:
            return name
        if self.high == math.inf:
            return f"{name}{'>' if self.open in ('low', 'both') else '≥'}{_shown(self.low)}"
        if self.low == -math.inf:
            return f"{name}{'<' if self.open in ('high', 'both') else '≤'}{_shown(self.high)}"
        return self._interval(",") if self.open or kind is float else f"{{{_shown(self.low)}..{_shown(self.high)}}}"

    def _interval(self, comma):
        left, right = "(" if self.open in ("low", "both") else "[", ")" if self.open in ("high", "both") else "]"
        return f"{left}{_shown(self.low)}{comma}{_shown(self.high)}{right}"


def _shown(number):
    return f"{number:g}" if isinstance(number, float) else str(number)


def range_of(hint):
    """Returns the `Range` of an annotation, or None."""
    return next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)), None)


def check(name, value, hint):
    """Raises ValueError if a value does not match its annotation; the message calls it `name`.

    Supports `bool`, `int`, `float` (finite), `str` (or a path), `Literal`, unions, tuples, and `Annotated` with a
    `Range`. Other annotations match everything. NumPy scalars are checked like Python scalars.
    """
    fault = _fault(value, hint)
    if fault:
        received = repr(value) if isinstance(value, str) else str(value)
        raise ValueError(f"{name} must be {fault}. Received: {received[:100]}")


def _fault(value, hint):
    """Returns what a value must be, in words; empty if it matches."""
    value = value.item() if isinstance(value, np.generic) else value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        fault, bounds = _fault(value, arguments[0]), range_of(hint)
        return fault or (str(bounds) if None not in (bounds, value) and value not in bounds else "")
    if origin is typing.Literal:
        return "" if any(_same(value, choice) for choice in arguments) else _choices(arguments)
    if origin in (typing.Union, types.UnionType):
        faults = [_fault(value, argument) for argument in arguments]
        return "" if "" in faults else " or ".join(faults)
    if origin is tuple:
        return _tuple_fault(value, arguments)
    if hint in KINDS:
        word, fits = KINDS[hint]
        return "" if fits(value) else word
    return ""


def _is_number(value, kind=numbers.Real):
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_finite(value):
    # Integers of any size compare exactly, but `isfinite` may overflow.
    return abs(value) <= sys.float_info.max if isinstance(value, numbers.Integral) else math.isfinite(value)


KINDS = {  # {type: (what a value must be, in words; the test for it)}
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("an integer", lambda value: _is_number(value, numbers.Integral)),
    float: ("a finite number", lambda value: _is_number(value) and _is_finite(value)),
    str: ("text", lambda value: isinstance(value, str | os.PathLike)),
    type(None): ("None", lambda value: value is None),
}


def _same(value, choice):
    """Returns whether a value equals a choice of a `Literal`: 1.0 equals 1, but True does not."""
    return value == choice and isinstance(value, bool) == isinstance(choice, bool)


def _choices(choices):
    """Returns the choices of a `Literal` in words, without the empty string, which means the default."""
    shown = [str(choice) for choice in choices if choice != ""]
    return f"one of {', '.join(shown)}" if len(shown) > 1 else "".join(shown)


def _tuple_fault(value, arguments):
    if not isinstance(value, tuple | list) or len(value) > MAX_ENTRIES:
        return f"a sequence of at most {MAX_ENTRIES} entries"
    if arguments[-1] is Ellipsis:
        faults = [_fault(entry, arguments[0]) for entry in value]
    elif len(value) != len(arguments):
        return f"a sequence of {len(arguments)} entries"
    else:
        faults = [_fault(entry, argument) for entry, argument in zip(value, arguments)]
    return next((f"a sequence whose entries are {fault}" for fault in faults if fault), "")


def check_fields(settings):
    """Checks each field of a dataclass instance against its annotation, and converts it with `plain`.

    Raises:
        ValueError: A field does not match its annotation; the message names the first.
    """
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        check(field.name, value, hints[field.name])
        object.__setattr__(settings, field.name, plain(value, hints[field.name]))  # also in frozen dataclasses


def plain(value, hint):
    """Converts NumPy scalars to Python's, a path to `str` where text is expected, and a list to the expected tuple.

    So settings can be compared, hashed and written as JSON.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike) and str in (hint, *typing.get_args(hint)):
        return os.fspath(value)
    if isinstance(value, tuple | list) and typing.get_origin(hint) is tuple:
        entries = [each for each in typing.get_args(hint) if each is not Ellipsis]
        return tuple(plain(each, entries[min(index, len(entries) - 1)]) for index, each in enumerate(value))
    return value


def check_kind(name, value, kind):
    """Raises ValueError unless the argument `name` of a function is an instance of the dataclass `kind`."""
    if not isinstance(value, kind):
        advice = f"Pass {kind.__name__}(…), and data as data=…"
        raise ValueError(
            f"{name} must be {kind.__module__}.{kind.__name__}. Received: {type(value).__name__}. {advice}."
        )


ImageShape = tuple[  # (H, W, C) in pixels and channels
    typing.Annotated[int, Range(1, 1 << 16)],
    typing.Annotated[int, Range(1, 1 << 16)],
    typing.Annotated[int, Range(1, 1 << 16)],
]
