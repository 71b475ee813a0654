"""Cached arrays: in memory up to a gigabyte, and above it in memory-mapped files that later runs reuse.

Entries are keyed by content: files are identified by their checksums and not by their paths. A damaged entry is
rebuilt. Leftovers of a killed writer are removed by the next one.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import socket
import tempfile
import time
import tokenize
import zipfile
import zlib

import numpy as np
from tqdm import tqdm

from ssl_keras import files
from ssl_keras.files import locks

IN_MEMORY_BYTES = 1 << 30
# A file that was just written may change again within the resolution of its timestamps, so its checksum is not cached.
RECENT = 2_000_000_000  # nanoseconds
# What reading a damaged entry raises; NumPy tokenizes the headers of arrays, and archives of arrays are zip files.
DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    SyntaxError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    EOFError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

log = logging.getLogger(__name__)


def cache_folder():
    """Returns `$SSL_KERAS_CACHE`, or `~/.cache/ssl_keras`."""
    folder = os.environ.get("SSL_KERAS_CACHE", "").strip() or "~/.cache/ssl_keras"
    return pathlib.Path(os.path.expanduser(folder))


def _make_folder(folder):
    """Creates the cache folder. Raises PermissionError, which says how to choose another."""
    try:
        files.make_folder(folder)
    except PermissionError as error:
        message = str(error).removesuffix(" Choose a writable folder.")
        raise PermissionError(
            f"{message} This is the cache of large datasets. Set SSL_KERAS_CACHE to another folder."
        ) from error


def name_of(key):
    """Returns the cache name of a JSON-serializable key: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def contents(paths):
    """Returns [[path, checksum], …] of files, in order, with paths relative to their common folder.

    The result depends only on relative paths and content, not on the location of that folder or on timestamps.
    Checksums are cached: a file is read again only if its size, timestamps or inode changed.
    An unreadable file has an empty checksum.
    """
    paths = [os.path.abspath(path) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    memory = cache_folder() / f"{name_of(['files', root])}.files.json"
    try:
        known = {path: about for path, about in json.loads(memory.read_text("utf-8")).items() if _is_checksum(about)}
    except DAMAGE:  # or absent
        known = {}
    remembered = {}

    def checksum(path):
        relative = os.path.relpath(path, root)
        try:
            about = _file_stat(path)
            before = known.get(relative, [None])
            digest = before[-1] if before[:-1] == about else hash_file(path)
        except OSError:
            return [relative, ""]
        if time.time_ns() - max(about[1:3]) > RECENT:
            remembered[relative] = [*about, digest]
        return [relative, digest]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
        made = list(pool.map(checksum, paths))
    if any(known.get(path) != about for path, about in remembered.items()):
        _make_folder(memory.parent)
        files.write(memory, json.dumps(known | remembered))
    return made


def _is_checksum(about):
    """Returns whether an entry of cached checksums is four numbers and a checksum."""
    return isinstance(about, list) and [type(each) for each in about] == [int] * 4 + [str]


def _file_stat(path):
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def hash_file(path):
    """Returns a checksum of a file, in hexadecimal."""
    return files.sha256(path)[:32]


def materialize(key, columns, size, chunks, in_memory_bytes=IN_MEMORY_BYTES, progress="reading"):
    """Collects examples into arrays.

    Args:
        key: JSON-serializable value that identifies the content (checksums, settings), or a function that returns it,
            which is called only if the arrays are cached.
        columns: {name: (shape, dtype)} of one example.
        size: the maximum number of examples.
        chunks: function that returns an iterator of dicts of arrays, consecutive examples.
        in_memory_bytes: larger arrays are cached in memory-mapped files.
        progress: the verb next to the progress bar.

    Returns:
        {name: array (n, *shape)}, n ≤ size, read-only if memory-mapped.

    Raises:
        OSError: The disk is full.
    """
    sizes = {name: size * int(np.prod(shape)) * np.dtype(dtype).itemsize for name, (shape, dtype) in columns.items()}
    if sum(sizes.values()) <= in_memory_bytes:
        arrays = {name: np.empty((size, *shape), dtype) for name, (shape, dtype) in columns.items()}
        return _trim(arrays, _fill(arrays, chunks(), size, progress))

    key = key() if callable(key) else key
    folder = cache_folder() / name_of(key)
    if folder.is_dir():
        try:
            return _open_entry(folder, columns)
        except DAMAGE as error:
            log.warning("%s is damaged (%s). Rebuilding it.", folder, error)
    with writing(folder.name) as partial:
        made = partial / "made"
        made.mkdir()
        try:
            _write(made, key, columns, size, chunks, progress)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                f"No space left for {sum(sizes.values()) / 1e9:.3g} GB in {folder.parent}. Free up disk space, or set "
                "SSL_KERAS_CACHE to another folder."
            ) from error
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            try:
                return _open_entry(folder, columns)  # another process has written the same content
            except DAMAGE:
                folder.rename(partial / "damaged")
                made.rename(folder)
    return _open_entry(folder, columns)


def _write(folder, key, columns, size, chunks, progress):
    paths = {column: folder / f"{column}.npy" for column in columns}
    arrays = {column: _new_file(paths[column], dtype, (size, *shape)) for column, (shape, dtype) in columns.items()}
    count = _fill(arrays, chunks(), size, progress)
    for column, array in arrays.items():
        array.flush()
        with open(paths[column], "rb") as file:
            os.fsync(file.fileno())
    about = {column: [*_file_stat(path), hash_file(path)] for column, path in paths.items()}
    files.write_json(folder / "content.json", {"key": key, "examples": count, "files": about})


def _open_entry(folder, columns):
    """Returns the arrays of an entry. Raises one of `DAMAGE` if they are not what was written."""
    content = json.loads((folder / "content.json").read_text("utf-8"))
    count, arrays = content["examples"], {}
    for column, (shape, dtype) in columns.items():
        path = folder / f"{column}.npy"
        array = np.lib.format.open_memmap(path, "r")
        if array.shape[1:] != tuple(shape) or array.dtype != np.dtype(dtype) or not 0 <= count <= len(array):
            raise ValueError(f"{path.name} has dtype {array.dtype} and shape {array.shape}")
        *about, digest = content["files"][column] if "files" in content else [*_file_stat(path), ""]  # an older entry
        if about != _file_stat(path) and digest != hash_file(path):  # modified or copied
            raise ValueError(f"{path.name} has changed")
        arrays[column] = array
    return _trim(arrays, count)


@contextlib.contextmanager
def writing(name):
    """Yields a temporary folder in the cache, to write to before moving the result into place; removes it at the end.

    If the writer is killed, the next one on this host removes it.
    """
    folder, host = cache_folder(), re.sub(r"\W", "_", socket.gethostname())
    _make_folder(folder)
    for left in folder.glob(f".*.{host}.*.partial"):
        with contextlib.suppress(OSError), locks.left_in(left) as ended:
            if ended:
                shutil.rmtree(left, ignore_errors=True)
    while True:
        partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{name}.{host}.", suffix=".partial", dir=folder))
        with contextlib.ExitStack() as held:
            with contextlib.suppress(FileNotFoundError):  # another writer has removed it as a leftover
                held.enter_context(locks.writing_in(partial))
            if partial.is_dir():
                try:
                    yield partial
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
                return


def _new_file(path, dtype, shape):
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as file:  # reserve the space: writing to a map on a full disk kills the process
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def _fill(arrays, chunks, size, progress):
    done = 0
    with tqdm(total=size, desc=progress, unit=" examples", disable=None, leave=False) as bar:
        for chunk in chunks:
            count = len(next(iter(chunk.values())))
            for name, array in arrays.items():
                array[done : done + count] = chunk[name]
            done += count
            bar.update(count)
    return done


def _trim(arrays, count):
    return {name: array[:count] for name, array in arrays.items()}
