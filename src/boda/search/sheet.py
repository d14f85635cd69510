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

CELL, GAP, LINE = 200, 12, 20


def contact_sheet(hits: Sequence[Hit], out: str | Path, title: str = "", columns: int = 5, font: str | None = None) -> Path:
    """Draws hits as a PNG; a picture that is no longer there is an empty frame."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    face = ImageFont.truetype(font or str(FONTS["gothic"]), 14)
    labels = [
        [f"{rank}.  {hit.score:.3f}", hit.name, *(f"{k}: {v}" for k, v in hit.values.items())][:5]
        for rank, hit in enumerate(hits, 1)
    ]
    height = CELL + LINE * max(map(len, labels), default=0) + GAP
    columns = max(1, min(columns, len(hits)))
    rows = -(-len(hits) // columns)
    sheet = Image.new("RGB", (columns * (CELL + GAP) + GAP, LINE + 2 * GAP + rows * height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), title, "#1f2328", face)
    for number, (hit, lines) in enumerate(zip(hits, labels)):
        left, top = GAP + number % columns * (CELL + GAP), LINE + 2 * GAP + number // columns * height
        try:
            picture = ImageOps.contain(load_image(hit.ref), (CELL, CELL))
            sheet.paste(picture, (left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2))
        except BodaError:
            pen.rectangle((left, top, left + CELL, top + CELL), outline="#c62828")
        for place, line in enumerate(lines):
            while face.getlength(line) > CELL:
                line = line[:-2] + "…"
            pen.text((left, top + CELL + place * LINE), line, "#1f2328", face)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return Path(out)
