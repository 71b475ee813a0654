"""How the workers of a cluster meet, before TensorFlow is asked to wait for them.

Each listens at its address and knocks at the others'. Whoever knocks is greeted, and greets in turn: one line each,

    ssl_keras worker 0 of 2

A worker goes on once it has been greeted by all the others at their addresses, and all of them have come to its own.
The port is then TensorFlow's.
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

WAIT = "SSL_KERAS_WAIT"  # seconds to wait for all workers to come
SECONDS, MAX_SECONDS = 600.0, 1e6
GREETING, GREETED = "ssl_keras ", 1.0  # seconds within which it is there
KNOCK, ANSWER = 0.2, 5.0  # seconds between questions whether a worker is there, and within which one that is answers
HEARD = 60.0  # seconds within which who was greeted greets: it takes no time, and is never asked again
# Of an address: what is found there.
THERE, NOBODY, STRANGER = "", "nobody answers", "what answers there is no worker of ours, or has stopped"
UNHEARD = "it does not reach this one"
# Waits for the end of its input, or for so many seconds; ends with the process that it watches.
WATCH = """
import os, select, signal, sys
if not select.select([0], [], [], float(sys.argv[2]))[0]:
    print(sys.argv[3], file=sys.stderr, flush=True)
    os.kill(int(sys.argv[1]), signal.SIGKILL)
"""
log = logging.getLogger(__name__)


def gather(resolver):
    """Returns once every worker of the cluster and this one have greeted each other.

    Each says who it takes itself to be, of how many. None goes on before all others have heard it, so that whatever
    else answers at an address is no worker. TensorFlow itself waits for them in a place that no exception and no signal
    reaches; so they are all there before it is asked.

    Raises:
        ValueError: this worker's port is in use; another takes itself for somebody else; SSL_KERAS_WAIT is no time.
        TimeoutError: some do not come within SSL_KERAS_WAIT seconds; they are named.
    """
    spec, limit = resolver.cluster_spec(), patience()
    address = {f"{job} {index}": spec.task_address(job, index) for job in spec.jobs for index in spec.task_indices(job)}
    me, until = f"{resolver.task_type} {resolver.task_id}", time.monotonic() + limit
    greeting = {name: f"{GREETING}{name} of {len(address)}" for name in address}
    here = address.pop(me)
    with _listening(me, here, address.values()) as own, _greeting(own, greeting[me]) as callers:
        state = dict.fromkeys(address, NOBODY)
        while True:
            for name in [name for name, found in state.items() if found != THERE]:
                if time.monotonic() < until:
                    state[name] = _greets(address[name], greeting[name], greeting[me])
            unheard = [name for name in address if greeting[name] not in callers]
            if not unheard and set(state.values()) <= {THERE}:
                return
            if time.monotonic() > until:
                state |= {name: UNHEARD for name in unheard if state[name] == THERE}
                raise TimeoutError(
                    f"Not all workers have come within {limit:g} s. Missing: "
                    + "; ".join(f"{name} ({address[name]}): {why}" for name, why in state.items() if why != THERE)
                    + f". Start each of them with the same cluster, or wait longer ({WAIT}, seconds)."
                )
            time.sleep(KNOCK)


def warn_of_callers(resolver):
    """Says who may have TensorFlow's server do what they like, unless this process has a network of its own."""
    if namespace.outward():
        port = place(resolver.cluster_spec().task_address(resolver.task_type, resolver.task_id))[1]
        log.warning(
            "TensorFlow listens at port %d of all of this machine's addresses, and runs what any client asks for, "
            "without credentials. Let only those reach it whom you trust (SECURITY.md).",
            port,
        )


def patience():
    """Seconds to wait for all workers. Raises ValueError where SSL_KERAS_WAIT is no time."""
    text = os.environ.get(WAIT, "").strip() or str(SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < MAX_SECONDS:
        raise ValueError(f"{WAIT} must be a number of seconds, 600 say. Received: {text!r}")
    return seconds


def place(address):
    """(host, port) of "HOST:PORT"; an IPv6 address is in brackets."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _listening(me, here, others):
    """A socket that listens at this worker's address, and nowhere else.

    At all of the machine's addresses where that one is none of them, since what is behind it forwards here; and where
    it is a loopback address, as some systems have it for their own name, and other workers are on other machines.
    """
    host, port = place(here)
    alone = all(place(other)[0] == host for other in others)
    try:
        family, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        loopback = found[0] == "::1" or found[0].startswith("127.")
        if alone or not loopback:
            return _bound(found, family)
        why = f"that is {found[0]} on this machine, and others could not reach it"
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise _taken(port, me, error) from error
        why = error.strerror
    log.warning("%s cannot listen at %s alone (%s): it listens at all of this machine's addresses.", me, here, why)
    try:
        return _bound(("", port), socket.AF_INET)
    except OSError as error:
        raise _taken(port, me, error) from error


def _bound(at, family):
    return socket.create_server(at[:2], family=family)


def _taken(port, me, error):
    return ValueError(
        f"Port {port} of {me} cannot be taken: {os.strerror(error.errno)}. End what holds it, an earlier run perhaps, "
        "or name another one."
    )


@contextlib.contextmanager
def _greeting(own, greeting):
    """Meanwhile whoever knocks at the listening socket is told it; yields the greetings that came back."""
    own.settimeout(KNOCK)  # a socket that somebody waits at is not freed when it is closed
    ended, callers = threading.Event(), set()

    def meet(caller):
        with contextlib.suppress(OSError), caller:  # one who knocks and leaves
            caller.settimeout(HEARD)
            caller.sendall(f"{greeting}\n".encode())
            callers.add(_line(caller))

    def greet():
        while not ended.is_set():
            with contextlib.suppress(OSError):  # nobody for a while
                caller, _ = own.accept()
                # Each by itself: a stranger who says nothing keeps no worker waiting.
                threading.Thread(target=meet, args=(caller,), daemon=True).start()

    thread = threading.Thread(target=greet, daemon=True)
    thread.start()
    try:
        yield callers
    finally:
        ended.set()
        thread.join()


def _line(connection):
    """What somebody says first, if it is one line of text."""
    return connection.makefile("rb").readline(1024).decode(errors="replace").strip()


def _greets(address, expected, mine):
    """THERE where the worker greets that is expected at an address, and hears this one's greeting; or why not.

    Raises:
        ValueError: another worker is there.
    """
    try:
        with socket.create_connection(place(address), ANSWER) as line:
            line.settimeout(GREETED)
            said = _line(line)
            if said.startswith(GREETING) and said != expected:
                raise ValueError(
                    f"At {address} there should be {expected.removeprefix(GREETING)}. It says that it is "
                    f"{said.removeprefix(GREETING)!r}. Give all workers one cluster, and each its own index."
                )
            if said == expected:
                line.sendall(f"{mine}\n".encode())
                return THERE
            return STRANGER
    except (TimeoutError, ConnectionResetError):
        return STRANGER
    except OSError:
        return NOBODY


@contextlib.contextmanager
def watched(seconds):
    """Ends this process where what is within takes longer, and says so.

    For TensorFlow's own start: it waits with the interpreter's lock held, so that no thread and no handler of a signal
    is reached. The one who watches is a process of its own, which goes when this one does.
    """
    sentence = (
        f"error: TensorFlow has not reached all workers within {seconds:g} s, though all were there. Start them again, "
        f"or wait longer ({WAIT}, seconds)."
    )
    command = [sys.executable, "-ISc", WATCH, str(os.getpid()), str(seconds), sentence]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as watcher:
        try:
            yield
        finally:
            watcher.stdin.close()
