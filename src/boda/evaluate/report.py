"""What people look at: the table of a run on the terminal, and the report of runs: a page, tables as text, pictures, model cards."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from rich.markup import escape
from rich.table import Table

from boda.evaluate.card import model_cards
from boda.evaluate.figures import (
    Run,
    baselines,
    interval,
    lines,
    markdown,
    markdown_table,
    percent,
    published_score,
    read_runs,
    upstream_of,
)
from boda.evaluate.judge import cost
from boda.evaluate.page import page
from boda.evaluate.sheets import contact_sheet, curve
from boda.files import whole_file
from boda.terminal import console

TABLE_NOTE = (
    "Score with 95 % bootstrap interval over pictures. *majority*: always the most frequent answer of these questions. "
    "*by words alone*: for each question its most frequent answer in training."
)
COLUMNS = "run model blind task group value score low high n failed upstream measure chance majority".split()


def show(results: dict[str, dict], title: str = "") -> None:
    """The table of a run on the terminal: each task, its groups below it."""
    ends = baselines(results.values())
    table = Table(title=title, title_justify="left")
    table.add_column("task", overflow="fold")
    for column in ("n", "score", "95 %", *ends.values(), "failed"):
        table.add_column(column, justify="right", no_wrap=True)
    for (name, *group), result in lines(results):
        scores = ("-", "-") if result["score"] is None else (percent(result["score"], result), interval(result))
        shares = [percent(result.get(key)) for key in ends]
        failed = f"[red]{result['failed']}[/red]" if result["failed"] else "0"
        label, style = (f"  {'='.join(group)}", "") if group else (name, "bold")
        table.add_row(escape(label), f"{result['n']:,}", *scores, *shares, failed, style=style)
    out = console()
    out.print(table)
    for name, result in results.items():
        for remark in [*result.get("remarks", []), *filter(None, [cost(result)])]:
            out.print(f"{escape(name)}: {escape(remark)}")


def write_report(
    runs: Sequence[str | Path], out: str | Path | None = None, language: Literal["ko", "en"] = "ko", quiet: bool = False
) -> list[Path]:
    """All there is to show of folders that `boda eval`, `boda train`, `boda bench` or a board wrote, into `out` or the first of them.

    `report.html` (first of the paths given back; one file that needs nothing else), `report.md`, `report.csv`, of a single model with
    a `boda.json` `model-card.md` and `model-card.ko.md`, a sheet of each evaluation's answers and a curve of each training as PNG.
    Raises BodaError: nothing to show, or a file of a run that cannot be read.
    """
    found = read_runs(runs)
    out = Path(out or runs[0])
    evaluated = [run for run in found if run.results]
    pictures: list[Path] = []
    for run in found:
        if run.folder not in map(Path, runs):
            continue  # a board's own: hundreds, and the page shows the answers
        file_name = run.name.replace("/", "-")
        if run.has_answers:
            pictures.append(contact_sheet(run.folder, out / f"{file_name}-answers.png"))
        if run.log:
            pictures.append(curve(run.folder, out / f"{file_name}-curve.png"))
    cards, why = model_cards(found)
    text, remarks = page(found, language)
    if not quiet:
        for remark in [*remarks, *([f"no model card: {why}"] if why else [])]:
            console(stderr=True).print(escape(remark))
    texts = {"report.html": text, "report.md": _markdown(found, pictures)}
    texts |= {"report.csv": _csv(evaluated)} if evaluated else {}
    for name, told in (texts | cards).items():
        with whole_file(out / name) as path:
            path.write_text(told, encoding="utf-8", errors="replace")
    return [*(out / name for name in texts | cards), *pictures]


def _markdown(runs: Sequence[Run], pictures: Sequence[Path]) -> str:
    evaluated = [run for run in runs if run.results]
    told = ["# Report", ""]
    if evaluated:
        told += [markdown_table(evaluated), TABLE_NOTE, ""]
    rules = [[task, run.name, percent(result["score"], result), published_score(found, result), found.get("rule", "")]
             for run in evaluated for task, result in run.tasks.items() if (found := upstream_of(result))]  # fmt: skip
    if rules:
        told += ["## By the published rule", "", markdown(["task", "run", "Boda", "published rule", "the rule"], rules)]
    for run in runs:
        for table in run.board.get("tables", []):
            head = ["", "rank", "score", "95 %", "n", "failed", "flag"]
            told += [f"## {table['task']}", "", markdown(head, [_board_row(row) for row in table["rows"]])]
            told += [f"- {line}" for line in table.get("differences", [])] + [""]
    for bench in (run.bench for run in runs if run.bench):
        names = list(dict.fromkeys(name for row in bench["rows"] for name in row if row[name] is not None))
        cells = [[f"{row[name]:.4g}" if row.get(name) is not None else "-" for name in names] for row in bench["rows"]]
        told += [f"## Speed of {bench.get('model', '')}", "", markdown(names, cells) if names else ""]
        told += [f"- batch {each['batch']} is left out: {each['why']}" for each in bench.get("left_out", [])] + [""]
    if remarks := [f"- {run.name}, {task}: {line}" for run in evaluated for task, result in run.tasks.items()
                   for line in result.get("remarks", [])]:  # fmt: skip
        told += ["## Remarks", "", *remarks, ""]
    return "\n".join([*told, *(f"![{path.stem}]({quote(path.name)})\n" for path in pictures)])


def _board_row(row: dict) -> list[str]:
    rank = "-".join(map(str, dict.fromkeys(row["rank"]))) if row.get("rank") else ""
    name = row["name"] if row["kind"] == "model" else f"*{row['name']}*"
    between = interval(row) if row.get("low") is not None else ""
    counts = ["" if row.get(key) is None else f"{row[key]:,}" for key in ("n", "failed")]
    return [name, rank, percent(row.get("score"), row), between, *counts, row.get("flag") or ""]


def _csv(runs: Sequence[Run]) -> str:
    """A line a run, task and group, numbers in full; `measure` says what the published figure is if it is another one than the score."""
    stream = StringIO()
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for run in runs:
        for (task, *group), result in lines(run.tasks):
            published = upstream_of(result) or {}
            told = dict(zip(("group", "value"), group)) | {
                "upstream": published.get("score"),
                "measure": published.get("measure"),
            }
            whose = {"run": run.name, "model": run.results.get("model"), "blind": int(run.is_blind), "task": task}
            writer.writerow(result | whose | told)
    return stream.getvalue()
