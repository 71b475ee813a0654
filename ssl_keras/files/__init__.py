"""Files written whole or not at all, and read with care."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil

import numpy as np
import safetensors
import safetensors.numpy

LONGEST = 200  # bytes of a name that we make up; storage allows 255, and beside it stand NAME.partial and the like


def write(path, content):
    """Writes bytes or text to `path` atomically: after a crash or a full disk the old file stands.

    The content goes to a temporary file beside it, is flushed to the disk, then renamed;
    the folder is flushed too, so that a power cut cannot undo the rename.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path, value):
    """Writes `value` as indented JSON, atomically; see `finite`."""
    write(path, json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n")


def finite(value):
    """A JSON-able value with null in place of the numbers that are not finite, for which JSON has no word."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def short(name):
    """A name that storage can hold: of one longer than LONGEST bytes its beginning and a hash of the whole."""
    content = name.encode(errors="surrogateescape")
    if len(content) <= LONGEST:
        return name
    digest = hashlib.sha256(content).hexdigest()[:8]
    return f"{content[:LONGEST - 9].decode(errors='ignore')}-{digest}"


def make_folder(path):
    """Creates a folder that can be written to.

    Raises:
        PermissionError: it cannot be created or written; named before any work is lost.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)  # on shared storage another host may have a process of that number
    except OSError as error:
        raise PermissionError(f"Cannot write to {path}: {error.strerror}. Choose a writable folder.") from error


def free(path):
    """The path, or the first of path.2, path.3, … that does not exist."""
    names = itertools.chain([path.name], (f"{path.name}.{number}" for number in itertools.count(2)))
    return next(each for each in map(path.with_name, names) if not os.path.lexists(each))


def check_new(path):
    """Raises ValueError where there is something at `path`."""
    if os.path.lexists(path):
        raise ValueError(f"{path} exists. Choose another --out, or remove it.")


@contextlib.contextmanager
def new_folder(path):
    """Yields where to make a folder, which then is moved to `path`, whole or not at all.

    Raises:
        ValueError: there is something at `path`, or has come there meanwhile; what was made is then kept, as the
            message says.
    """
    check_new(path)
    partial = free(path.with_name(f".{path.name}.{os.getpid()}.partial"))
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    try:
        check_new(path)
        partial.rename(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} could not be written, and what was made is in {partial}: {error}") from error


def check_outputs(folder, names):
    """Raises ValueError where a folder holds some of these files, and not all: then they are not of an earlier call."""
    there = [name for name in names if os.path.lexists(folder / name)]
    if there and len(there) < len(names):
        raise ValueError(
            f"{folder} holds {', '.join(there)}, which would be overwritten. Expected all of {', '.join(names)}, as an "
            "earlier call leaves them, or none. Choose another --out, or move what is there."
        )


def tensors_to_bytes(tensors, metadata=None):
    """{name: array} as safetensors bytes."""
    contiguous = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
    return safetensors.numpy.save(contiguous, metadata)


def bytes_to_tensors(content, expected, name):
    """Reads safetensors bytes that must hold just the tensors of `expected`.

    Args:
        content: the file's bytes.
        expected: {tensor name: (shape, numpy dtype)}.
        name: the file's name, for messages.

    Raises:
        ValueError: no safetensors file; tensors missing, unknown, or of another shape or
            dtype; numbers that are not finite.
    """
    try:
        tensors = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name} is not a complete safetensors file: {error}") from error
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"{name} does not fit: missing tensors {missing}, unknown tensors {unknown}.")
    for key, (shape, dtype) in expected.items():
        tensor = tensors[key]
        if tensor.shape != tuple(shape) or tensor.dtype != dtype:
            raise ValueError(
                f"{name}: expected {key} of shape {tuple(shape)}, {np.dtype(dtype)}. "
                f"Received: shape {tensor.shape}, {tensor.dtype}"
            )
        # A metric may well be infinite; a weight may not.
        if tensor.dtype.kind == "f" and not key.startswith("metrics/") and not np.isfinite(tensor).all():
            raise ValueError(f"{name}: {key} holds numbers that are not finite. Train again, or use another file.")
    return tensors


def read_variables(state):
    """{name: array}: the values of {name: variable}."""
    return {name: v.numpy() for name, v in state.items()}


def assign_variables(state, values):
    """Sets {name: variable} from {name: array}."""
    for name, variable in state.items():
        variable.assign(values[name])
