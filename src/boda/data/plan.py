"""Which samples make up step n: a pure function of (seed, epoch, lengths).

Nothing is replayed on resume: the order of any epoch is computed, not remembered.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """The random generator of one purpose, e.g. `generator(0, "order", epoch)`: independent of every other and of call order."""
    words = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(words[:16], "little")))


@dataclass
class Plan:
    """The order of samples.

    A source that lies in tar shards alone and has more than `window_above` samples is read shard after shard and shuffled in
    windows of `window`, so that slow disks read on.
    """

    seed: int
    batch_size: int  # samples a step, all processes together
    sources: np.ndarray  # (N,) which source each sample is from
    weights: list[float]  # passes over each source an epoch; a fraction takes another random part each epoch, one row at least
    groups: np.ndarray | None = None  # (N,) samples with the same non-negative number share a picture and are kept together
    shards: np.ndarray | None = None  # (N,) the tar shard a sample's picture lies in, -1 for none
    window: int = 8192
    window_above: int = 100_000
    _cache: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def epoch_size(self) -> int:
        """Samples in one epoch, the same in every epoch."""
        counts = np.bincount(self.sources, minlength=len(self.weights))
        return sum(self._rows(weight, int(count)) for weight, count in zip(self.weights, counts))

    @staticmethod
    def _rows(weight: float, count: int) -> int:
        """Rows that an epoch takes of a source: never none of a source that has some, or it would go unused unnoticed."""
        return max(1, round(weight * count)) if count else 0

    def steps_per_epoch(self) -> int:
        return -(-self.epoch_size() // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """Sample numbers of one epoch, in order: (epoch_size,)."""
        if epoch not in self._cache:
            # Two are kept: around an epoch's end the loader already asks for the next while the loop is still in this one.
            self._cache = {known: order for known, order in self._cache.items() if known == epoch - 1}
            self._cache[epoch] = self._order(epoch)
        return self._cache[epoch]

    def _order(self, epoch: int) -> np.ndarray:
        chosen = [np.zeros(0, dtype=np.int64)]
        windowed: list[tuple[int, int]] = []  # parts of all that is chosen whose order stays
        for source, weight in enumerate(self.weights):
            members = np.flatnonzero(self.sources == source)
            wanted = self._rows(weight, len(members))
            start = sum(map(len, chosen))
            straight = self.shards is not None and len(members) > self.window_above and self.shards[members].min() >= 0
            if straight:
                windowed.append((start, start + wanted))
            for number, done in enumerate(range(0, wanted, len(members) or 1)):
                purpose = (epoch, source, number)
                chance = generator(self.seed, "draw", *purpose)
                drawn = self._windows(members, *purpose) if straight else members[chance.permutation(len(members))]
                chosen.append(drawn[: wanted - done])
        samples = np.concatenate(chosen)
        mixed = generator(self.seed, "order", epoch).permutation(len(samples))
        for start, end in windowed:  # its samples take the places that chance gives them, but in their own order
            mixed[(mixed >= start) & (mixed < end)] = np.arange(start, end)
        samples = samples[mixed]
        if self.groups is None:
            return samples
        # Groups are shuffled as one, single samples as groups of one. (Where its first member fell would put large groups first.)
        keys = self.groups[samples]
        keys = np.where(keys < 0, -1 - np.arange(len(keys)), keys)
        unique, inverse = np.unique(keys, return_inverse=True)
        place = generator(self.seed, "groups", epoch).permutation(len(unique))
        if windowed:  # a group stands where its lowest member fell, which is as random as any one member's place
            from_high = np.argsort(-samples, kind="stable")
            place[inverse[from_high]] = from_high  # of several values for one group the last stays
        return samples[np.argsort(place[inverse], kind="stable")]

    def _windows(self, members: np.ndarray, *purpose: int) -> np.ndarray:
        """Samples that lie in shards, shuffled: shards as a whole, then windows of samples, each a draw of its own."""
        assert self.shards is not None
        _, inverse = np.unique(self.shards[members], return_inverse=True)
        place = generator(self.seed, "shards", *purpose).permutation(inverse.max() + 1)
        order = members[np.argsort(place[inverse], kind="stable")]
        for number, start in enumerate(range(0, len(order), self.window)):
            part = order[start : start + self.window]
            part[:] = generator(self.seed, "window", *purpose, number).permutation(part)
        return order

    def step(self, epoch: int, step: int) -> np.ndarray:
        """Samples of step `step` of an epoch, both counted from 0; the last step of an epoch may be smaller."""
        start = step * self.batch_size
        return self.order(epoch)[start : start + self.batch_size]
