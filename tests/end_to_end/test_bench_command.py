"""`boda bench` as a user meets it: the table, the object, the file and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boda.cli import app
from boda.cli.console import run_name
from boda.evaluate import machine, shapes
from tests import tiny

FEW = ("--new-tokens", "4", "--repetitions", "1")


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch):
    monkeypatch.setattr(machine, "READ_BYTES", 1 << 20)


def boda(*arguments: object):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def test_a_vlm_gives_a_table_and_a_file(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = boda("mini", "--batch", " 2, 1", *FEW)
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert "batch 1 is measured" in result.stderr
    for word in ("mini (3,128,800 parameters)", "first token", "seed token/s", "images/s", "peak memory", "of bandwidth"):
        assert word in result.stdout
    assert result.stdout.endswith("measured: runs/bench/mini/bench.json\n")
    found = json.loads((tmp_path / "runs/bench/mini/bench.json").read_text(encoding="utf-8"))
    assert [row["batch"] for row in found["rows"]] == [1, 2]
    assert len(found["fingerprint"]) == 16 and found["dtype"] in ("bfloat16", "float32") and found["threads"] >= 1
    assert set(found["versions"]) == {"python", "boda", "torch", "transformers"}
    first = found["rows"][0]
    assert 0 < first["first_token_seconds"] < first["seconds"]
    assert first["seed_tokens_per_second"] > 4 / first["seconds"]  # which has the encoding in it, too
    assert first["bandwidth_share"] > 0


def test_a_pair_model_gives_pictures_and_texts_a_second(tmp_path: Path):
    result = boda("mini-clip", "--batch", "1,3", "--repetitions", 1, "--out", tmp_path, "--json")
    assert result.exit_code == 0, (result.stderr, result.exception)
    found = json.loads(result.stdout.splitlines()[-1])
    assert found == json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert all(row["images_per_second"] > 0 and row["texts_per_second"] > 0 for row in found["rows"])
    assert found["bytes_per_token"] is None and "seed_tokens_per_second" not in found["definitions"]


def test_a_language_model_in_a_run_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "small").mkdir(parents=True)
    (tmp_path / "runs" / "small" / "model").symlink_to(tiny.language_folder("qwen3"))
    result = boda("runs/small/model", "--batch", "1", "--quiet", *FEW)
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert result.stderr == "" and "images/s" not in result.stdout
    assert (tmp_path / "runs/bench/small/bench.json").is_file()


@pytest.mark.parametrize(
    "model, name",
    [
        ("runs/mine/model", "mine"),
        ("folders/ours", "ours"),
        ("folders/ours/", "ours"),
        ("org/name-1.5b", "org-name-1-5b"),
        ("https://host/v1#name", "host-v1-name"),
    ],
)
def test_a_run_is_called_after_its_model(tmp_path: Path, monkeypatch, model: str, name: str):
    for folder in ("runs/mine/model", "folders/ours"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert run_name(model) == name


def test_the_shapes_with_their_memory():
    result = boda("--shape", "list")
    assert result.exit_code == 0 and "hyperclovax-0.5b     1.1 GB in bf16" in result.stdout
    assert len(result.stdout.splitlines()) == len(shapes.SHAPES)


@pytest.mark.parametrize(
    "arguments, code, why",
    [
        ((), 2, "needs a model or --shape"),
        (("mini", "--shape", "llama3-8b"), 2, "needs a model or --shape"),
        *((("mini", "--batch", batch), 2, f"--batch '{batch}'") for batch in ("", "1,,2", "0", "1,-2", "x", "1.5", "²")),
        (("mini", "--new-tokens", "1"), 1, "at least 2"),
        (("--shape", "gpt"), 1, "no shape 'gpt'; there are"),
        (("mini-clip", "--new-tokens", "8"), 1, "a pair model gives vectors"),
    ],
)
def test_bad_input_is_one_message(tmp_path: Path, monkeypatch, arguments: tuple, code: int, why: str):
    monkeypatch.chdir(tmp_path)
    result = boda(*arguments)
    assert result.exit_code == code
    assert why in " ".join(result.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())
