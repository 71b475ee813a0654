"""Arrays filled once: in memory below a gigabyte, above it in memory-mapped files that later runs reuse.

What is cached is found by its content: files by the checksums of their bytes, wherever they lie. A damaged entry is
made anew. What a writer that was killed has left is removed by the next one.
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

import numpy as np
from tqdm import tqdm

from ssl_keras import files
from ssl_keras.files import locks

IN_MEMORY_BYTES = 1 << 30
# A file whose times are younger than this when it is read may change again within one tick of its file system's clock.
RECENT = 2_000_000_000  # nanoseconds
DAMAGE = (OSError, ValueError, LookupError, TypeError, SyntaxError)  # what reading a damaged entry raises

log = logging.getLogger(__name__)


def cache_folder():
    """`$SSL_KERAS_CACHE`, or `~/.cache/ssl_keras`."""
    folder = os.environ.get("SSL_KERAS_CACHE", "").strip() or "~/.cache/ssl_keras"
    return pathlib.Path(os.path.expanduser(folder))


def _make_folder(folder):
    """`files.make_folder`, whose error says how to have another."""
    try:
        files.make_folder(folder)
    except PermissionError as error:
        said = str(error).removesuffix(" Choose a writable folder.")
        raise PermissionError(
            f"{said} It keeps what does not fit into memory; set SSL_KERAS_CACHE to another folder."
        ) from error


def name_of(key):
    """The name, 32 hexadecimal digits, of what a JSON-able value stands for."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def contents(paths):
    """[[path, checksum of its bytes], …] of some files, in their order; paths are below the folder that holds them all.

    So it is the same wherever that folder lies, and another one when a byte changes, whatever the file's times say. The
    cache remembers checksums: a file is read only where its size, times or inode are not those that it remembers.
    A file that cannot be read has an empty checksum.
    """
    paths = [os.path.abspath(path) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    memory = cache_folder() / f"{name_of(['files', root])}.files.json"
    try:
        known = {path: about for path, about in json.loads(memory.read_text("utf-8")).items() if len(about) == 5}
    except (OSError, ValueError, TypeError, AttributeError):  # absent or damaged
        known = {}
    remembered = {}

    def checksum(path):
        relative = os.path.relpath(path, root)
        try:
            about = _about(path)
            before = known.get(relative, [None])
            digest = before[-1] if before[:-1] == about else hash_file(path)
        except OSError:
            return [relative, ""]
        if time.time_ns() - max(about[1:3]) > RECENT:
            remembered[relative] = [*about, digest]
        return [relative, digest]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing is outside Python's lock
        made = list(pool.map(checksum, paths))
    if any(known.get(path) != about for path, about in remembered.items()):
        _make_folder(memory.parent)
        files.write(memory, json.dumps(known | remembered))
    return made


def _about(path):
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def hash_file(path):
    """Hashes the bytes of a file: a checksum in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def materialise(key, columns, size, chunks, in_memory_bytes=IN_MEMORY_BYTES):
    """Collects examples into arrays.

    Args:
        key: JSON-able value that names the content (a checksum, settings), or a function that makes one, which is
            called where the arrays do not fit into memory.
        columns: {name: (shape, dtype)} of one example.
        size: number of examples expected; fewer may come.
        chunks: function that returns an iterator of dicts of arrays, consecutive examples.
        in_memory_bytes: where more is needed, the arrays are memory-mapped files.

    Returns:
        {name: array (n, *shape)}, n ≤ size, read-only where memory-mapped.

    Raises:
        OSError: there is no room for the files.
    """
    sizes = {name: size * int(np.prod(shape)) * np.dtype(dtype).itemsize for name, (shape, dtype) in columns.items()}
    if sum(sizes.values()) <= in_memory_bytes:
        arrays = {name: np.empty((size, *shape), dtype) for name, (shape, dtype) in columns.items()}
        return _trim(arrays, _fill(arrays, chunks(), size))

    key = key() if callable(key) else key
    folder = cache_folder() / name_of(key)
    if folder.is_dir():
        try:
            return _opened(folder, columns)
        except DAMAGE as error:
            log.warning("%s is damaged (%s) and is made anew.", folder, error)
    with writing(folder.name) as partial:
        made = partial / "made"
        made.mkdir()
        try:
            _write(made, key, columns, size, chunks)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                f"No space left for {sum(sizes.values()) / 1e9:.3g} GB in {folder.parent}. Free some, or set "
                "SSL_KERAS_CACHE to another folder."
            ) from error
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            try:
                return _opened(folder, columns)  # another process was faster, with the same content
            except DAMAGE:
                folder.rename(partial / "damaged")
                made.rename(folder)
    return _opened(folder, columns)


def _write(folder, key, columns, size, chunks):
    paths = {column: folder / f"{column}.npy" for column in columns}
    arrays = {column: _new_file(paths[column], dtype, (size, *shape)) for column, (shape, dtype) in columns.items()}
    count = _fill(arrays, chunks(), size)
    for column, array in arrays.items():
        array.flush()
        with open(paths[column], "rb") as file:
            os.fsync(file.fileno())
    about = {column: [*_about(path), hash_file(path)] for column, path in paths.items()}
    files.write_json(folder / "content.json", {"key": key, "examples": count, "files": about})


def _opened(folder, columns):
    """The arrays of an entry. Raises one of `DAMAGE` where they are not what was written."""
    content = json.loads((folder / "content.json").read_text("utf-8"))
    count, arrays = content["examples"], {}
    for column, (shape, dtype) in columns.items():
        path = folder / f"{column}.npy"
        array = np.lib.format.open_memmap(path, "r")
        if array.shape[1:] != tuple(shape) or array.dtype != np.dtype(dtype) or not 0 <= count <= len(array):
            raise ValueError(f"{path.name} has {array.dtype} {array.shape}")
        *about, digest = content["files"][column] if "files" in content else [*_about(path), ""]  # an older entry
        if about != _about(path) and digest != hash_file(path):  # written to since, or a copy
            raise ValueError(f"{path.name} has changed")
        arrays[column] = array
    return _trim(arrays, count)


@contextlib.contextmanager
def writing(name):
    """Yields a new folder in the cache, in which to write what then is moved to its place; it is removed at the end.

    Where its writer is killed, the next one on this host removes it.
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
            with contextlib.suppress(FileNotFoundError):  # another writer took it for one that is left
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
        with open(path, "r+b") as file:  # takes the space now: a full disk would kill a writer through the map
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def _fill(arrays, chunks, size):
    done = 0
    with tqdm(total=size, desc="reading", unit=" examples", disable=None, leave=False) as bar:
        for chunk in chunks:
            count = len(next(iter(chunk.values())))
            for name, array in arrays.items():
                array[done : done + count] = chunk[name]
            done += count
            bar.update(count)
    return done


def _trim(arrays, count):
    return {name: array[:count] for name, array in arrays.items()}
