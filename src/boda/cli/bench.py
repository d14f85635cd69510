"""`boda bench`: how fast a model answers on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boda.cli.console import result, settings


def bench(
    model: Annotated[str | None, typer.Argument(help="a model folder, hub id, or name that comes with Boda")] = None,
    shape: Annotated[
        str | None, typer.Option(help="a published model's shape with random weights: hyperclovax-0.5b, ...")
    ] = None,
    batch: Annotated[str, typer.Option(help="batch sizes with commas between")] = "1,2,4,8,16",
    prompt_tokens: Annotated[int, typer.Option(help="tokens of text in a prompt; pictures' come on top")] = 64,
    new_tokens: Annotated[int | None, typer.Option(help="tokens of an answer; 64 unless given")] = None,
    images: Annotated[int | None, typer.Option(help="pictures in a prompt; 1 unless given, if the model sees")] = None,
    repetitions: Annotated[int, typer.Option(help="times each is measured; medians are told")] = 3,
    out: Annotated[Path | None, typer.Option(help="folder for bench.json; runs/bench/NAME unless given")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with the model")] = False,
) -> None:
    """Measure a model here: time to the first token, tokens and images a second, memory, share of the memory's bandwidth."""
    from boda.evaluate import latency

    if (model is None) == (shape is None):
        raise typer.BadParameter("boda bench needs a model or --shape, one of the two; --shape list names the shapes")
    place = Path(model or str(shape))
    folder = out or Path("runs") / "bench" / (place.parent.name if place.name == "model" else place.name)
    found = latency.bench(
        model,
        shape,
        batches=latency.read_batches(batch),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        images=images,
        repetitions=repetitions,
        out=folder,
        quiet=settings["quiet"],
        trust_remote_code=trust_remote_code,
    )
    result(found)
    if not settings["json"]:
        latency.show(found)
        result({}, f"measured: {folder / 'bench.json'}")
