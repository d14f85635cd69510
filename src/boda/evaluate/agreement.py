"""How far a judge agrees with another, or with people, on the same answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from boda.errors import BodaError
from boda.evaluate.judged import judged_lines
from boda.files import read_lines


def agreement(ours: Sequence[float | None], reference: Sequence[float | None]) -> dict:
    """`n spearman kappa exact mean_difference` of two judges' marks of the same things, in the same order.

    Pairs with a None are left out. spearman: of ranks, equal marks sharing theirs. kappa: Cohen's with squared differences as weights
    (Cohen 1968). mean_difference: ours minus the reference. None where a figure is not defined, as all marks are one. Raises
    BodaError: lists of two lengths, or no pair.
    """
    if len(ours) != len(reference):
        raise BodaError(f"{len(ours)} judgements and {len(reference)} reference judgements are no pairs")
    pairs = [(first, second) for first, second in zip(ours, reference) if first is not None and second is not None]
    if not pairs:
        raise BodaError("no answer is judged by both, so nothing is to be compared")
    mine, theirs = np.array(pairs, np.float64).T
    # The mean squared difference of all pairings, each mark of one judge with each of the other: what chance would give.
    by_chance = mine.var() + theirs.var() + (mine.mean() - theirs.mean()) ** 2
    kappa = float(1 - np.mean((mine - theirs) ** 2) / by_chance) if by_chance else None
    found = {"n": len(pairs), "exact": float(np.mean(mine == theirs)), "kappa": kappa}
    return found | {"spearman": _correlation(_ranks(mine), _ranks(theirs)), "mean_difference": float(np.mean(mine - theirs))}


def _ranks(marks: np.ndarray) -> np.ndarray:
    """Places from 1 by rising mark; equal marks have the mean of theirs."""
    _, places, counts = np.unique(marks, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    first, second = first - first.mean(), second - second.mean()
    size = np.sqrt(np.sum(first**2) * np.sum(second**2))
    return float(np.sum(first * second) / size) if size else None


def against(task: str, path: str | Path, reference: str | Path) -> dict:
    """`agreement` of the judgements of one task in two places, each a folder of `boda eval` or a judged file of the benchmark.

    Raises BodaError: no such judgements, several models in one place, or none of the same answer.
    """
    ours, theirs = _marks(task, Path(path)), _marks(task, Path(reference))
    shared = sorted(ours.keys() & theirs.keys())
    return agreement([ours[key] for key in shared], [theirs[key] for key in shared])


def _marks(task: str, path: Path) -> dict[tuple[str, ...], float | None]:
    """{what names a judgement: its mark}; None where it failed."""
    if (path / "judgements.jsonl").is_file():
        saved = [record for record in read_lines(path / "judgements.jsonl") if record["task"] == task]
        return {(record["row"], record["judgement"]): record["score"] for record in saved}  # of one judged twice, the last
    found = judged_lines(task, path)
    if len(found) > 1:
        raise BodaError(f"{path} has judgements of {len(found)} models ({', '.join([*found][:4])}); name the files of one")
    return {
        ("/".join(filter(None, (line.get("strategy"), line["row"]))), line["name"]): line["boda"]
        for lines in found.values()
        for line in lines
    }
