"""Sheets: pictures side by side as one PNG, words below each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from boda.data.drawn.fonts import korean_font
from boda.data.images import Picture, load_image
from boda.errors import BodaError

PICTURE, MARGIN, FRAME, LINE, TEXT_SIZE = 208, 12, 4, 22, 17
INK, FAINT = "#1f2328", "#6b7280"


class Cell(NamedTuple):
    """Pictures in one frame (None: one that was not kept), and texts below it, each with its ink and its most lines."""

    pictures: Sequence[Picture | None]
    texts: Sequence[tuple[str, str, int]] = ()
    frame: str = "white"


def draw_sheet(cells: Sequence[Cell], out: str | Path, title: str = "", columns: int = 5, side: int = PICTURE) -> Path:
    """Draws cells line by line, pictures within `side` pixels; why a picture cannot be read stands in its place."""
    font = ImageFont.truetype(korean_font(), TEXT_SIZE)
    drawn = [_drawn(cell, side, font) for cell in cells]
    lines = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    heights = [max(cell.height for cell in line) + MARGIN for line in lines]
    step, top = side + 2 * FRAME + MARGIN, MARGIN + (LINE + MARGIN) * bool(title)
    sheet = Image.new("RGB", (max(map(len, lines), default=1) * step + MARGIN, top + sum(heights)), "white")
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN), _fitting(title, font, sheet.width - 2 * MARGIN), INK, font)
    for line, height in zip(lines, heights):
        for column, cell in enumerate(line):
            sheet.paste(cell, (MARGIN + column * step, top))
        top += height
    return saved(sheet, out)


def _drawn(cell: Cell, side: int, font) -> Image.Image:
    width = side + 2 * FRAME
    lines = [(line, ink) for text, ink, most in cell.texts for line in wrapped(text, font, width, most)]
    drawn = Image.new("RGB", (width, width + 6 * bool(lines) + LINE * len(lines)), "white")
    pen = ImageDraw.Draw(drawn)
    pen.rectangle((0, 0, width - 1, width - 1), outline=cell.frame, width=FRAME)
    each = side // max(1, len(cell.pictures))
    for number, picture in enumerate(cell.pictures or [None]):
        left, missing = FRAME + number * each, "(not kept)" if cell.pictures else "(no picture)"
        try:
            if picture is not None:
                _put(drawn, load_image(picture), left, each, side)
                continue
        except BodaError as error:
            missing = str(error)
        for place, line in enumerate(wrapped(missing, font, each - 16, 6)):
            pen.text((left + 8, FRAME + 8 + place * LINE), line, FAINT, font)
    for number, (line, ink) in enumerate(lines):
        pen.text((0, width + 6 + number * LINE), line, ink, font)
    return drawn


def _put(drawn: Image.Image, picture: Image.Image, left: int, width: int, height: int) -> None:
    """A picture, as large as fits, in the middle of its part of the frame."""
    scale = min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale > 3 else Image.Resampling.LANCZOS)
    drawn.paste(picture, (left + (width - size[0]) // 2, FRAME + (height - size[1]) // 2))


def wrapped(text: str, font, width: int, most_lines: int) -> list[str]:
    """Text in lines that fit the width: broken at spaces where possible, inside words where not, cut with … at the end."""
    lines = [""]
    for word in text.split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], _fitting(" ".join(lines[most_lines - 1 :]), font, width)]
    return lines


def _fitting(text: str, font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def saved(picture, path: str | Path) -> Path:
    """Writes a picture or a figure, and the folders above it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture.save if hasattr(picture, "save") else picture.savefig)(path)
    return path
