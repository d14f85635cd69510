"""The command line: one function a verb. Heavy libraries are imported inside the verbs, so that `boda --help` answers at once."""

from __future__ import annotations

import errno
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from boda.cli import clip, evaluation
from boda.cli.bench import bench
from boda.cli.console import DataDir, OutDir, Overrides, TrustRemoteCode, result, say, settings
from boda.cli.data import data_app
from boda.cli.search import index_app, search
from boda.cli.vocab import vocab_app
from boda.errors import BodaError


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
            goes_on = ctx.invoked_subcommand in ("train", "eval", "demo", "index")
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
    own = Path(filename).is_relative_to(Path(__file__).parents[1])
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

app.add_typer(data_app, name="data")
app.command()(clip.classify)
app.command()(clip.patches)
app.add_typer(index_app, name="index")
app.add_typer(vocab_app, name="vocab")
app.command()(search)
app.command(name="eval")(evaluation.evaluate)
app.command()(evaluation.report)
app.command()(bench)


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", help="say only what was asked for")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="say everything, with tracebacks")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="put one JSON object on the last line of the output")] = False,
) -> None:
    settings.update(quiet=quiet, verbose=verbose, json=as_json)
    warnings.formatwarning = _plain_warning  # type: ignore[assignment]


@app.command()
def demo(
    steps: Annotated[
        int | None, typer.Option(min=1, help="train each stage this many steps; the recipe's own unless given")
    ] = None,
) -> None:
    """Draw pictures, train a small model on them live, and show what it answers. Needs no download."""
    from boda.serve.demo import run_demo

    result(run_demo(say, steps, settings["quiet"]))


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
    result(report.values)
    if not settings["json"]:
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

    processes, quiet = processes or stages.default_processes(), settings["quiet"]
    folder = stages.train(recipe, out, stage, processes, overrides or [], data, quiet=quiet)
    if stages.distributed.is_main():  # torchrun runs this in every process
        result(finished.summary(folder), f"model: {folder}")


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
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Ask a model one question, or talk with it; answers are streamed."""
    from boda.serve.chat import Conversation, split_words

    given, questions = split_words(words or [])
    if len(questions) > 1:
        raise typer.BadParameter(f"one question at a time; put it in quotes: '{' '.join(questions)}'")
    if not questions and settings["json"]:
        raise typer.BadParameter("--json needs a PROMPT: a conversation is no object")
    talk = Conversation(model, image or [], system, context, given, trust_remote_code)
    if questions:
        result({"answer": talk.ask(questions[0], echo=not settings["json"])})
    else:
        talk.interactive()


@app.command()
def merge(
    run: Annotated[Path, typer.Argument(help="a run folder (runs/NAME)")],
    out: Annotated[Path, typer.Option(help="folder of the merged model")],
    stage: Annotated[str | None, typer.Option(help="up to this stage; the last finished one unless given")] = None,
) -> None:
    """Write a run's trained stages as one complete model folder, and check that merging changed nothing."""
    from boda.train.finished import merge as merge_run

    folder, difference = merge_run(run, out, stage)
    told = f"model: {folder} (logits moved by {difference:.1e} of their size)"
    result({"model": str(folder), "difference": difference}, told)


@app.command(name="import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="a folder or hub id of a LLaVA, a LoRA of one, or a Flax KoCLIP; an mm_projector.bin; OpenFlamingo's .pt"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder of the model")],
    vision: Annotated[str | None, typer.Option(help="its vision tower, where it is not inside")] = None,
    language: Annotated[str | None, typer.Option(help="its language model (or tokenizer), where it is not inside")] = None,
    connector: Annotated[str | None, typer.Option(help="its projector's kind, where it cannot be told")] = None,
    template: Annotated[str | None, typer.Option(help="chat template, where it cannot be told or is told wrongly")] = None,
) -> None:
    """Turn a checkpoint of LLaVA, in its own or in transformers' layout, OpenFlamingo or Flax KoCLIP into a model folder."""
    from boda.models.checkpoints import read_info
    from boda.train.importing import import_checkpoint

    folder = import_checkpoint(source, out, vision, language, connector, template)
    found = read_info(folder)["imported"]
    told = f"tokenizer: {found['tokenizer']}" if "tokenizer" in found else ""
    told = told or f"chat template: {found['chat_template']} ({found['chat_template_why']}); another with --template"
    result({"model": str(folder), **found}, "\n".join([f"model: {folder}", *found.get("notes", ()), told]))


def main() -> None:
    """Entry point: 0 done, 1 failed, 2 wrong use."""
    app()
