"""`k-seed`: K-SEED (NCSOFT, arXiv:2411.19103), a fifth of SEED-Bench's image questions in Korean, in 12 dimensions.

Prompt and `upstream` as in lmms-eval's tasks/seedbench/ko_utils.py: the first character of the answer is the letter.
"""

from __future__ import annotations

from pathlib import Path

from boda.evaluate.multiple_choice import BY_LETTER, CHOICES, Question, answer_of, choice_task, with_letters
from boda.evaluate.rules import first_character
from boda.evaluate.tables import Schema, read_table
from boda.evaluate.task import Task, read_options

VERSION = "1"
SCHEMA = Schema(
    "k-seed",
    {"question_id": "text", "question": "text", **dict.fromkeys(CHOICES, "text")}
    | {"answer": "text", "data_type": "text", "image": "image"},
    "question_id",
    "NCSOFT/K-SEED",
    "test",
    # in VLMEvalKit's TSV
    aliases={"question_id": "index", "data_type": "category", **{name: name[-1].upper() for name in CHOICES}},
)


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `k-seed[:PATH]`."""
    path, _ = read_options("k-seed", option)
    questions = []
    for row in read_table(SCHEMA, path, data_dir):
        options = tuple(row[name] for name in CHOICES)
        asked = f"{row['question']}\n{with_letters(options)}\n{BY_LETTER}"
        answer = answer_of("k-seed", row["index"], row["answer"], options)
        questions.append(Question(row["index"], asked, options, answer, (row["image"],), (("data_type", row["data_type"]),)))
    return choice_task(
        "k-seed",
        VERSION,
        questions,
        first_character,
        "lmms-eval seedbench_ko: the first character of the answer",
        decoding={"temperature": 0.0, "max_new_tokens": 512, "stop": ["ASSISTANT:"]},
        note="accuracy over all questions",
    )
