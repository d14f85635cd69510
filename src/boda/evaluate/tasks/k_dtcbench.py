"""`k-dtcbench`: K-DTCBench (NCSOFT, arXiv:2411.19103), 240 questions on Korean documents, tables and charts.

Prompt and `upstream` as in lmms-eval's tasks/dtcbench/utils.py: the first character of the answer is the letter.
"""

from __future__ import annotations

import re
from pathlib import Path

from boda.evaluate.multiple_choice import BY_LETTER, CHOICES, LETTERS, Question, answer_of, choice_task
from boda.evaluate.rules import first_character
from boda.evaluate.tables import Schema, read_table
from boda.evaluate.task import Task, read_options

VERSION = "1"
SCHEMA = Schema(
    "k-dtcbench",
    {"index": "text", "question": "text", **dict.fromkeys(CHOICES, "text")}
    | {"answer": "text", "category": "text?", "image": "image"},
    "index",
    "NCSOFT/K-DTCBench",
    "test",
    aliases={name: name[-1].upper() for name in CHOICES},  # in VLMEvalKit's TSV
)


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `k-dtcbench[:PATH]`."""
    path, _ = read_options("k-dtcbench", option)
    questions = []
    for row in read_table(SCHEMA, path, data_dir):
        options = tuple(row[name] for name in CHOICES)
        told = ", ".join(f"{letter}: {text}" for letter, text in zip(LETTERS, options))
        asked = f"{row['question']}\nOptions: {told}\n{BY_LETTER}"
        kind = row["category"] or re.match(r"[^\W\d]*", row["index"])[0].strip("_")  # type: ignore[index]  # table_17
        tags = (("category", kind),) if kind else ()
        answer = answer_of("k-dtcbench", row["index"], row["answer"], options)
        questions.append(Question(row["index"], asked, options, answer, (row["image"],), tags))
    return choice_task(
        "k-dtcbench",
        VERSION,
        questions,
        first_character,
        "lmms-eval dtcbench: the first character of the answer",
        decoding={"temperature": 0.0, "max_new_tokens": 512, "stop": ["ASSISTANT:"]},
        note="accuracy over all questions",
    )
