"""What must survive a translation, does; what was lost, doubled or invented, is said. And glossaries."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from boda.data.translate.glossary import Glossary
from boda.data.translate.protect import Mangled, protect
from boda.errors import BodaError

PLACEHOLDERS = ["⟦{}⟧", '<x id="{}"/>', "<x{}/>", "[[{}]]", "__{}__"]
PIECES = st.sampled_from(
    "<image>|<|im_end|>|https://a.kr/b?c=1|me@x.org|[0.52, 0.43, 0.65, 0.47]|1,000|-3.5|$x^2$|`a b`|(B)|{name}|%s|⟦3⟧|⟦|⟧|[[|]]|[1]|"
    '<x id="2"/>|<x id="|"/>|a cat|  | |.|, |9th|\t|고양이|&lt;|/usr/bin|5 km|\\frac{1}{2}|<b>|A.|__4__|__|{5}|<x7/>|<'.split(
        "|"
    )
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=12).map("".join))


@given(TEXTS, st.sampled_from(PLACEHOLDERS))
@example("⟦⟦0⟧⟧ ⟦1", "⟦{}⟧")
@example("__1 0", "__{}__")
def test_an_engine_that_copies_gives_the_text_back(text: str, placeholder: str):
    shown = protect(text, placeholder)
    assert shown.restore(shown.text) == text


@given(TEXTS, st.sampled_from(PLACEHOLDERS), st.randoms(use_true_random=False))
def test_placeholders_may_change_places_but_not_be_lost_or_doubled(text: str, placeholder: str, random):
    shown = protect(text, placeholder)
    assume(shown.kept)
    numbers = list(range(len(shown.kept)))
    random.shuffle(numbers)
    marks = [placeholder.format(number) for number in numbers]
    assert shown.restore("가 ".join(marks)) == "가 ".join(shown.kept[number] for number in numbers)
    with pytest.raises(Mangled, match="lost"):
        shown.restore("가 ".join(marks[1:]))
    with pytest.raises(Mangled, match="doubled"):
        shown.restore("가 ".join([*marks, marks[0]]))
    with pytest.raises(Mangled, match="invented"):
        shown.restore("가 ".join([*marks, placeholder.format(len(numbers))]))


@pytest.mark.parametrize(
    "text, kept",
    [
        ("<image>\nWhat is in [0.52, 0.43, 0.65, 0.47]?", ["<image>", "[0.52, 0.43, 0.65, 0.47]"]),
        ("Look at <|endofchunk|> and <obj>it</obj>.", ["<|endofchunk|>", "<obj>", "</obj>"]),
        ("See https://a.com/x?y=1. Or (www.b.org), me@c.co.kr.", ["https://a.com/x?y=1", "www.b.org", "me@c.co.kr"]),
        (
            "Open /usr/bin/x, src/a/b.py, C:\\new\\x and photo.jpg, and/or that",
            ["/usr/bin/x", "src/a/b.py", "C:\\new\\x", "photo.jpg"],
        ),
        ("Given $x^2 + y$ and \\(a\\), it costs $5 and $10.", ["$x^2 + y$", "\\(a\\)", "5", "10"]),
        ("\\begin{pmatrix}1 & 2\\end{pmatrix} or \\frac{1}{2}", ["\\begin{pmatrix}1 & 2\\end{pmatrix}", "\\frac{1}{2}"]),
        ("Run `pip install x` with {name}, ${HOME} and %s", ["`pip install x`", "{name}", "${HOME}", "%s"]),
        ("A. cat B. dog (C) bird", ["A.", "B.", "(C)"]),
        ("The answer is A dog. Option B is right. Answer: C", ["B", "C"]),
        (
            "1,000 people, -3.5 °C, 50% and 5 km on 2024-01-05 at 10:30",
            ["1,000", "-3.5 °C", "50%", "5 km", "2024-01-05", "10:30"],
        ),
        ("Three of 5 men, a 30-year-old and an H2O bottle", ["5", "30", "H2O"]),
        ("$110 million in the 1990s on the 3rd at 5pm for $2bn", []),
        ("Andrew H. Bass knows George W. Bush.", []),
        ("I like A Tale of Two Cities. It's a (very) good book?", []),
        ("Points [[1, 2], [3, 4]] and (5, 6)", ["[[1, 2], [3, 4]]", "(5, 6)"]),
        ("⟦0⟧ stands here 3 times", ["⟦0⟧", "3"]),
    ],
)
def test_what_is_protected(text: str, kept: list[str]):
    assert list(protect(text).kept) == kept


@pytest.mark.parametrize(
    "placeholder, said",
    [
        ("⟦{}⟧", "⟦ 1 ⟧에 있는 【0】"),
        ("⟦{}⟧", "［１］에 있는 [0]"),
        ("⟦{}⟧", "[[1]]에 있는 〚0〛"),
        ('<x id="{}"/>', '<X ID = "1" />에 있는 &lt;x id=&quot;0&quot;/&gt;'),
        ('<x id="{}"/>', "<x id=“1”></x>에 있는 ＜x id='0'/＞"),
    ],
)
def test_placeholders_are_known_as_engines_write_them(placeholder: str, said: str):
    assert protect("<image> is in https://a.kr", placeholder).restore(said) == "https://a.kr에 있는 <image>"


def test_spaces_that_an_engine_puts_around_a_placeholder_go_but_not_those_of_the_text():
    assert protect("I see 3 cats").restore("고양이  ⟦0⟧   마리") == "고양이 3 마리"
    assert protect("I  see 3 cats").restore("고양이  ⟦0⟧ 마리") == "고양이  3 마리"


def test_what_is_wrong_is_said_in_the_text_s_own_words():
    with pytest.raises(Mangled, match=re.escape("lost '<image>', '42'; doubled 'a@b.kr'; invented '⟦7⟧'")):
        protect("<image> 42 of a@b.kr").restore("⟦2⟧ ⟦2⟧ ⟦7⟧")


@pytest.mark.parametrize(
    "text, is_fixed",
    [
        ("B", True),
        ("(A)", True),
        ("3.14, 1,000!", True),
        ("<image> https://a.kr", True),
        ("", True),
        ("3 cats", False),
        ("가", False),
    ],
)
def test_a_text_without_a_word_needs_no_engine(text: str, is_fixed: bool):
    assert protect(text, '<x id="{}"/>').is_fixed is is_fixed


def test_names_of_the_glossary_come_back_as_their_translations(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("source,target\nSeoul,서울\nSeoul National University,서울대학교\n東京,도쿄\nBoda,Boda\n", encoding="utf-8")
    names = Glossary.read(path)
    shown = protect("boda at SEOUL National  University in Seoul, not Seoulite; 東京都 https://seoul.kr", glossary=names)
    assert shown.text == "⟦0⟧ at ⟦1⟧ in ⟦2⟧, not Seoulite; ⟦3⟧都 ⟦4⟧"
    assert shown.kept == ("Boda", "서울대학교", "서울", "도쿄", "https://seoul.kr")
    assert protect("Seoul", glossary=names).is_fixed


def test_a_glossary_s_identity_is_what_it_says_not_how_it_is_written(tmp_path):
    rows = [("Seoul", "서울"), ("Busan", "부산")]
    files = {
        "a.tsv": "source\ttarget\n" + "".join(f"{one}\t{two}\n" for one, two in rows),
        "b.jsonl": "".join(json.dumps({"source": one, "target": two}) + "\n" for one, two in reversed(rows)),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    first, second = (Glossary.read(tmp_path / name).identity for name in files)
    assert first == second == Glossary(rows).identity
    assert Glossary([*rows, ("Jeju", "제주")]).identity != first
    assert Glossary().identity == ""


@pytest.mark.parametrize(
    "lines, said",
    [
        ("Apple,사과\nPear,배\napple,애플\n", "'apple' is '사과' in line 2 and '애플' in line 4"),
        ("A,B\nC,D\nB,A\n", r"circle of names, 'a' (line 2) -> 'b' (line 4) -> 'a'"),
        ("A,B\nB,C\nC,A\n", "circle of names"),
        ("A,\n", "line 2: target is empty"),
        (" ,가\n", "line 2: source is empty"),
    ],
)
def test_a_glossary_that_contradicts_itself_is_refused(tmp_path, lines: str, said: str):
    path = tmp_path / "names.csv"
    path.write_text("source,target\n" + lines, encoding="utf-8")
    with pytest.raises(BodaError, match=re.escape(said)):
        Glossary.read(path)


def test_lines_of_a_glossary_are_counted_with_the_empty_ones(tmp_path):
    path = tmp_path / "names.jsonl"
    path.write_text('{"source": "A", "target": "가"}\n\n{"source": "B", "target": ""}\n', encoding="utf-8")
    with pytest.raises(BodaError, match="line 3: target is empty"):
        Glossary.read(path)


def test_a_chain_and_a_name_for_itself_are_no_circle():
    assert len(Glossary([("A", "B"), ("B", "C"), ("D", "D")]).pairs) == 3


def test_a_glossary_without_its_columns_is_refused(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("en,ko\nSeoul,서울\n", encoding="utf-8")
    with pytest.raises(BodaError, match="columns source and target; there are en, ko"):
        Glossary.read(path)


@pytest.mark.parametrize("piece", ["`", "a-", "a.", "-1", "~", "a/"])
def test_long_texts_take_no_time(piece: str):
    began = time.perf_counter()
    assert protect(piece * 20_000).restore(protect(piece * 20_000).text) == piece * 20_000
    assert time.perf_counter() - began < 3


def test_files_in_folders_with_dots_are_whole():
    for text in ("see v1.0/photo.jpg", "a b.c/d.txt", "the-end.photo.png", "x -photo.jpg"):
        assert protect(text).kept == (text.split()[-1],)
