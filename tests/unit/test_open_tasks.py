"""Tasks that are answered freely: what is asked, what the published rules make of constructed answers, and what Boda does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import boda.evaluate
from boda.errors import BodaError
from boda.evaluate import judged
from boda.evaluate.metrics import caption_scores
from boda.evaluate.report import write_report
from boda.evaluate.tasks import chart, k_llava_w, koffvqa, make_task
from tests import benchmark_files_open as files
from tests.benchmark_files import picture, write_json
from tests.judge_server import PROSE, JudgeServer, verdict
from tests.shared_data import shared_data


class Answers:
    """A model that answers by the number of the question's picture, and remembers what it was asked."""

    name = "answers"

    def __init__(self, answers: list[str] | Callable[[str], str | BodaError]):
        self.answers, self.asked = answers, []

    def answer(self, conversations):
        self.asked += conversations
        texts = ["".join(part["text"] for part in each[-1]["content"] if part["type"] == "text") for each in conversations]
        if callable(self.answers):
            return [self.answers(text) for text in texts]
        start = len(self.asked) - len(conversations)
        return self.answers[start : start + len(conversations)]


def evaluated(task: str, answers, out: Path, judge: JudgeServer | None = None, **rest) -> dict:
    """The one result of a task on a model that answers so."""
    asking = {"url": judge.url, "model": "judge", "wait": 0.01} if judge else None
    model = answers if hasattr(answers, "answer") else Answers(answers)
    (found,) = boda.evaluate.run(model, [task], out, quiet=True, judge=asking, **rest).values()
    return found


def records(out: Path, name: str = "answers") -> list[dict]:
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def replying(replies: dict[str, str]) -> Callable:
    """A judge that replies by what stands in the prompt."""

    def say(messages: list[dict]) -> str:
        return next(reply for part, reply in replies.items() if part in messages[-1]["content"])

    return lambda number, attempt: say


# K-LLaVA-W


def test_k_llava_w_is_judged_in_the_published_words(tmp_path: Path):
    files.k_llava_w(tmp_path)
    model = Answers([f"대답 {number} {{}}" for number in range(5)])
    with JudgeServer() as server:
        evaluated("k-llava-w", model, tmp_path / "out", server, data_dir=tmp_path)
    content = model.asked[1][0]["content"]
    assert [part["type"] for part in content] == ["image", "text"] and content[1]["text"] == "1번 그림에는 무엇이 보이나요?"
    body = next(body for body in server.bodies if "대답 1 {}" in body["messages"][1]["content"])
    rule = json.loads(shared_data("lmms_eval_ko/lmms_eval/tasks/llava-in-the-wild/rule_ko.json").read_text(encoding="utf-8"))
    for category in ("conv", "detail", "complex"):
        role, prompt = (rule[f"llava_bench_{category}"][name] for name in ("role", "prompt"))
        expected = (
            "[설명]\n1번 그림의 설명\n\n[질문]\n1번 그림에는 무엇이 보이나요?\n\n"
            f"[{role} 1]\n1번 그림에는 사과가 보입니다.\n\n[{role} 1 끝]\n\n[{role} 2]\n대답 1 {{}}\n\n[{role} 2 끝]\n\n"
            f"[System]\n{prompt}\n\n"
        )
        assert body["messages"][1] == {"role": "user", "content": expected}
    assert body["messages"][0]["content"] == "당신은 답변의 품질을 확인하는 유용하고 정확한 어시스턴트입니다."
    assert {name: body[name] for name in ("temperature", "max_tokens")} == {"temperature": 0.2, "max_tokens": 1024}


@pytest.mark.parametrize("kit", [False, True])
def test_k_llava_w_by_both_rules(tmp_path: Path, kit: bool):
    path = files.k_llava_w(tmp_path, kit=kit)
    replies = {
        "대답0": "8 9\n둘 다 좋습니다.",
        "대답1": "어시스턴트1: 8, 어시스턴트2: 6\n둘째는 짧습니다.",  # five parts to the published rule: -1 -1
        "대답2": PROSE,  # no marks: -1 -1, and to Boda no judgement
        "대답3": "9, 9",  # the comma becomes a second space, so three parts: -1 -1
        "대답4": "7 7",
    }
    with JudgeServer(replying(replies)) as server:
        found = evaluated(f"k-llava-w:{path}", [*replies], tmp_path / "out", server)
        asked = len(server.bodies)
    # Read: GPT-4's 8 8 9 7, mean 8; the model's 9 6 9 7, mean 7.75; 7.75 / 8 = 96.875 %.
    assert found["score"] == pytest.approx(96.875) and (found["n"], found["failed"]) == (4, 1)
    assert found["metrics"] == {"model": 7.75, "gpt": 8.0}
    assert found["low"] < 96.875 < found["high"] and asked == 4 + 3  # prose is asked for three times
    # Published: (8 - 1 - 1 - 1 + 7) / 5 = 2.4 and (9 - 1 - 1 - 1 + 7) / 5 = 2.6, so 108.3: a failing judge made the model better.
    assert found["upstream"]["score"] == 108.3 and found["upstream"]["n"] == 5
    parts = found["groups"]["category"]
    assert parts["conv"]["score"] == pytest.approx(100 * 7.5 / 8) and parts["detail"]["score"] is None
    # conv: (8 - 1) / 2 and (9 - 1) / 2; detail: -1 of -1.
    assert parts["conv"]["upstream"]["score"] == 114.3 and parts["detail"]["upstream"]["score"] == 100.0
    assert found["judge"]["failed"] == 1 and any("1 of 5 judgements failed" in remark for remark in found["remarks"])
    # Two questions on one picture, which the Parquet file holds twice, are one cluster; VLMEvalKit's table tells it by the bytes.
    assert len({str(record["images"]) for record in records(tmp_path / "out")}) == 3


def test_k_llava_w_a_judge_that_fails_throughout_is_worth_100_to_the_published_rule(tmp_path: Path):
    files.k_llava_w(tmp_path)
    with JudgeServer(lambda number, attempt: 400) as server:  # refused, so no reply at all
        found = evaluated("k-llava-w", ["대답"] * 5, tmp_path / "out", server, data_dir=tmp_path)
    assert found["score"] is None and found["n"] == 0 and found["failed"] == 5
    assert found["upstream"]["score"] == 100.0 and found["upstream"]["n"] == 5


@pytest.mark.parametrize(
    "reply, pair",
    [
        ("8 9", (8, 9)),
        ("8, 9\n설명", (8, 9)),
        ("8.5 9.5", (8.5, 9.5)),
        ("**8 9**", (8, 9)),
        ("`8 9`", (8, 9)),
        ("8/10 9/10", (8, 9)),
        ("8점 9점", (8, 9)),
        ("어시스턴트1: 8, 어시스턴트2: 9", (8, 9)),
        ("어시스턴트 1의 점수는 8점, 어시스턴트 2의 점수는 9점입니다.", (8, 9)),
        ("어시스턴트1_점수: 8\n어시스턴트2_점수: 9\n설명 3가지", (8, 9)),
        ("어시스턴트 2: 9, 어시스턴트 1: 8", (8, 9)),
        ("\n\n10 1\n2024년", (10, 1)),
        ("10점 만점에 8점, 10점 만점에 9점", (8, 9)),
        ("8 9 7", None),
        ("8", None),
        ("8\n둘째는 3가지가 좋고 9점", None),
        ("0 9", None),
        ("8 11", None),
        ("-8 9", None),
        ("", None),
        (PROSE, None),
    ],
)
def test_k_llava_w_marks_are_read_as_a_person_would(reply: str, pair: tuple | None):
    found = k_llava_w.read(reply)
    assert (found and (found["reference"], found["score"])) == pair


@pytest.mark.parametrize(
    "reply, pair",
    [
        ("8 9", [8, 9]),
        ("8,9", [8, 9]),
        ("8, 9", [-1, -1]),
        (" 8 9 \n7 7", [8, 9]),
        ("8/10 9", [-1, -1]),
        ("0 11", [0, 11]),
        ("", [-1, -1]),
    ],
)
def test_k_llava_w_published_pairs(reply: str, pair: list):
    assert k_llava_w.published_pair({"replies": [reply, "1 1"]}) == pair


# KOFFVQA


def test_koffvqa_by_both_rules(tmp_path: Path):
    files.koffvqa(tmp_path)
    answers = [
        "사과가 세 개 놓여 있습니다.",
        "탁자 위에 있는 것은 책입니다.",
        "It is a red apple on the table.",
        "3.",
        "강아지가 잔디밭에서 뛰고 있습니다.",
    ]
    answers += ["하늘이 파랗고 구름이 조금 있습니다."]
    replies = dict(
        zip(answers, ["최종 점수: 10점 만점에 7점", "**최종 점수: 10점 만점에 7.5점**", "최종 점수: 10점 만점에 10점"])
    )
    replies |= dict(
        zip(answers[3:], ["최종 점수: 10점 만점에 10점", PROSE, "최종 점수: 10점 만점에 10점\n(기준 15개를 보았습니다.)"])
    )
    model = Answers(answers)
    with JudgeServer(replying({f'> "{answer}"': reply for answer, reply in replies.items()})) as server:
        found = evaluated("koffvqa", model, tmp_path / "out", server, data_dir=tmp_path)
        body = server.bodies[0]
    # Read: 7, 7.5, 0 (English), 10 (a number needs no language), none, 10: 34.5 / 5 x 10.
    assert found["score"] == pytest.approx(69.0) and (found["n"], found["failed"], found["not_korean"]) == (5, 1, 1)
    # Published, the last digits: 7, 5 (of 7.5), 0 (English), 10, 0 (prose), 0 (15 is more than 10): 22 / 6 x 10.
    assert found["upstream"]["score"] == pytest.approx(220 / 6) and found["upstream"]["n"] == 6
    assert found["scale"] == [0, 100]
    assert found["groups"]["category"]["문서 이해"]["score"] == pytest.approx(35.0)  # 7 and 0; the third failed
    assert (
        [message["role"] for message in body["messages"]] == ["user"]
        and body["temperature"] == 0
        and body["max_tokens"] == 1024
    )
    said = body["messages"][0]["content"]
    assert said.startswith("어떤 사진에 대한 질문과 답변, 그리고 채점 기준이") and said.endswith(
        "의 형식으로 최종 점수를 쓰세요."
    )
    assert (
        '질문은 아래와 같습니다.\n> "0번 사진의 물건은 무엇인가요?"\n' in said
        and "다음과 같습니다.\n\n- 사과라고 답하면 0점\n\n위 기준" in said
    )


@pytest.mark.parametrize(
    "reply, mark, published",
    [
        ("최종 점수: 10점 만점에 7점", 7, 7),
        ("최종 점수: 10점 만점에 10점", 10, 10),
        ("최종 점수: 10점 만점에 0점", 0, 0),
        ("최종 점수: 10점 만점에 7.5점", 7.5, 5),
        ("최종 점수: 8점", 8, 8),
        ("최종 점수: 8", 8, 8),
        ("최종 점수는 10점 만점에 8점입니다.", 8, 8),
        ("최종 점수: 10점 만점 중 8점", 8, 8),
        ("최종 점수: 10점 만점에 8", 8, 8),
        ("최종 점수: 10 점 만점에 X 점", None, 10),
        ("최종 점수 : 9/10", 9, 10),
        ("1번 기준: 3점\n2번 기준: 4점\n따라서 총 7점입니다.", 7, 7),
        ("총점은 7점 (10점 만점)", 7, 10),
        ("최종 점수: 10점 만점에 X점", None, 10),
        ("최종 점수: 10점 만점에 12점", None, 0),
        ("최종 점수: 10점 만점에 -3점", None, 3),
        ("점수를 매길 수 없습니다.", None, 0),
        ("기준 3개를 보았습니다.", None, 3),
        ("x²", None, 0),
        ("", None, 0),
    ],
)
def test_koffvqa_marks(reply: str, mark: float | None, published: int):
    assert (koffvqa.read(reply) or {"score": None})["score"] == mark
    assert koffvqa.published_mark(reply) == published


KILLED = """
import sys
sys.path.insert(0, ".")
import boda.evaluate
from tests.unit.test_open_tasks import Answers
judge = {"url": sys.argv[1], "model": "judge", "concurrency": 2}
boda.evaluate.run(Answers(lambda text: f"{text} 사과입니다."), ["koffvqa"], sys.argv[3], data_dir=sys.argv[2], quiet=True, judge=judge)
"""


def test_koffvqa_killed_and_resumed_ends_the_same(tmp_path: Path):
    files.koffvqa(tmp_path, 10)
    killed = threading.Event()

    def until_killed(messages: list[dict]) -> str:
        killed.wait(120)
        return verdict(messages)

    with JudgeServer(lambda number, attempt: "good" if number < 6 else until_killed) as server:
        command = [sys.executable, "-c", KILLED, server.url, str(tmp_path), str(tmp_path / "killed")]
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"})
        saved, until = tmp_path / "killed/judgements.jsonl", time.monotonic() + 120
        while not (saved.exists() and saved.read_bytes().count(b"\n") == 6) and time.monotonic() < until:
            time.sleep(0.01)
        process.kill()
        process.wait()
        killed.set()
        assert saved.read_bytes().count(b"\n") == 6
        server.behave = lambda number, attempt: "good"
        runs = [tmp_path / name for name in ("killed", "whole")]
        for out in runs:
            evaluated("koffvqa", lambda text: f"{text} 사과입니다.", out, server, data_dir=tmp_path)
    resumed, whole = (json.loads((out / "results.json").read_text(encoding="utf-8"))["tasks"] for out in runs)
    assert resumed == whole and whole["koffvqa"]["n"] == 10


def test_another_judge_is_refused(tmp_path: Path):
    files.koffvqa(tmp_path)
    with JudgeServer() as server:
        asked = {"url": server.url, "model": "gemma", "wait": 0.01}
        model = Answers(lambda text: "사과입니다.")
        boda.evaluate.run(model, ["koffvqa"], tmp_path / "out", quiet=True, data_dir=tmp_path, judge=asked, limit=3)
        with pytest.raises(BodaError, match="holds judgements of koffvqa by 'gemma', and two judges make no score"):
            boda.evaluate.run(
                model, ["koffvqa"], tmp_path / "out", quiet=True, data_dir=tmp_path, judge={**asked, "model": "gpt"}
            )
        assert len(server.bodies) == 3


# KO-VQA


def test_ko_vqa_by_both_rules(tmp_path: Path):
    path = files.ko_vqa(
        tmp_path,
        ("공공행정", "2020년 공공기관 투자목표는 몇 조 원이니?", "61.5조 원입니다."),
        ("공공행정", "지출액은 얼마야?", "19,925백만 원이 지출액입니다."),
        ("교육", "소요액은 얼마인가요?", "총 7,131백만 원입니다."),
        ("교육", "몇 개인가요?", "총 15개입니다."),
    )
    model = Answers(
        [
            "2020년 공공기관 투자목표는 61.5조 원입니다.",  # right by both: the README's example
            "2017년도 지출액은 19,305백만 원입니다.",  # wrong by both: the README's other example
            "71억 3,100만 원입니다.",  # the same amount, which the published rule does not see
            "17개 중 15개입니다.",  # 15 is there, so it is right to the published rule
        ]
    )
    found = evaluated(f"ko-vqa:{path}", model, tmp_path / "out")
    scores = [(record["score"], record["upstream"]) for record in records(tmp_path / "out")]
    assert scores[:3] == [(1, 1), (0, 0), (1, 0)] and scores[3][1] == 1
    assert found["upstream"]["score"] == 0.5 and found["groups"]["domain"]["교육"]["upstream"]["n"] == 2
    asked = model.asked[1][0]["content"]
    assert asked[0]["image"].path.endswith("images/VS_01.공공행정/000001_1.png")
    assert asked[1]["text"].startswith("이미지를 보고 질문에 대한 답변을 제공해주세요. 이때,")
    assert asked[1]["text"].endswith("- 답변: 총 24,347천 명입니다.\n\n\n지출액은 얼마야?")


def test_ko_vqa_reads_label_files_by_paths_of_keys(tmp_path: Path):
    item = {"img": {"file_name": "a.png"}, "qas": [{"q": "몇 명인가요?", "a": "43명입니다."}]}
    write_json(tmp_path / "labels/교육.json", [item])
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics/a.png").write_bytes(picture())
    keys = "question=qas.0.q:answer=qas.0.a:image=img.file_name"
    found = evaluated(f"ko-vqa:{tmp_path}/labels:images={tmp_path}/pics:{keys}", ["43명"], tmp_path / "out")
    assert found["score"] == 1.0 and list(found["groups"]["domain"]) == ["교육"]
    with pytest.raises(BodaError, match=r"field 'qas.1.q': no '1'; here is list"):
        make_task(f"ko-vqa:{tmp_path}/labels:images={tmp_path}/pics:{keys.replace('qas.0.q', 'qas.1.q')}")
    with pytest.raises(BodaError, match="label files need question, answer, image"):
        make_task(f"ko-vqa:{tmp_path}/labels:question=q")
    write_json(tmp_path / "labels/valid/교육.json", [item])  # a file of the same name
    both = make_task(f"ko-vqa:{tmp_path}/labels:images={tmp_path}/pics:{keys}:domain=qas.0.a").load(None)
    assert [row.id for row in both] == ["valid/교육/0", "교육/0"]
    write_json(tmp_path / "labels/valid/교육.json", [{**item, "qas": [{"q": None, "a": "1"}]}])
    with pytest.raises(BodaError, match=r"row 0, field 'qas.0.q': a text or a number is needed, not NoneType"):
        make_task(f"ko-vqa:{tmp_path}/labels:images={tmp_path}/pics:{keys}")
    (tmp_path / "labels/valid/교육.json").unlink()
    (tmp_path / "pics/a.png").unlink()
    with pytest.raises(BodaError, match=r"no picture a.png in .*pics, or in a folder there of domain '교육'"):
        make_task(f"ko-vqa:{tmp_path}/labels:images={tmp_path}/pics:{keys}")


# Captions

CAPTIONS = {
    391895: ["한 남자가 오토바이를 타고 있다", "오토바이를 탄 남자가 산길을 달린다", "남자가 흙길에서 오토바이를 탄다"],
    522418: ["여자가 부엌에서 케이크를 자르고 있다", "한 여자가 큰 케이크를 자른다"],
    184613: ["아이가 소 옆에 서 있다", "우산을 든 아이와 소가 있다"],
}
SAID = ["한 남자가 오토바이를 타고 산길을 달린다", "여자가 케이크를 자르고 있다", "아이가 우산을 들고 있다"]


def test_captions_are_scored_as_a_set_and_by_the_published_mean(tmp_path: Path):
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    path = files.coco_korean(tmp_path, CAPTIONS)
    model = Answers(SAID)
    found = evaluated(f"caption-ko:{path}:tokenizer=whitespace", model, tmp_path / "out")
    expected = caption_scores(dict(zip("abc", SAID)), dict(zip("abc", CAPTIONS.values())), "whitespace")
    assert found["score"] == pytest.approx(expected["cider"]) and found["scale"] == [0, 10] and found["n"] == 3
    names = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "meteor")
    assert found["metrics"] == pytest.approx({name: expected[name] for name in names})
    smooth = SmoothingFunction().method4
    published = [
        sentence_bleu([text.split() for text in texts], said.split(), smoothing_function=smooth)
        for said, texts in zip(SAID, CAPTIONS.values())
    ]
    assert found["upstream"]["score"] == pytest.approx(sum(published) / 3) and "whitespace" in found["upstream"]["rule"]
    assert found["tokenizer"] == "whitespace"
    picture, words = model.asked[0][0]["content"]
    assert picture["type"] == "image" and words["text"] == "이미지를 한 문장으로 자세히 한국어로 설명해줘"


def test_one_more_metric_of_captions_asks_nothing_anew(tmp_path: Path, monkeypatch):
    path, given = files.coco_korean(tmp_path, CAPTIONS), []

    def similarities(predictions, references, model):
        given.append((predictions, references, model))
        return [0.5, 0.75, 1.0]

    monkeypatch.setattr("boda.evaluate.tasks.caption.similarities", similarities)
    model = Answers(SAID)
    before = evaluated(f"caption-ko:{path}:tokenizer=whitespace", model, tmp_path / "out")
    after = evaluated(f"caption-ko:{path}:tokenizer=whitespace:similarity=kr-sbert", model, tmp_path / "out")
    assert len(model.asked) == 3 and given == [(SAID, [*CAPTIONS.values()], "kr-sbert")]
    assert after["metrics"] == {**before["metrics"], "similarity": 0.75} and after["score"] == before["score"]


def test_captions_of_listed_photos_only(tmp_path: Path):
    path = files.coco_korean(tmp_path, CAPTIONS)
    (tmp_path / "ids.txt").write_text("COCO_val2014_000000522418.jpg\n184613\n", encoding="utf-8")
    task = make_task(f"caption-ko:{path}:ids={tmp_path}/ids.txt:tokenizer=character")
    assert [row.value.images[0].path[-10:-4] for row in task.load(None)] == ["522418", "184613"]
    (tmp_path / "ids.txt").write_text("522418\n7\n8\n", encoding="utf-8")
    with pytest.raises(BodaError, match="has no captions of 2 of 3 photos, the first 7"):
        make_task(f"caption-ko:{path}:ids={tmp_path}/ids.txt")
    with pytest.raises(BodaError, match="no tokenizer 'words'"):
        make_task(f"caption-ko:{path}:tokenizer=words")
    with pytest.raises(BodaError, match="caption-ko needs captions"):
        make_task("caption-ko")


def test_captions_of_which_none_could_be_had(tmp_path: Path):
    path = files.coco_korean(tmp_path, CAPTIONS)
    (tmp_path / "val2014/COCO_val2014_000000522418.jpg").unlink()
    failing = Answers(lambda text: BodaError("너무 길어요"))
    found = evaluated(f"caption-ko:{path}:tokenizer=whitespace", failing, tmp_path / "out")
    assert (found["score"], found["n"], found["failed"]) == (None, 0, 3) and "metrics" not in found


# Boxes

BOX = "[0.10, 0.20, 0.50, 0.60]"


def test_boxes_by_both_rules(tmp_path: Path):
    path = files.llava(
        tmp_path, *[("'가게' 글자의 영역은?", BOX)] * 5, ("이 영역의 문자를 읽어주세요: [0.1, 0.2, 0.3, 0.4].", "가게")
    )
    answers = [
        "[0.1, 0.2, 0.5, 0.6]",  # the same
        "왼쪽 위에 있습니다.",  # no box: 0, left out as published
        "좌표는 [0.1, 0.2, 0.34, 0.6]입니다.",  # 0.24 of 0.4 of its width: 0.6; left out as published, which takes nothing around a box
        "0.1, 0.2, 0.5, 0.44",  # 0.24 of 0.4 of its height: 0.6 by both
        "[0.5, 0.6, 0.5, 0.6]",  # a box without an area: 0 by both
    ]
    found = evaluated(f"ocr-boxes:{path}", answers, tmp_path / "out")
    assert found["n"] == 5 and found["unread"] == 1  # what asks for a text is not asked
    assert found["score"] == pytest.approx((1 + 0 + 0.6 + 0.6 + 0) / 5)
    assert found["upstream"]["score"] == pytest.approx((1 + 0.6 + 0) / 3) and found["upstream"]["n"] == 3
    assert found["metrics"] == pytest.approx({"iou_50": 3 / 5, "iou_75": 1 / 5})
    assert found["upstream"]["metrics"] == pytest.approx({"iou_50": 2 / 3, "iou_75": 1 / 3})


def test_boxes_are_built_from_text_in_the_wild_by_seed(tmp_path: Path):
    sign = [("커피", "word", [20, 10, 60, 30]), ("커", "character", [20, 10, 30, 30]), (None, "word", [0, 0, 9, 9])]
    twice = [("문", "word", [0, 0, 50, 50]), ("문", "word", [50, 50, 50, 50]), ("열다", "word", [100, 50, 300, 100])]
    thin = [("점", "word", [10, 10, 0.4, 0.2])]
    path = files.text_in_the_wild(tmp_path, sign, twice, thin)
    samples = [row.value for row in make_task(f"ocr-boxes:{path}").load(None)]
    told = {sample.messages[0].text.split("'")[1]: sample.messages[1].text for sample in samples}
    # 20/200, 10/100, 80/200, 40/100; what reaches beyond the picture ends at its edge; 문 stands there twice, the point has no area.
    assert told == {"커피": "[0.10, 0.10, 0.40, 0.40]", "열다": "[0.50, 0.50, 1.00, 1.00]"}
    assert samples[0].images[0].path.startswith(f"{tmp_path}/Signboard/")
    assert samples[0].messages[0].text.startswith("이 이미지에서 '")
    assert "글자가 있는 영역의 바운딩 박스를 알려주세요." in samples[0].messages[0].text

    many = files.text_in_the_wild(
        tmp_path / "many", *[[(f"{name}{number}", "word", [20, 10, 60, 30]) for name in "가나다"] for number in range(30)]
    )
    drawn = {seed: make_task(f"ocr-boxes:{many}:seed={seed}:number=10") for seed in (1, 1, 2)}
    assert drawn[1].version != drawn[2].version and len(drawn[1].load(None)) == 10
    assert make_task(f"ocr-boxes:{many}:seed=1:number=10").version == drawn[1].version
    texts = {row.value.messages[0].text for row in make_task(f"ocr-boxes:{many}:seed=1:number=20").load(None)}
    assert {row.value.messages[0].text for row in drawn[1].load(None)} < texts  # a larger number only adds


def test_boxes_name_what_is_wrong(tmp_path: Path):
    path = files.llava(tmp_path, ("글자를 읽어주세요.", "가게"))
    with pytest.raises(BodaError, match=r"no question whose answer is a box.*ocr-text reads texts"):
        make_task(f"ocr-boxes:{path}")
    with pytest.raises(BodaError, match="no question whose answer is a box"):  # which Python takes for four numbers
        make_task(f"ocr-boxes:{files.llava(tmp_path / 'nan', ('영역은?', '[NaN, 0.2, 0.3, 0.4]'))}")
    with pytest.raises(BodaError, match="number is not for a file of items; here are images, format"):
        make_task(f"ocr-boxes:{path}:number=3")
    labels = files.text_in_the_wild(tmp_path / "wild", [("커피", "word", [20, 10, 60, 30])])
    with pytest.raises(BodaError, match="question is not for AI Hub 81's labels; here are seed"):
        make_task(f"ocr-boxes:{labels}:question=x")
    flat = files.text_in_the_wild(tmp_path / "flat", [("커피", "word", [20, 10, 60, 30])], size=(0, 100))
    with pytest.raises(BodaError, match=r"labels of another form than AI Hub 81's .*division by zero"):
        make_task(f"ocr-boxes:{flat}")
    (tmp_path / "wild/Signboard/00000000.png").unlink()
    with pytest.raises(BodaError, match=r"no picture 00000000.png below"):
        make_task(f"ocr-boxes:{labels}")
    labels.write_text(json.dumps({"images": [{"id": 1}], "annotations": []}), encoding="utf-8")
    with pytest.raises(BodaError, match="labels of another form than AI Hub 81's"):
        make_task(f"ocr-boxes:{labels}")


# Text


def test_text_by_both_rules(tmp_path: Path):
    question = "이 바운딩 박스 영역에 있는 문자를 읽어주세요: [0.52, 0.43, 0.65, 0.47]."
    path = files.llava(tmp_path, (question, "나무"), (question, "바다"), (question, "가나다라"), ("'나무'의 영역은?", BOX))
    found = evaluated(f"ocr-text:{path}", ["나무", "바디", ""], tmp_path / "out")
    assert found["n"] == 3 and found["score"] == pytest.approx((1 + 0.5 + 0) / 3)
    # Syllables: 0, 1, 4 edits of 2 + 2 + 4; jamo: 0, 1, 8 of 4 + 4 + 8; words: 0, 1, 1 of 3.
    assert found["metrics"] == pytest.approx({"cer": 5 / 8, "cer_jamo": 9 / 16, "wer": 2 / 3, "anls": 1 / 3})
    assert found["upstream"]["score"] == pytest.approx((0 + 0.5 + 1) / 3) and "LOWER" in found["upstream"]["rule"]


def test_text_of_multilingual_items(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(picture())
    rows = [{"image": "a.png", "ground_truth": [{"text": "오늘의"}, {"text": "메뉴"}]}]
    path = write_json(tmp_path / "benchmark_gt.json", rows)
    model = Answers(["오늘의 메뉴"])
    assert evaluated(f"ocr-text:{path}", model, tmp_path / "out")["score"] == 1.0
    rows[0]["ground_truth"] = [{"word": "오늘의"}]
    with pytest.raises(BodaError, match="row 0, field 'ground_truth': needed are image and ground_truth"):
        make_task(f"ocr-text:{write_json(path, rows)}")


def test_text_that_boda_draws_needs_no_file(tmp_path: Path):
    task = make_task("ocr-text:number=5")
    rows = task.load(None)
    assert len(rows) == 10 and {dict(row.value.tags)["font"] for row in rows} == {"seen", "held out"}
    assert all(row.value.images[0].drawn.split("/")[2] == row.value.messages[-1].text for row in rows)
    golds = [row.value.messages[-1].text for row in rows]
    found = evaluated("ocr-text:number=5", golds, tmp_path / "out")
    assert found["score"] == 1.0 and set(found["groups"]["font"]) == {"seen", "held out"}
    assert make_task("ocr-text:number=5:seed=7").version != task.version
    with pytest.raises(BodaError, match="images is not for drawn words; here are seed, number"):
        make_task("ocr-text:images=x")


# Charts


def test_charts_by_both_rules(tmp_path: Path):
    turns = ("2020년의 비율은?", "30%입니다.", "2021년의 비율은? 한 문장으로 대답해주세요.", "40%입니다.")
    path = files.llava(tmp_path, turns, turns, ("가장 큰 것은?", "사과입니다."))
    answers = [f"답{number} 입니다.\n둘째 줄" for number in range(5)]
    replies = dict(zip(answers, ["1", "답: 1", "1.", "0", PROSE]))
    model = Answers(answers)
    with JudgeServer(replying(replies)) as server:
        found = evaluated(f"chart-ko:{path}", model, tmp_path / "out", server)
        bodies = server.bodies
    # Each turn is a question of its own, asked for one sentence, once.
    texts = [each[-1]["content"][-1]["text"] for each in model.asked]
    assert texts[:2] == ["2020년의 비율은? 한 문장으로 대답해주세요.", "2021년의 비율은? 한 문장으로 대답해주세요."]
    assert all(len(each) == 1 and each[0]["content"][0]["type"] == "image" for each in model.asked)
    # Read: 1 1 1 0 and none. Published: only a bare "1" is right, of all five.
    assert found["score"] == 0.75 and (found["n"], found["failed"]) == (4, 1)
    assert found["upstream"]["score"] == 0.2 and found["upstream"]["n"] == 5
    relaxed = {"relaxed_accuracy", "relaxed_accuracy_published"}
    assert set(found["metrics"]) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", *relaxed}
    assert found["tokenizer"] == "whitespace"
    assert {name: bodies[0][name] for name in ("temperature", "max_tokens")} == {"temperature": 0, "max_tokens": 5}
    body = next(body for body in bodies if answers[0] in body["messages"][0]["content"])
    assert body["messages"] == [
        {
            "role": "user",
            "content": "다음은 시각 질문 응답 데이터입니다.\n\n질문: 2020년의 비율은? 한 문장으로 대답해주세요.\n\n정답 응답: 30%입니다.\n"
            f"모델의 예측 응답: {answers[0]}\n\n모델의 예측이 정답과 의미상 같은 내용을 담고 있나요?\n"
            "의미가 같으면 1, 다르면 0만 출력하세요. 다른 설명은 하지 마세요.\n\n답:",
        }
    ]


def test_charts_figures_are_nltks(tmp_path: Path):
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    gold, said = "2020년의 비율은 전체의 30% 입니다.", "2020년의 비율은 약 30% 입니다.\n다시 말하면 30%"
    path = files.llava(tmp_path, ("비율은?", gold))
    found = evaluated(f"chart-ko:{path}:prompt=strict", [said], tmp_path / "out")
    first, smooth = said.split("\n")[0].split(), SmoothingFunction().method1
    weights = [(1, 0, 0, 0), (0.5, 0.5, 0, 0), (0.33, 0.33, 0.33, 0), (0.25, 0.25, 0.25, 0.25)]
    for order, weight in enumerate(weights, 1):
        expected = sentence_bleu([gold.split()], first, weights=weight, smoothing_function=smooth)
        assert found["metrics"][f"bleu_{order}"] == pytest.approx(expected, abs=1e-12)
    assert found["score"] is None and found["upstream"]["score"] is None  # nobody has judged yet
    assert any("--judge URL" in remark for remark in found["remarks"])
    with pytest.raises(BodaError, match=r"default|strict"):
        make_task(f"chart-ko:{path}:prompt=kind")


def test_charts_strict_prompt():
    assert judged.prompts("chart_ko")["strict"].endswith(
        "\n\n다음 기준에 따라 모델 응답을 평가하세요:\n- 질문을 그대로 반복하거나, 아무런 정보도 추가하지 않은 경우는 오답입니다.\n"
        "- 예측이 정답과 **동일한 정보 또는 의미를 정확하게 전달**해야만 정답입니다.\n\n"
        "정답이면 **1**, 오답이면 **0**만 출력하세요. 다른 설명은 하지 마세요.\n\n답:"
    )


@pytest.mark.parametrize(
    "reply, verdict",
    [
        ("1", 1),
        ("0", 0),
        ("1.", 1),
        ("답: 1", 1),
        ("**0**", 0),
        (" 정답: 1\n", 1),
        ("1입니다", 1),
        ("10", None),
        ("1 또는 0", None),
        ("", None),
    ],
)
def test_charts_verdicts(reply: str, verdict: int | None):
    assert (chart.read(reply) or {"score": None})["score"] == verdict


# Bad input


def test_a_published_figure_of_another_kind_is_not_subtracted_on_the_page(tmp_path: Path):
    path = files.llava(tmp_path, ("글자를 읽어주세요.", "바다"), ("'가게' 글자의 영역은?", BOX))
    model = Answers(["바디", BOX])
    boda.evaluate.run(model, [f"ocr-text:{path}", f"ocr-boxes:{path}"], tmp_path / "out", quiet=True)
    page = write_report([tmp_path / "out"], tmp_path / "report")[0].read_text(encoding="utf-8")
    rows = [row for row in page.split("<tr") if "n 1" in row]
    (text,) = [row for row in rows if "CER 0.500" in row]  # 50 % read right, 0.5 read wrong: no difference of 0
    assert "50.0%" in text and "%p" not in text
    assert any("%p" in row for row in rows if row is not text)  # of boxes both are shares of the same kind


@pytest.mark.parametrize("task", ["k-llava-w", "koffvqa"])
def test_a_missing_column_is_named_with_the_schema(task: str, tmp_path: Path):
    path = write_json(tmp_path / "some.jsonl", [{"question": "무엇인가요?"}], lines=True)
    with pytest.raises(BodaError, match=r"lacks column '(question_id|index)'; K.* is published with .*category \(text\)"):
        make_task(f"{task}:{path}")


def test_a_judge_meets_what_is_slow_malformed_and_failing(tmp_path: Path):
    files.k_llava_w(tmp_path, "conv " * 30)
    acts = {1: "slow", 2: "prose", 3: 500, 4: (429, 0), 5: "close", 6: 400}

    def behave(number: int, attempt: int):
        act = acts.get(number, "good")
        return "good" if attempt and act != "prose" else act

    with JudgeServer(behave) as server:
        found = evaluated("k-llava-w", ["대답"] * 30, tmp_path / "out", server, data_dir=tmp_path)
        # Prose three times has no marks and 400 is final; the slow, busy and broken ones were asked again.
        assert (found["n"], found["failed"], found["judge"]["failed"]) == (28, 2, 2)
        assert server.did == {"slow": 1, "prose": 3, "500": 1, "429": 1, "close": 1, "400": 1, "good": 26 + 1}
    failed = [line for line in records(tmp_path / "out", "judgements") if line["failed"]]
    assert [line["score"] for line in failed] == [None, None]
