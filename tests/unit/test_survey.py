"""What is said about a whole data set: counts that can be checked by hand, every picture decoded, memory that stays."""

from __future__ import annotations

import io
import json
import statistics
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boda.data.korean import formality
from boda.data.sample import ImageRef, Sample, Source, conversation, image_from_pil
from boda.data.sources import BadRows, read
from boda.data.survey import Check, FirstBad, Stats, survey, table
from boda.errors import BadRow, BodaError
from tests import tiny
from tests.unit.test_sources import write


def looked(samples: list[Sample], look: Check | Stats, bad: list[BadRow] = [], **rest) -> dict:  # noqa: B006
    """`survey` over samples in memory, with bad rows among them."""

    def start(bad_rows: BadRows) -> Iterator[Sample]:
        bad_rows.formats["llava"] = None
        for row in bad:
            bad_rows.add(row)
        bad_rows.seen = len(bad) + len(samples)
        yield from samples

    return survey("set", start, look, FirstBad(io.StringIO()), quiet=True, **rest)


def ask(question: str, answer: str, *images: ImageRef, row: int = 0, **rest) -> Sample:
    return conversation(
        ("user", "<image>" * len(images) + question), ("assistant", answer), images=images, source=Source("a.json", row), **rest
    )


def picture(seed: int, size: tuple[int, int] = (16, 12)) -> ImageRef:
    return image_from_pil(tiny.random_picture(seed).resize(size))


# --- check ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def torn(tmp_path) -> Path:
    """A set of five rows: one good, two about a picture that is torn behind its header, one without its picture, one good."""
    for name, seed in (("good.png", 1), ("torn.png", 2)):
        tiny.random_picture(seed).save(tmp_path / name)
    data = (tmp_path / "torn.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(data[: len(data) - 200])
    names = ("good.png", "torn.png", "torn.png", "gone.png", "good.png")
    return write(tmp_path / "rows.jsonl", [{"image": name, "captions": ["사과", "능금"]} for name in names])


def test_every_picture_is_decoded_once_unless_fast(torn, monkeypatch):
    from boda.data import survey as module

    decoded = []
    load = module.load_image
    monkeypatch.setattr(module, "load_image", lambda ref: decoded.append(ref.path) or load(ref))
    listed = io.StringIO()
    start = lambda bad_rows: read(torn, bad_rows=bad_rows)  # noqa: E731
    found = survey("set", start, Check(), FirstBad(listed), quiet=True)
    assert (found["rows"], found["good"], found["bad"], found["format"]) == (5, 2, 3, "captions")
    assert [row["row"] for row in found["bad_rows"]] == [1, 2, 3]
    assert ["torn.png is cut off" in found["bad_rows"][number]["why"] for number in range(3)] == [True, True, False]
    assert [json.loads(line) for line in listed.getvalue().splitlines()] == found["bad_rows"]
    assert sorted(Path(path).name for path in decoded) == ["good.png", "torn.png"] and found["pictures_decoded"] == 2
    found = survey("set", start, Check(fast=True), FirstBad(listed), quiet=True)
    assert [row["row"] for row in found["bad_rows"]] == [3] and len(decoded) == 2


def test_the_first_ten_bad_rows_are_shown_and_all_are_counted():
    bad = [BadRow("a.json", number, "answer", f"fault {number}") for number in range(25)]
    found = looked([ask("가", "나")], Check(), bad)
    assert (found["bad"], found["good"], len(found["bad_rows"])) == (25, 1, 10)
    shown = table(found)
    assert "fault 9" in shown and "fault 10" not in shown and shown.endswith("...")


@pytest.mark.parametrize(
    "format, row, hint",
    [
        ("llava", {"instruction": "가", "output": "나"}, "it looks like format 'alpaca'"),
        ("alpaca", {"messages": [{"role": "user", "content": "가"}]}, "it looks like format 'messages'"),
        ("messages", {"prompt": "가", "response": "나"}, "it may be 'alpaca' with columns instruction=prompt, output=response"),
        ("alpaca", {"instruction": "", "output": "나"}, None),
    ],
)
def test_a_format_that_fits_no_row_is_said_with_one_that_may(tmp_path, format, row, hint):
    path = write(tmp_path / "a.json", [row] * 3)
    found = survey("a", lambda bad_rows: read(path, format, bad_rows=bad_rows), Check(), FirstBad(io.StringIO()), quiet=True)
    assert (found["good"], found["bad"], found.get("suggestion")) == (0, 3, hint)


def test_what_stops_the_reading_is_said():
    def start(bad_rows: BadRows) -> Iterator[Sample]:
        yield ask("가", "나")
        raise BodaError("a.json is cut off")

    found = survey("set", start, Stats(), FirstBad(io.StringIO()), quiet=True)
    assert found["problem"] == "a.json is cut off" and found["samples"] == 1 and "a.json is cut off" in table(found)


# --- stats ----------------------------------------------------------------------------------------------------------------


def test_counts_that_can_be_checked_by_hand():
    one, two = picture(1, (10, 20)), picture(2, (30, 20))
    samples = [
        ask("무슨 색?", "빨간색이에요.", one, row=0),
        ask("무슨 색?", "빨간색이에요.", two, row=1),
        ask("무슨 색?", "빨간색이에요.", one, row=2),
        conversation(
            ("system", "짧게."),
            ("user", "가"),
            ("assistant", "나"),
            ("user", "다"),
            ("assistant", "라"),
            source=Source(licence="MIT"),
        ),
        ask("what?", "간다.", rejected="온다."),
    ]
    empty = [
        BadRow("a.json", 7, "output", "'output' is empty"),
        BadRow("a.json", 8, "messages", "an assistant turn is empty"),
        BadRow("a.json", 9, "answer", "column 'A' is empty; fill it"),
        BadRow("a.json", 10, "messages", "a user turn is empty: it has neither text nor picture"),
        BadRow("a.json", 11, "image", "a.jpg is empty (0 bytes)"),
    ]
    found = looked(samples, Stats(len), empty)
    assert (found["rows"], found["good"], found["samples"], found["turns"], found["pairs"]) == (10, 5, 5, 12, 1)
    assert (found["duplicates"], found["pictures"], found["rows_per_picture"], found["empty_answers"]) == (1, 2, 1.5, 3)
    assert found["width"] == {"minimum": 10, "median": 10, "maximum": 30}
    assert found["height"] == {"minimum": 20, "median": 20, "maximum": 20}
    assert found["question_characters"] == {"median": 5, "p95": 5}
    assert found["answer_characters"] == {"median": 3, "p95": 7}
    assert found["tokens"] == {"median": 12, "p95": 12, "total": 12 * 3 + 7 + 8}
    assert found["hangul_share"] == round(1 - len("what") / (4 + 27 + 6 + 2), 4)
    assert (found["polite_share"], found["plain_share"]) == (0.5, round(1 / 6, 4))
    assert found["licences"] == {"not stated": 4, "MIT": 1}
    shown = table(found)
    assert "tokens" in shown and "minimum 10, median 10, maximum 30" in shown and "50.0%" in shown
    json.dumps(found)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=40))
def test_medians_and_95_percent_lie_where_they_should(lengths: list[int]):
    found = looked([ask("가", "나" * (length + 1)) for length in lengths], Stats())["answer_characters"]
    assert found["median"] == statistics.median_low([length + 1 for length in lengths])
    below = sum(length + 1 <= found["p95"] for length in lengths)
    assert below >= 0.95 * len(lengths) > below - sum(length + 1 == found["p95"] for length in lengths)


def test_documents_have_no_questions():
    found = looked([conversation(("assistant", "긴 글이다."))] * 2, Stats())
    assert "question_characters" not in found and found["turns"] == 2 and found["duplicates"] == 1


def test_memory_does_not_grow_with_rows():
    class Endless(list):
        def __iter__(self):
            return (ask(f"질문 {number % 1000}", "답" * 500 + str(number % 1000)) for number in range(6_000))

        def __len__(self):
            return 6_000

    tracemalloc.start()
    found = looked(Endless(), Stats())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found["samples"], found["duplicates"]) == (6_000, 5_000) and peak < 2_000_000


def test_limit():
    assert looked([ask("가", "나")] * 9, Stats(), limit=4)["samples"] == 4


@pytest.mark.parametrize(
    "answers, expected",
    [
        (
            ["사과예요.", "사과입니다.", "갑니까?", "보세요", "하십시오.", "그렇죠.", "네, 맞아요!", "있습니다😊", "(좋아요)"],
            "polite",
        ),
        (["사과다.", "빨간 사과가 있다", "아니다.", "가니?", "그래.", "먹자!", "하나도 없다…"], "plain"),
        (["사과", "바다", "필요", "세 개", "", "3", "red apple", "중요", "가지 세 개"], ""),
    ],
)
def test_how_answers_end(answers, expected):
    assert [formality(answer) for answer in answers] == [expected] * len(answers)
