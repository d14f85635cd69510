"""Which of two runs' answers a judge prefers, each question judged twice, with the answers in either order.

Judges favour a place (Zheng et al. 2023, arXiv:2306.05685), so a win counts only where both orders agree; else it is a tie.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from boda.errors import BodaError
from boda.evaluate import judged
from boda.evaluate.answers import AnswersFile, read_answers
from boda.evaluate.judge import NAMES, Judge, judge_answers, usage, with_judgements
from boda.evaluate.task import Judging, Row, Task, summary
from boda.files import write_json

ORDERS = ("first run first", "second run first")
CHOICES = {"A": 1.0, "B": 0.0, "무승부": 0.5, "동점": 0.5}  # the score of the answer that stands first
_VERDICT = re.compile(rf"판정\s*(?:은|:|：)\s*[\[(\"'`]?\s*(?:답변\s*)?({'|'.join(CHOICES)})(?![A-Za-z])")


def pairwise(
    first_run: str | Path, second_run: str | Path, task: str, judge: Judge | dict, out: str | Path, quiet: bool = False
) -> dict:
    """`wins ties losses inconsistent failed n score low high` of the first run against the second, and `pairwise.json` in `out`.

    score: a win 1, a tie 0.5, with a 95 % bootstrap interval over pictures; inconsistent: questions whose two orders disagree, which
    are ties; failed: no answer, or no verdict. Judgements are kept in `out`, and the same call goes on from there. Raises BodaError:
    a run has no answers of the task, they were not asked the same, another judge judged before, or the judge is gone.
    """
    asker = Judge.of(judge)
    assert asker
    ours, theirs = (_answers(run, task) for run in (first_run, second_run))
    rows = [Row(name, (record, theirs[name])) for name, record in ours.items() if name in theirs]
    if not rows:
        raise BodaError(f"{first_run} and {second_run} answer no question of {task} both; compare runs of the same rows")
    if other := [row.id for row in rows if len(set(map(_question, row.value))) > 1]:
        raise BodaError(f"{task}, row {other[0]}: the two runs were asked different questions, so answers cannot be compared")
    answers = {}
    for row in rows:
        failed = any(record["failed"] for record in row.value)
        answers[f"pairwise {task}", row.id] = {"row": row.id, "images": row.value[0]["images"], "failed": failed}
    comparison = Task(
        name=f"pairwise {task}",
        version="1",
        load=lambda limit: rows[:limit],
        messages=lambda row: [],
        score=lambda row, answer: {},
        summarise=summarise,
        judging=Judging(ORDERS, requests, read, {"temperature": 0.0}),
    )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    saved = AnswersFile(out / "judgements.jsonl", NAMES, keeps_failures=True)
    asker.probe()
    judge_answers(asker, comparison, rows, answers, saved, quiet)
    records = with_judgements(comparison, rows, answers, saved)
    result = summarise(records)
    costs = usage(comparison, records, result)
    result |= {**costs, "remarks": [*result["remarks"], *costs["remarks"]]}
    write_json(out / "pairwise.json", {"first": str(first_run), "second": str(second_run), "task": task, **result})
    return result


def _answers(run: str | Path, task: str) -> dict[str, dict]:
    records = read_answers(run)
    if found := {record["row"]: record for record in records if record["task"] == task}:
        return found
    there = ", ".join(dict.fromkeys(record["task"] for record in records)) or "none"
    raise BodaError(f"{run} has no answers of {task}; it has {there}")


def _question(record: dict) -> str:
    """What was asked: as many of the last user turns as the task has."""
    asked = [message["content"] for message in record["prompt"] if message["role"] == "user"]
    return "\n\n".join(asked[-len(record.get("answers") or [""]) :])


def requests(row: Row, record: dict) -> dict[str, list[dict]]:
    """The judge's messages in both orders."""
    words, gold = judged.prompts("pairwise"), row.value[0].get("gold")
    told = words["reference"].format(gold=gold) if gold else ""
    texts = ["\n\n".join(each.get("answers") or [each["raw"]]) for each in row.value]
    found = {}
    for order, (first, second) in zip(ORDERS, (texts, texts[::-1])):
        user = words["user"].format(question=_question(row.value[0]), reference=told, first=first, second=second)
        found[order] = judged.chat(system=words["system"], user=user)
    return found


def read(reply: str) -> dict | None:
    """The last verdict of a reply, as the score of the answer that stood first; None without one."""
    found = _VERDICT.findall(reply.replace("*", ""))
    return {"score": CHOICES[found[-1]], "choice": found[-1]} if found else None


def summarise(records: Sequence[dict]) -> dict:
    """Counts and score of rows with their two judgements."""
    outcomes, rows, choices = Counter[str](), [], []
    for record in records:
        there = [record["judgements"].get(order) for order in ORDERS]
        failed = record["failed"] or not all(there) or any(each["failed"] for each in there)
        score = None
        if failed:
            outcomes["failed"] += 1
        else:
            first, swapped = (each["score"] for each in there)
            agree = first == 1 - swapped
            score = first if agree else 0.5
            outcomes[{1.0: "wins", 0.0: "losses", 0.5: "ties"}[score]] += 1
            outcomes["inconsistent"] += not agree
            choices += [each for each in (first, swapped) if each != 0.5]
        rows.append({"row": record["row"], "images": record["images"], "failed": failed, "score": score})
    counts = {name: outcomes[name] for name in ("wins", "ties", "losses", "inconsistent", "failed")}
    remarks = [f"{counts['inconsistent']} of {len(rows) - counts['failed']} questions were judged otherwise in the other order"]
    if choices:
        remarks += [f"of verdicts for one answer {sum(choices) / len(choices):.0%} are for the one that stood first"]
    return {**counts, **summary(rows), "remarks": remarks}
