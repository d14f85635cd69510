"""ShareGPT's conversations: LLaVA's JSON without pictures, and as people leave it, so turns are tidied first."""

from __future__ import annotations

from collections.abc import Iterable

from boda.data.sample import Message, Part, Sample
from boda.data.sources.common import Format, Row


def tidied(messages: list[Message]) -> list[Message]:
    """What nobody asked or nobody answered goes: an answer before the first question (as FastChat and LLaVA do), a question
    after the last answer. A user's messages in a row are one, with blank lines between; nothing else is mended.
    """
    joined: list[Message] = []
    for message in messages:
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


def samples(row: Row) -> Iterable[Sample]:
    """One conversation; a row that has pictures all the same is read as `llava` reads it."""
    yield row.conversation("conversations", row.pictures("image", "images"), tidied)


FORMAT = Format(
    looks_like='{"conversations": [{"from": "human", "value": "안녕?"}, {"from": "gpt", "value": "안녕하세요."}]}, no "image"',
    recognises=lambda names: "conversations" in names,  # asked after llava
    samples=samples,
)
