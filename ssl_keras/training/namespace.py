"""Linux network namespaces, which isolate the workers that `launch` starts.

TensorFlow's servers listen on all addresses and run whatever a client requests. A new network namespace has a single
interface, `lo`, so the workers reach only each other. Root creates the namespace directly. Other users need a user
namespace for it, in which they keep their own user and group and gain no rights.

This file is also a program. It does not import TensorFlow, because the kernel requires a single-threaded process:

    namespace.py make                  creates the namespaces, prints their kinds, and waits until stdin closes
    namespace.py enter FDS COMMAND …   runs a command inside them
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
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
PROGRAM = (sys.executable, "-IS", __file__)


@contextlib.contextmanager
def isolated():
    """Creates a namespace; yields a function that turns a command into arguments of `subprocess.Popen` inside it.

    Raises:
        OSError: the system does not support namespaces or does not permit them.
    """
    with subprocess.Popen(
        [*PROGRAM, "make"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as maker:
        kinds = maker.stdout.readline().split()
        try:
            if not kinds:
                raise OSError(maker.stderr.read().strip().rpartition("\n")[2] or "no namespace was created")
            descriptors = [os.open(f"/proc/{maker.pid}/ns/{kind}", os.O_RDONLY) for kind in kinds]
        finally:
            maker.stdin.close()
    names = ",".join(map(str, descriptors))
    try:
        yield lambda command: {"args": [*PROGRAM, "enter", names, *command], "pass_fds": descriptors}
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def external_interfaces():
    """Returns the names of the interfaces through which others can reach this process."""
    names = [name for _, name in socket.if_nameindex() if name not in ("lo", "lo0")]
    # A new namespace may contain tunnel interfaces of the kernel, which are down.
    return [name for name in names if sys.platform != "linux" or _flags(name) & UP]


def _flags(name, new=None):
    """Returns the flags of an interface, after setting them to `new` if given."""
    request, flags = (GET_FLAGS, 0) if new is None else (SET_FLAGS, new)
    with socket.socket() as any_socket:
        packed = struct.pack("16sH14x", name.encode(), flags)
        return struct.unpack("16sH14x", fcntl.ioctl(any_socket, request, packed))[1]


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
    """Calls a function of the C library. Raises OSError if it fails."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        _make()
    else:
        _enter(sys.argv[2], sys.argv[3:])
