"""A Hangul word in a picture: the word, its font, size, place, turn and colours as facts, and the picture they make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from boda.data.drawn.canvas import COLOURS, SIZE
from boda.data.drawn.fonts import SEEN, check_font, check_text, load_font
from boda.errors import BodaError

WORDS = tuple((Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split())
EXTRAS = ("plain", "plain", "grain", "fade", "plate", "underline")
LOWEST, HIGHEST = 17, 34  # pixels from the top of a syllable to its foot
MARGIN = 4  # pixels kept free around a word; a plate's edge lies in them
ROOM = SIZE - 2 * MARGIN
CONTRAST = 3.5  # at least, of ink to ground, as WCAG counts it
TURN = 8.0  # degrees, at most
_FINER = 2  # words are drawn this much larger, then turned and reduced
_MEASURED = 100  # pixels: the size fonts are measured at
_TYPICAL = "나무학교은행한글"
_LINE = 0.2  # ems that an underline and its distance add

Colour = Sequence[int]


def word_facts(random: np.random.Generator, words: Sequence[str] = WORDS, fonts: Sequence[str] = SEEN) -> dict:
    """What a picture of one of the words shows, ready for JSON; `colour` is the Korean name of the ink.

    Raises BodaError as `check_words` does.
    """
    check_words(tuple(words), tuple(fonts))
    word, font, extra = (options[int(random.integers(len(options)))] for options in (words, fonts, EXTRAS))
    wide, high = _measure(word, font)
    high += _LINE * (extra == "underline")
    turn = float(random.uniform(-TURN, TURN))
    smallest, largest = math.ceil(LOWEST / _syllable(font)), math.floor(HIGHEST / _syllable(font))
    across, down = _reach(wide, high, turn)
    if smallest * across > ROOM:  # it fits only level
        turn, across, down = 0.0, wide, high
    largest = max(smallest, min(largest, math.floor(ROOM / max(across, down))))
    pixels = int(random.integers(smallest, largest + 1))
    edges = [MARGIN + pixels * reach / 2 for reach in (across, down)]
    x, y = (float(random.uniform(edge, max(edge, SIZE - edge))) for edge in edges)
    ground = _ground(random)
    shift = random.integers(-10, 11, 3)
    inks = {name: [min(255, max(0, int(v + s))) for v, s in zip(ink, shift)] for name, ink in COLOURS.items()}
    names = [name for name, ink in inks.items() if contrast(ink, ground) >= CONTRAST]
    colour = names[int(random.integers(len(names)))]
    return {
        "word": word, "font": font, "pixels": pixels, "x": x, "y": y, "turn": turn, "colour": colour, "ink": inks[colour],
        "ground": ground, "extra": extra, "seed": int(random.integers(2**31)),
    }  # fmt: skip


def paint_word(facts: dict) -> Image.Image:
    """The picture of a word: (SIZE, SIZE) RGB, the same for the same facts."""
    ink, ground, extra = tuple(facts["ink"]), tuple(facts["ground"]), facts["extra"]
    mask = _mask(facts["word"], facts["font"], facts["pixels"], facts["turn"], extra == "underline")
    left, top = round(facts["x"] - mask.width / 2), round(facts["y"] - mask.height / 2)
    image = Image.new("RGB", (SIZE, SIZE), ground)
    # What is behind a word differs from the ground only away from the ink, so that contrast never falls.
    far = 255 if _light(ground) > _light(ink) else 0
    if extra == "plate":
        start, end = (max(0, left - 3), max(0, top - 3)), (left + mask.width + 2, top + mask.height + 2)
        ImageDraw.Draw(image).rectangle((*start, *end), fill=tuple((value + far) // 2 for value in ground), outline=ink)
    elif extra == "fade":
        slope = np.linspace(0, 0.5, SIZE)[:: 1 if facts["seed"] % 2 else -1, None, None]
        pixels = (np.asarray(image) * (1 - slope) + far * slope).astype(np.uint8)
        image = Image.fromarray(pixels if facts["seed"] % 4 < 2 else pixels.transpose(1, 0, 2))
    image.paste(ink, (left, top), mask)
    if extra == "grain":
        noise = np.random.Generator(np.random.PCG64(facts["seed"])).integers(-14, 15, (SIZE, SIZE, 1), dtype=np.int16)
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    return image


def contrast(first: Colour, second: Colour) -> float:
    """The contrast ratio of two colours as WCAG 2.2 counts it, 1 to 21."""
    darker, lighter = sorted((_light(first), _light(second)))
    return (lighter + 0.05) / (darker + 0.05)


def _light(colour: Colour) -> float:
    """Relative luminance, 0 to 1, with a plain power of 2.2 for sRGB's curve."""
    return sum(share * (value / 255) ** 2.2 for share, value in zip((0.2126, 0.7152, 0.0722), colour))


@lru_cache(maxsize=64)
def check_words(words: tuple[str, ...], fonts: tuple[str, ...]) -> None:
    """Raises BodaError unless there are words and fonts, and each of the words can be written in each of the fonts."""
    for what, options, example in (("words", words, WORDS[0]), ("fonts", fonts, SEEN[0])):
        if not options or not all(option.strip() for option in options):
            wrong = f"the {what} to draw are an empty list, or one of them is empty"
            raise BodaError(f"{wrong}; give at least one, such as '{example}'")
    for font in fonts:
        smallest = math.ceil(LOWEST / _syllable(check_font(font)))
        for word in words:
            if (wide := _measure(check_text(word), font)[0] * smallest) > ROOM:
                takes = f"in the font '{font}', {LOWEST} pixels high, it takes {math.ceil(wide)} of the {ROOM} pixels"
                raise BodaError(f"'{word}' is too long for a picture: {takes}; use words of at most 4 syllables")


@lru_cache(maxsize=16384)
def _measure(word: str, font: str) -> tuple[float, float]:
    """Width and height of a word in ems."""
    left, top, right, bottom = load_font(font, _MEASURED).getbbox(word)
    return (right - left) / _MEASURED, (bottom - top) / _MEASURED


@cache
def _syllable(font: str) -> float:
    """Height of a font's syllables in ems: the mean of a few."""
    return sum(_measure(syllable, font)[1] for syllable in _TYPICAL) / len(_TYPICAL)


def _reach(wide: float, high: float, turn: float) -> tuple[float, float]:
    """How far a turned rectangle reaches across and down."""
    cosine, sine = math.cos(math.radians(turn)), abs(math.sin(math.radians(turn)))
    return wide * cosine + high * sine, high * cosine + wide * sine


def _mask(word: str, font: str, pixels: int, turn: float, underlined: bool) -> Image.Image:
    """The turned word, 0 to 255 by how much of each pixel it covers."""
    loaded = load_font(font, pixels * _FINER)
    left, top, right, bottom = loaded.getbbox(word)
    size = (math.ceil(right - left), math.ceil(bottom - top + underlined * _LINE * pixels * _FINER))
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    pen.text((-left, -top), word, fill=255, font=loaded)
    if underlined:
        pen.rectangle((0, size[1] - max(2, round(pixels * 0.12)), size[0] - 1, size[1] - 1), fill=255)
    return mask.rotate(turn, Image.Resampling.BILINEAR, expand=True).reduce(_FINER)


def _ground(random: np.random.Generator) -> list[int]:
    """A background: mostly light, else dark or of any colour."""
    kind = random.random()
    low, high = (205, 256) if kind < 0.55 else (0, 70) if kind < 0.85 else (40, 216)
    return [int(value) for value in random.integers(low, high, 3)]
