"""Rendezvous: the workers of a cluster check that they reach each other before TensorFlow waits for them.

Each worker listens at its address and connects to the others'. Both ends of a connection send one line:

    ssl_keras worker 0 of 2

A worker is done when every other worker has answered at its address and has connected to this one. TensorFlow then uses
the port.
"""

import contextlib
import errno
import logging
import math
import os
import socket
import subprocess
import sys
import threading
import time

from ssl_keras.training import namespace

WAIT = "SSL_KERAS_WAIT"  # environment variable: seconds to wait for all workers
DEFAULT_TIMEOUT, MAX_TIMEOUT = 600.0, 1e6  # seconds
GREETING = "ssl_keras "
RETRY_INTERVAL = 0.2  # seconds between connection attempts
CONNECT_TIMEOUT, GREETING_TIMEOUT = 5.0, 1.0  # seconds to connect to another worker, and to receive its greeting
REPLY_TIMEOUT = 60.0  # seconds for the reply to our greeting; generous, because a worker replies only once
# The states of an address.
CONNECTED, NO_ANSWER = "", "no answer"
NOT_A_WORKER = "what answers there is not an ssl_keras worker, or has stopped"
NOT_REACHED = "it does not reach this worker"
# A program that kills a process unless its stdin closes within a number of seconds.
WATCHDOG = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[2]))[0]:
    print(sys.argv[3], file=sys.stderr, flush=True)
    os.kill(int(sys.argv[1]), signal.SIGKILL)
"""
log = logging.getLogger(__name__)


def wait_for_workers(resolver):
    """Returns once this worker and all others of the cluster have exchanged greetings.

    A greeting contains the worker's number and the number of workers, so another program at an address is not
    mistaken for a worker. TensorFlow waits for workers where neither an exception nor a signal can interrupt it.
    Therefore all workers must be there before TensorFlow starts.

    Raises:
        ValueError: this worker's port is in use; another worker has a different cluster or index; SSL_KERAS_WAIT is
            invalid.
        TimeoutError: some workers, which the message names, did not connect within SSL_KERAS_WAIT seconds.
    """
    spec, limit = resolver.cluster_spec(), timeout()
    address = {f"{job} {index}": spec.task_address(job, index) for job in spec.jobs for index in spec.task_indices(job)}
    me, deadline = f"{resolver.task_type} {resolver.task_id}", time.monotonic() + limit
    greeting = {name: f"{GREETING}{name} of {len(address)}" for name in address}
    here = address.pop(me)
    with _listen(me, here, address.values()) as server, _serve(server, greeting[me]) as callers:
        state = dict.fromkeys(address, NO_ANSWER)
        while True:
            for name in [name for name, found in state.items() if found != CONNECTED]:
                if time.monotonic() < deadline:
                    state[name] = _handshake(address[name], greeting[name], greeting[me])
            missing = [name for name in address if greeting[name] not in callers]
            if not missing and set(state.values()) <= {CONNECTED}:
                return
            if time.monotonic() > deadline:
                state |= {name: NOT_REACHED for name in missing if state[name] == CONNECTED}
                raise TimeoutError(
                    f"Not all workers have connected within {limit:g} s. Missing: "
                    + "; ".join(f"{name} ({address[name]}): {why}" for name, why in state.items() if why != CONNECTED)
                    + f". Start all workers with the same cluster, or set {WAIT} to a longer time in seconds."
                )
            time.sleep(RETRY_INTERVAL)


def warn_of_open_port(resolver):
    """Warns that clients may run code on TensorFlow's server, unless this process has a network of its own."""
    if namespace.external_interfaces():
        port = parse_address(resolver.cluster_spec().task_address(resolver.task_type, resolver.task_id))[1]
        log.warning(
            "TensorFlow listens on port %d of all of this machine's addresses and runs whatever a client requests, "
            "without authentication. Make sure that only trusted machines can reach this port (see SECURITY.md).",
            port,
        )


def timeout():
    """Returns the number of seconds to wait for all workers. Raises ValueError if SSL_KERAS_WAIT is invalid."""
    text = os.environ.get(WAIT, "").strip() or str(DEFAULT_TIMEOUT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < MAX_TIMEOUT:
        raise ValueError(f"{WAIT} must be a positive number of seconds, such as 600. Received: {text!r}")
    return seconds


def parse_address(address):
    """Splits "HOST:PORT" into (host, port); an IPv6 address is in brackets."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _listen(me, here, others):
    """Returns a socket that listens at this worker's address only, if that is possible.

    It listens on all addresses of the machine in two cases. The address may not belong to this machine, because
    something forwards it here. Or it may be a loopback address, to which some systems resolve their own name, while
    other workers are on other machines.
    """
    host, port = parse_address(here)
    is_local = all(parse_address(other)[0] == host for other in others)
    try:
        family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        is_loopback = found[0] == "::1" or found[0].startswith("127.")
        if is_local or not is_loopback:
            return _bind(found, family)
        why = f"it is {found[0]} on this machine, which others could not reach"
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise _port_error(port, me, error) from error
        why = error.strerror
    log.warning("%s cannot listen only on %s (%s). It listens on all of this machine's addresses.", me, here, why)
    try:
        return _bind(("", port), socket.AF_INET)
    except OSError as error:
        raise _port_error(port, me, error) from error


def _bind(address, family):
    return socket.create_server(address[:2], family=family)


def _port_error(port, me, error):
    return ValueError(
        f"{me} cannot use port {port}: {os.strerror(error.errno)}. End the process that uses it, such as an earlier "
        "run, or choose another port."
    )


@contextlib.contextmanager
def _serve(server, greeting):
    """Sends the greeting to everyone who connects inside the context; yields the set of greetings received."""
    server.settimeout(RETRY_INTERVAL)  # closing a socket does not wake up a thread that waits in `accept`
    ended, callers = threading.Event(), set()

    def answer(caller):
        with contextlib.suppress(OSError), caller:  # a caller may disconnect at any time
            caller.settimeout(REPLY_TIMEOUT)
            caller.sendall(f"{greeting}\n".encode())
            callers.add(_read_line(caller))

    def accept():
        while not ended.is_set():
            with contextlib.suppress(OSError):  # a timeout
                caller, _ = server.accept()
                # One thread for each caller, so that a silent one does not block the workers.
                threading.Thread(target=answer, args=(caller,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield callers
    finally:
        ended.set()
        thread.join()


def _read_line(connection):
    """Reads one line of text from a connection."""
    return connection.makefile("rb").readline(1024).decode(errors="replace").strip()


def _handshake(address, expected, greeting):
    """Exchanges greetings with the worker at an address; returns CONNECTED, NO_ANSWER or NOT_A_WORKER.

    Raises:
        ValueError: a worker other than the expected one answers there.
    """
    try:
        with socket.create_connection(parse_address(address), CONNECT_TIMEOUT) as connection:
            connection.settimeout(GREETING_TIMEOUT)
            received = _read_line(connection)
            if received.startswith(GREETING) and received != expected:
                raise ValueError(
                    f"Expected {expected.removeprefix(GREETING)} at {address}. Received the greeting of "
                    f"{received.removeprefix(GREETING)!r}. Give all workers the same cluster, and each its own index."
                )
            if received == expected:
                connection.sendall(f"{greeting}\n".encode())
                return CONNECTED
            return NOT_A_WORKER
    except (TimeoutError, ConnectionResetError):
        return NOT_A_WORKER
    except OSError:
        return NO_ANSWER


@contextlib.contextmanager
def watchdog(seconds):
    """Prints an error and kills this process if the context takes longer than `seconds`.

    TensorFlow holds the interpreter's lock while it waits for workers, so no thread and no signal handler of this
    process can run. The watchdog is therefore another process, which ends with this one.
    """
    message = (
        f"error: TensorFlow has not connected all workers within {seconds:g} s, although all were running. Start them "
        f"again, or set {WAIT} to a longer time in seconds."
    )
    command = [sys.executable, "-ISc", WATCHDOG, str(os.getpid()), str(seconds), message]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.stdin.close()
