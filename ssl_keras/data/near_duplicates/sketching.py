"""Sketches of sets, whose agreement estimates the sets' Jaccard similarity: fast similarity sketching (Dahlgaard,
Knudsen and Thorup 2017, "Fast Similarity Sketching", algorithm 1), and the keys by which similar sketches are found.

One hash function throws the elements of a set into `BINS` bins, each of which keeps its least value, as one-permutation
MinHash does (Li, Owen and Zhang 2012). While a set has empty bins, the next function throws its elements again; after
`BINS` functions, function `BINS + b` fills bin b. So small sets have full sketches, without bias. Each value is equal
in two sketches with the probability J, the size of the intersection divided by that of the union.

Everything is integer arithmetic modulo 2^64, so sketches are equal on every machine.

Shapes: `N` sets, `E` elements of all sets, `K` keys of a set.
"""

import numpy as np

BINS = 120
MARGIN = 0.02  # half a standard deviation of the estimate at a similarity of 0.8
ROUND = np.uint64(0x9E3779B97F4A7C15)  # separates hash functions: 2^64 divided by the golden ratio
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


def mix(x):
    """Hashes uint64 numbers to uint64 numbers, one to one: the finalizer of SplitMix64 (Steele et al. 2014)."""
    x = x ^ (x >> np.uint64(30))
    x = x * np.uint64(0xBF58476D1CE4E5B9)
    x = x ^ (x >> np.uint64(27))
    x = x * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sketches(elements, owners, count):
    """Returns the sketches of sets, uint64 (N, BINS). Those of empty sets are `EMPTY`.

    Args:
        elements: (E,) uint64 hashes, in any order; repeated ones have no effect.
        owners: (E,) integers, the set of each element.
        count: N.
    """
    made = np.full(count * BINS, EMPTY)
    first = np.asarray(owners, np.int64) * BINS
    for number in range(2 * BINS):
        hashed = mix(elements + _round(number))
        values = (hashed & LOW) | (np.uint64(number) << HALF)
        drawn = (((hashed >> HALF) * np.uint64(BINS)) >> HALF).astype(np.int64)
        np.minimum.at(made, first + (drawn if number < BINS else number - BINS), values)
        open_sets = (made.reshape(count, BINS) == EMPTY).any(1)
        left = open_sets[first // BINS]
        if not left.any():
            break
        elements, first = elements[left], first[left]
    return made.reshape(count, BINS)


def _round(number):
    """Returns what hash function `number` adds to its argument, modulo 2^64."""
    return np.uint64((number + 1) * int(ROUND) & int(EMPTY))


def keys(sketch, bands, rows):
    """Returns uint64 (N, bands): hashes of `rows` values each. Sets of similarity J share a key with the probability
    1 − (1 − J^rows)^bands."""
    values = sketch[:, : bands * rows].reshape(len(sketch), bands, rows)
    made = np.broadcast_to(mix(np.arange(1, bands + 1, dtype=np.uint64) * ROUND), values.shape[:2]).copy()
    for row in range(rows):
        made = mix(made ^ values[..., row])
    return made


def compact(sketch):
    """Returns the lowest 8 bits of each value, uint8 (N, BINS)."""
    return (sketch & np.uint64(0xFF)).astype(np.uint8)


def agreement(a, b):
    """Estimates the Jaccard similarity of sets from compact sketches (n, BINS): float64 (n,), unbiased.

    Values of 8 bits are equal by chance in 1 of 256 cases, which is subtracted (Li and König 2010, b-bit MinHash).
    The standard deviation at similarity J is at most √(J (1 − J) / BINS): 0.037 at 0.8.
    """
    equal = np.count_nonzero(a == b, axis=1) / BINS
    return (equal - 1 / 256) / (1 - 1 / 256)


def similar(a, b, least):
    """Returns whether the estimated similarity of compact sketches (n, BINS) is `least` or nearly so: bool (n,).

    The estimate falls short of the true similarity in half of the cases. `MARGIN` below `least` finds nearly all pairs
    of a true similarity of `least` or more, at the price of some of slightly less.
    """
    return agreement(a, b) >= least - MARGIN
