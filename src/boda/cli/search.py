"""`boda index`, `boda search`: pictures found by Korean words or by another picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boda.cli.console import result, say

index_app = typer.Typer(help="Indexes of pictures: build, bring up to date, look at.", no_args_is_help=True)

Address = Annotated[str, typer.Argument(help="the index")]
Table = Annotated[Path | None, typer.Option(help="a Parquet, CSV or JSON-lines file with a row a picture")]
Column = Annotated[str | None, typer.Option(help="the table's column of pictures or their names")]
Keep = Annotated[str, typer.Option(help="columns to keep, with commas between: id,title,price")]
WHAT = "a folder, archive, 'shards-*.tar' or Parquet file; what a table's names start from"
FURTHER = "further pictures; those it has, brought up to date, unless given"
ELSEWHERE = "the model, where the index remembers a place that is not here"


def _bring(write, *what: str | None, table: Path | None, image_column: str | None, keep: str) -> None:
    names = [name.strip() for name in keep.split(",") if name.strip()]
    index = write(*what, table=table, image_column=image_column, keep=names, say=say)
    done = index.built
    counts = ", ".join(f"{number:,} {name}" for name, number in done.items() if name != "n" and number)
    listed = f"; broken ones are listed in {index.store.folder / 'broken.jsonl'}" if done["broken"] else ""
    result(done, f"{index.store.address}: {done['n']:,} pictures ({counts}){listed}")


@index_app.command()
def build(
    images: Annotated[str | None, typer.Argument(help=WHAT)] = None,
    *,
    model: Annotated[str, typer.Option(help="what makes the vectors: a folder, a hub id, or a name Boda ships")],
    out: Annotated[str, typer.Option(help="folder or address of the index, such as s3://bucket/index")],
    table: Table = None,
    image_column: Column = None,
    keep: Keep = "",
) -> None:
    """Make an index, or bring one up to date: what is new or changed is read, what is gone is dropped."""
    from boda.search import Index

    _bring(Index.build, images, model, out, table=table, image_column=image_column, keep=keep)


@index_app.command()
def add(
    index: Address,
    images: Annotated[str | None, typer.Argument(help=FURTHER)] = None,
    table: Table = None,
    image_column: Column = None,
    keep: Keep = "",
) -> None:
    """Add pictures to an index, or bring it up to date with where its pictures come from."""
    from boda.search import Index

    _bring(Index(index).add, images, table=table, image_column=image_column, keep=keep)


@index_app.command()
def stats(index: Address) -> None:
    """Show what an index holds, which model made it, how large it is."""
    from boda.search import Index

    told = Index.open(index).stats()
    shown = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in told.items()}
    result(told, "\n".join(f"{name:<12} {value}" for name, value in shown.items()))


def search(
    index: Address,
    query: Annotated[str | None, typer.Argument(help="what to look for, in words")] = None,
    image: Annotated[Path | None, typer.Option(help="a picture to look for others like it")] = None,
    top: Annotated[int, typer.Option(min=1, help="how many to show")] = 10,
    where: Annotated[str | None, typer.Option(help='a condition on the columns kept: "price < 50000"')] = None,
    group_by: Annotated[str | None, typer.Option(help="only the best picture of each value of this column")] = None,
    sheet: Annotated[Path | None, typer.Option(help="a PNG of what was found")] = None,
    model: Annotated[str | None, typer.Option(help=ELSEWHERE)] = None,
) -> None:
    """Find pictures in an index by words or by another picture."""
    if (query is None) == (image is None):
        raise typer.BadParameter("give words to look for or --image FILE")
    from boda.search import Index, contact_sheet

    hits = Index.open(index, model).search(image or query or "", top, where, group_by)
    kept = ["  ".join(f"{name}={value}" for name, value in hit.values.items()) for hit in hits]
    rows = [f"{place:>3}  {hit.score:.3f}  {hit.image}  {text}" for place, (hit, text) in enumerate(zip(hits, kept), 1)]
    if sheet is not None:
        rows.append(f"sheet: {contact_sheet(hits, sheet, str(query or image))}")
    result({"hits": [hit.as_dict() for hit in hits]}, "\n".join(rows or ["nothing found"]))
