"""Locks between processes: each ends with the process that holds it, however that ends.

They are `flock`'s, which the kernel keeps: a lock of a process that was killed is gone with it, and a restart is never
refused because of it. On storage that several hosts share it depends on how that is mounted. NFS passes locks on to its
server, unless it is mounted with `nolock` or `local_lock`, when each host sees only its own; Lustre has them only when
mounted with `flock`. Where there are none, a warning says so, and two runs in one folder are not kept apart.
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket

NAME = ".lock"  # in a run's folder, while somebody trains there
BYTES = 1024  # read of who holds it
log = logging.getLogger(__name__)
_held = set()  # descriptors


def _forget():
    """In a forked child: the lock is its parent's, and must not outlive that one."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def alone_in(folder):
    """Holds a run's folder while it lasts; `.lock` in there names the host and the process.

    Raises:
        ValueError: another process holds it, or another thread of this one.
        PermissionError: `.lock` cannot be written.
    """
    path = folder / NAME
    descriptor = _take(path)
    try:
        yield
    finally:
        if descriptor in _held:  # not in a forked child
            if _is(descriptor, path):  # before it is let go: then it may be another one's
                path.unlink()
            _let_go(descriptor)


@contextlib.contextmanager
def writing_in(folder):
    """Holds a folder in which an encoder is replaced, once no other does; yields whether the storage has such locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            works = True
        except OSError:  # NFS locks no folders
            works = False
        yield works
    finally:
        if descriptor in _held:
            _let_go(descriptor)


@contextlib.contextmanager
def left_in(folder):
    """Yields whether whoever held a folder with `writing_in` has ended; if so, it is held instead.

    Where the storage has no locks, nobody can tell: then no.
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
            _let_go(descriptor)


def _let_go(descriptor):
    _held.discard(descriptor)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child forked by C code may have the descriptor too
    os.close(descriptor)


def _take(path):
    """A descriptor of the file at `path`, locked where the storage has locks."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise PermissionError(
                f"Cannot write to {path}: {error.strerror}. Make it writable; or, if no run is going on, remove it."
            ) from error
        _held.add(descriptor)
        try:
            locks = _lock(descriptor, path)
            # Whoever held it removes it at the end: between `open` and `flock` perhaps.
            if not locks or _is(descriptor, path):
                _sign(descriptor, path)
                return descriptor
        except BaseException:
            _let_go(descriptor)
            raise
        _let_go(descriptor)


def _lock(descriptor, path):
    """Whether the storage has locks. Raises ValueError where another one holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            log.warning(
                "%s cannot be locked (%s): make sure that no other run writes to this folder.", path, error.strerror
            )
            return False
        raise ValueError(
            f"{path.parent} is in use by another run: {_holder(descriptor) or 'a process that has just started'}. "
            "Wait until that one has ended, or choose another --run name (run=)."
        ) from error


def _sign(descriptor, path):
    """Writes who holds the lock into its file, for the messages of others."""
    before, host = _holder(descriptor), socket.gethostname()
    if before and not before.endswith(f" on {host}"):
        log.warning("%s was left by %s. Make sure that it no longer runs.", path, before)
    with contextlib.suppress(OSError):  # a full disk is found out by what matters
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {host}\n".encode(), 0)


def _holder(descriptor):
    """ "process 123 on host", or nothing."""
    return os.pread(descriptor, BYTES, 0).decode(errors="replace").partition("\n")[0].strip()


def _is(descriptor, path):
    """Whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False
