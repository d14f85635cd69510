"""`k-mmstar`: K-MMStar (NCSOFT, arXiv:2411.19103), 1,500 questions that need the picture, in 6 categories and 18 finer ones.

Prompt and `upstream` as in lmms-eval's tasks/mmstar/utils.py: the prompt's last line is English there, too, and the score is the
mean of the finer categories' means. The options stand within the question; Boda's reading takes them from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

from boda.evaluate.multiple_choice import Question, answer_of, choice_task, options_in
from boda.evaluate.rules import opening, ranked
from boda.evaluate.tables import Schema, read_table
from boda.evaluate.task import Task, read_options

VERSION = "1"
ASKED = "\nAnswer with the option's letter from the given choices directly"
SCHEMA = Schema(
    "k-mmstar",
    {"index": "text", "question": "text", "image": "image", "answer": "text", "category": "text", "l2_category": "text"}
    | dict.fromkeys("ABCD", "text?"),  # in VLMEvalKit's TSV, whose questions do not tell them
    "index",
    "NCSOFT/K-MMStar",
    "val",
)


def from_option(option: str, data_dir: str | Path | None) -> Task:
    """The task of `k-mmstar[:PATH]`."""
    path, _ = read_options("k-mmstar", option)
    questions = []
    for row in read_table(SCHEMA, path, data_dir):
        question = row["question"].strip().replace(" Please answer yes or no.", "")
        if row["A"]:
            question += "\nOptions: " + ", ".join(f"{letter}: {row[letter]}" for letter in "ABCD" if row[letter])
        options = options_in(question)
        if options is None or str(row["answer"]).strip().upper() not in "ABCDEFGHIJ"[: len(options)]:
            options = tuple("ABCD")  # told in a way that is not understood: letters alone are read
        answer = answer_of("k-mmstar", row["index"], row["answer"], options)
        tags = (("category", row["category"]), ("l2_category", row["l2_category"]))
        questions.append(Question(row["index"], question + ASKED, options, answer, (row["image"],), tags))
    task = choice_task(
        "k-mmstar",
        VERSION,
        questions,
        ranked,
        "lmms-eval mmstar_ko: the letter by ranked patterns; mean over l2 categories of their means",
        more={"opening": opening},
        decoding={"temperature": 0.0, "max_new_tokens": 512},
        note="accuracy over all questions; upstream: mean over l2 categories of their accuracies",
    )
    return replace(task, summarise=lambda records: _with_means(task.summarise(records), records))


def _with_means(result: dict, records: Sequence[dict]) -> dict:
    """The published means of means, by both published rules, in place of the plain ones."""
    answered = [record for record in records if not record["failed"]]
    sizes = Counter(record["tags"]["l2_category"] for record in answered)

    def mean(score: Callable[[dict], float]) -> float:
        return sum(score(record) / sizes[record["tags"]["l2_category"]] for record in answered) / len(sizes)

    if answered:
        result["upstream"]["score"] = mean(itemgetter("upstream"))
        result["metrics"] = {"opening": mean(lambda record: record["rules"]["opening"])}
    return result
