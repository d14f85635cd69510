"""Asks a task's questions: in batches, of one model or of several at the same time, and makes the records of the answers."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from boda.data.sample import IMAGE_MARK, ImageRef
from boda.errors import BodaError
from boda.evaluate.task import Row, Task
from boda.evaluate.workers import side_by_side

Ask = Callable[[list[list[dict]], dict], Sequence[str | BodaError]]  # conversations of one decoding -> an answer each
_task_code = threading.RLock()  # tasks keep things from row to row, and several threads ask


class ModelGone(BodaError):
    """No further answer can be had of this model: wrong key, nobody there, its process ended. Other errors are of a row."""


class Reply(str):
    """An answer, and the tokens it took and was asked with, where that is known."""

    def __new__(cls, text: str, tokens: int | None = None, prompt_tokens: int | None = None) -> Reply:
        reply = super().__new__(cls, text)
        reply.tokens, reply.prompt_tokens = tokens, prompt_tokens  # type: ignore[attr-defined]
        return reply


@dataclass(frozen=True)
class Asking:
    """How all questions of a run are asked, whatever the task."""

    blind: bool = False  # without the pictures
    image_limit: int | None = None  # pixels of the longer side; larger pictures are shrunk
    system: str | None = None  # in place of the model's own; "": none; None: the model's own

    def of(self, messages: list[dict]) -> list[dict]:
        """The conversation as the model gets it. Raises BodaError for a picture that has to be shrunk and cannot be read."""
        messages = without_pictures(messages) if self.blind else messages
        if limit := self.image_limit:
            messages = with_pictures(messages, lambda image: shrunk(image, limit))
        return with_system(messages, self.system)


def with_system(messages: list[dict], system: str | None) -> list[dict]:
    """The conversation with a system text in front where it has none."""
    return [{"role": "system", "content": system}, *messages] if system and messages[0]["role"] != "system" else messages


def shrunk(image: Any, limit: int) -> Any:
    """The picture itself where it is small enough, else a PIL image whose longer side has so many pixels."""
    from PIL import Image

    from boda.data.images import load_image, probe_image

    width, height = probe_image(image)
    if max(width, height) <= limit:
        return image
    scale = limit / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return load_image(image).resize(size, Image.Resampling.LANCZOS)


def batches(asks: Sequence[Ask], task: Task, rows: Sequence[Row], size: int, asking: Asking) -> Iterator[list[dict]]:
    """Records of the rows, at most `size` at a time, each of `asks` with a batch of its own: they come as they are answered.

    Raises ModelGone after what could still be had.
    """
    size = min(size, -(-len(rows) // len(asks)))
    jobs = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(asks) == 1:
        yield from (answered(asks[0], task, job, asking) for job in jobs)
        return
    asks = asks[: len(jobs)]
    workers = [partial(answered, ask, task, asking=asking, at_once=len(asks)) for ask in asks]
    yield from (records for _, records in side_by_side(workers, jobs, threading.Event()))


def answered(ask: Ask, task: Task, rows: Sequence[Row], asking: Asking, at_once: int = 1) -> list[dict]:
    """Records of one batch. A row that cannot be asked (a broken picture, a text too long) fails alone, not its batch.

    Of a conversation, all of the batch's first questions are asked, then the next ones of those that go on. `at_once`: so many
    batches are being answered at the same time; a record's `seconds` are its share of the time, so that they add up to all of it.
    """
    began = time.monotonic()
    with _task_code:
        asked = [task.messages(row) for row in rows]
    answers: list[list[str]] = [[] for _ in rows]
    replies: list[str | BodaError] = [""] * len(rows)
    going = list(range(len(rows)))
    try:
        for turn in range(task.turns):
            with _task_code:
                for number in going if turn and task.follow else ():
                    asked[number] = task.follow(rows[number], answers[number])  # type: ignore[misc]
            questions = [asking.of(asked[number]) for number in going]
            told = _asked(ask, task, [rows[number] for number in going], questions, task.turns - turn, asking)
            for number, reply in zip(going, told):
                replies[number] = reply
                answers[number] += [reply] if isinstance(reply, str) else []
            going = [number for number in going if isinstance(replies[number], str)]
    except ModelGone:
        raise
    except BodaError as error:
        if len(rows) > 1:
            return [record for row in rows for record in answered(ask, task, [row], asking, at_once)]
        replies = [error]
    seconds = round((time.monotonic() - began) / len(rows) / at_once, 6)
    records = []
    for row, messages, reply, given in zip(rows, asked, replies, answers):
        shown = _as_text(without_pictures(messages) if asking.blind else messages)
        record: dict = {"task": task.name, "row": row.id, "prompt": shown, "images": _pictures_of(messages)}
        failure = {"score": None, "extracted": None, "error": str(reply)} if isinstance(reply, BodaError) else {}
        record |= {"raw": None if failure else str(reply), **({"answers": list(map(str, given))} if task.follow else {})}
        with _task_code:
            record |= {**task.score(row, "" if failure else str(reply)), "failed": bool(failure)}
        record |= {"seconds": seconds, "tokens": _total(given, "tokens")}
        if (prompt_tokens := _total(given, "prompt_tokens")) is not None:
            record["prompt_tokens"] = prompt_tokens
        records.append(record | failure)
    return records


def _total(replies: Sequence[str], name: str) -> int | None:
    """Tokens of all turns; None where they are not known."""
    counts = [getattr(reply, name, None) for reply in replies] or [None]
    return None if None in counts else sum(counts)  # type: ignore[arg-type]


def _asked(
    ask: Ask, task: Task, rows: Sequence[Row], questions: list[list[dict]], turns: int, asking: Asking
) -> list[str | BodaError]:
    """What the model says in the first of so many turns that are left, rows of the same decoding together."""
    alike: dict[str, list[int]] = defaultdict(list)
    decodings = [task.decoding | (task.decoding_of(row) if task.decoding_of else {}) for row in rows]
    for number, decoding in enumerate(decodings):
        decoding |= {"within_context": turns} if decoding.get("within_context") else {}
        decoding |= {} if asking.system is None else {"system": ""}  # the conversations have the one to use
        alike[json.dumps(decoding)].append(number)
    found: dict[int, str | BodaError] = {}
    for numbers in alike.values():
        replies = ask([questions[number] for number in numbers], decodings[numbers[0]])
        if len(replies) != len(numbers) or not all(isinstance(reply, str | BodaError) for reply in replies):
            raise TypeError(f"the model was asked {len(numbers)} questions and gave {len(replies)} answers or no texts")
        found |= dict(zip(numbers, replies))
    return [found[number] for number in range(len(rows))]


def parts_of(message: dict) -> list[dict]:
    """A message's content as parts."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def with_pictures(messages: list[dict], change: Callable[[Any], Any]) -> list[dict]:
    """The conversation with each picture as `change` makes it."""
    changed = [
        [{**part, "image": change(part["image"])} if part["type"] == "image" else part for part in parts_of(message)]
        for message in messages
    ]
    return [{**message, "content": parts} for message, parts in zip(messages, changed)]


def without_pictures(messages: list[dict]) -> list[dict]:
    return [{**message, "content": [part for part in parts_of(message) if part["type"] != "image"]} for message in messages]


def _as_text(messages: list[dict]) -> list[dict]:
    """The conversation for the record: role and words, `<image>` where a picture stands."""
    said = [[IMAGE_MARK if part["type"] == "image" else part["text"] for part in parts_of(message)] for message in messages]
    return [{"role": message["role"], "content": "".join(parts)} for message, parts in zip(messages, said)]


def _pictures_of(messages: list[dict]) -> list[dict | None]:
    """Where the pictures of a conversation are, for the record; None for one that lies nowhere."""
    found: list[dict | None] = []
    for image in (part["image"] for message in messages for part in parts_of(message) if part["type"] == "image"):
        place = ImageRef(str(image)) if isinstance(image, (str, Path)) else image
        is_kept = isinstance(place, ImageRef) and place.data is None
        found.append(json.loads(place.to_json()) if is_kept else None)
    return found
