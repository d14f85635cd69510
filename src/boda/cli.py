"""The command line: one function a verb. Heavy libraries are imported inside the verbs, so that `boda --help` answers at once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from boda.errors import BodaError

app = typer.Typer(
    name="boda",
    help="Build, prove and serve Korean vision-language models from parts: one recipe, one command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
settings = {"quiet": False, "verbose": False, "json": False}

Overrides = Annotated[list[str] | None, typer.Argument(help="knobs to change, e.g. seed=1 stages.align.max_steps=20")]
DataDir = Annotated[Path | None, typer.Option("--data", help="where relative data paths are looked up first")]
OutDir = Annotated[Path | None, typer.Option("--out", help="folder of the run; runs/<recipe> unless given")]


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", help="say only what was asked for")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="say everything, with tracebacks")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="put one JSON object on the last line of the output")] = False,
) -> None:
    settings.update(quiet=quiet, verbose=verbose, json=as_json)


def say(text: str) -> None:
    """For people: nothing with --quiet; on stderr with --json, which keeps stdout for the object."""
    if not settings["quiet"]:
        print(text, file=sys.stderr if settings["json"] else sys.stdout, flush=True)


def result(values: dict, text: str) -> None:
    """The outcome of a verb: `text` for people, `values` with --json."""
    if settings["json"]:
        print(json.dumps(values, ensure_ascii=False))
    else:
        print(text)


@app.command()
def demo(steps: Annotated[int | None, typer.Option(help="train this many steps; the recipe's own unless given")] = None) -> None:
    """Draw pictures, train a small model on them live, and show what it answers. Needs no download."""
    from boda.serve.demo import run_demo

    outcome = run_demo(say, steps)
    if settings["json"]:
        print(json.dumps(outcome, ensure_ascii=False))


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="print this recipe")] = None) -> None:
    """List the recipes that come with Boda, or print one."""
    from boda.recipe import load_recipe, recipe_names, recipe_text

    if name is not None:
        text = recipe_text(name)
        result({"name": name, "text": text}, text)
        return
    rows = []
    for shipped in recipe_names():
        about = next((line.lstrip("# ") for line in recipe_text(shipped).splitlines() if line.startswith("#")), "")
        rows.append({"name": shipped, "about": about, "stages": [stage.name for stage in load_recipe(shipped).stages]})
    width = max((len(row["name"]) for row in rows), default=0)
    result({"recipes": rows}, "\n".join(f"{row['name']:<{width}}  {row['about']}" for row in rows))


@app.command()
def inspect(
    recipe: str,
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(help="which stage; the first unless given")] = None,
    data: DataDir = None,
    samples: Annotated[int, typer.Option(help="how many samples to show")] = 3,
    gpu: Annotated[str | None, typer.Option(help="estimate for this GPU, e.g. a100-80g")] = None,
    count: Annotated[int, typer.Option(help="how many of them")] = 1,
) -> None:
    """Show what would be trained: coloured samples, token counts, memory, time, bad rows. Trains nothing."""
    from boda.train.inspect import inspect as look

    report = look(recipe, overrides or [], stage, data, samples, gpu, count)
    if settings["json"]:
        print(json.dumps(report.values, ensure_ascii=False))
    else:
        report.show()


@app.command()
def train(
    recipe: str,
    overrides: Overrides = None,
    stage: Annotated[str | None, typer.Option(help="stop after this stage")] = None,
    out: OutDir = None,
    processes: Annotated[int | None, typer.Option(help="how many take part; all visible GPUs unless given")] = None,
    data: DataDir = None,
) -> None:
    """Train a recipe. The same command again goes on where it stopped."""
    from boda.train import stages

    quiet = settings["quiet"]
    folder = stages.train(recipe, out, stage, processes or stages.default_processes(), overrides or [], data, quiet=quiet)
    summary = stages.summary(folder)
    result(summary, f"model: {folder}")


@app.command()
def chat(
    model: str,
    prompt: Annotated[str | None, typer.Argument(help="one question; without it a conversation begins")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="generation settings, e.g. temperature=0.7")] = None,
    image: Annotated[list[Path] | None, typer.Option(help="a picture to ask about; several may be given")] = None,
    system: Annotated[str | None, typer.Option(help="system text")] = None,
    context: Annotated[str | None, typer.Option(help="text the question is about")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="run code that comes with the model")] = False,
) -> None:
    """Ask a model one question, or talk with it; answers are streamed."""
    from boda.serve.chat import Conversation

    words = list(overrides or [])
    if prompt is not None and _is_setting(prompt):
        words, prompt = [prompt, *words], None
    # `boda chat MODEL key=value PROMPT`: the one word that is no setting is the question.
    questions = [word for word in words if not _is_setting(word)]
    if questions and (prompt is not None or len(questions) > 1):
        raise BodaError(f"one question at a time; put it in quotes: '{' '.join([*([prompt] if prompt else []), *questions])}'")
    prompt = questions[0] if questions else prompt
    talk = Conversation(model, image or [], system, context, [w for w in words if _is_setting(w)], trust_remote_code)
    if prompt is None:
        talk.interactive()
        return
    answer = talk.ask(prompt, echo=not settings["json"])
    if settings["json"]:
        print(json.dumps({"answer": answer}, ensure_ascii=False))


def _is_setting(word: str) -> bool:
    return re.fullmatch(r"[a-z_]+=\S.*", word) is not None


@app.command(name="eval")
def evaluate(
    model: Annotated[str | None, typer.Argument(help="a model folder or hub id")] = None,
    tasks: Annotated[str | None, typer.Option(help="task names with commas between, e.g. questions:test.jsonl")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first rows of each task")] = None,
    blind: Annotated[bool, typer.Option(help="leave the pictures out: what the words alone give away")] = False,
    out: OutDir = None,
    data: DataDir = None,
    list_tasks: Annotated[bool, typer.Option("--list", help="list the tasks there are")] = False,
) -> None:
    """Score a model on evaluation tasks; answers are saved and a second run goes on."""
    from boda import evaluate as evaluation

    if list_tasks:
        rows = evaluation.list_tasks()
        result({"tasks": rows}, "\n".join(f"{name:<16} {about}" for name, about in rows.items()))
        return
    if model is None or tasks is None:
        raise BodaError("boda eval needs a model and --tasks; `boda eval --list` shows the tasks")
    folder = out or Path("runs") / "eval" / Path(model.rstrip("/")).resolve().parent.name
    scores = evaluation.run(model, tasks=tasks.split(","), out=folder, limit=limit, blind=blind, data_dir=data)
    result({"tasks": scores}, f"answers: {folder}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="folders that `boda eval` or `boda train` wrote")],
    out: Annotated[Path | None, typer.Option(help="where to write; beside the first run unless given")] = None,
) -> None:
    """Tables, a contact sheet of answers, and curves of what runs have written."""
    from boda.evaluate.report import write_report

    written = write_report(runs, out)
    result({"files": [str(path) for path in written]}, "\n".join(map(str, written)))


@app.command()
def merge(
    run: Annotated[Path, typer.Argument(help="a run folder (runs/NAME)")],
    out: Annotated[Path, typer.Option(help="folder of the merged model")],
    stage: Annotated[str | None, typer.Option(help="up to this stage; the last finished one unless given")] = None,
) -> None:
    """Write a run's trained stages as one complete model folder, and check that merging changed nothing."""
    from boda.train.stages import merge as merge_run

    folder, difference = merge_run(run, out, stage)
    result({"model": str(folder), "difference": difference}, f"model: {folder} (logits moved by {difference:.1e} of their size)")


def main() -> None:
    """Entry point: 0 done, 1 failed, 2 wrong use; a user's mistake is one message and no traceback."""
    try:
        code = app(standalone_mode=False)
    except BodaError as error:
        if settings["verbose"]:
            raise
        print(f"boda: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("boda: stopped", file=sys.stderr)
        code = 1
    except typer.Exit as error:
        code = error.exit_code
    except Exception as error:
        code = _usage_error(error)
    sys.exit(code or 0)


def _usage_error(error: Exception) -> int:
    """Shows click's own errors as click does; anything else is ours and keeps its traceback."""
    show = getattr(error, "show", None)
    if show is None or not hasattr(error, "exit_code"):
        raise error
    show()
    return error.exit_code


if __name__ == "__main__":
    main()
