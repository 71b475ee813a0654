"""Crops, masks and samples of tokens, drawn for each example.

Shapes: `B` batch, `T` tokens (or frames), `W` window, `M` most chosen tokens, `K` captions. -1 is padding, after the
tokens of a row.
"""

import tensorflow as tf

BASES = (0x9E3779B1, 0x85EBCA77)  # odd, of the two numbers that stand for a row of tokens


def lengths(tokens):
    """int32 (B,): how many tokens each row of (B, T) has."""
    return tf.reduce_sum(tf.cast(tokens >= 0, tf.int32), 1)


def trim(x, count=None, multiple=1):
    """(B, T) -> (B, the longest row's length, at least 1, up to a multiple of `multiple`).

    Args:
        x: tokens, or anything with padding at the end of its rows.
        count: the rows' lengths; those of tokens are known.
        multiple: XLA compiles each length anew, and has fewer of them with more.
    """
    longest = tf.maximum(tf.reduce_max(lengths(x) if count is None else count), 1)
    return x[:, : longest if multiple == 1 else -(-longest // multiple) * multiple]


def crop_windows(batch, draws, length):
    """Cuts the columns with a time axis, (B, W), to (B, length) at a place drawn for each example."""
    slack = batch["tokens"].shape[1] - length
    if slack < 0:
        raise ValueError(f"Expected windows of at least {length} tokens. Received: {batch['tokens'].shape[1]}")
    if slack == 0:
        return batch
    start = tf.cast(draws.uniform("crop", ()) * (slack + 1), tf.int32)  # (B,)
    place = tf.minimum(start, slack)[:, None] + tf.range(length)
    return batch | {
        name: tf.gather(column, place, batch_dims=1) for name, column in batch.items() if column.shape.rank == 2
    }


def mask_spans(valid, share, span, draws, most=None):
    """(B, T) bool: of the valid positions (B, T) about a `share`, in spans; at least one of each row that has any.

    Args:
        valid: bool, False for padding at the end of a row.
        share: of valid positions, in (0, 1).
        span: positions in a row.
        draws: `BatchRandom` of the rows.
        most: positions that a row has at most: so many are drawn for, whatever T is; None is T.
    """
    width = valid.shape[1] if most is None else tf.shape(valid)[1]
    key = draws.uniform("spans", (most or width,))[:, :width]  # (B, T): a span begins where it is low
    starts = key < 1 - (1 - share) ** (1 / span)  # a position is spared if none of `span` begins before it
    count = tf.reduce_sum(tf.cast(valid, tf.float32), 1)  # (B,)
    first = tf.cast(draws.uniform("first", ()) * count, tf.int32)[:, None]
    starts |= (tf.range(width) == first) & ~tf.reduce_any(starts & valid, axis=1, keepdims=True)
    covered = starts
    for shift in range(1, span):
        covered |= tf.pad(starts, [[0, 0], [shift, 0]])[:, :width]
    return covered & valid


def split_at_random(tokens, horizon, draws):
    """(B, T) cut at a place t drawn for each row: x₁…x_t, and what comes from x_{t+h} on; both (B, T).

    A row of h tokens or fewer has its first token as source, and nothing as target (which then ends at once).
    """
    width = tokens.shape[1]
    choices = tf.maximum(lengths(tokens) - horizon, 1)  # (B,)
    cut = 1 + tf.minimum(tf.cast(draws.uniform("cut", ()) * tf.cast(choices, tf.float32), tf.int32), choices - 1)
    before = tf.where(tf.range(width) < cut[:, None], tokens, -1)
    place = tf.range(width) + cut[:, None] + horizon - 1
    after = tf.gather(tokens, tf.minimum(place, width - 1), batch_dims=1)
    return before, tf.where(place < width, after, -1)


def append_end(target, end, most):
    """(B, U) -> (B, U + 1): the end after the last token of each row, but of those of `most` tokens: they were cut."""
    target = tf.pad(target, [[0, 0], [0, 1]], constant_values=-1)
    length = lengths(target)[:, None]  # (B, 1)
    return tf.where((tf.range(target.shape[1]) == length) & (length < most), end, target)


def key_words(key, starts):
    """One key for each word: key (B, T) float32, starts (B, T) bool -> (B, T), word w's tokens all with key w."""
    word = tf.cumsum(tf.cast(starts, tf.int32), axis=1)  # from 0, or 1 where the window begins with a word
    return tf.gather(key, tf.minimum(word, key.shape[1] - 1), batch_dims=1)


def fit_words(chosen_key, key, wanted):
    """Whether the words of the chosen keys (B, M) fit whole among the `wanted` (B,) lowest of key (B, T)."""
    upto = tf.reduce_sum(tf.cast(key[:, None] <= chosen_key[..., None], tf.float32), axis=-1)  # (B, M)
    # The first word is taken anyhow, or a text of one long word would teach nothing.
    return (upto <= wanted[:, None]) | (chosen_key <= tf.reduce_min(key, axis=1, keepdims=True))


def sample_captions(ids, draws, joined, omitted, context):
    """int32 (B, T ≤ context): of each example's captions `ids` (B, K, W) some, joined, and most of their tokens.

    Args:
        joined: captions of an example at most; one to so many are drawn.
        omitted: the share of tokens that are left out.
    """
    present = tf.reduce_any(ids >= 0, -1)  # (B, K)
    chance = draws.uniform("caption", ids.shape[1:2])
    shuffled = tf.argsort(tf.where(present, chance, 2.0))[:, :joined]
    most = tf.minimum(tf.reduce_sum(tf.cast(present, tf.int32), 1), joined)
    count = 1 + tf.cast(draws.uniform("joined", ()) * tf.cast(most, tf.float32), tf.int32)
    wanted = tf.sequence_mask(count, tf.shape(shuffled)[1])[..., None]
    tokens = tf.where(wanted, tf.gather(ids, shuffled, batch_dims=1), -1)
    tokens = tf.reshape(tokens, (tf.shape(tokens)[0], tokens.shape[1] * tokens.shape[2]))
    if omitted:
        chance = tf.where(tokens >= 0, draws.uniform("omitted", tokens.shape[1:]), -1.0)
        kept = (chance >= omitted) | (chance == tf.reduce_max(chance, 1, keepdims=True))  # one at least
        tokens = tf.where(kept, tokens, -1)
    # Padding goes to the end.
    order = tf.argsort(tf.cast(tokens < 0, tf.int32), stable=True)
    return tf.gather(tokens, order, batch_dims=1)[:, :context]


def number_rows(ids):
    """int32 (B, 2): two numbers that stand for a row of tokens (B, T); rows that are equal, but for padding, have
    equal ones."""
    # Polynomials in an odd number, modulo 2³² (as signed): what overflows wraps. Padding, -1, adds nothing.
    powers = tf.math.cumprod(tf.tile(tf.constant([BASES], tf.uint32), (tf.shape(ids)[1], 1)), exclusive=True)
    return tf.reduce_sum((ids + 1)[..., None] * tf.bitcast(powers, tf.int32), 1)
