"""`koffvqa`: KOFFVQA, 275 free-form Korean questions on pictures in ten categories, each answer marked 0 to 10 by criteria of its own.

The judge is asked as published (github.com/maum-ai/KOFFVQA, arXiv:2503.23730). There, the mark is the last run of digits in the
reply (of 7.5 the 5) and none is 0; Boda reads the mark, asks again where there is none and leaves out what stays without one.
By both rules an answer that is not Korean scores 0: published by py3langid, here by its letters (as `komt`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from string import punctuation, whitespace

from boda.errors import BodaError, explaining
from boda.evaluate import judged
from boda.evaluate.tables import Schema, read_table
from boda.evaluate.task import Judging, Row, Task, by_value, limited, one_turn, read_options, version_of
from boda.evaluate.tasks.komt import is_korean

VERSION, SCALE = "1", [0, 100]
RULE = "KOFFVQA: last number in the reply, 0 where there is none up to 10 or py3langid does not say Korean, mean x 10"
SCHEMA = Schema(
    "KOFFVQA",
    {"index": "text", "image": "image", "question": "text", "answer": "text", "category": "text"},
    index="index",
    hub="maum-ai/KOFFVQA_Data",
)
_NUMBER = r"(?<![\d.\-])(\d+(?:\.\d+)?)(?!\.?\d|\s*점?\s*(?:만점|중|짜리))"
_FINAL = re.compile(rf"최종\s*점수(?:는|은)?\s*[:：]?\s*(?:10\s*점\s*(?:만점|중)[^\d\n]*)?{_NUMBER}")
_MARK = re.compile(rf"{_NUMBER}\s*점")


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `koffvqa[:PATH]`; PATH is KOFFVQA.tsv or its folder."""
    path, _ = read_options("koffvqa", option)
    rows = [Row(row["index"], row) for row in read_table(SCHEMA, path, data_dir)]
    prompt = judged.prompts("koffvqa")["user"]

    def requests(row: Row, record: dict) -> dict[str, list[dict]]:
        return {"mark": judged.chat(user=prompt.format(row.value["question"], record["raw"], row.value["answer"]))}

    asked = [(row.id, row.value["question"], row.value["answer"], row.value["category"]) for row in rows]
    return Task(
        name="koffvqa",
        version=version_of(VERSION, [*asked, prompt]),
        load=lambda limit: limited(rows, limit, lambda row: row.value["category"]),
        messages=lambda row: one_turn(row.value["question"], row.value["image"]),
        score=lambda row, answer: {"score": None, "gold": row.value["answer"], "tags": {"category": row.value["category"]}},
        summarise=summarise,
        decoding={"temperature": 0.0, "max_new_tokens": 1024, "within_context": True},
        note="judged by criteria of each question, mean mark x 10; 0 where the answer is not Korean; marks not to be read are left out",
        judging=Judging(("mark",), requests, read, {"temperature": 0.0, "max_tokens": 1024}),
        counted=lambda records: judged.by_row(_lines(records)),
    )


def read(reply: str) -> dict | None:
    """The mark of a reply: "최종 점수: 10점 만점에 7점", else the last "7점"; None where that is none from 0 to 10."""
    plain = reply.replace("*", "")
    found = _FINAL.findall(plain) or _MARK.findall(plain)
    return {"score": float(found[-1])} if found and float(found[-1]) <= 10 else None


def published_mark(reply: str) -> int:
    """The published rule: the last run of digits in the last word that has one; more than 10, or none, is 0."""
    for word in reversed(reply.split()):
        if runs := "".join(letter if letter.isdigit() else " " for letter in word).split():
            mark = int(runs[-1]) if runs[-1].isdecimal() else 11  # ² is a digit to str.isdigit and none to int
            return mark if mark <= 10 else 0
    return 0


def has_only_signs(answer: str) -> bool:
    """Digits, punctuation and white space (ASCII), which both rules let pass in any language; so does an empty answer."""
    return all(letter.isdigit() or letter in punctuation or letter in whitespace for letter in answer)


def is_korean_to_langid(answer: str) -> bool:
    """What py3langid says of a text. Raises BodaError: it is not installed."""
    with explaining("the published rule of koffvqa needs py3langid: pip install 'boda[eval]'", ModuleNotFoundError):
        import py3langid  # type: ignore
    return py3langid.classify(answer)[0] == "ko"


def summarise(records: Sequence[dict]) -> dict:
    """Results of answers with their judgements, also by category."""
    lines, why = _lines(records), ""
    try:
        for line in (line for line in lines if line["upstream"]):
            line["upstream"] *= line["signs"] or is_korean_to_langid(line["raw"])
    except BodaError as error:
        why = str(error)

    def result_of(some: Sequence[dict]) -> dict:
        kept = [line["upstream"] for line in some if line["upstream"] is not None]
        upstream = {"score": None if why else judged.mean(kept), "n": 0 if why else len(kept), "rule": why or RULE}
        return {**judged.scored(some, "boda", SCALE), "upstream": upstream}

    other = sum(not line["korean"] for line in lines if not line["failed"])
    parts = by_value(lines, lambda line: line["category"], result_of)
    return {**result_of(lines), "not_korean": other, "groups": {"category": parts}}


def _lines(records: Sequence[dict]) -> list[dict]:
    """Lines of marks x 10, by Boda's rule with its 0 for other languages; the published one's is still to come."""

    def published(judgement: dict) -> float | None:
        return next((10.0 * published_mark(reply) for reply in judgement["replies"]), None)

    def more(record: dict, _: str) -> dict:
        raw = record["raw"] or ""
        signs = has_only_signs(raw)
        return {**record["tags"], "images": record["images"], "raw": raw, "signs": signs, "korean": signs or is_korean(raw)}

    lines = judged.lines_of(records, ("mark",), published, more)
    return [{**line, "boda": None if line["failed"] else 10.0 * line["boda"] * line["korean"]} for line in lines]
