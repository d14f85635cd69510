"""Bootstrap intervals: how far a score may be off because other questions could have been asked."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def bootstrap(
    scores: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high) of a mean, by the percentile bootstrap. All scores alike: no width, it cannot imagine what it has not seen.

    `clusters`: what each question belongs to; each to itself unless given. Questions on one picture stand and fall together, so
    whole clusters are drawn, which gives the wider, honest interval.
    """
    clusters = range(len(scores)) if clusters is None else clusters
    if not (len(scores) == len(clusters) > 0 and 0 < confidence < 1):
        raise ValueError(f"{len(scores)} scores, {len(clusters)} clusters, confidence {confidence}: a cluster a score, below 1")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    sums, counts = np.bincount(index, weights=np.asarray(scores, np.float64)), np.bincount(index)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    per_chunk = max(1, 2_000_000 // sums.size)  # bounds memory for large test sets
    for start in range(0, resamples, per_chunk):
        drawn = rng.integers(0, sums.size, (min(per_chunk, resamples - start), sums.size))
        means[start : start + len(drawn)] = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
