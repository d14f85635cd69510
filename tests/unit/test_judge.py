"""The judge: who is asked how often, what is kept, and what is said when no judgement can be had."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import boda.evaluate
from boda.errors import BodaError
from boda.evaluate.judge import Judge, JudgeGone
from boda.evaluate.tasks import make_task
from tests.judge_data import benchmarks
from tests.judge_server import JudgeServer, mark

KEY = "sk-secret-4711"


class Says:
    """A model that answers what it was asked last, and remembers how often."""

    name = "says"

    def __init__(self):
        self.asked: list[list[dict]] = []

    def answer(self, conversations):
        self.asked += conversations
        return [f"대답 {len(conversation)}: {text_of(conversation[-1])}" for conversation in conversations]


def text_of(message: dict) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.fixture
def data(tmp_path: Path, monkeypatch) -> Path:
    for name in ("BODA_JUDGE_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return benchmarks(tmp_path / "data")


def run(data: Path, tasks: list[str], judge=None, model=None, out: str = "out", **rest):
    return boda.evaluate.run(model or Says(), tasks, data.parent / out, data_dir=data, quiet=True, judge=judge, **rest)


def asking(server: JudgeServer, **rest) -> dict:
    return {"url": server.url, "model": "judge", "wait": 0.01, **rest}


def lines(data: Path, name: str = "judgements", out: str = "out") -> list[dict]:
    return [json.loads(line) for line in (data.parent / out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_judgement_is_what_the_judge_said(data: Path):
    tasks = ["logickor", "kullm-geval", "kullm-geval:version=v2", "komt"]
    with JudgeServer() as server:
        found = run(data, tasks, asking(server))
    kept = lines(data)
    # LogicKor: 12 questions, 2 turns, 3 strategies; KoMT: 12 questions, 2 turns; G-Eval: 12 questions, two versions.
    assert Counter(line["task"] for line in kept) == {"logickor": 72, "komt": 24, "kullm-geval": 12, "kullm-geval-v2": 12}
    assert not any(line["failed"] for line in kept) and len(server.bodies) == 120
    for line in kept:
        user = line["prompt"][-1]["content"]
        overall = {"kullm-geval": (user + "Overall Quality", 1, 5), "kullm-geval-v2": (user + "전반적인 품질", 1, 5)}
        assert line["score"] == mark(*overall.get(line["task"], (user, 1, 10)))
        assert line["judge"] == "judge" and line["tries"] == 1 and len(line["replies"]) == 1
    for name, result in found.items():
        of_task = [line for line in kept if line["task"] == name]
        assert result["n"] == len(of_task) and result["failed"] == 0
        for kind in ("prompt", "completion"):
            assert result["judge"][f"{kind}_tokens"] == sum(line[f"{kind}_tokens"] for line in of_task) > 0
    settings = {name: value for name, value in server.bodies[0].items() if name != "messages"}
    assert settings == {"model": "judge", "temperature": 0.0, "n": 1}


def test_the_second_question_comes_after_the_models_own_answer(data: Path):
    model = Says()
    run(data, ["logickor:strategy=cot-1-shot"], model=model, limit=3, batch_size=2)
    first, second = model.asked[0], model.asked[2]  # two first questions, then their second ones
    assert [message["role"] for message in first] == ["system", "user", "assistant", "user"]
    assert second[:4] == first and second[4] == {"role": "assistant", "content": f"대답 4: {text_of(first[-1])}"}
    record = lines(data, "answers")[0]
    assert record["answers"] == [f"대답 4: {text_of(first[-1])}", f"대답 6: {text_of(second[-1])}"]
    assert record["raw"] == record["answers"][1] and [each["content"] for each in record["prompt"]] == list(
        map(text_of, second)
    )
    assert "쓰지 않는 셋째" not in json.dumps(lines(data, "answers"), ensure_ascii=False)


def test_an_answer_that_cannot_be_had_fails_alone_and_is_not_judged(data: Path):
    class Fails(Says):
        def answer(self, conversations):
            if any("이어지는 질문 5" in text_of(each[-1]) for each in conversations):
                raise BodaError("질문이 너무 길어요")
            return super().answer(conversations)

    with JudgeServer() as server:
        found = run(data, ["logickor:strategy=default"], asking(server), Fails())["logickor"]
    assert found["n"] == 22 and found["failed"] == 2 and len(server.bodies) == 22
    assert found["upstream"]["n"] == 22


def script(number: int, attempt: int):
    """Of twenty prompts two get prose first, two are slow, one fails: in turn 500, 429 and a closed connection, each once."""
    place = number % 20
    if place in (3, 13):
        return "prose" if attempt == 0 else "good"
    if place in (5, 15):
        return "slow"
    return [500, (429, 0), "close"][number // 20 % 3] if place == 9 and attempt == 0 else "good"


def test_counts_are_exactly_as_scripted(data: Path):
    with JudgeServer(script, delay=0.1) as server:
        found = run(data, ["logickor"], asking(server))["logickor"]
        # 72 prompts, that is three twenties and 12 more: 7 malformed, 7 slow, 4 failing.
        assert (found["n"], found["failed"]) == (72, 0)
        assert server.did == {"prose": 7, "slow": 7, "500": 2, "429": 1, "close": 1, "good": 65}
        costs = found["judge"]
        assert costs["replies_without_verdict"] == 7 and costs["requests"] == 72 + 7 + 4 and costs["failed"] == 0
        before = len(server.bodies)
        again = run(data, ["logickor"], asking(server), model=None)["logickor"]
        assert len(server.bodies) == before and {**again, "judge": 0} == {**found, "judge": 0}


def test_prose_only_makes_no_score(data: Path):
    with JudgeServer(lambda number, attempt: "prose" if number < 5 else "good") as server:
        found = run(data, ["logickor:strategy=default"], asking(server, concurrency=1))["logickor"]
        assert (found["n"], found["failed"]) == (19, 5) and server.did["prose"] == 5 * 5  # five tries each, as published
        failed = [line for line in lines(data) if line["failed"]]
        assert [len(line["replies"]) for line in failed] == [5] * 5 and {line["score"] for line in failed} == {None}
        # By the published rule five replies without a score are 0.0.
        scores = [line["score"] for line in lines(data) if not line["failed"]]
        assert found["upstream"]["n"] == 24 and found["boda"]["n"] == 19
        turns = {
            name: [line["score"] or 0 for line in lines(data) if line["judgement"] == name] for name in ("single", "multi")
        }
        published = sum(sum(turn) / 12 for turn in turns.values()) / 2
        assert found["upstream"]["score"] == pytest.approx(published) and published < found["score"] <= max(scores)
        assert any("5 of 24 judgements failed" in remark for remark in found["remarks"])
        # Asked again, only those: now the judge keeps to the form.
        server.behave = lambda number, attempt: "good"
        asked, paid = len(server.bodies), found["judge"]["prompt_tokens"]
        mended = run(data, ["logickor:strategy=default"], asking(server))["logickor"]
        assert len(server.bodies) == asked + 5 and mended["n"] == 24 and mended["judge"]["prompt_tokens"] > paid


@pytest.mark.parametrize("task, tries", [("komt", 3), ("kullm-geval", 3)])
def test_others_leave_out_what_cannot_be_read(task: str, tries: int, data: Path):
    with JudgeServer(lambda number, attempt: "prose") as server:
        found = run(data, [task], asking(server))[task]
    assert found["n"] == 0 and found["score"] is None and found["upstream"]["score"] is None
    assert found["failed"] == len(lines(data)) and len(server.bodies) == tries * found["failed"]


def test_without_a_judge_answers_are_saved_and_judged_later(data: Path, capsys):
    model = Says()
    found = run(data, ["logickor:strategy=default", "komt"], model=model)
    assert found["logickor"]["score"] is None and found["logickor"]["n"] == 0 and found["logickor"]["failed"] == 0
    assert "--judge URL" in found["logickor"]["remarks"][0] and "24 judgements" in found["logickor"]["remarks"][0]
    asked = len(model.asked)
    with JudgeServer() as server:
        found = run(data, ["logickor:strategy=default", "komt"], asking(server), model)
    assert found["logickor"]["n"] == found["komt"]["n"] == 24 and len(model.asked) == asked


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_no_more_at_once_than_allowed(limit: int, data: Path):
    with JudgeServer(lambda number, attempt: "slow", delay=0.03) as server:
        run(data, ["logickor:strategy=default"], asking(server, concurrency=limit))
    assert min(limit, 2) <= server.most_at_once <= limit


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_nobody_at_the_address_is_said_before_anything_is_answered(data: Path):
    model, url = Says(), f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(JudgeGone, match=r"no judge at 127.0.0.1:\d+/v1 \(.*refused\); start it") as error:
        run(data, ["logickor"], {"url": url, "model": "judge"}, model)
    assert "\n" not in str(error.value) and model.asked == []


def test_a_wrong_key_stops_at_once_and_is_written_nowhere(data: Path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    model = Says()
    with (
        JudgeServer(key="another") as server,
        pytest.raises(JudgeGone, match=r"does not take the key.*BODA_JUDGE_KEY") as error,
    ):
        run(data, ["logickor"], asking(server), model)
    assert KEY not in str(error.value) and "***" in str(error.value) and model.asked == []
    monkeypatch.setenv("BODA_JUDGE_KEY", "another")  # comes before the other
    with JudgeServer(lambda number, attempt: 400 if number == 0 else "good", key="another") as server:
        judge = Judge.of(asking(server))
        found = run(data, ["logickor:strategy=default"], judge)["logickor"]
    assert found["n"] == 23 and "another" not in repr(judge)
    for file in (data.parent / "out").iterdir():
        assert "another" not in file.read_text(encoding="utf-8") and KEY not in file.read_text(encoding="utf-8")
    assert "scripted 400" in next(line["error"] for line in lines(data) if line["failed"])


@pytest.mark.parametrize("status, said", [(404, "no model 'judge'"), (401, "does not take the key"), (403, "does not allow")])
def test_what_cannot_get_better_stops_and_keeps_what_there_is(status: int, said: str, data: Path):
    with JudgeServer(lambda number, attempt: status if number == 9 else "good") as server:
        with pytest.raises(JudgeGone, match=rf"{said}.*9 of 24 judgements were saved; the same command goes on"):
            run(data, ["logickor:strategy=default"], asking(server, concurrency=1))
        assert len(server.bodies) == 10 and len(lines(data)) == 9 and len(lines(data, "answers")) == 12
        server.behave = lambda number, attempt: "good"
        assert run(data, ["logickor:strategy=default"], asking(server))["logickor"]["n"] == 24
        assert len(server.bodies) == 10 + 15


def test_a_judge_that_goes_away_loses_nothing(data: Path):
    server = JudgeServer()

    def behave(number: int, attempt: int) -> str:
        if number == 6:
            threading.Thread(target=server.__exit__).start()
            time.sleep(0.2)
        return "good"

    server.behave = behave
    with server, pytest.raises(JudgeGone, match="no judge at"):
        run(data, ["logickor:strategy=default"], asking(server, concurrency=1, retries=2))
    assert len(lines(data)) >= 6 and len(lines(data, "answers")) == 12


def test_a_busy_server_is_left_alone_as_long_as_it_asks(data: Path):
    with JudgeServer(lambda number, attempt: (429, 1) if attempt == 0 else "good") as server:
        run(data, ["logickor:strategy=default"], asking(server, concurrency=1), limit=1)
    waits = [server.times[1] - server.times[0], server.times[3] - server.times[2]]
    assert all(1 <= wait < 2 for wait in waits)


def test_a_server_that_never_answers_is_one_failure(data: Path):
    with JudgeServer(lambda number, attempt: "slow" if number == 0 else "good", delay=1.5) as server:
        found = run(data, ["logickor:strategy=default"], asking(server, timeout=0.3, retries=1), limit=2)["logickor"]
    failed = next(line for line in lines(data) if line["failed"])
    assert found["n"] == 3 and "did not answer in 2 tries (timed out)" in failed["error"] and failed["requests"] == 2


def test_two_judges_do_not_mix(data: Path):
    with JudgeServer() as server:
        run(data, ["komt"], asking(server), limit=2)
        with pytest.raises(BodaError, match=r"holds judgements of komt by 'judge'.*judged by 'better'"):
            run(data, ["komt"], {**asking(server), "model": "better"}, limit=2)


def test_another_answer_is_judged_again(data: Path):
    with JudgeServer() as server:
        run(data, ["komt"], asking(server), limit=3)
        answers = lines(data, "answers")
        answers[0]["answers"][1] = answers[0]["raw"] = "다른 대답"
        path = data.parent / "out/answers.jsonl"
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in answers), encoding="utf-8")
        before = len(server.bodies)
        run(data, ["komt"], asking(server), limit=3)
    assert len(server.bodies) == before + 1 and "다른 대답" in server.bodies[-1]["messages"][1]["content"]


KILLED = """
import sys, boda.evaluate
from tests.unit.test_judge import Says
judge = {"url": sys.argv[1], "model": "judge", "concurrency": 2}
boda.evaluate.run(Says(), ["logickor"], sys.argv[3], data_dir=sys.argv[2], quiet=True, judge=judge)
"""


def test_killed_in_the_middle_it_asks_only_for_the_rest(data: Path):
    with JudgeServer(lambda number, attempt: "slow", delay=0.05) as server:
        command = [sys.executable, "-c", KILLED, server.url, str(data), str(data.parent / "out")]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env={**os.environ, "BODA_JUDGE_KEY": KEY})
        until = time.monotonic() + 60
        while len(server.bodies) < 20 and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        path = data.parent / "out/judgements.jsonl"
        with path.open("a", encoding="utf-8") as stream:
            stream.write('{"task": "logickor", "row": "def')  # what a kill within a line leaves
        saved = len(lines_that_are_whole(path))
        assert 10 <= saved < 72
        before, server.behave = len(server.bodies), lambda number, attempt: "good"
        found = run(data, ["logickor"], asking(server))["logickor"]
    assert len(server.bodies) == before + 72 - saved and found["n"] == 72
    assert KEY not in path.read_text(encoding="utf-8")


def lines_that_are_whole(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").split("\n")[:-1] if json.loads(line)]


@pytest.mark.parametrize(
    "judge, why",
    [
        ({"url": "here", "model": "m"}, "no address of a judge"),
        ({"url": "https://me:pw@host/v1", "model": "m"}, "holds a password"),
        ({"url": "https://host/v1"}, "which model judges"),
        ({"url": "https://host/v1", "model": "m", "speed": 3}, "no setting 'speed'"),
        ({"url": "https://host/v1", "model": "m", "concurrency": 0}, "at least 1"),
    ],
)
def test_mistakes_are_named(judge: dict, why: str, data: Path):
    with pytest.raises(BodaError, match=why):
        run(data, ["komt"], judge)


def test_a_judge_for_nothing(data: Path, tmp_path: Path):
    (tmp_path / "q.csv").write_text("image,class\n", encoding="utf-8")
    task = make_task("komt", data)
    plain = type(task)("plain", "1", task.load, task.messages, task.score, task.summarise)
    with pytest.raises(BodaError, match="none of these tasks is judged: plain"):
        run(data, [plain], {"url": "https://host/v1", "model": "m"})


def test_the_key_goes_to_no_other_address(data: Path, monkeypatch):
    monkeypatch.setenv("BODA_JUDGE_KEY", KEY)
    with JudgeServer(lambda number, attempt: 307) as server:
        with pytest.raises(BodaError, match=r"sends elsewhere; give the address that it sends to \(307"):
            run(data, ["komt"], asking(server), limit=1)
