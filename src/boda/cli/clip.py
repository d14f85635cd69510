"""`boda classify` and `boda patches`: what a pair model says of one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boda.cli.console import result, say
from boda.errors import BodaError

Model = Annotated[str, typer.Argument(help="a pair model: a folder, hub id or name that comes with Boda")]
Picture = Annotated[Path, typer.Argument(metavar="IMAGE", help="the picture")]


def classify(
    model: Model,
    image: Picture,
    labels: Annotated[list[str] | None, typer.Argument(metavar="LABEL ...", help="what it may show")] = None,
    template: Annotated[str, typer.Option(help="said of it; {} is the label, {:이가} with a particle")] = "이것은 {} 이다.",
    chart: Annotated[Path | None, typer.Option(help="draw the probabilities into this picture")] = None,
) -> None:
    """Which of some labels fits a picture, with no training for them."""
    from boda.serve import uses

    uses.check_labels(labels or [], template)  # mistakes are said before a model is loaded
    scores = uses.classify(_encoder(model, image, chart), image, labels or [], template)["scores"]
    if chart:
        _save(uses.bar_chart(scores, template), chart)
    ordered = sorted(scores.items(), key=lambda item: -item[1])
    result({"scores": scores}, "\n".join(f"{share:7.1%}  {'█' * round(24 * share):<24}  {label}" for label, share in ordered))


def patches(
    model: Model,
    image: Picture,
    prompt: Annotated[str, typer.Argument(help="what to look for in it")],
    grid: Annotated[str, typer.Option(help="rows x columns of the tiles that are ranked")] = "3x3",
    out: Annotated[Path | None, typer.Option(help="lay a heat map over the picture and write it here")] = None,
) -> None:
    """Which part of a picture a text means: tiles ranked, and a heat map."""
    from boda.serve import uses

    rows, columns = uses.read_grid(grid)
    encoder = _encoder(model, image, out)
    found = uses.patches(encoder, image, prompt, (rows, columns))
    if out:
        _save(uses.heat_map(encoder, image, prompt, found), out)
    lines = [" ".join(f"{score:7.1%}" for score in found.scores[row * columns : (row + 1) * columns]) for row in range(rows)]
    lines.append(f"best: row {found.best // columns + 1}, column {found.best % columns + 1}")
    result({"grid": [rows, columns], "best": found.best, "scores": list(found.scores)}, "\n".join(lines))


def _encoder(model: str, image: Path, out: Path | None):
    """The model's Encoder, once it is certain that there is a picture to look at and a name to write one under."""
    from boda.data.images import probe_image
    from boda.models.encoder import Encoder

    probe_image(image)
    if out and out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise BodaError(f"{out}: a picture is written as .png, .jpg or .webp")
    return Encoder.load(model)


def _save(picture, path: Path) -> None:
    from boda.data.sheet import saved

    say(f"picture: {saved(picture, path)}")
