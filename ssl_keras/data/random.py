"""Stateless random numbers keyed by (seed, step, position), independent of the number of workers.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") maps
(key, counter) to four 32-bit words with no state. The key is (seed, stream). The upper
half of the counter is the step; the row at position p in the global batch starts at
p·blocks of the lower half. A worker with rows 128..255 draws only their numbers.
"""

import zlib

import tensorflow as tf

# A row of n numbers takes ceil(n/4) counter values, since each yields four words.
WORDS_PER_COUNT = 4
PHILOX = tf.random.Algorithm.PHILOX.value


class BatchRandom:
    """Draws random numbers for rows `first .. first + rows` of the global batch of one step.

    Args:
        seed: int, the seed of the run.
        step: int64 scalar tensor or int, the step of the batch.
        first: int, the position of the first row in the global batch.
        rows: int, the number of rows.
    """

    def __init__(self, seed, step, first, rows):
        self.seed, self.step, self.first, self.rows = seed, step, first, rows

    def uniform(self, stream, shape):
        """Returns uniform float32 (rows, *shape) in [0, 1). Draws of different `stream` names are independent."""
        return self._draw(tf.raw_ops.StatelessRandomUniformV2, stream, shape)

    def normal(self, stream, shape):
        """Returns standard normal float32 (rows, *shape). Draws of different `stream` names are independent."""
        return self._draw(tf.raw_ops.StatelessRandomNormalV2, stream, shape)

    def integers(self, stream, shape):
        """Returns uniform int32 (rows, *shape) of all values. Draws of different `stream` names are independent."""
        return self._draw(tf.raw_ops.StatelessRandomUniformFullIntV2, stream, shape, tf.int32)

    def _draw(self, op, stream, shape, dtype=tf.float32):
        size = 1
        for side in shape:
            size *= side
        blocks = -(-size // WORDS_PER_COUNT)
        key = (zlib.crc32(stream.encode()) << 32) | (self.seed & 0xFFFFFFFF)
        counter = tf.stack([tf.constant(self.first * blocks, tf.uint64), tf.cast(self.step, tf.uint64)])
        flat = op(
            shape=[self.rows, blocks * WORDS_PER_COUNT],
            key=tf.constant([key], tf.uint64),
            counter=counter,
            alg=PHILOX,
            dtype=dtype,
        )
        return tf.reshape(flat[:, :size], (self.rows, *shape))


class ReplayedRandom:
    """Replays in a training step, where positions are unknown, the numbers that `BatchRandom` drew in tf.data."""

    def __init__(self, batch):
        self.batch = batch

    def uniform(self, stream, shape):
        """Returns the numbers as drawn, float32 (rows, *shape) in [0, 1)."""
        return self.batch[stream]
