"""One process at a time in a run's folder, and none is kept out by a dead one."""

import errno
import fcntl
import os
import signal
import threading

import pytest

from ssl_keras.files import locks


def refused(folder):
    try:
        with locks.alone_in(folder):
            return None
    except ValueError as error:
        return str(error)


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the folder and has a forked child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with locks.alone_in(tmp_path):
                child = os.fork()
                if child:
                    os.write(writer, b"%d\n" % child)
                threading.Event().wait(60)
        finally:
            os._exit(1)
    child = int(os.read(reader, 100))
    yield pid
    for each in (pid, child):
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os.close(reader)
    os.close(writer)


def test_a_second_one_is_refused_and_told_by_whom(tmp_path, holder):
    assert f"{tmp_path} is in use by another run: process {holder} on {os.uname().nodename}. " in refused(tmp_path)


def test_a_kill_frees_it_whatever_the_process_has_forked(tmp_path, holder):
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    assert (tmp_path / ".lock").exists()
    assert refused(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_threads_of_one_process_are_kept_apart_too(tmp_path):
    with locks.alone_in(tmp_path):
        assert f"process {os.getpid()} on" in refused(tmp_path)
        assert f"process {os.getpid()} on" in refused(tmp_path)  # to be refused takes nothing from the holder
    assert refused(tmp_path) is None


def test_an_exception_frees_it(tmp_path):
    with pytest.raises(KeyboardInterrupt), locks.alone_in(tmp_path):
        raise KeyboardInterrupt
    assert refused(tmp_path) is None


def test_many_at_once_come_one_after_the_other(tmp_path):
    inside, most, done = [], [], []

    def work():
        while len(done) < 200:
            try:
                with locks.alone_in(tmp_path):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    done.append(1)
            except ValueError:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert not list(tmp_path.iterdir())


def test_storage_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    assert refused(tmp_path) is None
    assert ".lock cannot be locked (No locks available): make sure" in caplog.text
    with locks.writing_in(tmp_path) as works:
        assert not works
    assert not locks._held


def test_another_hosts_is_named(tmp_path, caplog):
    (tmp_path / ".lock").write_text("process 1 on elsewhere\n")
    assert refused(tmp_path) is None
    assert ".lock was left by process 1 on elsewhere. Make sure that it no longer runs." in caplog.text


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(PermissionError, match="Cannot write to .*lock"), locks.alone_in(tmp_path / "run"):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_that_went_away_does_not_hide_the_end(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with locks.alone_in(folder):
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        (folder / ".lock").write_text("another's")
    assert (folder / ".lock").read_text() == "another's"
