"""`boda data filter`: rows of a Korean set that are no good left out, with the reasons beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boda.cli.console import DataDir, pairs_of, result, settings


def filter_rows(
    path: Annotated[str, typer.Argument(help="a file, a folder or pattern of files, or two of aligned lines: news.{ko,en}")],
    out: Annotated[Path, typer.Option(help="folder to write: data/ with files of the same names, rejects.jsonl")],
    fields: Annotated[str | None, typer.Option(help="what is looked at, e.g. conversations[].value,title")] = None,
    source_fields: Annotated[str | None, typer.Option(help="what each was translated from, for filters that compare")] = None,
    format: Annotated[str | None, typer.Option(help="format of the rows; told from them unless given")] = None,
    preset: Annotated[str, typer.Option(help="boda, or openflaminko: the published rule")] = "boda",
    skip: Annotated[list[str] | None, typer.Option(help="a filter that is not used; repeatable")] = None,
    limit: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="e.g. emoji=drop; repeatable")] = None,
    similarity: Annotated[str | None, typer.Option(metavar="MODEL", help="a pair model: do text and picture fit?")] = None,
    images: Annotated[Path | None, typer.Option(help="what the rows' picture names start from")] = None,
    back_translation: Annotated[str | None, typer.Option(metavar="ENGINE", help="openai: a model that translates back")] = None,
    engine: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="its settings: model, url, ...; repeatable")
    ] = None,
    data: DataDir = None,
) -> None:
    """Leave out rows that are no good Korean translation, or were there before."""
    from boda.data.filtering import Task, filter_set
    from boda.data.sources import resolve_data
    from boda.data.translate.filters import PRESETS, changed_limits

    if preset not in PRESETS:
        raise typer.BadParameter(f"no preset '{preset}'; there are {', '.join(PRESETS)}")
    filters, limits = PRESETS[preset]
    left_out = {*(skip or []), *(["duplicates"] if preset == "openflaminko" else [])}
    if unknown := sorted(left_out - {*filters, "duplicates"}):
        raise typer.BadParameter(f"no filter '{unknown[0]}'; there are {', '.join([*filters, 'duplicates'])}")
    named = [[name.strip() for name in (text or "").split(",") if name.strip()] for text in (fields, source_fields)]
    task = Task(
        fields=named[0],
        sources=named[1],
        format=format,
        filters={name: each for name, each in filters.items() if name not in left_out},
        limits=changed_limits(limits, pairs_of(limit)),
        has_duplicates="duplicates" in left_out,
        images=resolve_data(images, data) if images else None,
        quiet=settings["quiet"],
    )
    if similarity:
        task.scores["similarity"] = _similarity(similarity)
    if back_translation:
        task.scores["back_translation"] = _back(back_translation, pairs_of(engine))
    done = filter_set(resolve_data(path, data), out, task)
    result(done, _table(done))


def _table(done: dict[str, Any]) -> str:
    lines = [f"{done['rows']:,} rows, {done['kept']:,} kept ({done['kept'] / max(done['rows'], 1):.1%}): {done['out']}"]
    lines += [f"{count:>9,}  {name}" for name, count in done["rejected"].items()]
    if done["skipped"]:
        lines.append(f"not used without sources (--source-fields names them): {', '.join(done['skipped'])}")
    return "\n".join(lines)


def _similarity(model: str):
    from boda.data.sample import IMAGE_MARK
    from boda.evaluate.pairs import vectors_of
    from boda.models.encoder import Encoder

    encoder = Encoder.load(model)

    def score(pairs, images):
        texts = encoder.texts([pair.translation.replace(IMAGE_MARK, " ") for pair in pairs])
        vectors, errors = vectors_of(encoder, images, (), images)
        return [errors.get(place, score) for place, score in enumerate((vectors * texts).sum(axis=1).tolist())]

    return score


def _back(name: str, options: dict[str, str]):
    """Scores by an engine that translates from Korean, as many texts at once as it takes."""
    from concurrent.futures import ThreadPoolExecutor
    from importlib.resources import files

    import yaml

    from boda.data.translate.engines import open_engine
    from boda.data.translate.filters import chrf

    if name not in ("openai", "dictionary"):
        raise typer.BadParameter(f"{name} does not translate from Korean; --back-translation openai asks a language model to")
    prompt = {"prompt": str(files("boda.data.translate") / "prompts" / "back.txt")} if name == "openai" else {}
    given = {key: yaml.safe_load(value) for key, value in options.items()}
    opened = open_engine(name, **{"source_language": "ko", **prompt, **given})
    opened.check()

    def score(pairs, images):
        with ThreadPoolExecutor(opened.concurrency) as threads:
            replies = list(threads.map(lambda pair: opened.translate([pair.translation])[0], pairs))
        return [reply.error or chrf(reply.text, pair.source) for reply, pair in zip(replies, pairs)]

    return score
