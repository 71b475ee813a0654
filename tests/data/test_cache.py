"""The cache: keyed by content, rebuilt if damaged, and cleared of leftovers of killed writers."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

from ssl_keras.data import cache
from ssl_keras.data.cache import contents, materialize

COLUMNS = {"x": ((3,), np.int16), "y": ((), np.uint8)}
ROWS = 7


def chunks():
    yield {"x": np.arange(3 * ROWS).reshape(ROWS, 3), "y": np.arange(ROWS)}


def made(key="key", fill=chunks):
    return materialize([key], COLUMNS, ROWS, fill, in_memory_bytes=0)


def check(arrays):
    np.testing.assert_array_equal(arrays["x"], np.arange(3 * ROWS).reshape(ROWS, 3))
    np.testing.assert_array_equal(arrays["y"], np.arange(ROWS))


@pytest.fixture
def folder():
    """The only entry of a cache."""
    made()
    (entry,) = cache.cache_folder().iterdir()
    return entry


def test_a_key_is_computed_only_if_files_are_written():
    def key():
        pytest.fail("computed")

    check(materialize(key, COLUMNS, ROWS, chunks))
    check(materialize(lambda: ["key"], COLUMNS, ROWS, chunks, in_memory_bytes=0))
    check(made(fill=lambda: pytest.fail("read again")))


def reshape(path, shape):
    """Writes another shape into the header of an array, which NumPy parses as Python."""
    header = f"{{'descr': '<i2', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    path.write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + path.read_bytes()[128:])


def flip(path, place=-1):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "content.json").write_text(""),
        lambda folder: (folder / "content.json").write_text("[1]"),
        lambda folder: (folder / "content.json").write_text('{"examples": 8, "files": {}}'),
        lambda folder: (folder / "content.json").unlink(),
        lambda folder: (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:-2]),
        lambda folder: (folder / "x.npy").write_bytes(b""),
        lambda folder: (folder / "y.npy").write_bytes(b"PK\x03\x04"),
        lambda folder: (folder / "y.npy").unlink(),
        lambda folder: np.save(folder / "y.npy", np.zeros(ROWS)),
        lambda folder: (folder / "content.json").write_text("[" * 10**5),
        lambda folder: reshape(folder / "x.npy", f"({2**63}, 3)"),
        lambda folder: reshape(folder / "x.npy", "(" * 60 + "3"),
        lambda folder: flip(folder / "x.npy"),
        lambda folder: flip(folder / "x.npy", 20),
    ],
)
def test_a_damaged_entry_is_rebuilt(folder, caplog, damage):
    damage(folder)
    check(made())
    assert f"{folder} is damaged" in caplog.text
    assert [path.name for path in cache.cache_folder().iterdir()] == [folder.name]
    caplog.clear()
    check(made(fill=lambda: pytest.fail("read again")))
    assert not caplog.text


def test_a_copied_or_touched_entry_is_valid(folder, caplog):
    shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)
    os.utime(folder / "x.npy")
    check(made(fill=lambda: pytest.fail("read again")))
    content = json.loads((folder / "content.json").read_text())
    del content["files"]  # as earlier versions wrote it
    (folder / "content.json").write_text(json.dumps(content))
    check(made(fill=lambda: pytest.fail("read again")))
    assert not caplog.text


def test_two_writers_of_one_entry():
    """The later one uses the entry of the other, and neither removes the other's files as leftovers."""

    def slow():
        check(made())
        yield from chunks()

    check(made(fill=slow))
    assert len(list(cache.cache_folder().iterdir())) == 1


def killed(name):
    """Starts a process that writes an entry until it is killed. Returns its id."""
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        with cache.writing(name) as partial:
            (partial / "gigabytes").write_text("…")
            os.write(told, b".")
            signal.pause()
    os.read(ready, 1)
    return child


def test_leftovers_of_killed_writers_are_removed():
    dead, alive = (killed(cache.name_of([number])) for number in range(2))
    os.kill(dead, signal.SIGKILL)
    os.waitpid(dead, 0)
    assert len(list(cache.cache_folder().glob(".*.partial"))) == 2
    (cache.cache_folder() / ".notes.elsewhere.x.partial").mkdir()  # from another host, whose processes are unknown here
    made()
    left = {path.name.partition(".")[2][:5] for path in cache.cache_folder().glob(".*.partial")}
    assert left == {cache.name_of([1])[:5], "notes"}
    os.kill(alive, signal.SIGKILL)
    os.waitpid(alive, 0)
    made("another key")
    assert len(list(cache.cache_folder().glob(".*.partial"))) == 1


# ----- checksums of files --------------------------------------------------------------------------------


@pytest.fixture
def some(tmp_path):
    """The paths of three files below a folder."""
    paths = [tmp_path / "data" / name for name in ("a", "b/c", "d")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {path.name}")
    return paths


def again(path, content):
    """Writes other content of the same length and keeps the timestamps, like cp -p, rsync -t and tar."""
    about = path.stat()
    path.write_text(content)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_checksums_change_with_the_content_not_the_timestamps(some):
    before = contents(some)
    again(some[1], "CONTENT of c")
    after = contents(some)
    assert [one == two for one, two in zip(before, after)] == [True, False, True]


def test_checksums_do_not_depend_on_the_folder_or_timestamps(some, tmp_path, monkeypatch):
    before = contents(some)
    os.utime(some[0])
    some[2].chmod(0o600)
    monkeypatch.chdir(tmp_path / "data")
    assert contents(["a", "./b/c", "../data/d"]) == before
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").rename(tmp_path / "moved")
    assert contents([f"moved/{name}" for name in ("a", "b/c", "d")]) == before


def test_checksums_differ_for_other_files_at_the_same_relative_paths(some, tmp_path, monkeypatch):
    before = contents(some)
    shutil.copytree(tmp_path / "data", tmp_path / "other" / "data")
    (tmp_path / "other" / "data" / "a").write_text("other")
    monkeypatch.chdir(tmp_path / "other")
    assert contents(["data/a", "data/b/c", "data/d"]) != before


def test_a_file_is_read_again_only_if_it_may_have_changed(some, monkeypatch):
    read = []
    monkeypatch.setattr(cache, "hash_file", lambda path, plain=cache.hash_file: read.append(path) or plain(path))
    first = contents(some)
    assert contents(some) == first
    assert len(read) == 6  # all are recent, and may change again with the same timestamps
    monkeypatch.setattr(cache, "RECENT", -(10**18))
    for _ in range(2):
        assert contents(some) == first
    assert len(read) == 9
    again(some[0], "CONTENT of a")
    assert contents(some) != first
    assert len(read) == 10
    (memory,) = cache.cache_folder().glob("*.files.json")
    memory.write_text("{")
    assert contents(some) == [["a", contents(some)[0][1]], *first[1:]]
    some[0].unlink()
    assert contents(some)[0] == ["a", ""]


@pytest.mark.parametrize(
    "known",
    [None, 5, "abcde", ["a"], [1, 2, 3, 4, 5], {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, [[], 2, 3, 4, "x"], "deep"],
)
def test_damaged_checksums_are_computed_again(some, monkeypatch, known):
    monkeypatch.setattr(cache, "RECENT", -(10**18))
    first = contents(some)
    (memory,) = cache.cache_folder().glob("*.files.json")
    memory.write_text("[" * 10**5 if known == "deep" else json.dumps({"a": known}))
    assert contents(some) == first
    assert len(json.loads(memory.read_text())) == 3


def test_an_unwritable_cache_is_an_error_that_names_the_setting(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SSL_KERAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match="Cannot write to .*file: File exists. .* Set SSL_KERAS_CACHE to"):
        made()
