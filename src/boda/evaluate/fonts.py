"""A font that has Hangul: pictures with Korean text never show boxes instead."""

from __future__ import annotations

import os

from boda.errors import BodaError

TESTED = "가나한글힘꽃"


def korean_font() -> str:
    """The file of a font with Hangul: `BODA_FONT` (for characters beyond KS X 1001), else the gothic one that Boda ships.

    Raises:
        BodaError: `BODA_FONT` has no Hangul.
    """
    from boda.data.drawn.fonts import FONTS

    given = os.environ.get("BODA_FONT")
    if given and not has_hangul(given):
        raise BodaError(f"BODA_FONT={given} is no font file with Hangul; name a .ttf, .otf or .ttc that has it, or unset it")
    return given or str(FONTS["gothic"])


def has_hangul(path: str) -> bool:
    """Whether the font draws Hangul syllables, and not the same box for all of them."""
    from PIL import ImageFont

    try:
        font = ImageFont.truetype(path, 24)
        drawn = {bytes(font.getmask(character)) for character in TESTED}
        box = bytes(font.getmask("\U0010fffd"))
    except OSError:
        return False
    return len(drawn) == len(set(TESTED)) and box not in drawn and all(any(mask) for mask in drawn)
