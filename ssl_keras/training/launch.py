"""A small supervisor: several workers on this machine, started again from the last checkpoint when one of them dies.

To try out what a cluster does. There the scheduler starts the workers and starts them again (docs/scaling.md).
Where Linux lets us, they have a network of their own, which nobody else reaches (`training/namespace.py`).
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
REFUSED = (1, 2, EXIT_ALONE)  # exit codes of a request that would be refused again
LOOK, MERCY = 0.1, 60.0  # seconds between looks; for workers to save themselves
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Launch:
    """Starts local workers that train together: ssl-keras launch --workers 2 pretrain autoencoder --steps 500"""

    workers: Annotated[int, Range(1, 64)] = 2
    """How many processes."""
    restarts: Annotated[int, Range(0)] = 3
    """How often to start all of them again, from the last checkpoint, when one dies."""
    isolate: bool = True
    """Give them a network of their own, where Linux lets us: nobody else reaches them, and they reach nobody."""

    def __post_init__(self):
        check_fields(self)


def launch(settings, arguments):
    """Runs a command of `ssl-keras` on several workers; returns its exit code.

    Args:
        settings: `Launch`.
        arguments: the command with its flags, ["pretrain", "autoencoder", …].

    Raises:
        ValueError: a command that trains nothing; a strategy of its own; an unknown TFDS data set.
        RuntimeError: a TFDS data set that is not prepared and cannot be downloaded.
    """
    if not arguments or arguments[0] not in COMMANDS:
        raise ValueError(
            f"Expected a command to launch: {', '.join(COMMANDS)}, after the flags of launch. "
            f"Received: {' '.join(arguments[:1]) or 'none'}"
        )
    own = [a for a in arguments if a.partition("=")[0] in ("--strategy", "--replicas")]
    if own:
        raise ValueError(f"launch chooses the strategy, multi_worker. Leave out {', '.join(own)}.")
    _download(arguments)
    arguments = [*arguments, "--strategy", "multi_worker"]
    with _network(settings.isolate) as inside:
        return _supervise(settings, arguments, inside)


def _download(arguments):
    """Has a TFDS data set that is not there yet downloaded, once: the workers may have no network."""
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
    """Yields a function of a command to what `subprocess.Popen` starts it with, in a network of its own if that can be.

    Says where it cannot: then whoever reaches this machine reaches the workers.
    """
    with contextlib.ExitStack() as made:
        inside = None
        if isolate:
            try:
                inside = made.enter_context(namespace.isolated())
            except OSError as error:
                log.warning("The workers get no network of their own (%s): others may reach them.", error)
        yield inside or (lambda command: {"args": command})


def _supervise(settings, arguments, inside):
    for left in reversed(range(settings.restarts + 1)):
        code = _once(settings.workers, arguments, inside)
        if code == 0 or code in REFUSED or code in (128 + signal.SIGINT, 128 + signal.SIGTERM) or not left:
            return code
        log.warning("A worker died (exit code %d). Starting all of them again; %d restarts are left.", code, left - 1)
        if arguments[0] != "evaluate" and "--resume" not in arguments:  # which begins anew
            arguments.append("--resume")
    return code


def _once(count, arguments, inside):
    """Starts the workers and waits; the exit code of the first that failed, or 0."""
    addresses = _addresses(count)
    workers = []
    for index in range(count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        worker = subprocess.Popen(
            **inside([sys.executable, "-m", "ssl_keras", *arguments]),
            text=True,
            errors="replace",
            env=os.environ | {"TF_CONFIG": json.dumps(config)},
            **({} if index == 0 else {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}),
        )
        workers.append(worker)
    readers = [
        threading.Thread(target=_pass_on, args=(index, worker), daemon=True)
        for index, worker in enumerate(workers)
        if index
    ]
    for reader in readers:
        reader.start()
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(signal.SIGTERM))
    try:
        return _watch(workers, asked)
    finally:
        signal.signal(signal.SIGTERM, before)
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
        for reader in readers:
            reader.join()


def _addresses(count):
    """Free ports of this machine; held together until all are known, so that no two are one."""
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in held]
    finally:
        for each in held:
            each.close()


def _pass_on(index, worker):
    """Shows what a worker other than the first says, with its number."""
    for line in worker.stderr:
        print(f"[worker {index}] {line}", end="", file=sys.stderr, flush=True)


def _watch(workers, asked):
    told = until = None
    while True:
        try:
            if asked and told is None:
                told, until = asked[0], time.monotonic() + MERCY
                for worker in workers:
                    worker.send_signal(told)
            codes = [worker.poll() for worker in workers]
            ended = [code for code in codes if code is not None]
            # What died first is what happened; the others fail because of it. Of several that are found dead together
            # it was one that a signal ended.
            failed = sorted((code for code in ended if code), key=lambda code: code > 0)
            if failed and told is None:
                return _exit_code(failed[0])
            if len(ended) == len(workers):
                return _exit_code(failed[0]) if failed else 0
            if until is not None and time.monotonic() > until:
                return 128 + told
            time.sleep(LOOK)
        except KeyboardInterrupt:  # the terminal has sent it to the workers too, who save and leave
            told, until = signal.SIGINT, time.monotonic() + MERCY


def _exit_code(code):
    """As a shell has it: 128 and the signal's number where one ended the process."""
    return 128 - code if code < 0 else code
