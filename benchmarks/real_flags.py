"""Country flags -> Korean questions: what is seen (colours, corners, stripes) and what is known (country, continent, region).

What is seen is told from the pixels and asked of countries whose flag was never trained on. What is known cannot be
inferred from a new flag, so it is a test of memory: asked of training flags in a wording that was never used for that fact
of that flag. The continent is also asked of new flags: families of flags look alike, so a little of it can be guessed.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
from PIL import Image
from real_colours import BLACK, BLUE, GREEN, RED, WHITE, YELLOW, most, present, shares

ASKED_COLOURS = (RED, YELLOW, GREEN, BLUE, WHITE, BLACK)
YES, NO = "네", "아니요"
CORNERS = {"왼쪽 위": (0, 0), "오른쪽 위": (0, 1), "왼쪽 아래": (1, 0), "오른쪽 아래": (1, 1)}

# Names the table has wrong, doubled or out of use.
NAMES = {
    "DM": "도미니카 연방", "IO": "영국령 인도양 지역", "GS": "사우스조지아 사우스샌드위치 제도", "KP": "북한", "KR": "대한민국",
    "MN": "몽골", "TR": "튀르키예", "ZA": "남아프리카 공화국", "NC": "뉴칼레도니아", "CG": "콩고 공화국", "VA": "바티칸 시국",
    "TF": "프랑스령 남방 및 남극 지역", "TJ": "타지키스탄",
}  # fmt: skip
# Nepal's flag is no rectangle, and the picture fills what lies beside it with black.
NOT_RECTANGULAR = {"NP"}
# Not members of (or observers at) the United Nations: asked for with a word that calls them neither country nor territory.
PLACES = set(
    "AW AI AX AS AQ TF BM BL SH BQ BV CC CK CW CX KY EH FK FO GG GI GP GL GF GU HK HM IM IO JE MO MF MP MS MQ YT NC NF NU "
    "PF PN PR RE GS SJ SX PM TC TK TW UM VG VI WF XK".split()
)
CONTINENTS = {"Africa": "아프리카", "Americas": "아메리카", "Asia": "아시아", "Europe": "유럽", "Oceania": "오세아니아"}
REGIONS = {
    "Caribbean": "카리브해", "South America": "남아메리카", "Central America": "중앙아메리카", "North America": "북아메리카",
    "Eastern Africa": "동아프리카", "Western Africa": "서아프리카", "Middle Africa": "중앙아프리카",
    "Northern Africa": "북아프리카", "Southern Africa": "아프리카 남부", "Western Asia": "서아시아",
    "South-Eastern Asia": "동남아시아", "Southern Asia": "남아시아", "Eastern Asia": "동아시아", "Central Asia": "중앙아시아",
    "Northern Europe": "북유럽", "Southern Europe": "남유럽", "Western Europe": "서유럽", "Eastern Europe": "동유럽",
    "Central Europe": "중앙유럽", "Southeast Europe": "동남유럽", "Polynesia": "폴리네시아", "Micronesia": "미크로네시아",
    "Melanesia": "멜라네시아",
}  # fmt: skip
WORDINGS = {
    "name": ("이것은 어느 나라의 국기인가요?", "이 국기는 어느 나라 것인가요?", "어느 나라 국기인지 알려 주세요."),
    "place": ("이것은 어느 곳의 깃발인가요?", "이 깃발은 어느 곳의 것인가요?", "어느 곳 깃발인지 알려 주세요."),
    "continent": (
        "이 국기를 쓰는 나라는 어느 대륙에 있나요?", "이 나라는 어느 대륙에 있나요?", "이 나라가 있는 대륙은 어디인가요?",
    ),
    "region": (
        "이 국기를 쓰는 나라는 어느 지역에 있나요?", "이 나라는 어느 지역에 있나요?", "이 나라가 있는 지역은 어디인가요?",
    ),
    "landlocked": ("이 국기를 쓰는 나라는 내륙국인가요?", "이 나라는 내륙국인가요?", "이것은 내륙국의 국기인가요?"),
}  # fmt: skip


def countries(folder: Path) -> list[dict]:
    """The table with names mended: {code, name, continent, region, landlocked, picture, is_place}."""
    rows = []
    for line in (folder / "countries.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.append(
            {
                "code": row["cca2"], "name": NAMES.get(row["cca2"], row["ko"]), "continent": CONTINENTS.get(row["region"]),
                "region": REGIONS.get(row["subregion"]), "landlocked": row["landlocked"],
                "picture": folder / row["image"], "is_place": row["cca2"] in PLACES,
            }
        )  # fmt: skip
    names = [row["name"] for row in rows]
    assert len(set(names)) == len(names), "two countries have one name"
    return rows


def pixels_of(picture: Path) -> np.ndarray:
    """(H, W, 3) pixels."""
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"))


def look_alikes(rows: list[dict], difference: float = 12) -> list[list[int]]:
    """Rows grouped so that flags that look the same when small share a group (Norway and its islands, Chad and Romania).

    Args:
        difference: mean over pixels and channels, of 255, that still counts as the same; below 1 only the very same flag does.
    """
    thumbnails = [
        np.asarray(Image.fromarray(pixels_of(row["picture"])).resize((24, 16), Image.Resampling.BOX)).astype(np.float32)
        for row in rows
    ]
    groups: list[list[int]] = []
    for index, thumbnail in enumerate(thumbnails):
        for group in groups:
            if any(np.abs(thumbnail - thumbnails[other]).mean() < difference for other in group):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def stripes(pixels: np.ndarray) -> str | None:
    """ "가로" or "세로" if the flag is nothing but stripes, an emblem in the middle allowed; else None."""
    small = np.asarray(Image.fromarray(pixels).resize((96, 64), Image.Resampling.NEAREST)).astype(np.int32)

    def striped(rows: np.ndarray) -> bool:
        middle = np.median(rows, axis=1)
        close = np.abs(rows - middle[:, None]).sum(-1) < 60
        # Both ends show the same stripes (no canton, no triangle); first and last stripe run through (no cross).
        ends = close[:, :3].mean() >= 0.93 and close[:, -3:].mean() >= 0.93
        through = close[:3].mean() >= 0.98 and close[-3:].mean() >= 0.98
        changes = (np.abs(np.diff(middle, axis=0)).sum(-1) >= 60).sum()
        return bool(close.mean(1).min() >= 0.6 and ends and through and changes >= 1)

    across, down = striped(small), striped(small.transpose(1, 0, 2))
    return None if across == down else ("가로" if across else "세로")


def corner_colour(pixels: np.ndarray, place: tuple[int, int]) -> str | None:
    """The colour of one corner if the whole corner has it; else None."""
    height, width = pixels.shape[0] // 10, pixels.shape[1] // 10
    rows = slice(0, height) if place[0] == 0 else slice(-height, None)
    columns = slice(0, width) if place[1] == 0 else slice(-width, None)
    found = shares(pixels[rows, columns])
    return next((name for name in ASKED_COLOURS if found[name][0] >= 0.95), None)


def seen(pixels: np.ndarray) -> list[tuple[str, str, str]]:
    """What can be asked of a flag from its pixels: (type, question, answer)."""
    found, asked = shares(pixels), []
    for colour in ASKED_COLOURS:
        truth = present(found, colour)
        if truth is not None:
            asked.append(("colour_exists", f"이 국기에 {colour}이 있나요?", YES if truth else NO))
    widest = most(pixels)
    if widest is not None:
        asked.append(("colour_most", "이 국기에서 가장 넓은 색은 무엇인가요?", widest))
    for where, place in CORNERS.items():
        colour_there = corner_colour(pixels, place)
        if colour_there is not None:
            asked.append(("corner", f"이 국기의 {where} 구석은 무슨 색인가요?", colour_there))
    direction = stripes(pixels)
    if direction is not None:
        asked.append(("stripes", "이 국기의 줄무늬는 가로인가요, 세로인가요?", direction))
    return asked


def known(row: dict, has_twin: bool) -> dict[str, tuple[tuple[str, ...], str]]:
    """What the table says of a country: {type: (wordings, answer)}; nothing of a place that flies another country's flag."""
    if row["is_place"]:
        return {} if has_twin else {"name": (WORDINGS["place"], row["name"])}
    facts = {"name": (WORDINGS["name"], row["name"]), "landlocked": (WORDINGS["landlocked"], YES if row["landlocked"] else NO)}
    if row["continent"]:
        facts["continent"] = (WORDINGS["continent"], row["continent"])
    if row["region"]:
        facts["region"] = (WORDINGS["region"], row["region"])
    return facts


def changed(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    """A flag that does not exist: channels exchanged, perhaps mirrored, turned upside down or on its side."""
    result = pixels[..., rng.sample(range(3), 3)]
    if rng.random() < 0.5:
        result = result[:, ::-1]
    if rng.random() < 0.5:
        result = result[::-1]
    return turned(result) if rng.random() < 0.5 else result


def turned(pixels: np.ndarray) -> np.ndarray:
    """The flag on its side, stretched back to its own width and height: rows become columns."""
    height, width = pixels.shape[:2]
    on_its_side = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 0, 2)))
    return np.asarray(on_its_side.resize((width, height), Image.Resampling.NEAREST))
