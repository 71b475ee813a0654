"""The rendezvous of workers: other programs are not mistaken for workers, and no worker waits forever."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

from ssl_keras.training import launch, rendezvous


def test_handshake_checks_which_worker_answers():
    first, second = "ssl_keras worker 0 of 2", "ssl_keras worker 1 of 2"
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        address = f"127.0.0.1:{own.getsockname()[1]}"
        with rendezvous._serve(own, first) as callers:
            assert rendezvous._handshake(address, first, second) == rendezvous.CONNECTED
            for expected in (second, "ssl_keras worker 0 of 3"):
                with pytest.raises(ValueError, match="Received the greeting of 'worker 0 of 2'"):
                    rendezvous._handshake(address, expected, "")
            until = time.monotonic() + 10
            while second not in callers:
                assert time.monotonic() < until
                time.sleep(0.01)
    assert rendezvous._handshake(address, first, "") == rendezvous.NO_ANSWER


class Cluster:
    """The resolver of one worker in a cluster with these addresses."""

    def __init__(self, addresses, index):
        self.task_type, self.task_id, self.addresses = "worker", index, addresses

    def cluster_spec(self):
        return tf.train.ClusterSpec({"worker": self.addresses})


def other_server(content):
    """Starts a server that sends some bytes to each client and keeps the connection open."""
    server, connections = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connections.append(server.accept()[0])
                connections[-1].sendall(content)

    threading.Thread(target=serve, daemon=True).start()
    return server


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0\0\x12\4\0\0\0\0\0\0\3\x7f\xff",
        b"\xff" * 2000,
        b"ssl_keras",
        b"worker 1 of 2\n",
    ],
    ids=["silence", "HTTP", "SSH", "gRPC", "bytes", "half a greeting", "no greeting"],
)
def test_other_servers_are_not_taken_for_workers(content, monkeypatch):
    """This includes TensorFlow's own gRPC server, which a worker starts only after all have exchanged greetings."""
    monkeypatch.setenv("SSL_KERAS_WAIT", "0.3")
    monkeypatch.setattr(rendezvous, "GREETING_TIMEOUT", 0.1)
    with other_server(content) as server:
        other = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(TimeoutError) as error:
            rendezvous.wait_for_workers(Cluster([*launch._addresses(1), other], 0))
    expected = f"within 0.3 s. Missing: worker 1 ({other}): what answers there is not an ssl_keras worker"
    assert expected in str(error.value)


def test_no_worker_continues_before_all_have_exchanged_greetings(monkeypatch):
    """Other programs connect too, and the last worker is late."""
    monkeypatch.setenv("SSL_KERAS_WAIT", "20")
    addresses, order = launch._addresses(3), []

    def come(index):
        rendezvous.wait_for_workers(Cluster(addresses, index))
        order.append(index)

    threads = [threading.Thread(target=come, args=(index,)) for index in range(3)]
    for thread in threads[:2]:
        thread.start()
    until = time.monotonic() + 10
    connections = []
    for address in addresses[:2]:
        while len(connections) < 1 + addresses.index(address):
            with contextlib.suppress(ConnectionRefusedError):
                connections.append(socket.create_connection(rendezvous.parse_address(address)))
            assert time.monotonic() < until
    time.sleep(0.5)
    assert not order
    threads[2].start()
    for thread in threads:
        thread.join(20)
    assert sorted(order) == [0, 1, 2]


def test_worker_that_does_not_reach_this_one_is_named(monkeypatch):
    monkeypatch.setenv("SSL_KERAS_WAIT", "0.3")
    with (
        other_server(b"ssl_keras worker 1 of 2\n") as server,
        pytest.raises(TimeoutError, match="it does not reach this worker"),
    ):
        rendezvous.wait_for_workers(Cluster([*launch._addresses(1), f"127.0.0.1:{server.getsockname()[1]}"], 0))


@pytest.mark.parametrize(
    ("here", "others", "bound", "warning"),
    [
        ("127.0.0.1", ["127.0.0.1"], "127.0.0.1", ""),
        ("localhost", [], "127.0.0.1", ""),
        ("localhost", ["elsewhere.invalid"], "0.0.0.0", "others could not reach"),
        ("nobody.invalid", ["elsewhere.invalid"], "0.0.0.0", "listens on all"),
        ("192.0.2.1", ["192.0.2.2"], "0.0.0.0", "Cannot assign requested address"),  # not an address of this machine
    ],
)
def test_worker_listens_at_its_address(here, others, bound, warning, caplog):
    port = rendezvous.parse_address(launch._addresses(1)[0])[1]
    with rendezvous._listen("worker 0", f"{here}:{port}", [f"{other}:1" for other in others]) as own:
        assert own.getsockname()[:2] in {(bound, port), ("::1", port)} - {(warning and "::1", port)}
    assert warning in caplog.text
    assert bool(warning) == bool(caplog.text)


@pytest.mark.parametrize("text", ["abc", "-1", "0", "nan", "inf", "1e9", "10 s", "1_0x"])
def test_invalid_timeouts_are_refused(text, monkeypatch):
    monkeypatch.setenv("SSL_KERAS_WAIT", text)
    with pytest.raises(ValueError, match="SSL_KERAS_WAIT must be a positive number of seconds.* Received: "):
        rendezvous.timeout()


@pytest.mark.parametrize(("text", "seconds"), [("", 600), (" ", 600), ("3", 3), (" 0.5 ", 0.5), ("3600", 3600)])
def test_timeout_is_read_from_the_environment(text, seconds, monkeypatch):
    monkeypatch.setenv("SSL_KERAS_WAIT", text)
    assert rendezvous.timeout() == seconds


def test_watchdog_kills_a_process_that_holds_the_interpreter_lock(monkeypatch, capfd):
    """TensorFlow's start holds it too, so neither threads nor signal handlers run."""
    code = "import ctypes; print('up', flush=True); ctypes.PyDLL(None).sleep(60)"
    with subprocess.Popen([sys.executable, "-ISc", code], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout.readline() == "up\n"
        monkeypatch.setattr(os, "getpid", lambda: held.pid)
        with rendezvous.watchdog(30):
            pass
        assert held.poll() is None
        with rendezvous.watchdog(0.2):
            assert held.wait(30) == -signal.SIGKILL
    assert "error: TensorFlow has not connected all workers within 0.2 s" in capfd.readouterr().err


def test_open_port_logs_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(rendezvous.namespace, "external_interfaces", lambda: ["eth0"])
    rendezvous.warn_of_open_port(Cluster(["127.0.0.1:2222"], 0))
    assert "TensorFlow listens on port 2222 of all of this machine's addresses" in caplog.text
    caplog.clear()
    monkeypatch.setattr(rendezvous.namespace, "external_interfaces", list)
    rendezvous.warn_of_open_port(Cluster(["127.0.0.1:2222"], 0))
    assert not caplog.text
