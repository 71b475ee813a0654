"""Local launcher: starts several workers on this machine, and restarts all from the last checkpoint if one dies.

It is meant for testing; on a cluster the scheduler starts and restarts the workers (docs/scaling.md). Where Linux
permits it, the workers run in a network namespace that nothing else can reach (`training/namespace.py`).
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Annotated

from ssl_keras import objectives
from ssl_keras.data.ranges import Range, check_fields
from ssl_keras.data.readers import tfds
from ssl_keras.training import namespace
from ssl_keras.training.workers import EXIT_ALONE

COMMANDS = ("pretrain", "finetune", "evaluate")
NO_RESTART = (1, 2, EXIT_ALONE)  # exit codes of errors that would occur again
POLL_INTERVAL, GRACE_PERIOD = 0.1, 60.0  # seconds between polls; seconds for workers to save after a signal
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Launch:
    """Starts local workers that train together: ssl-keras launch --workers 2 pretrain autoencoder --steps 500"""

    workers: Annotated[int, Range(1, 64)] = 2
    """Number of worker processes."""
    restarts: Annotated[int, Range(0)] = 3
    """Maximum number of restarts. If a worker dies, all workers restart from the last checkpoint. 0 disables
    restarts."""
    isolate: bool = True
    """Run the workers in their own network namespace, without outside connections, if Linux permits it."""

    def __post_init__(self):
        check_fields(self)


def launch(settings, arguments):
    """Runs a command of `ssl-keras` on several workers; returns its exit code.

    Args:
        settings: `Launch`.
        arguments: the command with its flags, ["pretrain", "autoencoder", …].

    Raises:
        ValueError: the command does not train, or sets the strategy; the TFDS dataset is unknown.
        RuntimeError: the TFDS dataset is not prepared and cannot be downloaded.
    """
    if not arguments or arguments[0] not in COMMANDS:
        raise ValueError(
            f"Expected a command to launch after the flags of launch: {', '.join(COMMANDS)}. "
            f"Received: {' '.join(arguments[:1]) or 'none'}"
        )
    own = [a for a in arguments if a.partition("=")[0] in ("--strategy", "--replicas")]
    if own:
        raise ValueError(f"launch always uses the strategy multi_worker. Remove {', '.join(own)}.")
    _download(arguments)
    arguments = [*arguments, "--strategy", "multi_worker"]
    with _network(settings.isolate) as popen_arguments:
        return _supervise(settings, arguments, popen_arguments)


def _download(arguments):
    """Downloads and prepares the TFDS dataset of a command, because the workers may have no network."""
    data = next((argument for argument in arguments if "tfds:" in argument), "")
    if (
        arguments[0] == "pretrain"
        and arguments[1:]
        and arguments[1] in objectives.names()
        and "--data" not in {argument.partition("=")[0] for argument in arguments}
    ):
        data = objectives.module(arguments[1]).DEFAULTS.data
    name = re.search(r"(?:^|=)(?:connected:)?tfds:([\w./:+-]+)", data)
    if name:
        tfds.prepare(name[1])


@contextlib.contextmanager
def _network(isolate):
    """Yields a function that turns a command into arguments of `subprocess.Popen`, inside a new namespace if possible.

    Warns if it is not possible: then other processes and machines may reach the workers.
    """
    with contextlib.ExitStack() as stack:
        popen_arguments = None
        if isolate:
            try:
                popen_arguments = stack.enter_context(namespace.isolated())
            except OSError as error:
                log.warning("Cannot isolate the workers' network (%s). Others may be able to reach them.", error)
        yield popen_arguments or (lambda command: {"args": command})


def _supervise(settings, arguments, popen_arguments):
    for left in reversed(range(settings.restarts + 1)):
        code = _run_workers(settings.workers, arguments, popen_arguments)
        if code == 0 or code in NO_RESTART or code in (128 + signal.SIGINT, 128 + signal.SIGTERM) or not left:
            return code
        log.warning("A worker died (exit code %d). Restarting all workers; %d more restarts possible.", code, left - 1)
        if arguments[0] != "evaluate" and "--resume" not in arguments:  # evaluate has no checkpoints
            arguments.append("--resume")
    return code


def _run_workers(count, arguments, popen_arguments):
    """Starts the workers and waits for them; returns 0, or the exit code of the first one that failed."""
    addresses = _addresses(count)
    workers = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        worker = subprocess.Popen(
            **popen_arguments([sys.executable, "-m", "ssl_keras", *arguments]),
            text=True,
            errors="replace",
            env=os.environ | {"TF_CONFIG": json.dumps(config)},
            **({} if index == 0 else {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}),
        )
        workers.append(worker)
    readers = [
        threading.Thread(target=_forward_stderr, args=(index, worker), daemon=True)
        for index, worker in enumerate(workers)
        if index
    ]
    for reader in readers:
        reader.start()
    received = []
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append(signal.SIGTERM))
    try:
        return _wait(workers, received)
    finally:
        signal.signal(signal.SIGTERM, previous)
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
        for reader in readers:
            reader.join()


def _addresses(count):
    """Returns addresses with different free ports of this machine; all are bound at once so that none is repeated."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _forward_stderr(index, worker):
    """Prints the stderr of a worker other than the first, with the worker's number before each line."""
    for line in worker.stderr:
        print(f"[worker {index}] {line}", end="", file=sys.stderr, flush=True)


def _wait(workers, received):
    forwarded = deadline = None
    while True:
        try:
            if received and forwarded is None:
                forwarded, deadline = received[0], time.monotonic() + GRACE_PERIOD
                for worker in workers:
                    worker.send_signal(forwarded)
            codes = [worker.poll() for worker in workers]
            ended = [code for code in codes if code is not None]
            # The first worker that dies makes the others fail. If several have died since the last poll, it is
            # one that a signal killed.
            failed = sorted((code for code in ended if code), key=lambda code: code > 0)
            if failed and forwarded is None:
                return _exit_code(failed[0])
            if len(ended) == len(workers):
                return _exit_code(failed[0]) if failed else 0
            if deadline is not None and time.monotonic() > deadline:
                return 128 + forwarded
            time.sleep(POLL_INTERVAL)
        except KeyboardInterrupt:  # the terminal sends it to the workers too, which save and exit
            forwarded, deadline = signal.SIGINT, time.monotonic() + GRACE_PERIOD


def _exit_code(code):
    """Returns the exit code as shells report it: 128 plus the signal's number if a signal killed the process."""
    return 128 - code if code < 0 else code
