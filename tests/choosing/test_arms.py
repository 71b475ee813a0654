"""The table of arms: which apply, why others do not, and commands that repeat a run."""

import dataclasses
import re

import numpy as np
import pytest

from ssl_keras import objectives
from ssl_keras.choosing import arms
from ssl_keras.cli import flags as command_line
from ssl_keras.data.splits import Source, Splits, from_arrays


@pytest.fixture
def images(rng):
    return from_arrays(rng.integers(0, 256, (80, 24, 24, 1), np.uint8), np.arange(80) % 4)


def test_the_table_is_well_formed():
    for kind, listed in arms.ARMS.items():
        assert len({arm.name for arm in listed}) == len(listed) <= arms.MAX_ARMS
        for arm in listed:
            assert re.fullmatch(r"[\w-]+", arm.name), "a run's folder is named like it"
            if arm.objective in objectives.names():
                settings, training = arms.defaults(arm)
                assert (training.schedule, training.epochs, training.jit) == ("constant", 0, False), kind
                assert all(getattr(settings, name) == value for name, value in arm.settings.items())
    assert set(arms.NOT_TRIED) <= set(objectives.names())


def test_arms_that_apply_to_images(images):
    taken, reasons = arms.applicable(images)
    assert [arm.name for arm in taken] == [arm.name for arm in arms.ARMS["image"]]
    assert reasons["masked_lm"] == "takes text; these data are images"
    assert reasons["wav2vec2"] == "takes audio; these data are images"
    assert reasons["image_text"] == "learns captions, which these data do not have"
    assert {arm.objective for arm in taken} | set(reasons) >= set(objectives.names())


def test_arms_that_do_not_apply_say_why(rng):
    wide = from_arrays(rng.integers(0, 256, (80, 22, 30, 1), np.uint8))
    taken, reasons = arms.applicable(wide)
    assert "rotation" not in [arm.name for arm in taken]
    assert reasons["rotation"].startswith("Expected square images")
    assert reasons["masked_autoencoder"].startswith("Expected images whose sides are multiples of the patch")


def test_data_that_no_objective_takes_are_refused(rng):
    codes = Source("codes", {"features": np.zeros((9, 3), np.float32)})
    with pytest.raises(ValueError, match="codes: no objective takes these data. Expected images, text or audio"):
        arms.applicable(Splits(codes, codes, codes))
    wide = from_arrays(rng.integers(0, 256, (80, 22, 30, 1), np.uint8))
    with pytest.raises(ValueError, match="no objective takes these data. rotation: Expected square images"):
        arms.applicable(wide, [arms.Arm("rotation", "rotation")])


def test_batches_leave_several_in_an_epoch():
    training = arms.defaults(arms.ARMS["image"][0])[1]
    assert [arms.batch_size(training, count) for count in (2, 40, 64, 10_000)] == [2, 8, 16, 256]


@pytest.mark.parametrize(
    "arm", [*arms.ARMS["image"], *arms.ARMS["text"], *arms.ARMS["waveform"]], ids=lambda arm: arm.name
)
def test_the_command_of_a_run_parses_into_its_settings(arm):
    if arm.objective not in objectives.names():
        pytest.skip(f"this version has no objective {arm.objective}")
    module, (settings, training) = objectives.module(arm.objective), arms.defaults(arm)
    training = dataclasses.replace(
        training, data="folder:my images", image_size=28, steps=120, eval_every=60, warmup=7, seed=3, run="chosen"
    )
    words = arms.flags(arm, settings, training)
    assert words[:3] == ["ssl-keras", "pretrain", arm.objective]
    assert {"--data", "--steps", "--seed"} <= set(words)
    parsed = dataclasses.make_dataclass(
        "Parsed",
        [
            ("settings", module.Settings, module.Settings()),
            ("training", type(training), command_line.defaults(module.DEFAULTS, words)),
        ],
    )
    asked = command_line.parse(parsed, f"pretrain {arm.objective}", words[3:], "Some.", "some")
    assert asked.settings == settings
    assert asked.training == training
