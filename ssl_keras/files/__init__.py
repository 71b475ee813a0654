"""Atomic writes and validated reads of files."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import pathlib
import secrets
import shutil
import sys

import numpy as np
import safetensors
import safetensors.numpy

LONGEST = 200  # bytes of a generated name; file systems allow 255, and suffixes such as .partial are added
EXCERPT = 1000  # characters of a file's content in a message
NOT_FILES = {
    "a folder": os.path.isdir,
    "a pipe": pathlib.Path.is_fifo,
    "a socket": pathlib.Path.is_socket,
    "a device": lambda path: path.is_char_device() or path.is_block_device(),
}


def write(path, content):
    """Writes bytes or text to `path` atomically: after a crash or on a full disk, the old file is intact.

    The content is written to a temporary file in the same folder, synced to disk, and renamed. The folder is synced
    too, so that a power failure cannot undo the rename. If `path` is a link, its target is replaced.

    Raises:
        ValueError: `path` is not a file but a device, a pipe or a folder.
        OSError: The file cannot be written; `strerror` has the reason, and `filename` the path.
    """
    path = target(path)
    temporary = partial(path)
    opened = open(temporary, "xb")  # noqa: SIM115  # x: fails if the file or a link exists
    try:
        with naming(path):
            with opened as file:
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


@contextlib.contextmanager
def naming(path):
    """Names a file in the errors of what is done with it: the error of a full disk has no file name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def target(path):
    """Resolves links: returns the path of the file to write.

    Raises:
        ValueError: `path` is not a file, and a rename would replace it.
    """
    for kind, is_kind in NOT_FILES.items():
        if is_kind(pathlib.Path(path)):
            raise ValueError(f"{path} is {kind} and will not be replaced. Expected the name of a file.")
    real = pathlib.Path(os.path.realpath(path))
    if real.is_symlink():
        raise ValueError(f"{path} is a link to itself. Expected the name of a file.")
    return real


def partial(path):
    """Returns an unguessable name for a temporary file next to `path`."""
    return path.with_name(f".{path.name}.{secrets.randbelow(10**12)}.partial")


def write_json(path, value):
    """Writes `value` as indented JSON, atomically; see `replace_nonfinite`."""
    write(path, json.dumps(replace_nonfinite(value), indent=2, ensure_ascii=False) + "\n")


def replace_nonfinite(value):
    """Replaces numbers that are not finite by null in a JSON-able value, because JSON cannot represent them."""
    if isinstance(value, dict):
        return {key: replace_nonfinite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shorten(name):
    """Shortens a name of more than LONGEST bytes to its beginning and a hash of the whole."""
    content = name.encode(errors="surrogateescape")
    if len(content) <= LONGEST:
        return name
    digest = hashlib.sha256(content).hexdigest()[:8]
    return f"{content[: LONGEST - 9].decode(errors='ignore')}-{digest}"


def make_folder(path):
    """Creates a folder, and checks that it is writable.

    Raises:
        PermissionError: The folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = partial(path / "writable")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise PermissionError(f"Cannot write to {path}: {error.strerror}. Choose a writable folder.") from error


def unused_path(path):
    """Returns the first of path, path.2, path.3, … that does not exist."""
    names = itertools.chain([path.name], (f"{path.name}.{number}" for number in itertools.count(2)))
    return next(each for each in map(path.with_name, names) if not os.path.lexists(each))


def check_new(path):
    """Raises ValueError if `path` exists."""
    if os.path.lexists(path):
        raise ValueError(f"{path} already exists. Choose another --out, or remove it.")


def check_output(path, overwrite=False):
    """Checks, before any work, that a file can be written to `path`.

    Raises:
        ValueError: The file exists and `overwrite` is off, or `path` is not a file.
        PermissionError: The folder is not writable.
    """
    path = target(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} already exists. Add --overwrite to replace it, or choose another --out.")
    make_folder(path.parent)


@contextlib.contextmanager
def new_folder(path):
    """Yields an empty folder, and then moves it to `path` atomically.

    Raises:
        ValueError: `path` exists, before or after the folder is filled. In the latter case the folder is kept, and the
            message names it.
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
        raise ValueError(f"{path} could not be written. The result is in {partial}. {error}") from error


def new_beside(path, what):
    """Creates a new empty folder `.NAME.what` next to `path`."""
    while True:
        made = unused_path(path.with_name(f".{path.name}.{what}"))
        with contextlib.suppress(FileExistsError):  # another process may create it first
            made.mkdir()
            return made


def check_outputs(folder, names):
    """Raises ValueError if a folder contains some of these files but not all, or if one is not a file.

    Only a complete set is from an earlier call, and may be overwritten.
    """
    for name in names:
        target(folder / name)
    there = [name for name in names if os.path.lexists(folder / name)]
    if there and len(there) < len(names):
        raise ValueError(
            f"{folder} contains {', '.join(there)}, which would be overwritten. Expected none or all of "
            f"{', '.join(names)}, from an earlier call. Choose another --out, or move these files."
        )


def sha256(path):
    """Returns the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_to_bytes(tensors, metadata=None):
    """Serializes {name: array} as safetensors bytes."""
    contiguous = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
    return safetensors.numpy.save(contiguous, metadata)


def bytes_to_tensors(content, expected, name, widen=False):
    """Deserializes safetensors bytes that must contain exactly the tensors of `expected`.

    Args:
        content: the bytes of the file.
        expected: {tensor name: (shape, numpy dtype)}.
        name: the name of the file, for messages.
        widen: whether float32 may be stored as float16.

    Raises:
        ValueError: The file is not valid; tensors are missing, unknown, or have another shape or dtype; or numbers are
            not finite.
    """
    try:
        stored = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name} is not a complete safetensors file: {excerpt(error)}") from error
    missing, unknown = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing or unknown:
        difference = f"Missing: {excerpt(missing)}. Unknown: {excerpt(unknown)}."
        raise ValueError(f"{name} has other tensors than expected. {difference}")
    tensors = {}
    for key, (shape, dtype) in expected.items():
        tensor = stored[key]
        narrow = widen and tensor["dtype"] == "F16" and dtype == np.float32
        if tuple(tensor["shape"]) != tuple(shape) or not (narrow or tensor["dtype"] == safetensors_dtype(dtype)):
            raise ValueError(
                f"{name}: expected {key} of shape {tuple(shape)}, {safetensors_dtype(dtype)}. "
                f"Received: shape {excerpt(tuple(tensor['shape']))}, {tensor['dtype']}"
            )
        stored_as = np.float16 if narrow else dtype
        tensors[key] = np.frombuffer(tensor["data"], stored_as).reshape(shape).astype(dtype, copy=False)
        # Metrics may be infinite; weights may not.
        if tensors[key].dtype.kind == "f" and not key.startswith("metrics/") and not np.isfinite(tensors[key]).all():
            raise ValueError(f"{name}: {key} has numbers that are not finite. Train again, or use another file.")
    return tensors


def safetensors_dtype(dtype):
    """Returns the safetensors name of a NumPy dtype: F32, I64, BOOL."""
    dtype = np.dtype(dtype)
    return "BOOL" if dtype.kind == "b" else f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def printable(text, keep=""):
    """Escapes control characters, except those in `keep`, because they could forge lines on a terminal."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in str(text))


def excerpt(text):
    """Escapes a text as `printable` does, and cuts it to EXCERPT characters, so that a message stays one line."""
    text = printable(text)
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]} …"


def read_variables(state):
    """Returns the values of {name: variable} as {name: array}."""
    return {name: v.numpy() for name, v in state.items()}


def assign_variables(state, values):
    """Sets {name: variable} from {name: array}."""
    for name, variable in state.items():
        variable.assign(values[name])


def utf8_advice(name):
    """Returns what to do about a name that is not UTF-8: it may be, although the locale is not."""
    with contextlib.suppress(UnicodeError):
        os.fsencode(name).decode()
        return (
            f"The name itself is UTF-8, but Python reads names as {sys.getfilesystemencoding()}. Set PYTHONUTF8=1 or "
            "LC_ALL=C.UTF-8 in the environment."
        )
    return "Rename it, or link to it."
