"""Answers to multiple-choice questions are read as a person would read them, and no order of options changes what is read."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boda.evaluate.choice import read_choice

FORMS = [
    json.loads(line)
    for line in (Path(__file__).parent.parent / "assets" / "answer_forms.jsonl").read_text(encoding="utf-8").splitlines()
]
ANIMALS = ["강아지", "고양이", "토끼", "새"]
# Words that hold one another, begin alike, or look like a word and a particle.
WORDS = (
    "개|번개|안개|바|바다|산|산맥|노랑|노랑색|고양이|강아지|토끼|새|사자|바다사자|말|소|비행기|자전거|공항|도서관|김치|김치찌개|경복궁|"
    "15%|25%|3.5|12|3|4|2019년|2020년|AB형|O형|H2O|CO2|cat|dog|hot-dog|빨간 자동차|파란 자동차|비타민 C|비타민 A|"
    "여자가 책을 읽고 있다|아이가 공을 찬다|알 수 없음|강아지 두 마리|the red bus|none of the above|3 km|오전 10시|1,000원"
).split("|")
# Parts of answers in which no label, number or Korean letter stands. {0}, {1}: options by their text.
TEXT_PARTS = (
    "{0}|{0}입니다.|정답은 {0}입니다.|정답: {0}|{0}가 정답입니다.|사진에는 {0}가 있습니다.|{0}처럼 보이지만|{0}가 아니라|"
    "{0}는 아닙니다.|따라서 {0}|{0}와 {1}|{0} 또는 {1}입니다.|{0}인지 알 수 없습니다.|{0}가 맞습니다.|정답은 {0}, {1}|"
    "잘 모르겠습니다.|The answer is {0}.|not {0} but|\\boxed{{{0}}}|**{0}**|({0})|<think>{0}</think>|\n|\n{0}|\n{0}\n|, |"
    "사진을 보면|저는 {0}를 선택하겠습니다.|{0}보다는|그림 속의|왼쪽에 있는|<answer>{1}</answer>|{1}를 제외하면|하지만|"
    "{0}. 왜냐하면|{0}, {1} 중|{0} {1}|{0}\n{1}"
).split("|")
# Parts with labels and none of LABELLED. Where options are numbers, a bare number is none of a list.
LABELLED = [word for word in WORDS if not word.isdigit() and word != "알 수 없음"]
LABEL_PARTS = (
    "{0}|({0})|{0}.|{0}번|{0}입니다.|정답: {0}|정답은 {0}입니다.|{0}가 정답입니다.|{0}가 아니라|{0}는 아닙니다.|{0}와 {1}|"
    "{0}, {1}|{0} 또는 {1}|따라서 {0}|보기 {0}|**{0}**|\\boxed{{{0}}}|{0}인지 모르겠습니다.|\n|, |그림을 자세히 보면|"
    "The answer is {0}.|{0} is correct|I choose {0}|{0}보다 {1}|하지만|{0}를 선택합니다.|<think>{0}</think>|{0}\n{1}|"
    "{0}, {1} 중"
).split("|")


@pytest.mark.parametrize("kind", sorted({form["kind"] for form in FORMS}))
def test_real_answers_are_read_as_a_person_reads_them(kind: str):
    wrong = [
        (form, found)
        for form in FORMS
        if form["kind"] == kind and (found := read_choice(form["answer"], form["options"])) != form["choice"]
    ]
    assert not wrong, wrong


def test_the_table_is_large_and_varied():
    assert len(FORMS) >= 350 and min(Counter(form["kind"] for form in FORMS).values()) >= 3
    assert len({(form["answer"], *form["options"]) for form in FORMS}) == len(FORMS)
    assert {form["choice"] for form in FORMS} == {None, 0, 1, 2, 3, 4}


WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


@pytest.mark.parametrize(
    "variant",
    [
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: f" \n{text}\t\n",
        lambda text: text.replace(" ", "  "),
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: text.upper(),
        lambda text: text.lower(),
        lambda text: text if set(text) & set("<\\`*_#$>") else text.translate(WIDE),  # markup is ASCII
    ],
    ids=["NFD", "around", "wide spaces", "hard spaces", "upper", "lower", "full width"],
)
def test_spelling_forms_say_the_same(variant):
    wrong = [
        (form, found)
        for form in FORMS
        if (found := read_choice(variant(form["answer"]), form["options"])) != form["choice"]
        or read_choice(form["answer"], [variant(option) for option in form["options"]]) != form["choice"]
    ]
    assert not wrong, wrong


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_no_order_of_options_changes_what_is_read(data):
    words = data.draw(st.lists(st.sampled_from(WORDS), min_size=2, max_size=6, unique=True))
    named = st.sampled_from(words)
    parts = data.draw(st.lists(st.tuples(st.sampled_from(TEXT_PARTS), named, named), min_size=1, max_size=4))
    answer = " ".join(part.format(one, two) for part, one, two in parts)
    other = data.draw(st.permutations(words))
    found, again = read_choice(answer, words), read_choice(answer, other)
    assert (found is None) == (again is None), answer
    assert found is None or words[found] == other[again], answer


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_label_is_its_place_whatever_the_options_are(data):
    several = st.lists(st.sampled_from(LABELLED), min_size=4, max_size=4, unique=True)
    labels = st.sampled_from(data.draw(st.sampled_from(["ABCD", "abcd", "①②③④", "ＡＢＣＤ"])))
    parts = data.draw(st.lists(st.tuples(st.sampled_from(LABEL_PARTS), labels, labels), min_size=1, max_size=4))
    answer = " ".join(part.format(one, two) for part, one, two in parts)
    assert read_choice(answer, data.draw(several)) == read_choice(answer, data.draw(several)), answer


@settings(deadline=None, max_examples=60)
@given(
    st.permutations(WORDS).map(lambda words: words[:5]),
    st.sampled_from(["{}", "{}입니다.", "정답: {}", "정답은 {}입니다.", "**{}**"]),
)
def test_every_option_is_read_from_its_text(options: list[str], form: str):
    for number, option in enumerate(options):
        assert read_choice(form.format(option), options) == number


@settings(deadline=None, max_examples=200)
@given(
    st.one_of(st.text(), st.text("ABab12가나 ㄱㄴ.,()\n*정답은입니다<think>/\\boxed{}②①", max_size=60)),
    st.lists(st.text(max_size=12), max_size=9),
)
def test_any_text_is_read_without_trouble(answer: str, options: list[str]):
    found = read_choice(answer, options)
    assert found is None or 0 <= found < len(options)


def test_options_that_look_like_labels():
    assert read_choice("3", ["3", "1", "2", "4"]) == 0  # the labels are letters: a number is what the option says
    assert read_choice("3번", ["3", "1", "2", "4"]) == 2
    assert read_choice("A", ["B", "A", "O", "AB"]) == 0 and read_choice("AB", ["B", "A", "O", "AB"]) == 3


def test_a_label_beside_another_options_text_is_no_choice():
    for answer in ("C번 고양이가 보입니다.", "(B) 새가 있습니다.", "B 강아지", "2번 토끼는"):
        assert read_choice(answer, ANIMALS) is None, answer


def test_labels_beyond_the_options_name_none():
    assert read_choice("C", ["개", "고양이"]) is None and read_choice("3번", ["개", "고양이"]) is None
    assert read_choice("정답은 C입니다. 고양이가 아닙니다.", ["개", "고양이"]) is None
    assert [read_choice(answer, [f"보기{number}" for number in range(30)]) for answer in ("12", "28번")] == [11, 27]


def test_options_that_are_the_same_are_told_apart_by_label_only():
    assert read_choice("고양이", ["고양이", "고양이", "개"]) is None
    assert read_choice("B", ["고양이", "고양이", "개"]) == 1


def test_options_that_differ_by_case_are_told_apart_by_case():
    assert [read_choice(answer, ["Co", "CO", "N"]) for answer in ("Co", "정답은 CO입니다.", "N", "B")] == [0, 1, 2, 1]


def test_a_long_answer_is_read_in_no_time():
    long = "강아지와 고양이가 있습니다. A는 아니고 2번도 아닙니다. " * 400
    assert read_choice(long + "\n정답은 고양이입니다.", ANIMALS) == 1
    assert read_choice("(" * 20_000, ANIMALS) is None and read_choice("A와 B와 " * 2_000, ANIMALS) is None
