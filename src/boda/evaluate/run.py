"""Runs tasks on a model: asks, saves every answer, scores, and continues where an earlier run stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from boda.errors import BodaError
from boda.evaluate.answers import ADVICE, Answerer, AnswersFile, answerer, encoding
from boda.evaluate.asking import Asking, ModelGone, batches
from boda.evaluate.judge import NAMES, Judge, judge_answers, usage, wanted, with_judgements
from boda.evaluate.report import show
from boda.evaluate.task import Measured, PairTask, Row, Task
from boda.evaluate.tasks import make_tasks
from boda.files import one_writer, read_json, write_json
from boda.terminal import counted, watched


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
    processes: int = 1,
    image_limit: int | None = None,
    system: str | None = None,
    engine: str | None = None,
) -> dict[str, dict]:
    """Evaluates a model: {task: {score, n, failed, low, high, ...}}. The same call again continues after the last answer.

    Args:
        model: a folder or hub id, `https://host/v1#name` (a server that speaks as OpenAI's; its key in BODA_API_KEY or
            OPENAI_API_KEY), a (model, processor) pair, or an object with `answer(conversations) -> list[str]`; for tasks on pair
            models a folder, hub id or Encoder.
        tasks: names as `--tasks` takes them, or Task or PairTask objects, all for one kind of model.
        out: folder for `answers.jsonl` (every answer as it comes), `run.json` (what was run) and `results.json`.
        limit: at most so many rows of each task; blind: without the pictures, to see what the words alone give.
        data_dir: where relative data paths are looked up first; batch_size: conversations asked at a time.
        judge: who scores the answers of judged tasks: `{"url": "https://host/v1", "model": NAME, "concurrency": 8}` or a Judge.
            Without one they are answered and saved, and the same call with a judge only judges.
        processes: so many, each with the model (on a GPU of its own where there are several), share the questions.
        image_limit: pixels of the longer side; larger pictures are shrunk before any model sees them.
        system: a text that every model is given in place of its own; "": none; None: the model's own.
        engine: "transformers", or "vllm", started for the run by the command in BODA_VLLM.

    Raises BodaError: unknown task, no model, or `out` holds answers of another model, task version or way of asking; or the
    judge is not to be had, what has been answered and judged being kept.
    """
    judge = Judge.of(judge)
    if not tasks:
        raise BodaError("no task: name at least one, e.g. --tasks questions:PATH")
    counts = {"batch size": batch_size, "limit": limit, "processes": processes, "image limit": image_limit}
    if wrong := [f"{name} {count}" for name, count in counts.items() if count is not None and count < 1]:
        raise BodaError(f"{' and '.join(wrong)}: at least 1")
    made = [each for task in tasks for each in (make_tasks(task, data_dir) if isinstance(task, str) else [task])]
    names = [task.name for task in made]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise BodaError(f"task '{doubled[0]}' is named twice")
    if judge and not any(task.judging for task in made):
        raise BodaError(f"a judge is named, and none of these tasks is judged: {', '.join(names)}")
    measured = [task.name for task in made if isinstance(task, PairTask)]
    if measured and (blind or len(measured) < len(made)):
        why = "nothing is left of it without pictures" if blind else "other tasks ask models that answer; run it by itself"
        raise BodaError(f"{measured[0]} compares pictures and texts by a pair model's vectors: {why}")
    asking = Asking(blind, image_limit, system)
    if computed := [task for task in made if isinstance(task, Measured)]:
        _check_computed(computed[0], asking, processes, engine)
    is_asked = any(isinstance(task, Task) for task in made)
    who = encoding(model) if measured else answerer(model, trust_remote_code, processes, engine, exact=is_asked)
    with one_writer(Path(out)):
        results = _run(who, made, Path(out), asking, judge, engine, limit, batch_size, quiet)
    if not quiet:
        show(results, f"{who.name}{' (blind)' if blind else ''}")
    return results


def _run(
    who: Answerer,
    made: Sequence[Task | Measured],
    out: Path,
    asking: Asking,
    judge: Judge | None,
    engine: str | None,
    limit: int | None,
    batch_size: int,
    quiet: bool,
) -> dict[str, dict]:
    """Answers, judges and scores, all of it in the files of `out`."""
    description = _claim(out, who, made, asking, engine)
    answers = AnswersFile(out / "answers.jsonl")
    judgements = AnswersFile(out / "judgements.jsonl", NAMES, keeps_failures=True)
    loaded = [(task, list(task.load(limit))) for task in made]
    if empty := [task.name for task, rows in loaded if not rows]:
        raise BodaError(f"{empty[0]} has no rows")
    judged = [(task, rows) for task, rows in loaded if isinstance(task, Task) and task.judging]
    if judge and any(_unjudged(task, rows, answers, judgements) for task, rows in judged):
        judge.probe()  # before the model answers for hours

    found_speed: dict[str, dict] = {}
    try:
        for task, rows in loaded:
            found_speed[task.name] = _answer_all(who, task, rows, answers, asking, batch_size, quiet)
    finally:
        who.close()
    # Tasks of earlier runs into the same folder stay in the file; the caller gets what was asked for.
    earlier = read_json(out / "results.json", ADVICE)
    results, conditions, speed = {}, {}, {}
    for task, rows in loaded:  # every answer is on disk before the first is judged
        records = [answers.records[task.name, row.id] for row in rows]
        if not quiet and (errors := [record["error"] for record in records if record["failed"]]):
            print(f"{task.name}: {len(errors)} of {len(rows)} could not be answered; the first: {errors[0]}", file=sys.stderr)
        speed[task.name] = _speed(records, found_speed[task.name], earlier.get("speed", {}).get(task.name, {}))
        if isinstance(task, Task) and task.judging:
            if judge:
                judge_answers(judge, task, rows, answers.records, judgements, quiet)
            records = with_judgements(task, rows, answers.records, judgements)
        result = task.summarise(records)
        if isinstance(task, Task) and task.judging:
            told = usage(task, records, result)
            result |= told | {"remarks": [*result.get("remarks", ()), *told["remarks"]]}
        results[task.name] = {**result, "version": task.version, "note": task.note}
        conditions[task.name] = _conditions(task, who, asking, limit, result)
    found = {"tasks": results, "conditions": conditions, "speed": speed}
    merged = {name: {**earlier.get(name, {}), **some} for name, some in found.items()}
    write_json(out / "results.json", {**description, "limit": limit, **merged})
    return results


def _check_computed(task: Measured, asking: Asking, processes: int, engine: str | None) -> None:
    """Raises BodaError for what has no meaning where a model is measured and not asked; texts alone have neither system nor pictures."""
    given = {"several processes": processes > 1, "engine": engine not in (None, "transformers")}
    if isinstance(task, PairTask):
        given |= {"system text": asking.system is not None, "image limit": asking.image_limit is not None}
    if wrong := " and no ".join(name for name, is_given in given.items() if is_given):
        raise BodaError(f"{task.name} is computed from the model in this process: no {wrong}; run it by itself")


def _answer_all(
    who: Answerer, task: Task | Measured, rows: Sequence[Row], answers: AnswersFile, asking: Asking, size: int, quiet: bool
) -> dict:
    """Has the model answer what is not answered yet, every batch on disk as it comes; what is known of how it went.

    Raises ModelGone, saying what is saved.
    """
    missing = [row for row in rows if (task.name, row.id) not in answers.records]
    done = len(rows) - len(missing)
    if done and not quiet:
        print(f"{task.name}: {done} of {len(rows)} answers are there already", file=sys.stderr)
    if not missing:  # a run that has every answer already loads nothing
        return {}
    model = who.open()
    asks = model if isinstance(model, list) else [model] * (size if who.is_remote else 1)
    precision = next((ask.precision for ask in asks if hasattr(ask, "precision")), None)
    if isinstance(task, Measured):
        found = _measured(model, task, missing, size, quiet)
    else:
        found = batches(asks, task, missing, 1 if who.is_remote else size, asking)
    if isinstance(task, Task) and size > 1 and not quiet and precision not in (None, "float32"):
        _tell_once(
            f"{who.name} answers in {precision} and is asked one question at a time, so that no answer "
            "depends on others. Behind an address or with --engine vllm it is faster, and answers may differ a little"
        )
    progress = counted(task.name, len(rows), done, quiet)
    try:
        for batch in found:
            answers.add(batch)
            progress.update(progress.done + len(batch))
    except ModelGone as error:
        there = f"{progress.done} of {len(rows)} answers of {task.name} are saved"
        raise ModelGone(f"{error}. {there}; the same command goes on from there") from None
    peaks = [ask.peak() for ask in asks if hasattr(ask, "peak")]
    return {"peak_bytes": sum(peaks) if peaks and None not in peaks else None, "precision": precision}


@cache
def _tell_once(line: str) -> None:
    print(line, file=sys.stderr)


def _conditions(task: Task | Measured, who: Answerer, asking: Asking, limit: int | None, result: dict) -> dict:
    """What scores have to share to be compared."""
    own = who.settings.get("system") or ""
    system = "" if isinstance(task, Measured) else own if asking.system is None else asking.system
    told = {"version": task.version, "decoding": task.decoding, "system": system, "image_limit": asking.image_limit}
    return told | {"limit": limit, "judge": (result.get("judge") or {}).get("model")}


def _speed(records: Sequence[dict], found: dict, before: dict) -> dict:
    """How fast the answers came and what memory it took; of earlier runs what this one does not know."""
    timed = [record for record in records if "seconds" in record and not record["failed"]]
    seconds, tokens = sum(record["seconds"] for record in timed), [record["tokens"] for record in timed]
    told: dict = {"seconds": round(seconds, 3), "answers_per_second": len(timed) / seconds if seconds else 0.0}
    told["tokens_per_second"] = sum(tokens) / seconds if seconds and None not in tokens else None
    return told | {name: found.get(name) or before.get(name) for name in ("peak_bytes", "precision")}


def _unjudged(task: Task, rows: Sequence[Row], answers: AnswersFile, judgements: AnswersFile) -> bool:
    """Whether a judge will be asked: something is to be answered or judged yet."""
    unanswered = any((task.name, row.id) not in answers.records for row in rows)
    return unanswered or bool(wanted(task, rows, answers.records, judgements))


def _claim(out: Path, who: Answerer, tasks: Iterable[Task | Measured], asking: Asking, engine: str | None) -> dict:
    """Writes `run.json`, or checks that what is there is a run of the same model, tasks and way of asking."""
    path = out / "run.json"
    new: dict = {"model": who.name, "fingerprint": who.fingerprint, "blind": asking.blind, "settings": who.settings}
    new |= {"image_limit": asking.image_limit, "system": asking.system, "engine": None if engine == "transformers" else engine}
    new |= {"tasks": {task.name: task.version for task in tasks}, "decoding": {task.name: task.decoding for task in tasks}}
    new["started"] = datetime.now(UTC).isoformat(timespec="seconds")
    if old := read_json(path, ADVICE):
        before, now = _told(old), _told(new)
        changed = [name for name in now if name in before and before[name] != now[name]]
        if differences := "; ".join(f"{name} was {before[name]!r} and is {now[name]!r}" for name in changed):
            raise BodaError(f"{out} holds answers of another run: {differences}. Choose another --out, or delete the folder")
        new |= {"tasks": old["tasks"] | new["tasks"], "decoding": old["decoding"] | new["decoding"], "started": old["started"]}
    elif (out / "answers.jsonl").exists():
        raise BodaError(f"{out} has answers.jsonl but not the run.json that says whose they are; choose another --out")
    write_json(path, new)
    return new


def _told(run: dict) -> dict:
    """What runs into one folder have to share, by the names that a message calls it."""
    shared = ("model", "fingerprint", "blind", "settings", "system", "engine", "image_limit")
    kept = {name.replace("_", " "): run.get(name) for name in shared}
    kept |= {f"{task}'s version": version for task, version in run["tasks"].items()}
    return kept | {f"{task}'s decoding": decoding for task, decoding in run["decoding"].items()}


def _measured(model: Any, task: Measured, rows: Sequence[Row], size: int, quiet: bool) -> Iterator[list[dict]]:
    """Records of what is measured of a model, so many at a time."""
    watch = lambda things, what: watched(things, f"{task.name}, {what}", len(things), quiet)  # noqa: E731
    found = iter(task.measure(model, rows, watch if isinstance(task, PairTask) else size))
    began = time.monotonic()
    while batch := list(islice(found, size)):
        now = time.monotonic()
        facts = {"seconds": round((now - began) / len(batch), 6), "tokens": None}
        yield [{"task": task.name, **record, **facts} for record in batch]
        began = now
