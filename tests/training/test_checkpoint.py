"""Checkpoints: complete, exact, and written atomically."""

import errno
import json
import os
import resource
import shutil

import numpy as np
import pytest
import tensorflow as tf

from ssl_keras import files
from ssl_keras.data.batches import Batches
from ssl_keras.objectives.autoencoder import Settings, build
from ssl_keras.training import checkpoint
from ssl_keras.training.checkpoint import Checkpoints

SPEC = {"image": ((28, 28, 1), tf.uint8)}


@pytest.fixture
def objective(digits):
    model = build(Settings((16, 8)), SPEC)
    model.compile("adam")
    model.fit(Batches(digits.train, 64).dataset(), steps_per_epoch=3, verbose=0)
    return model


def state(model):
    return files.read_variables(checkpoint.variables(model))


@pytest.mark.fit
def test_checkpoint_contains_the_whole_state(objective):
    names = checkpoint.variables(objective)
    assert {"step", "loss_scale", "finite_steps"} < set(names)
    weights = [n for n in names if n.startswith("weights/")]
    assert len(weights) == len(objective.weights) == len(set(weights)) == 8  # no duplicate names
    again = build(Settings((16, 8)), SPEC)
    again.compile("adam")
    assert list(checkpoint.variables(again)) == list(names)  # names do not depend on layers that were built before
    assert len([n for n in names if n.startswith("optimizers/0/")]) == 2 + 2 * 8
    assert len([n for n in names if n.startswith("metrics/")]) == 2 * len(objective.metrics)


@pytest.mark.fit
def test_save_and_restore_are_exact(objective, tmp_path):
    saved = state(objective)
    Checkpoints(tmp_path).save(objective, {"best": 1.5})
    fresh = build(Settings((16, 8)), SPEC)
    fresh.compile("adam")
    assert Checkpoints(tmp_path).restore(fresh) == {"best": 1.5}
    for name, value in state(fresh).items():
        np.testing.assert_array_equal(value, saved[name], err_msg=name)


@pytest.mark.fit
def test_restore_without_checkpoints(objective, tmp_path):
    assert Checkpoints(tmp_path).restore(objective) is None


@pytest.mark.fit
def test_the_last_two_and_the_best_are_kept(objective, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (3, 4, 5):
        objective.step.assign(step)
        checkpoints.save(objective, {}, best=step == 4)
    assert [path.name for path in checkpoints.paths()] == [f"step-000000000{step}.safetensors" for step in (4, 5)]
    checkpoints.load(objective, tmp_path / "best.safetensors")
    assert int(objective.step) == 4


@pytest.mark.fit
@pytest.mark.parametrize("damage", ["truncated", "flipped", "not finite", "other network"])
def test_damaged_checkpoint_is_skipped_with_a_warning(objective, tmp_path, caplog, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(objective, {"n": 1})
    objective.step.assign(4)
    if damage == "not finite":
        objective.weights[0].assign(np.full(objective.weights[0].shape, np.nan))
    checkpoints.save(objective, {"n": 2})
    path = checkpoints.paths()[-1]
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if damage == "flipped":
        content[-5] ^= 1
        path.write_bytes(content)
    if damage == "other network":
        other = build(Settings((4,)), SPEC)
        other.compile("adam")
        other.step.assign(4)
        checkpoints.save(other, {"n": 3})
    assert checkpoints.restore(objective) == {"n": 1}
    assert f"Skipping a checkpoint: {path.name}" in caplog.text
    checkpoints.paths()[0].write_bytes(b"")
    with pytest.raises(ValueError, match="No checkpoint in .* can be used"):
        checkpoints.restore(objective)


@pytest.mark.fit
def test_a_metric_may_be_infinite(objective, tmp_path):
    objective.gradient_norm.update_state(np.inf)
    Checkpoints(tmp_path).save(objective, {})
    assert Checkpoints(tmp_path).restore(objective) == {}


@pytest.mark.fit
def test_full_disk_leaves_the_last_good_file(objective, tmp_path):
    """A resource limit of 10 kB per file makes the write fail half way."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(objective, {"n": 1})
    objective.step.assign(4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:  # noqa: PT012
            checkpoints.save(objective, {"n": 2}, best=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000003.safetensors"]
    assert checkpoints.restore(objective) == {"n": 1}


def test_old_file_stays_until_the_new_one_is_complete(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write(path, "old")

    def full(_):
        assert path.read_text() == "old"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    kept = [".mine.partial", ".step-1.safetensors.partial", ".notes.safetensors.9.partial"]
    ours = [".step-0000000001.safetensors.99.partial", ".best.safetensors.99.partial"]
    for name in kept + ours:
        (tmp_path / name).write_text("half")
    checkpoints = Checkpoints(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5  # the constructor removes nothing, as another process may be writing
    checkpoints.remove_leftovers()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.mark.fit
def test_users_copies_of_checkpoints_are_kept(objective, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(objective, {})
    kept = tmp_path / "step-0000000000-keep.safetensors"
    shutil.copy(checkpoints.paths()[0], kept)
    for step in range(1, 4):
        objective.step.assign(step)
        checkpoints.save(objective, {})
    assert [path.name for path in checkpoints.paths()] == [f"step-000000000{step}.safetensors" for step in (2, 3)]
    assert kept.exists()


def test_unwritable_folders_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="Cannot write to .*file/runs: Not a directory"):
        files.make_folder(tmp_path / "file" / "runs")


def test_json_is_readable(tmp_path):
    files.write_json(tmp_path / "a.json", {"µ": [1, 2.5]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"µ": [1, 2.5]}
