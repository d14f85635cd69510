"""Which colours a picture has, told from its pixels, and Korean particles: shared by the real-data converters.

A colour is *surely* there when enough pixels lie well inside its band, and *surely not* there when next to none lie even
near it. Between the two nothing is claimed and nothing is asked.
"""

from __future__ import annotations

import numpy as np

RED, ORANGE, YELLOW, GREEN, BLUE = "빨간색", "주황색", "노란색", "초록색", "파란색"
SKY, PURPLE, PINK, BROWN = "하늘색", "보라색", "분홍색", "갈색"
WHITE, GREY, BLACK = "흰색", "회색", "검은색"

# name: (strict, loose); each a list of boxes (hue from, hue to, saturation from, to, value from, to); hue in degrees.
BANDS: dict[str, tuple[list[tuple], list[tuple]]] = {
    RED: (
        [(344, 360, 0.60, 1, 0.58, 1), (0, 11, 0.60, 1, 0.58, 1)],
        [(325, 360, 0.35, 1, 0.30, 1), (0, 22, 0.35, 1, 0.30, 1)],
    ),
    ORANGE: ([(20, 36, 0.65, 1, 0.80, 1)], [(10, 46, 0.35, 1, 0.45, 1)]),
    YELLOW: ([(44, 63, 0.50, 1, 0.80, 1)], [(34, 75, 0.20, 1, 0.55, 1)]),
    GREEN: ([(85, 168, 0.45, 1, 0.22, 1)], [(64, 185, 0.20, 1, 0.12, 1)]),
    SKY: ([(192, 212, 0.30, 0.62, 0.80, 1)], [(170, 225, 0.12, 1, 0.55, 1)]),
    BLUE: ([(205, 245, 0.75, 1, 0.30, 1)], [(170, 272, 0.18, 1, 0.15, 1)]),
    PURPLE: ([(268, 296, 0.35, 1, 0.40, 1)], [(245, 325, 0.15, 1, 0.15, 1)]),
    PINK: ([(318, 348, 0.25, 0.70, 0.85, 1)], [(295, 360, 0.10, 0.80, 0.55, 1), (0, 20, 0.10, 0.60, 0.70, 1)]),
    BROWN: ([(12, 32, 0.35, 0.85, 0.25, 0.60)], [(0, 50, 0.15, 1, 0.12, 0.80)]),
    WHITE: ([(0, 360, 0, 0.07, 0.93, 1)], [(0, 360, 0, 0.22, 0.75, 1)]),
    GREY: ([(0, 360, 0, 0.12, 0.40, 0.75)], [(0, 360, 0, 0.30, 0.20, 0.93)]),
    BLACK: ([(0, 360, 0, 1, 0, 0.14)], [(0, 360, 0, 1, 0, 0.34)]),
}


def hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(..., 3) 8-bit colours -> hue in degrees, saturation and value in 0..1."""
    values = rgb.astype(np.float32) / 255
    high, low = values.max(-1), values.min(-1)
    spread = high - low
    safe = np.where(spread == 0, 1, spread)
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    hue = np.where(
        high == red, (green - blue) / safe % 6, np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    )
    return np.where(spread == 0, 0, hue * 60), spread / np.where(high == 0, 1, high), high


def _inside(channels: tuple[np.ndarray, np.ndarray, np.ndarray], boxes: list[tuple]) -> np.ndarray:
    hue, saturation, value = channels
    found = np.zeros(hue.shape, bool)
    for hue_from, hue_to, saturation_from, saturation_to, value_from, value_to in boxes:
        found |= (
            (hue >= hue_from) & (hue <= hue_to) & (saturation >= saturation_from) & (saturation <= saturation_to)
            & (value >= value_from) & (value <= value_to)
        )  # fmt: skip
    return found


def shares(rgb: np.ndarray) -> dict[str, tuple[float, float]]:
    """(N, 3) or (H, W, 3) pixels -> {colour: (share surely of it, share possibly of it)}."""
    channels = hsv(rgb)
    return {
        name: (float(_inside(channels, strict).mean()), float(_inside(channels, loose).mean()))
        for name, (strict, loose) in BANDS.items()
    }


def present(found: dict[str, tuple[float, float]], colour: str) -> bool | None:
    """Whether the colour is in the picture; None where the pixels leave it open."""
    surely, possibly = found[colour]
    if surely >= 0.03:
        return True
    return False if possibly <= 0.003 else None


def most(rgb: np.ndarray) -> str | None:
    """The colour that covers most of (N, 3) or (H, W, 3) pixels, if it clearly leads all others; else None."""
    channels = hsv(rgb)
    surely = {name: _inside(channels, strict) for name, (strict, _) in BANDS.items()}
    best = max(surely, key=lambda name: surely[name].mean())
    rivals = [mask for name, mask in surely.items() if name != best]
    # Colours without a name (teal, navy) may be one rival too; shades near the best one are not.
    unnamed = ~_inside(channels, BANDS[best][1]) & ~np.any(rivals, axis=0)
    lead = surely[best].mean() - max(unnamed.mean(), *(mask.mean() for mask in rivals))
    return best if surely[best].mean() >= 0.25 and lead >= 0.08 else None


def has_final(word: str) -> bool:
    """Whether the last Hangul syllable of a word ends in a consonant (받침)."""
    assert "가" <= word[-1] <= "힣", f"'{word}' does not end in a Hangul syllable, so its particle cannot be told"
    return (ord(word[-1]) - ord("가")) % 28 != 0


def with_particle(word: str, pair: str) -> str:
    """Word + the right one of "은/는", "이/가", "을/를", "과/와" (the first follows a consonant)."""
    after_consonant, after_vowel = pair.split("/")
    return word + (after_consonant if has_final(word) else after_vowel)
