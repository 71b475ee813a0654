"""Replacing a saved encoder loses no file, whether it is killed, refused or fails."""

import json
import os
import pathlib
import threading

import pytest

from ssl_keras import files
from ssl_keras.encoders import replacing
from ssl_keras.files import locks

STEPS = ("rename", "unlink", "rmdir")


class Killed(BaseException):
    """An exception that no code catches, because no code runs after a kill."""


def write(folder, value):
    folder.mkdir(exist_ok=True)
    (folder / "encoder.safetensors").write_text(value)
    (folder / "card.json").write_text(json.dumps({"format": 1, "objective": "x", "weights": {}, "value": value}))
    return folder


def value(folder):
    """Checks that an encoder is complete; returns its content."""
    said = json.loads((folder / "card.json").read_text())["value"]
    assert (folder / "encoder.safetensors").read_text() == said
    return said


def save(folder, content):
    """Saves an encoder as `save_encoder` does."""
    with locks.writing_in(folder.parent) as alone:
        partial = write(files.new_beside(folder, "partial"), content)
        replacing.replace(folder, partial)
        if alone:
            replacing.remove_leftovers(folder)


@pytest.fixture
def folder(tmp_path):
    """The folder of an encoder that also contains a file of the user."""
    (tmp_path / "place").mkdir()
    made = write(tmp_path / "place" / "e", "old")
    (made / "README").write_text("mine")
    (made / "notes").mkdir()
    (made / "notes" / "a.txt").write_text("mine too")
    return made


def assert_only(folder, content):
    assert value(folder) == content
    assert (folder / "README").read_text() == "mine"
    assert (folder / "notes" / "a.txt").read_text() == "mine too"
    assert {path.name for path in folder.iterdir()} == {"card.json", "encoder.safetensors", "README", "notes"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_other_files_are_kept(folder):
    save(folder, "new")
    assert_only(folder, "new")


@pytest.mark.parametrize("step", range(20))
def test_kill_at_any_step_loses_nothing(folder, step, monkeypatch):
    left = [step]

    def counted(plain):
        def call(*arguments, **options):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return plain(*arguments, **options)

        return call

    for name in STEPS:
        monkeypatch.setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
    try:
        save(folder, "new")
        killed = False
    except Killed:
        killed = True
    monkeypatch.undo()
    assert killed == (step < 7)  # two renames, two user files, two encoder files, the folder
    found = replacing.backup(folder) or folder
    before = {str(path.relative_to(folder.parent)): path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    assert value(found) == ("old" if step < 2 else "new")
    assert {str(p.relative_to(folder.parent)): p.stat().st_mtime_ns for p in folder.parent.rglob("*")} == before
    save(folder, "newer")
    assert_only(folder, "newer")


@pytest.mark.parametrize("again", [False, True])
def test_new_encoder_is_kept_if_a_rename_fails(folder, again, monkeypatch):
    plain = pathlib.Path.rename

    def fails(self, target):
        if self.name == ".e.partial" and (again or pathlib.Path(target) == folder):
            raise OSError(5, "Input/output error")
        return plain(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", fails)
    kept = folder.with_name(".e.partial" if again else "e.unsaved")
    with pytest.raises(OSError, match=f"e cannot be replaced: Input/output error. The new encoder is in {kept}"):
        save(folder, "new")
    monkeypatch.undo()
    assert (value(folder), value(kept)) == ("old", "new")
    assert (folder / "README").exists()
    assert {path.name for path in folder.parent.iterdir()} == {"e", kept.name}


def foreign(folder):
    folder.mkdir(parents=True)
    (folder / "precious.py").write_text("x = 1")


def card_of_another(folder):
    foreign(folder)
    (folder / "card.json").write_text('{"name": "Visa"}')


def half_a_card(folder):
    write(folder, "broken")
    (folder / "card.json").write_text('{"format"')


def a_file(folder):
    folder.write_text("x = 1")


@pytest.mark.parametrize("make", [foreign, card_of_another, half_a_card, a_file])
def test_folders_that_are_not_encoders_are_left_unchanged(tmp_path, make):
    folder = tmp_path / "place" / "e"
    folder.parent.mkdir()
    make(folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        ValueError, match=r"e is not a saved encoder and would be overwritten. Expected .* Received: a f"
    ):
        replacing.check(folder)
    for number in ("", ".2"):
        with pytest.raises(ValueError, match=rf"The new encoder is in .*place/e.unsaved{number}\.$"):
            save(folder, "new")
        assert value(folder.with_name(f"e.unsaved{number}")) == "new"
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("make", [foreign, a_file])
def test_other_sibling_folders_are_left_unchanged(folder, make):
    for name in (".e.old", ".e.partial", "e.unsaved"):
        make(folder.with_name(name))
    with pytest.raises(ValueError, match=r"\.e\.old is in the way.* The new encoder is in .*/e.unsaved.2"):
        save(folder, "new")
    assert value(folder) == "old"
    for name in (".e.old", ".e.partial", "e.unsaved"):
        path = folder.with_name(name)
        assert (path if path.is_file() else path / "precious.py").read_text() == "x = 1"
    save(folder.with_name("other"), "new")  # needs no backup
    assert folder.with_name(".e.partial").exists()


def test_link_stays_a_link(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    save(replacing.resolve(link), "new")
    assert link.is_symlink()
    assert_only(folder, "new")


def test_linked_backup_is_not_used(folder, tmp_path):
    write(tmp_path / "elsewhere", "elsewhere")
    folder.with_name(".e.old").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is in the way"):
        save(folder, "new")
    assert value(tmp_path / "elsewhere") == "elsewhere"


def test_empty_folder_is_replaced(tmp_path):
    (tmp_path / "place" / "e").mkdir(parents=True)
    save(tmp_path / "place" / "e", "new")
    assert value(tmp_path / "place" / "e") == "new"


def test_concurrent_writers_and_readers(folder):
    """One of many saved encoders remains, and readers always find one, at the latest on the second attempt."""
    over, missed = threading.Event(), []

    def is_there():
        return any((place / "card.json").is_file() for place in (folder, replacing.backup(folder)) if place)

    def read():
        while not over.is_set():
            if not any(is_there() for _ in range(50)):
                missed.append(True)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=lambda n=n: [save(folder, str(n)) for _ in range(20)]) for n in range(4)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    reader.join()
    assert not missed
    assert_only(folder, value(folder))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_writer_does_not_block_others(folder):
    pid = os.fork()
    if not pid:
        with locks.writing_in(folder.parent):
            os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    save(folder, "new")
    assert_only(folder, "new")
