"""NLVR's drawn boxes -> Korean questions templated from the scene graph, answers read off its coordinates.

The pictures show three boxes side by side, each with up to eight shapes. Training pictures are the development set, plus
copies whose boxes change places, are mirrored and change colours (NLVR itself publishes box permutations of each scene);
the scene graph changes with them. Test pictures are used as they are.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"Yellow": "노란색", "Black": "검은색", "#0099ff": "파란색"}
PIXELS = {"노란색": (255, 255, 0), "검은색": (0, 0, 0), "파란색": (0, 153, 255)}
BACKGROUND = (211, 211, 211)
SHAPES = {"square": "사각형", "triangle": "삼각형", "circle": "원"}
BOXES = ("왼쪽", "가운데", "오른쪽")
BOX_STARTS, BOX_WIDTH = (0, 150, 300), 100
COUNTS = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉", "열", "열한", "열두")
YES, NO = "네", "아니요"


def scenes(folder: Path) -> list[dict]:
    """The rows of one split: {picture, boxes: three lists of {shape, colour, size, x, y}}."""
    split = folder.name
    rows = []
    for line in (folder / f"{split}.json").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        boxes = [
            [
                {"shape": SHAPES[item["type"]], "colour": COLOURS[item["color"]], "size": item["size"], "x": item["x_loc"],
                 "y": item["y_loc"]}
                for item in box
            ]
            for box in row["structured_rep"]
        ]  # fmt: skip
        rows.append({"picture": folder / "images" / row["directory"] / f"{split}-{row['identifier']}-0.png", "boxes": boxes})
    return rows


def _only(values: list) -> object | None:
    """The single value all share, if there is one."""
    return values[0] if values and all(value == values[0] for value in values) else None


def _extreme(box: list[dict], key, margin: int = 6) -> dict | None:
    """The item with the largest key, if it leads the next by the margin."""
    ranked = sorted(box, key=key, reverse=True)
    return ranked[0] if len(ranked) > 1 and key(ranked[0]) - key(ranked[1]) >= margin else None


def questions(boxes: list[list[dict]]) -> list[tuple[str, str, str]]:
    """Everything that can be asked of a scene: (type, question, answer)."""
    items = [item for box in boxes for item in box]
    asked: list[tuple[str, str, str]] = []

    def count(kind: str, question: str, number: int) -> None:
        if 1 <= number < len(COUNTS):
            asked.append((kind, question, f"{COUNTS[number]} 개"))

    def yes_no(kind: str, question: str, truth: bool) -> None:
        asked.append((kind, question, YES if truth else NO))

    count("count_all", "도형은 모두 몇 개인가요?", len(items))
    for colour in COLOURS.values():
        number = sum(item["colour"] == colour for item in items)
        count("count_colour", f"{colour} 도형은 모두 몇 개인가요?", number)
        yes_no("exists_colour", f"{colour} 도형이 있나요?", number > 0)
        for shape in SHAPES.values():
            holders = [where for where, box in zip(BOXES, boxes) if any(_is(item, colour, shape) for item in box)]
            subject = f"{colour} {shape}이"  # 사각형, 삼각형 and 원 all end in a consonant
            yes_no("exists", f"{subject} 있나요?", bool(holders))
            if len(holders) == 1:
                asked.append(("where", f"{colour} {shape}은 어느 칸에 있나요?", f"{holders[0]} 칸"))
        for other in COLOURS.values():
            rival = sum(item["colour"] == other for item in items)
            if other != colour and number != rival and number and rival:
                yes_no("compare", f"{colour} 도형이 {other} 도형보다 더 많나요?", number > rival)
    for shape in SHAPES.values():
        count("count_shape", f"{shape}은 모두 몇 개인가요?", sum(item["shape"] == shape for item in items))
    sizes = [len(box) for box in boxes]
    for kind, question, wanted in (
        ("box_most", "도형이 가장 많은 칸은 어느 쪽인가요?", max(sizes)),
        ("box_fewest", "도형이 가장 적은 칸은 어느 쪽인가요?", min(sizes)),
    ):
        if sizes.count(wanted) == 1:
            asked.append((kind, question, f"{BOXES[sizes.index(wanted)]} 칸"))
    for where, box in zip(BOXES, boxes):
        asked += _questions_of_a_box(f"{where} 칸", box)
    return asked


def description(boxes: list[list[dict]]) -> str:
    """What is in each box, kind by kind: for training, where every word of it teaches something about the picture."""
    sentences = []
    for where, box in zip(BOXES, boxes):
        found = [
            f"{colour} {shape} {COUNTS[number]} 개"
            for colour in COLOURS.values()
            for shape in SHAPES.values()
            if 1 <= (number := sum(_is(item, colour, shape) for item in box)) < len(COUNTS)
        ]
        sentences.append(f"{where} 칸에는 {', '.join(found)}가 있습니다." if found else f"{where} 칸은 비어 있습니다.")
    return " ".join(sentences)


def _is(item: dict, colour: str, shape: str) -> bool:
    return item["colour"] == colour and item["shape"] == shape


def _questions_of_a_box(where: str, box: list[dict]) -> list[tuple[str, str, str]]:
    asked: list[tuple[str, str, str]] = []
    if 1 <= len(box) < len(COUNTS):
        asked.append(("count_box", f"{where}에는 도형이 몇 개 있나요?", f"{COUNTS[len(box)]} 개"))
    for colour in COLOURS.values():
        found = any(item["colour"] == colour for item in box)
        asked.append(("exists_box", f"{where}에 {colour} 도형이 있나요?", YES if found else NO))
    if len(box) >= 2:
        same = _only([item["colour"] for item in box]) is not None
        asked.append(("same_colour", f"{where}의 도형은 모두 같은 색인가요?", YES if same else NO))
        same = _only([item["shape"] for item in box]) is not None
        asked.append(("same_shape", f"{where}의 도형은 모두 같은 모양인가요?", YES if same else NO))
        # "Highest" must hold for the upper and for the lower edge alike, or people would disagree on it.
        top, top_by_foot = _extreme(box, lambda item: -item["y"]), _extreme(box, lambda item: -item["y"] - item["size"])
        if top is not None and top is top_by_foot:
            asked.append(("colour_top", f"{where}에서 맨 위에 있는 도형은 무슨 색인가요?", top["colour"]))
        low, low_by_head = _extreme(box, lambda item: item["y"] + item["size"]), _extreme(box, lambda item: item["y"])
        if low is not None and low is low_by_head:
            asked.append(("colour_bottom", f"{where}에서 맨 아래에 있는 도형은 무슨 색인가요?", low["colour"]))
        largest = _extreme(box, lambda item: item["size"])
        if largest is not None:
            asked.append(("colour_largest", f"{where}에서 가장 큰 도형은 무슨 색인가요?", largest["colour"]))
            asked.append(("shape_largest", f"{where}에서 가장 큰 도형은 무슨 모양인가요?", largest["shape"]))
    return asked


def changed(boxes: list[list[dict]], pixels: np.ndarray, rng: random.Random) -> tuple[list[list[dict]], np.ndarray]:
    """The scene and its (100, 400, 3) pixels with boxes shuffled, some mirrored, and colours exchanged."""
    order = rng.sample(range(3), 3)
    mirrored = [rng.random() < 0.5 for _ in range(3)]
    exchange = dict(zip(PIXELS, rng.sample(list(PIXELS), 3)))
    new_pixels, new_boxes = pixels.copy(), []
    for place, taken in enumerate(order):
        part = pixels[:, BOX_STARTS[taken] : BOX_STARTS[taken] + BOX_WIDTH]
        part = recoloured(part[:, ::-1] if mirrored[place] else part, exchange)
        new_pixels[:, BOX_STARTS[place] : BOX_STARTS[place] + BOX_WIDTH] = part
        new_boxes.append(
            [
                {**item, "colour": exchange[item["colour"]],
                 "x": BOX_WIDTH - item["x"] - item["size"] if mirrored[place] else item["x"]}
                for item in boxes[taken]
            ]
        )  # fmt: skip
    return new_boxes, new_pixels


def recoloured(part: np.ndarray, exchange: dict[str, str]) -> np.ndarray:
    """(H, W, 3) pixels with the three colours exchanged; smoothed edges keep their share of background."""
    away = part.astype(np.float32) - BACKGROUND
    result, least = np.zeros_like(away), np.full(part.shape[:2], np.inf, np.float32)
    for old, new in exchange.items():
        direction = np.subtract(PIXELS[old], BACKGROUND, dtype=np.float32)
        share = np.clip(away @ direction / (direction @ direction), 0, 1)
        residual = ((away - share[..., None] * direction) ** 2).sum(-1)
        closer = residual < least
        least = np.where(closer, residual, least)
        painted = BACKGROUND + share[..., None] * np.subtract(PIXELS[new], BACKGROUND, dtype=np.float32)
        result = np.where(closer[..., None], painted, result)
    return result.round().astype(np.uint8)


def pixels_of(picture: Path) -> np.ndarray:
    """(100, 400, 3) pixels of one NLVR picture."""
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (100, 400, 3), f"{picture} is no NLVR picture: {pixels.shape}"
    return pixels


def agrees(boxes: list[list[dict]], pixels: np.ndarray) -> bool:
    """Whether every item of the scene graph has its colour at its centre in the picture."""
    return all(
        tuple(pixels[min(99, int(item["y"] + item["size"] / 2)), start + min(99, int(item["x"] + item["size"] / 2))])
        == PIXELS[item["colour"]]
        for start, box in zip(BOX_STARTS, boxes)
        for item in box
    )
