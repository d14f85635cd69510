"""A font that has Hangul, wherever the machine keeps it: pictures with Korean text never show boxes instead."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from boda.errors import BodaError

# File names (without suffix, lower case) of the Korean fonts that systems commonly have, best first.
COMMON = (
    "nanumgothic", "nanumbarungothic", "pretendard-regular", "pretendardvariable", "notosanskr-regular", "notosanskr",
    "notosanscjkkr-regular", "notosanscjk-regular", "notosanscjk", "sourcehansanskr-regular", "sourcehansans-regular",
    "applesdgothicneo", "applegothic", "malgun", "gulim", "undotum", "un-dotum", "baekmukdotum", "d2coding", "nanumsquarer",
    "nanumgothiccoding", "nanummyeongjo", "droidsansfallbackfull", "unifont",
)  # fmt: skip
SUFFIXES = (".ttf", ".otf", ".ttc")
TESTED = "가힣뷁한글"


@lru_cache(maxsize=1)
def korean_font() -> str:
    """The file of a font with Hangul: `BODA_FONT`, else a common one, else any that fontconfig knows.

    Raises:
        BodaError: there is none, or `BODA_FONT` has no Hangul; says how to get one.
    """
    given = os.environ.get("BODA_FONT")
    if given:
        if not has_hangul(given):
            raise BodaError(
                f"BODA_FONT={given} is no font file with Hangul; name a .ttf, .otf or .ttc that has it, or unset it"
            )
        return given
    for path in _candidates():
        if has_hangul(path):
            return path
    raise BodaError(
        "no font with Hangul on this machine, so Korean text would come out as boxes; install one "
        "(Debian, Ubuntu: sudo apt install fonts-nanum; Fedora: sudo dnf install google-noto-sans-kr-fonts) "
        "or name a font file in BODA_FONT"
    )


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


def _candidates() -> Iterator[str]:
    files: dict[str, str] = {}
    for folder in _folders():
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.suffix.lower() in SUFFIXES:
                files.setdefault(path.stem.lower(), str(path))
    yield from (files[name] for name in COMMON if name in files)
    yield from _fontconfig()


def _folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts", home / "AppData/Local/Microsoft/Windows/Fonts"]
    if sys.platform == "darwin":
        return [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    return [data / "fonts", home / ".fonts", Path("/usr/local/share/fonts"), Path("/usr/share/fonts")]


def _fontconfig() -> list[str]:
    """Files of the fonts that fontconfig lists for Korean."""
    program = shutil.which("fc-list")
    if program is None:
        return []
    listed = subprocess.run([program, ":lang=ko", "file"], capture_output=True, text=True, timeout=60, check=False)
    return sorted(line.partition(": ")[0].rstrip(":") for line in listed.stdout.splitlines() if line.strip())
