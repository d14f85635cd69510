"""Preference pairs: a prompt, the answer that was chosen, the answer that was rejected."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from boda.data.sample import ImageRef, Message, Part, Sample
from boda.data.sources import alpaca
from boda.data.sources.common import Format, Row, marked

PROMPTS = ("prompt", "question", "conversations", "messages")

Turns = tuple[list[Message], list[ImageRef]]


def samples(row: Row) -> Iterable[Sample]:
    """One pair. What is asked stands in a column of its own, or in front of both answers, or both and then agrees."""
    images = row.pictures("images", "image")
    said = row.get(*PROMPTS)
    if said is None:
        prompt = (alpaca.prompt(row, images), images) if row.get("instruction") is not None else ([], images)
    elif isinstance(said, str):
        prompt = ([*row.system(), Message("user", marked(images, said))], images)
    else:
        prompt = _turns(row, said, "prompt", images)
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


def _turns(row: Row, value: Any, name: str, images: list[ImageRef]) -> Turns:
    """A conversation, the system text beside it in front, and its pictures."""
    waiting = list(images)
    messages, used = row.turns(value, name, waiting)
    return row.system() + messages if messages else [], [*used, *waiting]


def _answer(row: Row, value: Any, name: str, images: list[ImageRef]) -> tuple[Turns, Message]:
    """An answer (text, a turn, or a conversation that ends on it) -> what stands before it, and itself."""
    if isinstance(value, str):
        return ([], images), Message("assistant", (Part("text", value),))
    messages, pictures = _turns(row, [value] if isinstance(value, dict) else value, name, images)
    if messages[-1].role != "assistant" or messages[-1].num_images:
        raise row.bad(name, f"it ends on the {messages[-1].role}; its last turn is the assistant's answer, in words alone")
    before = [] if all(message.role == "system" for message in messages[:-1]) else messages[:-1]
    return (before, pictures if before else images), messages[-1]


FORMAT = Format(
    looks_like='{"prompt": "수도는?", "chosen": "서울입니다.", "rejected": "부산입니다."}, each a text or a list of turns',
    recognises=lambda names: bool(names & {"rejected", "rejected_response"}) and bool(names & {"chosen", "messages"}),
    samples=samples,
)
