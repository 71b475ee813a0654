"""Ranges and choices of settings: their messages, the values they accept, and how `--help` shows them."""

import dataclasses
import json
import math
import pathlib
import typing
from typing import Annotated, Literal

import numpy as np
import pytest

import ssl_keras
from ssl_keras import objectives
from ssl_keras.cli import main
from ssl_keras.cli.flags import parse
from ssl_keras.data.augment_images import Augmentation
from ssl_keras.data.ranges import Range, check, check_fields, range_of
from ssl_keras.data.splits import from_arrays
from ssl_keras.downstream import finetune
from ssl_keras.engine.config import Training
from ssl_keras.planning import cost
from ssl_keras.training.launch import Launch

SETTINGS = {
    **{name: objectives.module(name).Settings for name in objectives.names()},
    "training": Training,
    "finetune": finetune.Settings,
    "augmentation": Augmentation,
    "plan": cost.Plan,
    "tokens": cost.Tokens,
    "passes": cost.Passes,
    "launch": Launch,
}


@pytest.mark.parametrize(
    ("bounds", "words", "integers", "floats", "inside", "outside"),
    [
        (Range(1, 4096), "1 to 4096", "{1..4096}", "[1,4096]", [1, 4096], [0, 4097, math.inf]),
        (Range(0, 1.25), "0 to 1.25", "{0..1.25}", "[0,1.25]", [0, 1.25], [-1e-9, 1.26, math.nan]),
        (Range(0, 1, open="high"), "in [0, 1)", "[0,1)", "[0,1)", [0, 0.999], [1, -0.1, math.nan]),
        (Range(0, 1, open="low"), "in (0, 1]", "(0,1]", "(0,1]", [1e-9, 1], [0, 1.1]),
        (Range(0, 1, open="both"), "in (0, 1)", "(0,1)", "(0,1)", [0.5], [0, 1]),
        (Range(0), "at least 0", "INT≥0", "FLOAT≥0", [0, 10**400, math.inf], [-1]),
        (Range(0, open="low"), "more than 0", "INT>0", "FLOAT>0", [1e-300], [0, -1]),
        (Range(high=5), "at most 5", "INT≤5", "FLOAT≤5", [5, -math.inf], [6]),
        (Range(high=5, open="high"), "less than 5", "INT<5", "FLOAT<5", [4], [5]),
        (Range(), "a number", "INT", "FLOAT", [0, -math.inf, math.inf], [math.nan]),
    ],
)
def test_ranges_in_words_and_their_members(bounds, words, integers, floats, inside, outside):
    assert str(bounds) == words
    assert (bounds.symbols(int), bounds.symbols(float)) == (integers, floats)
    assert all(value in bounds for value in inside)
    assert not any(value in bounds for value in outside)


def test_an_unknown_open_end_is_an_error():
    with pytest.raises(ValueError, match="open must be one of .* Received: 'left'"):
        Range(0, 1, open="left")


COUNT, RATIO = Annotated[int, Range(1, 9)], Annotated[float, Range(0, 1, open="high")]
FITTING = [
    (int, 3),
    (int, np.int8(3)),
    (int, np.uint64(2**63)),
    (float, 1),
    (float, 0.5),
    (float, np.float16(0.5)),
    (float, np.int32(1)),
    (bool, True),
    (bool, np.True_),
    (str, "a"),
    (str, np.str_("a")),
    (str, pathlib.Path("a")),
    (COUNT, 9),
    (COUNT, np.int8(9)),
    (RATIO, 0),
    (RATIO, np.float32(0.5)),
    (RATIO | None, None),
    (RATIO | None, 0.5),
    (Annotated[int | None, Range(1)], None),
    (Literal["a", "b"], "b"),
    (Literal["a", "b"], np.str_("b")),
    (Literal[0, 2], np.int64(2)),
    (COUNT | Literal[0], 0),
    (RATIO | Literal[2], 2.0),
    (tuple[COUNT, ...], (1, 9)),
    (tuple[COUNT, ...], [np.int64(1)]),
    (tuple[COUNT, ...], ()),
    (tuple[COUNT, bool], (1, False)),
    (list, "anything"),
]
REFUSED = [
    (int, True, "an integer"),
    (int, np.True_, "an integer"),
    (int, 3.0, "an integer"),
    (int, "3", "an integer"),
    (int, None, "an integer"),
    (float, True, "a finite number"),
    (float, "1", "a finite number"),
    (float, math.nan, "a finite number"),
    (float, math.inf, "a finite number"),
    (float, 10**400, "a finite number"),
    (float, np.float32("nan"), "a finite number"),
    (float, 1j, "a finite number"),
    (bool, 1, "true or false"),
    (bool, "yes", "true or false"),
    (str, 1, "text"),
    (COUNT, 0, "1 to 9"),
    (COUNT, 10, "1 to 9"),
    (COUNT, np.int64(10), "1 to 9"),
    (COUNT, True, "an integer"),
    (RATIO, 1, "in [0, 1)"),
    (RATIO, math.nan, "a finite number"),
    (RATIO | None, 1.0, "in [0, 1) or None"),
    (Literal["a", "b"], "c", "one of a, b"),
    (Literal["", "a", "b"], "c", "one of a, b"),
    (Literal["a", "b"], 1, "one of a, b"),
    (Literal[0, 1], True, "one of 0, 1"),
    (Literal[0, 1], "1", "one of 0, 1"),
    (COUNT | Literal[0], 10, "1 to 9 or 0"),
    (COUNT | Literal[0], False, "an integer or 0"),
    (tuple[COUNT, ...], (1, 10), "a sequence whose entries are 1 to 9"),
    (tuple[COUNT, ...], (True,), "a sequence whose entries are an integer"),
    (tuple[COUNT, ...], 3, "a sequence of at most 1000 entries"),
    (tuple[COUNT, bool], (1,), "a sequence of 2 entries"),
]


@pytest.mark.parametrize(("hint", "value"), FITTING)
def test_valid_values_are_accepted(hint, value):
    check("it", value, hint)


@pytest.mark.parametrize(("hint", "value", "reason"), REFUSED)
def test_invalid_values_are_an_error(hint, value, reason):
    with pytest.raises(ValueError) as caught:
        check("it", value, hint)
    received = repr(value) if isinstance(value, str) else str(value)[:100]
    assert str(caught.value) == f"it must be {reason}. Received: {received}"


def test_the_field_is_named():
    @dataclasses.dataclass
    class Some:
        count: COUNT = 1
        mask_ratio: RATIO = 0.0

    check_fields(Some())
    with pytest.raises(ValueError, match=r"^mask_ratio must be in \[0, 1\)\. Received: 1\.5$"):
        check_fields(Some(mask_ratio=1.5))


def test_settings_are_converted_to_plain_values():
    """NumPy scalars, paths and lists become what JSON and hashing take."""
    made = Training(
        run=pathlib.Path("a"),
        init=pathlib.Path("b"),
        data=pathlib.Path("folder:c"),
        steps=np.int64(3),
        learning_rate=np.float32(0.5),
        jit=np.True_,
    )
    assert (made.run, made.init, made.data, made.steps, made.learning_rate) == ("a", "b", "folder:c", 3, 0.5)
    assert made.jit is True
    tuned = finetune.Settings(labels_per_class=np.int16(4), freeze=np.False_, mixup=np.float16(0.5))
    text = objectives.module("causal_lm").Settings(tokenizer=pathlib.Path("d"), length=np.int32(32))
    jigsaw = objectives.module("image_text").Settings(init_image=pathlib.Path("e"))
    for each in (made, tuned, text, jigsaw):
        json.dumps(dataclasses.asdict(each))
        hash(each)

    @dataclasses.dataclass(frozen=True)
    class Some:
        widths: tuple[COUNT, ...] = ()
        pair: tuple[COUNT, str] = (1, "")

    assert Some.__eq__(converted(Some([np.int64(1), 2], [3, pathlib.Path("a")])), Some((1, 2), (3, "a")))


def converted(settings):
    check_fields(settings)
    return settings


def test_arguments_in_the_wrong_place_are_an_error():
    splits = from_arrays(np.zeros((20, 4, 4)), np.arange(20) % 2)
    for call in (
        lambda: ssl_keras.finetune("x", splits),
        lambda: ssl_keras.pretrain("autoencoder", splits),
        lambda: ssl_keras.pretrain("autoencoder", Training()),
    ):
        with pytest.raises(ValueError, match=r"settings must be .*Settings. Received: .* Pass Settings\(…\), and data"):
            call()
    with pytest.raises(ValueError, match="training must be .*Training. Received: Splits"):
        ssl_keras.finetune("x", finetune.Settings(), splits)
    with pytest.raises(ValueError, match="data must be Splits .* Received: ndarray"):
        ssl_keras.pretrain("autoencoder", data=np.zeros((20, 4, 4)))
    for call in (ssl_keras.load_encoder, ssl_keras.load_tokenizer, ssl_keras.load_classifier):
        with pytest.raises(ValueError, match="The name of an encoder must be text. Received: None"):
            call(None)


def ranges(hint):
    """Yields (kind, `Range`, whether in a tuple) for each part of an annotation with a range."""
    if range_of(hint) is not None:
        yield typing.get_args(hint)[0], range_of(hint), False
    elif typing.get_origin(hint) is tuple:
        yield from ((kind, bounds, True) for part in typing.get_args(hint) for kind, bounds, _ in ranges(part))
    elif typing.get_origin(hint) is not Literal:
        for part in typing.get_args(hint):
            yield from ranges(part)


def outside(kind, bounds):
    """Yields the nearest numbers outside a range."""
    ends = ((bounds.low, -1, ("low", "both")), (bounds.high, 1, ("high", "both")))
    for end, sign, is_open in ends:
        if math.isfinite(end):
            beyond = end + sign if kind is int else float(np.nextafter(end, sign * math.inf))
            yield end if bounds.open in is_open else beyond


@pytest.mark.parametrize("name", SETTINGS)
def test_ranges_include_defaults_and_exclude_values_just_outside(name):
    default = SETTINGS[name]()  # checks its own fields
    hints = typing.get_type_hints(SETTINGS[name], include_extras=True)
    found = 0
    for field in dataclasses.fields(default):
        for kind, bounds, in_tuple in ranges(hints[field.name]):
            for value in outside(kind, bounds):
                if value == 0 and "Literal[0]" in str(hints[field.name]):
                    continue
                found += 1
                with pytest.raises(ValueError, match=f"^{field.name} must be "):
                    dataclasses.replace(default, **{field.name: (value,) if in_tuple else value})
    assert found


@pytest.mark.parametrize("name", SETTINGS)
def test_an_overridden_field_keeps_its_range(name):
    """A subclass that overrides a default must repeat the range or choices of the field."""
    hints = typing.get_type_hints(SETTINGS[name], include_extras=True)
    for base in SETTINGS[name].__mro__[1:-1]:
        for field, hint in typing.get_type_hints(base, include_extras=True).items():
            assert list(ranges(hints[field])) == list(ranges(hint)), field
            assert (typing.get_origin(hint) is Literal) <= (typing.get_origin(hints[field]) is Literal), field


@pytest.mark.parametrize("name", SETTINGS)
def test_only_choices_are_accepted(name):
    default = SETTINGS[name]()
    for field_name, hint in typing.get_type_hints(SETTINGS[name], include_extras=True).items():
        if typing.get_origin(hint) is Literal:
            with pytest.raises(ValueError, match=f"^{field_name} must be .* Received: 'nonsense'"):
                dataclasses.replace(default, **{field_name: "nonsense"})


@dataclasses.dataclass(frozen=True)
class Inner:
    """Numbers."""

    mask_ratio: RATIO = 0.5
    """The fraction to mask."""
    counts: tuple[COUNT, ...] = (1, 2)
    clip: Annotated[float, Range(0, open="low")] | None = None
    size: COUNT | Literal[0] = 0
    kind: Literal["a", "b"] = "a"


def test_parsing_returns_the_class():
    outer = dataclasses.make_dataclass("Outer", [("inner", Inner, dataclasses.field(default=Inner()))])
    assert parse(outer, "some", []).inner == Inner()
    flags = ["--mask-ratio", "0", "--counts", "3", "4", "5", "--clip", "2", "--size", "0", "--kind", "b"]
    asked = parse(outer, "some", flags).inner
    assert type(asked) is Inner
    assert asked == Inner(0.0, (3, 4, 5), 2.0, 0, "b")
    assert parse(Inner, "some", ["--size", "7", "--clip", "None"]) == Inner(size=7)
    with pytest.raises(ValueError, match="size must be 1 to 9 or 0. Received: 10"):
        parse(Inner, "some", ["--size", "10"])  # the class has no checks of its own


@pytest.mark.parametrize("wrong", [["--kind", "c"], ["--size", "x"], ["--mask-ratio", "x"]])
def test_invalid_choices_and_numbers_are_usage_errors(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(Inner, "some", wrong)
    assert caught.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_help_shows_ranges_choices_and_docstrings(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", "contrastive", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for part in (
        "--pool-grid {1..16}",
        "--crop (0,1]",
        "--temperature FLOAT>0",
        "--projection [INT≥1 [INT≥1 ...]]",
        "--loss {nt_xent,local_global,vicreg,lejepa}",
        "--batch-size INT≥1",
        "--beta-1 [0,1)",
        "--final-rate [0,1]",
        "--clip-norm FLOAT>0",
        "(default: none)",
        "Temperature, which divides the cosine similarities",
        "Probability of Gaussian blur",
        "Global batch size",
    ):
        assert part in shown


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("pretrain contrastive --pool-grid 17", "pool_grid must be 1 to 16. Received: 17"),
        ("finetune some --learning-rate nan", "learning_rate must be a finite number. Received: nan"),
        ("plan jigsaw --epochs 0", "epochs must be more than 0. Received: 0.0"),
    ],
)
def test_settings_out_of_range_are_usage_errors(command, reason, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err


def test_flags_out_of_range_are_a_one_line_error(capsys):
    assert main(["search", "some", "words", "--count", "0"]) == 1
    assert capsys.readouterr().err == "error: count must be 1 to 200. Received: 0\n"
