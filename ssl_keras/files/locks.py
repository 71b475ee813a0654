"""Locks between processes, which are released when their process ends, even if it is killed.

They use `flock`, so a killed process leaves no stale lock and can be restarted. On shared storage, locks depend on the
mount options. NFS forwards locks to its server, unless it is mounted with `nolock` or `local_lock`; then each host has
its own. Lustre needs `flock`. Without locks, a warning is logged, and two runs can write to the same folder.
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket

NAME = ".lock"  # exists in the folder of a run while it trains
BYTES = 1024  # read from the lock file
log = logging.getLogger(__name__)
_held = set()  # descriptors


def _forget():
    """Closes the locks in a forked child, so that they do not outlive the parent, which owns them."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def alone_in(folder, other="another --run name (run=)"):
    """Locks the folder of a run; its `.lock` names the host and the process.

    Args:
        other: what to choose instead if the folder is in use, for the message.

    Raises:
        ValueError: Another process, or another thread of this one, holds the lock.
        PermissionError: `.lock` cannot be written.
    """
    path = folder / NAME
    descriptor = _take(path, other)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a forked child
            if _is(descriptor, path):  # unlink before releasing: afterwards the file may be another process's lock
                path.unlink()
            _release(descriptor)


@contextlib.contextmanager
def writing_in(folder):
    """Waits for the lock of a folder in which an encoder is replaced. Yields whether the storage supports locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            works = True
        except OSError:  # NFS cannot lock folders
            works = False
        yield works
    finally:
        if descriptor in _held:
            _release(descriptor)


@contextlib.contextmanager
def left_in(folder):
    """Yields whether a folder is a leftover: its `writing_in` lock is free, and is taken.

    Yields False if the storage does not support locks.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ended = _is(descriptor, folder)
        except OSError:
            ended = False
        yield ended
    finally:
        if descriptor in _held:
            _release(descriptor)


def _release(descriptor):
    _held.discard(descriptor)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child forked by C code may still have the descriptor
    os.close(descriptor)


def _take(path, other):
    """Returns a descriptor of the file at `path`, locked if the storage supports locks."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise PermissionError(
                f"Cannot write to {path}: {error.strerror}. Make it writable or, if no run uses it, remove it."
            ) from error
        _held.add(descriptor)
        try:
            locks = _lock(descriptor, path, other)
            # The previous holder may have removed the file between `open` and `flock`.
            if not locks or _is(descriptor, path):
                _sign(descriptor, path)
                return descriptor
        except BaseException:
            _release(descriptor)
            raise
        _release(descriptor)


def _lock(descriptor, path, other):
    """Locks a file. Returns whether the storage supports locks. Raises ValueError if another process holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            log.warning(
                "%s cannot be locked (%s). Make sure that no other run writes to this folder.", path, error.strerror
            )
            return False
        raise ValueError(
            f"{path.parent} is in use by another run: {_holder(descriptor) or 'a process that has just started'}. "
            f"Wait until it has ended, or choose {other}."
        ) from error


def _sign(descriptor, path):
    """Writes this process's id and host to the lock file, for the messages of other processes."""
    before, host = _holder(descriptor), socket.gethostname()
    if before and not before.endswith(f" on {host}"):
        log.warning("%s was left by %s. Make sure that it no longer runs.", path, before)
    with contextlib.suppress(OSError):  # the name is optional; other writes report a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {host}\n".encode(), 0)


def _holder(descriptor):
    """Returns "process 123 on host" from the lock file, or an empty string."""
    return os.pread(descriptor, BYTES, 0).decode(errors="replace").partition("\n")[0].strip()


def _is(descriptor, path):
    """Returns whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False
