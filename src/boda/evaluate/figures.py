"""Runs as they are shown: what folders hold, their results task by task, and how a score is written."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from boda.errors import BodaError
from boda.evaluate.answers import ADVICE
from boda.files import read_json

FILES = {"results.json": "boda eval", "log.jsonl": "boda train", "bench.json": "boda bench", "board.json": "a board"}
PARTS: dict[str, tuple[str, type]] = {
    "results.json": ("tasks", dict),
    "bench.json": ("rows", list),
    "board.json": ("tables", list),
}
BASELINES = {"majority": "majority", "train_majority_by_question": "by words alone", "chance": "chance"}


@dataclass(frozen=True)
class Run:
    """What a folder holds; {} or None where it has no such file."""

    name: str
    folder: Path
    results: dict
    bench: dict
    board: dict
    log: Path | None

    @property
    def tasks(self) -> dict[str, dict]:
        return self.results.get("tasks", {})

    @property
    def is_blind(self) -> bool:
        return bool(self.results.get("blind"))

    @property
    def has_answers(self) -> bool:
        place = self.folder / "answers.jsonl"
        return bool(self.results) and place.is_file() and place.stat().st_size > 0

    def conditions(self, task: str) -> dict:
        """What has to agree for two scores of the task to be compared."""
        told = {"version": self.tasks[task].get("version"), "decoding": self.results.get("decoding", {}).get(task)}
        told |= {"limit": self.results.get("limit"), "judge": (self.tasks[task].get("judge") or {}).get("model")}
        return told | self.results.get("conditions", {}).get(task, {})


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs in folders, under names that tell them apart; a board brings its own along.

    Raises BodaError: no folder, one named twice, or one that holds nothing to show, or other files of these names.
    """
    if not folders:
        raise BodaError("no run to report on")
    given = list(distinct_names([Path(folder) for folder in folders]).values())
    for folder in given:
        if not any((folder / name).is_file() for name in FILES):
            *others, last = (f"{name} ({who})" for name, who in FILES.items())
            raise BodaError(f"{folder} holds neither {', '.join(others)} nor {last}")
    there = {folder.resolve() for folder in given}
    for folder in list(given):
        board = _read(folder / "board.json")
        for place in dict.fromkeys(row.get("run") for table in board.get("tables", []) for row in table["rows"]):
            if place and (folder / place / "results.json").is_file() and (folder / place).resolve() not in there:
                there.add((folder / place).resolve())
                given.append(folder / place)
    found = []
    for name, folder in distinct_names(given).items():
        results, bench, board = (_read(folder / file) for file in PARTS)
        log = folder / "log.jsonl"
        found.append(Run(name, folder, results, bench, board, log if log.is_file() else None))
    return found


def _read(path: Path) -> dict:
    """What a file says; empty where there is none. Raises BodaError: another program's file of that name."""
    found, (part, kind) = read_json(path, ADVICE), PARTS[path.name]
    if found != {} and not (isinstance(found, dict) and isinstance(found.get(part), kind)):
        raise BodaError(f"{path} has no {part}; it is not what {FILES[path.name]} writes")
    return found


def distinct_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Each folder by as many of its last names as tell it from the others. Raises BodaError: one is there twice."""
    for depth in range(1, max(len(folder.absolute().parts) for folder in folders) + 1):
        names = {"/".join(folder.absolute().parts[-depth:]): folder for folder in folders}
        if len(names) == len(folders):
            return names
    raise BodaError(f"a run is named twice: {', '.join(map(str, folders))}")


def by_task(runs: Iterable[Run]) -> dict[str, list[tuple[Run, dict]]]:
    """{task: the runs that have it, each with its result}."""
    found: dict[str, list[tuple[Run, dict]]] = defaultdict(list)
    for run in runs:
        for task, result in run.tasks.items():
            found[task].append((run, result))
    return found


def unlike(runs: Sequence[Run], task: str) -> list[str]:
    """The conditions in which the runs of a task differ: their scores are not to be compared then."""
    told = [run.conditions(task) for run in runs if task in run.tasks]
    names = dict.fromkeys(name for each in told for name in each)
    return [name for name in names if len({json.dumps(each.get(name), sort_keys=True) for each in told}) > 1]


def lines(results: dict[str, dict]) -> Iterator[tuple[tuple[str, ...], dict]]:
    """(task,) and its result, then (task, tag, value) and the result of that group."""
    for task, result in results.items():
        yield (task,), result
        for tag, values in result.get("groups", {}).items():
            if tag != "answer":  # by reference answer: in results.json, too long for a table
                yield from (((task, tag, value), group) for value, group in values.items())


def baselines(results: Iterable[dict]) -> dict[str, str]:
    """The baselines that any of the results has: key and what it is called."""
    there = {key for result in results for key in result if result[key] is not None}
    return {key: label for key, label in BASELINES.items() if key in there}


def markdown_table(runs: Sequence[Run]) -> str:
    """Runs side by side as a Markdown table: a line a task and group, a column a run, baselines at the end."""
    found: dict[tuple[str, ...], dict[str, dict]] = defaultdict(dict)
    for run in runs:
        for key, result in lines(run.tasks):
            found[key][run.name] = result
    tasks = [key[0] for key in found]
    ends = baselines(result for there in found.values() for result in there.values())
    rows = []
    # Lines of one task stand together even where runs have different groups.
    for key in sorted(found, key=lambda key: tasks.index(key[0])):
        first = next(iter(found[key].values()))
        label = f"&nbsp;&nbsp;{key[1]}: {key[2]}" if key[1:] else f"**{key[0]}**"
        scores = [scored(found[key].get(run.name)) for run in runs]
        rows.append([label, f"{first['n']:,}", *scores, *(percent(first.get(each), first) for each in ends)])
    return markdown(["task", "n", *(run.name for run in runs), *ends.values()], rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns of numbers are set to the right."""
    cells = [list(line) for line in rows]
    numbers = [
        place > 0 and all(re.match(r"(-|\d[\d.,%]*)( |$)|$", line[place]) for line in cells) for place in range(len(head))
    ]
    table = [head, ["---:" if is_number else "---" for is_number in numbers], *cells]
    return "".join("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |\n" for line in table)


def scored(result: dict | None) -> str:
    """A score with its interval and what failed, in a cell."""
    if result is None or result["score"] is None:
        return "-" if result is None else f"- ({result['failed']} failed)"
    failed = f", {result['failed']} failed" if result["failed"] else ""
    return f"{percent(result['score'], result)} ({interval(result)}{failed})"


def interval(result: dict, between: str = " - ") -> str:
    """The bounds of a score."""
    return f"{percent(result['low'], result)}{between}{percent(result['high'], result)}"


def axis(result: dict) -> tuple[float, float]:
    """The lowest and the highest score there can be."""
    scale = result.get("scale") or 1.0
    return (0.0, float(scale)) if isinstance(scale, int | float) else (float(scale[0]), float(scale[1]))


def percent(share: float | None, result: dict | None = None) -> str:
    """A share, or a mark of a result that has a `scale` of its own."""
    return "" if share is None else f"{share:.2f}" if result and result.get("scale") else f"{share:.1%}"


def upstream_of(result: dict) -> dict | None:
    """`score n rule` by the published rule, where the task has one that gave a score."""
    found = result.get("upstream")
    return found if isinstance(found, dict) and found.get("score") is not None else None


def published_score(published: dict, result: dict) -> str:
    """The published figure, with its `measure` where that is another one than the score's."""
    return f"{published['measure']} {published['score']:.3f}" if "measure" in published else percent(published["score"], result)
