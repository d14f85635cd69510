"""The growing strip of a training run: a few fixed pictures, and below them what the model said of each as it learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from boda.data.images import load_image
from boda.data.sample import ImageRef
from boda.evaluate.fonts import korean_font
from boda.evaluate.report import FAINT, INK, RIGHT, WRONG, wrapped

PICTURE, GAP, SIDE, TEXT_SIZE, LINE = 168, 12, 96, 15, 20
BLOCKS = "▁▂▃▄▅▆▇█"


def strip(records: Sequence[dict], out_png: str | Path) -> Path:
    """Draws a run's trial answers: a row for each validation, the newest last, right answers green and wrong ones red.

    Args:
        records: of `log.jsonl`, those with `answers`, all on the same samples.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(korean_font(), TEXT_SIZE)
    shown = [record for record in records if record.get("answers")]
    assert shown, "a strip needs a record with answers"
    first = shown[0]["answers"]
    rows = [[wrapped(answer["expected"], font, PICTURE, 4) for answer in first]]
    rows += [[wrapped(answer["answer"] or "(nothing)", font, PICTURE, 4) for answer in record["answers"]] for record in shown]
    heights = [LINE * max(len(lines) for lines in row) + GAP for row in rows]
    width = SIDE + len(first) * (PICTURE + GAP)
    sheet = Image.new("RGB", (width, 2 * GAP + PICTURE + sum(heights)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, answer in enumerate(first):
        for place in answer["images"][:1]:
            picture = load_image(ImageRef(**place)).resize((PICTURE, PICTURE))
            sheet.paste(picture, (SIDE + column * (PICTURE + GAP), GAP))
    top = 2 * GAP + PICTURE
    for number, (row, height) in enumerate(zip(rows, heights)):
        record = shown[number - 1] if number else None
        name = f"step {record['step']}" if record else "right answer"
        pen.text((GAP // 2, top), name, FAINT, font)
        for column, lines in enumerate(row):
            ink = INK
            if record:
                answer = record["answers"][column]
                ink = RIGHT if answer["answer"] == answer["expected"] else WRONG
            for place, line in enumerate(lines):
                pen.text((SIDE + column * (PICTURE + GAP), top + place * LINE), line, ink, font)
        top += height
    out_png = Path(out_png)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out_png)
    return out_png


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
