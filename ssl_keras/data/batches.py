"""Batches as pure functions of (seed, step).

Resuming therefore needs only the step, and batches are the same for any number of replicas and workers.

Shapes: `N` examples in the source, `B` global batch.
"""

import numpy as np
import tensorflow as tf

from ssl_keras.data.random import BatchRandom

WINDOW = 64  # batches that are sorted by length together; an eighth of an epoch for small sources


class Batches:
    """The batches of a source, addressed by step.

    If the source has `lengths`, training batches are bucketed by length to reduce padding.

    Args:
        source: a `Source`: `len`, `gather(indices) -> dict of arrays`, `spec()`, `lengths`.
        batch_size: B, the global batch size, over all replicas.
        seed: the seed of the order and of all draws.
        preprocess: function (batch, random) that returns the batch an objective trains on, or None.
        shuffle: True for training: a new order each epoch, and full batches only. False for one pass in order, with
            the last batch padded to B by examples of `weight` 0.
        longest: the maximum number of samples of a clip, for audio. Longer clips are randomly cropped before rows
            are padded to the longest of the batch. None uses whole clips.

    Raises:
        ValueError: The source is empty, or `shuffle` is set and the source is smaller than a batch.
    """

    def __init__(self, source, batch_size, *, seed=0, preprocess=None, shuffle=True, longest=None):
        if len(source) == 0:
            raise ValueError(f"{source.name} has no examples. Expected at least one.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1. Received: {batch_size}")
        if shuffle and len(source) < batch_size:
            raise ValueError(
                f"{source.name} has {len(source)} examples, fewer than a batch of {batch_size}. "
                f"Use a batch size of at most {len(source)}, or more data."
            )
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.preprocess, self.shuffle = preprocess, shuffle
        cuts = longest is not None and source.lengths is not None and np.any(source.lengths > longest)
        self.longest = longest if cuts else None
        whole = len(source) // batch_size
        self.steps_per_epoch = whole if shuffle else -(-len(source) // batch_size)
        self._order = (None, None)

    def indices(self, step):
        """Returns the indices of the examples in batch `step`, int64 (B,); -1 marks padding."""
        epoch, batch = divmod(int(step), self.steps_per_epoch)
        start = batch * self.batch_size
        if not self.shuffle:
            rows = np.arange(start, start + self.batch_size)
            return np.where(rows < len(self.source), rows, -1)
        order = self._order  # read once, because tf.data calls this from two threads
        if order[0] != epoch:
            rows = epoch_order(len(self.source), self.seed, epoch)
            if self.source.lengths is not None:
                rows = bucket_by_length(rows, self.source.lengths, self.batch_size, self.seed, epoch)
            order = self._order = (epoch, rows)
        return order[1][start : start + self.batch_size]

    def numpy(self, step, first=0, rows=None, place=None):
        """Returns rows `first .. first + rows` of batch `step` as a dict of arrays, before `preprocess`.

        `place` (rows,) in [0, 1) is the relative offset of the crop of each clip longer than `longest`. Without it,
        clips are whole.
        """
        chosen = self.indices(step)[first : None if rows is None else first + rows]
        batch = self.source.gather(np.maximum(chosen, 0), *(() if place is None else (self.longest, place)))
        batch = {name: column for name, column in batch.items() if column.dtype != object}  # networks take no strings
        return batch | {"weight": (chosen >= 0).astype(np.float32)}

    def dataset(self, first_step=0, last_step=None, strategy=None):
        """Returns steps `first_step .. last_step - 1` as a `tf.data.Dataset` of dicts; infinite by default.

        Pass the infinite dataset to `fit` with `steps_per_epoch`. On a finite dataset, Keras counts full executions of
        `steps_per_execution` steps and drops the remainder.

        With a strategy of several replicas, this returns a `DistributedDataset` for `fit`. Each worker builds only its
        own rows of each global batch, and splits them among its replicas.

        Raises:
            ValueError: B is not a multiple of the number of replicas.
        """
        replicas = 1 if strategy is None else strategy.num_replicas_in_sync
        check_divisible(self.batch_size, replicas)
        if replicas == 1:
            return self._rows(first_step, last_step, 0, self.batch_size)

        def worker(context):
            rows = self.batch_size // context.num_input_pipelines
            mine = self._rows(first_step, last_step, context.input_pipeline_id * rows, rows)
            local = replicas // context.num_input_pipelines
            return mine.rebatch(rows // local, drop_remainder=True)

        return strategy.distribute_datasets_from_function(worker)

    def _rows(self, first_step, last_step, first, rows):
        spec = {
            key: tf.TensorSpec((rows, *shape), dtype)
            for key, (shape, dtype) in self.source.spec().items()
            if dtype != tf.string
        }
        spec["weight"] = tf.TensorSpec((rows,), tf.float32)
        keys = sorted(spec)

        def gather(step, place=None):
            batch = self.numpy(step, first, rows, place)
            return [batch[key] for key in keys]

        def load(step):
            random = BatchRandom(self.seed, step, first, rows)
            place = [] if self.longest is None else [random.uniform("cut", (1,))[:, 0]]
            arrays = tf.numpy_function(gather, [step, *place], [spec[key].dtype for key in keys])
            batch = {}
            for key, array in zip(keys, arrays):
                array.set_shape(spec[key].shape)
                batch[key] = array
            if self.preprocess is None:
                return batch
            return self.preprocess(batch, random)

        steps = tf.data.Dataset.range(first_step, tf.int64.max if last_step is None else last_step)
        # Two parallel NumPy gathers hide their latency, so there is nothing to autotune. Autotuning would also delay
        # the end of each iterator by a second, while its thread stops.
        options = tf.data.Options()
        options.autotune.enabled = False
        return steps.map(load, num_parallel_calls=2, deterministic=True).prefetch(2).with_options(options)


def check_divisible(batch_size, replicas, accumulate=1):
    """Raises ValueError if a global batch does not divide evenly among replicas and micro-batches."""
    if batch_size % (replicas * accumulate):
        raise ValueError(
            f"The global batch of {batch_size} does not divide among {replicas} replicas × {accumulate} "
            f"micro-batches. Use a multiple of {replicas * accumulate}."
        )


def epoch_order(size, seed, epoch):
    """Returns a random permutation keyed by (seed, epoch), int64 (size,)."""
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(size)


def bucket_by_length(order, lengths, batch_size, seed, epoch):
    """Reorders a permutation so that each batch has examples of similar length; keyed by (seed, epoch).

    Examples are sorted by length within windows of several batches, and then whole batches are shuffled. Batches still
    differ between epochs, and lengths still come in random order.

    Args:
        order: (N,) integers, a permutation. lengths: (N,) the length of each example, by its index.

    Returns:
        (N // batch_size * batch_size,) entries of `order`.
    """
    order = order[: len(order) // batch_size * batch_size]
    several = min(WINDOW, max(2, len(order) // batch_size // 8))
    window = np.arange(len(order)) // (several * batch_size)
    batches = order[np.lexsort((lengths[order], window))].reshape(-1, batch_size)
    return batches[epoch_order(len(batches), seed, epoch)].reshape(-1)
