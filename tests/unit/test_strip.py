"""The growing strip of a run's trial answers, and its loss as a line of blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from boda.data.drawn.samples import picture
from boda.evaluate.sheets import RIGHT, WRONG
from boda.evaluate.strip import BLOCKS, GAP, LINE, PICTURE, SIDE, sparkline, strip

SCENES = ("scene/one/seen/0/1", "scene/few/seen/0/2")


def record(step: int, *answers: str, expected: str = "빨간색입니다.") -> dict:
    shown = [
        {"images": [{"drawn": scene}], "answer": answer, "expected": expected, "question": "무슨 색인가요?"}
        for scene, answer in zip(SCENES, answers)
    ]
    return {"stage": "single", "step": step, "validation_loss": 1.0, "answers": shown}


def drawn(tmp_path, *records: dict) -> Image.Image:
    with Image.open(strip(records, tmp_path / "below" / "strip.png")) as sheet:
        return sheet.convert("RGB")


def row(sheet: Image.Image, number: int, column: int) -> set:
    """The colours in the cell of a one-line row; row 0 holds the right answers."""
    left, top = SIDE + column * (PICTURE + GAP), 2 * GAP + PICTURE + number * (LINE + GAP)
    return {colour for _, colour in sheet.crop((left, top, left + PICTURE, top + LINE + GAP)).getcolors(1 << 16)}


def test_it_grows_by_a_row_with_every_record(tmp_path):
    records = [record(75 * number, "별", "별") for number in (1, 2, 3)]
    heights = [drawn(tmp_path, *records[:number]).height for number in (1, 2, 3)]
    assert heights[1] - heights[0] == heights[2] - heights[1] == LINE + GAP
    assert drawn(tmp_path, records[0]).width - drawn(tmp_path, record(75, "별")).width == PICTURE + GAP
    silent = {"stage": "single", "step": 80, "validation_loss": 1.0, "answers": []}
    assert drawn(tmp_path, records[0], silent, {"stage": "single", "step": 81, "loss": 1.0}).height == heights[0]


def test_pictures_stand_above_and_answers_have_the_colour_of_right_and_wrong(tmp_path):
    sheet = drawn(tmp_path, record(75, "빨간색입니다.", "파란색입니다."), record(150, "파란색입니다.", "빨간색입니다."))
    for column, scene in enumerate(SCENES):
        left = SIDE + column * (PICTURE + GAP)
        shown = sheet.crop((left, GAP, left + PICTURE, GAP + PICTURE))
        assert shown.tobytes() == picture(scene).convert("RGB").resize((PICTURE, PICTURE)).tobytes()
    right, wrong = ImageColor.getrgb(RIGHT), ImageColor.getrgb(WRONG)
    for number, column, ink, other in ((1, 0, right, wrong), (1, 1, wrong, right), (2, 0, wrong, right), (2, 1, right, wrong)):
        assert ink in row(sheet, number, column) and other not in row(sheet, number, column)
    assert not {right, wrong} & (row(sheet, 0, 0) | row(sheet, 0, 1)) and len(row(sheet, 0, 0)) > 2


def test_long_answers_take_more_lines_and_no_more_than_four(tmp_path):
    heights = [
        drawn(tmp_path, record(75, "왼쪽 위에 큰 빨간색 별이 있어요. " * times, "별")).height for times in (1, 2, 20, 40)
    ]
    assert heights[0] < heights[1] < heights[2] == heights[3]
    assert heights[3] - drawn(tmp_path, record(75, "별", "별")).height == 3 * LINE
    assert len(row(drawn(tmp_path, record(75, "", "별")), 1, 0)) > 2  # an empty answer is said to be one


def test_a_strip_needs_an_answer(tmp_path):
    with pytest.raises(AssertionError, match="needs a record"):
        strip([{"stage": "single", "step": 1, "loss": 2.0}], tmp_path / "strip.png")


@pytest.mark.parametrize(
    "values, line",
    [
        ([], ""),
        ([3.0], "▁"),
        ([2, 2, 2], "▁▁▁"),
        (range(8), BLOCKS),
        (range(7, -1, -1), BLOCKS[::-1]),
        ([0.0, 10.0, 5.0], "▁█▅"),
        ([4.0] * 24 + [0.0] * 24, "█" * 12 + "▁" * 12),
    ],
)
def test_sparkline(values, line):
    assert sparkline(values) == line


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(1, 40))
def test_a_sparkline_has_its_width_and_shows_the_least_and_the_most(values, width):
    line = sparkline(values, width)
    assert len(line) == min(len(values), width) and set(line) <= set(BLOCKS)
    if len(values) <= width and values and max(values) - min(values) > 1e-6:
        assert line[values.index(max(values))] == "█" and line[values.index(min(values))] == "▁"
