"""What people look at: a sheet of pictures with answers, a table of runs, a curve of a training run."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.markup import escape
from rich.table import Table

from boda.data.sample import IMAGE_MARK, ImageRef
from boda.errors import BodaError
from boda.evaluate.answers import ADVICE, file_of, read_answers
from boda.files import read_json, read_lines
from boda.terminal import console

TABLE_NOTE = (
    "Score with 95 % bootstrap interval over pictures. *majority*: always the most frequent answer of these questions. "
    "*by words alone*: for each question its most frequent answer in training."
)
BASELINES = {"majority": "majority", "train_majority_by_question": "by words alone", "chance": "chance"}
RIGHT, WRONG, FAILED = "#1a7f37", "#c62828", "#8a6d00"


def contact_sheet(
    answers: str | Path,
    out_png: str | Path,
    columns: int = 5,
    rows: int = 6,
    only: Literal["right", "wrong"] | None = None,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
) -> Path:
    """Draws answers as a PNG: picture, question, answer and reference, framed green where right and red where wrong.

    `answers` is an `answers.jsonl` or the folder it lies in. Cells are drawn at random from the seed, as many from each kind of
    question. Raises BodaError: no answers to show, or no font with Hangul.
    """
    from boda.data.sheet import draw_sheet  # here and below: Pillow and matplotlib, which only pictures need

    if columns < 1 or rows < 1:
        raise BodaError(f"a sheet of {columns} columns and {rows} rows has no cell; both are at least 1")
    wanted = {"right": (1.0,), "wrong": (0.0,)}.get(only or "")
    records = [
        record
        for record in read_answers(answers)
        if (tasks is None or record["task"] in tasks) and (wanted is None or record["score"] in wanted)
    ]
    if not records:
        raise BodaError(f"{answers} has no {only + ' ' if only else ''}answers to show")
    chosen = _spread(records, columns * rows, random.Random(seed))
    scored = [record["score"] for record in records if record["score"] is not None]
    share = f", {sum(scored) / len(scored):.1%} right" if scored and wanted is None else ""
    return draw_sheet(list(map(_cell, chosen)), out_png, f"{len(chosen)} of {len(records):,} answers{share}", columns)


def _spread(records: list[dict], number: int, rng: random.Random) -> list[dict]:
    """As many records of each task, and within a task as many of each kind of question, so that none fills the sheet."""
    tasks: dict[str, dict[tuple, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        tags = record.get("tags", {})
        tasks[record["task"]][(tags["set"],) if "set" in tags else tuple(sorted(tags.items()))].append(record)
    in_turn = []
    for kinds in tasks.values():
        if len(kinds) > sum(map(len, kinds.values())) // 2:  # tags that tell single rows apart are no kinds
            kinds = {(): [record for pile in kinds.values() for record in pile]}
        in_turn.append(_in_turn([rng.sample(pile, len(pile)) for _, pile in sorted(kinds.items())]))
    chosen, order = _in_turn(in_turn)[:number], list(tasks)
    return sorted(chosen, key=lambda record: (order.index(record["task"]), sorted(record.get("tags", {}).items())))


def _in_turn(piles: list[list[dict]]) -> list[dict]:
    """One of each pile, then the next of each, until all are empty."""
    return [pile[place] for place in range(max(map(len, piles))) for pile in piles if place < len(pile)]


def _cell(record: dict):
    from boda.data.sheet import FAINT, INK, Cell

    answered = {None: INK, 1: RIGHT}.get(record["score"], WRONG)  # None: a judge scores it
    colour = FAILED if record["failed"] else answered
    question = record["prompt"][-1]["content"].replace(IMAGE_MARK, "").strip() if record["prompt"] else ""
    answer = record["error"] if record["failed"] else record["raw"].strip() or "(empty)"
    texts = [(question, INK, 3), (f"답: {answer}", colour, 3)]
    if record["score"] != 1 and record.get("gold"):
        texts.append((f"정답: {record['gold']}", FAINT, 2))
    return Cell([place and ImageRef(**place) for place in record.get("images") or []], texts, colour)


def show(results: dict[str, dict], title: str = "") -> None:
    """The table of a run on the terminal: each task, its groups below it."""
    baselines = _baselines(results.values())
    table = Table(title=title, title_justify="left")
    table.add_column("task", overflow="fold")
    for column in ("n", "score", "95 %", *baselines.values(), "failed"):
        table.add_column(column, justify="right", no_wrap=True)
    for (name, *group), result in _lines(results):
        scores = ("-", "-") if result["score"] is None else (_percent(result["score"], result), _interval(result))
        shares = [_percent(result.get(key)) for key in baselines]
        failed = f"[red]{result['failed']}[/red]" if result["failed"] else "0"
        label, style = (f"  {'='.join(group)}", "") if group else (name, "bold")
        table.add_row(escape(label), f"{result['n']:,}", *scores, *shares, failed, style=style)
    out = console()
    out.print(table)
    for name, result in results.items():
        for remark in result.get("remarks", []):
            out.print(f"{escape(name)}: {escape(remark)}")


def markdown_table(runs: dict[str, str | Path] | Sequence[str | Path], groups: bool = True) -> str:
    """Runs side by side as a Markdown table: a line a task and group, a column a run, baselines at the end.

    `runs` are evaluation folders (or their results.json) by the name to show; without names, the folders' own.
    """
    if not runs:
        raise BodaError("no run to make a table of")
    named = runs if isinstance(runs, dict) else _distinct_names([Path(run) for run in runs])
    lines: dict[tuple[str, ...], dict[str, dict]] = defaultdict(dict)
    for name, run in named.items():
        path = file_of(
            run, "results", "results.json", f"it is written when an evaluation ends; run it (again) with --out {run}"
        )
        for key, result in _lines(read_json(path, ADVICE)["tasks"], groups):
            lines[key][name] = result
    tasks = [key[0] for key in lines]
    baselines = _baselines(result for found in lines.values() for result in found.values())
    table = [["task", "n", *named, *baselines.values()], ["---", *["---:"] * (1 + len(named) + len(baselines))]]
    # Lines of one task stand together even where runs have different groups.
    for key in sorted(lines, key=lambda key: tasks.index(key[0])):
        first = next(iter(lines[key].values()))
        label = f"&nbsp;&nbsp;{key[1]}: {key[2]}" if key[1:] else f"**{key[0]}**"
        scores = [_score(lines[key].get(name)) for name in named]
        table.append([label, f"{first['n']:,}", *scores, *(_percent(first.get(each)) for each in baselines)])
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in table)


def _lines(results: dict[str, dict], groups: bool = True) -> Iterator[tuple[tuple[str, ...], dict]]:
    """(task,) and its result, then (task, tag, value) and the result of that group."""
    for task, result in results.items():
        yield (task,), result
        for tag, values in result.get("groups", {}).items() if groups else ():
            if tag != "answer":  # by reference answer: in results.json, too long for a table
                yield from (((task, tag, value), group) for value, group in values.items())


def _baselines(results: Iterable[dict]) -> dict[str, str]:
    there = {key for result in results for key in result}
    return {key: label for key, label in BASELINES.items() if key in there}


def _score(result: dict | None) -> str:
    if result is None or result["score"] is None:
        return "-" if result is None else f"- ({result['failed']} failed)"
    failed = f", {result['failed']} failed" if result["failed"] else ""
    return f"{_percent(result['score'], result)} ({_interval(result)}{failed})"


def _interval(result: dict) -> str:
    return f"{_percent(result['low'], result)} - {_percent(result['high'], result)}"


def _percent(share: float | None, result: dict | None = None) -> str:
    """A share, or a mark of a result that has a `scale` of its own."""
    return "" if share is None else f"{share:.2f}" if result and "scale" in result else f"{share:.1%}"


def write_report(runs: Sequence[str | Path], out: str | Path | None = None) -> list[Path]:
    """All there is to show of folders that `boda eval` or `boda train` wrote: a table of the evaluations, a sheet of each one's
    answers, a curve of each training; into `out`, or the first of them."""
    if not runs:
        raise BodaError("no run to report on")
    folders = [Path(run) for run in runs]
    for folder in folders:
        if not (folder / "results.json").is_file() and not (folder / "log.jsonl").is_file():
            raise BodaError(f"{folder} holds neither results.json (boda eval) nor log.jsonl (boda train)")
    out, names = Path(out or folders[0]), _distinct_names(folders)
    evaluated: dict[str, str | Path] = {name: folder for name, folder in names.items() if (folder / "results.json").is_file()}
    written: list[Path] = []
    for name, folder in names.items():
        file_name = name.replace("/", "-")
        if name in evaluated:
            written.append(contact_sheet(folder, out / f"{file_name}-answers.png"))
        if (folder / "log.jsonl").is_file():
            written.append(curve(folder, out / f"{file_name}-curve.png"))
    table = [markdown_table(evaluated), TABLE_NOTE, ""] if evaluated else []
    text = ["# Report", "", *table, *(f"![{path.stem}]({path.name})\n" for path in written)]
    (out / "report.md").write_text("\n".join(text), encoding="utf-8")
    return [out / "report.md", *written]


def _distinct_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Each folder by as many of its last names as tell it from the others."""
    for depth in range(1, max(len(folder.absolute().parts) for folder in folders) + 1):
        names = {"/".join(folder.absolute().parts[-depth:]): folder for folder in folders}
        if len(names) == len(folders):
            return names
    raise BodaError(f"a run is named twice: {', '.join(map(str, folders))}")


def curve(run_folder: str | Path, out_png: str | Path) -> Path:
    """The `log.jsonl` of a training run as a picture: loss, validation loss and any accuracy over the steps of all stages."""
    path = file_of(run_folder, "log", "log.jsonl", "a training run writes log.jsonl into its --out folder")
    series, borders = _series(path)
    if "loss" not in series:
        raise BodaError(f"{path} has no record with a loss")
    from matplotlib.figure import Figure

    from boda.data.sheet import saved

    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    steps, losses = zip(*series.pop("loss"))
    smoothed = _smoothed(losses)
    axes.plot(steps, losses, color="#9db7d5", linewidth=0.7, label="loss of a step")
    axes.plot(steps, smoothed, color="#1f4e8c", linewidth=1.8, label="loss, smoothed")
    right = axes.twinx()
    for name, points in series.items():
        side, colour, marker = (right, "#2b8a3e", "s") if "accuracy" in name else (axes, "#c0561a", "o")
        label = name.replace("_", " ")
        side.plot(*zip(*points), color=colour, marker=marker, markersize=3, linewidth=1.2, label=label)
    right.set_ylim(0, 1)
    right.set_ylabel("accuracy")
    axes.legend(handles=[*axes.get_lines(), *right.get_lines()], loc="upper right")
    if not right.get_lines():
        right.remove()
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per trained token)")
    # Steep at first: what happens later would be a flat line if the first steps set the scale.
    axes.set_ylim(0, 1.15 * max(smoothed[len(smoothed) // 50 :]))
    axes.grid(alpha=0.25)
    place: dict = {"xycoords": ("data", "axes fraction"), "xytext": (4, -12), "textcoords": "offset points"}
    for stage, start in borders.items():
        if start > 0:
            axes.axvline(start, color="#888888", linewidth=0.8, linestyle="--")
        axes.annotate(stage, (start, 1), color="#555555", **place)
    return saved(figure, out_png)


def _series(log: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, int]]:
    """{quantity: (step counted over all stages, value)}, and where each stage begins."""
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    borders: dict[str, int] = {}
    reached = 0
    for record in read_lines(log):
        step = borders.setdefault(record.get("stage", ""), reached) + record["step"]
        reached = max(reached, step)
        for name, value in record.items():
            if ("loss" in name or "accuracy" in name) and isinstance(value, (int, float)):
                series[name].append((step, float(value)))
    return series, borders


def _smoothed(values: Sequence[float], share: float = 0.02) -> list[float]:
    """Running mean with a memory of a fiftieth of the run, unbiased at its start."""
    keep = 1 - 1 / max(1.0, len(values) * share)
    mean = weight = 0.0
    result = []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result
