"""`boda eval` and `boda report`: scoring models, and showing what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from boda.cli.console import DataDir, OutDir, TrustRemoteCode, result, run_name, settings


def evaluate(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="a model folder, hub id or https://host/v1#name (key: BODA_API_KEY or OPENAI_API_KEY); or a BOARD.yaml"
        ),
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="task names with commas between, e.g. questions:test.jsonl")] = None,
    limit: Annotated[int | None, typer.Option(help="at most so many rows of each task, of every kind its share")] = None,
    blind: Annotated[bool, typer.Option(help="leave the pictures out: what the words alone give away")] = False,
    out: OutDir = None,
    data: DataDir = None,
    judge: Annotated[str | None, typer.Option(help="who scores judged tasks: https://host/v1 (key: BODA_JUDGE_KEY)")] = None,
    judge_model: Annotated[str | None, typer.Option(help="the judge's model, as its server calls it")] = None,
    judge_concurrency: Annotated[int, typer.Option(min=1, help="judgements asked for at a time")] = 8,
    batch_size: Annotated[int, typer.Option(help="questions asked at a time")] = 16,
    processes: Annotated[int, typer.Option(help="so many, each with the model, share the questions")] = 1,
    image_limit: Annotated[int | None, typer.Option(help="shrink pictures whose longer side has more pixels")] = None,
    system: Annotated[str | None, typer.Option(help='a system text in place of the model\'s own; "" for none')] = None,
    engine: Annotated[str | None, typer.Option(help="transformers, or vllm (started by the command in BODA_VLLM)")] = None,
    trust_remote_code: TrustRemoteCode = False,
    list_tasks: Annotated[bool, typer.Option("--list", help="list the tasks there are")] = False,
) -> None:
    """Score a model on evaluation tasks; answers are saved and a second run goes on. Judged tasks need --judge, then or later."""
    from boda import evaluate as evaluation
    from boda.evaluate.report import show

    if list_tasks:
        rows = evaluation.list_tasks()
        result({"tasks": rows}, "\n".join(f"{name:<16} {about}" for name, about in rows.items()))
        return
    if (judge is None) != (judge_model is None):
        raise typer.BadParameter("--judge and --judge-model come together: where the judge is, and which model there")
    asked = {"url": judge, "model": judge_model, "concurrency": judge_concurrency} if judge else None
    if model is not None and model.endswith((".yaml", ".yml")):
        from boda.evaluate.board import run_board

        own = ["tasks", "limit", "blind", "batch_size", "processes", "image_limit", "system", "engine"]
        own += [] if judge else ["judge_concurrency"]
        if given := [name for name in own if context.get_parameter_source(name).name != "DEFAULT"]:  # type: ignore[union-attr]
            raise typer.BadParameter(f"--{given[0].replace('_', '-')}: a board says this itself, in {model}")
        found = run_board(model, out, data, asked, settings["quiet"], trust_remote_code)
        result(found, f"board: {found['board']}")
        return
    if model is None or tasks is None:
        raise typer.BadParameter("boda eval needs a model and --tasks, or a board; `boda eval --list` shows the tasks")
    folder = out or Path("runs") / "eval" / run_name(model)
    scores = evaluation.run(
        model,
        tasks=evaluation.split_tasks(tasks),
        out=folder,
        limit=limit,
        blind=blind,
        data_dir=data,
        batch_size=batch_size,
        quiet=settings["quiet"],
        trust_remote_code=trust_remote_code,
        judge=asked,
        processes=processes,
        image_limit=image_limit,
        system=system,
        engine=engine,
    )
    if settings["quiet"] and not settings["json"]:  # the scores are what was asked for
        show(scores)
    result({"tasks": scores}, f"answers: {folder}")


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="folders that `boda eval`, `boda train` or `boda bench` wrote; with --task also files")
    ],
    out: Annotated[Path | None, typer.Option(help="where to write; beside the first run unless given")] = None,
    task: Annotated[
        str | None, typer.Option(help="print a judged benchmark's own tables, also of files it wrote itself")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="with --task: how far the judge agrees with these judgements")] = None,
    pairwise: Annotated[str | None, typer.Option(help="a task on which a judge compares two runs, answer by answer")] = None,
    judge: Annotated[str | None, typer.Option(help="who compares: https://host/v1 (key: BODA_JUDGE_KEY)")] = None,
    judge_model: Annotated[str | None, typer.Option(help="the judge's model, as its server calls it")] = None,
    language: Annotated[Literal["ko", "en"], typer.Option(help="the language of the page's own words")] = "ko",
) -> None:
    """A page about runs, tables as Markdown and CSV, model cards, a contact sheet of answers, curves of training."""
    if pairwise is not None:
        if len(runs) != 2 or judge is None or judge_model is None:
            raise typer.BadParameter("--pairwise TASK compares two runs by --judge URL --judge-model NAME")
        from boda.evaluate.judge import cost
        from boda.evaluate.pairwise import pairwise as compare

        place = out or Path("runs") / "pairwise" / "-".join(run.resolve().name for run in runs)
        compared = compare(runs[0], runs[1], pairwise, {"url": judge, "model": judge_model}, place, settings["quiet"])
        shown = ("wins", "ties", "losses", "inconsistent", "failed", "score", "low", "high")
        lines = [*(f"{name}: {compared[name]}" for name in shown), *compared["remarks"], cost(compared), f"judgements: {place}"]
        result({"pairwise": compared}, "\n".join(lines))
        return
    if against is not None:
        if task is None or len(runs) != 1:
            raise typer.BadParameter("--against FILE needs --task NAME and one run")
        from boda.evaluate.agreement import against as agreement_with

        agreed = agreement_with(task, runs[0], against)
        result({"agreement": agreed}, "\n".join(f"{name}: {value}" for name, value in agreed.items()))
        return
    if task is not None:
        from boda.evaluate.judged import judged_report

        results, tables = judged_report(task, runs)
        if out:
            out.write_text(tables + "\n", encoding="utf-8")
        result({"tasks": results}, f"{tables}")
        return
    from boda.evaluate.figures import read_runs
    from boda.evaluate.report import write_report

    written = write_report(runs, out, language, settings["quiet"])
    kept = ("score", "n", "failed", "low", "high")
    scores = {
        run.name: {task: {key: found[key] for key in kept} for task, found in run.tasks.items()}
        for run in read_runs(runs)
        if run.results
    }
    found: dict = {"files": [str(path) for path in written], "tasks": next(iter(scores.values()), {}), "runs": scores}
    result(found, "\n".join(map(str, written)))
