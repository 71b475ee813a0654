"""Files written whole or not at all, and read with care."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import pathlib
import secrets
import shutil

import numpy as np
import safetensors
import safetensors.numpy

LONGEST = 200  # bytes of a name that we make up; storage allows 255, and beside it stand NAME.partial and the like
NO_FILES = {
    "a folder": os.path.isdir,
    "a pipe": pathlib.Path.is_fifo,
    "a socket": pathlib.Path.is_socket,
    "a device": lambda path: path.is_char_device() or path.is_block_device(),
}


def write(path, content):
    """Writes bytes or text to `path` atomically: after a crash or a full disk the old file stands.

    The content goes to a temporary file beside it, is flushed to the disk, then renamed; the folder is flushed too, so
    that a power cut cannot undo the rename. Of a link the target is replaced, and the link stays.

    Raises:
        ValueError: what is at `path` is no file: a device, a pipe, a folder.
        OSError: it cannot be written; its `strerror` and `filename` say why and what.
    """
    path = target(path)
    temporary = _partial(path)
    opened = open(temporary, "xb")  # noqa: SIM115  # x: never one that is there, nor where a link there leads
    try:
        with opened as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # of a full disk the system does not say which file
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def target(path):
    """The path of the file that is written to at `path`: where that is a link, what it leads to.

    Raises:
        ValueError: it is no file, and a rename would put one in its place.
    """
    for kind, is_kind in NO_FILES.items():
        if is_kind(pathlib.Path(path)):
            raise ValueError(f"{path} is {kind}, and is not replaced. Expected the name of a file.")
    real = pathlib.Path(os.path.realpath(path))
    if real.is_symlink():
        raise ValueError(f"{path} is a link to itself. Expected the name of a file.")
    return real


def _partial(path):
    """A name for a temporary file beside `path` that nobody can guess."""
    return path.with_name(f".{path.name}.{secrets.randbelow(10**12)}.partial")


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
    return f"{content[: LONGEST - 9].decode(errors='ignore')}-{digest}"


def make_folder(path):
    """Creates a folder that can be written to.

    Raises:
        PermissionError: it cannot be created or written; named before any work is lost.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = _partial(path / "writable")
        probe.touch(exist_ok=False)
        probe.unlink()
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


def check_output(path, overwrite=False):
    """Raises before any work where a file cannot be written to `path`, or would replace another one unasked.

    Raises:
        ValueError: a file is there, and `overwrite` is off; something is there that is no file.
        PermissionError: its folder cannot be written.
    """
    path = target(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists. Add --overwrite to replace it, or choose another --out.")
    make_folder(path.parent)


@contextlib.contextmanager
def new_folder(path):
    """Yields an empty folder, which then is moved to `path`, whole or not at all.

    Raises:
        ValueError: there is something at `path`, or has come there meanwhile; what was made is then kept, as the
            message says.
    """
    check_new(path)
    make_folder(path.parent)
    partial = new_beside(path, "partial")
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


def new_beside(path, what):
    """Makes a new empty folder `.NAME.what` beside `path`."""
    while True:
        made = free(path.with_name(f".{path.name}.{what}"))
        with contextlib.suppress(FileExistsError):  # another writer's, this very moment
            made.mkdir()
            return made


def check_outputs(folder, names):
    """Raises ValueError where a folder holds some of these files, and not all: then they are not of an earlier call.

    So it does where one of them is no file.
    """
    for name in names:
        target(folder / name)
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
        stored = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name} is not a complete safetensors file: {printable(error)}") from error
    missing, unknown = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"{name} does not fit: missing tensors {missing}, unknown tensors {unknown}.")
    tensors = {}
    for key, (shape, dtype) in expected.items():
        tensor = stored[key]
        if tuple(tensor["shape"]) != tuple(shape) or tensor["dtype"] != stored_as(dtype):
            raise ValueError(
                f"{name}: expected {key} of shape {tuple(shape)}, {stored_as(dtype)}. "
                f"Received: shape {tuple(tensor['shape'])}, {tensor['dtype']}"
            )
        tensors[key] = np.frombuffer(tensor["data"], dtype).reshape(shape)
        # A metric may well be infinite; a weight may not.
        if tensors[key].dtype.kind == "f" and not key.startswith("metrics/") and not np.isfinite(tensors[key]).all():
            raise ValueError(f"{name}: {key} holds numbers that are not finite. Train again, or use another file.")
    return tensors


def stored_as(dtype):
    """A NumPy dtype as safetensors files name it: F32, I64, BOOL."""
    dtype = np.dtype(dtype)
    return "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def printable(text, keep=""):
    """The text with control characters, but for those in `keep`, as escapes: on a terminal they might forge lines."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in str(text))


def read_variables(state):
    """{name: array}: the values of {name: variable}."""
    return {name: v.numpy() for name, v in state.items()}


def assign_variables(state, values):
    """Sets {name: variable} from {name: array}."""
    for name, variable in state.items():
        variable.assign(values[name])
