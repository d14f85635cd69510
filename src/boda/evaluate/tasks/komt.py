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
        return [{"role": "user", "content": row.value["turns"][0]}]

    def follow(row: Row, answers: list[str]) -> list[dict]:
        then = [{"role": "assistant", "content": answers[0]}, {"role": "user", "content": row.value["turns"][1]}]
        return [*messages(row), *then]

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
        follow=follow,
        decoding_of=decoding,
        score=lambda row, answer: {"score": None, "category": row.value["category"]},
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 1024, "within_context": True},
        note="rated 1 to 10, mean of both turns; square root where the answer is not Korean; ratings that cannot be read are left out",
        judging=Judging(TURNS, requests, read, {"temperature": 0, "n": 1, "max_tokens": 2048}),
    )


def judge_messages(question: dict, reference: list[str] | None, answers: Sequence[str]) -> dict[str, list[dict]]:
    """The judge's messages for both turns of `{category, turns}`, as the published script writes them."""
    kind = "math-" if question["category"] in WITH_REFERENCE else ""
    asked, words = question["turns"], {}
    if kind and reference:
        words = {"ref_answer_1": reference[0], "ref_answer_2": reference[1]}
    first = {"question": asked[0], "answer": answers[0], **words}
    second = {"question_1": asked[0], "question_2": asked[1], "answer_1": answers[0], "answer_2": answers[1], **words}
    found = {}
    for name, prompt, values in zip(TURNS, (f"single-{kind}v1", f"single-{kind}v1-multi-turn"), (first, second)):
        judge = judged.prompts("komt")["judge"][prompt]
        user = judge["user"].format(**values)
        found[name] = [{"role": "system", "content": judge["system"]}, {"role": "user", "content": user}]
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
    lines = judged.lines_of(
        records,
        TURNS,
        lambda judgement: rating(judgement["replies"][0]) if judgement["replies"] else None,
        category=lambda record, name: record["category"],
        korean=lambda record, name: record["failed"] or is_korean(record["answers"][TURNS.index(name)]),
    )
    for line in lines:
        if not line["korean"] and line["row"] not in NOT_KOREAN_ALLOWED and line["boda"] is not None:
            line["boda"] = math.sqrt(line["boda"])
    return {**results(lines, "boda"), "not_korean": sum(not line["korean"] for line in lines)}


def results(lines: Sequence[dict], rule: str) -> dict:
    """`score` by the rule; by both of them what the benchmark prints: means of the turns and of all ratings; and by category."""
    found = {
        **judged.scored(lines, rule, SCALE),
        "rule": rule,
        "groups": {"category": judged.grouped(lines, "category", rule, SCALE)},
    }
    for each in judged.RULES:
        found[each] = {"score": judged.mean(line[each] for line in lines), **judged.by_turn(lines, each, TURNS)}
    return found


def tables(result: dict) -> str:
    """First turn, second turn and average as published, of all and of each category."""
    some = result[result["rule"]]
    rows = []
    for name, group in result["groups"]["category"].items():
        rows.append((name, *(judged.shown(some["categories"][name][turn]) for turn in TURNS), judged.shown(group["score"])))
    rows.append(("all", *(judged.shown(some["turns"][turn]) for turn in TURNS), judged.shown(some["score"])))
    told = [judged.table(("Category", "First turn", "Second turn", "Average"), rows)]
    told.append(f"{some['n']} ratings, {some['failed']} failed")
    if result["rule"] == "boda":
        told.append(
            f"{result['not_korean']} answers are not Korean by their letters: their ratings are square roots. Without that, "
            f"by first replies alone: {judged.shown(result['upstream']['score'])} over {result['upstream']['n']}"
        )
    return "\n\n".join(told)


def published(file: Path, task: str) -> Iterator[tuple[str, dict]]:
    """(model, line) of a file that the benchmark's script wrote, penalised or not: rows question_id, model, turn, score."""
    for number, row in enumerate(judged.json_lines(file)):
        score, turn, question = row.get("score"), row.get("turn"), row.get("question_id")
        if not isinstance(score, (int, float)) or turn not in (1, 2) or not isinstance(question, int):
            raise judged.foreign(file, task, number, "question_id, turn and score, as gen_judgment.py writes them")
        place = (question - 81) // 10
        category = [*TEMPERATURES][place] if 0 <= place < len(TEMPERATURES) else "other"
        kept = None if score == -1 else float(score)
        line = {"row": str(question), "name": TURNS[turn - 1], "category": category, "failed": kept is None, "images": None}
        yield str(row.get("model", file.stem)), {**line, "boda": kept, "upstream": kept}
