"""What a pair model says of one picture: which label fits it, which part of it a text means; and the pictures that show it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from boda.data.drawn.fonts import korean_font
from boda.data.images import Picture, load_image
from boda.errors import BodaError
from boda.evaluate.pairs import fill
from boda.evaluate.patches import cut, dense_scores, tile_scores

TEMPLATE = "이것은 {} 이다."
HEAT = np.array([(26, 36, 120), (28, 130, 190), (70, 190, 120), (245, 200, 50), (214, 40, 40)])  # cold to hot


def check_labels(labels: Sequence[str], template: str = TEMPLATE) -> dict[str, str]:
    """{label: its prompt}. Raises BodaError if there is none, an empty one, one twice, or no place for it in the template."""
    if not labels:
        raise BodaError("no label: give those to choose between, such as 고양이 강아지")
    found: dict[str, str] = {}
    for label in (unicodedata.normalize("NFC", each).strip() for each in labels):
        if not label or label in found:
            raise BodaError(f"label '{label}' is given twice; once is enough" if label else f"label {len(found) + 1} is empty")
        found[label] = fill(template, label)
    return found


def classify(encoder, image: Picture, labels: Sequence[str], template: str = TEMPLATE) -> dict[str, dict[str, float]]:
    """{"scores": {label: probability}}: among the labels, or with a sigmoid model of each by itself.

    `template` is said of the picture; `{}`, or with a particle `{:이가}`, is the label. Raises BodaError: as `check_labels`, or no
    such picture.
    """
    prompts = check_labels(labels, template)
    shares = encoder.probabilities(encoder.images([load_image(image)]), encoder.texts(list(prompts.values())))[0]
    return {"scores": dict(zip(prompts, map(float, shares)))}


@dataclass(frozen=True)
class Patches:
    """How well the tiles of a (rows, columns) grid fit a text: scores row by row, which add up to 1, and the best tile's number."""

    grid: tuple[int, int]
    scores: tuple[float, ...]
    best: int


def read_grid(text: str) -> tuple[int, int]:
    """`3x3` -> rows and columns. Raises BodaError if it is none."""
    if not (found := re.fullmatch(r"(\d{1,4})x(\d{1,4})", text.strip())):
        raise BodaError(f"grid '{text}' is not rows x columns, such as 3x3")
    return int(found[1]), int(found[2])


def patches(encoder, image: Picture, prompt: str, grid: tuple[int, int] = (3, 3)) -> Patches:
    """The tiles of a picture ranked by a text, as KoCLIP does. Raises BodaError: an empty prompt, or a grid that does not fit."""
    scores = tile_scores(encoder, cut(load_image(image), *grid), encoder.texts([prompt])[0])
    return Patches(grid, tuple(map(float, scores)), int(np.argmax(scores)))


def heat_map(encoder, image: Picture, prompt: str, ranked: Patches | None = None) -> Image.Image:
    """How well each place of a picture fits a text, laid over it; with ranked tiles a frame around the best."""
    picture = load_image(image)
    heat = dense_scores(encoder, picture, encoder.texts([prompt])[0])
    heat = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-3)  # less is noise
    colours = np.stack([np.interp(heat, np.linspace(0, 1, len(HEAT)), channel) for channel in HEAT.T], -1)
    cover = 0.25 + 0.45 * heat[..., None]  # what fits well is covered more
    shown = Image.fromarray((np.asarray(picture) * (1 - cover) + colours * cover).astype(np.uint8))
    if ranked:
        high, wide = picture.height // ranked.grid[0], picture.width // ranked.grid[1]
        top, left = high * (ranked.best // ranked.grid[1]), wide * (ranked.best % ranked.grid[1])
        corners = (left, top, left + wide - 1, top + high - 1)
        ImageDraw.Draw(shown).rectangle(corners, outline="white", width=max(1, max(picture.size) // 150))
    return shown


def bar_chart(scores: Mapping[str, float], title: str = "") -> Image.Image:
    """Labels and their probabilities as bars, the likeliest first, in letters that have Hangul."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    ordered = sorted(scores.items(), key=lambda item: item[1])
    text: dict[str, Any] = {"fontproperties": FontProperties(fname=korean_font(), size=11), "parse_math": False}
    figure = Figure(figsize=(7, 0.9 + 0.42 * len(ordered)), dpi=120, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    axes.barh(range(len(ordered)), [score for _, score in ordered], color="#1f4e8c")
    axes.set_yticks(range(len(ordered)), [label if len(label) <= 30 else label[:29] + "…" for label, _ in ordered], **text)
    for place, (_, score) in enumerate(ordered):
        axes.text(score + 0.01, place, f"{score:.1%}", va="center", **text)
    axes.set_xlim(0, 1.12)
    axes.set_title(title, **text)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
