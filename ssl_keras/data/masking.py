"""Crops, masks and samples of tokens, drawn for each example.

Shapes: `B` batch, `T` tokens (or frames), `W` window, `M` most chosen tokens, `K` captions. -1 is padding, after the
tokens of a row.
"""

import tensorflow as tf

BASES = (0x9E3779B1, 0x85EBCA77)  # odd, of the two numbers that stand for a row of tokens


def lengths(tokens):
    """Counts the tokens of each row of (B, T): int32 (B,)."""
    return tf.reduce_sum(tf.cast(tokens >= 0, tf.int32), 1)


def trim(x, count=None, multiple=1):
    """Cuts (B, T) to (B, the longest row's length), at least 1, and a multiple of `multiple`.

    Args:
        x: tokens, or anything with padding at the end of its rows.
        count: the rows' lengths; those of tokens are known.
        multiple: XLA compiles each length anew, and has fewer of them with more.
    """
    longest = tf.maximum(tf.reduce_max(lengths(x) if count is None else count), 1)
    return x[:, : longest if multiple == 1 else -(-longest // multiple) * multiple]


def crop_windows(batch, random, length):
    """Cuts the columns with a time axis, (B, W), to (B, length) at a place drawn for each example."""
    slack = batch["tokens"].shape[1] - length
    if slack < 0:
        raise ValueError(f"Expected windows of at least {length} tokens. Received: {batch['tokens'].shape[1]}")
    if slack == 0:
        return batch
    start = tf.cast(random.uniform("crop", ()) * (slack + 1), tf.int32)  # (B,)
    place = tf.minimum(start, slack)[:, None] + tf.range(length)
    return batch | {
        name: tf.gather(column, place, batch_dims=1) for name, column in batch.items() if column.shape.rank == 2
    }


def mask_spans(valid, share, span, random, most=None):
    """Masks about a `share` of the valid positions (B, T), in spans, at least one of each row: (B, T) bool.

    Args:
        valid: bool, False for padding at the end of a row.
        share: of valid positions, in (0, 1).
        span: positions in a row.
        random: `BatchRandom` of the rows.
        most: positions that a row has at most: so many are drawn for, whatever T is; None is T.
    """
    width = valid.shape[1] if most is None else tf.shape(valid)[1]
    key = random.uniform("spans", (most or width,))[:, :width]  # (B, T): a span begins where it is low
    starts = key < 1 - (1 - share) ** (1 / span)  # a position is spared if none of `span` begins before it
    count = tf.reduce_sum(tf.cast(valid, tf.float32), 1)  # (B,)
    first = tf.cast(random.uniform("first", ()) * count, tf.int32)[:, None]
    starts |= (tf.range(width) == first) & ~tf.reduce_any(starts & valid, axis=1, keepdims=True)
    covered = starts
    for shift in range(1, span):
        covered |= tf.pad(starts, [[0, 0], [shift, 0]])[:, :width]
    return covered & valid


def split_at_random(tokens, horizon, random):
    """Cuts rows (B, T) at a place t drawn for each: x₁…x_t, and what comes from x_{t+h} on; both (B, T).

    A row of h tokens or fewer has its first token as source, and nothing as target (which then ends at once).
    """
    width = tokens.shape[1]
    choices = tf.maximum(lengths(tokens) - horizon, 1)  # (B,)
    cut = 1 + tf.minimum(tf.cast(random.uniform("cut", ()) * tf.cast(choices, tf.float32), tf.int32), choices - 1)
    before = tf.where(tf.range(width) < cut[:, None], tokens, -1)
    place = tf.range(width) + cut[:, None] + horizon - 1
    after = tf.gather(tokens, tf.minimum(place, width - 1), batch_dims=1)
    return before, tf.where(place < width, after, -1)


def append_end(target, end, most):
    """Puts the end after each row's last token, (B, U) -> (B, U + 1), but of rows of `most` tokens: they were cut."""
    target = tf.pad(target, [[0, 0], [0, 1]], constant_values=-1)
    length = lengths(target)[:, None]  # (B, 1)
    return tf.where((tf.range(target.shape[1]) == length) & (length < most), end, target)


def key_words(key, starts):
    """Gives the tokens of a word one key: key (B, T) float32, starts (B, T) bool -> (B, T), word w's all with key w."""
    word = tf.cumsum(tf.cast(starts, tf.int32), axis=1)  # from 0, or 1 where the window begins with a word
    return tf.gather(key, tf.minimum(word, key.shape[1] - 1), batch_dims=1)


def fit_words(chosen_key, key, wanted):
    """Tells whether the words of the chosen keys (B, M) fit whole among the `wanted` (B,) lowest of key (B, T)."""
    upto = tf.reduce_sum(tf.cast(key[:, None] <= chosen_key[..., None], tf.float32), axis=-1)  # (B, M)
    # The first word is taken anyhow, or a text of one long word would teach nothing.
    return (upto <= wanted[:, None]) | (chosen_key <= tf.reduce_min(key, axis=1, keepdims=True))


def sample_captions(ids, random, joined, omitted, context):
    """Samples some of each example's captions `ids` (B, K, W), joined, and most of their tokens: (B, T ≤ context).

    Args:
        joined: captions of an example at most; one to so many are drawn.
        omitted: the share of tokens that are left out.
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
        kept = (chance >= omitted) | (chance == tf.reduce_max(chance, 1, keepdims=True))  # one at least
        tokens = tf.where(kept, tokens, -1)
    # Padding goes to the end.
    order = tf.argsort(tf.cast(tokens < 0, tf.int32), stable=True)
    return tf.gather(tokens, order, batch_dims=1)[:, :context]


def number_rows(ids):
    """Numbers rows of tokens (B, T): int32 (B, 2), equal where rows are equal but for padding."""
    # Polynomials in an odd number, modulo 2³² (as signed): what overflows wraps. Padding, -1, adds nothing.
    powers = tf.math.cumprod(tf.tile(tf.constant([BASES], tf.uint32), (tf.shape(ids)[1], 1)), exclusive=True)
    return tf.reduce_sum((ids + 1)[..., None] * tf.bitcast(powers, tf.int32), 1)
