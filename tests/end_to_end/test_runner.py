"""The runner on real models: answers whatever the batch and the number of processes, families of other kinds, vLLM's command."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import boda
import boda.evaluate
from boda.cli import app
from boda.errors import BodaError
from boda.evaluate import processes
from boda.evaluate.answers import read_answers
from boda.evaluate.asking import Asking, answered
from boda.evaluate.local import LocalModel, open_local
from boda.evaluate.task import Row, Task
from boda.evaluate.tasks import make_task
from boda.models.checkpoints import load, locate
from tests import tiny
from tests.tiny_vlm import VLM_FAMILIES, vlm_folder

FAKE_VLLM = Path(__file__).parents[1] / "fake_vllm.py"
CLOSE = ("174", "226")  # of these drawn questions two answers are so close that rounding to bf16 decides


def made(name: str, data: Path | None = None, **changes) -> Task:
    """A task with some of its fields changed."""
    task = make_task(name, data)
    assert isinstance(task, Task)
    return replace(task, **changes)


def drawn(number: int = 16) -> Task:
    """So many drawn questions, the close ones among them."""
    task = made("drawn:number=20")
    rows = [row for row in task.load(300) if row.id in CLOSE]
    assert len(rows) == len(CLOSE)
    rows += islice((row for row in task.load(300) if row.id not in CLOSE), number - len(rows))
    return replace(task, load=lambda limit: rows[:limit])


def run(model, tasks, out: Path, **rest) -> dict:
    return boda.evaluate.run(model, tasks, out, quiet=True, **rest)


def answers(out: Path) -> dict[str, object]:
    return {record["row"]: record["raw"] for record in read_answers(out)}


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> Path:
    """What `mini` answers, asked one by one."""
    out = tmp_path_factory.mktemp("expected")
    run("mini", [drawn()], out, batch_size=1)
    return out


def saved(out: Path) -> dict:
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_an_answer_does_not_depend_on_its_batch(expected: Path, tmp_path: Path):
    for size in (3, 16):
        run("mini", [drawn()], tmp_path / str(size), batch_size=size)
        assert answers(tmp_path / str(size)) == answers(expected)
        assert saved(tmp_path / str(size))["tasks"] == saved(expected)["tasks"]
    speed = saved(expected)["speed"]["drawn:number=20"]
    assert speed["precision"] == "float32" and speed["peak_bytes"] > 1e8 and speed["tokens_per_second"] > 0
    counts = {record["raw"]: record["tokens"] for record in read_answers(expected)}
    assert all(0 < tokens <= len(raw.encode()) + 1 for raw, tokens in counts.items())


def test_a_model_in_bf16_is_asked_one_by_one_as_its_batch_would_decide(tmp_path: Path):
    loaded = load("mini", "cpu", torch.bfloat16)
    run(loaded, [drawn()], tmp_path / "3", batch_size=3)
    run(loaded, [drawn()], tmp_path / "16", batch_size=16)
    assert answers(tmp_path / "3") == answers(tmp_path / "16")


def test_what_is_drawn_by_chance_does_not_depend_on_its_batch():
    ask, task = LocalModel(*load("mini", "cpu", torch.float32)), drawn(6)
    asked = [task.messages(row) for row in task.load(None)]
    decoding = {"temperature": 1.5, "max_new_tokens": 12}
    together = ask(asked, decoding)
    assert together == [reply for each in reversed(asked) for reply in ask([each], decoding)][::-1]
    assert together != ask(asked, {**decoding, "seed": 1})


def test_a_model_too_large_for_fp32_keeps_its_type_and_says_once_how_it_is_asked(monkeypatch, tmp_path: Path, capsys):
    import boda.evaluate.local as local

    monkeypatch.setattr(local, "SHARE", 0.0)
    monkeypatch.setattr(local, "best_dtype", lambda device: torch.bfloat16)
    assert open_local("mini", False, True).precision == "bfloat16"
    assert open_local(str(tiny.language_folder("llama")), False, True).precision == "bfloat16"  # stored in fp32
    boda.evaluate.run("mini", [drawn(2), replace(drawn(2), name="again")], tmp_path)
    assert capsys.readouterr().err.count("mini answers in bfloat16") == 1
    assert {speed["precision"] for speed in saved(tmp_path)["speed"].values()} == {"bfloat16"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Questions of many lengths on pictures of many shapes, on two, and on none."""
    folder, lines = tmp_path_factory.mktemp("pictures"), []
    for number, size in enumerate([(40, 40), (30, 90), (100, 40), (64, 64), (20, 20), (80, 50)]):
        tiny.random_picture(number).resize(size).save(folder / f"{number}.png")
    for number in range(8):
        shown = {6: [], 7: [0, 1]}.get(number, [number])
        asked = "<image>" * len(shown) + "이것은 무엇인가요? " * (1 + number % 3)
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": "사과"}]
        lines.append(json.dumps({"messages": messages, "images": [f"{each}.png" for each in shown]}, ensure_ascii=False))
    (folder / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("family", VLM_FAMILIES)
def test_families_that_boda_does_not_train_answer_whatever_the_batch(family: str, pictures: Path, tmp_path: Path):
    task = made("questions:test.jsonl", pictures, decoding={"temperature": 0.0, "max_new_tokens": 8})
    for size in (1, 3, 16):
        run(str(vlm_folder(family)), [task], tmp_path / str(size), batch_size=size)
    found = answers(tmp_path / "1")
    assert answers(tmp_path / "3") == found == answers(tmp_path / "16")
    assert len(found) == 8 and None not in found.values() and len(set(found.values())) > 3
    run(str(vlm_folder(family)), [task], tmp_path / "blind", blind=True)
    blind = answers(tmp_path / "blind")
    assert blind["6"] == found["6"] and sum(blind[row] != found[row] for row in found) > 3  # it sees


def test_they_chat_too(pictures: Path):
    done = CliRunner().invoke(app, ["--json", "chat", str(vlm_folder("idefics3")), "--image", str(pictures / "1.png"), "안녕?"])
    assert done.exit_code == 0, done.output
    assert "answer" in json.loads(done.stdout.splitlines()[-1])


def test_a_text_that_stands_for_a_picture_fails_alone(tmp_path: Path):
    lines = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "네"}]}
        for text in ("가", "<|image_pad|>")
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = run(str(vlm_folder("qwen2_5_vl")), ["questions:test.jsonl"], tmp_path / "out", data_dir=tmp_path)
    assert found["questions:test.jsonl"]["failed"] == 1
    assert "contains <|image_pad|>, which stands for a picture" in read_answers(tmp_path / "out")[1]["error"]


def test_a_model_without_a_chat_template_ends_the_run(tmp_path: Path, pictures: Path):
    with pytest.raises(BodaError, match=r"no chat template.*0 of 8 answers"):
        run(str(tiny.language_folder("gpt_neox")), ["questions:test.jsonl"], tmp_path / "out", data_dir=pictures)


def test_a_batch_that_the_memory_does_not_hold_is_parted(expected: Path, tmp_path: Path, monkeypatch):
    model, processor = load("mini", "cpu", torch.float32)
    generate, last = model.generate, drawn().load(None)[-1]

    def small(**inputs):
        if len(inputs["input_ids"]) > 1 or len(asked) == 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        asked.append(inputs)
        return generate(**inputs)

    asked: list[dict] = [{}]
    monkeypatch.setattr(model, "generate", small)
    found = run((model, processor), [drawn()], tmp_path)["drawn:number=20"]
    assert (found["n"], found["failed"]) == (15, 1)
    assert answers(tmp_path) == answers(expected) | {last.id: None}


# Processes


def test_two_processes_give_what_one_gives_and_a_killed_one_is_reported(expected: Path, tmp_path: Path, monkeypatch):
    started: list[processes.Worker] = []
    ask = processes.Worker.__call__

    def killed(worker, conversations, decoding):
        started.append(worker)
        if len(started) == 4:
            worker.process.kill()
        return ask(worker, conversations, decoding)

    monkeypatch.setattr(processes.Worker, "__call__", killed)
    said = (
        r"process [12] of 2 was ended by SIGKILL; the last it said: .*\d+ of 16 answers of drawn:number=20 are saved; the same"
    )
    with pytest.raises(BodaError, match=said):
        run("mini", [drawn()], tmp_path, batch_size=2, processes=2)
    assert 4 <= len(answers(tmp_path)) < 16 and len({worker.process.pid for worker in started}) == 2
    assert all(worker.process.poll() is not None for worker in started)
    run("mini", [drawn()], tmp_path, batch_size=4, processes=2)
    assert answers(tmp_path) == answers(expected)
    assert saved(tmp_path)["tasks"] == saved(expected)["tasks"]
    assert (
        saved(tmp_path)["speed"]["drawn:number=20"]["peak_bytes"]
        > saved(expected)["speed"]["drawn:number=20"]["peak_bytes"] / 2
    )
    assert all(worker.process.poll() is not None for worker in started)


def test_what_a_process_said_last_is_told():
    (worker,) = processes.start("mini", 1, False)
    try:
        with pytest.raises(BodaError, match="a text contains <image>"):  # its own words come through, and it lives
            worker([[{"role": "user", "content": "<image>"}]], {"max_new_tokens": 4})
        with pytest.raises(BodaError, match=r"process 1 of 1 ended with status 1; the last it said: .*max_new_tokens"):
            worker([[{"role": "user", "content": "가"}]], {"max_new_tokens": -1})
    finally:
        processes.stop([worker])


def test_a_process_that_cannot_load_the_model_says_so(tmp_path: Path):
    with pytest.raises(BodaError, match="there is no such folder"):
        processes.start(str(tmp_path / "nowhere"), 1, False)


def test_processes_are_for_folders_and_questions(tmp_path: Path, pictures: Path):
    loaded = load("mini", "cpu", torch.float32)
    with pytest.raises(BodaError, match="a model that is loaded already is asked where it is"):
        run(loaded, ["questions:test.jsonl"], tmp_path / "a", data_dir=pictures, processes=2)
    with pytest.raises(
        BodaError, match="drawn-pairs is computed from the model in this process: no several processes and no image limit"
    ):
        run("mini-clip", ["drawn-pairs"], tmp_path / "b", processes=2, image_limit=8)
    with pytest.raises(BodaError, match="vLLM shares its work out itself"):
        run("mini", ["questions:test.jsonl"], tmp_path / "c", data_dir=pictures, processes=2, engine="vllm")


# System texts and pictures of a size


def test_a_system_text_takes_the_place_of_the_models_own(monkeypatch):
    model, processor = load("mini", "cpu", torch.float32)
    model.boda_info = {"generation": {"system": "너는 도우미다."}}
    texts: list[str] = []
    template = type(processor).apply_chat_template

    def watched(self, conversations, **rest):
        texts.extend(conversation[0]["role"] + conversation[0]["content"][0]["text"] for conversation in conversations)
        return template(self, conversations, **rest)

    monkeypatch.setattr(type(processor), "apply_chat_template", watched)
    ask = LocalModel(model, processor)
    task = Task(
        "t", "1", lambda limit: [], lambda row: [{"role": "user", "content": "가"}], lambda row, answer: {}, lambda records: {}
    )
    for system in (None, "", "짧게."):
        answered(ask, task, [Row("0", None)], Asking(system=system))
    assert texts == ["system너는 도우미다.", "user가", "system짧게."]


def test_the_command_line_says_all_that_was_agreed(tmp_path: Path, pictures: Path):
    words = ["--json", "eval", "mini", "--tasks", "questions:test.jsonl", "--data", pictures, "--out", tmp_path / "out"]
    words += ["--limit", 3, "--batch-size", 2, "--image-limit", 16, "--system", ""]
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, (done.stderr, done.exception)
    (conditions,) = saved(tmp_path / "out")["conditions"].values()
    assert (conditions["image_limit"], conditions["system"], conditions["limit"]) == (16, "", 3)
    quiet = CliRunner().invoke(app, ["--quiet", *map(str, words[1:])])
    assert "questions:test.jsonl │ 3 │" in quiet.stdout and not quiet.stderr
    again = CliRunner().invoke(app, [str(word) for word in words[:-6]])
    assert again.exit_code == 1 and "image limit was 16 and is None" in again.stderr
    assert CliRunner().invoke(app, [*map(str, words), "--engine", "ollama"]).exit_code == 1


# vLLM


@pytest.fixture
def vllm(monkeypatch, tmp_path: Path) -> Path:
    """The stand-in as the command; the file it writes."""
    monkeypatch.setenv("BODA_VLLM", f"{sys.executable} {FAKE_VLLM}")
    monkeypatch.setenv("FAKE_VLLM_FILE", str(tmp_path / "called.json"))
    return tmp_path / "called.json"


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_vllm_is_started_asked_and_stopped(vllm: Path, tmp_path: Path, pictures: Path):
    folder = str(tiny.language_folder("llama"))
    task = made("questions:test.jsonl", pictures, decoding={"temperature": 0.0, "max_new_tokens": 8})
    run(folder, [task], tmp_path / "out", engine="vllm", trust_remote_code=True)
    called = json.loads(vllm.read_text(encoding="utf-8"))
    assert called["arguments"][:2] == ["serve", folder] and called["arguments"][-1] == "--trust-remote-code"
    assert set(answers(tmp_path / "out").values()) == {"0.0 1.0"} and not is_running(called["pid"])
    told = saved(tmp_path / "out")
    assert told["model"] == folder and told["engine"] == "vllm" and told["fingerprint"]
    with pytest.raises(BodaError, match="engine was 'vllm' and is None"):
        run(folder, [task], tmp_path / "out")


def test_vllm_is_stopped_when_something_goes_wrong(vllm: Path, tmp_path: Path, pictures: Path):
    def score(row, answer: str) -> dict:
        raise KeyboardInterrupt

    task = made("questions:test.jsonl", pictures, score=score)
    with pytest.raises(KeyboardInterrupt):
        run("mini", [task], tmp_path / "out", engine="vllm")
    assert not is_running(json.loads(vllm.read_text(encoding="utf-8"))["pid"])


def test_vllm_that_dies_or_is_not_there_is_told(vllm: Path, tmp_path: Path, pictures: Path, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM_DIES", "1")
    with pytest.raises(BodaError, match=r"vLLM ended with status 1; the last it said: INFO loading .* CUDA out of memory"):
        run("mini", ["questions:test.jsonl"], tmp_path / "out", data_dir=pictures, engine="vllm")
    monkeypatch.setenv("BODA_VLLM", "/nowhere/vllm")
    with pytest.raises(BodaError, match="no command '/nowhere/vllm'; install vLLM in an environment of its own"):
        run("mini", ["questions:test.jsonl"], tmp_path / "out", data_dir=pictures, engine="vllm")


def test_vllm_ends_with_the_process_that_started_it(vllm: Path):
    start = "from boda.evaluate.engines import VLLM; VLLM('m').start(); import os; os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", start]).returncode == -9
    arguments = json.loads(vllm.read_text(encoding="utf-8"))["arguments"]
    until = time.monotonic() + 10
    with pytest.raises(ConnectionRefusedError):
        while time.monotonic() < until:
            socket.create_connection(("127.0.0.1", int(arguments[arguments.index("--port") + 1]))).close()


def test_a_model_that_searches_with_beams_is_not_asked_of_vllm(tmp_path: Path, pictures: Path):
    folder = shutil.copytree(locate("mini"), tmp_path / "beams")
    (folder / "boda.json").write_text(json.dumps({"generation": {"beams": 3}}), encoding="utf-8")
    with pytest.raises(BodaError, match="answers with 3 beams, which vLLM's server does not do"):
        run(str(folder), ["questions:test.jsonl"], tmp_path / "out", data_dir=pictures, engine="vllm")


def test_a_model_that_brings_its_own_code_runs_it_only_when_told(tmp_path: Path, pictures: Path):
    folder = shutil.copytree(locate("mini"), tmp_path / "strange")
    for name in ("config.json", "vlm.py"):
        path = folder / name
        path.write_text(path.read_text(encoding="utf-8").replace("boda_vlm", "strange_vlm"), encoding="utf-8")
    (folder / "boda.json").unlink()
    with pytest.raises(BodaError, match=r"strange_vlm|custom code"):
        run(str(folder), ["questions:test.jsonl"], tmp_path / "a", data_dir=pictures)
    for model, out in ((str(folder), "b"), ("mini", "c")):
        task = made("questions:test.jsonl", pictures, decoding={"temperature": 0.0, "max_new_tokens": 8})
        run(model, [task], tmp_path / out, trust_remote_code=True)
    assert answers(tmp_path / "b") == answers(tmp_path / "c")
