"""Two runs compared by a judge in both orders, and how far judges agree."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import boda.evaluate
from boda.cli import app
from boda.errors import BodaError
from boda.evaluate.agreement import against, agreement
from boda.evaluate.pairwise import pairwise, read
from tests.benchmark_files_open import llava
from tests.judge_data import benchmarks, write_lines
from tests.judge_server import PROSE, JudgeServer

TASK = "questions:items.json"


class Answers:
    def __init__(self, name: str, answers: list):
        self.name, self.answers, self.place = name, answers, 0

    def answer(self, conversations):
        self.place += len(conversations)
        return self.answers[self.place - len(conversations) : self.place]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    llava(tmp_path, *[(f"{number}번 그림에는 무엇이 있나요?", "사과") for number in range(8)])
    return tmp_path


def ran(data: Path, name: str, answers: list, **rest) -> Path:
    boda.evaluate.run(Answers(name, answers), [TASK], data / name, data_dir=data, quiet=True, **rest)
    return data / name


def parts(messages: list[dict]) -> tuple[str, str, str]:
    """Question, answer A and answer B of the judge's prompt."""
    text = messages[-1]["content"]
    question, first, second = (text.split(f"[{name}]\n")[1].split(f"\n[{name} 끝]")[0] for name in ("질문", "답변 A", "답변 B"))
    return question.removeprefix("<image>"), first, second


def by_length(messages: list[dict]) -> str:
    """A fair judge: the longer answer is better."""
    _, first, second = parts(messages)
    winner = "A" if len(first) > len(second) else "B" if len(second) > len(first) else "무승부"
    return f"길이를 보았습니다.\n판정: {winner}"


def asking(server: JudgeServer, **rest) -> dict:
    return {"url": server.url, "model": "judge", "wait": 0.01, **rest}


def compare(data: Path, server: JudgeServer, first: Path, second: Path, **rest) -> dict:
    return pairwise(first, second, TASK, asking(server, **rest), data / "pairs", quiet=True)


def test_a_win_is_one_in_both_orders(data: Path):
    """Of eight questions 3 won, 2 lost, 1 alike, 1 for which the judge looks at the place alone, 1 without an answer."""
    ours = ran(data, "ours", ["긴 대답 하나"] * 3 + ["짧음"] * 2 + ["같은 길이", "자리만 본다", "대답"])
    theirs = ran(data, "theirs", ["짧음"] * 3 + ["긴 대답 하나"] * 2 + ["같은 크기", "자리를 본다", BodaError("너무 길어요")])

    def judge(messages: list[dict]) -> str:
        question, *_ = parts(messages)
        return "판정: A" if question.startswith("6번") else by_length(messages)

    with JudgeServer(lambda number, attempt: judge) as server:
        found = compare(data, server, ours, theirs)
        assert len(server.bodies) == 2 * 7  # the failed answer is not judged
        asked = [parts(body["messages"]) for body in server.bodies]
        turned = compare(data, server, theirs, ours)
    names = ("wins", "losses", "ties", "inconsistent", "failed")
    assert [found[name] for name in names] == [3, 2, 2, 1, 1] and found["n"] == 7
    assert found["score"] == pytest.approx((3 + 0.5 * 2) / 7) and found["low"] < found["score"] < found["high"]
    assert sum(question.startswith("0번") for question, *_ in asked) == 2
    assert {each for each in asked if each[0].startswith("0번")} == {
        ("0번 그림에는 무엇이 있나요?", "긴 대답 하나", "짧음"),
        ("0번 그림에는 무엇이 있나요?", "짧음", "긴 대답 하나"),
    }
    # Turned about: the same prompts, whose judgements the other way round are other ones, and the opposite result.
    assert [turned[name] for name in names] == [2, 3, 2, 1, 1] and turned["score"] == pytest.approx(1 - found["score"])
    saved = json.loads((data / "pairs/pairwise.json").read_text(encoding="utf-8"))
    assert saved["wins"] == 2 and saved["task"] == TASK and saved["judge"]["model"] == "judge"
    # 5 clear questions give one verdict for each place; the sixth, judged by place, gives two for the first.
    assert any("58%" in remark and "stood first" in remark for remark in found["remarks"])
    assert any("1 of 7 questions were judged otherwise" in remark for remark in found["remarks"])


def test_a_judge_that_looks_at_the_place_alone_decides_nothing(data: Path):
    ours, theirs = ran(data, "ours", ["사과"] * 8), ran(data, "theirs", ["배"] * 8)
    with JudgeServer(lambda number, attempt: lambda messages: "판정: A") as server:
        found = compare(data, server, ours, theirs)
    assert (found["wins"], found["losses"], found["ties"], found["inconsistent"]) == (0, 0, 8, 8) and found["score"] == 0.5


def test_what_is_not_judged_is_counted_and_not_scored_and_asked_again(data: Path):
    ours, theirs = ran(data, "ours", ["긴 대답 하나"] * 8), ran(data, "theirs", ["짧음"] * 8)

    def behave(number: int, attempt: int):
        return {2: 400, 5: lambda messages: PROSE, 7: (429, 0) if not attempt else by_length}.get(number, by_length)

    with JudgeServer(behave) as server:
        found = compare(data, server, ours, theirs, concurrency=1)
        # One at a time: the 3rd prompt is of the second question, the 6th of the third.
        assert (found["wins"], found["failed"], found["n"], found["score"]) == (6, 2, 6, 1.0)
        assert found["judge"]["failed"] == 2
        before, server.behave = len(server.bodies), lambda number, attempt: by_length
        assert compare(data, server, ours, theirs)["wins"] == 8 and len(server.bodies) == before + 2
        with pytest.raises(BodaError, match="by 'judge', and two judges make no score"):
            pairwise(ours, theirs, TASK, asking(server, model="another"), data / "pairs", quiet=True)


KILLED = """
import sys
from boda.evaluate.pairwise import pairwise
url, folder, task = sys.argv[1:]
pairwise(f"{folder}/ours", f"{folder}/theirs", task, {"url": url, "model": "judge", "concurrency": 2}, f"{folder}/pairs", quiet=True)
"""


def test_killed_and_called_again_it_ends_the_same(data: Path):
    ours, theirs = ran(data, "ours", ["긴 대답 하나"] * 8), ran(data, "theirs", ["짧음"] * 4 + ["아주 긴 대답 하나"] * 4)

    killed = threading.Event()

    def until_killed(messages: list[dict]) -> str:
        killed.wait(120)
        return by_length(messages)

    with JudgeServer(lambda number, attempt: by_length if number < 3 else until_killed) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, server.url, str(data), TASK], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        saved, until = data / "pairs/judgements.jsonl", time.monotonic() + 120
        while not (saved.exists() and saved.read_bytes().count(b"\n") == 3) and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
        process.wait()
        killed.set()
        assert not (data / "pairs/pairwise.json").exists() and saved.read_bytes().count(b"\n") == 3
        resumed = compare(data, server, ours, theirs)
        assert resumed == pairwise(ours, theirs, TASK, asking(server), data / "whole", quiet=True)
    assert (resumed["wins"], resumed["losses"]) == (4, 4)


def test_conversations_are_shown_whole(tmp_path: Path):
    data = benchmarks(tmp_path / "data", 1)

    class Says:
        name = "says"

        def answer(self, conversations):
            return [f"대답 {len(each)}" for each in conversations]

    for name in ("ours", "theirs"):
        boda.evaluate.run(Says(), ["komt"], tmp_path / name, data_dir=data, quiet=True, batch_size=1)
    with JudgeServer(lambda number, attempt: by_length) as server:
        found = pairwise(tmp_path / "ours", tmp_path / "theirs", "komt", asking(server), tmp_path / "pairs", quiet=True)
        asked = {parts(body["messages"]) for body in server.bodies}
    assert found["ties"] == 3 and found["inconsistent"] == 0
    both = "대답 1\n\n대답 3"
    assert asked == {(f"{kind} 0 물음\n\n{kind} 0 다시", both, both) for kind in range(3)}


def test_what_cannot_be_compared_is_named(data: Path):
    ours, other = ran(data, "ours", ["사과"] * 8, limit=2), data / "other"
    llava(other, *[(f"{number}번은 무엇인가요?", "사과") for number in range(8)])
    theirs = ran(other, "theirs", ["배"] * 8)
    judge = {"url": "http://127.0.0.1:9/v1", "model": "judge"}
    with pytest.raises(BodaError, match="the two runs were asked different questions"):
        pairwise(ours, theirs, TASK, judge, data / "pairs")
    with pytest.raises(BodaError, match=r"has no answers of komt; it has questions:items\.json"):
        pairwise(ours, theirs, "komt", judge, data / "pairs")
    with pytest.raises(BodaError, match="no answers at"):
        pairwise(ours, data / "nowhere", TASK, judge, data / "pairs")


@pytest.mark.parametrize(
    "reply, score",
    [
        ("판정: A", 1),
        ("이유\n판정: B", 0),
        ("**판정: A**", 1),
        ("판정: 답변 B", 0),
        ("판정: [A]", 1),
        ("판정 : 무승부", 0.5),
        ("판정은 B입니다.", 0),
        ("판정: A라고 볼 수도 있으나\n판정: B", 0),
        ("판정: AB", None),
        ("답변 A가 더 좋습니다.", None),
        ("", None),
    ],
)
def test_verdicts(reply: str, score: float | None):
    assert (read(reply) or {"score": None})["score"] == score


def test_the_command_compares(data: Path):
    ours, theirs = ran(data, "ours", ["긴 대답 하나"] * 8), ran(data, "theirs", ["짧음"] * 8)
    with JudgeServer(lambda number, attempt: by_length) as server:
        command = ["report", str(ours), str(theirs), "--pairwise", TASK, "--judge", server.url, "--judge-model", "judge"]
        said = CliRunner().invoke(app, [*command, "--out", str(data / "pairs"), "--json"])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout.splitlines()[-1])["pairwise"]
    assert (found["wins"], found["ties"], found["losses"]) == (8, 0, 0)
    said = CliRunner().invoke(app, ["report", str(ours), "--pairwise", TASK])
    assert said.exit_code == 2 and "two runs" in said.stderr


# Agreement


def test_marks_agree_as_scipy_and_sklearn_say():
    from scipy.stats import spearmanr
    from sklearn.metrics import cohen_kappa_score

    rng = random.Random(0)
    for spread in (0, 1, 3, 9):
        reference = [rng.randint(1, 10) for _ in range(200)]
        ours = [min(10, max(1, mark + rng.randint(-spread, spread))) for mark in reference]
        found = agreement(ours, reference)
        assert found["spearman"] == pytest.approx(spearmanr(ours, reference).statistic, abs=1e-12)
        kappa = cohen_kappa_score(ours, reference, labels=range(1, 11), weights="quadratic")
        assert found["kappa"] == pytest.approx(kappa, abs=1e-12)
        assert found["exact"] == sum(map(int.__eq__, ours, reference)) / 200 and found["n"] == 200
        assert found["mean_difference"] == pytest.approx((sum(ours) - sum(reference)) / 200, abs=1e-12)


def test_agreement_at_its_edges():
    assert agreement([1, None, 3, 7.5], [1, 2, None, 7.5]) == {
        "n": 2, "exact": 1.0, "spearman": pytest.approx(1.0), "kappa": pytest.approx(1.0), "mean_difference": 0.0,
    }  # fmt: skip
    same = agreement([5, 5], [5, 5])  # nothing varies: no rank, and chance agrees as well
    assert same["exact"] == 1 and same["spearman"] is None and same["kappa"] is None
    assert agreement([5, 6], [7, 7])["spearman"] is None and agreement([5, 6], [7, 7])["mean_difference"] == -1.5
    with pytest.raises(BodaError, match="3 judgements and 2 reference judgements are no pairs"):
        agreement([1, 2, 3], [1, 2])
    with pytest.raises(BodaError, match="no answer is judged by both"):
        agreement([None, 2], [1, None])


def judged_file(path: Path, marks: list[tuple[float, float]]) -> Path:
    """LogicKor's own judged file of (first turn, second turn) marks."""

    def query(mark: float) -> dict:
        return {"judge_message": "", "judge_score": mark}

    rows = [
        {"id": number, "category": "수학(Math)", "query_single": query(first), "query_multi": query(second)}
        for number, (first, second) in enumerate(marks, 1)
    ]
    return write_lines(path, rows, "utf-8-sig")


def test_a_runs_judge_against_the_benchmarks(tmp_path: Path):
    reference = judged_file(tmp_path / "org/model/default.jsonl", [(7, 4), (9, 8), (3, 2)])
    marks = {("default/1", "single"): 7, ("default/1", "multi"): 6, ("default/2", "single"): 9, ("default/9", "single"): 1}
    lines = [{"task": "logickor", "row": row, "judgement": name, "score": mark} for (row, name), mark in marks.items()]
    write_lines(tmp_path / "run/judgements.jsonl", [{**lines[0], "score": None}, *lines, {**lines[0], "task": "komt"}])
    found = against("logickor", tmp_path / "run", reference)
    assert found["n"] == 3 and found["exact"] == pytest.approx(2 / 3) and found["mean_difference"] == pytest.approx(2 / 3)
    other = judged_file(tmp_path / "two/model/default.jsonl", [(7, 4), (9, 8), (3, 2)])
    assert against("logickor", other, reference)["kappa"] == pytest.approx(1.0)
    judged_file(tmp_path / "two/another/default.jsonl", [(1, 1)])
    with pytest.raises(BodaError, match="has judgements of 2 models"):
        against("logickor", tmp_path / "two", reference)
    command = ["report", str(tmp_path / "run"), "--task", "logickor", "--against", str(reference), "--json"]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout.splitlines()[-1])["agreement"]["n"] == 3
