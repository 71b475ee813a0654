"""Groups of near duplicates: pairs among examples that share a key, and what follows from pairs.

Buckets are the examples that share a key. In each, the first example is compared with the others; those that are
similar to it are paired with it, and the rest are compared with the first of them, and so on. So a bucket of `n`
examples in `g` groups takes at most n·g comparisons instead of n². At most `MAX_LEADERS` examples of a bucket are
compared with the others, so that time is linear in the data.

Shapes: `N` examples, `R` records, `P` pairs.
"""

import hashlib

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ssl_keras.data.near_duplicates.texts import normalize_text

MAX_LEADERS = 256
COMPARED = 1 << 13  # pairs compared at a time


def bucket_pairs(keys, members, similar):
    """Returns (pairs of similar members, int64 (P, 2), the number of records that were not compared with all leaders).

    Args:
        keys: (R,) integers. members: (R,) integers, the example of each record; in a bucket, the least ones lead.
        similar: function of two arrays of examples (n,) that returns bool (n,).
    """
    order = np.lexsort((members, keys))
    keys, members = keys[order], members[order]
    if len(keys):  # a record may be repeated
        kept = np.ones(len(keys), bool)
        kept[1:] = (keys[1:] != keys[:-1]) | (members[1:] != members[:-1])
        keys, members = keys[kept], members[kept]
    found = [np.zeros((0, 2), np.int64)]
    for _ in range(MAX_LEADERS):
        first = np.ones(len(keys), bool)
        first[1:] = keys[1:] != keys[:-1]
        lead = np.maximum.accumulate(np.where(first, np.arange(len(keys)), 0))
        others = np.flatnonzero(~first)
        if not len(others):
            return np.concatenate(found), 0
        leaders, rest = members[lead[others]], members[others]
        alike = compare(similar, leaders, rest)
        found.append(np.stack([leaders[alike], rest[alike]], 1))
        keys, members = keys[others[~alike]], members[others[~alike]]
    first = np.ones(len(keys), bool)
    first[1:] = keys[1:] != keys[:-1]
    return np.concatenate(found), int((~first).sum())


def cross_pairs(ours, theirs, similar):
    """Returns the pairs (i, j) of similar examples that share a key, int64 (P, 2), each once.

    Each of `theirs` is compared with at most `MAX_LEADERS` of ours in a bucket.

    Args:
        ours, theirs: (N, K) keys. similar: function of arrays i and j (n,) that returns bool (n,).
    """
    keys, i = ours.ravel(), np.repeat(np.arange(len(ours)), ours.shape[1])
    order = np.lexsort((i, keys))
    keys, i = keys[order], i[order]
    wanted, j = theirs.ravel(), np.repeat(np.arange(len(theirs)), theirs.shape[1])
    first = np.searchsorted(keys, wanted)
    counts = np.minimum(np.searchsorted(keys, wanted, "right") - first, MAX_LEADERS)
    found = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(wanted), COMPARED):
        part = slice(start, start + COMPARED)
        number = counts[part]
        rows = np.repeat(first[part] - (np.cumsum(number) - number), number) + np.arange(number.sum())
        pairs = np.unique(np.stack([i[rows], np.repeat(j[part], number)], 1), axis=0)
        found.append(pairs[compare(similar, *pairs.T)])
    return np.unique(np.concatenate(found), axis=0)


def compare(similar, i, j):
    """Returns `similar(i, j)`, in pieces that bound the memory."""
    pieces = [similar(i[at : at + COMPARED], j[at : at + COMPARED]) for at in range(0, len(i), COMPARED)]
    return np.concatenate([np.zeros(0, bool), *pieces])


def groups(count, *pairs):
    """Returns the connected component of each of `count` examples, int (count,), given arrays of pairs."""
    i, j = np.concatenate([np.zeros((0, 2), np.int64), *pairs]).T
    return connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(count, count)), directed=False)[1]


def keepers(count, pairs):
    """Returns the example that each example is removed in favor of, int64 (count,); −1 for those that are kept.

    Examples are kept in order, unless they are paired with one that is kept already. So each removed example is similar
    to a kept one, which the members of a connected component need not be.
    """
    both = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    starts = np.searchsorted(both[:, 0], np.arange(count + 1))
    keeper = np.full(count, -1, np.int64)
    for one in np.unique(both[:, 0]):
        if keeper[one] < 0:
            near = both[starts[one] : starts[one + 1], 1]
            near = near[(near > one) & (keeper[near] < 0)]
            keeper[near] = one
    return keeper


def parts_of(group, names, count):
    """Assigns each example to a part 0 … count − 1, int (N,), by its group; −1 for groups larger than N / count.

    The part is a hash of the alphabetically first name in the group, so adding or removing other examples does not
    change it.

    Args:
        group: (N,) integers from `groups`. names: N texts.
    """
    first = {}
    for one, name in zip(group, map(normalize_text, names)):
        first[one] = min(first.get(one, name), name)
    part = np.array([int(hashlib.sha256(first[one].encode()).hexdigest()[:8], 16) % count for one in range(len(first))])
    part[np.bincount(group) > len(group) / count] = -1
    return part[group]
