"""What was found, as one picture: hits in their order, each with its score and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from boda.data.drawn.fonts import FONTS
from boda.data.images import load_image
from boda.errors import BodaError

if TYPE_CHECKING:
    from boda.search.index import Hit

CELL, GAP, LINE, INK = 200, 12, 20, "#1f2328"


def contact_sheet(hits: Sequence[Hit], out: str | Path, title: str = "", columns: int = 5, font: str | None = None) -> Path:
    """Draws hits as a PNG; a picture that is no longer there is an empty frame."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    face = ImageFont.truetype(font or str(FONTS["gothic"]), 14)
    labels = [[f"{hit.score:.3f}  {hit.name}", *(f"{name}: {value}" for name, value in hit.values.items())][:4] for hit in hits]
    height = CELL + LINE * max(map(len, labels), default=0) + GAP
    columns = max(1, min(columns, len(hits)))
    sheet = Image.new("RGB", (columns * (CELL + GAP) + GAP, LINE + 2 * GAP - -len(hits) // columns * height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), title, INK, face)
    for number, (hit, lines) in enumerate(zip(hits, labels)):
        left, top = GAP + number % columns * (CELL + GAP), LINE + 2 * GAP + number // columns * height
        try:
            sheet.paste(ImageOps.pad(load_image(hit.ref), (CELL, CELL), color="white"), (left, top))
        except BodaError:
            pen.rectangle((left, top, left + CELL, top + CELL), outline="#c62828")
        for place, line in enumerate(lines):
            while face.getlength(line) > CELL:
                line = line[:-2] + "…"
            pen.text((left, top + CELL + place * LINE), line, INK, face)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return Path(out)
