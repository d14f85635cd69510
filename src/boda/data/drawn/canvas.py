"""What Boda draws with: the square, colours, shapes, patterns and grounds, and how they become pixels."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

SIZE = 96
COLOURS: dict[str, tuple[int, int, int]] = {
    "빨간색": (216, 32, 36),
    "주황색": (248, 126, 16),
    "노란색": (252, 218, 40),
    "연두색": (154, 216, 56),
    "초록색": (22, 132, 60),
    "하늘색": (96, 196, 244),
    "파란색": (30, 70, 206),
    "보라색": (126, 50, 184),
    "분홍색": (250, 140, 190),
    "갈색": (124, 72, 36),
    "회색": (140, 142, 146),
    "검은색": (24, 24, 28),
    "흰색": (250, 250, 250),
}
SHAPES = ("동그라미", "세모", "네모", "마름모", "별", "하트", "십자가", "초승달", "고리", "화살표")
PATTERNS = ("", "줄무늬", "점무늬")
# Pale, white, and dark grounds; a colour too near to the ground is not drawn on it.
GROUNDS: tuple[tuple[int, int, int], ...] = (
    (255, 255, 255), (244, 240, 228), (226, 238, 250), (252, 232, 228), (230, 244, 226), (238, 230, 248), (216, 216, 220),
    (250, 244, 204), (34, 38, 54), (20, 44, 40), (58, 44, 40), (52, 24, 52),
)  # fmt: skip
FAINT = ("plain", "gradient", "lines", "specks", "noise")
LEAST_DISTANCE = 170.0
_SHARP = 4  # masks are drawn so many times as large and reduced, for smooth edges

T = TypeVar("T")


class Dice(random.Random):
    """Random choices from a seed and a purpose, the same on every platform and Python: only `random()` is used."""

    def __new__(cls, *purpose: str | int):
        return super().__new__(cls)

    def __init__(self, *purpose: str | int):
        super().__init__(int.from_bytes(hashlib.sha256(repr(purpose).encode()).digest()[:16], "little"))

    def below(self, number: int) -> int:
        return int(self.random() * number)

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random()

    def chance(self, share: float) -> bool:
        return self.random() < share

    def some(self, options: Sequence[T], number: int) -> list[T]:
        """`number` different ones, in random order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(number)]


def distance(first: Sequence[int], second: Sequence[int]) -> float:
    """How far apart two colours look: weighted RGB distance (the "redmean" approximation of CIELUV), about 0 to 765."""
    red = (first[0] + second[0]) / 2
    r, g, b = (a - b for a, b in zip(first, second))
    return math.sqrt((2 + red / 256) * r * r + 4 * g * g + (2 + (255 - red) / 256) * b * b)


@cache
def colours_on(ground: tuple[int, int, int]) -> tuple[str, ...]:
    """The colours that can be told from a ground."""
    return tuple(name for name, value in COLOURS.items() if distance(value, ground) > LEAST_DISTANCE)


def paint(scene: dict) -> Image.Image:
    """The picture of a scene (see `scenes.scene`): RGB, SIZE x SIZE; the same pixels with the same Pillow."""
    pixels = _ground(scene["ground"])
    for thing in scene["objects"]:
        mask = _mask(thing["shape"], thing["radius"], thing["turn"])
        half = mask.shape[0] // 2
        top, left = thing["y"] - half, thing["x"] - half
        assert min(top, left) >= 0 and top + mask.shape[0] <= SIZE and left + mask.shape[1] <= SIZE, thing
        window = pixels[top : top + mask.shape[0], left : left + mask.shape[1]]
        ink = np.array(thing["ink"], np.int32)
        if thing["pattern"]:
            other = np.array(_second_ink(thing["ink"]), np.int32)
            ink = np.where(_pattern(thing["pattern"], mask.shape[0])[..., None], other, ink)
        window += (ink - window) * mask[..., None] >> 8
    return Image.fromarray(pixels.astype(np.uint8))


def _ground(ground: dict) -> np.ndarray:
    """(SIZE, SIZE, 3) int32: the plain colour with something faint on it."""
    pixels = np.empty((SIZE, SIZE, 3), np.int32)
    pixels[:] = ground["colour"]
    kind, dice = ground["kind"], Dice("ground", ground["seed"])
    step = -1 if sum(ground["colour"]) > 380 else 1
    if kind == "gradient":
        slope = np.linspace(0, step * dice.between(10, 34), SIZE).astype(np.int32)[:: dice.pick((1, -1))]
        pixels += slope[:, None, None] if dice.chance(0.5) else slope[None, :, None]
    elif kind == "lines":
        every, width = 6 + dice.below(12), 1 + dice.below(2)
        lines = (np.arange(SIZE) + dice.below(every)) % every < width
        pixels += (lines[:, None, None] if dice.chance(0.5) else lines[None, :, None]) * np.int32(step * 18)
    elif kind == "specks":
        for _ in range(6 + dice.below(14)):
            y, x, size = dice.below(SIZE - 3), dice.below(SIZE - 3), 1 + dice.below(3)
            pixels[y : y + size, x : x + size] += step * 34
    elif kind == "noise":
        noise = np.frombuffer(dice.randbytes(SIZE * SIZE), np.uint8).reshape(SIZE, SIZE, 1)
        pixels += noise.astype(np.int32) % 17 - 8
    return np.clip(pixels, 0, 255, out=pixels)


def _second_ink(ink: Sequence[int]) -> tuple[int, ...]:
    """The other colour of a pattern: white on dark colours, a darker shade of light ones."""
    return tuple(int(v * 0.45) for v in ink) if sum(ink) > 420 else tuple(int(v + (255 - v) * 0.75) for v in ink)


@lru_cache(maxsize=64)
def _pattern(name: str, side: int) -> np.ndarray:
    """(side, side) bool: where the second colour of a pattern lies."""
    y, x = np.mgrid[:side, :side]
    if name == "줄무늬":
        return (x + y) % 7 < 3
    y, x = (y - side // 2) % 7 - 3, (x - side // 2) % 7 - 3
    return y * y + x * x <= 3


@lru_cache(maxsize=8192)
def _mask(shape: str, radius: float, turn: int) -> np.ndarray:
    """(side, side) int32, 0 to 256: how much of each pixel a shape covers; `turn` in degrees."""
    side = 2 * math.ceil(radius) + 1
    image = Image.new("L", (side * _SHARP, side * _SHARP))
    pen, middle, r = ImageDraw.Draw(image), side * _SHARP / 2, radius * _SHARP
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))

    def place(x: float, y: float) -> tuple[float, float]:
        """A point of the unit circle's square, turned, on the enlarged canvas."""
        return middle + r * (x * cosine - y * sine), middle + r * (x * sine + y * cosine)

    for x, reach, fill in _DISCS.get(shape, ()):
        left, top = place(x, 0)
        pen.ellipse((left - reach * r, top - reach * r, left + reach * r, top + reach * r), fill=fill)
    if shape in _OUTLINES:
        pen.polygon([place(x, y) for x, y in _OUTLINES[shape]], fill=255)
    covered = np.asarray(image.reduce(_SHARP), np.int32)
    return covered + (covered >> 7)


def _ring(number: int, inner: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Corners of a regular polygon from the top, every second at `inner` of the radius."""
    corners = [(inner if k % 2 else 1.0, math.tau * k / number - math.pi / 2) for k in range(number)]
    return tuple((reach * math.cos(turn), reach * math.sin(turn)) for reach, turn in corners)


def _heart() -> tuple[tuple[float, float], ...]:
    turns = [math.tau * step / 60 for step in range(60)]
    down = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return tuple((16 * math.sin(t) ** 3 / 17, -(y + 2) / 16) for t, y in zip(turns, down))


# Where a disc's middle is, its radius, and whether it is filled or cut out.
_DISCS = {
    "동그라미": ((0, 0.92, 255),),
    "고리": ((0, 0.96, 255), (0, 0.52, 0)),
    "초승달": ((0, 0.98, 255), (0.48, 0.80, 0)),
}
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "세모": tuple((x, y + 0.12) for x, y in _ring(3)),
    "네모": ((-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)),
    "마름모": ((0, -1), (0.66, 0), (0, 1), (-0.66, 0)),
    "별": _ring(10, 0.42),
    "하트": _heart(),
    "십자가": (
        (-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3), (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3),
        (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3),
    ),
    "화살표": ((-0.95, -0.28), (0.1, -0.28), (0.1, -0.8), (0.98, 0), (0.1, 0.8), (0.1, 0.28), (-0.95, 0.28)),
}  # fmt: skip
