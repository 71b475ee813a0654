"""Workers: several processes that train together, on one machine or many.

All workers run the same program. `TF_CONFIG` or Slurm's variables define the cluster and each worker's place in it:

    TF_CONFIG='{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'

All workers compute; only the chief writes files. The chief is the worker of that type, or else the first worker. The
folder of runs must be on storage that all workers share.
"""

import contextlib
import hashlib
import json
import os

import numpy as np
import tensorflow as tf

EXIT_ALONE = 75  # EX_TEMPFAIL: a worker did not connect in time
MAX_TASKS = 1 << 10  # per node


def cluster():
    """Returns TensorFlow's resolver for the cluster that `TF_CONFIG` or Slurm's variables describe.

    Raises:
        ValueError: neither is set; TF_CONFIG is not valid JSON, or lacks workers or this task; Slurm's variables do
            not describe a cluster.
    """
    if "TF_CONFIG" in os.environ:
        _check(os.environ["TF_CONFIG"])
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    elif "SLURM_PROCID" in os.environ:
        # Slurm assigns the GPUs to tasks (--gpus-per-task). TensorFlow would count the node's GPUs instead, and would
        # find no task on a node without GPUs.
        try:
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
                gpus_per_node=MAX_TASKS, gpus_per_task=1, auto_set_gpu=False
            )
            resolver.cluster_spec()  # this sets the resolver's task
        except (ValueError, LookupError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"Slurm's variables (SLURM_PROCID, SLURM_STEP_…) do not describe a cluster: {error}. Start the workers "
                "with srun, or set TF_CONFIG."
            ) from error
    else:
        raise ValueError(
            "multi_worker needs TF_CONFIG or Slurm's variables (srun), but neither is set. "
            "To test it on this machine, use: ssl-keras launch --workers 2 pretrain …"
        )
    return resolver


def _check(text):
    """Raises ValueError if TF_CONFIG is not valid, with a message that is easier to read than TensorFlow's."""
    hint = 'Expected {"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}.'
    try:
        found = json.loads(text)
        jobs, task = found["cluster"], found["task"]
        index, addresses = task["index"], jobs[task["type"]]
        if not all(isinstance(job, list) and all(isinstance(each, str) for each in job) for job in jobs.values()):
            raise TypeError("addresses must be lists of strings")
        if isinstance(index, str) and index.isascii():
            index = int(index)
        if type(index) is not int:
            raise TypeError("the index must be an integer")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"TF_CONFIG is not valid ({type(error).__name__}: {error}). {hint}") from error
    others = sorted(jobs.keys() - {"worker", "chief"})
    if others or task["type"] not in ("worker", "chief"):
        raise ValueError(f"TF_CONFIG has tasks that are not supported: {', '.join(others) or task['type']}. {hint}")
    if not 0 <= index < len(addresses):
        raise ValueError(
            f"TF_CONFIG has index {index}, but only {len(addresses)} addresses of type {task['type']}. {hint}"
        )
    named = [address for job in jobs.values() for address in job]
    for address in named:
        port = address.rpartition(":")[2]
        if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 1 << 16):
            raise ValueError(f"TF_CONFIG: {address!r} has no port between 1 and 65535. {hint}")
        if named.count(address) > 1:  # one worker would answer in place of the other
            raise ValueError(f"TF_CONFIG contains the address {address!r} twice. Give each worker its own address.")


class Workers:
    """The workers of a strategy. Every strategy except multi_worker has one.

    All workers must call its methods, in the same order.
    """

    def __init__(self, strategy):
        self.strategy, self.resolver = strategy, strategy.cluster_resolver
        self.is_distributed = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self.is_chief = True
        if self.is_distributed and self.resolver.task_type:
            has_chief = "chief" in self.resolver.cluster_spec().jobs
            self.is_chief = self.resolver.task_type == "chief" or not (has_chief or self.resolver.task_id)
        self._gather = tf.function(self._sum_one_hot) if self.is_distributed else None

    def all_gather(self, number):
        """Returns the numbers of all workers as int64 (replicas,), once for each replica; (1,) for a single process."""
        if not self.is_distributed:
            return np.array([number], np.int64)
        return self._gather(tf.constant(number, tf.int64)).numpy()

    def _sum_one_hot(self, number):
        def one():
            replica = tf.distribute.get_replica_context()
            return number * tf.one_hot(replica.replica_id_in_sync_group, replica.num_replicas_in_sync, dtype=tf.int64)

        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, self.strategy.run(one), axis=None)

    def wait(self):
        """Returns once all workers have called it."""
        self.all_gather(0)

    def agree(self, what, value):
        """Checks that all workers have the same value, a string.

        Raises:
            ValueError: they do not. All workers raise it.
        """
        if not self.is_distributed:
            return
        number = int.from_bytes(hashlib.sha256(value.encode()).digest()[:7], "big")
        numbers = self.all_gather(number)
        if len(set(numbers.tolist())) > 1:
            # A worker that exits now might do so before the others have received its number. They have it once
            # they have called `wait` as well.
            with contextlib.suppress(tf.errors.OpError):
                self.wait()
            shown = value if len(value) < 200 else hashlib.sha256(value.encode()).hexdigest()
            raise ValueError(
                f"The workers do not have the same {what}. This worker has: {shown}. All workers need the same "
                "settings and data, and a folder of runs that they share."
            )

    def raise_together(self, error):
        """Raises `error` if it is not None. If any worker has an error, all raise one.

        Raises:
            ValueError: another worker has an error and this one does not.
        """
        if error is None and not self.is_distributed:
            return
        if self.is_distributed:
            if not self.all_gather(int(error is not None)).any():
                return
            with contextlib.suppress(tf.errors.OpError):  # as in `agree`
                self.wait()
        raise error or ValueError("Another worker refused the run. See the output of that worker for the reason.")
