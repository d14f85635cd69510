"""Two models on the same questions: how far apart they are, whether that may be chance, and what ranks it leaves.

The p is of a sign-flip (paired permutation) test over clusters, exact for few clusters: were the models alike, each cluster's
difference would be as likely the other way round (Fisher 1935; for language processing Noreen 1989, Dror et al. 2018). The interval
is a percentile bootstrap of the clusters' differences. Many pairs of one table are corrected by Holm (1979).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from boda.evaluate.metrics.intervals import bootstrap
from boda.evaluate.task import cluster_of

RESAMPLES = 10_000
EXACT = 13  # clusters that differ: up to here all 2 ** 13 ways to flip them are gone through
ALPHA = 0.05


def scores_of(records: Iterable[dict]) -> dict[str, tuple[float, str]]:
    """{unit: (score, cluster)} of answer records; questions on the same pictures are one cluster.

    A unit is a row; of records with a `group` (circular questions) it is the group, right only if every row is. An answer
    without a score of its own has the mean of its `judgements`. Units of which a row has failed or has no score are left out.
    """
    units: dict[str, list[dict]] = defaultdict(list)
    for record in records:
        units[f"group {record['group']}" if record.get("group") else f"row {record['row']}"].append(record)
    found = {}
    for unit, rows in units.items():
        scores = [_score(row) for row in rows]
        if not any(score is None for score in scores):
            score = float(all(score == 1 for score in scores)) if rows[0].get("group") else scores[0]
            found[unit] = (score, cluster_of(rows[0], unit))
    return found  # type: ignore[return-value]


def _score(record: dict) -> float | None:
    if record["failed"] or record.get("score") is not None:
        return None if record["failed"] else float(record["score"])
    marks = [each["score"] for each in record.get("judgements", {}).values() if not each["failed"]]
    return sum(marks) / len(marks) if marks else None


def compare(ours: Sequence[dict], theirs: Sequence[dict], resamples: int = RESAMPLES) -> dict:
    """`difference` (ours minus theirs), its 95 % interval `low high`, two-sided `p`, and `n` units that both have a score of.

    Answer records of one task; what failed on either side is left out. Without a common unit all but `n` are None.
    """
    differences, clusters = _differences(scores_of(ours), scores_of(theirs))
    if not differences:
        return {"difference": None, "low": None, "high": None, "p": None, "n": 0}
    low, high = bootstrap(differences, clusters, resamples=resamples)
    [p] = _p_values([_sums(differences, clusters)], resamples)
    return {"difference": float(np.mean(differences)), "low": low, "high": high, "p": p, "n": len(differences)}


def rank_ranges(records: Mapping[str, Sequence[dict]]) -> dict[str, tuple[int, int]]:
    """The (best, worst) rank that each model of a table can have: 1 + how many are significantly better, N - how many are worse.

    Every pair is tested, and the tests are corrected together.
    """
    scores = {name: scores_of(some) for name, some in records.items()}
    pairs, sums = [], []
    for one, other in combinations(scores, 2):
        differences, clusters = _differences(scores[one], scores[other])
        if differences:
            pairs.append((one, other) if sum(differences) > 0 else (other, one))
            sums.append(_sums(differences, clusters))
    # The smallest p that so many flips can give has to be small enough for the strictest of the corrected tests.
    certain = _holm(_p_values(sums, max(RESAMPLES, int(4 * len(pairs) / ALPHA))))
    beaten = [pair for pair, is_certain in zip(pairs, certain) if is_certain]
    better = {name: sum(loser == name for _, loser in beaten) for name in scores}
    worse = {name: sum(winner == name for winner, _ in beaten) for name in scores}
    return {name: (1 + better[name], len(scores) - worse[name]) for name in scores}


def _differences(ours: dict, theirs: dict) -> tuple[list[float], list[str]]:
    units = [unit for unit in ours if unit in theirs]
    return [ours[unit][0] - theirs[unit][0] for unit in units], [ours[unit][1] for unit in units]


def _sums(differences: Sequence[float], clusters: Sequence[str]) -> dict[str, float]:
    """The sum of each cluster that differs: what a flip turns round."""
    sums: dict[str, float] = defaultdict(float)
    for difference, cluster in zip(differences, clusters):
        sums[cluster] += difference
    return {cluster: total for cluster, total in sums.items() if abs(total) > 1e-12}


def _p_values(pairs: Sequence[dict[str, float]], resamples: int) -> list[float]:
    """The two-sided p of each pair's sums; pairs with many clusters share the flips."""
    found = [1.0] * len(pairs)
    large = []
    for number, sums in enumerate(pairs):
        if len(sums) > EXACT:
            large.append(number)
        elif sums:
            values = np.array(list(sums.values()))
            ways = 1 - 2 * (np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1)
            found[number] = float(np.mean(_as_far(ways @ values, values.sum())))
    places: dict[str, int] = {}
    for number in large:
        for cluster in pairs[number]:
            places.setdefault(cluster, len(places))
    values = np.zeros((len(places), len(large)))  # a cluster that a pair lacks adds nothing to it
    for column, number in enumerate(large):
        for cluster, total in pairs[number].items():
            values[places[cluster], column] = total
    hits, rng = np.ones(len(large)), np.random.default_rng(0)  # 1: the way it came is one of the ways
    per_chunk = max(1, 2_000_000 // max(1, len(places)))  # bounds memory for large test sets
    for start in range(0, resamples if large else 0, per_chunk):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (min(per_chunk, resamples - start), len(places)), dtype=np.int8)
        hits += _as_far(signs @ values, values.sum(0)).sum(0)
    for column, number in enumerate(large):
        found[number] = float(hits[column] / (resamples + 1))
    return found


def _as_far(sums: np.ndarray, observed: np.ndarray) -> np.ndarray:
    return np.abs(sums) >= np.abs(observed) - 1e-9


def _holm(p_values: Sequence[float]) -> list[bool]:
    """Which hypotheses fall: from the smallest p on, each against ALPHA by those that are left, until one stands."""
    fallen = [False] * len(p_values)
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        if p_values[number] > ALPHA / (len(p_values) - rank):
            break
        fallen[number] = True
    return fallen
