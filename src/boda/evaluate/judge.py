"""A judge: any chat endpoint that speaks as OpenAI's does. It scores saved answers, so many at a time, and every reply is kept.

What comes and goes is told apart: replies without a verdict are asked for again, a busy or broken server is tried again later,
and a wrong key, an unknown model or a server that is not there ends the run with one sentence.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from boda.endpoint import ChatEndpoint, Unanswered
from boda.errors import BodaError
from boda.evaluate.answers import AnswersFile
from boda.evaluate.task import Judging, Row, Task
from boda.evaluate.workers import side_by_side
from boda.terminal import counted

KEYS = ("BODA_JUDGE_KEY", "OPENAI_API_KEY")
NAMES = ("task", "row", "judgement")  # what tells one judgement from another
COSTS = ("prompt_tokens", "completion_tokens", "requests")  # of a judgement, those of attempts in vain included
Wanted = tuple[tuple[str, str, str], list[dict]]


class JudgeGone(BodaError):
    """No further judgement can be had: wrong key, no such model, nobody there."""


@dataclass
class Judge:
    """Where to ask: `url` as of an OpenAI-compatible server (https://host/v1) and the name of a model there.

    The key is in BODA_JUDGE_KEY or OPENAI_API_KEY; it is sent and neither shown nor written. `timeout` is in seconds without a
    byte; `retries` after 408, 409, 425, 429, 5xx, timeouts and broken connections, after `wait` seconds, twice that, ...
    """

    url: str
    model: str
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 6
    wait: float = 1.0

    def __post_init__(self):
        limits = {"timeout": self.timeout, "retries": self.retries, "wait": self.wait}
        advice = "start it, or give another --judge"
        self._endpoint = ChatEndpoint(self.url, "judge", JudgeGone, self.model, KEYS, advice=advice, **limits)
        if not self.model:
            raise BodaError("which model judges? name it with --judge-model, as the server calls it")
        if self.concurrency < 1:
            raise BodaError("the judge needs a concurrency of at least 1")

    @classmethod
    def of(cls, given: Judge | dict | None) -> Judge | None:
        """From `{"url": ..., "model": ..., "concurrency": 8, ...}`. Raises BodaError on a name that is none."""
        if given is None or isinstance(given, Judge):
            return given
        names = list(cls.__dataclass_fields__)
        if unknown := sorted(set(given) - set(names)):
            raise BodaError(f"judge: no setting '{unknown[0]}'; there are {', '.join(names)}")
        return cls(**{"url": "", "model": "", **given})

    def probe(self) -> None:
        """One look before anything is answered. Raises JudgeGone: nobody is there, or the key is not taken."""
        self._endpoint.probe("models")

    def ask(self, messages: list[dict], settings: dict, stop: threading.Event, costs: Counter) -> str:
        """One reply, what it has cost added to `costs`. Raises JudgeGone, or Unanswered where only this one cannot be had."""

        def read(found: dict) -> str:
            text = self._endpoint.text(found["choices"][0])
            usage = found.get("usage") or {}
            costs.update({name: int(usage.get(name) or 0) for name in COSTS if name != "requests"})
            return text

        body = {"model": self.model, "messages": messages, **settings}
        return self._endpoint.ask("chat/completions", body, read, stop=stop, counts=costs)

    def judgement(self, messages: list[dict], judging: Judging, stop: threading.Event) -> dict:
        """Asks until a reply has a verdict, at most `judging.tries` times: what `judgements.jsonl` keeps of it, but for whose it is."""
        replies: list[str] = []
        costs: Counter = Counter()
        began, verdict, error = time.monotonic(), None, f"no verdict in {judging.tries} replies"
        try:
            while verdict is None and len(replies) < judging.tries:
                replies.append(self.ask(messages, judging.settings, stop, costs))
                verdict = judging.read(replies[-1])
        except Unanswered as failure:
            error = str(failure)
        record: dict = {"judge": self.model, "prompt": messages, "replies": replies, "score": None}
        record |= {**(verdict or {"error": error}), "failed": verdict is None, "tries": len(replies)}
        record |= {name: costs[name] for name in COSTS}
        took, now = time.monotonic() - began, datetime.now(UTC)
        return record | {"seconds": round(took, 2), "time": now.isoformat(timespec="seconds")}

    def judgements(self, wanted: Sequence[Wanted], judging: Judging) -> Iterator[tuple[Wanted, dict]]:
        """Judgements as they come, `concurrency` at a time. Raises JudgeGone after what could still be had."""
        stop = threading.Event()
        workers = [lambda each: self.judgement(each[1], judging, stop)] * self.concurrency
        for each, found in side_by_side(workers, wanted, stop):
            if not (stop.is_set() and found["failed"]):  # what the end of the run has cut short has not failed
                yield each, found


def wanted(task: Task, rows: Sequence[Row], answers: dict, saved: AnswersFile) -> list[Wanted]:
    """What is to be judged: no judgement is there, or a failed one, or one of another answer. Failed answers are not judged."""
    assert task.judging
    found: list[Wanted] = []
    for row in rows:
        record = answers.get((task.name, row.id))
        if record and not record["failed"]:
            for name, messages in task.judging.requests(row, record).items():
                there = saved.records.get((task.name, row.id, name))
                if there is None or there["failed"] or there["prompt"] != messages:
                    found.append(((task.name, row.id, name), messages))
    return found


def judge_answers(
    judge: Judge, task: Task, rows: Sequence[Row], answers: dict, saved: AnswersFile, quiet: bool = False
) -> None:
    """Has the judge score what is not scored yet; each judgement is on disk before the next is looked at.

    Raises BodaError: another model judged before, or the judge is gone; what is there by then is kept.
    """
    assert task.judging
    others = {there["judge"] for key, there in saved.records.items() if key[0] == task.name} - {judge.model}
    if others:
        raise BodaError(
            f"{saved.path} holds judgements of {task.name} by '{others.pop()}', and two judges make no score; "
            f"name that one with --judge-model, choose another --out, or delete the file to have all judged by '{judge.model}'"
        )
    left = wanted(task, rows, answers, saved)
    progress = counted(f"{task.name} judged", len(left), 0, quiet)
    try:
        for (key, _), record in judge.judgements(left, task.judging):
            before = saved.records.get(key, {})
            for name in COSTS:  # what a failed one has cost is not forgotten
                record[name] += before.get(name, 0)
            saved.add([dict(zip(NAMES, key)) | record])
            progress.update(progress.done + 1)
    except JudgeGone as error:
        there = f"{progress.done} of {len(left)} judgements were saved"
        raise JudgeGone(f"{error}. {there}; the same command goes on from there") from None


def with_judgements(task: Task, rows: Sequence[Row], answers: dict, saved: AnswersFile) -> list[dict]:
    """The records of the rows with what is there of their `judgements`.

    A failed one is wanted again and still counts as failed; one of another answer does not count.
    """
    assert task.judging
    left = {key for key, _ in wanted(task, rows, answers, saved)}
    records = []
    for row in rows:
        keys = {name: (task.name, row.id, name) for name in task.judging.names}
        there = {name: saved.records[key] for name, key in keys.items() if key in saved.records}
        kept = {name: found for name, found in there.items() if found["failed"] or keys[name] not in left}
        records.append({**answers[task.name, row.id], "judgements": kept})
    return records


def usage(task: Task, records: Sequence[dict], result: dict) -> dict:
    """`judge`: who judged and what it has cost; `remarks`: what is missing, what failed, and what the published rule makes of it."""
    assert task.judging
    found = [judgement for record in records for judgement in record["judgements"].values()]
    counts = {name: sum(judgement[name] for judgement in found) for name in COSTS}
    failures = [judgement["error"] for judgement in found if judgement["failed"]]
    counts |= {"replies_without_verdict": sum(each["tries"] - (not each["failed"]) for each in found), "failed": len(failures)}
    missing = len(task.judging.names) * sum(not record["failed"] for record in records) - len(found)
    remarks = []
    if missing and not task.judging.optional:
        remarks += [f"{missing} judgements are not made yet; the same command with --judge URL --judge-model NAME makes them"]
    if failures:
        remarks += [f"{len(failures)} of {len(found)} judgements failed, the first: {failures[0]}; the same command asks again"]
    upstream = result.get("upstream") or {}
    if upstream.get("score") not in (None, result["score"]):
        remarks += [f"by the published rule {upstream['score']:.2f} over {upstream['n']}"]
    return {"judge": {"model": found[0]["judge"] if found else None, "judgements": len(found), **counts}, "remarks": remarks}


def cost(result: dict) -> str:
    """What the judge of a result has cost, in words; "" where none judged. It depends on what a killed run had under way."""
    found = result.get("judge") or {}
    if not found.get("judgements"):
        return ""
    tokens = f"{found['prompt_tokens']:,} + {found['completion_tokens']:,} tokens"
    return f"judged by {found['model']}: {found['judgements']} judgements, {found['requests']} requests, {tokens}"
