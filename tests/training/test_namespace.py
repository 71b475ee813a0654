"""Network namespaces, on systems that permit them."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from ssl_keras.training import launch, namespace

LOOK = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname())
print(os.getuid(), len(os.listdir("/proc/self/fd")))
import namespace
print(namespace.external_interfaces())
"""
PACKAGE = pathlib.Path(__file__).parents[2]


@pytest.fixture
def inside():
    try:
        with namespace.isolated() as made:
            yield made
    except OSError as error:
        pytest.xfail(f"no network namespace here: {error}")  # skips are for missing data


def test_namespace_has_one_interface_and_the_same_user(inside):
    command = [sys.executable, "-c", LOOK, str(PACKAGE / "ssl_keras" / "training")]
    said = subprocess.run(**inside(command), capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(os.getuid()), "5", "[]"]  # descriptors: three standard ones, the server, the folder


def test_server_is_reachable_only_inside(inside):
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        **inside([sys.executable, "-ISc", code]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        port = int(server.stdout.readline())
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
        subprocess.run(**inside([sys.executable, "-ISc", connect]), check=True)
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), 5)
        server.stdin.close()


def test_exit_code_and_process_id_are_those_of_the_command(inside):
    command = [sys.executable, "-ISc", "import os, sys; print(os.getpid()); sys.exit(7)"]
    with subprocess.Popen(**inside(command), stdout=subprocess.PIPE, text=True) as process:
        assert int(process.stdout.read()) == process.pid
    assert process.returncode == 7


@pytest.mark.parametrize(
    "program",
    [
        ("/nowhere/python",),
        (sys.executable, "-c", "raise OSError(1, 'unshare: Operation not permitted')"),
        (sys.executable, "-c", ""),
    ],
)
def test_without_a_namespace_a_warning_is_logged_and_the_workers_start(program, monkeypatch, caplog):
    monkeypatch.setattr(namespace, "PROGRAM", program)
    with launch._network(True) as inside:
        assert inside(["ssl-keras"]) == {"args": ["ssl-keras"]}
    assert "Cannot isolate the workers' network (" in caplog.text
    assert "Traceback" not in caplog.text


def test_no_namespace_is_created_without_isolate(monkeypatch, caplog):
    monkeypatch.setattr(namespace, "PROGRAM", ())
    with launch._network(False) as inside:
        assert inside(["ssl-keras"]) == {"args": ["ssl-keras"]}
    assert not caplog.text


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["pretrain", "wav2vec2"], "spoken_digit"),
        (["pretrain", "ctc", "--steps", "5"], "spoken_digit"),
        (["pretrain", "autoencoder", "--data", "tfds:cmaterdb/bangla"], "cmaterdb/bangla"),
        (["pretrain", "wav2vec2", "--data=tfds:spoken_digit[*_theo_*]"], "spoken_digit"),
        (["finetune", "mine", "--data", "tfds:glue/cola:2.0.0"], "glue/cola:2.0.0"),
        (["pretrain", "wav2vec2", "--data", "espeak"], None),
        (["pretrain", "autoencoder", "--data", "folder:/data/tfds:mine"], None),
        (["pretrain", "unknown"], None),
        (["pretrain"], None),
        (["evaluate", "mine"], None),
    ],
)
def test_data_are_downloaded_before_the_workers_are_isolated(arguments, name, monkeypatch):
    asked = []
    monkeypatch.setattr(launch.tfds, "prepare", asked.append)
    launch._download(arguments)
    assert asked == ([] if name is None else [name])
