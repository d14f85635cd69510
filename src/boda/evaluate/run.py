"""Runs tasks on a model: asks, saves every answer, scores, and continues where an earlier run stopped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from boda.errors import BodaError
from boda.evaluate.answers import ADVICE, Answerer, AnswersFile, answered, answerer, encoding
from boda.evaluate.judge import NAMES, Judge, judge_answers, usage, wanted, with_judgements
from boda.evaluate.report import show
from boda.evaluate.task import Measured, PairTask, Row, Task
from boda.evaluate.tasks import make_tasks
from boda.files import read_json, write_json
from boda.terminal import Progress


def run(
    model: Any,
    tasks: Sequence[str | Task | Measured],
    out: str | Path,
    limit: int | None = None,
    blind: bool = False,
    data_dir: str | Path | None = None,
    batch_size: int = 16,
    quiet: bool = False,
    trust_remote_code: bool = False,
    judge: Judge | dict | None = None,
) -> dict[str, dict]:
    """Evaluates a model: {task: {score, n, failed, low, high, ...}}. The same call again continues after the last answer.

    Args:
        model: a folder or hub id, a (model, processor) pair, or an object with `answer(conversations) -> list[str]`;
            for tasks on pair models a folder, hub id or Encoder.
        tasks: names as `--tasks` takes them, or Task or PairTask objects, all for one kind of model.
        out: folder for `answers.jsonl` (every answer as it comes), `run.json` (what was run) and `results.json`.
        limit: at most so many rows of each task; blind: without the pictures, to see what the words alone give.
        data_dir: where relative data paths are looked up first; batch_size: conversations asked at a time.
        judge: who scores the answers of judged tasks: `{"url": "https://host/v1", "model": NAME, "concurrency": 8}` or a Judge.
            Without one they are answered and saved, and the same call with a judge only judges.

    Raises BodaError: unknown task, no model, or `out` holds answers of another model, task version or way of asking; or the
    judge is not to be had, what has been answered and judged being kept.
    """
    judge = Judge.of(judge)
    if not tasks:
        raise BodaError("no task: name at least one, e.g. --tasks questions:PATH")
    if batch_size < 1 or (limit is not None and limit < 1):
        raise BodaError(f"batch size {batch_size} and limit {limit}: both are at least 1")
    made = [each for task in tasks for each in (make_tasks(task, data_dir) if isinstance(task, str) else [task])]
    names = [task.name for task in made]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise BodaError(f"task '{doubled[0]}' is named twice")
    if judge and not any(isinstance(task, Task) and task.judging for task in made):
        raise BodaError(f"a judge is named, and none of these tasks is judged: {', '.join(names)}")
    measured = [task.name for task in made if isinstance(task, PairTask)]
    if measured and (blind or len(measured) < len(made)):
        why = "nothing is left of it without pictures" if blind else "other tasks ask models that answer; run it by itself"
        raise BodaError(f"{measured[0]} compares pictures and texts by a pair model's vectors: {why}")
    who = encoding(model) if measured else answerer(model, trust_remote_code)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    description = _claim(out, who, made, blind)
    answers = AnswersFile(out / "answers.jsonl")
    judgements = AnswersFile(out / "judgements.jsonl", NAMES, keeps_failures=True)
    loaded = [(task, list(task.load(limit))) for task in made]
    if empty := [task.name for task, rows in loaded if not rows]:
        raise BodaError(f"{empty[0]} has no rows")
    if judge and any(_unjudged(task, rows, answers, judgements) for task, rows in loaded):
        judge.probe()  # before the model answers for hours

    for task, rows in loaded:
        missing = [row for row in rows if (task.name, row.id) not in answers.records]
        done = len(rows) - len(missing)
        if done and not quiet:
            print(f"{task.name}: {done} of {len(rows)} answers are there already", file=sys.stderr)
        if missing:  # a run that has every answer already loads nothing
            found = _records(who.open(), task, missing, blind, batch_size, quiet)
            found = _watched(found, task.name, len(rows), done, quiet)
            while batch := list(islice(found, batch_size)):
                answers.add(batch)
    results = {}
    for task, rows in loaded:  # every answer is on disk before the first is judged
        records = [answers.records[task.name, row.id] for row in rows]
        if isinstance(task, Task) and task.judging:
            if judge:
                judge_answers(judge, task, rows, answers.records, judgements, quiet)
            records = with_judgements(task, rows, answers.records, judgements)
        result = task.summarise(records)
        if isinstance(task, Task) and task.judging:
            told = usage(task, records, result)
            result |= told | {"remarks": [*result.get("remarks", ()), *told["remarks"]]}
        results[task.name] = {**result, "version": task.version, "note": task.note}
    # Tasks of earlier runs into the same folder stay in the file; the caller gets what was asked for.
    earlier = read_json(out / "results.json", ADVICE).get("tasks", {})
    write_json(out / "results.json", {**description, "limit": limit, "tasks": {**earlier, **results}})
    if not quiet:
        show(results, f"{who.name}{' (blind)' if blind else ''}")
    return results


def _unjudged(task: Any, rows: Sequence[Row], answers: AnswersFile, judgements: AnswersFile) -> bool:
    """Whether a judge will be asked: something is to be answered or judged yet."""
    if not isinstance(task, Task) or not task.judging:
        return False
    unanswered = any((task.name, row.id) not in answers.records for row in rows)
    return unanswered or bool(wanted(task, rows, answers.records, judgements))


def _claim(out: Path, who: Answerer, tasks: Iterable[Task | Measured], blind: bool) -> dict:
    """Writes `run.json`, or checks that what is there is a run of the same model, tasks and way of asking."""
    path = out / "run.json"
    new: dict = {"model": who.name, "fingerprint": who.fingerprint, "blind": blind, "settings": who.settings}
    new |= {"tasks": {task.name: task.version for task in tasks}, "decoding": {task.name: task.decoding for task in tasks}}
    new["started"] = datetime.now(UTC).isoformat(timespec="seconds")
    if old := read_json(path, ADVICE):
        before, now = _told(old), _told(new)
        differences = [
            f"{name} was {before[name]!r} and is {value!r}"
            for name, value in now.items()
            if name in before and before[name] != value
        ]
        if differences:
            raise BodaError(
                f"{out} holds answers of another run: {'; '.join(differences)}. Choose another --out, or delete the folder"
            )
        new |= {"tasks": old["tasks"] | new["tasks"], "decoding": old["decoding"] | new["decoding"], "started": old["started"]}
    elif (out / "answers.jsonl").exists():
        raise BodaError(f"{out} has answers.jsonl but not the run.json that says whose they are; choose another --out")
    write_json(path, new)
    return new


def _told(run: dict) -> dict:
    """What runs into one folder have to share, by the names that a message calls it."""
    kept = {name: run.get(name) for name in ("model", "fingerprint", "blind", "settings")}
    kept |= {f"{task}'s version": version for task, version in run["tasks"].items()}
    return kept | {f"{task}'s decoding": decoding for task, decoding in run["decoding"].items()}


def _records(model: Any, task: Task | Measured, rows: Sequence[Row], blind: bool, size: int, quiet: bool) -> Iterator[dict]:
    """Records of the rows: of questions, asked so many at a time, or of what is measured of a pair model."""
    if isinstance(task, PairTask):

        def watch(things: Sequence, what: str) -> Iterator:
            return _watched(things, f"{task.name}, {what}", len(things), 0, quiet)

        yield from ({"task": task.name, **record} for record in task.measure(model, rows, watch))
        return
    if isinstance(task, Measured):
        yield from ({"task": task.name, **record} for record in task.measure(model, rows, size))
        return
    for start in range(0, len(rows), size):
        yield from answered(model, task, rows[start : start + size], blind)


def _watched(things: Iterable, name: str, total: int, first: int, quiet: bool) -> Iterator:
    """Goes through things and tells rate and time left."""
    progress = Progress(lambda seen: f"{name} {seen.done}/{total}  {seen.rate:.1f}/s  {seen.left}", total, first, quiet)
    for done, thing in enumerate(things, first + 1):
        yield thing
        progress.update(done)
