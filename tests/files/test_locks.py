"""Locks: one process at a time in the folder of a run, and no stale locks."""

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
    """Starts another process that locks the folder and has a forked child."""
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


def test_the_error_names_the_holder(tmp_path, holder):
    assert f"{tmp_path} is in use by another run: process {holder} on {os.uname().nodename}. " in refused(tmp_path)


def test_a_kill_releases_the_lock_despite_forked_children(tmp_path, holder):
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    assert (tmp_path / ".lock").exists()
    assert refused(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_threads_of_one_process_exclude_each_other(tmp_path):
    with locks.alone_in(tmp_path):
        assert f"process {os.getpid()} on" in refused(tmp_path)
        assert f"process {os.getpid()} on" in refused(tmp_path)  # a failed attempt does not release the lock
    assert refused(tmp_path) is None


def test_an_exception_releases_the_lock(tmp_path):
    with pytest.raises(KeyboardInterrupt), locks.alone_in(tmp_path):
        raise KeyboardInterrupt
    assert refused(tmp_path) is None


def test_many_threads_take_turns(tmp_path):
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


def test_storage_without_locks_logs_a_warning(tmp_path, monkeypatch, caplog):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    assert refused(tmp_path) is None
    assert ".lock cannot be locked (No locks available). Make sure" in caplog.text
    with locks.writing_in(tmp_path) as works:
        assert not works
    assert not locks._held


def test_the_lock_of_another_host_is_named(tmp_path, caplog):
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


def test_releasing_after_the_folder_was_moved(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with locks.alone_in(folder):
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        (folder / ".lock").write_text("another's")
    assert (folder / ".lock").read_text() == "another's"
