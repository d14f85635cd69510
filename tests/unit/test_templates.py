"""Templates: columns become sentences; which wording a row uses depends on that row alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boda.data.templates import EmptyCell, Template
from boda.errors import BodaError

ROW = {
    "ko": "아루바", "area": 180, "share": 0.256, "count": 3.0, "capital": ["오라녜스타트"], "keywords": ["샵", "해시"],
    "languages": {"nld": "네덜란드어", "pap": "파피아멘토어"}, "landlocked": False, "nothing": None, "nan": float("nan"),
    "blank": "  ", "none": [], "a.b": "점", "population": "107195", "x[1]": "괄호",
}  # fmt: skip


@pytest.mark.parametrize(
    "template, expected",
    [
        ("이 깃발은 {ko}의 국기입니다.", "이 깃발은 아루바의 국기입니다."),
        ("{ko:은는} {area:,}㎢", "아루바는 180㎢"),
        ("수도는 {capital:이다다}.", "수도는 오라녜스타트다."),
        ("{keywords}", "샵, 해시"),
        ("{keywords[1]}", "해시"),
        ("{languages}", "네덜란드어, 파피아멘토어"),
        ("{languages[nld]:을를}", "네덜란드어를"),
        ("{share:.1%} {count} {landlocked}", "25.6% 3 false"),
        ("{a.b} {x[1]}", "점 괄호"),
        ("{population:,}명", "107,195명"),
        ("{{그대로}} {ko}", "{그대로} 아루바"),
        ("낱말만", "낱말만"),
        ("", ""),
    ],
)
def test_filling(template: str, expected: str):
    assert Template(template).fill(ROW, 0) == expected


@pytest.mark.parametrize("column", ["nothing", "nan", "blank", "none"])
def test_an_empty_cell_is_an_error(column: str):
    with pytest.raises(EmptyCell, match=f"'{column}' is empty"):
        Template(f"값: {{{column}}}").fill(ROW, 0)


def test_errors_name_the_columns_there_are():
    with pytest.raises(BodaError, match="'label' is not in this row, which has ko, area"):
        Template("{label}").fill(ROW, 0)
    with pytest.raises(BodaError, match=r"rows\.csv: a template asks for column 'label'; there are ko, name"):
        Template(["{ko}", "{label:은는}"]).check(["ko", "name"], "rows.csv")
    with pytest.raises(EmptyCell, match=r"has no \[deu\]"):
        Template("{languages[deu]}").fill(ROW, 0)
    with pytest.raises(BodaError, match="cannot be written as"):
        Template("{ko:.2f}").fill(ROW, 0)


@pytest.mark.parametrize("template", ["{}", "{0}", "{ko", "ko}", "{ko!r}", [], [1], {"a": 1}.values()])
def test_templates_that_are_none(template):
    with pytest.raises(BodaError, match="template"):
        Template(template)


def test_attributes_are_out_of_reach():
    with pytest.raises(BodaError):
        Template("{ko.__class__}").fill(ROW, 0)
    with pytest.raises(BodaError):
        Template("{languages[__class__]}").fill(ROW, 0)


def test_wordings_are_spread_over_rows_and_keyed_by_row_and_list():
    wordings = Template(["가 {ko}", "나 {ko}", "다 {ko}"])
    chosen = [wordings.fill(ROW, number)[0] for number in range(300)]
    assert all(70 < count < 130 for count in Counter(chosen).values()) and len(set(chosen)) == 3
    assert [Template(["가 {ko}", "나 {ko}", "다 {ko}"]).fill(ROW, number)[0] for number in reversed(range(300))] == chosen[::-1]
    other = Template(["라 {ko}", "나 {ko}", "다 {ko}"])
    assert [other.fill(ROW, number)[0] for number in range(300)] != chosen
    # Fixed for good: the same rows get the same wordings on any machine and in any release.
    assert [["가", "나", "다"].index(letter) for letter in chosen[:12]] == [1, 2, 0, 0, 0, 2, 2, 0, 1, 1, 0, 0]


@given(st.dictionaries(st.from_regex(r"[a-z가-힣_]{1,8}", fullmatch=True), st.text(min_size=1).filter(str.strip), min_size=1))
def test_any_text_goes_through_unchanged(row: dict):
    template = "|".join("{" + name + "}" for name in row)
    assert Template(template).fill(row, "id") == "|".join(row.values())
