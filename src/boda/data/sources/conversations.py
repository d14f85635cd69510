"""Rows of turns: conversations as LLaVA, ShareGPT and the OpenAI API have them, Alpaca's instructions, preference pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from boda.data.sample import ImageRef, Message, Part, Sample, split_marks
from boda.data.sources.common import Row, kind_of, marked

PROMPTS = ("prompt", "question", "conversations", "messages")

Turns = tuple[list[Message], list[ImageRef]]


def llava(row: Row) -> Iterable[Sample]:
    """Turns of human and gpt; `image` is a name, a list of names, or absent."""
    yield row.conversation("conversations", row.pictures("image", "images"))


def messages(row: Row) -> Iterable[Sample]:
    """As chat templates take them; pictures stand in the parts themselves or, for bare marks, in `images`."""
    yield row.conversation("messages", row.pictures("images", "image"))


def sharegpt(row: Row) -> Iterable[Sample]:
    """LLaVA's turns as people leave them, so tidied first; a row that has pictures all the same is read as `llava` reads it."""
    yield row.conversation("conversations", row.pictures("image", "images"), tidied)


def tidied(turns: list[Message]) -> list[Message]:
    """What nobody asked or nobody answered goes: an answer before the first question (as FastChat and LLaVA do), a question
    after the last answer. A user's messages in a row are one, with blank lines between; nothing else is mended.
    """
    joined: list[Message] = []
    for message in turns:
        if joined and message.role == joined[-1].role == "user":
            joined[-1] = Message("user", (*joined[-1].content, Part("text", "\n\n"), *message.content))
        else:
            joined.append(message)
    first = 1 if joined[0].role == "system" else 0
    if joined[first].role == "assistant" and not joined[first].num_images:
        del joined[first]
    if joined[-1].role == "user" and not joined[-1].num_images and any(message.role == "assistant" for message in joined):
        joined.pop()
    return joined


def alpaca(row: Row) -> Iterable[Sample]:
    """One instruction and its answer."""
    images = row.pictures("image", "images")
    turns = _instruction(row, images)
    if row.options.trainable or row.get("output") is not None:
        turns.append(Message("assistant", split_marks(row.text(row.need("output"), "output"))))
    yield row.sample(turns, images)


def kullm(row: Row) -> Iterable[Sample]:
    """KULLM's rows: flat ones, as `alpaca`; with several `instances` of one instruction, each of them a sample; or GPT4All's of
    `prompt` and `response`."""
    instances = row.get("instances") if "output" in row.cells or "instances" not in row.cells else row.need("instances")
    if instances is None:
        names = {"instruction": "prompt", "output": "response"}
        named = {ours: row.cells[name] for ours, name in names.items() if ours not in row.cells and name in row.cells}
        yield from alpaca(replace(row, cells=row.cells | named))
        return
    if not isinstance(instances, list):
        raise row.bad("instances", f"a list of {{input, output}} is needed; this is {kind_of(instances)}")
    for index, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise row.bad(f"instances[{index}]", f"an object of input and output is needed; this is {kind_of(instance)}")
        yield from alpaca(replace(row, cells=row.cells | {"input": None, "output": None} | instance))


_KOALPACA = re.compile(r"### 질문: ?(.*?)(?:\n\n### 맥락: ?(.*?))?\n\n### 답변: ?(.*?)(?:<\|endoftext\|>)?\s*", re.DOTALL)


def koalpaca(row: Row) -> Iterable[Sample]:
    """KoAlpaca's rows: as `alpaca`, a `url` beside them; or the whole as one `text`: "### 질문: ...\\n\\n### 답변: ..."."""
    if row.get("instruction") is None and row.get("text") is not None:
        found = _KOALPACA.fullmatch(row.text(row.need("text"), "text").lstrip())
        if found is None:
            raise row.bad("text", "'### 질문: ...', a blank line and '### 답변: ...' are needed")
        row = replace(row, cells=row.cells | dict(zip(("instruction", "input", "output"), found.groups())))
    yield from alpaca(row)


def _instruction(row: Row, images: list[ImageRef]) -> list[Message]:
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


def preference(row: Row) -> Iterable[Sample]:
    """One pair. What is asked stands in a column of its own, or in front of both answers, or both and then agrees."""
    images = row.pictures("images", "image")
    said = row.get(*PROMPTS)
    if said is None:
        prompt = (_instruction(row, images) if row.get("instruction") is not None else [], images)
    elif isinstance(said, str):
        prompt = ([*row.system(), Message("user", marked(images, said))], images)
    else:
        prompt = row.turns(said, "prompt", images)
    before: Turns = ([], images)
    if row.get("chosen") is None and prompt[0] and prompt[0][-1].role == "assistant":  # the conversation ends on the chosen one
        chosen = prompt[0].pop()
    else:
        before, chosen = _answer(row, row.need("chosen"), "chosen", images)
    other, rejected = _answer(row, row.need("rejected", "rejected_response"), "rejected", images)
    if before[0] and other[0] and before != other:
        raise row.bad("rejected", "it answers another conversation than chosen; a pair has one prompt")
    whole = before if before[0] else other
    if not whole[0]:
        whole = prompt
    elif isinstance(said, str):
        if said.strip() not in [message.text.strip() for message in whole[0]]:
            raise row.bad("prompt", "the conversation in chosen and rejected does not have it; a pair has one prompt")
    elif prompt[0] and prompt != whole:
        raise row.bad("prompt", "it is another conversation than chosen and rejected begin with; a pair has one prompt")
    if not whole[0]:
        row.need(*PROMPTS[:2], "instruction")
    yield row.sample([*whole[0], chosen], whole[1], rejected.text)


def _answer(row: Row, value: Any, name: str, images: list[ImageRef]) -> tuple[Turns, Message]:
    """An answer (text, a turn, or a conversation that ends on it) -> what stands before it, and itself."""
    if isinstance(value, str):
        return ([], images), Message("assistant", (Part("text", value),))
    messages, pictures = row.turns([value] if isinstance(value, dict) else value, name, images)
    if messages[-1].role != "assistant" or messages[-1].num_images:
        raise row.bad(name, f"it ends on the {messages[-1].role}; its last turn is the assistant's answer, in words alone")
    before = [] if all(message.role == "system" for message in messages[:-1]) else messages[:-1]
    return (before, pictures if before else images), messages[-1]
