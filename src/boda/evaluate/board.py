"""Boards: models x tasks in one run that goes on where it stopped, in tables whose rows may be compared.

A board is a YAML file, `title`, `models` and `tasks`, with more below in `Board`. Every model, and its twin that sees no pictures,
goes into a folder of its own (`runs/NAME`, `runs/NAME-blind`) by `boda.evaluate.run`; what is there is used again. Rows share a table
only if task version, decoding, system text, image limit, limit and judge agree. Ranks are ranges from paired tests.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError, model_validator

from boda.errors import BodaError, explaining
from boda.evaluate.answers import ADVICE, read_answers
from boda.evaluate.overlap import overlap
from boda.evaluate.paired import ALPHA, compare, rank_ranges
from boda.evaluate.report import write_report
from boda.evaluate.run import run
from boda.evaluate.task import Measured, PairTask, Task
from boda.evaluate.tasks import make_tasks
from boda.files import read_json, read_lines, write_json
from boda.recipe.explain import explain
from boda.recipe.schema import Knobs
from boda.recipe.text import map_texts, read_yaml, substitute
from boda.recipe.words import shown

Count = Annotated[int, Field(ge=1)]
OWN = "own"
BLIND_AS_WELL = "이미지 없이 낸 점수와 구별되지 않음"
WORDS = {"version": "task version", "image_limit": "image limit (pixels)", "system": "system text"}


class Entry(Knobs):
    """A model of a board: a text alone is its address."""

    model: Any
    """A folder, a hub id, a name that Boda ships, `https://host/v1#name`; in Python also what `boda.evaluate.run` takes."""
    name: str = ""
    """What its rows are called. Unset: the end of its address."""
    system: str | None = None
    """A system text for this model alone."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        value = dict(value) if isinstance(value, Mapping) else {"model": value}
        if not value.get("name") and "model" in value:
            value["name"] = _name_of(value["model"])
        return value


class JudgeAt(Knobs):
    """Who scores judged tasks."""

    url: str
    """Its address, as of an OpenAI-compatible server: https://host/v1."""
    model: str
    """The judge's model, as its server calls it."""
    concurrency: Count = 8


class Board(Knobs):
    """What a board's file says."""

    title: str
    """What stands above the page."""
    models: Annotated[list[Entry], Field(min_length=1)]
    """Models, by their addresses or as blocks."""
    tasks: Annotated[list[Any], Field(min_length=1)]
    """As `boda eval --tasks` takes them, one an item. A model is asked those it can do."""
    limit: Count | None = None
    """At most so many rows of each task."""
    blind: bool = True
    """Whether each model is also asked without pictures."""
    batch_size: Count = 16
    processes: Count = 1
    engine: str | None = None
    """`transformers`, or `vllm` (started by the command in BODA_VLLM)."""
    image_limit: Count | None = None
    """Pixels of the longer side that pictures are brought to."""
    system: str | None = None
    """`own`: each model's own system text is agreed on, and rows are compared all the same; a text: given to every model. Unset:
    models' own, and rows whose texts differ stand in tables of their own."""
    judge: JudgeAt | None = None
    overlap: bool = True
    """Whether training data is searched for the questions."""


class Item(NamedTuple):
    """A task of a board, read once for all models, and the rows that are asked."""

    task: Task | Measured
    rows: set[str]


@dataclass
class Cell:
    """What one model, seeing or blind, has of one task."""

    name: str
    kind: str  # model | blind
    task: str
    run: str = ""  # its folder below the board's
    result: dict = field(default_factory=dict)
    records: list[dict] = field(default_factory=list)
    conditions: dict = field(default_factory=dict)
    overlap: dict | None = None
    error: str = ""


def run_board(
    board: str | Path | Mapping,
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    judge: dict | None = None,
    quiet: bool = False,
    trust_remote_code: bool = False,
) -> dict:
    """Runs a board and writes `board.json` and a report into `out` (`runs/board/NAME`): {"board": its path, "tables": [...]}.

    `board`: a YAML file or the same as a dict. `judge` takes the place of the board's. The same call again goes on where the last one
    stopped, and a board with more models or tasks asks only these. What a model cannot do or cannot be asked is a row that says why.
    Raises BodaError: the file is no board, or a task is not to be had.
    """
    told = load_board(board)
    stem = Path(board).stem if isinstance(board, str | Path) else "board"
    folder = Path(out or Path("runs") / "board" / stem)
    tasks: dict[str, Item] = {}
    for given in told.tasks:
        for task in make_tasks(given, data_dir) if isinstance(given, str) else [given]:
            if task.name in tasks:
                raise BodaError(f"tasks: '{task.name}' is named twice")
            tasks[task.name] = Item(task, {row.id for row in task.load(told.limit)})
    who = judge or (told.judge.model_dump() if told.judge else None)
    options = told.model_dump(include={"limit", "batch_size", "processes", "engine", "image_limit"})
    options |= {"data_dir": data_dir, "quiet": quiet, "trust_remote_code": trust_remote_code, "judge": who}
    cells = []
    for entry in told.models:
        system = entry.system if entry.system is not None else None if told.system == OWN else told.system
        cells += _cells(entry, told, tasks, folder, options | {"system": system})
    tables = [table for name, item in tasks.items() for table in _tables(name, item.task.note, cells, told.system)]
    path = folder / "board.json"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"title": told.title, "tables": tables, "published": _published([*tasks])})
    write_report([folder], folder, quiet=quiet)
    return {"board": str(path), "tables": tables}


def load_board(source: str | Path | Mapping) -> Board:
    """A board from its file or a dict. Raises BodaError: where, which key, and what is allowed there."""
    label, places = "the board", dict[tuple, str]()
    if isinstance(source, Mapping):
        tree: Any = dict(source)
    else:
        label = str(source)
        with explaining(f"cannot read the board {label}", OSError, UnicodeDecodeError):
            text = Path(source).read_text(encoding="utf-8-sig")
        tree, places = read_yaml(text, label)
        tree = map_texts(tree, substitute)
    if not isinstance(tree, dict):
        raise BodaError(f"{label}: a board is a mapping with at least title, models and tasks")
    try:
        board = Board.model_validate(tree)
    except ValidationError as error:
        raise BodaError(explain(error, tree, places, {}, label, _block)) from None
    names = [entry.name.replace("/", "-") for entry in board.models]
    both = [*names, *(f"{name}-blind" for name in names if board.blind)]
    if doubled := next((name for name in both if both.count(name) > 1), None):
        raise BodaError(
            f"{label}: models: two would be called '{doubled}'; give each a name of its own: {{name: ..., model: ...}}"
        )
    return board


def _block(path: tuple) -> type[Knobs]:
    blocks: dict[str, type[Knobs]] = {"models": Entry, "judge": JudgeAt}
    return blocks[path[0]] if path else Board


def _name_of(model: Any) -> str:
    """What a model is called that was given no name: the end of its address, or the run whose model it is."""
    if not isinstance(model, (str, Path)):
        return str(getattr(model, "name", None) or type(model).__name__)
    if Path(model).is_dir():
        place = Path(model).resolve()
        return place.parent.name if place.name == "model" else place.name
    return str(model).rstrip("/").rpartition("#" if "://" in str(model) and "#" in str(model) else "/")[2]


def _cells(entry: Entry, board: Board, tasks: dict[str, Item], folder: Path, options: dict) -> list[Cell]:
    """All cells of a model and of its blind twin."""
    quiet, trust = options["quiet"], options["trust_remote_code"]
    # Answers that were asked for in another way lie in a folder of their own, so that a changed board loses nothing.
    place = "-".join([
        entry.name.replace("/", "-"),
        *([board.engine] if board.engine not in (None, "transformers") else []),
        *([f"{board.image_limit}px"] if board.image_limit else []),
        *([f"system-{hashlib.sha256(options['system'].encode()).hexdigest()[:6]}"] if options["system"] is not None else []),
    ])  # fmt: skip
    try:
        is_pair = _is_pair(entry.model, trust)
    except BodaError as error:
        return [Cell(entry.name, "model", name, error=str(error)) for name in tasks]
    able = {name: item for name, item in tasks.items() if isinstance(item.task, PairTask) == is_pair}
    why = "compares pictures and texts, and answers no questions" if is_pair else "is no pair model, for which this task is"
    cells = [Cell(entry.name, "model", name, error=f"{entry.name} {why}") for name in tasks if name not in able]
    seeing = _asked(entry, "model", able, folder, f"runs/{place}", options)
    if board.overlap:
        found = overlap(entry.model, {cell.task: cell.records for cell in seeing if cell.records}, options["data_dir"], quiet)
        for cell in seeing:
            cell.overlap = found.get(cell.task)
    pictured = {cell.task for cell in seeing if any(record.get("images") for record in cell.records)}
    blind = {name: item for name, item in able.items() if name in pictured and isinstance(item.task, Task)}
    if board.blind and blind:
        seeing += _asked(entry, "blind", blind, folder, f"runs/{place}-blind", options)
    return cells + seeing


def _is_loaded(model: Any) -> bool:
    """Whether the model is loaded for a run: neither asked at an address nor there already."""
    return isinstance(model, (str, Path)) and "://" not in str(model)


def _is_pair(model: Any, trust_remote_code: bool) -> bool:
    if not isinstance(model, (str, Path)):
        return hasattr(model[0] if isinstance(model, tuple) else model, "get_text_features") or hasattr(model, "texts")
    if "://" in str(model):
        return False
    from boda.models.checkpoints import is_pair, load_config, locate

    place = locate(model)
    is_adapter = (Path(place) / "adapter_config.json").is_file() and not (Path(place) / "config.json").is_file()
    return not is_adapter and is_pair(load_config(place, trust_remote_code))


def _asked(entry: Entry, kind: str, tasks: dict[str, Item], folder: Path, place: str, options: dict) -> list[Cell]:
    """Cells of these tasks, asked together; if that fails, one by one, so that one does not stop the others."""
    computed = {name: item for name, item in tasks.items() if isinstance(item.task, Measured)}
    if computed and len(computed) < len(tasks):
        parts = ({name: item for name, item in tasks.items() if name not in computed}, computed)
        return [cell for some in parts for cell in _asked(entry, kind, some, folder, place, options)]
    if not tasks:
        return []
    if not options["quiet"]:
        print(f"{entry.name}{' (blind)' if kind == 'blind' else ''}: {', '.join(tasks)}", file=sys.stderr)
    # `run` refuses what has nothing to do: a judge where nothing is judged, ways of asking where nothing is asked here.
    is_judged = any(isinstance(item.task, Task) and item.task.judging for item in tasks.values())
    idle = {"processes", "engine"} if computed or not _is_loaded(entry.model) else set()
    idle |= {"system", "image_limit"} if any(isinstance(item.task, PairTask) for item in tasks.values()) else set()
    asked = {name: value for name, value in options.items() if name not in idle}
    asked |= {"blind": kind == "blind", "judge": options["judge"] if is_judged else None}
    try:
        results = run(entry.model, [item.task for item in tasks.values()], folder / place, **asked)
    except Exception as error:  # of a foreign model anything; the row says what
        if len(tasks) > 1:
            return [cell for each in tasks.items() for cell in _asked(entry, kind, dict([each]), folder, place, options)]
        why = str(error) if isinstance(error, BodaError) else f"{type(error).__name__}: {error}"
        if not options["quiet"]:
            print(f"{entry.name}, {', '.join(tasks)}: {why}", file=sys.stderr)
        return [Cell(entry.name, kind, name, place, error=why) for name in tasks]
    conditions = read_json(folder / place / "results.json", ADVICE)["conditions"]
    return [
        Cell(entry.name, kind, name, place, results[name], _records(folder / place, item), conditions[name])
        for name, item in tasks.items()
    ]


def _records(folder: Path, item: Item) -> list[dict]:
    """The answers to these rows, with the judgements there are of them, and with the scores that the result is the mean of."""
    task = item.task
    asked = (record for record in read_answers(folder) if record["task"] == task.name and record["row"] in item.rows)
    found = {record["row"]: record for record in asked}
    marks: dict[str, dict] = defaultdict(dict)
    for mark in read_lines(folder / "judgements.jsonl"):
        if mark["task"] == task.name:
            marks[mark["row"]][mark["judgement"]] = mark
    records = [record | {"judgements": marks[row]} for row, record in found.items()]
    if isinstance(task, Task) and task.counted:
        scores = task.counted(records)
        records = [record | {"score": scores.get(record["row"])} for record in records]
    return records


def _tables(task: str, note: str, cells: Sequence[Cell], system: str | None) -> list[dict]:
    """The tables of a task, the one with most rows first; what could not be had stands in the first."""
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.task == task and not cell.error:
            if system == OWN:
                cell.conditions = cell.conditions | {"system": OWN}
            groups[json.dumps(cell.conditions, sort_keys=True)].append(cell)
    ordered = sorted(groups.values(), key=lambda some: -len(some)) or [[]]
    failed = [cell for cell in cells if cell.task == task and cell.error]
    tables = [_table(task, note, some, failed if number == 0 else []) for number, some in enumerate(ordered)]
    for table in tables:
        table["differences"] = [line for other in tables if other is not table for line in _differences(table, other)]
    return tables


def _table(task: str, note: str, cells: Sequence[Cell], failed: Sequence[Cell]) -> dict:
    def by_score(kind: str) -> list[Cell]:
        some = [cell for cell in cells if cell.kind == kind]
        return sorted(some, key=lambda cell: (cell.result["score"] is None, -(cell.result["score"] or 0.0)))

    seeing, blind = by_score("model"), by_score("blind")
    ranks = rank_ranges({cell.name: cell.records for cell in seeing if cell.result["score"] is not None})
    twins = {cell.name: cell for cell in blind}
    rows = []
    for cell in (*seeing, *blind):
        is_flagged = cell.kind == "model" and cell.name in twins and not _is_better(cell, twins[cell.name])
        rank = list(ranks[cell.name]) if cell.kind == "model" and cell.name in ranks else None
        rows.append(_row(cell) | {"rank": rank, "flag": BLIND_AS_WELL if is_flagged else ""})
    for kind in ("majority", "chance"):
        there = [cell.result[kind] for cell in (*seeing, *blind) if cell.result.get(kind) is not None]
        rows.append(_row(Cell(kind, kind, task, result={"score": there[0] if there else None})))
    rows += [_row(cell) | {"flag": cell.error, "error": cell.error} for cell in failed]
    flag = ""
    if seeing and blind and not _is_better(seeing[0], blind[0]):
        flag = f"{BLIND_AS_WELL}: {blind[0].name} 모델이 이미지 없이 낸 점수보다 확실히 나은 모델이 없습니다."
    return {"task": task, "conditions": cells[0].conditions if cells else {}, "note": note, "flag": flag, "rows": rows}


def _is_better(one: Cell, other: Cell) -> bool:
    found = compare(one.records, other.records)
    return found["n"] == 0 or (found["difference"] > 0 and found["p"] <= ALPHA)


def _row(cell: Cell) -> dict:
    row: dict[str, Any] = {"name": cell.name, "kind": cell.kind}
    row |= {key: cell.result.get(key) for key in ("score", "low", "high", "n", "failed", "upstream")}
    row |= {"scale": cell.result["scale"]} if "scale" in cell.result else {}
    return row | {"rank": None, "overlap": cell.overlap, "flag": "", "run": cell.run or None}


def _differences(table: dict, other: dict) -> list[str]:
    """Why the other table's models are not in this one: a line a condition."""
    names = ", ".join(dict.fromkeys(row["name"] for row in other["rows"] if row["run"] and "error" not in row))
    here, there = table["conditions"], other["conditions"]
    said = lambda value: "none" if value in (None, "") else json.dumps(value) if isinstance(value, dict) else shown(value)  # noqa: E731
    return [
        f"{names}: {WORDS.get(key, key)} is {said(there.get(key))}, here {said(here.get(key))}"
        for key in dict.fromkeys([*here, *there])
        if here.get(key) != there.get(key)
    ]


@cache
def published_figures() -> dict[str, dict]:
    """Figures that others published, by name: `task title source judge scale note rows`."""
    return json.loads((files("boda.evaluate") / "published.json").read_text(encoding="utf-8"))


def _published(tasks: list[str]) -> list[dict]:
    """The figures of these tasks."""
    bases = {*tasks, *(task.partition(":")[0] for task in tasks)}
    return [{"name": name, **figures} for name, figures in published_figures().items() if figures["task"] in bases]
