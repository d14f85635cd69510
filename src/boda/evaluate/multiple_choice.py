"""Multiple choice: one reading of the answers that a person would agree with, beside it each benchmark's published rule.

Circular evaluation (MMBench, arXiv:2307.06281) asks a question once for each rotation of its options; it is right only if every
rotation is, so the rotations are one unit: of the score, of the interval, of failures and of what guessing scores.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from boda.data.sample import ImageRef
from boda.errors import BodaError
from boda.evaluate.choice import read_choice
from boda.evaluate.rules import Rule
from boda.evaluate.task import Row, Task, limited, one_turn, summary, version_of

LETTERS = "ABCDEFGHIJ"
CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")  # columns of the NCSOFT sets
BY_LETTER = "주어진 선택지 중 해당 옵션의 문자로 바로 답하세요."  # how the NCSOFT sets ask
MUCH, LITTLE = 0.6, 0.4  # a letter given more often than that, though it is right less often: an answer by position
Units = Sequence[Sequence[dict]]  # records that are right or wrong as one: the rotations of a question, else a row alone
# What stands before an option within a text: (A), A:, A. or A)
_MARKS = tuple(
    rf"{before}([A-J])\s?{after}\s*"
    for before, after in ((r"\(", r"\)"), *((r"(?<![\w(])", x) for x in "[:：] [.．] [)）]".split()))
)


@dataclass(frozen=True)
class Question:
    """A question with its options.

    Args:
        id: of the row in the file; asked: the whole prompt; options: their texts; answer: the right one, from 0.
        tags: what scores are grouped by; the limit keeps the first one's values in proportion.
        group: the circular question that this is a rotation of.
    """

    id: str
    asked: str
    options: tuple[str, ...]
    answer: int
    images: tuple[ImageRef, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    group: str = ""


def row_scores(units: Units, of: Callable[[dict], float | None] = itemgetter("upstream")) -> list[float | None]:
    """What a published rule gives each unit: the rows' own score; of rotations 1 if it is 1 for each."""
    return [None if None in (found := [*map(of, unit)]) else min(found) for unit in units]  # type: ignore[type-var]


def choice_task(
    name: str,
    version: str,
    questions: Sequence[Question],
    rule: Rule,
    rule_name: str,
    more: Mapping[str, Rule] | None = None,
    published: Callable[[Units], Sequence[float | None]] = row_scores,
    **rest,
) -> Task:
    """The task of asking these questions.

    Args:
        rule: the published rule, in one line `rule_name`; `more`: further ones, whose scores become `metrics`.
            A rule's letter is the gold one or wrong.
        published: what the published rule gives each unit, where that is not `row_scores`.
        rest: more of the Task.
    """

    def score(row: Row, answer: str) -> dict:
        asked = row.value
        gold, choice = LETTERS[asked.answer], read_choice(answer, asked.options)
        read = {name: by(answer, asked.options) for name, by in {"": rule, **(more or {})}.items()}
        rules = {name: None if letter is None else float(letter == gold) for name, letter in read.items()}
        found: dict = {
            "score": float(choice == asked.answer),
            "extracted": None if choice is None else LETTERS[choice],
            "gold": gold,
        }
        found |= {"published": read[""], "upstream": rules.pop(""), "rules": rules}
        return found | {"tags": dict(asked.tags), "group": asked.group, "choice": choice, "options": list(asked.options)}

    facts = [
        (each.id, each.asked, each.options, each.answer, each.tags, each.group, *map(_name, each.images)) for each in questions
    ]
    return Task(
        name=name,
        version=version_of(version, facts),
        load=lambda limit: _limited(questions, limit),
        messages=messages_of,
        score=score,
        summarise=lambda records: summarise(records, rule_name, published),
        **rest,
    )


def messages_of(row: Row) -> list[dict]:
    """The pictures, then the question."""
    return one_turn(row.value.asked, *row.value.images)


def _name(image: ImageRef) -> str:
    """What tells a picture from others and is the same wherever the benchmark lies."""
    return image.drawn or (f"row {image.row}" if image.row >= 0 else Path(image.member or image.path).name)


def _limited(questions: Sequence[Question], limit: int | None) -> list[Row]:
    """At most so many rows, but for one group at least: whole groups, and of the first tag's values their share."""
    groups: dict[str, list[Question]] = defaultdict(list)
    for each in questions:
        groups[each.group or f"row {each.id}"].append(each)
    heads = [Row(name, group) for name, group in groups.items()]

    def chosen(number: int) -> list[Row]:
        return limited(heads, number, lambda row: row.value[0].tags[0][1] if row.value[0].tags else "")

    if limit is not None and limit < len(questions):
        rows_of = lambda number: sum(len(row.value) for row in chosen(number))  # noqa: E731
        heads = chosen(max(1, bisect_right(range(1, len(heads) + 1), limit, key=rows_of)))
    return [Row(each.id, each) for row in heads for each in row.value]


def units_of(records: Sequence[dict]) -> list[list[dict]]:
    """Records by what is right or wrong as one, in order."""
    groups: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for record in records:
        groups[record["group"], "" if record["group"] else record["row"]].append(record)
    return list(groups.values())


def summarise(
    records: Sequence[dict], rule_name: str, published: Callable[[Units], Sequence[float | None]] = row_scores
) -> dict:
    """Scores by both rules, what guessing and a constant letter score, answers that cannot be read, and the same by tags."""
    units = units_of(records)
    answered = [unit for unit in units if not any(record["failed"] for record in unit)]
    theirs = dict(zip(map(_key, answered), published(answered)))
    result = _result(units, theirs)
    result["upstream"]["rule"] = rule_name
    readable = [record for record in records if not record["failed"]]
    result["unread"] = sum(record["choice"] is None for record in readable)
    for name in readable[0].get("rules", ()) if readable else ():
        scores = row_scores(answered, lambda record: record["rules"][name])  # noqa: B023
        found = [score for score in scores if score is not None]
        result.setdefault("metrics", {}).update({name: sum(found) / len(found)} if found else {})
    result["groups"] = {}
    for key in sorted({key for unit in units for key in unit[0]["tags"]}):
        values = defaultdict(list)
        for unit in units:
            if key in unit[0]["tags"]:
                values[unit[0]["tags"][key]].append(unit)
        # A tag that says the same of everything, or something else of everything, groups nothing.
        if 1 < len(values) <= max(20, len(units) // 5):
            result["groups"][key] = {value: _result(some, theirs) for value, some in sorted(values.items())}
    result["remarks"] = _remarks(readable)
    return result


def _key(unit: Sequence[dict]) -> str:
    return unit[0]["row"]


def _result(units: Units, theirs: Mapping[str, float | None]) -> dict:
    """`score n failed low high chance majority upstream` of units, those that failed counted only."""
    flat = []
    for unit in units:
        failed = any(record["failed"] for record in unit)
        score = None if failed else min(record["score"] for record in unit)
        flat.append({"row": unit[0]["row"], "images": unit[0]["images"], "failed": failed, "score": score})
    result = summary(flat)
    scored = [unit for unit, each in zip(units, flat) if not each["failed"]]
    if scored:
        guesses = [math.prod(1 / len(record["options"]) for record in unit) for unit in scored]
        constant = Counter(next(iter(golds)) for unit in scored if len(golds := {record["gold"] for record in unit}) == 1)
        result |= {"chance": sum(guesses) / len(scored), "majority": max(constant.values(), default=0) / len(scored)}
    there = [found for unit in scored if (found := theirs[_key(unit)]) is not None]
    return result | {"upstream": {"score": sum(there) / len(there) if there else None, "n": len(there)}}


def _remarks(records: Sequence[dict]) -> list[str]:
    """Whether one letter is given whatever is asked."""
    given = Counter(record["extracted"] for record in records if record["choice"] is not None)
    golds = Counter(record["gold"] for record in records)
    if not given or max(given.values()) <= MUCH * len(records):
        return []
    letter = min(given, key=lambda letter: (-given[letter], letter))
    if golds[letter] >= LITTLE * len(records):
        return []
    shares = ", ".join(f"{letter} {number / len(records):.0%}" for letter, number in sorted(given.items()))
    right = f"it is right for {golds[letter] / len(records):.0%}"
    return [f"'{letter}' is answered to {given[letter] / len(records):.0%} of the questions, {right} (answers: {shares})"]


def options_in(text: str) -> tuple[str, ...] | None:
    """The options that a question names itself, as `(A) x (B) y`, `A. x` a line or `Options: A: x, B: y`; None if none are told."""
    found: list[tuple[int, int, tuple[str, ...]]] = []
    for mark in _MARKS:
        marks = list(re.finditer(mark, text))
        for number, first in enumerate(marks):
            run = [first] if first[1] == "A" else []
            for each in marks[number + 1 :] if run else ():
                if each[1] == LETTERS[len(run) : len(run) + 1]:
                    run.append(each)
            ends = [*(each.start() for each in run[1:]), len(text)]
            options = [text[each.end() : end] for each, end in zip(run, ends)]
            options[-1:] = [option.strip().split("\n")[0] for option in options[-1:]]
            options = [option.strip().rstrip(",;").rstrip() for option in options]
            if len(options) > 1 and all(options):
                found.append((len(options), first.start(), tuple(options)))
    return max(found)[2] if found else None  # the longest row of them, the last of equals: the words before may have an A, too


def answer_of(where: str, row: str, answer: object, options: Sequence[str]) -> int:
    """The place of the right option, from its letter. Raises BodaError: no such option; names row and answer."""
    letter = unicodedata.normalize("NFKC", str(answer)).strip().upper()
    if len(letter) != 1 or letter not in LETTERS[: len(options)]:
        raise BodaError(
            f"{where}, row {row}: the answer '{answer}' is none of its options, {', '.join(LETTERS[: len(options)])}"
        )
    return LETTERS.index(letter)


def with_letters(options: Sequence[str]) -> str:
    """`A. x` and so on, a line each."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))
