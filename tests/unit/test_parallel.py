"""Sentence pairs and tables of names -> documents in both languages: whole, in both orders, linked in natural Korean."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boda.data.sources import BadRows, read
from boda.data.sources.parallel import TRANSLATED, linked
from boda.errors import BadRow, BodaError
from tests.shared_data import shared_data
from tests.unit.test_sources import write, write_parquet

PAIR = {"ko": "물은 0도에서 언다.", "en": "Water freezes at 0 degrees."}
# Any text, but no <image> mark; the sides differ in more than white space.
SIDE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), min_size=1, max_size=12).filter(str.strip)
ROWS = st.lists(
    st.tuples(SIDE, SIDE).filter(lambda pair: pair[0].strip() != pair[1].strip()), min_size=1, max_size=6, unique_by=lambda pair: pair[0]
)  # fmt: skip


def texts(path, format=None, **rest) -> list[str]:
    """The documents of a data set; each must be one."""
    samples = list(read(path, format, **rest))
    assert all(sample.is_document for sample in samples)
    return [sample.messages[0].text for sample in samples]


@given(ROWS)
def test_every_pair_comes_out_whole_in_both_orders(tmp_path_factory, pairs):
    path = write(tmp_path_factory.mktemp("pairs") / "a.jsonl", [{"ko": korean, "en": english} for korean, english in pairs])
    found = texts(path)
    assert len(found) == 2 * len(pairs)
    for (korean, english), first, second in zip(pairs, found[::2], found[1::2]):
        for text, wordings, before, after in ((first, "ko", korean, english), (second, "en", english, korean)):
            written = [wording.format(ko=korean, en=english) for wording in TRANSLATED[wordings].wordings]
            assert text in written
            assert text.index(before) < len(text) - len(after) and text.endswith(after)


@given(ROWS, st.randoms())
def test_wording_is_the_rows_own(tmp_path_factory, pairs, chance):
    """... whatever stands around it, as long as it has an id."""
    rows = [{"id": f"r{number}", "ko": korean, "en": english} for number, (korean, english) in enumerate(pairs)]
    folder = tmp_path_factory.mktemp("pairs")
    alone = {row["id"]: texts(write(folder / f"{row['id']}.json", [row])) for row in rows}
    chance.shuffle(rows)
    assert texts(write(folder / "all.json", rows)) == [text for row in rows for text in alone[row["id"]]]


def test_many_rows_take_every_wording(tmp_path):
    rows = [{"ko": f"{number}번 문장이다.", "en": f"This is sentence {number}."} for number in range(60)]
    found = texts(write(tmp_path / "a.json", rows))
    for place, side in enumerate(("ko", "en")):
        first_lines = {re.sub(r"\d+", "N", text.partition("\n")[0]) for text in found[place::2]}
        assert len(first_lines) == len({wording.partition("\n")[0] for wording in TRANSLATED[side].wordings})


@pytest.mark.parametrize(
    "names", [("ko", "en"), ("korean", "english"), ("한국어", "영어"), ("src", "tgt"), ("tgt", "src"), ("target", "source")]
)
@pytest.mark.parametrize("file", ["a.jsonl", "a.csv", "a.tsv", "a.parquet"])
def test_tables(tmp_path, names, file):
    path = tmp_path / file
    row = dict(zip(names, PAIR.values()))
    if file.endswith("sv"):
        mark = "," if file == "a.csv" else "\t"
        path.write_text(f"{mark.join(row)}\n{mark.join(row.values())}\n", encoding="utf-8")
    else:
        (write_parquet if file.endswith("parquet") else write)(path, [row])
    expected = texts(write(tmp_path / "expected.json", [PAIR]), "parallel")
    assert texts(path, "parallel") == expected
    assert "src" in names or "source" in names or texts(path) == expected  # told from the columns


def test_columns_and_wordings_of_ones_own(tmp_path):
    path = write(tmp_path / "a.json", [{"translation": PAIR, "id": 7}])
    columns = {side: f"{{translation[{side}]}}" for side in PAIR}
    assert len(texts(path, "parallel", columns=columns)) == 2
    packed = write_parquet(tmp_path / "a.parquet", [{"translation": PAIR}])  # as hub data sets of translations are
    assert all(side in text for side in PAIR.values() for text in texts(packed, "parallel", columns=columns))
    path = write(tmp_path / "b.json", [PAIR])
    assert texts(path, "parallel", question="우리말: {ko}", answer="영어: {en}") == [
        "우리말: 물은 0도에서 언다.\n영어: Water freezes at 0 degrees.",
        "영어: Water freezes at 0 degrees.\n우리말: 물은 0도에서 언다.",
    ]
    assert texts(path, "parallel", question="{ko}") == [f"{PAIR['ko']}\n{PAIR['en']}", f"{PAIR['en']}\n{PAIR['ko']}"]


KOREAN, ENGLISH = ["첫 줄", "", "셋째 줄"], ["First line", "", "Third line"]


@pytest.mark.parametrize("name", ["a.ko", "a.{ko,en}", "a.{en,ko}"])
@pytest.mark.parametrize("format", ["parallel", None])
def test_two_files_of_aligned_lines(tmp_path, name, format):
    for ending, lines in (("ko", KOREAN), ("en", ENGLISH)):
        (tmp_path / f"a.{ending}").write_text("\r\n".join(lines) + "\r\n" * (ending == "ko"), encoding="utf-8", newline="")
    samples = list(read(tmp_path / name, format))
    assert [sample.source.row for sample in samples] == [0, 0, 2, 2]
    rows = [{"id": number, "ko": KOREAN[number], "en": ENGLISH[number]} for number in (0, 2)]
    assert [sample.messages[0].text for sample in samples] == texts(write(tmp_path / "a.json", rows))


def test_other_names_of_aligned_files(tmp_path):
    for name, lines in (("b.nk", KOREAN), ("b.en", ENGLISH), ("ko.txt", KOREAN), ("en.txt", ENGLISH)):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    for name, lines in (("c.ko.gz", KOREAN), ("c.en.gz", ENGLISH)):
        (tmp_path / name).write_bytes(gzip.compress("\n".join(lines).encode()))
    expected = texts(tmp_path / "b.nk")
    assert expected[0].endswith("First line") and expected[1].endswith("첫 줄")
    for name in ("b.{nk,en}", "{ko,en}.txt", "c.ko.gz"):
        assert texts(tmp_path / name) == expected


def test_aligned_files_that_are_not(tmp_path):
    (tmp_path / "a.ko").write_text("하나\n둘\n", encoding="utf-8")
    (tmp_path / "a.en").write_text("One\n", encoding="utf-8")
    with pytest.raises(BodaError, match=r"a\.ko has 2 lines and .*a\.en has 1 lines; aligned files have a line for a line"):
        texts(tmp_path / "a.ko")
    with pytest.raises(BodaError, match="name the Korean file"):
        texts(tmp_path / "a.en", "parallel")
    (tmp_path / "a.en").unlink()
    with pytest.raises(BodaError, match="looked for beside it, in a file that ends in"):
        texts(tmp_path / "a.ko")
    with pytest.raises(BodaError, match="there are 0"):
        texts(tmp_path / "gone.{ko,en}", "parallel")


@pytest.mark.parametrize(
    "row, field, why",
    [
        ({"ko": " ", "en": "Hi"}, "ko", "'ko' is empty"),
        ({"ko": "안녕", "en": None}, "en", "'en' is empty"),
        ({"ko": "OK ", "en": "OK"}, "en", "both sides are one text"),
        ({"ko": "안녕"}, "en", "no en or english"),
        ({"src": "안녕", "tgt": "하이"}, "src", "neither src nor tgt is seen to be the Korean one"),
        ({"ko": 3, "en": "three"}, "ko", "text is needed; this is a number"),
        (PAIR | {"links": "물"}, "links", "a list of"),
        (PAIR | {"links": [["물", "water"], ["물"]]}, r"links\[1\]", "two names"),
        (PAIR | {"links": [["불", "fire"]]}, r"links\[0\]", "the Korean side does not have '불'"),
    ],
)
def test_bad_pairs(tmp_path, row, field, why):
    path = write(tmp_path / "a.jsonl", [PAIR, row, PAIR])
    bad_rows = BadRows()
    assert len(list(read(path, "parallel", bad_rows=bad_rows))) == 4 and len(bad_rows) == 1
    with pytest.raises(BadRow, match=f"row 1, field '{field}': .*{why}"):
        list(read(path, "parallel"))


# --- names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, names, expected",
    [
        (
            "세종대왕은 한글을 만들었고, 세종대왕의 업적은 많다.",
            [("세종대왕", "King Sejong"), ("한글", "Hangul")],
            "세종대왕(King Sejong)은 한글(Hangul)을 만들었고, 세종대왕의 업적은 많다.",
        ),
        ("서울역은 서울에 있다.", [("서울", "Seoul")], "서울역은 서울(Seoul)에 있다."),
        (
            "서울역은 서울에 있다.",
            [("서울", "Seoul"), ("서울역", "Seoul Station")],
            "서울역(Seoul Station)은 서울(Seoul)에 있다.",
        ),
        ("그는 부산에서부터는 걸었다.", [("부산", "Busan")], "그는 부산(Busan)에서부터는 걸었다."),
        ("감독은 봉준호였다.", [("봉준호", "Bong Joon-ho")], "감독은 봉준호(Bong Joon-ho)였다."),
        ("동대문구의 동대문", [("동대문", "Dongdaemun")], "동대문구의 동대문(Dongdaemun)"),
        ("'기생충'이 상을 받았다.", [("기생충", "Parasite")], "'기생충(Parasite)'이 상을 받았다."),
        ("수원(水原)은 크다.", [("수원", "Suwon")], "수원(水原)은 크다."),  # what stands there is left alone
        ("King Sejong was a king.", [("King Sejong", "세종대왕")], "King Sejong (세종대왕) was a king."),
        ("King Sejong's son met king sejong.", [("King Sejong", "세종대왕")], "King Sejong's son met king sejong (세종대왕)."),
        ("Pineapples", [("apple", "사과")], "Pineapples"),
    ],
)
def test_names_are_linked_where_they_are_words(text, names, expected):
    assert linked(text, names) == expected


WORDS = st.lists(st.sampled_from(["서울", "서울역", "한강", "가", "은", "에서", "강", " ", ". ", "Han", "(", ")"]), max_size=14)


@given(WORDS, st.lists(st.sampled_from([("서울", "Seoul"), ("서울역", "Seoul Station"), ("한강", "the Han")]), unique=True))
def test_linking_only_adds_brackets(words, names):
    """Each name is linked once at most; what is added taken out again, the text is as it was."""
    text, found = "".join(words), linked("".join(words), names)
    for _, other in names:
        assert found.count(f"({other})") <= 1
        found = found.replace(f"({other})", "")
    assert found == text


def test_pairs_with_links(tmp_path):
    row = {"ko": "한글은 세종대왕이 만들었다.", "en": "King Sejong made Hangul.", "links": [["세종대왕", "King Sejong"]]}
    for text in texts(write(tmp_path / "a.json", [row])):
        assert "한글은 세종대왕(King Sejong)이 만들었다." in text and "King Sejong made Hangul." in text


def test_a_table_of_names(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text("ko,en,ko_text,en_text\n경복궁,Gyeongbokgung,,\n", encoding="utf-8")
    first, second = texts(path)
    assert first in (
        "경복궁은 영어로 Gyeongbokgung이라고 한다.",
        "경복궁을 영어로는 Gyeongbokgung이라고 쓴다.",
        "‘경복궁’에 해당하는 영어는 ‘Gyeongbokgung’이다.",
    )
    assert second.index("Gyeongbokgung") < second.index("경복궁") and "Korean" in second
    path.write_text("ko,en\n한강,the Han\n", encoding="utf-8")
    assert "한강" in texts(path, "links")[0] and not texts(path, "links")[0].startswith("한국어:")


@pytest.mark.parametrize(
    "korean, english, expected",
    [
        (
            "경복궁은 서울에 있다.",
            "Gyeongbokgung is in Seoul.",
            ["경복궁(Gyeongbokgung)은 서울에 있다.", "Gyeongbokgung (경복궁) is in Seoul."],
        ),
        (
            "조선의 법궁.",
            "The main palace.",
            ["경복궁(Gyeongbokgung): 조선의 법궁.", "Gyeongbokgung (경복궁): The main palace."],
        ),
        ("조선의 법궁.", "", ["경복궁(Gyeongbokgung): 조선의 법궁.", None]),
        ("", "The main palace.", [None, "Gyeongbokgung (경복궁): The main palace."]),
    ],
)
def test_names_with_texts(tmp_path, korean, english, expected):
    row = {"ko": "경복궁", "en": "Gyeongbokgung", "ko_text": korean, "en_text": english}
    one, other = texts(write(tmp_path / "a.json", [row]), "links")
    assert one.split("\n") == other.split("\n")[::-1]
    for line, wanted in zip(one.split("\n"), expected, strict=True):
        assert line == wanted if wanted else ("경복궁" in line and "Gyeongbokgung" in line)


def test_a_name_that_is_the_same_links_nothing(tmp_path):
    with pytest.raises(BadRow, match="'LG' is the name in both languages"):
        list(read(write(tmp_path / "a.json", [{"ko": "LG", "en": "LG"}]), "links"))


# --- real data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, pairs",
    [("korean-english-jhe/jhe-koen-dev.{ko,en}", 720), ("northkorean-english-news-v1/northkorean-english.test.nk", 2000)],
)
def test_real_pairs(name, pairs):
    folder = shared_data("korean_parallel_corpora")
    bad_rows = BadRows()
    found = list(read(folder / name, bad_rows=bad_rows))
    assert list(bad_rows.formats) == ["parallel"] and len(found) == 2 * (pairs - len(bad_rows)) and len(bad_rows) < 5
    assert all(json.dumps(sample.messages[0].text) for sample in found)


def test_the_rows_of_the_documentation(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for format in ("parallel", "links"):
        row = json.loads(re.search(rf"\| `{format}` \| `(.*?)`", text)[1])
        assert len(texts(write(tmp_path / "rows.jsonl", [row]), format)) == 2
