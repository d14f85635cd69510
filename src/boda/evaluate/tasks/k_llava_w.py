"""`k-llava-w`: K-LLaVA-W, 60 open questions on 24 pictures; a judge marks GPT-4's answer and the model's side by side, 1 to 10 each.

The score is the model's mean mark in per cent of GPT-4's (NCSOFT, arXiv:2411.19103), judge messages as lmms-eval sends them. There, a
reply whose first line is not two numbers counts as -1 for both sides (a judge that fails throughout makes 100.0). Boda reads the
pair as a person would, asks again where there is none, and leaves out what stays without one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from boda.evaluate import judged
from boda.evaluate.tables import Schema, read_table
from boda.evaluate.task import Judging, Row, Task, by_value, limited, one_turn, read_options, summary, version_of

VERSION = "1"
SCALE = [0, 150]  # 100: as good as GPT-4's answers, which a model may surpass
RULE = "lmms-eval: mean(model) / mean(GPT-4) x 100 of first replies, each of the means rounded to 3 decimals, unreadable pairs as -1"
SCHEMA = Schema(
    "K-LLaVA-W",
    {"question_id": "text", "question": "text", "image": "image", "caption": "text", "gpt_answer": "text", "category": "text"},
    index="question_id",
    hub="NCSOFT/K-LLaVA-W",
    split="test",
    aliases={"question_id": "index", "gpt_answer": "gpt4_ans"},  # VLMEvalKit's .tsv
)
_SIDE = re.compile(r"(?:어시스턴트|assistant)\s*_?\s*([12])(?!\d)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\d.\-])\d+(?:\.\d+)?")


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `k-llava-w[:PATH]`: the published Parquet (NCSOFT/K-LLaVA-W), or VLMEvalKit's .tsv."""
    path, _ = read_options("k-llava-w", option)
    rows = [Row(row["index"], row) for row in read_table(SCHEMA, path, data_dir)]
    words = judged.prompts("k_llava_w")

    def requests(row: Row, record: dict) -> dict[str, list[dict]]:
        filled = words["user"].format(**row.value, answer=record["raw"])
        return {"pair": judged.chat(system=words["system"], user=filled)}

    asked = [{name: value for name, value in row.value.items() if name != "image"} for row in rows]
    return Task(
        name="k-llava-w",
        version=version_of(VERSION, [*asked, words]),
        load=lambda limit: limited(rows, limit, lambda row: row.value["category"]),
        messages=lambda row: one_turn(row.value["question"], row.value["image"]),
        score=lambda row, answer: {"score": None, "gold": row.value["gpt_answer"], "tags": {"category": row.value["category"]}},
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 4096, "stop": ["ASSISTANT:"], "within_context": True},
        note="judged: the model's mean mark in per cent of GPT-4's, 100 being as good; pairs that cannot be read are left out",
        judging=Judging(("pair",), requests, read, {"temperature": 0.2, "max_tokens": 1024}),
        counted=lambda records: _parts(_pairs(_lines(records))),
    )


def read(reply: str) -> dict | None:
    """Both marks of a reply: "8 9", "8/10, 9/10", "어시스턴트1: 8, 어시스턴트2: 9" in its first line, or one a line in the first two.

    None where there are no two marks from 1 to 10.
    """
    sides, marks = list[str](), list[float]()
    for line in [line for line in reply.replace("*", "").split("\n") if line.strip()][:2]:
        found = _NUMBER.findall(re.sub(r"/\s*10(?!\d)|(?<!\d)10점 만점에", " ", _SIDE.sub(" ", line)))
        if len(marks) == 1 and len(found) != 1:
            return None
        marks += map(float, found)
        sides += _SIDE.findall(line)
        if len(marks) > 1:
            break
    if len(marks) != 2 or any(not 1 <= mark <= 10 for mark in marks):
        return None
    reference, score = reversed(marks) if sides == ["2", "1"] else marks
    return {"score": score, "reference": reference}


def published_pair(judgement: dict) -> list[float]:
    """(GPT-4's, the model's) mark by the published rule, of the first reply, or of none."""
    parts = next(iter(judgement["replies"]), "").strip().split("\n")[0].strip().replace(",", " ").split(" ")
    try:
        first, second = map(float, parts)
    except ValueError:
        return [-1.0, -1.0]
    return [first, second]


def summarise(records: Sequence[dict]) -> dict:
    """Results of answers with their judgements, also by category."""
    lines = _lines(records)
    return {**_relative(lines), "groups": {"category": by_value(lines, lambda line: line["category"], _relative)}}


def _lines(records: Sequence[dict]) -> list[dict]:
    more = lambda record, _: {**record["tags"], "images": record["images"]}  # noqa: E731
    return judged.lines_of(records, ("pair",), published_pair, more)


def _pairs(lines: Sequence[dict]) -> dict[str, tuple[float, float]]:
    """{row: (GPT-4's mark, the model's)} of those that were judged."""
    return {line["row"]: (line["verdict"]["reference"], line["verdict"]["score"]) for line in lines if not line["failed"]}


def _means(pairs: Iterable[Sequence[float]]) -> list[float]:
    return [sum(side) / len(side) for side in zip(*pairs)]


def _parts(pairs: dict[str, tuple[float, float]]) -> dict[str, float]:
    """{row: its part of the score}: a ratio of means is, to first order, the mean of these, so that intervals and tests know that
    both sides may come out otherwise."""
    if not pairs:
        return {}
    theirs, ours = _means(pairs.values())
    ratio = ours / theirs
    return {row: 100 * (ratio + (score - ratio * reference) / theirs) for row, (reference, score) in pairs.items()}


def _relative(lines: Sequence[dict]) -> dict:
    """`score n failed low high upstream metrics scale` of lines with a pair each."""
    pairs = _pairs(lines)
    parts = _parts(pairs)
    result = summary([{**line, "score": parts.get(line["row"])} for line in lines])
    published = [line["upstream"] for line in lines if line["upstream"]]
    theirs, ours = (round(side, 3) for side in _means(published)) if published else (0.0, 0.0)
    upstream = {"score": round(ours / theirs * 100, 1) if theirs else None, "n": len(published), "rule": RULE}
    return {**result, "upstream": upstream, "metrics": dict(zip(("gpt", "model"), _means(pairs.values()))), "scale": SCALE}
