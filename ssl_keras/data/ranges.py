"""Ranges of numbers as annotations, and values checked against annotations.

    width: Annotated[int, Range(1, 4096)] = 64

Settings dataclasses and network builders declare their values in this way; what is declared is checked in one
place, `check`, and shown by `--help`.
"""

import dataclasses
import math
import types
import typing

MAX_ENTRIES = 1_000  # of a tuple, such as the widths of layers


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `open` names ends that are excluded: "low", "high" or "both"."""

    low: float = -math.inf
    high: float = math.inf
    open: str = ""

    def __contains__(self, value):
        above = value > self.low if self.open in ("low", "both") else value >= self.low
        below = value < self.high if self.open in ("high", "both") else value <= self.high
        return above and below

    def __str__(self):
        if self.high == math.inf:
            return f"{'more than' if self.open in ('low', 'both') else 'at least'} {_shown(self.low)}"
        if self.open:
            left, right = "(" if self.open != "high" else "[", ")" if self.open != "low" else "]"
            return f"in {left}{_shown(self.low)}, {_shown(self.high)}{right}"
        return f"{_shown(self.low)} to {_shown(self.high)}"


def _shown(number):
    return f"{number:g}" if isinstance(number, float) else str(number)


def range_of(hint):
    """The `Range` of an annotation, or None."""
    return next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)), None)


def check(name, value, hint):
    """Raises ValueError where a value does not fit its annotation; the message names it `name`.

    Understood are `bool`, `int`, `float` (finite), `str`, `Literal`, unions, tuples, and `Annotated` with a `Range`.
    Any other annotation fits everything.
    """
    fault = _fault(value, hint)
    if fault:
        raise ValueError(f"{name} must be {fault}. Received: {str(value)[:100]!s}")


def _fault(value, hint):
    """What a value would have to be, in words, or an empty string where it fits."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        fault, bounds = _fault(value, arguments[0]), range_of(hint)
        if not fault and bounds is not None and value is not None and value not in bounds:
            fault = str(bounds)
        return fault
    if origin is typing.Literal:
        return "" if value in arguments else f"one of {', '.join(map(str, arguments))}"
    if origin in (typing.Union, types.UnionType):
        faults = [_fault(value, argument) for argument in arguments]
        return "" if "" in faults else " or ".join(faults)
    if origin is tuple:
        return _tuple_fault(value, arguments)
    if hint is float:
        fits = type(value) in (int, float) and math.isfinite(value)
        return "" if fits else "a finite number"
    if hint in (bool, int, str, type(None)):
        return "" if type(value) is hint else {bool: "true or false", int: "an integer", str: "text"}.get(hint, "None")
    return ""


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
    """Checks every field of a dataclass instance against its annotation. Raises ValueError for the first that fails."""
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        check(field.name, getattr(settings, field.name), hints[field.name])


ImageShape = tuple[  # (H, W, C) in pixels and channels
    typing.Annotated[int, Range(1, 1 << 16)], typing.Annotated[int, Range(1, 1 << 16)],
    typing.Annotated[int, Range(1, 1 << 16)],
]
