"""One coloured shape in a picture, and what can be asked about it in Korean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from boda.data.korean import with_particle
from boda.data.plan import generator

SIZE = 48
COLOURS = {
    "빨간색": (214, 48, 49),
    "파란색": (41, 98, 214),
    "초록색": (46, 160, 67),
    "노란색": (240, 200, 40),
    "보라색": (136, 70, 190),
    "검은색": (30, 30, 34),
}
SHAPES = ("동그라미", "네모", "세모", "별")
PLACES = {"왼쪽 위": (0, 0), "오른쪽 위": (1, 0), "왼쪽 아래": (0, 1), "오른쪽 아래": (1, 1)}


def scene(random: np.random.Generator) -> dict:
    """What a picture shows: colour, shape, place, and where exactly."""
    column, row = PLACES[place := list(PLACES)[random.integers(4)]]
    radius = float(random.uniform(8, 11))
    low, high = radius + 1, SIZE / 2 - 2
    x, y = (float(random.uniform(low, max(low + 0.1, high))) for _ in range(2))
    return {
        "colour": list(COLOURS)[random.integers(len(COLOURS))],
        "shape": SHAPES[random.integers(len(SHAPES))],
        "place": place,
        "x": x if column == 0 else SIZE - x,
        "y": y if row == 0 else SIZE - y,
        "radius": radius,
        "turn": float(random.uniform(-0.3, 0.3)),
        "ground": tuple(int(v) for v in random.integers(205, 256, 3)),
    }


def paint(facts: dict) -> Image.Image:
    """The picture of a scene, drawn four times as large and reduced for smooth edges."""
    scale = 4
    image = Image.new("RGB", (SIZE * scale, SIZE * scale), facts["ground"])
    pen = ImageDraw.Draw(image)
    x, y, radius = (facts[name] * scale for name in ("x", "y", "radius"))
    fill = COLOURS[facts["colour"]]
    if facts["shape"] == "동그라미":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    corners = {"네모": 4, "세모": 3, "별": 10}[facts["shape"]]
    start = facts["turn"] - np.pi / 2 + (np.pi / 4 if facts["shape"] == "네모" else 0)
    angles = start + 2 * np.pi * np.arange(corners) / corners
    reach = np.where(np.arange(corners) % 2, 0.45, 1.0) if facts["shape"] == "별" else np.ones(corners)
    points = np.stack([x + radius * reach * np.cos(angles), y + radius * reach * np.sin(angles)], axis=1)
    pen.polygon([tuple(map(float, point)) for point in points], fill=fill)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def questions(facts: dict) -> list[tuple[str, str, str]]:
    """(kind, question, answer) for a scene."""
    colour, shape, place = facts["colour"], facts["shape"], facts["place"]
    return [
        ("colour", "무슨 색인가요?", f"{colour}입니다."),
        ("shape", "무슨 모양인가요?", f"{shape}입니다."),
        ("shape", f"{colour} 도형의 모양을 말해 주세요.", f"{shape}입니다."),
        ("place", "도형은 어디에 있나요?", f"{place}에 있습니다."),
        ("caption", "그림을 설명해 주세요.", f"{place}에 {colour} {with_particle(shape, '이가')} 있습니다."),
    ]


def draw(folder: Path, pictures: int, seed: int, name: str) -> Path:
    """Draws `pictures` scenes into `folder`/name/ and writes their questions to `folder`/name.jsonl, a row each.

    The same seed gives the same scenes and words anywhere.
    """
    random = generator(seed, "drawn", "shapes", name)
    target = folder / f"{name}.jsonl"
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(pictures):
        facts = scene(random)
        picture = f"{name}/{number:05d}.png"
        paint(facts).save(folder / picture)
        for kind, question, answer in questions(facts):
            user = {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}
            row = {"messages": [user, {"role": "assistant", "content": answer}], "tags": {"type": kind}}
            lines.append(json.dumps(row, ensure_ascii=False))
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target
