"""LogicKor, KULLM's G-Eval and KoMT-Bench: published prompts, what is read of replies, tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from boda.cli import app
from boda.errors import BodaError
from boda.evaluate.judged import judged_report, prompts
from boda.evaluate.task import Row
from boda.evaluate.tasks import komt, kullm_geval, logickor, make_task
from tests.judge_data import benchmarks, write_lines
from tests.shared_data import shared_data


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return benchmarks(tmp_path_factory.mktemp("benchmarks"))


# The published prompts, byte for byte


def test_logickor_prompts_are_the_published_ones():
    published = json.loads((shared_data("logickor") / "judge_templates.json").read_text(encoding="utf-8"))
    ours = prompts("logickor")
    assert ours["strategies"] == published["PROMPT_STRATEGY"] and ours["judge"] == published["JUDGE_TEMPLATE"]


def test_logickors_message_to_the_judge():
    row = Row("default/1", {"questions": ["Q0", "Q1"], "references": ["R0", None]})
    found = logickor.requests(row, {"answers": ["A0", "A1"]})
    begin = "아래의 내용을 주어진 평가 기준들을 충실히 반영하여 평가해라. 특히 모델 답변이 언어 요구사항을 준수하는지 반드시 확인해야 한다."
    first = f"{begin}\n\n**Question**\nQ0\n\n**Additional Reference**\nR0\n\n**Model's Response**\nA0"
    assert found["single"][1]["content"] == f"{first}\n\n[[대화 종료. 평가 시작.]]"
    then = "\n\n**Follow-up Question.**\nQ1\n\n**Model's Response**\nA1"
    assert found["multi"][1]["content"] == f"{first}{then}\n\n[[대화 종료. 평가 시작.]]"
    judge = prompts("logickor")["judge"]
    assert [found[name][0]["content"] for name in ("single", "multi")] == [judge["single_turn"], judge["multi_turn"]]


def test_komt_prompts_are_the_published_ones():
    lines = (shared_data("komt_bench") / "data/judge_prompts_ko.jsonl").read_text(encoding="utf-8").splitlines()
    published = {row["name"]: row for row in map(json.loads, lines)}
    for name, ours in prompts("komt")["judge"].items():
        assert ours == {"system": published[name]["system_prompt"], "user": published[name]["prompt_template"]}


def test_komt_messages_are_those_of_a_published_judgement_file():
    """The questions were changed after that file was made; where they are the same, so is every byte that the judge was asked."""
    folder = shared_data("komt_bench") / "data/mt_bench"

    def rows(name: str) -> list[dict]:
        return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]

    questions = {row["question_id"]: row for row in rows("question_ko.jsonl")}
    turns = {row["question_id"]: row["choices"][0]["turns"] for row in rows("reference_answer_ko/gpt-4.jsonl")}
    same = set()
    for row in rows("model_judgment/gpt-4_single_final.jsonl"):
        number = row["question_id"]
        found = komt.judge_messages(questions[number], turns[number], turns[number])  # what GPT-4 answered is the reference
        if found[komt.TURNS[row["turn"] - 1]][1]["content"] == row["user_prompt"]:
            same.add(row["judge"][1])
        assert komt.read(row["judgment"]) == {"score": row["score"]}
    assert same == {"single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn"}


def test_kullm_prompts_have_the_published_lengths_and_places():
    v2, v3 = (prompts("kullm_geval")[version] for version in ("v2", "v3"))
    assert (len(v3["user"]), len(v3["user_without_input"])) == (1650, 1624)  # of the published template files
    assert v3["system"] == "You're a helpful assistant and a Korean language expert."
    assert v2["system"].endswith("Response을 평가합니다.\n\n") and v2["system"].startswith("두 사람 간의 대화가 주어집니다.")
    assert v2["user"].format(instruction="가", input="나", response="다") == (
        "Instruction: \n가\nInput: \n나\nResponse: \n다\n\nResult:\n- 이해 가능성 (0 - 1):\n- 자연스러움 (1 - 3):\n- 맥락 유지 (1 - 3):\n"
        "- 흥미롭기 (1 - 3):\n- Instruction 사용 (0 - 1):\n- 전반적인 품질  (1 - 5):\n\n"
    )


def test_kullm_asks_the_model_as_published_and_the_judge_by_whether_there_is_an_input(data: Path):
    task = make_task("kullm-geval", data)
    without, with_input = task.load(None)[:2]
    texts = [[part["text"] for part in task.messages(row)[0]["content"]] for row in (without, with_input)]
    assert texts == [["지시 0", "\n\n"], ["지시 1", "\n\n입력 1"]]  # f"{instruction}\n\n{input}", in parts
    assert task.judging
    asked = [task.judging.requests(row, {"raw": "{대답}"})["v3"][1]["content"] for row in (without, with_input)]
    assert "Input:\n" not in asked[0] and "Input:\n입력 1\n\nResponse:\n{대답}\n" in asked[1]


def test_real_questions_are_all_there():
    folder = shared_data("logickor").parent
    counts = {"logickor": 126, "logickor:strategy=1-shot": 42, "kullm-geval": 252, "kullm-geval:version=v2": 252, "komt": 80}
    assert {name: len(make_task(name, folder).load(None)) for name in counts} == counts
    row = next(row for row in make_task("logickor", folder).load(None) if row.id == "default/3")
    task = make_task("logickor", folder)
    assert task.follow and len(row.value["questions"]) == 3  # the stray third one is not asked
    assert task.follow(row, ["답"])[-1]["content"] == row.value["questions"][1]


# What is read of a reply


@pytest.mark.parametrize(
    "reply, score",
    [
        ("평가: 좋다.\n점수: 8", 8.0),
        ("**평가:** 좋다.\n**점수:** 7.5", 7.5),
        ("점수:\n\n10", 10.0),
        ("평가: 점수: 3이 아깝지 않다.\n점수: 9", 3.0),  # the first one counts, as published
        ("점수: 85", None),
        ("점수 8", None),
        ("8점", None),
        ("", None),
    ],
)
def test_logickor_reads(reply: str, score: float | None):
    found = logickor.read(reply)
    assert (found and found["score"]) == score


def test_logickor_by_the_published_rule():
    assert logickor.by_published_rule({"replies": ["글", "점수: 85", "점수: 8"]}) == 85
    assert logickor.by_published_rule({"replies": ["글"] * 5}) == 0 == logickor.by_published_rule({"replies": []})
    assert logickor.read("평가: 가\n나. 점수: 5")["message"] == "가\n나."


@pytest.mark.parametrize(
    "reply, score",
    [("점수: [[7]]", 7), ("[[7.5]] 그리고 [3]", 7.5), ("점수 [6]", 6), ("[[11]]", None), ("7점", None), ("[[높음]]", None)],
)
def test_komt_reads(reply: str, score: float | None):
    found = komt.read(reply)
    assert (found and found["score"]) == score


FIVE = ("Fluency", "Coherence", "Accuracy", "Completeness", "Overall Quality")


@pytest.mark.parametrize(
    "form, marks",
    [
        ("- {} (1-5): {}", [5, 4, 3, 2, 1]),
        ("{}: {}", [5, 5, 4, 4, 4]),
        ("- {} ({})", [1, 2, 3, 4, 5]),
        ("{} ({}/5)", [1, 2, 3, 4, 5]),
        ("- {} (1-5): {}", ["N/A", 2, 3, 4, 5]),
    ],
)
def test_geval_v3_reads(form: str, marks: list):
    found = kullm_geval.read("\n".join(form.format(name, mark) for name, mark in zip(FIVE, marks)), "v3")
    assert found == {
        "score": marks[4],
        "marks": {name: 1 if mark == "N/A" else mark for name, mark in zip(FIVE, marks)},
    }


def test_geval_that_cannot_be_read():
    four = "\n".join(f"- {name} (1-5): 4" for name in FIVE[:4])
    assert kullm_geval.read(four, "v3") is None
    beyond = f"{four}\n- Overall Quality (1-5): 9"
    assert kullm_geval.read(beyond, "v3") is None and kullm_geval.marks(beyond, "v3")["Overall Quality"] == 9
    assert kullm_geval.read("- 이해 가능성 (0 - 1): 1", "v2") is None


def test_geval_v2_reads():
    reply = "- 이해 가능성 (0 - 1): 1\n- 자연스러움 (1 - 3): 3\n- 맥락 유지 (1 - 3): 2\n- 흥미롭기 (1 - 3): 2"
    reply += "\n- **Instruction 사용 (0 - 1)**: 0"
    found = kullm_geval.read(f"{reply}\n- 전반적인 품질  (1 - 5): 3.5", "v2")
    assert found and [*found["marks"].values()] == [1, 3, 2, 2, 0, 3.5] and found["score"] == 3.5
    assert kullm_geval.read(f"{reply}\n- 전반적인 품질 (1 - 5): 6", "v2") is None


@pytest.mark.parametrize(
    "answer, korean",
    [
        ("안녕하세요. 답변입니다.", True),
        ("The answer is 5.", False),
        ("답은 5입니다.\n```python\nprint('the quick brown fox jumps over the lazy dog')\n```", True),
        ("12345", True),
        ("答案是五。", False),
        ("API는 Application Programming Interface의 약자입니다.", False),  # a rule by letters has its limits
        ("API(Application)는 프로그램이 서로 정보를 주고받도록 정해 둔 약속입니다.", True),
    ],
)
def test_korean_by_letters(answer: str, korean: bool):
    assert komt.is_korean(answer) is korean


def test_published_reference_answers_are_korean():
    path = shared_data("komt_bench") / "data/mt_bench/reference_answer_ko/gpt-4.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    told = [
        (row["question_id"], turn, komt.is_korean(text)) for row in rows for turn, text in enumerate(row["choices"][0]["turns"])
    ]
    other = [(number, turn) for number, turn, korean in told if not korean and number not in (138, 140)]
    assert len(other) <= 0.05 * len(told), other


# Tables


def judged_rows() -> list[dict]:
    """Six judged answers in two categories; sums: single 9+7+8, 4+6+5; multi 10+8+0 (given up), 5+5+5."""
    marks = [("추론(Reasoning)", 9, 10), ("문법(Grammar)", 4, 5), ("추론(Reasoning)", 7, 8), ("추론(Reasoning)", 8, 0)]
    marks += [("문법(Grammar)", 6, 5), ("문법(Grammar)", 5, 5)]
    rows = []
    for number, (category, single, multi) in enumerate(marks, 1):
        told = logickor.GIVEN_UP if multi == 0 else "좋다."
        rows.append(
            {
                "id": number,
                "category": category,
                "query_single": {"judge_message": "좋다.", "judge_score": float(single)},
                "query_multi": {"judge_message": told, "judge_score": multi},
            }
        )
    return rows


def test_logickor_table_worked_out_by_hand(tmp_path: Path):
    path = write_lines(tmp_path / "evaluated/org/model/default.jsonl", judged_rows(), "utf-8-sig")
    found, told = judged_report("logickor", [path])
    result = found["logickor"]
    # Published: single (24 + 15) / 6 = 6.5, multi (18 + 15) / 6 = 5.5. Without the failed one: multi 33 / 5 = 6.6.
    assert (result["score"], result["n"], result["failed"]) == (6.0, 12, 1)
    assert result["upstream"]["score"] == 6.0 and result["boda"] == {"score": pytest.approx(6.55), "n": 11, "failed": 1}
    assert "| 추론(Reasoning) | 8.00 | 6.00 |\n| 문법(Grammar) | 5.00 | 5.00 |" in told
    assert "| Single turn | 6.50 |\n| Multi turn | 5.50 |\n| Overall | 6.00 |" in told
    assert "1 of 12 judgements failed" in told and "overall 6.55 over 11" in told


def test_folders_of_several_models_and_strategies(tmp_path: Path):
    for model in ("a", "b"):
        for strategy in ("default", "1-shot"):
            rows = judged_rows()[: 3 if model == "a" else 6]
            write_lines(tmp_path / f"evaluated/org/{model}/{strategy}.jsonl", rows, "utf-8-sig")
    write_lines(tmp_path / "questions.jsonl", [{"id": 1}])
    found, told = judged_report("logickor", [tmp_path])
    assert list(found) == ["logickor:org/a", "logickor:org/b"] and found["logickor:org/b"]["score"] == 6.0
    assert list(found["logickor:org/a"]["strategies"]) == ["1-shot", "default"] and told.count("### default") == 2


def restated(path: Path) -> tuple[dict[str, tuple[str, str]], str]:
    """LogicKor's table again, in the plainest way: {category: (single, multi)} and overall, as printed."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    marks = {name: [row[f"query_{name}"]["judge_score"] for row in rows] for name in ("single", "multi")}
    table = {}
    for category in {row["category"] for row in rows}:
        some = [place for place, row in enumerate(rows) if row["category"] == category]
        table[category] = tuple(f"{sum(marks[name][place] for place in some) / len(some):.2f}" for name in marks)
    return table, f"{sum(sum(values) / len(values) for values in marks.values()) / 2:.2f}"


def test_logickor_tables_of_all_judged_files():
    folder = shared_data("logickor")
    results, _ = judged_report("logickor", [folder])
    files = sorted((folder / "evaluated").rglob("*.jsonl"))
    assert len(files) == 21 == sum(len(result["strategies"]) for result in results.values())
    for path in files:
        found, told = judged_report("logickor", [path])
        table, overall = restated(path)
        for category, (single, multi) in table.items():
            assert f"| {category} | {single} | {multi} |" in told
        assert f"| Overall | {overall} |" in told and f"{found['logickor']['score']:.2f}" == overall
        strategy = results[f"logickor:{path.parts[-3]}/{path.parts[-2]}"]["strategies"][path.stem]
        assert strategy["upstream"]["overall"] == found["logickor"]["score"]


def test_komt_file_of_judgements():
    path = shared_data("komt_bench") / "data/mt_bench/model_judgment/gpt-4_single_final.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found, told = judged_report("komt", [path])
    assert found["komt"]["score"] == pytest.approx(sum(row["score"] for row in rows) / 160) and found["komt"]["n"] == 160
    for turn, name in ((1, "first"), (2, "second")):
        some = [row["score"] for row in rows if row["turn"] == turn]
        assert found["komt"]["upstream"]["turns"][name] == pytest.approx(sum(some) / 80)
    assert "| all | 9.62 | 9.60 | 9.61 |" in told


def test_komt_worked_out_by_hand(tmp_path: Path):
    """Four ratings, one that could not be read (-1), and one English answer whose 9 becomes a 3."""
    rows = [
        {"question_id": 81 + number // 2, "turn": 1 + number % 2, "score": score} for number, score in enumerate([9, 6, -1, 3])
    ]
    found, told = judged_report("komt", [write_lines(tmp_path / "model_single.jsonl", rows)])
    assert found["komt"]["score"] == 6.0 and found["komt"]["failed"] == 1 and "| writing | 9.00 | 4.50 | 6.00 |" in told

    def judged(score: float | None, replies: list[str]) -> dict:
        return {"score": score, "failed": score is None, "replies": replies, "tries": len(replies)}

    records = [
        {
            "row": "81",
            "category": "writing",
            "failed": False,
            "answers": ["This is English.", "한국어입니다."],
            "judgements": {"first": judged(9.0, ["[[9]]"]), "second": judged(5.0, ["음", "[[5]]"])},
        },
        {
            "row": "138",
            "category": "extraction",
            "failed": False,
            "answers": ['{"name": "value"}', "네."],
            "judgements": {"first": judged(4.0, ["[[4]]"]), "second": judged(None, ["음"] * 3)},
        },
    ]
    result = komt.summarise(records)
    assert result["score"] == pytest.approx((math.sqrt(9) + 5 + 4) / 3) and (result["n"], result["failed"]) == (3, 1)
    # As published: no penalty before the detector, and only what the first reply says.
    assert result["upstream"]["score"] == (9 + 4) / 2 and result["not_korean"] == 2


def test_geval_worked_out_by_hand(tmp_path: Path):
    def reply(*marks: float) -> str:
        return "\n".join(f"- {name} (x): {mark}" for name, mark in zip(kullm_geval.CRITERIA["v2"], marks))

    rows = [{"id": "a", "response_scores": reply(1, 3, 3, 2, 1, 4)}, {"id": "b", "response_scores": reply(0, 2, 1, 1, 1, 2)}]
    path = write_lines(tmp_path / "output.jsonl", [*rows, {"id": "c", "response_scores": "좋습니다."}])
    found, told = judged_report("kullm-geval-v2", [path])
    result = found["kullm-geval-v2"]
    assert (result["score"], result["n"], result["failed"]) == (3.0, 2, 1)
    assert result["upstream"]["criteria"]["이해 가능성"] == {"mean": 0.5, "std": 0.5, "scaled": 50.0}
    assert "| 자연스러움 (1 - 3) | 2.50 | 0.50 | 83.3 |" in told and "2 answers, 1 whose marks" in told


@pytest.mark.parametrize(
    "task, rows, why",
    [
        ("logickor", [{"id": 1, "category": "x"}], "row 0 is no judged answer of logickor: it needs category, query_single"),
        ("komt", [{"question_id": "81", "turn": 1, "score": 3}], "row 0 is no judged answer of komt"),
        ("kullm-geval", [{"id": 1}], "needs response_scores"),
        ("logickors", [{}], "no judged task 'logickors'; there are logickor"),
    ],
)
def test_other_files_are_refused(task: str, rows: list[dict], why: str, tmp_path: Path):
    with pytest.raises(BodaError, match=why):
        judged_report(task, [write_lines(tmp_path / "some.jsonl", rows)])


@pytest.mark.parametrize(
    "name, why",
    [
        ("logickor:strategy=cot", "no strategy 'cot'; there are default, 1-shot, cot-1-shot, all"),
        ("kullm-geval:version=v4", "no version 'v4'; there are v2, v3"),
        ("logickor:nowhere", "no data at 'nowhere'"),
        ("komt:logickor", "no question_ko.jsonl at"),
    ],
)
def test_mistakes_are_named(name: str, why: str, data: Path):
    with pytest.raises(BodaError, match=why):
        make_task(name, data)


def test_the_command_prints_the_tables_and_one_object(tmp_path: Path):
    path = write_lines(tmp_path / "org/model/default.jsonl", judged_rows(), "utf-8-sig")
    said = CliRunner().invoke(app, ["report", str(path), "--task", "logickor"])
    assert said.exit_code == 0 and "## org/model\n\n### default\n\n| Category | Single turn | Multi turn |" in said.stdout
    said = CliRunner().invoke(app, ["report", str(path), "--task", "logickor", "--json"])
    assert json.loads(said.stdout.splitlines()[-1])["tasks"]["logickor"]["score"] == 6.0
    said = CliRunner().invoke(app, ["report", str(tmp_path / "none"), "--task", "logickor"])
    assert said.exit_code == 1 and "no judged answers at" in said.stderr
