"""What an evaluation task is: where its questions come from, how they are asked, and how answers are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from boda.evaluate.metrics.intervals import bootstrap


@dataclass(frozen=True)
class Row:
    """One question.

    Args:
        id: its name within the task; a rerun knows by it what has been answered.
        value: whatever the task needs to ask and score it.
    """

    id: str
    value: Any


@dataclass(frozen=True)
class Task:
    """One evaluation, as one file under `tasks/` makes it.

    Args:
        name: as given to `--tasks`.
        version: changes whenever the questions, the prompts or the scoring change; answers of two versions never mix.
        load: at most `limit` rows, always the same ones; None = all.
        messages: a row as messages with pictures in place, without the answer.
        score: what is recorded of an answer: `score` (0 to 1), `extracted`, and what the task groups by.
        summarise: records of all rows -> `score n failed low high` and more of the task's own.
        decoding: how answers are generated, passed to the model.
        note: one line on what the score means, shown under the table.
    """

    name: str
    version: str
    load: Callable[[int | None], Sequence[Row]]
    messages: Callable[[Row], list[dict]]
    score: Callable[[Row, str], dict]
    summarise: Callable[[list[dict]], dict]
    decoding: dict = field(default_factory=lambda: {"temperature": 0.0, "max_new_tokens": 64})
    note: str = ""


Watch = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class PairTask:
    """One evaluation of a pair model, computed from its vectors where a Task asks questions.

    Args:
        measure: (Encoder, rows, watch) -> a record of each row in any order: `row prompt images raw gold score failed` and what
            `summarise` needs. `watch(things, what they are)` goes through things and shows how far it is.
    """

    name: str
    version: str
    load: Callable[[int | None], Sequence[Row]]
    measure: Callable[[Any, Sequence[Row], Watch], Iterator[dict]]
    summarise: Callable[[list[dict]], dict]
    note: str = ""
    decoding: dict = field(default_factory=dict)


def summary(records: Sequence[dict]) -> dict:
    """`score n failed low high` of answer records. Failed ones (no answer could be had) are counted, never scored."""
    scored = [record for record in records if not record["failed"]]
    failed = len(records) - len(scored)
    if not scored:
        return {"score": None, "n": 0, "failed": failed, "low": None, "high": None}
    scores = [float(record["score"]) for record in scored]
    # A question without a picture is a cluster of its own.
    low, high = bootstrap(scores, [_cluster(record) for record in scored])
    return {"score": sum(scores) / len(scores), "n": len(scored), "failed": failed, "low": low, "high": high}


def _cluster(record: dict) -> str:
    return str(record["images"]) if record.get("images") else f"row {record['row']}"
