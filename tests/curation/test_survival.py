"""The bytes of a curation do not depend on how it is run: a full disk, a signal, SIGKILL, hash seeds, processes."""

import contextlib
import errno
import functools
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_curate import hashes, run, texts_below

from ssl_keras.cli import curate as command_line
from ssl_keras.cli import main
from ssl_keras.curation import curate as curation
from ssl_keras.curation import engines, stages
from ssl_keras.data.sources import load

CODE = """
import os, pathlib, sys, time
from ssl_keras.curation import curate, engines, settings
if __name__ == "__main__":
    if sys.argv[3:]:
        replace = os.replace
        os.replace = lambda source, target: (time.sleep(0.05), replace(source, target))[1]
    found = settings.Settings(rules=("off",), parts=(0.6, 0.2, 0.2))
    curate.curate([sys.argv[1]], pathlib.Path(sys.argv[2]), found, engines.Local(), shard_bytes=9_000)
"""
STAGES = ("measure_shard", "collect", "records", "pair_up", "write_shard")  # records: the partitions of a grouping


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts") / "in"
    texts_below(folder, np.random.default_rng(0))
    return f"text:{folder}"


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory):
    """The SHA-256 of the files of a run that nothing stops."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(texts, out, shard_bytes=9_000)
    return hashes(out)


@contextlib.contextmanager
def small_files(limit):
    """A resource limit on the bytes of a file, which makes writing fail half way."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def at_the_second_call(original, interrupt):
    """A function that calls `original` in the context `interrupt()` at its second call."""
    count = []

    def called(*arguments):
        count.append(1)
        with interrupt() if len(count) == 2 else contextlib.nullcontext():
            return original(*arguments)

    return called


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_loses_nothing(texts, whole, tmp_path, monkeypatch, stage):
    """Files are cut at 300 bytes in one stage, then at none; the parts that were written stay."""
    out = tmp_path / "out"
    if stage == "records":
        monkeypatch.setattr(engines.Local, "grouped", within(engines.Local.grouped, lambda: small_files(300)))
    elif stage == "collect":
        monkeypatch.setattr(stages, stage, within(stages.collect, lambda: small_files(300)))
    else:
        monkeypatch.setattr(stages, stage, at_the_second_call(getattr(stages, stage), lambda: small_files(300)))
    with pytest.raises(OSError, match="File too large: '.*/out/") as caught:
        run(texts, out, shard_bytes=9_000)
    assert caught.value.errno == errno.EFBIG
    assert not list(out.rglob(".*"))  # neither half a file nor a lock
    with pytest.raises(ValueError, match="not complete: repeat the command"):
        load(f"curated:{out}")
    monkeypatch.undo()
    run(texts, out, shard_bytes=9_000)
    assert hashes(out) == whole
    assert not (out / "work").exists()


def within(function, interrupt):
    """A function that calls another one in the context `interrupt()`."""

    def called(*arguments):
        with interrupt():
            return function(*arguments)

    return called


def test_the_error_of_array_record_names_a_full_disk(tmp_path, monkeypatch):
    from array_record.python import array_record_module

    from ssl_keras.data import records

    class Full(array_record_module.ArrayRecordWriter):
        def close(self):
            raise RuntimeError("write() failed: No space left on device; writing /disk/x; at byte 40\n")

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Full)
    with pytest.raises(OSError, match="No space left on device: '.*shard'") as caught:
        records.write_shard(tmp_path / "shard", [b"content"])
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["measure_shard", "pair_up"])
def test_sigterm_ends_the_command_with_a_line(texts, whole, tmp_path, monkeypatch, caplog, stage):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "curate", functools.partial(curation.curate, shard_bytes=9_000))
    command = ["curate", texts, "--out", "out", "--rules", "off", "--parts", "0.6", "0.2", "0.2"]

    @contextlib.contextmanager
    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)
        yield

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(stages, stage, at_the_second_call(getattr(stages, stage), terminate))
        with pytest.raises(SystemExit) as caught:
            main(command)
    assert caught.value.code == 128 + signal.SIGTERM
    assert caplog.messages[-1] == "Received SIGTERM: stopping. The same command resumes."
    assert signal.getsignal(signal.SIGTERM) is before
    assert not list((tmp_path / "out").rglob(".*"))
    assert main(command) == 0
    assert hashes(tmp_path / "out") == whole


def test_two_processes_in_one_folder_are_refused(texts, whole, tmp_path):
    """The second is a process with another seed of hashes. When the first has ended, it completes the folder."""
    command = [sys.executable, "-c", CODE, texts, str(tmp_path / "out")]
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    said = []

    def start(work, result):
        said.append(subprocess.run(command, env=environment, capture_output=True, text=True))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(texts, tmp_path / "out", shard_bytes=9_000, look=start)
    assert said[0].returncode == 1
    assert f"in use by another run: process {os.getpid()}" in said[0].stderr
    assert "or choose another --out." in said[0].stderr
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert hashes(tmp_path / "out") == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_bytes_are_the_same_with_any_seed_of_hashes(texts, whole, tmp_path, seed):
    """`make test` covers a process that completes another one's work, above."""
    command = [sys.executable, "-c", CODE, texts, str(tmp_path / "out")]
    subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, check=True)
    assert hashes(tmp_path / "out") == whole


def test_what_a_killed_process_leaves_is_removed(texts, whole, tmp_path):
    """A temporary file, a lock, and, of a run that was killed as it removed its work, that."""
    out = tmp_path / "out"
    out.mkdir()
    for name in (".lock", ".curated-train.array_record-00000-of-00009.1.partial"):
        (out / name).write_text("half")
    run(texts, out, shard_bytes=9_000)
    assert hashes(out) == whole
    assert not list(out.rglob(".*"))
    (out / "work").mkdir()
    (out / "curation.partial.json").write_text("{}")
    with pytest.raises(ValueError, match="is complete"):
        run(texts, out, shard_bytes=9_000)
    assert not (out / "work").exists()
    assert not (out / "curation.partial.json").exists()
    assert hashes(out) == whole


WORKERS = """
import sys, time
from ssl_keras.curation import engines
def sleep(number):
    with open(sys.argv[1], "a") as file:
        file.write("begun\\n")
    time.sleep(60)
if __name__ == "__main__":
    engines.Local(2).each(sleep, range(4))
"""


def test_workers_end_with_a_killed_parent(tmp_path):
    (tmp_path / "code.py").write_text(WORKERS)
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, str(tmp_path / "code.py"), str(log)], env=environment)
    assert within_seconds(60, lambda: log.exists() and log.read_text().count("begun") == 2)
    children = pathlib.Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    parent.kill()
    parent.wait()
    assert len(children) >= 2
    assert within_seconds(20, lambda: not any(pathlib.Path(f"/proc/{child}").exists() for child in children))


def within_seconds(seconds, true):
    """Whether a condition becomes true within a time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_the_bytes_are_the_same_however_it_is_run(tmp_path, rng, monkeypatch):
    texts_below(tmp_path / "in", rng)
    run(f"text:{tmp_path}/in", tmp_path / "one", shard_bytes=9_000)
    (tmp_path / "moved").mkdir()
    (tmp_path / "in").rename(tmp_path / "moved" / "in")
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: Backwards(scan(path)))
    monkeypatch.setattr(engines, "PARTITION", 100)
    run(f"text:{tmp_path}/moved/in", tmp_path / "two", shard_bytes=9_000)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert len(hashes(tmp_path / "one")) > 6


class Backwards(list):
    """The entries of a folder, the last ones first."""

    def __init__(self, entries):
        super().__init__(sorted(entries, key=lambda each: each.name, reverse=True))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.mark.slow
def test_the_bytes_are_the_same_in_two_processes(tmp_path, rng):
    """`make test` covers one process with other partitions and another order of files."""
    texts_below(tmp_path / "in", rng)
    run(f"text:{tmp_path}/in", tmp_path / "one", shard_bytes=9_000)
    run(f"text:{tmp_path}/in", tmp_path / "two", engine=engines.Local(2), shard_bytes=9_000)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


@pytest.mark.slow
def test_a_killed_run_resumes(tmp_path, rng):
    """50 SIGKILLs: the same bytes. `make test` covers a run that is interrupted once, below."""
    texts_below(tmp_path / "in", rng, 150)
    run(f"text:{tmp_path}/in", tmp_path / "whole", shard_bytes=9_000)
    command = [sys.executable, "-c", CODE, f"text:{tmp_path}/in", str(tmp_path / "out")]
    kills = 0
    while kills < 50 and not (tmp_path / "out" / "curation.json").exists():
        process = subprocess.Popen([*command, "slow"])
        deadline = time.time() + 600
        before = _made(tmp_path / "out")
        while process.poll() is None and time.time() < deadline and len(_made(tmp_path / "out") - before) < 1:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert subprocess.run(command).returncode == 0 or (tmp_path / "out" / "curation.json").exists()
    assert kills > 10
    assert hashes(tmp_path / "whole") == hashes(tmp_path / "out")


def _made(out):
    return {path for path in out.rglob("*") if "partial" not in path.name}
