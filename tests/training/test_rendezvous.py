"""How workers meet: whoever is none of them is not taken for one, and nobody waits for ever."""

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


def test_another_worker_at_an_address_is_told():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        address = f"127.0.0.1:{own.getsockname()[1]}"
        with rendezvous._greeting(own, "ssl_keras worker 0 of 2") as callers:
            assert rendezvous._greets(address, "ssl_keras worker 0 of 2", "ssl_keras worker 1 of 2") == rendezvous.THERE
            for expected in ("ssl_keras worker 1 of 2", "ssl_keras worker 0 of 3"):
                with pytest.raises(ValueError, match="It says that it is 'worker 0 of 2'"):
                    rendezvous._greets(address, expected, "")
            until = time.monotonic() + 10
            while "ssl_keras worker 1 of 2" not in callers:
                assert time.monotonic() < until
                time.sleep(0.01)
    assert rendezvous._greets(address, "ssl_keras worker 0 of 2", "") == rendezvous.NOBODY


class Cluster:
    """A resolver for one of the workers at these addresses."""

    def __init__(self, addresses, index):
        self.task_type, self.task_id, self.addresses = "worker", index, addresses

    def cluster_spec(self):
        return tf.train.ClusterSpec({"worker": self.addresses})


def stranger(said):
    """A server that says something to each caller, and keeps the line open."""
    server, kept = socket.create_server(("127.0.0.1", 0)), []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                kept.append(server.accept()[0])
                kept[-1].sendall(said)

    threading.Thread(target=serve, daemon=True).start()
    return server


@pytest.mark.parametrize(
    "said",
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
def test_who_says_something_else_is_no_worker(said, monkeypatch):
    """Nor is TensorFlow's own server, which speaks gRPC: no worker goes on before all have been greeted."""
    monkeypatch.setenv("SSL_KERAS_WAIT", "0.3")
    monkeypatch.setattr(rendezvous, "GREETED", 0.1)
    with stranger(said) as server:
        other = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(TimeoutError) as error:
            rendezvous.gather(Cluster([*launch._addresses(1), other], 0))
    assert f"within 0.3 s. Missing: worker 1 ({other}): what answers there is no worker of ours" in str(error.value)


def test_none_goes_on_before_all_have_been_greeted(monkeypatch):
    """Also where strangers knock at their doors, and the last one comes late."""
    monkeypatch.setenv("SSL_KERAS_WAIT", "20")
    addresses, order = launch._addresses(3), []

    def come(index):
        rendezvous.gather(Cluster(addresses, index))
        order.append(index)

    threads = [threading.Thread(target=come, args=(index,)) for index in range(3)]
    for thread in threads[:2]:
        thread.start()
    until = time.monotonic() + 10
    knocks = []
    for address in addresses[:2]:
        while len(knocks) < 1 + addresses.index(address):
            with contextlib.suppress(ConnectionRefusedError):
                knocks.append(socket.create_connection(rendezvous.place(address)))
            assert time.monotonic() < until
    time.sleep(0.5)
    assert not order
    threads[2].start()
    for thread in threads:
        thread.join(20)
    assert sorted(order) == [0, 1, 2]


def test_one_that_does_not_reach_us_is_named(monkeypatch):
    monkeypatch.setenv("SSL_KERAS_WAIT", "0.3")
    with stranger(b"ssl_keras worker 1 of 2\n") as server, pytest.raises(TimeoutError, match="it does not reach this"):
        rendezvous.gather(Cluster([*launch._addresses(1), f"127.0.0.1:{server.getsockname()[1]}"], 0))


@pytest.mark.parametrize(
    ("here", "others", "bound", "told"),
    [
        ("127.0.0.1", ["127.0.0.1"], "127.0.0.1", ""),
        ("localhost", [], "127.0.0.1", ""),
        ("localhost", ["elsewhere.invalid"], "0.0.0.0", "others could not reach it"),
        ("nobody.invalid", ["elsewhere.invalid"], "0.0.0.0", "listens at all"),
        ("192.0.2.1", ["192.0.2.2"], "0.0.0.0", "Cannot assign requested address"),  # no address of this machine
    ],
)
def test_it_listens_where_the_cluster_says(here, others, bound, told, caplog):
    port = rendezvous.place(launch._addresses(1)[0])[1]
    with rendezvous._listening("worker 0", f"{here}:{port}", [f"{other}:1" for other in others]) as own:
        assert own.getsockname()[:2] in {(bound, port), ("::1", port)} - {(told and "::1", port)}
    assert told in caplog.text
    assert bool(told) == bool(caplog.text)


@pytest.mark.parametrize("text", ["abc", "-1", "0", "nan", "inf", "1e9", "10 s", "1_0x"])
def test_a_wait_that_is_no_time_is_refused(text, monkeypatch):
    monkeypatch.setenv("SSL_KERAS_WAIT", text)
    with pytest.raises(ValueError, match="SSL_KERAS_WAIT must be a number of seconds, 600 say. Received: "):
        rendezvous.patience()


@pytest.mark.parametrize(("text", "seconds"), [("", 600), (" ", 600), ("3", 3), (" 0.5 ", 0.5), ("3600", 3600)])
def test_a_wait_is_read(text, seconds, monkeypatch):
    monkeypatch.setenv("SSL_KERAS_WAIT", text)
    assert rendezvous.patience() == seconds


def test_the_watch_ends_what_holds_the_interpreter(monkeypatch, capfd):
    """As TensorFlow's start does: neither threads nor handlers of signals are reached."""
    code = "import ctypes; print('up', flush=True); ctypes.PyDLL(None).sleep(60)"
    with subprocess.Popen([sys.executable, "-ISc", code], stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout.readline() == "up\n"
        monkeypatch.setattr(os, "getpid", lambda: held.pid)
        with rendezvous.watched(30):
            pass
        assert held.poll() is None
        with rendezvous.watched(0.2):
            assert held.wait(30) == -signal.SIGKILL
    assert "error: TensorFlow has not reached all workers within 0.2 s" in capfd.readouterr().err


def test_who_may_call_is_said(monkeypatch, caplog):
    monkeypatch.setattr(rendezvous.namespace, "outward", lambda: ["eth0"])
    rendezvous.warn_of_callers(Cluster(["127.0.0.1:2222"], 0))
    assert "TensorFlow listens at port 2222 of all of this machine's addresses" in caplog.text
    caplog.clear()
    monkeypatch.setattr(rendezvous.namespace, "outward", list)
    rendezvous.warn_of_callers(Cluster(["127.0.0.1:2222"], 0))
    assert not caplog.text
