"""What judged benchmarks share: their published prompts, means by category and turn, and reports on files they wrote themselves."""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from boda.data.sources import resolve_data
from boda.errors import WHY, BodaError, explaining
from boda.evaluate.answers import ADVICE
from boda.evaluate.task import by_value, summary
from boda.files import read_json

# task: its file in tasks/, which has `published(file, number, row) -> [(model, line)]`, `results(lines, rule)`, `tables(result)`
# and NEEDED, what a row that the benchmark wrote has
JUDGED = {"logickor": "logickor", "kullm-geval": "kullm_geval", "kullm-geval-v2": "kullm_geval", "komt": "komt"}
RULES = ("boda", "upstream")  # judgements that failed left out, and the published rule to the letter


@cache
def prompts(name: str) -> dict:
    """The published prompts of a benchmark, letter by letter, and their `origin`."""
    return json.loads((files("boda.evaluate") / "prompts" / f"{name}.json").read_text(encoding="utf-8"))


def rows_of(option: str, folder: str, file: str, data_dir: str | Path | None) -> tuple[Path, list[dict]]:
    """The file of a benchmark's questions, in the user's own copy of it, and its rows. Raises BodaError: not there, not JSON."""
    place = Path(resolve_data(option or folder, data_dir))
    place = place / file if place.is_dir() else place
    if not place.is_file():
        raise BodaError(f"no {Path(file).name} at {place}: {folder} needs the benchmark's own folder, or that file")
    return place, json_lines(place)


def json_lines(path: Path) -> list[dict]:
    """Rows of a JSON Lines file, with or without a mark of its byte order. Raises BodaError with the line at fault."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split("\n"), 1):
        if text := line.strip("\ufeff \r\t"):
            with explaining(f"{path}, line {number} is no JSON object ({WHY})", ValueError):
                rows.append(json.loads(text))
                if not isinstance(rows[-1], dict):
                    raise ValueError("another kind of value")
    return rows


def chat(**said: str) -> list[dict]:
    """Messages by their roles: system, user, assistant."""
    return [{"role": role, "content": content} for role, content in said.items()]


def lines_of(
    records: Iterable[dict], names: Sequence[str], published: Callable[[dict], Any], more: Callable[[dict, str], dict]
) -> list[dict]:
    """A line a judgement, of those that are there: `row name failed verdict boda upstream`; None where they do not count.

    An answer that could not be had fails all its judgements. `more`: what else a line has of its record, by the judgement's name.
    """
    lines = []
    for record in records:
        for name in names:
            found = record["judgements"].get(name)
            if found or record["failed"]:
                failed = record["failed"] or found["failed"]
                line = {"row": record["row"], "name": name, "failed": failed, "verdict": found}
                line |= {"boda": None if failed else found["score"], "upstream": None if record["failed"] else published(found)}
                lines.append(line | more(record, name))
    return lines


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that there are; None if there is none."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def by_turn(lines: Sequence[dict], rule: str, names: Sequence[str]) -> dict:
    """`turns {name: mean}`, `categories {category: {name: mean}}`, `n` and `failed` of lines, by one of the rules."""

    def turns(some: Sequence[dict]) -> dict[str, float | None]:
        return {name: mean(line[rule] for line in some if line["name"] == name) for name in names}

    by_category = by_value(lines, lambda line: line["category"], turns)
    counts = {"n": sum(line[rule] is not None for line in lines), "failed": sum(line["failed"] for line in lines)}
    return {"turns": turns(lines), "categories": by_category, **counts}


def scored(lines: Sequence[dict], rule: str, scale: float | list[int]) -> dict:
    """`score n failed low high scale` of lines by a rule; questions are drawn for the interval."""
    flat = [{**line, "failed": line[rule] is None, "score": line[rule]} for line in lines]
    return {**summary(flat), "failed": sum(line["failed"] for line in lines), "scale": scale}


def grouped(lines: Sequence[dict], key: str, rule: str, scale: float) -> dict[str, dict]:
    """`scored` of each value of a key, in order."""
    return by_value(lines, lambda line: line[key], lambda some: scored(some, rule, scale))


def by_row(lines: Sequence[dict]) -> dict[str, float]:
    """The mean of each row's lines that count, by Boda's rule."""
    counting = [line for line in lines if line["boda"] is not None]
    return by_value(counting, lambda line: line["row"], lambda some: sum(line["boda"] for line in some) / len(some))


def shown(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table as the benchmarks print theirs."""
    first, *lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([first, "|" + "---|" * len(header), *lines])


def judged_report(task: str, paths: Sequence[str | Path]) -> tuple[dict[str, dict], str]:
    """Results and tables of a judged benchmark, from folders of `boda eval` or from judged files of the benchmark itself.

    Results by `task`, or by `task:NAME` where there are several. Raises BodaError: no such task, no such files.
    """
    found: dict[str, dict] = {}
    module = _judged(task)
    for path in map(Path, paths):
        if (path / "results.json").is_file():
            there = read_json(path / "results.json", ADVICE)["tasks"]
            if task not in there:
                raise BodaError(f"{path} has no results of {task}; it has {', '.join(there) or 'none'}")
            found[str(path)] = there[task]
            continue
        lines = judged_lines(task, path)
        found |= {model: {**module.results(some, "upstream"), "remarks": []} for model, some in lines.items()}
    told = "\n\n".join(f"## {name}\n\n{module.tables(result)}" for name, result in found.items())
    return {f"{task}:{name}" if len(found) > 1 else task: result for name, result in found.items()}, told


def judged_lines(task: str, path: Path) -> dict[str, list[dict]]:
    """Lines of each model in judged files of the benchmark itself. Raises BodaError: no such task, no such files."""
    module, lines = _judged(task), defaultdict(list)
    for file in _files(path):
        for number, row in enumerate(json_lines(file)):
            foreign = f"{file}, row {number} is no judged answer of {task}: it needs {module.NEEDED}"
            with explaining(foreign, LookupError, TypeError, ValueError, AttributeError):
                for model, line in module.published(file, number, row):
                    lines[model].append(line)
    return lines


def _judged(task: str):
    if task not in JUDGED:
        raise BodaError(f"no judged task '{task}'; there are {', '.join(JUDGED)}")
    return importlib.import_module(f"boda.evaluate.tasks.{JUDGED[task]}")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    place = path / "evaluated" if (path / "evaluated").is_dir() else path
    if found := [file for file in sorted(place.rglob("*.jsonl")) if "/." not in f"/{file.relative_to(place).as_posix()}"]:
        return found
    raise BodaError(
        f"no judged answers at {path}: give a .jsonl file that the benchmark wrote, a folder of them, or a run's --out"
    )
