"""`boda data convert` and `boda data merge`: data sets in another format, and several as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boda.cli.console import DataDir, Pairs, pairs_of, result, settings

TO = "llava, messages, parquet or webdataset"
Out = Annotated[Path, typer.Option(help="folder to write, new or empty")]
Format = Annotated[str | None, typer.Option(help="format of the rows; told from them unless given")]
Images = Annotated[Path | None, typer.Option(help="what the rows' picture names start from, before and after")]
Copies = Annotated[bool, typer.Option("--copy-images", help="copy picture files into the folder, too")]
PerShard = Annotated[int | None, typer.Option(min=1, help="rows of a file of Parquet or shards (10,000)")]
MaxBad = Annotated[float, typer.Option(min=0, max=1, help="stop if a larger share of the rows cannot be used")]


def convert(
    path: Annotated[str, typer.Argument(help="a file, folder, pattern or archive")],
    to: Annotated[str, typer.Option(help=TO)],
    out: Out,
    format: Format = None,
    images: Images = None,
    columns: Pairs = None,
    where: Pairs = None,
    question: Annotated[list[str] | None, typer.Option(help="template of the question; several are wordings")] = None,
    answer: Annotated[list[str] | None, typer.Option(help="template of the answer")] = None,
    licence: Annotated[str, typer.Option(help="written into every row")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="only so many samples")] = None,
    single_turns: Annotated[bool, typer.Option("--single-turns", help="each question of a conversation for itself")] = False,
    per_shard: PerShard = None,
    copy_images: Copies = False,
    max_bad_rows: MaxBad = 0.01,
    data: DataDir = None,
) -> None:
    """Write a data set in another format: LLaVA's JSON, rows of messages, Parquet with pictures, tar shards."""
    from boda.data import convert as converting
    from boda.data.sources import read, resolve_data

    file = resolve_data(path, data)
    pictures = resolve_data(images, data) if images else None
    given: dict[str, Any] = {"columns": pairs_of(columns), "where": pairs_of(where), "limit": limit, "licence": licence}
    given |= {"question": question or None, "answer": answer or None}

    def start(bad):
        samples = read(file, format, images=pictures, bad_rows=bad, **given)
        return (each for sample in samples for each in converting.single_turns(sample)) if single_turns else samples

    done = converting.convert(start, to, out, **_writing(pictures, copy_images, per_shard, max_bad_rows))
    result(done, _said(done))


def merge(
    paths: Annotated[list[str], typer.Argument(help="two data sets or more; or a translation job: its files as one")],
    out: Out,
    to: Annotated[str | None, typer.Option(help=f"{TO}; that of the first set unless given")] = None,
    format: Format = None,
    images: Images = None,
    columns: Pairs = None,
    weights: Annotated[str | None, typer.Option(help="how often each set is taken, with commas between: 1,0.5")] = None,
    drop_duplicates: Annotated[bool, typer.Option("--drop-duplicates", help="that say the same of the same pictures")] = False,
    per_shard: PerShard = None,
    copy_images: Copies = False,
    max_bad_rows: MaxBad = 0.01,
    data: DataDir = None,
) -> None:
    """Write several data sets as one, with new ids and, in `source`, where each row came from."""
    from boda.data.merge import merge as write
    from boda.data.sources import resolve_data

    pictures = resolve_data(images, data) if images else None
    try:
        times = [float(word) for word in weights.split(",")] if weights else None
    except ValueError:
        raise typer.BadParameter(f"--weights {weights}: numbers with commas between, such as 1,0.5") from None
    reading = {"format": format, "images": pictures, "columns": pairs_of(columns)}
    files, writing = [resolve_data(path, data) for path in paths], _writing(pictures, copy_images, per_shard, max_bad_rows)
    done = write(files, out, to, weights=times, drop_duplicates=drop_duplicates, reading=reading, **writing)
    counts = [f"  {count:,} from {name}" for name, count in done["sets"].items()]
    dropped = [f"  {done['duplicates']:,} left out because the same was there before"] * drop_duplicates
    result(done, "\n".join([_said(done), *counts, *dropped]))


def _writing(images: Path | None, copies: bool, per_shard: int | None, most: float) -> dict[str, Any]:
    chosen = {"images": images, "copy_images": copies, "per_shard": per_shard, "max_bad_rows": most}
    return {**chosen, "quiet": settings["quiet"]}


def _said(done: dict[str, Any]) -> str:
    lines = [f"{done['folder']}: {done['samples']:,} samples as {done['to']}"]
    if done["images"]:
        lines.append(f"  pictures are named from {done['images']}: read it with --images {done['images']}")
    if done["bad"]:
        lines.append(f"  {done['bad']:,} of {done['rows']:,} rows could not be used: {done['folder']}.bad_rows.jsonl")
    if done["joined"]:
        lines.append(f"  {done['joined']:,} had instruction and input apart, which llava holds as one text")
    return "\n".join(lines)
