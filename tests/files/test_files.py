"""Writing files: atomic, and only in place of files."""

import errno
import os
import socket

import numpy as np
import pytest

from ssl_keras import files
from ssl_keras.cli import main


def test_the_target_of_a_link_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    for name, to in (("new", "there/made"), ("old", "there/kept")):
        (tmp_path / name).symlink_to(to)
    (tmp_path / "there/kept").write_text("before")
    for name in ("new", "old"):
        files.write(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
    assert {path.name: path.read_text() for path in (tmp_path / "there").iterdir()} == {"made": "new", "kept": "old"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_the_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "f.npy").write_text("before")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/f\.npy'$"):
        files.write(tmp_path / "f.npy", "after")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def pipe(path):
    os.mkfifo(path)


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def link_to_a_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def circle(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pipe, "is a pipe"),
        (unix_socket, "is a socket"),
        (os.mkdir, "is a folder"),
        (link_to_a_pipe, "is a pipe"),
        (circle, "is a link to itself"),
    ],
)
def test_only_files_are_replaced(tmp_path, monkeypatch, make, message):
    monkeypatch.chdir(tmp_path)  # names of sockets must be short
    path = tmp_path / "out"
    make(path.relative_to(tmp_path) if make is unix_socket else path)
    before = {each.name: os.lstat(each) for each in tmp_path.iterdir()}
    for attempt in (lambda: files.write(path, "x"), lambda: files.check_output(path, overwrite=True)):
        with pytest.raises(ValueError, match=message):
            attempt()
    assert {each.name: os.lstat(each) for each in tmp_path.iterdir()} == before


def test_a_device_is_not_replaced():
    with pytest.raises(ValueError, match="/dev/null is a device"):
        files.target("/dev/null")


def test_the_temporary_file_does_not_follow_a_link(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "randbelow", lambda _: 7)
    (tmp_path / "theirs").write_text("kept")
    (tmp_path / ".out.7.partial").symlink_to("theirs")
    with pytest.raises(FileExistsError):
        files.write(tmp_path / "out", "new")
    assert (tmp_path / "theirs").read_text() == "kept"
    assert sorted(each.name for each in tmp_path.iterdir()) == [".out.7.partial", "theirs"]


def test_the_writability_check_keeps_other_files(tmp_path):
    (tmp_path / f".writable.{os.getpid()}").write_text("mine")
    files.make_folder(tmp_path)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "command",
    [
        ["embed", "autoencoder-fashion_mnist"],
        ["sample", "dcgan-fashion_mnist"],
        ["sample", "causal_lm-tiny_shakespeare", "--prompt", "a"],
        ["search", "image_text-emoji_pairs", "a heart", "--images", "."],
    ],
)
@pytest.mark.parametrize("there", [np.save, lambda path, _: pipe(path)], ids=["a file", "a pipe"])
def test_commands_do_not_overwrite_by_default(command, there, tmp_path, capsys, monkeypatch):
    def begun(*_, **__):
        raise AssertionError("started to work")

    for name in (
        "cli.evaluate.load",
        "cli.generate.sampling.load_generator",
        "encoders.load_encoder",
        "cli.search.search.Retriever",
    ):
        monkeypatch.setattr(f"ssl_keras.{name}", begun)
    out = tmp_path / "thesis.npy"
    there(out, np.arange(3))
    before = os.lstat(out)
    assert main([*command, "--out", str(out)]) == 1
    assert main([*command, "--out", str(out), "--overwrite"]) == 1 if out.is_fifo() else True
    assert os.lstat(out) == before
    said = capsys.readouterr().err
    assert "is a pipe" in said if out.is_fifo() else "--overwrite" in said
