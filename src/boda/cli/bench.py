"""`boda bench`: how fast a model answers on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from boda.cli.console import TrustRemoteCode, result, run_name, settings


def bench(
    model: Annotated[str | None, typer.Argument(help="a model folder, hub id, or name that comes with Boda")] = None,
    shape: Annotated[
        str | None, typer.Option(help="a published model's shape with random weights; `list` names them with their memory")
    ] = None,
    batch: Annotated[str, typer.Option(help="batch sizes with commas between")] = "1,2,4,8,16",
    prompt_tokens: Annotated[int, typer.Option(help="tokens of text in a prompt; pictures' come on top")] = 64,
    new_tokens: Annotated[int | None, typer.Option(help="tokens of an answer; 64 unless given")] = None,
    images: Annotated[int | None, typer.Option(help="pictures in a prompt; 1 unless given, if the model sees")] = None,
    repetitions: Annotated[int, typer.Option(help="times each is measured; medians are told")] = 3,
    out: Annotated[Path | None, typer.Option(help="folder for bench.json; runs/bench/NAME unless given")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure a model here: time to the first token, tokens and images a second, memory, share of the memory's bandwidth."""
    from boda.evaluate import latency, shapes

    if (model is None) == (shape is None):
        raise typer.BadParameter("boda bench needs a model or --shape, one of the two; --shape list names the shapes")
    if shape == "list":
        sizes = {name: 2 * shapes.parameters_of(name) for name in shapes.SHAPES}
        result({"shapes": sizes}, "\n".join(f"{name:<18} {size / 1e9:5.1f} GB in bf16" for name, size in sizes.items()))
        return
    if not re.fullmatch(r" *[1-9]\d* *(, *[1-9]\d* *)*", batch, re.ASCII):
        raise typer.BadParameter(f"--batch '{batch}': whole numbers of at least 1 with commas between, such as 1,2,4")
    folder = out or Path("runs") / "bench" / run_name(model or str(shape))
    found = latency.bench(
        model,
        shape,
        batches=list(map(int, batch.split(","))),
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
