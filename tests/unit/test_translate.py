"""Translation jobs: which texts of which rows, files rewritten in place, the memory, rejects, budgets, and the command."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

from boda.cli import app
from boda.data.translate import shards
from boda.data.translate.engines import Engine, EngineGone, Reply, open_engine
from boda.data.translate.fields import FIELDS, Text, fields_for, find
from boda.data.translate.folder import JobFolder
from boda.data.translate.job import Task, survey, translate
from boda.data.translate.memory import Entry, Memory
from boda.data.translate.shards import open_shard
from boda.errors import BadRow, BodaError
from tests.shared_data import shared_data
from tests.translation_servers import TranslationServer, deepl

WORDS = {
    "dog": "개가",
    "cat": "고양이가",
    "runs": "달립니다",
    "sleeps": "잡니다",
    "big": "큰",
    "what": "무엇이",
    "is": "있습니까",
}


def korean(text: str) -> str:
    return re.sub(r"[A-Za-z]+", lambda word: WORDS.get(word[0], word[0]), text)


def english(text: str) -> str:
    return re.sub("|".join(WORDS.values()), lambda word: next(key for key, said in WORDS.items() if said == word[0]), text)


@dataclass
class Fake(Engine):
    """Translates word by word unless `say` knows better; remembers what it was asked."""

    name: ClassVar[str] = "fake"

    say: Callable[[str], Reply] = lambda text: Reply(korean(text), "", len(text), 1)
    asked: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def translate(self, texts: list[str]) -> list[Reply]:
        with self.lock:
            self.asked += texts
        return [self.say(text) for text in texts]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "cache"))


def job(path: Path, out: Path, engine: Engine | None = None, **rest) -> tuple[dict, Path]:
    """The outcome of a job on one file, and its output."""
    done = translate([path], out, Task(engine or Fake(), **rest))
    return done, out / "data" / path.name


# ---------------------------------------------------------------- which texts

ROWS = {
    "llava": ({"id": "dog", "image": "dog.jpg", "conversations": [{"from": "human", "value": "what"}, {"from": "gpt", "value": "dog"}]},
              ["conversations[0].value", "conversations[1].value"]),
    "messages": ({"messages": [{"role": "user", "content": [{"type": "image", "image": "dog.jpg"}, {"type": "text", "text": "what"}]},
                               {"role": "assistant", "content": "dog"}]},
                 ["messages[1].content", "messages[0].content[1].text"]),
    "alpaca": ({"instruction": "what", "input": "", "output": "dog", "note": "cat"}, ["instruction", "input", "output"]),
    "koalpaca": ({"instruction": "what", "output": "dog", "url": "http://dog"}, ["instruction", "output"]),
    "kullm": ({"instruction": "what", "instances": [{"input": "cat", "output": "dog"}]},
              ["instruction", "instances[0].input", "instances[0].output"]),
    "preference": ({"prompt": "what", "chosen": [{"role": "assistant", "content": "dog"}], "rejected": "cat", "score": 1},
                   ["prompt", "chosen[0].content", "rejected"]),
    "captions": ({"image": "dog.jpg", "captions": ["dog", "cat"], "url": "dog"}, ["captions[0]", "captions[1]"]),
    "text": ({"text": "dog", "meta": "cat"}, ["text"]),
    "mmc4": ({"text_list": ["dog", "cat"], "url": "dog", "image_info": [{"image_name": "dog.jpg"}]}, ["text_list[0]", "text_list[1]"]),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_fields_of_a_format(name):
    row, wheres = ROWS[name]
    told, fields = fields_for(row, "rows")
    assert told == name and fields == FIELDS[name]
    found = list(find(row, fields))
    assert [slot.where for slot in found] == wheres
    assert all(slot.parent[slot.key] == slot.text for slot in found)


def test_tools_and_other_speakers_are_not_translated():
    turns = [
        {"from": "human", "value": "what"},
        {"from": "function_call", "value": '{"name": "dog"}'},
        {"from": "gpt", "value": "dog"},
    ]
    found = find({"conversations": turns}, FIELDS["sharegpt"])
    assert [slot.where for slot in found] == ["conversations[0].value", "conversations[2].value"]


def test_fields_by_name(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"title": "dog", "more": [{"note": "cat"}], "text": "big"}])
    _, out = job(path, tmp_path / "job", fields=["title", "more[].note"])
    assert lines(out) == [{"title": "개가", "more": [{"note": "고양이가"}], "text": "big"}]
    with pytest.raises(BodaError, match=r"none of the fields names; its rows have title, more, text"):
        job(path, tmp_path / "other", fields=["names"])


def test_rows_that_cannot_be_told(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"a": "dog", "b": 1}])
    with pytest.raises(BodaError, match=r"cannot be told; --fields names it \(the rows have a, b\)"):
        job(path, tmp_path / "job")


@given(st.text(st.sampled_from("ab가나 \n\r`~1.!<image>\t"), max_size=60) | st.text())
def test_a_text_is_its_pieces(text):
    found = Text(text)
    assert found.filled(found.units) == text
    assert not any("\n" in unit or unit != unit.strip() or not any(letter.isalpha() for letter in unit) for unit in found.units)


def test_code_in_one_line_opens_no_block():
    text = "```dog()``` runs\nbig dog\n````md\n```cat```\ncat\n````\ncat sleeps"
    assert Text(text).units == ["```dog()``` runs", "big dog", "cat sleeps"]


def test_a_line_of_spaces_takes_no_time():
    began = time.perf_counter()
    assert Text(f" dog{' ' * 100_000}cat ").units == [f"dog{' ' * 100_000}cat"]
    assert time.perf_counter() - began < 5


def test_what_is_copied():
    text = "<image>\nbig dog\n\n  12 + 3 = 15\n```python\nprint('dog')\n```\n고양이가 잡니다 (cat)\r\n  cat sleeps  <image>\n"
    assert Text(text).units == ["big dog", "cat sleeps"]
    assert Text(text).filled(["A", "B"]) == text.replace("big dog", "A").replace("cat sleeps", "B")


# ---------------------------------------------------------------- files in place


def rewritten(path: Path, change=korean, drop=lambda number: False) -> bytes:
    """The file with all its texts changed and some rows left out."""
    shard, out = open_shard(path), path.with_name("out-" + path.name)
    fields = shard.fields = fields_for(dict.fromkeys(shard.names()), "", None)[1] if shard.names() else ()
    shard.start(out)
    for record in shard.records():
        if record.value is None:
            shard.put(record, [])
        elif isinstance(record.value, BadRow) or drop(record.number):
            shard.put(record, None)
        else:
            fields = fields or fields_for(record.value, "", shard.format)[1]
            shard.put(record, [(slot, new) for slot in find(record.value, fields) if (new := change(slot.text)) != slot.text])
    shard.finish()
    return out.read_bytes()


FILES = {
    "rows.jsonl": b'{"instruction":"big \\u00e9 dog",  "n": 1.50, "input": "",\t"output":"cat"}\r\n\n{"instruction": "cat"'
    b', "output": "dog"}',
    "bom.jsonl": b'\xef\xbb\xbf{"text": "dog", "id": 1e5}\n',
    "sixteen.jsonl": '\ufeff{"text": "dog"}\n'.encode("utf-16-le"),
    "list.json": b'[\n  {"id": 1, "text": "dog \\" \\n cat", "n": [1.0, null]},\n\n  {"text": "cat", "id": "dog"}\n]\n',
    "one.json": b'[{"text":"dog"},{"text":"cat"}]',
    "coco.json": b'{"info": {"annotations": "dog"}, "images": [{"id": 1}],\n '
    b'"annotations": [{"id": 1, "caption": "dog"}, {"caption": "cat", "id": 2}], "licenses": ["dog"]}',
    "rows.csv": b'id,question,answer\r\ndog,"what, dog",cat\r\n1,"big\ndog","say ""cat"""\r\n',
    "rows.tsv": b'question\tanswer\nwhat "\tdog\n',
    "lines.txt": b"dog runs\ncat sleeps",
    "documents.txt": b"dog\ncat\n\n\ncat\n\n",
    "marked.txt": b"dog\n\ncat\n<|endoftext|>\nbig\n<|endoftext|>\n",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_only_texts_change(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    assert rewritten(path, change=lambda text: text) == FILES[name]
    changed = rewritten(path)
    decoded = changed.decode("utf-16" if name.startswith("sixteen") else "utf-8")
    assert any(word in decoded for word in WORDS.values())
    again = tmp_path / ("back-" + name)
    again.write_bytes(changed)
    back = rewritten(again, english)
    if name == "rows.jsonl":  # what is changed is written as it is, without escapes
        back = back.replace("é".encode(), b"\\u00e9")
    assert back == FILES[name]


def test_line_breaks_in_the_last_cell_of_a_table(tmp_path):
    """With and without a line end behind the last row, cells with breaks of any kind stay cells."""
    for name, content in {"no-end": b'text,id\ndog,"1\n2"', "return": b'text,id\ndog,"1\r2"\n'}.items():
        path = tmp_path / f"{name}.csv"
        path.write_bytes(content)
        assert rewritten(path) == content.replace(b"dog", "개가".encode())


def test_columns_of_one_name(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,note,note\ndog,a,b\n")
    with pytest.raises(BodaError, match=r"rows.csv: two columns have one name in text, note, note"):
        job(path, tmp_path / "job")


def test_a_document_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_ROW", 1 << 17)
    path = tmp_path / "text.txt"
    path.write_text("dog\n\n" + "big dog\n" * (1 << 15))
    with pytest.raises(BodaError, match=r"text.txt: document 1 is longer than"):
        list(open_shard(path).records())


def test_rows_left_out_of_a_list(tmp_path):
    path = tmp_path / "list.json"
    path.write_text('[\n  {"text": "dog"},\n  {"text": "cat"},\n  {"text": "big"}\n]\n')
    for kept in ([], [1], [0, 2], [2]):
        found = rewritten(path, change=str, drop=lambda number, kept=kept: number not in kept).decode()
        assert [row["text"] for row in json.loads(found)] == [("dog", "cat", "big")[number] for number in kept]
        assert found.endswith("\n]\n") and (not kept or found.startswith('[\n  {"text"'))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({"more": JSON, "text": st.text(), "end": JSON}), max_size=4),
    indent=st.sampled_from([None, 0, 1, "\t"]),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 40),
    dropped=st.sets(st.integers(0, 3)),
)
def test_any_json_keeps_all_but_its_texts(tmp_path_factory, rows, indent, ascii_only, chunk, dropped):
    path = tmp_path_factory.mktemp("json") / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), "utf-8", errors="surrogatepass", newline="")
    before, shards._CHUNK = shards._CHUNK, chunk
    try:
        changed = rewritten(path, lambda text: text + "가\n", dropped.__contains__)
    finally:
        shards._CHUNK = before
    kept = [{**row, "text": row["text"] + "가\n"} for number, row in enumerate(rows) if number not in dropped]
    assert json.loads(changed) == kept
    assert not dropped.isdisjoint(range(len(rows))) or rewritten(path, str) == path.read_bytes()


def test_gzip_stays_gzip(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "dog"}\n'))
    assert gzip.decompress(rewritten(path)) == '{"text": "개가"}\n'.encode()
    assert rewritten(path) == rewritten(path)


def tar_of(path: Path, members: list[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for number, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(data), 1_600_000_000 + number + 0.25 * (kind == tarfile.PAX_FORMAT), "누구"
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_laion_shard(tmp_path, kind):
    long = "path/" * 25 + "가나다"
    members = [
        ("0.jpg", b"\xff" * 700), ("0.json", b'{"caption": "dog runs",  "width": 1.50, "key": "dog"}'), ("0.txt", b"dog runs"),
        (f"{long}.json", b'{"caption": "cat"}'), (f"{long}.jpg", b"x"), (f"{long}.txt", b"cat\n"), ("readme", b"dog"), ("1.jpg", b"dog"),
    ]  # fmt: skip
    path = tar_of(tmp_path / "00000.tar", members, kind)
    engine = Fake()
    _, out = job(path, tmp_path / "job", engine)
    assert Counter(engine.asked) == {"dog runs": 1, "cat": 1}  # a caption stands in both and is one sentence
    with tarfile.open(path) as before, tarfile.open(out) as after:
        for old, new in zip(before, after, strict=True):
            data = before.extractfile(old).read()
            if old.name.endswith((".txt", ".json")):
                data = data.replace(b"dog runs", "개가 달립니다".encode()).replace(b"cat", "고양이가".encode())
            assert (new.name, new.mtime, new.uname, new.mode) == (old.name, old.mtime, old.uname, old.mode)
            assert after.extractfile(new).read() == data
    assert out.stat().st_size % tarfile.RECORDSIZE == 0
    assert rewritten(path, str)[: path.stat().st_size - 2 * tarfile.RECORDSIZE] == path.read_bytes()[: -2 * tarfile.RECORDSIZE]


def test_what_is_held_of_a_row(tmp_path):
    """Rows that are read ahead are bounded by all that they hold, pictures inside too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture = "x" * 5000
    tar_of(tmp_path / "0.tar", [("0.json", json.dumps({"text_list": ["dog"], "image": picture}).encode())])
    pq.write_table(pa.table({"text": ["dog"] * 3, "image": [picture] * 3}), tmp_path / "0.parquet", use_dictionary=False)
    for name in ("0.tar", "0.parquet"):
        shard = open_shard(tmp_path / name)
        shard.fields = ["text"]
        assert all(5000 <= record.size < 6000 for record in shard.records())


def test_several_tars_in_a_row(tmp_path):
    """What stands behind the end of the first would be lost without a word."""
    path = tar_of(tmp_path / "0.tar", [("0.txt", b"dog"), ("1.txt", b"cat")])
    path.write_bytes(path.read_bytes() + tar_of(tmp_path / "1.tar", [("2.jpg", b"x" * 99_999), ("2.txt", b"dog")]).read_bytes())
    done, out = job(path, tmp_path / "job")
    assert done["rejected"] == {"row": 1} and tarfile.open(out).getnames() == ["0.txt"]
    assert "the tar breaks off here, after 4,096 of" in lines(tmp_path / "job/rejects/0.tar.jsonl")[0]["reason"]


def test_two_texts_of_one_key(tmp_path):
    path = tar_of(tmp_path / "0.tar", [("0.txt", b"dog"), ("0.txt", b"cat"), ("1.txt", b"dog")])
    done, out = job(path, tmp_path / "job")
    assert done["rejected"] == {"row": 1} and tarfile.open(out).getnames() == ["1.txt"]
    assert lines(tmp_path / "job/rejects/0.tar.jsonl")[0]["reason"] == "the key has two members .txt"


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": number, "image": {"bytes": b"x%d" % number, "path": None},
             "messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": f"big dog {number}"}],
             "score": 0.5, "tag": "dog"} for number in range(7)]  # fmt: skip
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": '{"info": {}}'})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=3, compression="zstd")
    _, out = job(tmp_path / "rows.parquet", tmp_path / "job", limit=5)
    found = pq.read_table(out)
    assert found.schema.equals(pq.read_table(tmp_path / "rows.parquet").schema, check_metadata=True) and len(found) == 5
    for number, row in enumerate(found.to_pylist()):
        assert [turn["content"] for turn in row["messages"]] == ["무엇이", f"큰 개가 {number}"]
        assert (row["image"]["bytes"], row["tag"], row["score"]) == (b"x%d" % number, "dog", 0.5)
    assert pq.ParquetFile(out).metadata.row_group(0).column(0).compression == "ZSTD"
    with pytest.raises(BodaError, match=r"none of the fields text; its rows have id, image, messages, score, tag"):
        job(tmp_path / "rows.parquet", tmp_path / "other", fields=["text"])
    dropped = rewritten(tmp_path / "rows.parquet", korean, lambda number: number in (0, 4))
    assert [row["id"] for row in pq.read_table(io.BytesIO(dropped)).to_pylist()] == [1, 2, 3, 5, 6]


# ---------------------------------------------------------------- the memory


def test_memory_gives_each_sentence_to_one(tmp_path):
    keys = [Memory.key("engine", text) for text in ("a", "b", "c")]
    first, second = Memory(tmp_path / "m", "job"), Memory(tmp_path / "m", "job")
    assert first.take(keys[:2]) == ({}, set(keys[:2]))
    assert second.take(keys) == ({}, {keys[2]})
    assert first.put({keys[0]: Entry("가")}) == {keys[0]: Entry("가")}
    assert second.take(keys) == ({keys[0]: Entry("가")}, set())
    assert second.put({keys[0]: Entry("나")}) == {keys[0]: Entry("가")}  # whoever was first
    first.close()
    assert second.take(keys) == ({keys[0]: Entry("가")}, {keys[1]})


def test_memory_of_a_dead_process(tmp_path):
    code = "import sys, os; from boda.data.translate.memory import Memory\n"
    code += "Memory(sys.argv[1]).take([b'k']); print('taken', flush=True); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], capture_output=True).stdout == b"taken\n"
    assert Memory(tmp_path / "m").take([b"k"]) == ({}, {b"k"})


def test_memory_of_a_silent_process(tmp_path, monkeypatch):
    Memory(tmp_path / "m").take([b"k"])
    here = Memory(tmp_path / "m")
    assert here.take([b"k"]) == ({}, set())
    monkeypatch.setattr("boda.data.translate.memory.LEASE", -1.0)
    assert here.take([b"k"]) == ({}, {b"k"})


def test_memory_is_one_machines(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "elsewhere")
        Memory(tmp_path / "m").take([b"k"])
    with pytest.raises(BodaError, match=r"memory .*m is in use by elsewhere; --memory names one of this machine's own"):
        Memory(tmp_path / "m")
    monkeypatch.setattr("boda.data.translate.memory.LEASE", -1.0)
    assert Memory(tmp_path / "m").take([b"k"]) == ({}, {b"k"})


def test_memory_forgets_another_jobs_failures(tmp_path):
    one = Memory(tmp_path / "m", "one")
    one.take([b"k"])
    one.put({b"k": Entry(error="engine: no")})
    assert one.take([b"k"]) == ({b"k": Entry(error="engine: no")}, set())
    assert Memory(tmp_path / "m", "two").take([b"k"]) == ({}, {b"k"})


def test_memory_that_is_none(tmp_path):
    (tmp_path / "m").write_bytes(b"no database at all" * 100)
    with pytest.raises(BodaError, match=r"translation memory .*m cannot be used \(file is not a database\)"):
        Memory(tmp_path / "m")


# ---------------------------------------------------------------- jobs


def test_each_sentence_is_asked_for_once(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    texts = ["dog runs", "cat sleeps", "dog runs\ncat sleeps", "big dog 3", "big dog 14"]
    for number in range(3):
        write_lines(folder / f"{number}.jsonl", [{"text": text} for text in texts * 5])
    engine = Fake()
    done = translate([folder], tmp_path / "job", Task(engine))
    # Lines that differ in their numbers alone are the same to the engine.
    assert Counter(engine.asked) == {"dog runs": 1, "cat sleeps": 1, "big dog ⟦0⟧": 1}
    assert done["finished"] and (done["rows"], done["kept"], done["units"], done["requests"]) == (75, 75, 90, 3)
    for number in range(3):
        found = [row["text"] for row in lines(tmp_path / "job/data" / f"{number}.jsonl")]
        assert found == [korean(text) for text in texts * 5]
    again = translate([folder / "1.jsonl"], tmp_path / "another", Task(other := Fake()))
    assert not other.asked and again["characters"] == 0 and again["kept"] == 25
    once_more = translate([folder], tmp_path / "job", Task(third := Fake()))
    assert not third.asked and once_more["finished"] and once_more["rows"] == 75


def test_manifest(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "dog"}, {"text": "zzz"}])
    job(path, tmp_path / "job", Fake("v2", source_language="en", price=20.0), licence="CC-BY-4.0")
    manifest = json.loads((tmp_path / "job/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["licence"], manifest["rows"], manifest["kept"], manifest["rejected"]) == ("CC-BY-4.0", 2, 1, {"hangul": 1})
    assert manifest["settings"]["inputs"] == {"rows.jsonl": path.stat().st_size} and manifest["settings"]["model"] == "v2"
    assert manifest["spent"] == {"characters": 6, "tokens": 2, "requests": 2, "dollars": 0.0001} and manifest["finished"]
    assert manifest["shards"]["rows.jsonl"]["kept"] == 1 and not (tmp_path / "job/claims").exists()


REFUSALS = {
    "english": (lambda text: Reply("The big dog sleeps ⟦0⟧"), "hangul", "no Hangul"),
    "empty": (lambda text: Reply("", "the engine gave an empty translation"), "engine", "empty translation"),
    "other": (lambda text: Reply("大きな犬が眠っています ⟦0⟧"), "hangul|other_language", ""),
    "eaten": (lambda text: Reply("큰 개가 잡니다"), "protection", "lost '12'"),
    "chatter": (lambda text: Reply("다음은 번역입니다: 큰 개가 잡니다 ⟦0⟧"), "chatter", ""),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_an_engine_may_answer(tmp_path, name):
    say, kinds, why = REFUSALS[name]
    turns = [{"from": "human", "value": "what is"}, {"from": "gpt", "value": "big dog 12"}]
    path = write_lines(tmp_path / "rows.jsonl", [{"id": 7, "conversations": turns}, {"conversations": turns[:1]}])
    engine = Fake(say=lambda text: say(text) if "⟦0⟧" in text else Reply(korean(text)))
    done, out = job(path, tmp_path / "job", engine)
    assert lines(out) == [{"conversations": [{"from": "human", "value": "무엇이 있습니까"}]}]
    (refused,) = lines(tmp_path / "job/rejects/rows.jsonl.jsonl")
    assert refused["row"] == 0 and refused["field"] == "conversations[1].value" and refused["source"] == "big dog 12"
    assert re.fullmatch(kinds, refused["filter"]) and why in refused["reason"]
    assert done["rejected"] == {refused["filter"]: 1}
    # What could not be had or used was asked for once more; what was translated badly stays.
    assert Counter(engine.asked)["big dog ⟦0⟧"] == (2 if name in ("empty", "eaten") else 1)


def test_what_is_mangled_once(tmp_path):
    said = iter(["큰 개가", "큰 개가 ⟦0⟧"])
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "big dog 12"}])
    _, out = job(path, tmp_path / "job", Fake(say=lambda text: Reply(next(said))))
    assert lines(out) == [{"text": "큰 개가 12"}]


def test_wrong_settings_stop_early(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "zzz " * (number % 50 + 1)} for number in range(1000)])
    with pytest.raises(BodaError, match=r"of the first 200 rows were refused \(hangul: 200\).*--keep-going"):
        job(path, tmp_path / "job")
    assert not list((tmp_path / "job/data").iterdir())
    done, out = job(path, tmp_path / "job", keep_going=True)
    assert done["rejected"] == {"hangul": 1000} and out.read_bytes() == b""


def test_wrong_settings_over_several_files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_lines(folder / "0.jsonl", [{"text": "zzz " * (number % 50 + 1)} for number in range(199)])
    write_lines(folder / "1.jsonl", [{"text": "dog"}] * 5)
    with pytest.raises(BodaError, match=r"199 of the first 200 rows were refused \(hangul: 199\)"):
        translate([folder], tmp_path / "job", Task(Fake()))


def test_limits_are_checked_before_anything(tmp_path):
    with pytest.raises(BodaError, match=r"limit max_characters is a number, such as 1000; it cannot be 'many'"):
        Task(Fake(), limits={"max_characters": "many"})
    with pytest.raises(BodaError, match=r"no filter 'long'; there are .*length"):
        Task(Fake(), skip=["long"])
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "dog"}])
    _, out = job(path, tmp_path / "job", Fake(say=lambda text: Reply("b'개가'")), preset="openflaminko")
    assert lines(out) == [{"text": "개가"}]


def test_bad_rows_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'{"text": "dog"}\n{"text": \n["dog"]\n{"text": "dog \xff"}\n{"text": "[{\\"type\\": \\"text\\"}] dog"}\n{"text": "cat"}\n'
    )
    done, out = job(path, tmp_path / "job")
    assert [row["text"] for row in lines(out)] == ["개가", "고양이가"] and done["rejected"] == {"row": 4}
    reasons = [row["reason"] for row in lines(tmp_path / "job/rejects/rows.jsonl.jsonl")]
    assert [row["row"] for row in lines(tmp_path / "job/rejects/rows.jsonl.jsonl")] == [1, 2, 3, 4]
    assert (
        "no JSON" in reasons[0]
        and "a row is an object" in reasons[1]
        and "no UTF-8" in reasons[2]
        and "JSON text" in reasons[3]
    )


def test_a_budget_stops_and_more_goes_on(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": f"{a} {b} {c}"} for a in WORDS for b in WORDS for c in WORDS])
    whole, expected = job(path, tmp_path / "whole", Fake(), memory=tmp_path / "other")
    engine = Fake(price=20.0, concurrency=2)
    budget = whole["characters"] / 2 * 20 / 1e6
    with pytest.raises(BodaError, match=r"the budget of \$0.0\d is used up; the same command with a larger --budget goes on"):
        job(path, tmp_path / "job", engine, budget=budget)
    spent = sum(map(len, engine.asked))
    assert 0.9 * whole["characters"] / 2 < spent <= whole["characters"] / 2
    with pytest.raises(BodaError, match=r"characters are used up"):
        job(path, tmp_path / "job", engine, most_characters=spent + 100)
    done, out = job(path, tmp_path / "job", engine, budget=1.0)
    assert sum(map(len, engine.asked)) == done["characters"] == whole["characters"]
    assert out.read_bytes() == expected.read_bytes()


def test_an_engine_that_goes(tmp_path):
    texts = [f"{a} {b}" for a in WORDS for b in WORDS]
    path = write_lines(tmp_path / "rows.jsonl", [{"text": text} for text in texts])

    def say(text: str) -> Reply:
        if len(engine.asked) > 20:
            raise EngineGone("the quota is used up")
        return Reply(korean(text))

    engine = Fake(say=say, concurrency=1)
    with pytest.raises(EngineGone, match="the quota is used up"):
        job(path, tmp_path / "job", engine)
    assert not list((tmp_path / "job/data").iterdir()) and not list((tmp_path / "job/claims").iterdir())
    _, out = job(path, tmp_path / "job", other := Fake())
    assert len(set(other.asked) & set(engine.asked[:20])) == 0 and len(other.asked) == len(texts) - 20
    assert [row["text"] for row in lines(out)] == list(map(korean, texts))


def test_other_settings_are_refused(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "dog"}])
    job(path, tmp_path / "job")
    with pytest.raises(BodaError, match=r'other settings: model is "" there and "v2" now'):
        job(path, tmp_path / "job", Fake("v2"))
    with pytest.raises(BodaError, match=r"filters.max_characters is 1000 there and 50 now"):
        job(path, tmp_path / "job", limits={"max_characters": 50})
    write_lines(path, [{"text": "dog"}, {"text": "cat"}])
    with pytest.raises(BodaError, match=r"inputs.rows.jsonl is 16 there and 32 now"):
        job(path, tmp_path / "job")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(BodaError, match="holds something else than a translation job"):
        job(path, tmp_path / "full")


def test_a_shard_belongs_to_one_process(tmp_path):
    path, claim = write_lines(tmp_path / "rows.jsonl", [{"text": "dog"}]), tmp_path / "job/claims/rows.jsonl.json"

    def is_free() -> bool:
        return JobFolder(tmp_path / "job", {}, {path.name: path}, {}).claim(path.name)

    assert is_free() and not is_free()  # whoever has it lives
    claim.write_text('{"host": "elsewhere", "pid": 1}')
    assert not is_free()
    os.utime(claim, (time.time() - 120,) * 2)  # it has given no sign of life
    assert is_free()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    claim.write_text(json.dumps({"host": socket.gethostname(), "pid": gone.pid}))
    assert is_free() and not is_free()


def test_a_job_that_was_killed_as_it_began(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "dog"}])
    (tmp_path / "job").mkdir()
    (tmp_path / "job/.manifest.json.123").touch()  # or another process that begins, too
    _, out = job(path, tmp_path / "job")
    assert lines(out) == [{"text": "개가"}]


def test_costs_of_all_processes_are_in_the_manifest(tmp_path):
    inputs = {name: write_lines(tmp_path / name, [{"text": "dog"}]) for name in ("a.jsonl", "b.jsonl")}
    facts = {"rows": 1, "kept": 1, "units": 1, "rejected": {}}
    folders = [JobFolder(tmp_path / "job", {}, inputs, {}) for _ in inputs]
    for folder, name in zip(folders, inputs):
        assert folder.claim(name)
        folder.spent["characters"] += 3
        folder.finish(name, facts)
    assert folders[1].close(0.0)  # before the other one has gone
    assert json.loads((tmp_path / "job/manifest.json").read_text())["spent"] == {"characters": 6}


def test_inputs_that_are_none(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "a/rows.jsonl").write_text("{}")
    with pytest.raises(BodaError, match=r"two inputs are called rows.jsonl"):
        translate([tmp_path / "rows.jsonl", tmp_path / "a"], tmp_path / "job", Task(Fake()))
    with pytest.raises(BodaError, match=r"no data files at .*nothing"):
        translate([tmp_path / "nothing"], tmp_path / "job", Task(Fake()))
    (tmp_path / "a.docx").write_text("dog")
    with pytest.raises(BodaError, match=r"a.docx: only .jsonl, .* are translated in place"):
        translate([tmp_path / "a.docx"], tmp_path / "job", Task(Fake()))


def test_long_texts_do_not_fill_memory(tmp_path, monkeypatch):
    """What is remembered of texts that come again does not grow with long ones that do not."""
    monkeypatch.setattr("boda.data.translate.job.WINDOW_CHARACTERS", 1 << 16)
    monkeypatch.setattr("boda.data.translate.job.check_pair", lambda *_: None)  # slow while memory is watched
    path = write_lines(tmp_path / "rows.jsonl", [{"text": f"dog {'a' * number}{'cat' * 400}"} for number in range(1000)])
    engine = Fake(say=lambda text: Reply("고양이가 " * 300), asked=deque(maxlen=1))  # type: ignore[arg-type]
    tracemalloc.start()
    try:
        job(path, tmp_path / "job", engine)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_survey_asks_nobody(tmp_path):
    texts = ["dog runs", "dog runs\n\ncat", "12", "고양이", "big dog 3", "big dog 4"]
    path = write_lines(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    engine = Fake(price=20.0)
    found = survey([path], Task(engine))
    assert not engine.asked and not (tmp_path / "job").exists()
    assert found == {
        "rows": 6,
        "bad_rows": 0,
        "units": 5,
        "distinct": 3,
        "to_ask": 3,
        "characters": 22,
        "dollars": 22 * 20 / 1e6,
    }
    job(path, tmp_path / "job", engine)
    assert survey([path], Task(engine))["to_ask"] == 0


def test_a_quota_that_is_too_small(tmp_path):
    class Metered(Fake):
        def left(self) -> int:
            return 10

    path = write_lines(tmp_path / "rows.jsonl", [{"text": "dog runs"}, {"text": "cat sleeps"}])
    with pytest.raises(BodaError, match=r"the job has 18 characters and the account may have 10 more"):
        job(path, tmp_path / "job", engine := Metered())
    assert not engine.asked


def test_with_deepl(tmp_path, monkeypatch):
    """Many lines a request, placeholders that are markup and are not billed, and what the account has left."""

    def answer(path: str, body) -> dict:
        found = deepl(path, body)
        return found if body is None else {"translations": [{"text": korean(text)} for text in body["text"]]}

    monkeypatch.setenv("DEEPL_API_KEY", "key:fx")
    texts = [f"big {word} {number} & http://dog.kr/{number}" for number, word in enumerate(["dog", "cat"] * 4)]
    path = write_lines(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    with TranslationServer(answer) as server:
        engine = open_engine("deepl", source_language="en", url=server.url, price=25.0)
        plan = survey([path], Task(engine))
        done, out = job(path, tmp_path / "job", engine)
        asked = [request for request in server.requests if request.body and "text" in request.body]
    assert [row["text"] for row in lines(out)] == [korean(text.partition("&")[0]) + text[text.index("&") :] for text in texts]
    assert plan["characters"] == done["characters"] == 2 * len("big dog  & ") and len(asked) == done["requests"] == 1


# ---------------------------------------------------------------- the command


def boda(*arguments):
    return CliRunner().invoke(app, ["data", "translate", *map(str, arguments)])


@pytest.fixture
def words(tmp_path) -> Path:
    path = tmp_path / "words.csv"
    path.write_text("source,target\n" + "".join(f"{word},{said}\n" for word, said in WORDS.items()), encoding="utf-8")
    return path


def test_command(tmp_path, words):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "dog runs"}, {"text": "zzz"}, {"text": "what is"}])
    given_words = (path, "--out", tmp_path / "job", "--engine", "dictionary", "--model", words)
    plan = boda(*given_words, "--dry-run", "--price", 20)
    assert (
        plan.exit_code == 0
        and "3 rows (0 cannot be read), 3 sentences, 3 different ones, 3 to be translated: 18 characters" in plan.stdout
    )
    assert not (tmp_path / "job").exists()
    done = CliRunner().invoke(app, ["--json", "data", "translate", *map(str, given_words), "--quiet"])
    found = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == 0 and (found["rows"], found["kept"], found["rejected"]) == (3, 2, {"hangul": 1})
    assert [row["text"] for row in lines(tmp_path / "job/data/rows.jsonl")] == ["개가 달립니다", "무엇이 있습니까"]
    again = boda(*given_words, "--quiet")
    assert again.exit_code == 0 and "2 of 3 rows; refused: hangul 1" in again.stdout
    other = boda(*given_words, "--filter", "max_characters=5")
    assert other.exit_code == 1 and other.stderr.startswith(f"boda: {tmp_path / 'job'} is a job with other settings: filters")
    assert boda(*given_words, "--budget", 1).exit_code == 2
    broken = boda(*given_words, "--option", "concurrency=[")
    assert broken.exit_code == 1 and broken.stderr.startswith("boda: --option concurrency, line 1, column 2: not valid YAML")
    wrong = boda(*given_words[:2], tmp_path / "new", "--engine", "dictionary", "--model", words, "--filter", "max=5")
    assert wrong.exit_code == 1 and "max_characters" in wrong.stderr and not (tmp_path / "new").exists()


def test_command_where_others_are_at_work(tmp_path, words):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "dog runs"}])
    settings = Task(open_engine("dictionary", str(words))).settings()
    assert JobFolder(tmp_path / "job", settings, {path.name: path}, {}).claim(path.name)
    done = boda(path, "--out", tmp_path / "job", "--engine", "dictionary", "--model", words, "--quiet")
    assert done.exit_code == 0, done.exception
    assert "0 of 0 rows; none refused" in done.stdout and "1 of 1 files are with other processes" in done.stdout


def test_command_without_a_key(tmp_path, monkeypatch):
    for name in ("BODA_TRANSLATE_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "dog runs"}])
    plan = boda(path, "--out", tmp_path / "job", "--model", "gpt", "--dry-run", "--price", 5)
    assert plan.exit_code == 0 and "1 to be translated: 8 characters, $0.00" in plan.stdout
    real = boda(path, "--out", tmp_path / "job", "--model", "gpt")
    assert real.exit_code == 1 and "BODA_TRANSLATE_KEY or OPENAI_API_KEY" in real.stderr


@pytest.mark.parametrize("name", ["alpaca_en_demo", "dpo_en_demo", "mllm_demo"])
def test_published_rows_in_place(tmp_path, name):
    path = tmp_path / "rows.json"
    path.write_bytes((shared_data("llamafactory_demo") / "data" / f"{name}.json").read_bytes())
    rows, changed = json.loads(path.read_bytes()), json.loads(rewritten(path, lambda text: text + "가"))
    assert changed != rows and len(changed) == len(rows)
    for row in rows:
        for slot in find(row, fields_for(row, name)[1]):
            slot.parent[slot.key] += "가"
    assert changed == rows
    back = tmp_path / "back.json"
    back.write_bytes(rewritten(path, lambda text: text + "가"))
    assert json.loads(rewritten(back, lambda text: text.removesuffix("가"))) == json.loads(path.read_bytes())


@pytest.mark.parametrize("page", ["translate", "engines"])
def test_options_in_the_pages_exist(page):
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text(encoding="utf-8")
    command = get_command(app).commands["data"].commands["translate"]  # type: ignore[attr-defined]
    known = {name for option in command.params for name in option.opts}
    lines = [line for line in text.splitlines() if line.startswith("boda data translate")]
    assert lines and all(set(re.findall(r"--[a-z-]+", line)) <= known for line in lines)
    if page == "translate":
        assert set(re.findall(r"`(--[a-z-]+)", text)) <= known
