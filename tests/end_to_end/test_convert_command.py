"""`boda data convert` and `boda data merge` as a user meets them: every command that the page shows, output, exit codes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from boda.data.sources import read
from tests.end_to_end.test_cli import boda, last_object
from tests.tiny_data import random_picture, save_pictures

PAGE = Path(__file__).parents[2] / "docs" / "convert.md"
NAMES = ["000000391895.jpg", "000000522418.jpg"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BODA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BODA_DATA", raising=False)
    return tmp_path


def write(name: str, rows: list, one_a_line: bool = False) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    Path(name).write_text("\n".join(lines) if one_a_line else f"[{','.join(lines)}]", encoding="utf-8")


def talk(image: str, *said: str) -> dict:
    turns = [{"from": who, "value": text} for who, text in zip(("human", "gpt") * 9, said)]
    return {"id": image, "image": image, "conversations": turns}


def test_every_command_of_the_page(folder):
    files = [f"coco/val2014/COCO_val2014_{NAMES[0]}", *(f"coco/train2017/{name}" for name in NAMES)]
    for seed, name in enumerate(files):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        random_picture(seed, (6, 5)).save(name)
    captions = {"captions": ["a man", "a bike"], "caption_ko": ["남자 한 명", "자전거 한 대"], "id": 391895}
    write("MSCOCO_train_val_Korean.json", [{"file_path": f"val2014/COCO_val2014_{NAMES[0]}", **captions}])
    write("ko_llava_instruct_150k.json", [talk(name, "<image>\n무엇이 보이나요?", "자전거가 보여요.") for name in NAMES])
    questions = ["<image>\n<Answer> 색은 무엇인가요?", "빨간색.", "몇 대인가요?", "한 대."]
    write("gqa_ko.json", [talk(f"coco/train2017/{NAMES[0]}", *questions)])
    write("kullm-v2.jsonl", [{"id": "1", "instruction": "옮겨 주세요.", "input": "사과", "output": "apple"}], True)
    write("KoAlpaca_v1.1.jsonl", [{"instruction": "수도는?", "output": "서울입니다.", "url": "u"}], True)
    Path("qa.csv").write_text("질문,답\n수도는?,서울입니다\n", encoding="utf-8")
    Path("words.csv").write_text("source,target\napple,사과입니다\npear,배입니다\nwhat,무엇인가요\n", encoding="utf-8")
    for number, word in enumerate(("apple", "pear"), 1):
        write(f"english-{number}.jsonl", [{"instruction": "what", "input": "", "output": word}], True)
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 12
    for line in commands:
        if line.startswith("boda "):
            result = boda(*shlex.split(line)[1:])
            assert result.exit_code == 0, (line, result.stdout, result.stderr, result.exception)
        else:
            subprocess.run(line, shell=True, check=True)

    def said(name: str, **rest) -> list[list[str]]:
        return [[message.text for message in sample.messages] for sample in read(name, **rest)]

    asked = "이 사진을 한 문장으로 설명해 주세요."
    assert said("coco-ko", images="coco") == [[asked, "남자 한 명"], [asked, "자전거 한 대"]]
    assert said("coco-en") == [["", "a man"], ["", "a bike"]]
    single = [["색은 무엇인가요?", "빨간색."], ["몇 대인가요?", "한 대."]]
    assert said("gqa-ko", images=".") == single
    mixed = said("mix", images=".")
    assert mixed[:2] == [["무엇이 보이나요?", "자전거가 보여요."]] * 2 and all(one in single for one in mixed[2:])
    assert said("text") == [
        ["옮겨 주세요.\n\n사과", "apple"],
        ["수도는?", "서울입니다."],
        ["수도는? 한 문장으로 대답해 주세요.", "서울입니다."],
    ]
    assert [sample.source.licence for sample in read("text")] == ["", "CC BY-NC 4.0", ""]
    assert [turns[1] for turns in said("korean")] == ["사과입니다", "배입니다"]


def test_what_is_said_and_printed(folder):
    rows = [{"instruction": "수도는?", "input": "짧게", "output": "서울"}] * 150 + [{"instruction": "수도는?", "output": ""}]
    write("rows.json", rows)
    result = boda("data", "convert", "rows.json", "--to", "llava", "--out", "out")
    out = folder / "out"
    assert (
        result.exit_code == 0
        and result.stderr == ""
        and result.stdout.splitlines()
        == [
            f"{out}: 150 samples as llava",
            f"  1 of 151 rows could not be used: {out}.bad_rows.jsonl",
            "  150 had instruction and input apart, which llava holds as one text",
        ]
    )
    done = last_object(boda("data", "convert", "rows.json", "--to", "messages", "--out", "o", "--limit", 3, "--json"))
    assert (done["samples"], done["rows"], done["bad"], done["images"]) == (3, 3, 0, "")
    save_pictures("p", 1)
    write("one.json", [{"image": "picture_00000.png", "caption": "사과"}])
    result = boda("data", "convert", "one.json", "--to", "llava", "--images", "p", "--out", "named")
    assert f"read it with --images {folder / 'p'}" in result.stdout
    result = boda("data", "merge", "o", "o", "--out", "twice", "--drop-duplicates")
    assert result.stdout.splitlines()[1:] == ["  1 from o", "  5 left out because the same was there before"]


@pytest.mark.parametrize(
    "arguments, code, why",
    [
        (("convert", "rows.json", "--to", "csv", "--out", "out"), 1, "there are llava, messages, parquet, webdataset"),
        (("convert", "gone.json", "--to", "llava", "--out", "out"), 1, "no data at 'gone.json'"),
        (("convert", "rows.json", "--to", "llava", "--out", "."), 1, "is there already; choose another folder"),
        (("convert", "rows.json", "--to", "llava", "--out", "out", "--images", "gone"), 1, "no data at 'gone'"),
        (("convert", "rows.json", "--to", "messages", "--out", "out"), 1, "1 of 3 rows cannot be used"),
        (("convert", "rows.json", "--to", "messages", "--out", "out", "--columns", "x"), 2, "'x' is no KEY=VALUE"),
        (("convert", "rows.json", "--out", "out"), 2, "Missing option '--to'"),
        (("merge", "rows.json", "rows.json", "--out", "out", "--weights", "1,x"), 2, "numbers with commas between"),
        (("merge", "rows.json", "rows.json", "--out", "out", "--weights", "1"), 1, "one for each set"),
    ],
)
def test_mistakes(folder, arguments, code, why):
    write("rows.json", [{"instruction": "수도는?", "output": answer} for answer in ("서울", "서울입니다", "")])
    result = boda("data", *arguments)
    words = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == code and why in words, result.stderr
    assert not (folder / "out").exists()
