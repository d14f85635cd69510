"""Judged benchmarks on a real, tiny language model by the command line: answered, judged later, reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import boda
from boda.cli import app
from boda.evaluate.answers import answerer
from tests import tiny
from tests.judge_data import benchmarks
from tests.judge_server import JudgeServer
from tests.support import language_variant


def command(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def without_keys(monkeypatch):
    for name in ("BODA_JUDGE_KEY", "OPENAI_API_KEY", "BODA_DATA"):
        monkeypatch.delenv(name, raising=False)


def test_answered_first_and_judged_later(tmp_path: Path):
    data, out = benchmarks(tmp_path / "data", 1), tmp_path / "out"
    model = language_variant(tmp_path, "llama", max_position_embeddings=224)
    eval_ = ["eval", model, "--tasks", "logickor:strategy=default,kullm-geval,komt"]
    eval_ += ["--data", data, "--out", out, "--json"]
    first = command(*eval_)
    assert first.exit_code == 0, (first.stderr, first.exception)
    tasks = json.loads(first.stdout.splitlines()[-1])["tasks"]
    assert {name: result["n"] for name, result in tasks.items()} == {"logickor": 0, "kullm-geval": 0, "komt": 0}
    answers = (out / "answers.jsonl").read_text(encoding="utf-8")
    assert len(answers.splitlines()) == 9 and not (out / "judgements.jsonl").exists()
    with JudgeServer() as server:
        judged = command(*eval_, "--judge", server.url, "--judge-model", "judge", "--judge-concurrency", 2)
        assert server.most_at_once <= 2
    tasks = json.loads(judged.stdout.splitlines()[-1])["tasks"]
    # What a model that has learnt nothing says may be too long to go on from: those answers fail, and are asked for again.
    assert {name: result["n"] + result["failed"] for name, result in tasks.items()} == {
        "logickor": 6,
        "kullm-geval": 3,
        "komt": 6,
    }
    assert all(result["n"] for result in tasks.values())
    kept = [line for line in answers.splitlines() if not json.loads(line)["failed"]]
    assert set(kept) <= set((out / "answers.jsonl").read_text(encoding="utf-8").splitlines())
    for name, words in (("logickor", "| Overall |"), ("kullm-geval", "| Overall Quality (1 - 5) |"), ("komt", "| all |")):
        told = command("report", out, "--task", name)
        assert told.exit_code == 0 and words in told.stdout, (told.stderr, told.exception)
    written = command("report", out, "--out", tmp_path / "report")
    assert written.exit_code == 0, (written.stderr, written.exception)
    table = (tmp_path / "report/report.md").read_text(encoding="utf-8")
    assert f"| **logickor** | {tasks['logickor']['n']} | {tasks['logickor']['score']:.2f} (" in table


def test_wrong_use_and_a_judge_that_is_not_there(tmp_path: Path):
    data = benchmarks(tmp_path / "data", 1)
    eval_ = ["eval", tiny.language_folder("llama"), "--tasks", "komt", "--data", data, "--out", tmp_path / "out"]
    assert command(*eval_, "--judge", "http://127.0.0.1:9/v1").exit_code == 2
    refused = command(*eval_, "--judge", "http://127.0.0.1:9/v1", "--judge-model", "m")
    assert refused.exit_code == 1 and "boda: no judge at 127.0.0.1:9/v1" in refused.stderr
    assert not (tmp_path / "out/answers.jsonl").exists()
    listed = command("eval", "--list").stdout
    assert all(name in listed for name in ("logickor", "kullm-geval", "komt"))


def test_answers_stay_within_the_models_positions_whatever_the_batch(monkeypatch):
    """Prompts of many lengths, with a limit that only the model's positions make finite."""
    import boda.evaluate.local as local

    model, processor = boda.load(tiny.language_folder("llama"))
    positions = model.config.max_position_embeddings
    conversations = [[{"role": "user", "content": "가나다 " * number}] for number in (1, 2, 8, positions // 16, positions)]
    lengths = [local.encode(model, processor, [each])["input_ids"].shape[1] for each in conversations]
    batches: list[int] = []

    def generate(model, processor, asked, size: int, max_new_tokens: int, **rest) -> list[tuple[str, int]]:
        batches.append(len(asked))
        return [(str(max_new_tokens), 1)] * len(asked)

    monkeypatch.setattr(local, "generate_counted", generate)
    ask = answerer((model, processor)).open()
    for turns in (1, 2):
        decoding = {"temperature": 0.0, "max_new_tokens": 100_000, "within_context": turns}
        *together, last = ask(conversations, decoding)
        assert "too long for a model of" in str(last)
        assert together == [ask([each], decoding)[0] for each in conversations[:-1]]
        for room, length in zip(map(int, together), lengths):
            assert (positions - length) / turns - positions / 16 <= room <= (positions - length) / turns
    assert max(batches) > 1  # prompts of about the same length are answered together
    assert ask(conversations[:2], {**decoding, "max_new_tokens": 7}) == ["7", "7"]


def test_a_tasks_stop_strings_come_to_the_models_own(monkeypatch):
    import boda.evaluate.local as local

    model, processor = boda.load(tiny.language_folder("llama"))
    model.boda_info = {"generation": {"stop": ["끝"]}}
    given: list[dict] = []
    monkeypatch.setattr(
        local, "generate_counted", lambda model, processor, asked, size, **rest: given.append(rest) or [("", 0)] * len(asked)
    )
    ask = answerer((model, processor)).open()
    ask([[{"role": "user", "content": "가"}]], {"temperature": 0.0, "max_new_tokens": 2, "stop": ["[INST]"]})
    ask([[{"role": "user", "content": "가"}]], {"temperature": 0.0, "max_new_tokens": 2})
    assert given[0]["stop"] == ["끝", "[INST]"] and "stop" not in given[1]
