"""A network for the workers that `launch` starts, which nobody else reaches: a network namespace of Linux.

TensorFlow's servers listen at all addresses and run what any client asks for. In a namespace of their own there is one
interface, `lo`, and no client but each other. Root makes it as it is; others need a namespace of users for that,
in which they are who they are and may do what they may, and no more.

Also a program, which imports nothing of TensorFlow's: the kernel asks for a process that has one thread.

    namespace.py make              makes one, says which kinds of namespace it took, and waits for the end of its input
    namespace.py enter FDS COMMAND …   becomes a command inside
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import sys

KINDS = {"user": 0x10000000, "net": 0x40000000}  # CLONE_NEWUSER, CLONE_NEWNET
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1  # of an interface: SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
PROGRAM = (sys.executable, "-IS", __file__)


@contextlib.contextmanager
def isolated():
    """Yields a function of a command to the arguments of `subprocess.Popen` that start it inside.

    Raises:
        OSError: this system has no such thing, or does not let us.
    """
    with subprocess.Popen(
        [*PROGRAM, "make"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as maker:
        kinds = maker.stdout.readline().split()
        try:
            if not kinds:
                raise OSError(maker.stderr.read().strip().rpartition("\n")[2] or "no namespace was made")
            descriptors = [os.open(f"/proc/{maker.pid}/ns/{kind}", os.O_RDONLY) for kind in kinds]
        finally:
            maker.stdin.close()
    names = ",".join(map(str, descriptors))
    try:
        yield lambda command: {"args": [*PROGRAM, "enter", names, *command], "pass_fds": descriptors}
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def outward():
    """The names of the interfaces through which others may reach this process."""
    names = [name for _, name in socket.if_nameindex() if name not in ("lo", "lo0")]
    # A new namespace may hold tunnels of the kernel's, which are down.
    return [name for name in names if sys.platform != "linux" or _flags(name) & UP]


def _flags(name, new=None):
    """The flags of an interface, which are set where new ones are given."""
    number, flags = (GET_FLAGS, 0) if new is None else (SET_FLAGS, new)
    with socket.socket() as anyone:
        return struct.unpack("16sH14x", fcntl.ioctl(anyone, number, struct.pack("16sH14x", name.encode(), flags)))[1]


def _make():
    user, group = os.geteuid(), os.getegid()
    kinds = ["net"] if user == 0 else ["user", "net"]
    _call("unshare", sum(KINDS[kind] for kind in kinds))
    if user:
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    _flags("lo", _flags("lo") | UP)
    print(*kinds, flush=True)
    sys.stdin.read()


def _enter(descriptors, command):
    for descriptor in map(int, descriptors.split(",")):
        _call("setns", descriptor, 0)
        os.close(descriptor)
    os.execvp(command[0], command)


def _call(name, *arguments):
    """A function of the C library. Raises OSError where it fails."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        _make()
    else:
        _enter(sys.argv[2], sys.argv[3:])
