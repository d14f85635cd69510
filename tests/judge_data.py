"""Small copies, in their layout, of the benchmarks that a judge scores: questions of our own."""

from __future__ import annotations

import json
from pathlib import Path

CATEGORIES = ("추론(Reasoning)", "수학(Math)", "글쓰기(Writing)")
KOMT = ("writing", "math", "extraction")


def write_lines(path: Path, rows: list[dict], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding=encoding)
    return path


def benchmarks(folder: Path, number: int = 4) -> Path:
    """logickor, komt_bench and kullm_v2 below the folder, `number` questions in each category."""
    rows = []
    for place in range(number * len(CATEGORIES)):
        questions = [f"질문 {place}: 사과가 {place}개 있으면?", f"이어지는 질문 {place}", "쓰지 않는 셋째 질문"][
            : 3 if place == 2 else 2
        ]
        references = [f"{place}개" if place % 2 else None, None]
        rows.append({"id": place + 1, "category": CATEGORIES[place % 3], "questions": questions, "references": references})
    write_lines(folder / "logickor/questions.jsonl", rows, "utf-8-sig")

    rows, references = [], []
    for kind, category in enumerate(KOMT):
        for place in range(number):
            question = 81 + 10 * ("writing", "roleplay", "reasoning", "math", "coding", "extraction").index(category) + place
            rows.append(
                {"question_id": question, "category": category, "turns": [f"{kind} {place} 물음", f"{kind} {place} 다시"]}
            )
            turns = [f"참고 {question}", f"둘째 참고 {question}"]
            references.append({"question_id": question, "choices": [{"index": 0, "turns": turns}]})
    write_lines(folder / "komt_bench/data/mt_bench/question_ko.jsonl", rows)
    write_lines(folder / "komt_bench/data/mt_bench/reference_answer_ko/gpt-4.jsonl", references)

    rows = [
        {
            "id": f"task_{place}",
            "instruction": f"지시 {place}",
            "instances": [{"input": f"입력 {place}" if place % 3 else "", "output": "x"}],
        }
        for place in range(3 * number)
    ]
    write_lines(folder / "kullm_v2/data/user_oriented_instructions_eval.jsonl", rows)
    return folder
