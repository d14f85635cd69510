"""`k-mmbench`: K-MMBench (NCSOFT, arXiv:2411.19103), MMBench's dev questions in Korean, each asked once a rotation of its options.

Prompt and `upstream` as in lmms-eval's tasks/mmbench (ko_utils.py, mmbench_evals.py): an option is found as a letter or a text in
the answer; where none is, a judge matches them, and without a judge a letter is drawn. Boda's score asks no judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from boda.errors import BodaError
from boda.evaluate.judged import chat, prompts
from boda.evaluate.multiple_choice import BY_LETTER, Question, Units, answer_of, choice_task, with_letters
from boda.evaluate.rules import can_infer, circular
from boda.evaluate.tables import Schema, read_table
from boda.evaluate.task import Judging, Row, Task, read_options

VERSION = "1"
LETTERS, ROUND = "ABCDE", 1_000_000  # rotations of question i are i + ROUND, i + 2 ROUND ...
SCHEMA = Schema(
    "k-mmbench",
    {"index": "text", "question": "text", "hint": "text?", "A": "text", "B": "text", "C": "raw?", "D": "raw?", "E": "raw?"}
    | {"answer": "text", "category": "text", "l2-category": "text?", "image": "image"},
    "index",
    "NCSOFT/K-MMBench",
    "dev",
)


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `k-mmbench[:PATH]`."""
    path, _ = read_options("k-mmbench", option)
    rows = {row["index"]: row for row in read_table(SCHEMA, path, data_dir)}
    # The published rule looks for the cells of A to D as they are: where the set has the word nan for no option, for that, too.
    cells = {name: [row[letter] for letter in "ABCD" if row[letter] is not None] for name, row in rows.items()}

    def score(row: Row, answer: str) -> dict:
        found = task.score(row, answer)
        letter = can_infer(answer, cells[row.id])
        upstream = float(letter == found["gold"]) if letter else None  # settled in `published`
        return found | {"published": letter, "upstream": upstream, "cells": cells[row.id]}

    task = choice_task(
        "k-mmbench",
        VERSION,
        [_question(row) for row in rows.values()],
        can_infer,
        "lmms-eval mmbench_ko_dev: letter or text found in the answer, else matched by a judge, else drawn (seed 2680)",
        more={"exact_matching": can_infer},
        published=published,
        decoding={"temperature": 0.0, "max_new_tokens": 1024, "stop": ["ASSISTANT:"]},
        note="circular: a question is right if it is in every rotation of its options; exact_matching: by the published "
        "rule, what it does not resolve being wrong",
        judging=Judging(
            ("match",),
            lambda row, record: requests(rows[row.id]["question"], record),
            lambda reply: {"score": None} if can_infer(reply, ()) else None,
            {"temperature": 0, "max_tokens": 256, "n": 1},
            optional=True,
        ),
    )
    return replace(task, score=score)


def _question(row: dict) -> Question:
    """Raises BodaError: an index that is no number, an option missing before another one, an answer that is none of them."""
    there = [letter for letter in LETTERS if row[letter] is not None and row[letter].strip().lower() not in ("", "nan")]
    if not re.fullmatch("[0-9]+", row["index"]) or "".join(there) != LETTERS[: len(there)]:
        raise BodaError(
            f"k-mmbench, row {row['index']}: an index is a whole number, and options are A, B, ... with none left out"
        )
    options = tuple(row[letter] for letter in there)
    hint = f"{row['hint']} " if row["hint"] else ""
    asked = f"{hint}{row['question']} There are several options:\n{with_letters(options)}\n\n{BY_LETTER}"
    tags = [(key, row[key]) for key in ("category", "l2-category") if row[key]]
    answer = answer_of("k-mmbench", row["index"], row["answer"], options)
    group = str(int(row["index"]) % ROUND)
    return Question(row["index"], asked, options, answer, (row["image"],), tuple(tags), group)


def requests(question: str, record: dict) -> dict[str, list[dict]]:
    """The published message, of an answer in which no option is found."""
    if record["published"]:
        return {}
    words = prompts("k_mmbench")
    told = words["options"] + "".join(f"{letter}. {cell}\n" for letter, cell in zip(LETTERS, record["cells"]))
    return {"match": chat(user=words["match"].format(question, told, record["raw"].strip()))}


def published(units: Units) -> list[float | None]:
    """Whether lmms-eval counts each group; None for rotations of a question that is not there itself, which it leaves out."""

    def row_of(record: dict) -> dict:
        replies = record.get("judgements", {}).get("match", {}).get("replies", ())
        row = {"index": int(record["row"]), "answer": record["gold"], "prediction": record["raw"], "options": record["cells"]}
        return row | {"replies": replies}

    def resolve(row: Mapping) -> str:
        return next((letter for reply in row["replies"] if (letter := can_infer(reply, row["options"]))), "")

    hits = circular([row_of(record) for unit in units for record in unit], resolve)
    return [hits.get(int(unit[0]["group"])) for unit in units]
