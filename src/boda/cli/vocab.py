"""`boda vocab`: more pieces for a tokenizer and its model, and what they are worth."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from boda.cli.console import DataDir, Pairs, pairs_of, result, settings

vocab_app = typer.Typer(help="Vocabulary: give a tokenizer more pieces, measure what they save.", no_args_is_help=True)

Text = typer.Option(help="a data set to read, as boda data stats does; several may be given")
HeldOut = typer.Option(help="other text to compare before and after on, in a format that can be told")
Format = Annotated[str | None, typer.Option(help="format of the texts' rows; told from them unless given")]
INITIALISE = ("mean", "eeve", "random")


@vocab_app.command()
def extend(
    model: Annotated[str, typer.Argument(help="a model folder or hub id, or a tokenizer alone")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    text: Annotated[list[str] | None, Text] = None,
    taken: Annotated[str | None, typer.Option("--from", help="take the pieces of this tokenizer that are missing")] = None,
    size: Annotated[int | None, typer.Option(help="ids in all when it is done")] = None,
    add: Annotated[int | None, typer.Option(min=1, help="how many pieces to learn")] = None,
    init: Annotated[str, typer.Option(help="what new rows begin as: mean, eeve or random")] = "mean",
    seed: Annotated[int, typer.Option(help="of random rows")] = 0,
    format: Format = None,
    columns: Pairs = None,
    held_out: Annotated[list[str] | None, HeldOut] = None,
    data: DataDir = None,
) -> None:
    """Learn pieces from text, or take another tokenizer's, and write the tokenizer, with its model if it has one."""
    if (text is None) == (taken is None):
        raise typer.BadParameter("pieces are either learnt (--text PATH) or taken (--from TOKENIZER); give one of them")
    if text and (size is None) == (add is None):
        raise typer.BadParameter("say how many: --size N in all or --add N more")
    if not text and (size is not None or add is not None):
        raise typer.BadParameter("--from takes all that are missing")
    if init not in INITIALISE:
        raise typer.BadParameter(f"--init is mean, eeve or random, not {init}")
    from boda.data.texts import read_ahead, texts_in
    from boda.train import expansion

    read = partial(texts_in, text or (), data, settings["quiet"], format=format, columns=pairs_of(columns))
    texts = partial(read_ahead, read) if text else None
    compared = partial(texts_in, held_out, data) if held_out else None
    done = expansion.extend(model, out, texts, taken, size, add, init, seed, compared)
    words = f"{done['pieces']:,} new pieces, {done['size']:,} ids in all; {done['helpers']:,} of them are parts of others"
    words += f", {done['existing']:,} were there, {done['left_out']:,} left out"
    if "megabytes" in done:
        words += f"\n{done['megabytes']:,} MB of text in {done['seconds']} s"
    if "parameters_added" in done:
        words += f"\n{done['parameters_added']:,} parameters more, {done['rows_added']:,} rows; begun as {done['initialise']}"
        words += " of the table that is also the head" if done["tied"] else ""
    if "share_of_new" in done:
        words += f"\nthe new pieces take {done['share_of_new']:.1%} of the probability on text in old ones"
    if "held_out" in done:
        words += "\n" + expansion.table(done["held_out"])
    result({"out": str(out), **done}, f"{words}\n{out}")


@vocab_app.command()
def report(
    tokenizer: Annotated[str, typer.Argument(help="a model or tokenizer: a folder or hub id")],
    text: Annotated[list[str], Text],
    other: Annotated[str | None, typer.Argument(help="a later one to compare it with")] = None,
    format: Format = None,
    columns: Pairs = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many texts of each data set")] = None,
    data: DataDir = None,
) -> None:
    """Measure on text how many tokens a tokenizer needs, and what another one saves."""
    from boda.data.texts import texts_in
    from boda.train import expansion

    texts = texts_in(text, data, settings["quiet"], format=format, columns=pairs_of(columns), limit=limit)
    found = expansion.report(tokenizer, other, list(texts))
    result(found, expansion.table(found))
