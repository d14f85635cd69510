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
    """The percentile bootstrap interval of a mean.

    Args:
        scores: one number a question.
        clusters: what each question belongs to. Questions on one picture stand and fall together, so whole clusters are
            drawn, which gives the wider, honest interval. None: every question by itself.
        seed: the same seed gives the same interval.

    Returns:
        (low, high). All scores alike give an interval of no width: a bootstrap cannot imagine what it has not seen.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no scores: an interval needs at least one")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    if clusters is None:
        sums: np.ndarray = values
        counts: np.ndarray = np.ones_like(values)
    else:
        if len(clusters) != values.size:
            raise ValueError(f"{values.size} scores and {len(clusters)} clusters; each score belongs to one")
        numbers: dict[Hashable, int] = {}
        index = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
        sums, counts = np.bincount(index, weights=values), np.bincount(index).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    per_chunk = max(1, 2_000_000 // sums.size)  # bounds memory for large test sets
    for start in range(0, resamples, per_chunk):
        drawn = rng.integers(0, sums.size, (min(per_chunk, resamples - start), sums.size))
        means[start : start + len(drawn)] = sums[drawn].sum(1) / counts[drawn].sum(1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
