"""Random crops, masks and samples of tokens, drawn for each example.

Shapes: `B` batch, `T` tokens (or frames), `W` window, `M` maximum number of masked tokens, `K` captions. -1 is padding,
after the tokens of a row.
"""

import tensorflow as tf

BASES = (0x9E3779B1, 0x85EBCA77)  # odd bases of the two polynomial hashes of a row
MULTIPLE = 8  # of the length of trimmed texts, in tokens, since XLA compiles every length separately


def lengths(tokens):
    """Counts the tokens of each row of (B, T): int32 (B,)."""
    return tf.reduce_sum(tf.cast(tokens >= 0, tf.int32), 1)


def trim(x, count=None, multiple=1):
    """Trims (B, T) to the length of the longest row, rounded up to a multiple of `multiple`; at least 1.

    Args:
        x: tokens, or another tensor with padding at the end of its rows.
        count: the lengths of the rows. Defaults to those of tokens.
        multiple: the granularity of lengths. XLA compiles each length separately, so larger values compile less often.
    """
    longest = tf.maximum(tf.reduce_max(lengths(x) if count is None else count), 1)
    return x[:, : longest if multiple == 1 else -(-longest // multiple) * multiple]


def trim_texts(batch):
    """Trims the tokens of a batch, and the tags of the tokens, (B, T), to the longest text; other batches stay."""
    if "tokens" not in batch:
        return batch
    tokens = trim(batch["tokens"], multiple=MULTIPLE)
    return batch | {name: batch[name][:, : tf.shape(tokens)[1]] for name in ("tokens", "tags") if name in batch}


def crop_windows(batch, random, length):
    """Randomly crops the columns with a time axis, (B, W), to (B, length), at an offset drawn for each example."""
    slack = batch["tokens"].shape[1] - length
    if slack < 0:
        raise ValueError(f"Expected windows of at least {length} tokens. Received: {batch['tokens'].shape[1]} tokens")
    if slack == 0:
        return batch
    start = tf.cast(random.uniform("crop", ()) * (slack + 1), tf.int32)  # (B,)
    place = tf.minimum(start, slack)[:, None] + tf.range(length)
    return batch | {
        name: tf.gather(column, place, batch_dims=1) for name, column in batch.items() if column.shape.rank == 2
    }


def mask_spans(valid, ratio, span, random, most=None):
    """Draws a mask (B, T) bool of spans, over about the fraction `ratio` of valid positions and at least one per row.

    Args:
        valid: (B, T) bool, False for padding at the end of a row.
        ratio: the mask ratio, the fraction of valid positions to mask, in (0, 1).
        span: the length of a span, in positions.
        random: `BatchRandom` of the rows.
        most: the number of positions to draw random numbers for, so that they do not depend on T; None is T.
    """
    width = valid.shape[1] if most is None else tf.shape(valid)[1]
    key = random.uniform("spans", (most or width,))[:, :width]  # (B, T)
    starts = key < 1 - (1 - ratio) ** (1 / span)  # a position is visible if no span starts in the last `span` positions
    count = tf.reduce_sum(tf.cast(valid, tf.float32), 1)  # (B,)
    first = tf.cast(random.uniform("first", ()) * count, tf.int32)[:, None]
    starts |= (tf.range(width) == first) & ~tf.reduce_any(starts & valid, axis=1, keepdims=True)
    covered = starts
    for shift in range(1, span):
        covered |= tf.pad(starts, [[0, 0], [shift, 0]])[:, :width]
    return covered & valid


def split_at_random(tokens, horizon, random):
    """Splits each row (B, T) at a random t into the source x₁…x_t and the target x_{t+h}…; both (B, T).

    A row of at most h tokens has its first token as source and an empty target.
    """
    width = tokens.shape[1]
    choices = tf.maximum(lengths(tokens) - horizon, 1)  # (B,)
    cut = 1 + tf.minimum(tf.cast(random.uniform("cut", ()) * tf.cast(choices, tf.float32), tf.int32), choices - 1)
    before = tf.where(tf.range(width) < cut[:, None], tokens, -1)
    place = tf.range(width) + cut[:, None] + horizon - 1
    after = tf.gather(tokens, tf.minimum(place, width - 1), batch_dims=1)
    return before, tf.where(place < width, after, -1)


def append_end(target, end, most):
    """Appends the end token to each row, (B, U) -> (B, U + 1), except to rows of `most` tokens: they were truncated."""
    target = tf.pad(target, [[0, 0], [0, 1]], constant_values=-1)
    length = lengths(target)[:, None]  # (B, 1)
    return tf.where((tf.range(target.shape[1]) == length) & (length < most), end, target)


def key_words(key, starts):
    """Gives all tokens of the w-th word the w-th key: key (B, T) float32, starts (B, T) bool -> (B, T)."""
    word = tf.cumsum(tf.cast(starts, tf.int32), axis=1)  # from 0, or 1 where the window begins with a word
    return tf.gather(key, tf.minimum(word, key.shape[1] - 1), batch_dims=1)


def fit_words(chosen_key, key, wanted):
    """Returns bool (B, M): whether a chosen token's whole word is among the `wanted` (B,) lowest keys (B, T)."""
    upto = tf.reduce_sum(tf.cast(key[:, None] <= chosen_key[..., None], tf.float32), axis=-1)  # (B, M)
    # The first word is always chosen. Otherwise a text of one long word would have no target.
    return (upto <= wanted[:, None]) | (chosen_key <= tf.reduce_min(key, axis=1, keepdims=True))


def sample_captions(ids, random, joined, omitted, context):
    """Samples captions of each example from `ids` (B, K, W), and concatenates the kept tokens: (B, T ≤ context).

    Args:
        joined: the largest number of captions of an example; one to `joined` are drawn.
        omitted: the fraction of tokens to drop.
    """
    present = tf.reduce_any(ids >= 0, -1)  # (B, K)
    chance = random.uniform("caption", ids.shape[1:2])
    shuffled = tf.argsort(tf.where(present, chance, 2.0))[:, :joined]
    most = tf.minimum(tf.reduce_sum(tf.cast(present, tf.int32), 1), joined)
    count = 1 + tf.cast(random.uniform("joined", ()) * tf.cast(most, tf.float32), tf.int32)
    wanted = tf.sequence_mask(count, tf.shape(shuffled)[1])[..., None]
    tokens = tf.where(wanted, tf.gather(ids, shuffled, batch_dims=1), -1)
    tokens = tf.reshape(tokens, (tf.shape(tokens)[0], tokens.shape[1] * tokens.shape[2]))
    if omitted:
        chance = tf.where(tokens >= 0, random.uniform("omitted", tokens.shape[1:]), -1.0)
        kept = (chance >= omitted) | (chance == tf.reduce_max(chance, 1, keepdims=True))  # at least one
        tokens = tf.where(kept, tokens, -1)
    # Move padding to the end.
    order = tf.argsort(tf.cast(tokens < 0, tf.int32), stable=True)
    return tf.gather(tokens, order, batch_dims=1)[:, :context]


def hash_rows(ids):
    """Hashes rows of tokens (B, T) to int32 (B, 2). Rows that differ only in padding have equal hashes."""
    # Polynomial hashes modulo 2³²; signed overflow wraps. Padding, -1, adds 0.
    powers = tf.math.cumprod(tf.tile(tf.constant([BASES], tf.uint32), (tf.shape(ids)[1], 1)), exclusive=True)
    return tf.reduce_sum((ids + 1)[..., None] * tf.bitcast(powers, tf.int32), 1)
