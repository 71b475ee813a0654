"""The folder of a run: its name, its owner and its settings."""

import json
import os
import pathlib
import types

import pytest
import tensorflow as tf

import ssl_keras
from ssl_keras import files
from ssl_keras.cli import main
from ssl_keras.data.splits import from_arrays
from ssl_keras.engine.config import Training
from ssl_keras.training.run import compile_objective
from ssl_keras.training.run_folder import open_run


def splits(rng):
    return from_arrays(rng.random((20, 4, 4)))


def opened(data, default_name="autoencoder-photos", begun=True, **training):
    """Opens the folder of a run, by default with a checkpoint in it; returns the folder's name."""
    asked = Training(batch_size=4, **training)
    with open_run(asked, data, tf.distribute.get_strategy(), "finetune", {}, default_name) as (folder, _):
        if begun:
            (folder / "checkpoints").mkdir(exist_ok=True)
            (folder / "checkpoints" / f"step-{5:010d}.safetensors").touch()
    return folder.name


def test_different_data_of_the_same_name_get_different_folders(rng, caplog):
    first, second = splits(rng), splits(rng)
    own = f"autoencoder-photos-{second.train.fingerprint()[:8]}"
    assert opened(first) == "autoencoder-photos"
    assert opened(second) == own
    assert f"runs/autoencoder-photos belongs to a run on other data or labels. This run uses runs/{own}." in caplog.text
    for data, name in ((first, "autoencoder-photos"), (second, own)):
        with pytest.raises(ValueError, match=f"runs/{name} contains a run that has started. Add --resume"):
            opened(data)
        assert opened(data, resume=True) == name


def test_refused_run_leaves_nothing(rng):
    def refused(file):
        asked = Training(batch_size=4)
        with open_run(asked, splits(rng), tf.distribute.get_strategy(), "finetune", {}, "own") as (folder, _):
            (folder / file).touch()
            raise FileNotFoundError

    for file, stays in (("data.json", False), ("metrics.csv", True)):
        with pytest.raises(FileNotFoundError):
            refused(file)
        assert pathlib.Path("runs/own").exists() == stays


def test_resume_and_given_names_do_not_fall_back_to_another_folder(rng):
    opened(splits(rng))
    with pytest.raises(ValueError, match="runs/autoencoder-photos belongs to a run on other data"):
        opened(splits(rng), resume=True)
    with pytest.raises(ValueError, match="runs/autoencoder-photos belongs to a run on other data"):
        opened(splits(rng), run="autoencoder-photos")


@pytest.mark.parametrize(
    "default_name",
    ["autoencoder-" + "x" * 255, "finetune-" * 40, "autoencoder-" + "ж" * 130, "autoencoder-a\nb\x1b[2J", "a-\udcff"],
)
def test_default_names_fit_the_storage_and_the_terminal(default_name, rng):
    name = opened(splits(rng), default_name)
    assert name.isprintable()
    assert len(name.encode()) <= files.LONGEST
    assert pathlib.Path("runs", name, "settings.json").exists()


def test_long_names_with_a_common_prefix_stay_different():
    names = {files.shorten(f"{'finetune-' * 40}{end}") for end in "abc"}
    assert len(names) == 3
    assert files.shorten("ordinary") == "ordinary"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\nb", "UTF-8 without control characters"),
        ("a\x1b[2Jb", "UTF-8 without control characters"),
        ("a\0b", "without control"),
        ("a\u2028b", "without control"),
        ("a\x85", "without control"),
        (os.fsdecode(b"caf\xe9"), "must be UTF-8"),
        ("x" * 256, "at most 255 bytes. Received: 256"),
        ("ж" * 128, "Received: 256"),
    ],
)
def test_unprintable_and_long_names_are_refused(name, reason, capsys, tmp_path):
    assert main(["pretrain", "autoencoder", "--run", name]) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.isascii()
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["日本 写真", "a  b", "v1.2", "-x", "👩‍🔬", "x" * 255])  # noqa: RUF001
def test_unusual_names_are_accepted(name, rng):
    assert opened(splits(rng), run=name) == name


def test_settings_contain_the_version_and_another_version_may_resume(rng):
    data = splits(rng)
    path = pathlib.Path("runs", opened(data), "settings.json")
    settings = json.loads(path.read_text())
    assert settings["version"] == ssl_keras.__version__
    path.write_text(json.dumps(settings | {"version": "0.0.1"}))
    opened(data, resume=True)
    del settings["version"]
    path.write_text(json.dumps(settings))
    opened(data, resume=True)
    assert json.loads(path.read_text())["version"] == ssl_keras.__version__


def test_deeply_nested_settings_count_as_damaged(rng):
    data = splits(rng)
    path = pathlib.Path("runs", opened(data), "settings.json")
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="settings.json is damaged"):
        opened(data, resume=True)


@pytest.mark.parametrize("sizes", [(1, 5), (5, 1)])
def test_held_out_part_that_is_too_small_for_the_objective_is_refused(sizes, rng):
    data = splits(rng)
    validation, test = (part.take(range(size)) for part, size in zip((data.train, data.train), sizes))
    objective = types.SimpleNamespace(name="contrastive", min_batch_size=2, keep_last_checkpoint=False)
    with pytest.raises(ValueError, match="must have at least 2. Received: 1. Use more data"):
        compile_objective(objective, Training(batch_size=4), data._replace(validation=validation, test=test))


def test_json_has_null_for_non_finite_numbers(tmp_path):
    files.write_json(tmp_path / "x.json", {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": (float("-inf"),)}})
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [1.5, None], "c": {"d": [None]}}


def test_a_run_at_a_constant_rate_may_get_more_steps(rng):
    data = splits(rng)
    opened(data, steps=10, schedule="constant")
    for steps in (10, 30):
        assert opened(data, steps=steps, schedule="constant", resume=True) == "autoencoder-photos"
    for refused in ({"steps": 20}, {"steps": 40, "seed": 1}, {"epochs": 3}):
        with pytest.raises(ValueError, match="belongs to a run with other settings"):
            opened(data, schedule="constant", resume=True, **refused)


def test_a_run_whose_rate_decays_may_not_get_more_steps(rng):
    data = splits(rng)
    opened(data, steps=10, schedule="cosine")
    with pytest.raises(ValueError, match="steps: was 10, is now 30"):
        opened(data, steps=30, schedule="cosine", resume=True)
