"""The Korean fonts that Boda ships: which there are, which one training never sees, and what they can write."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from boda.errors import BodaError

_FOLDER = Path(__file__).parent / "fonts"
FONTS = {name: _FOLDER / f"{name}.ttf" for name in ("gothic", "serif", "hand", "display", "sign", "round")}
HELD_OUT = "round"
SEEN = tuple(name for name in FONTS if name != HELD_OUT)

# The rows of KS X 1001 that hold its 2,350 syllables; what follows them all fonts have (some have more punctuation).
SYLLABLES = "".join(bytes([row, cell]).decode("euc_kr") for row in range(0xB0, 0xC9) for cell in range(0xA1, 0xFF))
CHARACTERS = frozenset(SYLLABLES + "".join(map(chr, range(0x20, 0x7F))) + "‘’“”…₩")

TESTED = "가나한글힘꽃"


@lru_cache(maxsize=512)
def load_font(name: str, pixels: int) -> ImageFont.FreeTypeFont:
    """A font at a size; laid out by Pillow alone, so that an installed Raqm changes nothing. Raises BodaError for no such font."""
    return ImageFont.truetype(str(FONTS[check_font(name)]), pixels, layout_engine=ImageFont.Layout.BASIC)


def check_font(name: str) -> str:
    """The name, if Boda ships that font; else a BodaError that lists the fonts."""
    if name not in FONTS:
        raise BodaError(f"no font '{name}'; the fonts are {', '.join(FONTS)}")
    return name


def check_text(text: str) -> str:
    """The text, if the fonts have all its characters; else a BodaError that names those missing."""
    if missing := [character for character in dict.fromkeys(text) if character not in CHARACTERS]:
        named = ", ".join(f"'{character}'" if character.isprintable() else repr(character) for character in missing[:10])
        raise BodaError(
            f"the fonts have no {named} in '{text[:40]}'; they have the {len(SYLLABLES):,} syllables of KS X 1001 (composed, NFC), "
            "ASCII, curly quotes, … and ₩: use another word or spelling"
        )
    return text


def korean_font() -> str:
    """The file of a font with Hangul: `BODA_FONT` (for characters beyond KS X 1001), else the gothic one that Boda ships.

    Raises BodaError: `BODA_FONT` has none, and would draw boxes.
    """
    given = os.environ.get("BODA_FONT")
    if given and not has_hangul(given):
        raise BodaError(f"BODA_FONT={given} is no font file with Hangul; name a .ttf, .otf or .ttc that has it, or unset it")
    return given or str(FONTS["gothic"])


def has_hangul(path: str) -> bool:
    """Whether the font draws Hangul syllables, and not the same box for all of them."""
    try:
        font = ImageFont.truetype(path, 24)
        drawn = {bytes(font.getmask(character)) for character in TESTED}
        box = bytes(font.getmask("\U0010fffd"))
    except OSError:
        return False
    return len(drawn) == len(set(TESTED)) and box not in drawn and all(any(mask) for mask in drawn)
