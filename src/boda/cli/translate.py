"""`boda data translate`: any set of texts made Korean in place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boda.cli.console import pairs_of, result, settings
from boda.errors import BodaError

PATHS = "files, patterns, folders: tar shards, json, jsonl, csv, tsv, txt, parquet"
FIELDS = 'what to translate, with commas between, e.g. "conversations[].value,title"; told from the rows unless given'
OPTION = "further settings of the engine, e.g. timeout=30; repeatable"


def translate(
    paths: Annotated[list[str], typer.Argument(help=PATHS)],
    out: Annotated[Path, typer.Option(help="folder of the job; the same command again goes on")],
    engine: Annotated[str, typer.Option(help="openai, deepl, papago, local or dictionary")] = "openai",
    model: Annotated[str, typer.Option(help="as the engine calls it; a folder or hub id for local")] = "",
    url: Annotated[str | None, typer.Option(help="address of the engine's API, such as http://localhost:8000/v1")] = None,
    prompt: Annotated[Path | None, typer.Option(help="a file of what a language model is told")] = None,
    glossary: Annotated[
        Path | None, typer.Option(help="names and their translations: csv, tsv or jsonl of source,target")
    ] = None,
    source_language: Annotated[str, typer.Option(help="en, ja, ...; auto: the engine tells it")] = "auto",
    format: Annotated[str | None, typer.Option(help="format of the rows; told from them unless given")] = None,
    fields: Annotated[str | None, typer.Option(help=FIELDS)] = None,
    preset: Annotated[str, typer.Option(help="boda or openflaminko: which translations are refused")] = "boda",
    skip: Annotated[list[str] | None, typer.Option(help="leave this filter out; repeatable")] = None,
    limits: Annotated[
        list[str] | None, typer.Option("--filter", metavar="KEY=VALUE", help="another limit of the filters")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first rows of each file")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="US dollars a million characters")] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="stop before the job has cost more US dollars (needs --price)")
    ] = None,
    max_characters: Annotated[int | None, typer.Option(min=0, help="stop before more characters are billed")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="requests at a time")] = None,
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help=OPTION)] = None,
    memory: Annotated[Path | None, typer.Option(help="file of the translation memory; in BODA_CACHE unless given")] = None,
    licence: Annotated[str, typer.Option(help="of the texts, for the manifest")] = "",
    keep_going: Annotated[bool, typer.Option("--keep-going", help="even if most of the first rows are refused")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="count rows, characters and price; ask nobody")] = False,
) -> None:
    """Translate data files into Korean in place: only texts change; rows whose translation is no good are left out."""
    from boda.data.translate.engines import open_engine
    from boda.data.translate.job import Task, survey
    from boda.data.translate.job import translate as work
    from boda.recipe.text import read_yaml

    given: dict[str, Any] = {"url": url, "prompt": prompt, "glossary": glossary, "price": price, "concurrency": concurrency}
    given |= {"model": model, "source_language": source_language}
    given = {name: value for name, value in given.items() if value is not None}
    given |= {name: read_yaml(text, f"--option {name}")[0] for name, text in pairs_of(option).items()}
    asked = open_engine(engine, **given)
    if budget is not None and not asked.price:
        raise typer.BadParameter("--budget is in US dollars and needs --price, US dollars a million characters")
    named = [name.strip() for name in (fields or "").split(",") if name.strip()]
    task = Task(
        asked, format, named, preset, pairs_of(limits), skip or (), limit, memory, budget, max_characters, keep_going,
        licence, quiet=settings["quiet"],
    )  # fmt: skip
    if dry_run:
        found = survey(paths, task)
        words = f"{found['rows']:,} rows ({found['bad_rows']:,} cannot be read), {found['units']:,} sentences, {found['distinct']:,} "
        words += f"different ones, {found['to_ask']:,} to be translated: {found['characters']:,} characters"
        result(found, words + (f", ${found['dollars']:,.2f}" if asked.price else "; --price says what they cost"))
        return
    try:
        done = work(paths, out, task)
    except KeyboardInterrupt:
        raise BodaError(f"stopped; what is translated is kept, and the same command goes on with {out}") from None
    refused = ", ".join(f"{name} {number:,}" for name, number in done["rejected"].items())
    words = f"{out}: {done['kept']:,} of {done['rows']:,} rows; {f'refused: {refused}' if refused else 'none refused'}\n"
    words += f"{done['characters']:,} characters, {done['requests']:,} requests, {done['rows_a_second']:.0f} rows a second"
    words += f", ${done['dollars']:,.2f}" if asked.price else ""
    if not done["finished"]:
        words += (
            f"\n{len(done['open'])} of {done['shards']} files are with other processes; the same command does what these leave"
        )
    result(done, words)
