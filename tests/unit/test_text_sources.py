"""Conversations, instructions, plain texts and preference pairs as people keep them on disk -> the Samples that were meant."""

from __future__ import annotations

import gzip
import io
import json
import re
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from boda.data.render import FLATTEN
from boda.data.sample import Message, Part, Sample
from boda.data.sources import BadRows, read
from boda.data.sources.text import documents
from boda.errors import BadRow, BodaError
from tests.shared_data import shared_data
from tests.unit.test_sources import colours, folder, said, write, write_parquet

__all__ = ["folder"]  # a fixture
RED = (255, 0, 0)


def turns(*pairs: tuple[str, str]) -> list[dict]:
    return [{"from": speaker, "value": value} for speaker, value in pairs]


def chat(*pairs: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": text} for role, text in pairs]


ASKED = [("user", "수도는?"), ("assistant", "서울입니다.")]
USER, GOOD, BAD = chat(("user", "수도는?")), chat(("assistant", "서울입니다.")), chat(("assistant", "부산입니다."))
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), min_size=1, max_size=9).filter(str.strip)
LINES = TEXTS.filter(lambda text: not set(text) & set("\r\n\x1e") and text == text.strip())


# --- sharegpt -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["sharegpt", None])
@pytest.mark.parametrize(
    "row, expected",
    [
        ({"conversations": turns(("human", "수도는?"), ("gpt", "서울입니다."))}, ASKED),
        ({"conversations": turns(("user", "수도는?"), ("chatgpt", "서울입니다."))}, ASKED),
        ({"conversations": turns(("human", "수도는?"), ("bing", "서울입니다."))}, ASKED),
        ({"conversations": turns(("human", "수도는?"), ("bard", "서울입니다."))}, ASKED),
        ({"conversations": chat(*ASKED)}, ASKED),
        (
            {"conversations": turns(("system", "짧게."), ("human", "수도는?"), ("gpt", "서울입니다."))},
            [("system", "짧게."), *ASKED],
        ),
        (
            {"conversations": turns(*[("human", "수도는?"), ("gpt", "서울입니다.")]), "system": "짧게."},
            [("system", "짧게."), *ASKED],
        ),
        ({"conversations": turns(("gpt", "안녕하세요!"), ("human", "수도는?"), ("gpt", "서울입니다."))}, ASKED),
        (
            {"conversations": turns(("system", "가"), ("gpt", "나"), ("human", "수도는?"), ("gpt", "서울입니다."))},
            [("system", "가"), *ASKED],
        ),
        ({"conversations": turns(("human", "수도는?"), ("gpt", "서울입니다."), ("human", "고마워"))}, ASKED),
        (
            {"conversations": turns(("human", "안녕"), ("human", "수도는?"), ("gpt", "서울입니다."))},
            [("user", "안녕\n\n수도는?"), ASKED[1]],
        ),
    ],
)
def test_sharegpt(tmp_path, format, row, expected):
    bad_rows = BadRows()
    (sample,) = read(write(tmp_path / "chat.json", [{"id": "QWJ_0", **row}]), format, bad_rows=bad_rows)
    assert said(sample) == expected
    assert list(bad_rows.formats) == ["sharegpt"]


def test_rows_with_pictures_are_llava_wherever_they_stand(folder):
    """LLaVA's mixed sets begin with either kind of row."""
    text = {"conversations": turns(("human", "수도는?"), ("gpt", "서울입니다."))}
    picture = {"image": "a.png", "conversations": turns(("human", "<image>\n무엇?"), ("gpt", "사과"))}
    for number, rows in enumerate(([text, picture], [picture, text])):
        bad_rows = BadRows()
        samples = list(read(write(folder / f"{number}.json", rows), bad_rows=bad_rows))
        assert [len(sample.images) for sample in samples] == [len(row) - 1 for row in rows]
        assert list(bad_rows.formats) == [["sharegpt", "llava"][number]]


SPOKEN = st.lists(st.tuples(st.sampled_from(["human", "gpt"]), TEXTS), max_size=7)


@given(SPOKEN)
def test_any_conversation_is_used_or_reported_and_no_answer_is_lost(tmp_path_factory, spoken):
    assume(spoken)
    path = write(tmp_path_factory.mktemp("chat") / "a.json", [{"conversations": turns(*spoken)}])
    bad_rows = BadRows()
    samples = list(read(path, bad_rows=bad_rows))
    assert len(samples) + len(bad_rows) == 1
    kept = spoken[1:] if spoken[0][0] == "gpt" else spoken
    if samples:
        answers = [message.text for message in samples[0].messages if message.role == "assistant"]
        assert answers == [text for speaker, text in kept if speaker == "gpt"]
        asked = "".join(message.text for message in samples[0].messages if message.role == "user").replace("\n", "")
        assert "".join(text for speaker, text in kept if speaker == "human").replace("\n", "").startswith(asked)
    else:
        doubled = any(first[0] == second[0] == "gpt" for first, second in zip(kept, kept[1:]))
        assert doubled or not {"human", "gpt"} <= {speaker for speaker, _ in kept}


# --- alpaca ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["alpaca", None])
@pytest.mark.parametrize("file", ["rows.json", "rows.jsonl", "rows.csv", "rows.parquet"])
def test_alpaca(tmp_path, format, file):
    rows = [
        {"id": "1", "instruction": "옮겨 주세요.", "input": "사과", "output": "apple"},
        {"id": "2", "instruction": "수도는?", "input": "", "output": "서울입니다."},
    ]
    path = tmp_path / file
    if file.endswith(".csv"):
        path.write_text("id,instruction,input,output\n1,옮겨 주세요.,사과,apple\n2,수도는?,,서울입니다.\n", encoding="utf-8")
    else:
        (write_parquet if file.endswith(".parquet") else write)(path, rows)
    one, two = read(path, format)
    assert one.messages[0] == Message("user", (Part("text", "옮겨 주세요."), Part("text", "\n\n사과")))
    assert one.messages[0].text == "옮겨 주세요.\n\n사과" and one.messages[1].text == "apple"
    assert said(two) == ASKED and len(two.messages[0].content) == 1


def test_templates_that_write_text_alone_join_instruction_and_input(tmp_path):
    from transformers.utils.chat_template_utils import render_jinja_template

    (sample,) = read(write(tmp_path / "a.json", [{"instruction": "옮겨 주세요.", "input": "사과", "output": "apple"}]))
    template = FLATTEN + "{% for message in messages %}[{{ message.content }}]{% endfor %}"
    texts, _ = render_jinja_template(conversations=[[message.as_dict() for message in sample.messages]], chat_template=template)
    assert texts == ["[옮겨 주세요.\n\n사과][apple]"]


def test_alpaca_with_system_history_pictures_and_other_names(folder):
    row = {"system": "짧게.", "history": [["안녕?", "안녕하세요."]], "질문": "무엇?", "정답": "사과", "image": "a.png"}
    columns = {"instruction": "질문", "output": "정답"}
    (sample,) = read(write(folder / "a.json", [row]), columns=columns)
    assert said(sample) == [
        ("system", "짧게."),
        ("user", "안녕?"),
        ("assistant", "안녕하세요."),
        ("user", "<image>무엇?"),
        ("assistant", "사과"),
    ]
    assert colours(sample) == [RED]


def test_alpaca_without_answers_is_for_asking(tmp_path):
    path = write(tmp_path / "a.json", [{"instruction": "수도는?"}])
    assert said(next(read(path, "alpaca", trainable=False))) == ASKED[:1]


# --- text -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written, expected",
    [
        ("하나.\n둘.\n\n셋.\n", ["하나.\n둘.", "셋."]),
        ("하나.\n둘.\n셋.\n", ["하나.", "둘.", "셋."]),
        ("\n\n하나.\n둘.\n\n", ["하나.", "둘."]),
        ("하나.\r\n\r\n둘.\r\n셋.\r\n", ["하나.", "둘.\n셋."]),
        ("하나.\n\n둘.\n\x1e\n셋.\n\x1e\n", ["하나.\n\n둘.", "셋."]),
        ("하나.\n\n둘.\n<|endoftext|>\n셋.\n", ["하나.\n\n둘.", "셋."]),
        ("하나.\n \t\n\n  둘.\n", ["하나.", "  둘."]),
    ],
)
@pytest.mark.parametrize("kept", ["a.txt", "a.txt.gz", "folder", "a.zip"])
def test_text_files(tmp_path, written, expected, kept):
    data = written.encode()
    path = tmp_path / kept
    if kept == "a.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inside/a.txt", data)
    elif kept == "folder":
        (path / "inside").mkdir(parents=True)
        (path / "inside" / "a.txt").write_bytes(data)
        (path / "b.txt.gz").write_bytes(gzip.compress("넷.".encode()))
        expected = ["넷.", *expected]
    else:
        path.write_bytes(gzip.compress(data) if kept.endswith(".gz") else data)
    for format in ("text", None):
        samples = list(read(path, format, licence="CC0"))
        assert [said(sample) for sample in samples] == [[("assistant", text)] for text in expected]
        assert all(sample.is_document and sample.source.licence == "CC0" for sample in samples)
        assert samples[-1].source.row == len(expected) - 1 - (kept == "folder")


def test_columns_of_texts(tmp_path):
    rows = [{"text": "하나.\n\n둘.", "label": 0}, {"text": "셋.", "label": 1}]
    write(tmp_path / "a.jsonl", rows)
    write_parquet(tmp_path / "a.parquet", rows)
    (tmp_path / "a.csv").write_text('text,label\n"하나.\n\n둘.",0\n셋.,1\n', encoding="utf-8")
    for name in ("a.jsonl", "a.parquet", "a.csv"):
        assert [sample.messages[0].text for sample in read(tmp_path / name)] == ["하나.\n\n둘.", "셋."]
    columns = {"text": "{label}: {text}"}
    assert next(read(tmp_path / "a.csv", columns=columns)).messages[0].text == "0: 하나.\n\n둘."
    for number in range(2):
        write_parquet(tmp_path / "shards" / f"{number}.parquet", rows) if number else (tmp_path / "shards").mkdir()
    assert len(list(read(tmp_path / "shards", "text"))) == 2


def test_texts_beside_pictures_are_captions(folder):
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text("사과", encoding="utf-8")
    (folder / "img" / "c.txt").write_text("책", encoding="utf-8")
    assert [len(sample.images) for sample in read(folder)] == [1, 1, 1]


@given(
    st.lists(st.lists(LINES, min_size=1, max_size=3), min_size=1, max_size=6), st.sampled_from(["", "\x1e", "<|endoftext|>"])
)
def test_any_documents_are_read_back(written: list[list[str]], separator: str):
    text = f"\n{separator}\n".join("\n".join(document) for document in written)
    found = list(documents(io.StringIO(text, newline=""), "a.txt"))
    expected = ["\n".join(document) for document in written]
    assert found == (expected if len(written) > 1 else written[0])  # one alone has no separator: a line each


def test_texts_are_read_in_constant_memory_and_too_long_ones_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("boda.data.sources.text.MAX_ROW", 1 << 19)
    path, line = tmp_path / "a.txt", "가나다라마바사 아자차카타파하" * 50 + "\n"
    with path.open("w", encoding="utf-8") as stream:
        for _ in range(500):
            stream.write(line * 10 + "\n")
        stream.write(line * 2000 + "\n끝.\n")
    bad_rows = BadRows()
    tracemalloc.start()
    lengths = [len(sample.messages[0].text) for sample in read(path, bad_rows=bad_rows)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lengths == [len(line) * 10 - 1] * 500 + [2]
    assert [row.row for row in bad_rows] == [500] and "put blank lines between documents" in bad_rows.rows[0].why
    assert path.stat().st_size > 14_000_000 and peak < 4_000_000


# --- preference -----------------------------------------------------------------------------------------------------------

PAIRS = {
    "texts": {"prompt": "수도는?", "chosen": "서울입니다.", "rejected": "부산입니다."},
    "question": {"question": "수도는?", "chosen": "서울입니다.", "rejected": "부산입니다."},
    "instruction": {"instruction": "수도는?", "input": "", "chosen": "서울입니다.", "rejected": "부산입니다."},
    "lists": {"prompt": USER, "chosen": GOOD, "rejected": BAD},
    "whole conversations": {"chosen": USER + GOOD, "rejected": USER + BAD},
    "prompt said twice": {"prompt": "수도는? ", "chosen": USER + GOOD, "rejected": USER + BAD},
    "prompt list said twice": {"prompt": USER, "chosen": USER + GOOD, "rejected": BAD},
    "turns": {"conversations": turns(("human", "수도는?")), "chosen": turns(("gpt", "서울입니다."))[0], "rejected": BAD[0]},
    "messages that end on the chosen one": {"messages": USER + GOOD, "rejected_response": "부산입니다."},
}


@pytest.mark.parametrize("format", ["preference", None])
@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("file", ["a.json", "a.parquet"])
def test_preference_pairs(tmp_path, kind, format, file):
    path = (write if file == "a.json" else write_parquet)(tmp_path / file, [PAIRS[kind]])
    (sample,) = read(path, format)
    assert said(sample) == ASKED and sample.rejected == "부산입니다."


def test_preference_with_system_history_and_pictures(folder):
    rows = [
        {**PAIRS["texts"], "system": "짧게.", "images": ["a.png"]},
        {**PAIRS["lists"], "system": "짧게.", "prompt": chat(("user", "<image>수도는?")), "images": ["a.png"]},
        {
            "system": "짧게.",
            "chosen": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "수도는?"}]}, *GOOD],
            "rejected": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "수도는?"}]}, *BAD],
            "images": ["a.png"],
        },
    ]
    for sample in read(write(folder / "a.json", rows)):
        assert said(sample) == [("system", "짧게."), ("user", "<image>수도는?"), ASKED[1]]
        assert colours(sample) == [RED] and sample.rejected == "부산입니다."
    before = chat(("user", "안녕"), ("assistant", "네"), ("user", "수도는?"))
    (sample,) = read(write(folder / "b.json", [{"prompt": before, "chosen": GOOD, "rejected": BAD}]))
    assert [role for role, _ in said(sample)] == ["user", "assistant"] * 2


@given(TEXTS, TEXTS, TEXTS, st.sampled_from(["texts", "lists", "whole"]))
def test_any_pair_is_read_back_or_is_none(tmp_path_factory, prompt, good, bad, kind):
    user, chosen, rejected = (chat((role, text)) for role, text in (("user", prompt), ("assistant", good), ("assistant", bad)))
    row = {
        "texts": {"prompt": prompt, "chosen": good, "rejected": bad},
        "lists": {"prompt": user, "chosen": chosen, "rejected": rejected},
        "whole": {"chosen": user + chosen, "rejected": user + rejected},
    }[kind]
    bad_rows = BadRows()
    samples = list(read(write(tmp_path_factory.mktemp("pair") / "a.json", [row]), bad_rows=bad_rows))
    if good.strip() == bad.strip():
        assert not samples and "nothing to prefer" in bad_rows.rows[0].why
    else:
        assert [(said(sample), sample.rejected) for sample in samples] == [([("user", prompt), ("assistant", good)], bad)]


# --- bad rows -------------------------------------------------------------------------------------------------------------

BAD_ROWS = {
    "two answers in a row": (
        "sharegpt",
        {"conversations": turns(("human", "가"), ("gpt", "나"), ("gpt", "다"))},
        "messages",
        "must alternate",
    ),
    "no answer": ("sharegpt", {"conversations": turns(("human", "가"))}, "messages", "no assistant turn"),
    "only an answer": ("sharegpt", {"conversations": turns(("gpt", "가"))}, "conversations", "no user turn.*format 'text'"),
    "an answer, then a question": ("sharegpt", {"conversations": turns(("gpt", "가"), ("human", "나"))}, "messages", "no assistant"),
    "a tool speaks": ("sharegpt", {"conversations": turns(("tool", "가"))}, r"conversations\[0\]", "unknown speaker 'tool'"),
    "a speaker is a list": ("sharegpt", {"conversations": [{"from": [], "value": "가"}]}, r"conversations\[0\]", "unknown speaker"),
    "empty answer": ("sharegpt", {"conversations": turns(("human", "가"), ("gpt", ""))}, "messages", "assistant turn is empty"),
    "system text twice": (
        "sharegpt",
        {"system": "가", "conversations": turns(("system", "나"), ("human", "다"), ("gpt", "라"))},
        "messages",
        "a system message may only come first",
    ),
    "a mark, no picture": ("sharegpt", {"conversations": turns(("human", "<image>"), ("gpt", "나"))}, "images", "names 0 pictures"),
    "no instruction": ("alpaca", {"input": "가", "output": "나"}, "instruction", "no instruction; the row has input, output"),
    "empty output": ("alpaca", {"instruction": "가", "output": " "}, "output", "'output' is empty"),
    "output is a list": ("alpaca", {"instruction": "가", "output": ["나"]}, "output", "text is needed; this is a list"),
    "input is a number": ("alpaca", {"instruction": "가", "input": 3, "output": "나"}, "input", "text is needed; this is a number"),
    "history is text": ("alpaca", {"instruction": "가", "output": "나", "history": "다"}, "history", "a list of .question, answer"),
    "history of one": ("alpaca", {"instruction": "가", "output": "나", "history": [["다"]]}, r"history\[0\]", "two texts, is needed"),
    "no text": ("text", {"content": "가"}, "text", "no text; the row has content: `columns:` says which"),
    "empty text": ("text", {"text": "\n"}, "text", "'text' is empty"),
    "text is a list": ("text", {"text": ["가"]}, "text", "text is needed; this is a list"),
    "a mark in a text": ("text", {"text": "이 <image> 표시"}, "messages", "which stands for a picture; remove it"),
    "half a character": ("text", {"text": "가\ud83d"}, "messages", "half a character"),
    "one answer twice": ("preference", {**PAIRS["texts"], "rejected": " 서울입니다."}, "rejected", "nothing to prefer"),
    "empty rejected": ("preference", {**PAIRS["texts"], "rejected": ""}, "rejected", "'rejected' is empty"),
    "empty rejected turn": ("preference", {**PAIRS["lists"], "rejected": chat(("assistant", " "))}, "rejected", "rejected answer is empty"),
    "no rejected": ("preference", {"prompt": "가", "chosen": "나"}, "rejected", "no rejected or rejected_response"),
    "empty chosen": ("preference", {**PAIRS["texts"], "chosen": None}, "chosen", "'chosen' is empty"),
    "no prompt": ("preference", {"chosen": "가", "rejected": "나"}, "prompt", "no prompt or question or instruction"),
    "two prompts": (
        "preference",
        {"chosen": USER + GOOD, "rejected": chat(("user", "제2의 도시는?")) + BAD},
        "rejected",
        "another conversation than chosen",
    ),
    "another prompt": ("preference", {**PAIRS["prompt said twice"], "prompt": "이름은?"}, "prompt", "does not have it"),
    "another prompt list": (
        "preference",
        {**PAIRS["prompt list said twice"], "prompt": chat(("user", "이름은?"))},
        "prompt",
        "another conversation than chosen and rejected begin with",
    ),
    "chosen ends on the user": ("preference", {**PAIRS["lists"], "chosen": GOOD + USER}, "chosen", "it ends on the user"),
    "chosen is a number": ("preference", {**PAIRS["texts"], "chosen": 3}, "chosen", "a list of turns is needed; this is a number"),
    "a picture in rejected": (
        "preference",
        {**PAIRS["lists"], "rejected": chat(("assistant", "<image>"))},
        "rejected",
        "its last turn is the assistant's answer, in words alone",
    ),
    "a mark in rejected": ("preference", {**PAIRS["texts"], "rejected": "<image>"}, "rejected", "<image>, or bytes that are no UTF-8"),
    "missing picture": ("preference", {**PAIRS["texts"], "images": ["gone.png"]}, "images", "no picture at"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_bad_rows_are_named_and_the_rest_is_read(tmp_path, fault: str):
    format, row, field, why = BAD_ROWS[fault]
    good = {
        "sharegpt": {"conversations": turns(("human", "가"), ("gpt", "나"))},
        "alpaca": {"instruction": "가", "output": "나"},
        "text": {"text": "가"},
        "preference": PAIRS["texts"],
    }[format]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in (good, row, good)))
    bad_rows = BadRows()
    assert [sample.source.row for sample in read(path, format, bad_rows=bad_rows)] == [0, 2]
    with pytest.raises(BadRow, match=rf"(?s)a\.jsonl, row 1, field '{field}': .*{why}") as caught:
        list(read(path, format))
    assert "\n" not in str(caught.value)


def test_bad_pairs_and_documents_in_memory():
    user, answer = Message("user", (Part("text", "가"),)), Message("assistant", (Part("text", "나"),))
    assert Sample((user, answer), rejected="다").check_trainable() and Sample((answer,)).check_trainable()
    for rejected in ("나 ", " "):
        with pytest.raises(BadRow, match="field 'rejected'"):
            Sample((user, answer), rejected=rejected).check_trainable()
    for text in ("<image>", "\udcb0"):
        with pytest.raises(BadRow, match="field 'rejected'"):
            Sample((user, answer), rejected=text)


@pytest.mark.parametrize(
    "row, hint",
    [
        ({"Prompt": "가", "response": "나"}, "it may be 'alpaca' with columns instruction=Prompt, output=response"),
        ({"질문": "가", "답변": "나"}, "it may be 'alpaca' with columns instruction=질문, output=답변"),
        ({"dialog": turns(("human", "가"))}, "it may be 'sharegpt' with columns conversations=dialog"),
        ({"chat": chat(("user", "가"))}, "it may be 'messages' with columns messages=chat"),
        (
            {"query": "가", "winner": "나", "loser": "다"},
            "'preference' with columns chosen=winner, rejected=loser, prompt=query",
        ),
        ({"document": "가", "n": 1}, "it may be 'text' with columns text=document"),
        ({"x": 1}, r"told by its columns \(x\); formats are"),
    ],
)
def test_what_is_not_recognised_may_be_guessed(tmp_path, row, hint):
    paths = [write(tmp_path / "a.json", [row])]
    if not isinstance(next(iter(row.values())), list):  # of Parquet only the names are looked at
        paths.append(write_parquet(tmp_path / "a.parquet", [row]))
    for path in paths:
        with pytest.raises(BodaError, match=hint):
            list(read(path, bad_rows=BadRows()))


# --- real data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, format, count, bad",
    [
        ("llamafactory_demo/data/dpo_en_demo.json", "preference", 300, 0),
        ("llamafactory_demo/data/alpaca_en_demo.json", "alpaca", 999, 0),
        ("logickor_pairs/pairs.jsonl", "preference", 1880, 0),
        ("kullm_v2/data/kullm-v1.jsonl", "alpaca", 252, 0),
        ("ko_react_docs/docs.txt", "text", 206, 2),  # two of them show <image> in code
    ],
)
def test_real_sets(name: str, format: str, count: int, bad: int):
    bad_rows = BadRows()
    samples = list(read(shared_data(name), bad_rows=bad_rows))
    assert (list(bad_rows.formats), len(samples), len(bad_rows)) == ([format], count, bad)


def test_the_templates_of_kullm_can_be_written(tmp_path):
    """Instruction and input stand apart in the sample, so that a template may head each."""
    templates = json.loads(shared_data("kullm_v2/templates/kullm.json").read_text(encoding="utf-8"))
    rows = [
        {"instruction": "옮겨 주세요.\n\n짧게.", "input": "사과\n\n배", "output": "가"},
        {"instruction": "수도는?", "output": "나"},
    ]
    for row, sample in zip(rows, read(write(tmp_path / "a.json", rows))):
        instruction, *about = (part.text for part in sample.messages[0].content)
        found = {"instruction": instruction, "input": "".join(about).removeprefix("\n\n")}
        assert found == {"input": ""} | {name: row[name] for name in row if name != "output"}
        prompt = templates["prompt_input" if about else "prompt_no_input"].format(**found)
        assert f"### 명령어:\n{row['instruction']}\n" in prompt and ("사과" in prompt) == ("input" in row)


def test_the_rows_of_the_documentation(folder):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for format in ("sharegpt", "alpaca", "preference", "text"):
        row = json.loads(re.search(rf"\| `{format}` \| `(.*?)` \|", text)[1])
        bad_rows = BadRows()
        (sample,) = read(write(folder / "rows.jsonl", [row]), bad_rows=bad_rows)
        assert list(bad_rows.formats) == [format] and sample.messages[-1].role == "assistant"
