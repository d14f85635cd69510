"""Alpaca's instructions, as KULLM and KoAlpaca have them: an instruction, what it is about, the answer."""

from __future__ import annotations

from collections.abc import Iterable

from boda.data.sample import ImageRef, Message, Sample, split_marks
from boda.data.sources.common import Format, Row, kind_of, marked


def prompt(row: Row, images: list[ImageRef]) -> list[Message]:
    """System text, earlier turns (`history`), and the question.

    The question has a text part for the instruction and one for the input, which begins with the blank line between them: a
    template that writes text alone gives `instruction\\n\\ninput`, one with its own heading for each finds them apart.
    """
    texts = [row.text(row.need("instruction"), "instruction")]
    if (about := row.get("input")) is not None:
        texts.append("\n\n" + row.text(about, "input"))
    turns, history = row.system(), row.get("history") or []
    if not isinstance(history, list):
        raise row.bad("history", f"a list of [question, answer] is needed; this is {kind_of(history)}")
    for index, pair in enumerate(history):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise row.bad(f"history[{index}]", f"[question, answer], two texts, is needed; this is {kind_of(pair)}")
        turns += [Message("user", split_marks(pair[0])), Message("assistant", split_marks(pair[1]))]
    return [*turns, Message("user", marked(images, *texts))]


def samples(row: Row) -> Iterable[Sample]:
    """One instruction and its answer."""
    images = row.pictures("image", "images")
    turns = prompt(row, images)
    if row.options.trainable or row.get("output") is not None:
        turns.append(Message("assistant", split_marks(row.text(row.need("output"), "output"))))
    yield row.sample(turns, images)


FORMAT = Format(
    looks_like='{"instruction": "옮겨 주세요.", "input": "사과", "output": "apple"}, where "input" may be empty or absent',
    recognises=lambda names: {"instruction", "output"} <= names,
    samples=samples,
)
