"""`boda data`: look at data sets before training, draw new ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from boda.cli.console import DataDir, Pairs, pairs_of, result, settings
from boda.cli.convert import convert, merge
from boda.cli.filter import filter_rows
from boda.cli.translate import translate

data_app = typer.Typer(help="Data sets: look at them before training, draw new ones.", no_args_is_help=True)
data_app.command()(convert)
data_app.command()(merge)
data_app.command()(translate)
data_app.command("filter")(filter_rows)


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

    said = {"format": format, "images": images, "columns": pairs_of(columns), "where": pairs_of(where)}
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
    from boda.train.preparation import open_source

    blocks: dict[str, tuple] = {}
    for stage in recipe.stages:
        for block in [*stage.data, *(stage.validation if isinstance(stage.validation, list) else [])]:
            blocks.setdefault(block.model_dump_json(exclude={"weight"}), (f"{stage.name}: {block.path}", block))
    start = lambda block: lambda bad: open_source(block, recipe, data, bad).start()  # noqa: E731
    return [(name, start(block)) for name, block in blocks.values()]


@data_app.command()
def draw(
    out: Annotated[Path, typer.Argument(help="folder to write: images/, data.jsonl, sheet.png")],
    what: Annotated[
        str,
        typer.Option(help="questions, descriptions, conversations, words, interleaved, text, preferences, text-preferences"),
    ] = "questions",
    count: Annotated[int, typer.Option(help="how many pictures (texts, documents)")] = 100,
    seed: Annotated[int, typer.Option(help="another seed, other pictures")] = 0,
    layout: Annotated[str | None, typer.Option(help="one, few or many objects; several with commas between")] = None,
    objects: Annotated[int | None, typer.Option(help="exactly so many objects, in place of a layout")] = None,
    pair: Annotated[str | None, typer.Option(help="seen or unseen: pairs of colour and shape kept for testing")] = None,
    kind: Annotated[str | None, typer.Option(help="kinds of questions with commas between, e.g. colour,shape")] = None,
    style: Annotated[str | None, typer.Option(help="formal, polite, plain or short answers")] = None,
    font: Annotated[str | None, typer.Option(help="fonts of words with commas between, e.g. gothic,serif")] = None,
    turns: Annotated[str | None, typer.Option(help="pictures of an interleaved document, e.g. 2,5")] = None,
    words: Annotated[Path | None, typer.Option(help="a file of the words to write")] = None,
) -> None:
    """Draw pictures of shapes or Korean words with questions and answers, as files that anything can read."""
    if layout and objects is not None:
        raise typer.BadParameter("--layout and --objects both say how many objects; give one")
    from boda.data.drawn.write import read_words, write

    layout = layout if objects is None else str(objects)
    chosen = {"layout": layout, "pair": pair, "kind": kind, "style": style, "font": font, "turns": turns}
    where = {name: values.split(",") for name, values in chosen.items() if values}
    done = write(out, what, count, seed, where, read_words(words) if words else None, settings["quiet"])
    number = done["pictures"] or count
    done["per_second"] = number / done["seconds"]
    result(done, f"{out}: {done['pictures']:,} pictures, {done['rows']:,} rows, {done['per_second']:.0f} a second")
