"""What an evaluation task is: where its questions come from, how they are asked, and how answers are scored."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from boda.errors import BodaError
from boda.evaluate.metrics.intervals import bootstrap


@dataclass(frozen=True)
class Row:
    """One question: its name within the task, by which a rerun knows what has been answered, and what the task makes it of."""

    id: str
    value: Any


@dataclass(frozen=True)
class Judging:
    """How a judge model scores the answers of a task, in a second pass over what is saved."""

    names: tuple[str, ...]  # the judgements of one answer
    requests: Callable[[Row, dict], dict[str, list[dict]]]  # chat messages of each, from the row and the record of its answer
    read: Callable[[str], dict | None]  # the verdict of a reply: `score` and more of the task's own; None where it gives none
    settings: dict = field(default_factory=lambda: {"temperature": 0.0})  # sent along with the messages
    tries: int = 3  # so many replies are asked for until one gives a verdict
    optional: bool = False  # results are complete without a judge; it only adds to them


@dataclass(frozen=True)
class Task:
    """An evaluation that asks.

    What a judge says comes to `summarise` in the records: `judgements` {name: record of `judgements.jsonl`}, what is there so far.
    """

    name: str
    version: str  # another one whenever the questions, the prompts or the scoring change; answers of two versions never mix
    load: Callable[[int | None], Sequence[Row]]  # at most so many rows, always the same ones; None = all
    messages: Callable[[Row], list[dict]]  # with pictures in place, without the answer
    score: Callable[[Row, str], dict]  # what is recorded of an answer: `score` (0 to 1), `extracted`, what the task groups by
    summarise: Callable[[list[dict]], dict]  # records of all rows -> `score n failed low high` and more of the task's own
    decoding: dict = field(default_factory=lambda: {"temperature": 0.0, "max_new_tokens": 64})
    note: str = ""  # one line on what the score means, kept with the results
    turns: int = 1  # questions of a conversation; `follow` gives the next one's messages after so many answers
    follow: Callable[[Row, list[str]], list[dict]] | None = None  # all answers are in a record's `answers`
    decoding_of: Callable[[Row], dict] | None = None  # what differs from `decoding` for a row
    judging: Judging | None = None
    # {row: what of it the result's score is the mean of}, for the tests between models; None: the records' own scores
    counted: Callable[[Sequence[dict]], dict[str, float]] | None = None


Watch = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class Measured:
    """An evaluation of what can be computed of a model, where a Task asks questions: `measure` gives a record of each row."""

    name: str
    version: str
    load: Callable[[int | None], Sequence[Row]]
    measure: Callable[[Any, Sequence[Row], Any], Iterator[dict]]
    summarise: Callable[[list[dict]], dict]
    note: str = ""
    decoding: dict = field(default_factory=dict)
    judging: ClassVar[None] = None  # only answers are judged


class PairTask(Measured):
    """An evaluation of a pair model, computed from its vectors.

    `measure` gives records in any order: `row prompt images raw gold score failed` and what `summarise` needs; its last argument, a
    `watch(things, what they are)`, goes through things and shows how far it is.
    """


def summary(records: Sequence[dict]) -> dict:
    """`score n failed low high` of answer records. Failed ones (no answer could be had) are counted, never scored."""
    scored = [record for record in records if not record["failed"]]
    failed = len(records) - len(scored)
    if not scored:
        return {"score": None, "n": 0, "failed": failed, "low": None, "high": None}
    scores = [float(record["score"]) for record in scored]
    low, high = bootstrap(scores, [cluster_of(record) for record in scored])
    return {"score": sum(scores) / len(scores), "n": len(scored), "failed": failed, "low": low, "high": high}


def cluster_of(record: dict, alone: str = "") -> str:
    """What a record stands and falls with: its pictures; `alone`, or its row, where there are none, or one that lies nowhere."""
    pictures = record.get("images")
    return str(pictures) if pictures and None not in pictures else alone or f"row {record['row']}"


def by_value(records: Sequence[dict], key: Callable[[dict], Any], result_of: Callable[[list[dict]], Any]) -> dict[Any, Any]:
    """What the records of each value of a key give, in the order in which values come."""
    groups: dict[Any, list[dict]] = defaultdict(list)
    for record in records:
        groups[key(record)].append(record)
    return {value: result_of(some) for value, some in groups.items()}


def one_turn(text: str, *images: Any) -> list[dict]:
    """A conversation of one question: the pictures, then the text."""
    pictures = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


def limited(rows: Sequence[Row], limit: int | None, kind_of: Callable[[Row], str] = lambda row: "") -> list[Row]:
    """At most so many rows, of each kind its share: from all over, as files are often sorted; a larger limit only adds to them."""
    if limit is None or limit >= len(rows):
        return list(rows)
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: hashlib.sha256(row.id.encode()).digest()):
        kinds[kind_of(row)].append(row)
    placed = [((place + 0.5) / len(found), row.id) for found in kinds.values() for place, row in enumerate(found)]
    chosen = {name for _, name in sorted(placed, key=lambda pair: pair[0])[:limit]}
    return [row for row in rows if row.id in chosen]


def version_of(number: str, questions: Iterable[Any]) -> str:
    """The version of a task: `number`, of how it asks and scores, and a hash of what it asks."""
    return f"{number}-{hashlib.sha256(''.join(map(repr, questions)).encode()).hexdigest()[:16]}"


def read_options(task: str, option: str, *allowed: str) -> tuple[str, dict[str, str]]:
    """`PATH:name=value:...` -> path and options. Raises BodaError: one that the task does not have, or one given twice."""
    path, *rest = re.split(r":(?=[a-z]+=)", f":{option}" if re.match("[a-z]+=", option) else option)
    given: dict[str, str] = {}
    for name, _, value in (part.partition("=") for part in rest):
        if name not in allowed or name in given:
            why = f"'{name}' is given twice" if name in given else f"no option '{name}'; there are {', '.join(allowed)}"
            raise BodaError(f"{task}: {why}")
        given[name] = value
    return path, given
