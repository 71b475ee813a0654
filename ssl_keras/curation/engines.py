"""Engines that run the stages: on this machine, or on a cluster by Apache Beam. Both write the same files.

An engine has two verbs. `each` calls a function for every item, for what it writes. `grouped` sends the records of
every item to partitions by their keys, and calls a function for each partition. Functions and items are picklable, and
what is passed between them are files below one folder, which all machines see. A result file that exists is not made
again, so a killed run resumes.

Records are structured NumPy arrays (`RECORD`): a key and an example.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import shutil
import signal
import threading

import numpy as np

from ssl_keras import files

RECORD = np.dtype([("key", np.uint64), ("member", np.uint64)])
PARTITION = 1 << 19  # records that are sorted in memory, 8 MB
EXTRA = "pip install -r requirements-beam.txt"


def partition_count(records):
    """Returns the number of partitions for a number of records."""
    return max(1, -(-records // PARTITION))


def split(records, count):
    """Yields (partition, its records) of an array of records; equal keys are in one partition."""
    place = (records["key"] >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)
    order = np.argsort(place, kind="stable")
    edges = np.searchsorted(place[order], np.arange(count + 1))
    for number in range(count):
        if edges[number] < edges[number + 1]:
            yield number, records[order[edges[number] : edges[number + 1]]]


class Local:
    """Runs on this machine, in one process or in several. Memory is bounded by a partition and a shard."""

    def __init__(self, workers=1):
        self.workers = workers

    def each(self, function, items):
        if self.workers == 1:
            for item in items:
                function(item)
            return
        context = multiprocessing.get_context("spawn")  # forking would lose the threads of open files
        with concurrent.futures.ProcessPoolExecutor(self.workers, context, _begin_worker) as pool:
            list(pool.map(function, items))

    def grouped(self, mapping, items, reducing, count, folder):
        """Calls `reducing(partition, array of its records)` for the records that `mapping(item)` returns.

        `folder` takes the partitions meanwhile. They are not what a killed run resumes from.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for item in items:
            for number, records in split(mapping(item), count):
                path = folder / f"{number:05}"
                with files.naming(path), open(path, "ab") as file:
                    file.write(records.tobytes())
        self.each(functools.partial(_reduce_file, reducing, folder), range(count))
        shutil.rmtree(folder)


def _begin_worker():
    """Leaves Ctrl-C to the parent, and ends the worker if the parent is killed: nothing else would."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _reduce_file(reducing, folder, number):
    path = folder / f"{number:05}"
    reducing(number, np.fromfile(path, RECORD) if path.exists() else np.zeros(0, RECORD))


class Beam:
    """Runs on Apache Beam: by default on its local runner, and on a cluster with its options.

    Args:
        options: arguments for Beam, such as "--runner=FlinkRunner". Workers must see the folders of the command.
    """

    def __init__(self, options=()):
        try:
            import apache_beam
        except ImportError as error:
            raise ValueError(f"--engine beam needs Apache Beam, in an environment of its own: {EXTRA}") from error
        self.beam, named = apache_beam, any(option.startswith("--runner") for option in options)
        # The default runner, Prism, would download a program.
        self.options = [*options] if named else ["--runner=FnApiRunner", *options]

    def _pipeline(self):
        from apache_beam.options.pipeline_options import PipelineOptions

        return self.beam.Pipeline(options=PipelineOptions(self.options))

    def each(self, function, items):
        with self._pipeline() as pipeline:
            made = pipeline | self.beam.Create(list(items), reshuffle=True)
            made | self.beam.Map(function)

    def grouped(self, mapping, items, reducing, count, folder):
        """Does what `Local.grouped` does; `folder` is not used, since the runner keeps what it shuffles."""
        with self._pipeline() as pipeline:
            parts = pipeline | self.beam.Create(list(items), reshuffle=True)
            parts = parts | self.beam.FlatMap(functools.partial(_split_bytes, mapping, count))
            parts | self.beam.GroupByKey() | self.beam.MapTuple(functools.partial(_reduce_bytes, reducing))
        for number in range(count):
            reducing(number, np.zeros(0, RECORD))  # those without records


def _split_bytes(mapping, count, item):
    return [(number, records.tobytes()) for number, records in split(mapping(item), count)]


def _reduce_bytes(reducing, number, parts):
    reducing(number, np.frombuffer(b"".join(parts), RECORD))
