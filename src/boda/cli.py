"""The command line: one function a verb. Heavy libraries are imported inside the verbs, so that `boda --help` answers at once."""

from __future__ import annotations

import errno
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from boda.errors import BodaError

settings = {"quiet": False, "verbose": False, "json": False}


class Verbs(TyperGroup):
    """`--quiet --verbose --json` may stand behind the verb too; what the user can mend is one message, exit code 1."""

    def parse_args(self, ctx, args):
        end = args.index("--") if "--" in args else len(args)
        is_global = [f"--{name}" for name in settings]
        said = [word for word in args[:end] if word in is_global]
        return super().parse_args(ctx, [*said, *(word for word in args[:end] if word not in is_global), *args[end:]])

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            goes_on = ctx.invoked_subcommand in ("train", "eval")
            message = "stopped; run the same command again to go on" if goes_on else "stopped"
        except Exception as error:
            mendable = _explain(error)
            if mendable is None or settings["verbose"]:
                raise
            message = mendable
        print(f"boda: {message}", file=sys.stderr)
        raise typer.Exit(1)


def _explain(error: Exception) -> str | None:
    """What went wrong in one message, for what is no fault of the program; None for everything else."""
    if isinstance(error, BodaError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        place = f" at {error.filename}" if error.filename else ""
        return f"no room on the disk{place} ({error.strerror}); free some space and run the same command again"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"not allowed to use {error.filename or 'a file'}: {error.strerror}"
    if type(error).__name__ == "OutOfMemoryError":
        first = str(error).splitlines()[0]
        return f"the device has no memory left ({first}); a shorter row_length or gradient_checkpointing: true takes less"
    if type(error).__name__ == "ValidationError" and type(error).__module__.startswith("pydantic"):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())  # type: ignore[attr-defined]
    return None


def _plain_warning(message, category, filename, lineno, line=None) -> str:
    """Boda's own warnings as one line; others as Python writes them."""
    own = Path(filename).is_relative_to(Path(__file__).parent)
    return f"boda: {message}\n" if own else _format_warning(message, category, filename, lineno, line)


_format_warning = warnings.formatwarning

app = typer.Typer(
    name="boda",
    cls=Verbs,
    help="Build, prove and serve Korean vision-language models from parts: one recipe, one command.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

data_app = typer.Typer(help="Data sets: look at them before training, draw new ones.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Pairs = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="as the recipe's knob of that name; repeatable")]
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
    warnings.formatwarning = _plain_warning  # type: ignore[assignment]


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
def demo(
    steps: Annotated[int | None, typer.Option(help="train this many steps; the recipe's own unless given")] = None,
) -> None:
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
    from boda.recipe import load_recipe

    load_recipe(recipe, overrides or [])  # a mistake in it is said at once, before torch is imported
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
    from boda.recipe import load_recipe

    load_recipe(recipe, overrides or [])  # a mistake in it is said at once, before torch is imported
    from boda.train import finished, stages

    quiet = settings["quiet"]
    folder = stages.train(recipe, out, stage, processes or stages.default_processes(), overrides or [], data, quiet=quiet)
    if not stages.distributed.is_main():  # torchrun runs this in every process
        return
    summary = finished.summary(folder)
    result(summary, f"model: {folder}")


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="a model folder or hub id")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE PROMPT", help="generation settings, then a question; without one a conversation begins"
        ),
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="a picture to ask about; several may be given")] = None,
    system: Annotated[str | None, typer.Option(help="system text")] = None,
    context: Annotated[str | None, typer.Option(help="text the question is about")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with the model")] = False,
) -> None:
    """Ask a model one question, or talk with it; answers are streamed."""
    from boda.serve.chat import Conversation, split_words

    given, questions = split_words(words or [])
    if len(questions) > 1:
        raise typer.BadParameter(f"one question at a time; put it in quotes: '{' '.join(questions)}'")
    if not questions and settings["json"]:
        raise typer.BadParameter("--json needs a PROMPT: a conversation is no object")
    talk = Conversation(model, image or [], system, context, given, trust_remote_code)
    if not questions:
        talk.interactive()
        return
    answer = talk.ask(questions[0], echo=not settings["json"])
    if settings["json"]:
        print(json.dumps({"answer": answer}, ensure_ascii=False))


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
        raise typer.BadParameter("boda eval needs a model and --tasks; `boda eval --list` shows the tasks")
    folder = out or Path("runs") / "eval" / Path(model.rstrip("/")).resolve().parent.name
    scores = evaluation.run(model, tasks=evaluation.split_tasks(tasks), out=folder, limit=limit, blind=blind, data_dir=data)
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
    from boda.train.finished import merge as merge_run

    folder, difference = merge_run(run, out, stage)
    result(
        {"model": str(folder), "difference": difference}, f"model: {folder} (logits moved by {difference:.1e} of their size)"
    )


@data_app.command("check", help="Read a data set, or a recipe's, decode every picture, list what cannot be used (exit code 1).")
@data_app.command("stats", help="Count what a data set, or a recipe's, holds: rows, turns, pictures, lengths, duplicates.")
def survey_data(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="a file, folder or archive; or a recipe: all data of all its stages")],
    format: Annotated[str | None, typer.Option(help="format of the rows; told from them unless given")] = None,
    images: Annotated[Path | None, typer.Option(help="what the rows' picture names start from")] = None,
    columns: Pairs = None,
    where: Pairs = None,
    question: Annotated[list[str] | None, typer.Option(help="template of the question; several are wordings")] = None,
    answer: Annotated[list[str] | None, typer.Option(help="template of the answer")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many samples of each data set")] = None,
    data: DataDir = None,
    out: Annotated[Path | None, typer.Option(help="folder for bad_rows.jsonl, which lists every bad row")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="check: read the pictures' headers only")] = False,
    tokenizer: Annotated[str | None, typer.Option(metavar="MODEL", help="stats: count its tokens, too")] = None,
) -> None:
    is_check = context.info_name == "check"
    if (fast and not is_check) or (tokenizer and is_check):
        raise typer.BadParameter("--fast is for boda data check, --tokenizer for boda data stats")
    from boda.data import survey

    said = {"format": format, "images": images, "columns": _pairs(columns), "where": _pairs(where)}
    given = {name: value for name, value in {**said, "question": question, "answer": answer}.items() if value}
    sets, count_tokens = _data_sets(path, data, given), None
    if tokenizer:
        from boda.models.assemble import load_tokenizer

        encode = load_tokenizer(tokenizer)
        count_tokens = lambda text: len(encode(text, add_special_tokens=False).input_ids)  # noqa: E731
    found = []
    if out:
        out.mkdir(parents=True, exist_ok=True)
    listed = out / "bad_rows.jsonl" if out else Path(os.devnull)
    with listed.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        for name, start in sets:
            look = survey.Check(fast) if is_check else survey.Stats(count_tokens)
            found.append(survey.survey(name, start, look, survey.FirstBad(stream), limit, settings["quiet"]))
    totals = {key: sum(each[key] for each in found) for key in ("rows", "good", "bad")}
    result({"sets": found, **totals}, "\n".join(map(survey.table, found)))
    if any(each["problem"] or (is_check and each["bad"]) for each in found):
        raise typer.Exit(1)


def _pairs(words: list[str] | None) -> dict[str, str]:
    """KEY=VALUE words."""
    if wrong := [word for word in words or [] if "=" not in word]:
        raise typer.BadParameter(f"'{wrong[0]}' is no KEY=VALUE, such as answer=정답")
    return dict(word.split("=", 1) for word in words or [])


def _data_sets(path: str, data: Path | None, given: dict) -> list[tuple]:
    """(name, function that starts reading it, given where bad rows go) of a path, or of every data block of a recipe."""
    from boda.data.sources import read, resolve_data
    from boda.recipe import load_recipe, recipe_names

    if Path(path).exists() if path in recipe_names() else not path.endswith((".yaml", ".yml")):
        if "images" in given:
            given["images"] = resolve_data(given["images"], data)
        return [(path, lambda bad: read(resolve_data(path, data), bad_rows=bad, **given))]
    if given:
        raise typer.BadParameter(f"{path} is a recipe and says itself how its data are read: leave --{next(iter(given))} out")
    recipe = load_recipe(path)  # a mistake in it is said at once, before torch is imported
    from boda.train.preparation import open_sources

    blocks: dict[str, tuple] = {}
    for stage in recipe.stages:
        for block in [*stage.data, *(stage.validation if isinstance(stage.validation, list) else [])]:
            blocks.setdefault(block.model_dump_json(exclude={"weight"}), (f"{stage.name}: {block.path}", block))
    start = lambda block: lambda bad: open_sources([block], recipe, data, bad)[0][0]()  # noqa: E731
    return [(name, start(block)) for name, block in blocks.values()]


@data_app.command()
def draw(
    out: Annotated[Path, typer.Argument(help="folder to write: images/, data.jsonl, sheet.png")],
    what: Annotated[str, typer.Option(help="questions, descriptions, conversations, preferences, words or text")] = "questions",
    count: Annotated[int, typer.Option(help="how many pictures (texts)")] = 100,
    seed: Annotated[int, typer.Option(help="another seed, other pictures")] = 0,
    layout: Annotated[str | None, typer.Option(help="one, few or many objects; several with commas between")] = None,
    objects: Annotated[int | None, typer.Option(help="exactly so many objects, in place of a layout")] = None,
    pair: Annotated[str | None, typer.Option(help="seen or unseen: pairs of colour and shape kept for testing")] = None,
    kind: Annotated[str | None, typer.Option(help="kinds of questions with commas between, e.g. colour,shape")] = None,
    style: Annotated[str | None, typer.Option(help="formal, polite, plain or short answers")] = None,
    font: Annotated[str | None, typer.Option(help="fonts of words with commas between, e.g. gothic,serif")] = None,
    words: Annotated[Path | None, typer.Option(help="a file of the words to write")] = None,
) -> None:
    """Draw pictures of shapes or Korean words with questions and answers, as files that anything can read."""
    if layout and objects is not None:
        raise typer.BadParameter("--layout and --objects both say how many objects; give one")
    from boda.data.drawn.write import read_words, write

    layout = layout if objects is None else str(objects)
    chosen = {"layout": layout, "pair": pair, "kind": kind, "style": style, "font": font}
    where = {name: values.split(",") for name, values in chosen.items() if values}
    done = write(out, what, count, seed, where, read_words(words) if words else None, say)
    number = done["pictures"] or count
    done["per_second"] = number / done["seconds"]
    result(done, f"{out}: {done['pictures']:,} pictures, {done['rows']:,} rows, {done['per_second']:.0f} a second")


@app.command(name="import")
def import_(
    source: Annotated[str, typer.Argument(help="a LLaVA folder, LoRA folder, mm_projector.bin, or hub id")],
    out: Annotated[Path, typer.Option(help="folder of the model")],
    vision: Annotated[str | None, typer.Option(help="its vision tower, where it is not inside")] = None,
    language: Annotated[str | None, typer.Option(help="its language model, where it is not inside")] = None,
    connector: Annotated[str | None, typer.Option(help="its projector's kind, where it cannot be told")] = None,
    template: Annotated[str | None, typer.Option(help="chat template, where it cannot be told or is told wrongly")] = None,
) -> None:
    """Turn a checkpoint of LLaVA, in its own or in transformers' layout, into a model folder."""
    from boda.models.checkpoints import read_info
    from boda.train.importing import import_checkpoint

    folder = import_checkpoint(source, out, vision, language, connector, template)
    found = read_info(folder)["imported"]
    told = f"chat template: {found['chat_template']} ({found['chat_template_why']}); another with --template"
    result({"model": str(folder), **found}, f"model: {folder}\n{told}")


def main() -> None:
    """Entry point: 0 done, 1 failed, 2 wrong use."""
    app()


if __name__ == "__main__":
    main()
