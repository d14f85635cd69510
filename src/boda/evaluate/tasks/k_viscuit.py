"""`k-viscuit`: K-Viscuit (arXiv:2406.16469), 657 English questions on Korean culture in 10 categories, four options each.

Prompt (its lines indented by four spaces) and `upstream` as in github.com/ddehun/k-viscuit, run_vqa.py and utils.py: the answer is
exactly a letter. There a model may say 3 tokens; here it may finish its sentence, so that it can be read. An answer that is more
than the letter is no letter by the published rule either way.
"""

from __future__ import annotations

from pathlib import Path

from boda.errors import BodaError
from boda.evaluate.multiple_choice import LETTERS, Question, choice_task
from boda.evaluate.rules import exact
from boda.evaluate.tables import Schema, read_table
from boda.evaluate.task import Task, read_options

VERSION = "1"
INDENT = "\n    "
SCHEMA = Schema(
    "k-viscuit",
    {"id_": "text", "question": "text", "options": "list", "answer": "number", "category": "text"}
    | {"question_type": "text?", "image": "image"},
    "id_",
    "ddehun/k-viscuit",
    "test",
    images="images",
    aliases={"image": "image_path"},  # in the repository's dataset/annotations.jsonl
)


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `k-viscuit[:PATH]`; PATH is the repository's dataset/annotations.jsonl or the hub's Parquet."""
    path, _ = read_options("k-viscuit", option)
    questions = []
    for row in read_table(SCHEMA, path, data_dir):
        options = tuple(row["options"])
        if len(options) != 4 or row["answer"] not in range(4):
            what = f"the answer {row['answer']} is none of its {len(options)} options"
            raise BodaError(f"k-viscuit, row {row['index']}: {what}; published are four, numbered 0 to 3")
        lines = [row["question"], *(f"{letter}. {text}" for letter, text in zip(LETTERS, options))]
        asked = INDENT.join([*lines, "Answer with the option's letter from the given choices directly."])
        tags = [("category", row["category"])]
        tags += [("question_type", row["question_type"])] if row["question_type"] else []
        questions.append(Question(row["index"], asked, options, row["answer"], (row["image"],), tuple(tags)))
    return choice_task(
        "k-viscuit",
        VERSION,
        questions,
        exact,
        "k-viscuit run_vqa.py: the answer is exactly A, B, C or D",
        decoding={"temperature": 0.0, "max_new_tokens": 64},
        note="accuracy over all questions; questions and options are English",
    )
