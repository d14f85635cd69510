"""`boda eval` and `boda report`: scoring models, and showing what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boda.cli.console import DataDir, OutDir, result


def evaluate(
    model: Annotated[str | None, typer.Argument(help="a model folder or hub id")] = None,
    tasks: Annotated[str | None, typer.Option(help="task names with commas between, e.g. questions:test.jsonl")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first rows of each task")] = None,
    blind: Annotated[bool, typer.Option(help="leave the pictures out: what the words alone give away")] = False,
    out: OutDir = None,
    data: DataDir = None,
    judge: Annotated[str | None, typer.Option(help="who scores judged tasks: https://host/v1 (key: BODA_JUDGE_KEY)")] = None,
    judge_model: Annotated[str | None, typer.Option(help="the judge's model, as its server calls it")] = None,
    judge_concurrency: Annotated[int, typer.Option(min=1, help="judgements asked for at a time")] = 8,
    list_tasks: Annotated[bool, typer.Option("--list", help="list the tasks there are")] = False,
) -> None:
    """Score a model on evaluation tasks; answers are saved and a second run goes on. Judged tasks need --judge, then or later."""
    from boda import evaluate as evaluation

    if list_tasks:
        rows = evaluation.list_tasks()
        result({"tasks": rows}, "\n".join(f"{name:<16} {about}" for name, about in rows.items()))
        return
    if model is None or tasks is None:
        raise typer.BadParameter("boda eval needs a model and --tasks; `boda eval --list` shows the tasks")
    if (judge is None) != (judge_model is None):
        raise typer.BadParameter("--judge and --judge-model come together: where the judge is, and which model there")
    asked = {"url": judge, "model": judge_model, "concurrency": judge_concurrency} if judge else None
    folder = out or Path("runs") / "eval" / Path(model.rstrip("/")).resolve().parent.name
    named = evaluation.split_tasks(tasks)
    scores = evaluation.run(model, tasks=named, out=folder, limit=limit, blind=blind, data_dir=data, judge=asked)
    result({"tasks": scores}, f"answers: {folder}")


def report(
    runs: Annotated[list[Path], typer.Argument(help="folders that `boda eval` or `boda train` wrote; with --task also files")],
    out: Annotated[Path | None, typer.Option(help="where to write; beside the first run unless given")] = None,
    task: Annotated[
        str | None, typer.Option(help="print a judged benchmark's own tables, also of files it wrote itself")
    ] = None,
) -> None:
    """Tables, a contact sheet of answers, and curves of what runs have written."""
    if task is not None:
        from boda.evaluate.judged import judged_report

        results, tables = judged_report(task, runs)
        if out:
            out.write_text(tables + "\n", encoding="utf-8")
        result({"tasks": results}, f"{tables}")
        return
    from boda.evaluate.report import write_report

    written = write_report(runs, out)
    result({"files": [str(path) for path in written]}, "\n".join(map(str, written)))
