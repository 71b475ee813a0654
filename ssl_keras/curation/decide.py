"""Decides what is kept, from the features and the pairs of copies.

Shapes: `N` examples, those of evaluation datasets first.
"""

import dataclasses

import numpy as np

from ssl_keras.curation.measure import REASONS
from ssl_keras.data.near_duplicates.grouping import groups, keepers
from ssl_keras.data.near_duplicates.sketching import mix

CODE = {name: number for number, name in enumerate(REASONS)}


@dataclasses.dataclass
class Examples:
    """Everything that is known about all examples: arrays (N,), and the number of references, which are first.

    Attributes:
        reason: index into `REASONS`; 0 is kept. near: the example that each is removed in favor of, or −1.
        rank: the order in which examples are kept. by_rank: its inverse.
        copies: how many exact copies an example stands for, itself included. part: index of its split, or −1.
    """

    ids: np.ndarray
    sizes: np.ndarray
    reason: np.ndarray
    value: np.ndarray
    references: int
    rank: np.ndarray = None
    by_rank: np.ndarray = None
    near: np.ndarray = None
    copies: np.ndarray = None
    part: np.ndarray = None

    def order(self, keep):
        """Ranks the examples: references, then by size if the longest are kept, then by id or place."""
        reference = np.arange(len(self.ids)) >= self.references
        by_size = (np.uint32(0xFFFFFFFF) - self.sizes) if keep == "longest" else np.zeros_like(self.sizes)
        last = self.ids if keep == "longest" else np.arange(len(self.ids))
        self.by_rank = np.lexsort((last, by_size, reference))
        self.rank = np.empty(len(self.ids), np.int64)
        self.rank[self.by_rank] = np.arange(len(self.ids))
        self.near = np.full(len(self.ids), -1, np.int64)
        self.copies = np.ones(len(self.ids), np.int64)

    @property
    def alive(self):
        """A bool for each example: it is still kept."""
        return self.reason == 0

    def remove(self, pairs, reason):
        """Removes the examples that are copies of kept ones, given pairs of ranks (P, 2), for a reason."""
        pairs = pairs[(pairs >= self.references).any(1)]  # evaluation examples are not removed
        keeper = keepers(len(self.ids), pairs)
        gone = self.by_rank[np.flatnonzero(keeper >= 0)]
        favored = self.by_rank[keeper[keeper >= 0]]
        self.near[gone], self.value[gone] = favored, 0.0
        self.reason[gone] = np.where(favored < self.references, CODE["evaluation example"], CODE[reason])
        if reason == "exact copy":
            np.add.at(self.copies, favored, 1)

    def split(self, pairs, fractions):
        """Sends each kept example to a split, by a hash of the least id among those that pairs of ranks connect it to.

        Adding examples elsewhere changes no split.
        """
        group = groups(len(self.ids), self.by_rank[pairs])
        least = np.full(int(group.max(initial=-1)) + 1, np.iinfo(np.uint64).max)
        np.minimum.at(least, group, self.ids)
        drawn = mix(least[group]).astype(np.float64) / 2.0**64
        part = np.searchsorted(np.cumsum(fractions)[:-1], drawn, "right")
        kept = self.alive & (np.arange(len(self.ids)) >= self.references)
        self.part = np.where(kept, part, -1).astype(np.int8)
        return group

    def funnel(self):
        """Returns {reason: the number of examples that are removed for it}, in the order of `REASONS`; "" are kept."""
        counts = np.bincount(self.reason[self.references :], minlength=len(REASONS))
        return {name: int(count) for name, count in zip(REASONS, counts) if count}
