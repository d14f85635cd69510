"""The growing strip of a training run: a few fixed pictures, and below them what the model said of each as it learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from boda.data.drawn.fonts import korean_font
from boda.data.images import load_image
from boda.data.sample import ImageRef
from boda.data.sheet import FAINT, INK, saved, wrapped
from boda.evaluate.sheets import RIGHT, WRONG

PICTURE, GAP, SIDE, TEXT_SIZE, LINE = 168, 12, 96, 15, 20
BLOCKS = "▁▂▃▄▅▆▇█"


def strip(records: Sequence[dict], out_png: str | Path) -> Path:
    """Draws a run's trial answers: a row for each record of `log.jsonl` with `answers`, the newest last, right answers green and
    wrong ones red. All are on the same samples."""
    font = ImageFont.truetype(korean_font(), TEXT_SIZE)
    shown = [record for record in records if record.get("answers")]
    assert shown, "a strip needs a record with answers"
    first = shown[0]["answers"]
    rows = [("right answer", [(answer["expected"], INK) for answer in first])]
    for record in shown:
        inks = [RIGHT if answer["answer"] == answer["expected"] else WRONG for answer in record["answers"]]
        said = [answer["answer"] or "(nothing)" for answer in record["answers"]]
        rows.append((f"step {record['step']}", list(zip(said, inks))))
    broken = [[wrapped(text, font, PICTURE, 4) for text, _ in row] for _, row in rows]
    heights = [LINE * max(map(len, cells)) + GAP for cells in broken]
    top, lefts = 2 * GAP + PICTURE, [SIDE + column * (PICTURE + GAP) for column in range(len(first))]
    sheet = Image.new("RGB", (lefts[-1] + PICTURE + GAP, top + sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    for left, answer in zip(lefts, first):
        for place in answer["images"][:1]:
            sheet.paste(load_image(ImageRef(**place)).resize((PICTURE, PICTURE)), (left, GAP))
    for (name, row), cells, height in zip(rows, broken, heights):
        pen.text((GAP // 2, top), name, FAINT, font)
        for left, (_, ink), lines in zip(lefts, row, cells):
            for place, line in enumerate(lines):
                pen.text((left, top + place * LINE), line, ink, font)
        top += height
    return saved(sheet, out_png)


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Numbers as a line of blocks, the highest the fullest, each block the mean of its share."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(k * len(values) / width) for k in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:])]
    low, high = min(means), max(means)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * scale)] for mean in means)
