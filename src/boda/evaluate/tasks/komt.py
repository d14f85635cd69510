"""`komt`: KoMT-Bench, 80 two-turn Korean questions in eight categories, each turn rated 1 to 10 by a judge (single-answer grading).

Questions and GPT-4's reference answers are read from the user's copy of github.com/LG-AI-EXAONE/KoMT-Bench. A rating of an answer
that is not Korean becomes its square root, as published; which answers those are the benchmark asks MediaPipe, Boda the letters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from boda.errors import BodaError
from boda.evaluate import judged
from boda.evaluate.task import Judging, Row, Task, limited, read_options, version_of

NEEDED = "question_id, turn and score, as gen_judgment.py writes them"  # of a row of judgements, penalised or not
VERSION, SCALE, TURNS = "1", 10, ("first", "second")
QUESTIONS, REFERENCES = "data/mt_bench/question_ko.jsonl", "reference_answer_ko/gpt-4.jsonl"
# Of the published run; ten questions each, from number 81 on.
TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "reasoning": 0.0, "math": 0.0, "coding": 0.0, "extraction": 0.0, "stem": 0.1, "humanities": 0.1,
}  # fmt: skip
WITH_REFERENCE = ("math", "reasoning", "coding")
NOT_KOREAN_ALLOWED = ("138", "140")  # answers in JSON
KOREAN = 0.3  # share of Hangul among the letters outside of code; a syllable is one letter where an English word has five
_RATING, _RATING_ALONE = re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]")


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `komt[:PATH]`; PATH is the benchmark's folder, or question_ko.jsonl with the references beside it."""
    path, _ = read_options("komt", option)
    place, questions = judged.rows_of(path, "komt_bench", QUESTIONS, data_dir)
    answers = place.parent / REFERENCES
    if not answers.is_file():
        raise BodaError(f"no reference answers at {answers}: komt needs them for {', '.join(WITH_REFERENCE)}")
    references = {row["question_id"]: row["choices"][0]["turns"] for row in judged.json_lines(answers)}
    for number, row in enumerate(questions):
        if len(row.get("turns") or ()) != 2 or row.get("category") not in TEMPERATURES or "question_id" not in row:
            raise BodaError(f"{place}, row {number} needs question_id, two turns and a category of {', '.join(TEMPERATURES)}")
        if row["category"] in WITH_REFERENCE and len(references.get(row["question_id"], ())) != 2:
            raise BodaError(f"{answers} has no two answers to question {row['question_id']}")
    rows = [Row(str(row["question_id"]), row) for row in questions]

    def messages(row: Row) -> list[dict]:
        return judged.chat(user=row.value["turns"][0])

    def decoding(row: Row) -> dict:
        temperature = TEMPERATURES[row.value["category"]]
        return {"temperature": temperature, "seed": 0} if temperature else {}

    def requests(row: Row, record: dict) -> dict[str, list[dict]]:
        return judge_messages(row.value, references.get(row.value["question_id"]), record["answers"])

    asked = [(row["question_id"], row["category"], row["turns"], references.get(row["question_id"])) for row in questions]
    return Task(
        name="komt",
        version=version_of(VERSION, [*asked, judged.prompts("komt"), TEMPERATURES]),
        load=lambda limit: limited(rows, limit, lambda row: row.value["category"]),
        messages=messages,
        turns=2,
        follow=lambda row, answers: messages(row) + judged.chat(assistant=answers[0], user=row.value["turns"][1]),
        decoding_of=decoding,
        score=lambda row, answer: {"score": None, "category": row.value["category"]},
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 1024, "within_context": True},
        note="rated 1 to 10, mean of both turns; square root where the answer is not Korean; ratings that cannot be read are left out",
        judging=Judging(TURNS, requests, read, {"temperature": 0, "n": 1, "max_tokens": 2048}),
        counted=lambda records: judged.by_row(_lines(records)),
    )


def judge_messages(question: dict, reference: list[str] | None, answers: Sequence[str]) -> dict[str, list[dict]]:
    """The judge's messages for both turns of `{category, turns}`, as the published script writes them."""
    kind = "math-" if question["category"] in WITH_REFERENCE else ""
    values = {"question": question["turns"][0], "answer": answers[0]}
    for name, turns in (("question", question["turns"]), ("answer", answers), ("ref_answer", reference or ())):
        values |= {f"{name}_{number}": turn for number, turn in enumerate(turns, 1)}
    found = {}
    for name, end in zip(TURNS, ("", "-multi-turn")):
        judge = judged.prompts("komt")["judge"][f"single-{kind}v1{end}"]
        found[name] = judged.chat(system=judge["system"], user=judge["user"].format(**values))
    return found


def rating(reply: str) -> float | None:
    """The published rule: [[7]], else [7]."""
    found = _RATING.search(reply) or _RATING_ALONE.search(reply)
    return float(found[1]) if found else None


def read(reply: str) -> dict | None:
    """The rating of a reply; None without one up to 10."""
    found = rating(reply)
    return None if found is None or found > SCALE else {"score": found}


def is_korean(answer: str) -> bool:
    """Whether an answer is Korean, by its letters outside of fenced code; one without letters is not another language."""
    letters = [letter for letter in re.sub(r"```.*?(```|\Z)", " ", answer, flags=re.DOTALL) if letter.isalpha()]
    return not letters or sum("가" <= letter <= "힣" for letter in letters) >= KOREAN * len(letters)


def summarise(records: Sequence[dict]) -> dict:
    """Results of answers with their judgements."""
    lines = _lines(records)
    return {**results(lines, "boda"), "not_korean": sum(not line["korean"] for line in lines)}


def _lines(records: Sequence[dict]) -> list[dict]:
    def more(record: dict, name: str) -> dict:
        korean = record["failed"] or is_korean(record["answers"][TURNS.index(name)])
        return {"category": record["category"], "korean": korean}

    lines = judged.lines_of(records, TURNS, lambda judgement: next(map(rating, judgement["replies"]), None), more)
    for line in lines:
        if not line["korean"] and line["row"] not in NOT_KOREAN_ALLOWED and line["boda"] is not None:
            line["boda"] = math.sqrt(line["boda"])
    return lines


def results(lines: Sequence[dict], rule: str) -> dict:
    """`score` by the rule; by both of them what the benchmark prints: means of the turns and of all ratings; and by category."""
    found = {**judged.scored(lines, rule, SCALE), "rule": rule}
    found["groups"] = {"category": judged.grouped(lines, "category", rule, SCALE)}
    for each in judged.RULES:
        found[each] = {"score": judged.mean(line[each] for line in lines), **judged.by_turn(lines, each, TURNS)}
    return found


def tables(result: dict) -> str:
    """First turn, second turn and average as published, of all and of each category."""
    some = result[result["rule"]]
    parts = [(name, some["categories"][name], group["score"]) for name, group in result["groups"]["category"].items()]
    rows = [
        (name, *(judged.shown(turns[turn]) for turn in TURNS), judged.shown(score))
        for name, turns, score in (*parts, ("all", some["turns"], some["score"]))
    ]
    header = ("Category", "First turn", "Second turn", "Average")
    told = [judged.table(header, rows), f"{some['n']} ratings, {some['failed']} failed"]
    if result["rule"] == "boda":
        told.append(
            f"{result['not_korean']} answers are not Korean by their letters: their ratings are square roots. Without that, "
            f"by first replies alone: {judged.shown(result['upstream']['score'])} over {result['upstream']['n']}"
        )
    return "\n\n".join(told)


def published(file: Path, number: int, row: dict) -> Iterator[tuple[str, dict]]:
    """(model, line) of a row of the benchmark's judgements: question_id, model, turn, score."""
    score, turn, place = float(row["score"]), {1: "first", 2: "second"}[row["turn"]], (row["question_id"] - 81) // 10
    category = [*TEMPERATURES][place] if 0 <= place < len(TEMPERATURES) else "other"
    kept = None if score == -1 else score
    line = {"row": str(row["question_id"]), "name": turn, "category": category, "failed": kept is None}
    yield str(row.get("model", file.stem)), {**line, "boda": kept, "upstream": kept}
