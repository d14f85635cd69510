"""KULLM's and KoAlpaca's rows: flat, nested, GPT4All's, and whole texts; real files where they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boda.data.render import FLATTEN
from boda.data.sources import BadRows, read
from boda.errors import BadRow, BodaError
from boda.recipe import template_text
from tests.shared_data import shared_data
from tests.unit.test_instruction_templates import rendered

INSTANCES = [{"input": "사과", "output": "apple"}, {"input": "배", "output": "pear"}]
NESTED = {"id": "t0", "instruction": "옮겨 주세요.", "instances": INSTANCES}


def write(folder: Path, *rows: dict) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def said(path: Path, *arguments, **rest) -> list[list[str]]:
    """The texts of each sample, parts apart."""
    return [[part.text for message in sample.messages for part in message.content] for sample in read(path, *arguments, **rest)]


@pytest.mark.parametrize("format", ["kullm", None])
def test_every_instance_is_a_sample(format, tmp_path):
    path = write(tmp_path, NESTED, {"instruction": "수도는?", "instances": [{"input": "", "output": "서울"}]})
    assert said(path, format) == [
        ["옮겨 주세요.", "\n\n사과", "apple"],
        ["옮겨 주세요.", "\n\n배", "pear"],
        ["수도는?", "서울"],
    ]
    assert [sample.source.row for sample in read(path, format)] == [0, 0, 1]


def test_kullm_reads_flat_rows_and_gpt4alls(tmp_path):
    flat = {"id": "1", "instruction": "옮겨 주세요.", "input": "사과", "output": "apple"}
    path = write(tmp_path, flat, {"prompt": "수도는?", "response": "서울", "source": "laion"}, NESTED)
    assert said(path, "kullm")[:2] == [["옮겨 주세요.", "\n\n사과", "apple"], ["수도는?", "서울"]]
    assert len(said(path, "kullm")) == 4
    assert said(path, "kullm", limit=3)[2] == ["옮겨 주세요.", "\n\n사과", "apple"]
    korean = write(tmp_path, {"지시": "수도는?", "답": "서울"})
    assert said(korean, "kullm", columns={"instruction": "지시", "output": "답"}) == [["수도는?", "서울"]]


@pytest.mark.parametrize("format", ["koalpaca", None])
def test_koalpaca_has_an_address_beside_its_rows(format, tmp_path):
    path = write(tmp_path, {"instruction": "양파는?", "output": "줄기입니다.", "url": "https://kin.naver.com/qna/1"})
    bad_rows = BadRows()
    assert said(path, format, bad_rows=bad_rows) == [["양파는?", "줄기입니다."]] and list(bad_rows.formats) == ["koalpaca"]


TEXTS = st.text(alphabet="가나다 ab.\n#", max_size=10).map(str.strip).filter(lambda text: text and "###" not in text)


@given(question=TEXTS, context=st.one_of(st.none(), TEXTS), answer=TEXTS, closed=st.booleans())
def test_a_text_is_read_back_from_what_the_template_writes(question, context, answer, closed, tmp_path_factory):
    parts = [question] if context is None else [question, "\n\n" + context]
    messages = [{"role": "user", "content": [{"type": "text", "text": text} for text in parts]}]
    messages.append({"role": "assistant", "content": answer})
    text = rendered(FLATTEN + template_text("koalpaca"), messages)[0].removesuffix("</s>") + "<|endoftext|>" * closed
    path = write(tmp_path_factory.mktemp("text"), {"text": text})
    assert said(path, "koalpaca") == [[*parts, answer]]


BAD = {
    "no answer": ("kullm", NESTED | {"instances": [{"input": "사과", "output": ""}]}, "output", "'output' is empty"),
    "no instances": ("kullm", {"instruction": "가", "instances": []}, "instances", "'instances' is empty"),
    "an instance is text": ("kullm", NESTED | {"instances": ["apple"]}, r"instances\[0\]", "this is text"),
    "instances are text": ("kullm", NESTED | {"instances": "apple"}, "instances", "this is text"),
    "no instruction": ("kullm", {"instances": [{"input": "", "output": "나"}]}, "instruction", "no instruction; the row has"),
    "an empty prompt": ("kullm", {"prompt": " ", "response": "나"}, "instruction", "'instruction' is empty"),
    "another text": ("koalpaca", {"text": "질문: 가\n답변: 나"}, "text", "'### 질문: ...', a blank line"),
    "a text without answer": ("koalpaca", {"text": "### 질문: 가\n\n### 답변:"}, "output", "'output' is empty"),
    "an empty row": ("koalpaca", {"instruction": "", "output": "", "url": ""}, "instruction", "'instruction' is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows(case, tmp_path):
    format, row, field, why = BAD[case]
    path = write(tmp_path, row)
    with pytest.raises(BadRow, match=why) as caught:
        list(read(path, format))
    assert caught.value.row == 0 and re.fullmatch(field, caught.value.field)
    bad_rows = BadRows()
    good = {"kullm": NESTED, "koalpaca": {"text": "### 질문: 가\n\n### 답변: 나<|endoftext|>"}}[format]
    assert len(list(read(write(tmp_path, row, good), format, bad_rows=bad_rows))) == (2 if format == "kullm" else 1)
    assert len(bad_rows) == 1


def test_a_bad_instance_leaves_its_row_out_whole(tmp_path):
    path = write(tmp_path, NESTED | {"instances": [{"input": "", "output": "나"}, {"input": "", "output": ""}]}, NESTED)
    bad_rows = BadRows()
    assert len(list(read(path, "kullm", bad_rows=bad_rows))) == 2 and len(bad_rows) == 1


def test_real_files():
    asked = shared_data("kullm_v2/data/user_oriented_instructions_eval.jsonl")
    samples = list(read(asked))
    assert len(samples) == 252 and sum(len(sample.messages[0].content) == 2 for sample in samples) > 200
    flat = list(read(shared_data("kullm_v2/data/kullm-v1.jsonl"), "kullm"))
    assert len(flat) == 252 and [s.messages[-1].text for s in flat] == [s.messages[-1].text for s in samples]
    talk = shared_data("songys_chatbot/ChatbotData.csv")
    first, *others = read(talk, columns={"question": "Q", "answer": "A"})
    assert (first.messages[0].text, first.messages[1].text) == ("12시 땡!", "하루가 또 가네요.") and len(others) == 11_822
    with pytest.raises(BodaError, match="it may be 'alpaca' with columns instruction=Q, output=A"):
        list(read(talk))
