"""`boda data check` and `boda data stats` as a user meets them: output, exit codes, lists of bad rows, recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.end_to_end.test_cli import boda, last_object
from tests.support import tiny_recipe

ROWS = [
    {"질문": "수도는?", "답": "서울입니다."},
    {"질문": "수도는?", "답": "서울입니다."},
    {"질문": "이름은?", "답": ""},
]
NAMES = ("--columns", "instruction=질문", "--columns", "output=답", "--format", "alpaca")


@pytest.fixture
def rows(tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_check_lists_bad_rows_and_fails(rows, tmp_path):
    result = boda("data", "check", rows, *NAMES, "--out", tmp_path / "out")
    assert result.exit_code == 1 and result.stderr == ""
    assert "rows              3" in result.stdout and "row 2, output: '답' is empty" in result.stdout
    (listed,) = map(json.loads, (tmp_path / "out" / "bad_rows.jsonl").read_text(encoding="utf-8").splitlines())
    assert listed == {"where": str(rows), "row": 2, "field": "output", "why": "'답' is empty"}
    assert boda("data", "check", rows, *NAMES, "--limit", 2).exit_code == 0


def test_check_says_what_a_set_may_be(rows):
    result = boda("data", "check", rows)
    assert result.exit_code == 1 and "it may be 'alpaca' with columns instruction=질문, output=답" in result.stdout
    result = boda("data", "check", rows, "--format", "llava", "--json")
    found = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == 1 and (found["rows"], found["good"], found["bad"]) == (3, 0, 3)
    assert found["sets"][0]["suggestion"].startswith("it may be 'alpaca'")


def test_stats_of_a_file(rows):
    found = last_object(boda("data", "stats", rows, *NAMES, "--tokenizer", tiny.language_folder("llama"), "--json"))
    (one,) = found["sets"]
    assert (one["rows"], one["samples"], one["duplicates"], one["empty_answers"]) == (3, 2, 1, 1)
    assert one["polite_share"] == 1 and one["tokens"]["total"] > 2
    result = boda("data", "stats", rows, "--question", "{질문}", "--answer", "{답}")
    assert result.exit_code == 0 and "csv" in result.stdout and "polite share" in result.stdout


def test_every_data_block_of_a_recipe_once(tmp_path):
    stages = [
        {"name": "align", "train": ["connector"]},
        {"name": "instruct", "train": ["connector"], "max_steps": 2},
    ]
    recipe = tiny_recipe(tmp_path / "data", stages)
    first = recipe["stages"][0]["data"][0]
    recipe["stages"][1]["data"] = [{**first, "weight": 2.0}, {**first, "limit": 5}]
    recipe["stages"][1]["validation"] = [{"path": "gone.json"}]
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    result = boda("data", "check", path, "--json")
    found = json.loads(result.stdout.splitlines()[-1])
    assert [one["name"].partition(":")[0] for one in found["sets"]] == ["align", "instruct", "instruct"]
    assert [one["rows"] for one in found["sets"]] == [24, 5, 0] and found["sets"][0]["pictures_decoded"] > 0
    assert result.exit_code == 1 and "no data at 'gone.json'" in found["sets"][2]["problem"]
    (tmp_path / "gone.json").write_text(json.dumps([{"instruction": "가", "output": "나"}]))
    assert boda("data", "check", path, "--quiet").exit_code == 0


def test_drawn_rows_are_counted_like_any_other(tmp_path):
    block = {"source": "drawn", "path": "words", "limit": 7, "where": {"kind": "word"}}
    recipe = tiny_recipe(tmp_path / "data", [{"name": "align", "train": ["connector"], "data": [block]}])
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    (found,) = last_object(boda("data", "check", path, "--json"))["sets"]
    assert (found["format"], found["rows"], found["good"], found["pictures_decoded"]) == ("drawn", 7, 7, 7)


@pytest.mark.parametrize(
    "arguments, why",
    [
        (("check", "x.json", "--columns", "text"), "'text' is no KEY=VALUE"),
        (("check", "x.json", "--tokenizer", "gpt2"), "--tokenizer for boda data stats"),
        (("stats", "x.json", "--fast"), "--fast is for boda data check"),
        (("check", "small-korean-vlm", "--format", "llava"), "leave --format out"),
        (("check", "x.json", "--limit", "0"), "greater than or equal to 1"),
    ],
)
def test_wrong_use(arguments, why):
    result = boda("data", *arguments)
    assert result.exit_code == 2 and why in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    "arguments, why",
    [
        (("check", "x.json"), "no data at 'x.json'"),
        (("stats", "x.json", "--format", "xml"), "no data at 'x.json'"),
        (("check", "gone.yaml"), "no recipe file at gone.yaml"),
    ],
)
def test_what_is_not_there(arguments, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BODA_DATA", raising=False)
    result = boda("data", *arguments)
    assert result.exit_code == 1 and why in result.stdout + result.stderr
