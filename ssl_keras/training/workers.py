"""Several processes that train together, on one machine or many: who they are, who writes, and that they agree.

Each worker runs the same program; `TF_CONFIG`, or Slurm's variables, say which one it is:

    TF_CONFIG='{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'

The first worker (or the one called chief) writes files, all of them compute. The folder of the runs must be one that
all of them see.
"""

import contextlib
import hashlib
import json
import os

import numpy as np
import tensorflow as tf

EXIT_ALONE = 75  # EX_TEMPFAIL: a worker did not come within the time
MAX_TASKS = 1 << 10  # of a node


def cluster():
    """TensorFlow's resolver of the cluster that `TF_CONFIG` or Slurm's variables describe.

    Raises:
        ValueError: neither of them; a TF_CONFIG that is no JSON, has no workers, or no task among them; variables of
            Slurm's that describe no cluster.
    """
    if "TF_CONFIG" in os.environ:
        _check(os.environ["TF_CONFIG"])
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    elif "SLURM_PROCID" in os.environ:
        # Which GPUs a task has is Slurm's to say (--gpus-per-task): TensorFlow would count those of the node anew, and
        # finds no task at all where there are none.
        try:
            resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
                gpus_per_node=MAX_TASKS, gpus_per_task=1, auto_set_gpu=False
            )
            resolver.cluster_spec()  # it knows its task from then on
        except (ValueError, LookupError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"Slurm's variables (SLURM_PROCID, SLURM_STEP_…) describe no cluster: {error}. Start with srun, or set "
                "TF_CONFIG."
            ) from error
    else:
        raise ValueError(
            "multi_worker needs TF_CONFIG or Slurm's variables (srun), and there are none. "
            "Try it out with: ssl-keras launch --workers 2 pretrain …"
        )
    return resolver


def _check(text):
    """Raises ValueError where TF_CONFIG is not whole: what TensorFlow makes of it is hard to read."""
    hint = 'Expected {"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}.'
    try:
        found = json.loads(text)
        jobs, task = found["cluster"], found["task"]
        index, addresses = task["index"], jobs[task["type"]]
        if not all(isinstance(job, list) and all(isinstance(each, str) for each in job) for job in jobs.values()):
            raise TypeError("addresses are lists of strings")
        if isinstance(index, str) and index.isascii():
            index = int(index)
        if type(index) is not int:
            raise TypeError("an index is an integer")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"TF_CONFIG is not whole ({type(error).__name__}: {error}). {hint}") from error
    others = sorted(jobs.keys() - {"worker", "chief"})
    if others or task["type"] not in ("worker", "chief"):
        raise ValueError(f"TF_CONFIG names {', '.join(others) or task['type']}. {hint}")
    if not 0 <= index < len(addresses):
        raise ValueError(f"TF_CONFIG: index {index}, and {len(addresses)} addresses of {task['type']}. {hint}")
    named = [address for job in jobs.values() for address in job]
    for address in named:
        port = address.rpartition(":")[2]
        if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 1 << 16):
            raise ValueError(f"TF_CONFIG: {address!r} has no port of 1 to 65535. {hint}")
        if named.count(address) > 1:  # it would answer for another, who never comes
            raise ValueError(f"TF_CONFIG: {address!r} is there twice. Each worker needs an address of its own.")


class Workers:
    """The workers of a strategy; of any other than multi_worker there is one.

    Its methods must be called by all of them, at the same place.
    """

    def __init__(self, strategy):
        self.strategy, self.resolver = strategy, strategy.cluster_resolver
        self.several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self.is_chief = True
        if self.several and self.resolver.task_type:
            has_chief = "chief" in self.resolver.cluster_spec().jobs
            self.is_chief = self.resolver.task_type == "chief" or not (has_chief or self.resolver.task_id)
        self._sum = tf.function(self._placed) if self.several else None

    def every(self, number):
        """int64 (replicas,): what each replica's worker says, in order; of one process (1,)."""
        if not self.several:
            return np.array([number], np.int64)
        return self._sum(tf.constant(number, tf.int64)).numpy()

    def _placed(self, number):
        def one():
            replica = tf.distribute.get_replica_context()
            return number * tf.one_hot(replica.replica_id_in_sync_group, replica.num_replicas_in_sync, dtype=tf.int64)

        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, self.strategy.run(one), axis=None)

    def wait(self):
        """Returns once all are here."""
        self.every(0)

    def agree(self, what, value):
        """Nothing, where all workers say the same value (a string).

        Raises:
            ValueError: they do not, on all of them.
        """
        if not self.several:
            return
        number = int.from_bytes(hashlib.sha256(value.encode()).digest()[:7], "big")
        numbers = self.every(number)
        if len(set(numbers.tolist())) > 1:
            # Whoever leaves now may leave before another has heard; that one has, who comes here too.
            with contextlib.suppress(tf.errors.OpError):
                self.wait()
            shown = value if len(value) < 200 else hashlib.sha256(value.encode()).hexdigest()
            raise ValueError(
                f"The workers have not the same {what}; this one: {shown}. They must see one folder of runs, the same "
                "data, and have the same settings."
            )

    def raise_together(self, error):
        """Nothing, where all workers give None; where one gives an error, all raise: that one its own.

        Raises:
            ValueError: another worker has an error.
        """
        if error is None and not self.several:
            return
        if self.several:
            if not self.every(int(error is not None)).any():
                return
            with contextlib.suppress(tf.errors.OpError):  # as in `agree`
                self.wait()
        raise error or ValueError("Another worker has refused the run; its own output says why.")
