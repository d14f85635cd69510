"""Where what was looked for stands among everything there is, and scores made of that: R@k, MRR, NDCG."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np


def places(scores: np.ndarray, relevant: Sequence[int]) -> list[int]:
    """The places, from 1, of the relevant ones by falling score (N,). Equal (or NaN) scores stand before them: alike is not found."""
    others, wanted = np.delete(scores, relevant), np.sort(scores[list(relevant)])[::-1]
    return [int(np.sum(~(others < score))) + place for place, score in enumerate(wanted, 1)]


def hits(places: Sequence[int]) -> dict[str, float]:
    """COCO's and CLIP_benchmark's R@k: 1 if any relevant one is among the first k."""
    return {f"R@{k}": float(min(places) <= k) for k in (1, 5, 10)}


def ranking(places: Sequence[int]) -> dict[str, float]:
    """NDCG@10 (gain 1, discount log2(1 + place)), MRR (1 / place of the first), R@k (share of the relevant ones in the first k)."""
    gained, best = (sum(1 / math.log2(1 + n) for n in some if n <= 10) for some in (places, range(1, len(places) + 1)))
    recall = {f"R@{k}": sum(place <= k for place in places) / len(places) for k in (1, 5, 10)}
    return {"NDCG@10": gained / best, "MRR": 1 / min(places), **recall}


@cache
def chance(metrics: Callable[[list[int]], dict[str, float]], relevant: int, number: int) -> float:
    """The first of the metrics of a random order of `number` things: exact for one relevant, for several the mean of 2,000 orders."""
    draw = random.Random(0)
    drawn = (sorted(draw.sample(range(1, number + 1), relevant)) for _ in range(2000))
    orders = [[place] for place in range(1, number + 1)] if relevant == 1 else list(drawn)
    return sum(next(iter(metrics(order).values())) for order in orders) / len(orders)
