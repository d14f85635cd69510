"""Runs tasks on a model: asks, saves every answer, scores, and continues where an earlier run stopped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from boda.errors import BodaError
from boda.evaluate.answers import Answerer, AnswersFile, answerer, as_text, encoding, pictures_of, without_pictures
from boda.evaluate.task import PairTask, Row, Task
from boda.evaluate.tasks import make_task

REPORT_SECONDS = 15.0


def run(
    model: Any,
    tasks: Sequence[str | Task | PairTask],
    out: str | Path,
    limit: int | None = None,
    blind: bool = False,
    data_dir: str | Path | None = None,
    batch_size: int = 16,
    quiet: bool = False,
    trust_remote_code: bool = False,
) -> dict[str, dict]:
    """Evaluates a model.

    Args:
        model: a folder or hub id, a (model, processor) pair, or an object with `answer(conversations) -> list[str]`;
            for tasks on pair models a folder, hub id or Encoder.
        tasks: names as `--tasks` takes them, or Task or PairTask objects, all for one kind of model.
        out: folder for `answers.jsonl` (every answer as it comes), `run.json` (what was run) and `results.json`.
            The same call again continues after the last answer.
        limit: at most so many rows of each task.
        blind: leave the pictures out, to see what the words alone give.
        data_dir: where relative data paths are looked up first.
        batch_size: conversations asked at a time.
        quiet: no table and no progress.

    Returns:
        {task: {score, n, failed, low, high, ...}}.

    Raises:
        BodaError: unknown task, no model, or `out` holds answers of another model, task version or way of asking.
    """
    if not tasks:
        raise BodaError("no task: name at least one, e.g. --tasks questions:PATH")
    if batch_size < 1 or (limit is not None and limit < 1):
        raise BodaError(f"batch size {batch_size} and limit {limit}: both are at least 1")
    made = [make_task(task, data_dir) if isinstance(task, str) else task for task in tasks]
    names = [task.name for task in made]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise BodaError(f"task '{doubled[0]}' is named twice")
    measured = [task.name for task in made if isinstance(task, PairTask)]
    if measured and (blind or len(measured) < len(made)):
        why = "nothing is left of it without pictures" if blind else "other tasks ask models that answer; run it by itself"
        raise BodaError(f"{measured[0]} compares pictures and texts by a pair model's vectors: {why}")
    who = encoding(model) if measured else answerer(model, trust_remote_code)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    description = _claim(out, who, made, blind)
    answers = AnswersFile(out / "answers.jsonl")

    results = {}
    for task in made:
        rows = list(task.load(limit))
        if not rows:
            raise BodaError(f"{task.name} has no rows")
        missing = [row for row in rows if (task.name, row.id) not in answers.records]
        if missing:  # a run that has every answer already loads nothing
            who.open()
        done = len(rows) - len(missing)
        progress = _Progress(task.name, len(rows), done, quiet)
        for batch in _batches(who, task, missing, blind, batch_size, quiet):
            answers.add(batch)
            done += len(batch)
            progress.update(done)
        records = [answers.records[task.name, row.id] for row in rows]
        results[task.name] = {**task.summarise(records), "version": task.version, "note": task.note}
    # Tasks of earlier runs into the same folder stay in the file; the caller gets what was asked for.
    earlier = _read_json(out / "results.json").get("tasks", {}) if (out / "results.json").is_file() else {}
    _write_json(out / "results.json", {**description, "limit": limit, "tasks": {**earlier, **results}})
    if not quiet:
        show(results, f"{who.identity['model']}{' (blind)' if blind else ''}")
    return results


def _claim(out: Path, who: Answerer, tasks: Iterable[Task | PairTask], blind: bool) -> dict:
    """Writes `run.json`, or checks that what is there is a run of the same model, tasks and way of asking."""
    path = out / "run.json"
    versions = {task.name: task.version for task in tasks}
    decoding = {task.name: task.decoding for task in tasks}
    new: dict = {**who.identity, "blind": blind, "settings": who.settings, "tasks": versions, "decoding": decoding}
    if path.is_file():
        old = _read_json(path)
        differences = [
            f"{name} was {old.get(name)!r} and is {new[name]!r}"
            for name in ("model", "fingerprint", "blind", "settings")
            if old.get(name) != new[name]
        ]
        for name in ("tasks", "decoding"):
            differences += [
                f"{task}'s {'version' if name == 'tasks' else name} was {old[name][task]!r} and is {value!r}"
                for task, value in new[name].items()
                if task in old.get(name, {}) and old[name][task] != value
            ]
        if differences:
            raise BodaError(
                f"{out} holds answers of another run: {'; '.join(differences)}. Choose another --out, or delete the folder"
            )
        new["tasks"], new["decoding"] = {**old["tasks"], **versions}, {**old["decoding"], **decoding}
        new["started"] = old["started"]
    elif (out / "answers.jsonl").exists():
        raise BodaError(f"{out} has answers.jsonl but not the run.json that says whose they are; choose another --out")
    else:
        new["started"] = datetime.now(UTC).isoformat(timespec="seconds")
    _write_json(path, new)
    return new


def _batches(
    who: Answerer, task: Task | PairTask, rows: Sequence[Row], blind: bool, size: int, quiet: bool
) -> Iterator[list[dict]]:
    """Records of the rows, so many at a time; of a pair model what the task measures."""
    if not isinstance(task, PairTask):
        yield from (_answered(who, task, rows[start : start + size], blind) for start in range(0, len(rows), size))
        return

    def watch(things: Sequence, what: str) -> Iterator:
        progress = _Progress(f"{task.name}, {what}", len(things), 0, quiet)
        for done, thing in enumerate(things, 1):
            yield thing
            progress.update(done)

    records = ({"task": task.name, **record} for record in (task.measure(who.open(), rows, watch) if rows else ()))
    while batch := list(islice(records, size)):
        yield batch


def _answered(who: Answerer, task: Task, rows: Sequence[Row], blind: bool) -> list[dict]:
    """Records of one batch. A row that cannot be asked (a broken picture, a text too long) fails alone, not its batch."""
    asked = [task.messages(row) for row in rows]
    seen = [without_pictures(messages) if blind else messages for messages in asked]
    try:
        replies: list[str | BodaError] = list(_ask(who, seen, task.decoding))
    except BodaError as error:
        if len(rows) > 1:
            return [record for row in rows for record in _answered(who, task, [row], blind)]
        replies = [error]
    records = []
    for row, messages, shown, reply in zip(rows, asked, seen, replies):
        failed = isinstance(reply, BodaError)
        record: dict = {"task": task.name, "row": row.id, "prompt": as_text(shown), "images": pictures_of(messages)}
        record |= {"raw": None if failed else reply, **task.score(row, reply if isinstance(reply, str) else "")}
        record["failed"] = failed
        if failed:
            record |= {"score": None, "extracted": None, "error": str(reply)}
        records.append(record)
    return records


def _ask(who: Answerer, conversations: list[list[dict]], decoding: dict) -> Sequence[str]:
    replies = who.ask(conversations, decoding)
    if len(replies) != len(conversations) or not all(isinstance(reply, str) for reply in replies):
        raise TypeError(
            f"{who.identity['model']} was asked {len(conversations)} questions and gave {len(replies)} answers or no texts"
        )
    return replies


class _Progress:
    """Rate and time left: one line that renews itself on a terminal, plain lines elsewhere."""

    def __init__(self, name: str, total: int, done: int, quiet: bool):
        self.name, self.total, self.first, self.quiet = name, total, done, quiet
        self.on_terminal = sys.stderr.isatty()
        self.began = self.shown = time.monotonic()
        if done and not quiet:
            print(f"{name}: {done} of {total} answers are there already", file=sys.stderr)

    def update(self, done: int) -> None:
        now = time.monotonic()
        if self.quiet or (now - self.shown < (0.2 if self.on_terminal else REPORT_SECONDS) and done < self.total):
            return
        self.shown = now
        rate = (done - self.first) / max(now - self.began, 1e-9)
        left = int((self.total - done) / rate)
        line = f"{self.name} {done}/{self.total}  {rate:.1f}/s  {left // 60}m {left % 60:02d}s left"
        end = "" if self.on_terminal and done < self.total else "\n"
        print(("\r\x1b[K" if self.on_terminal else "") + line, end=end, file=sys.stderr, flush=True)


def show(results: dict[str, dict], title: str = "") -> None:
    """The table of a run on the terminal: each task, its groups below it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    baselines = [
        (key, label)
        for key, label in (("majority", "majority"), ("train_majority_by_question", "by words alone"))
        if any(key in result for result in results.values())
    ]
    table = Table(title=title, title_justify="left")
    table.add_column("task", overflow="fold")
    for column in ("n", "score", "95 %", *(label for _, label in baselines), "failed"):
        table.add_column(column, justify="right", no_wrap=True)

    def add(name: str, result: dict, style: str = "") -> None:
        score = "-" if result["score"] is None else f"{result['score']:.1%}"
        interval = "-" if result["low"] is None else f"{result['low']:.1%} - {result['high']:.1%}"
        shares = [f"{result[key]:.1%}" if key in result else "" for key, _ in baselines]
        failed = f"[red]{result['failed']}[/red]" if result["failed"] else "0"
        table.add_row(escape(name), f"{result['n']:,}", score, interval, *shares, failed, style=style)

    for name, result in results.items():
        add(name, result, "bold")
        for tag, groups in result.get("groups", {}).items():
            if tag == "answer":  # by reference answer: in results.json, too long for a terminal
                continue
            for value, group in groups.items():
                add(f"  {tag}={value}", group)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a file has room for the names
    console.print(table)
    for name, result in results.items():
        for remark in result.get("remarks", []):
            console.print(f"{escape(name)}: {escape(remark)}", highlight=False)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BodaError(f"{path} is no JSON ({error}); delete the folder or choose another --out") from error


def _write_json(path: Path, value: dict) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
