"""Python runs this as it starts, where this folder is in PYTHONPATH: the tests' processes write slowly, or badly."""

import errno
import os
import time

WRITERS = os.environ.get("TEST_WRITER")
if WRITERS:
    fsync, replace = os.fsync, os.replace

    def slow_fsync(descriptor):
        time.sleep(0.05)  # so that a process can be met in the middle of a write
        fsync(descriptor)

    def in_place(source, target):
        """What a rename must not be: for a while half a file stands there."""
        with open(source, "rb") as file:
            content = file.read()
        with open(target, "wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            time.sleep(0.1)
            file.write(content[len(content) // 2 :])
        os.unlink(source)

    def full(descriptor):
        if "step-0000000040" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    os.fsync = full if WRITERS == "full disk" else slow_fsync
    if WRITERS == "in place":
        os.replace = in_place
