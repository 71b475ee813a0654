"""Arrays filled once: in memory below a gigabyte, above it in memory-mapped files that later runs reuse."""

import hashlib
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
from tqdm import tqdm

IN_MEMORY_BYTES = 1 << 30


def cache_folder():
    """`$SSL_KERAS_CACHE`, or `~/.cache/ssl_keras`."""
    return pathlib.Path(os.environ.get("SSL_KERAS_CACHE", "").strip() or "~/.cache/ssl_keras").expanduser()


def materialise(key, columns, size, chunks, in_memory_bytes=IN_MEMORY_BYTES):
    """Collects examples into arrays.

    Args:
        key: JSON-able value that names the content (source, version, settings).
        columns: {name: (shape, dtype)} of one example.
        size: number of examples expected; fewer may come.
        chunks: function that returns an iterator of dicts of arrays, consecutive examples.
        in_memory_bytes: where more is needed, the arrays are memory-mapped files.

    Returns:
        {name: array (n, *shape)}, n ≤ size, read-only where memory-mapped.
    """
    sizes = {name: size * int(np.prod(shape)) * np.dtype(dtype).itemsize for name, (shape, dtype) in columns.items()}
    if sum(sizes.values()) <= in_memory_bytes:
        arrays = {name: np.empty((size, *shape), dtype) for name, (shape, dtype) in columns.items()}
        return _trim(arrays, _fill(arrays, chunks(), size))

    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder() / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder.parent))
        try:
            arrays = {
                column: _new_file(partial / f"{column}.npy", dtype, (size, *shape))
                for column, (shape, dtype) in columns.items()
            }
            count = _fill(arrays, chunks(), size)
            for array in arrays.values():
                array.flush()
            (partial / "content.json").write_text(json.dumps({"key": key, "examples": count}))
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster, with the same content
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # gone already where the rename took place
    count = json.loads((folder / "content.json").read_text())["examples"]
    return _trim({column: np.load(folder / f"{column}.npy", mmap_mode="r") for column in columns}, count)


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
