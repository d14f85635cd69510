"""The file every answer goes to as it comes, and whoever gives the answers."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from boda.data.sample import IMAGE_MARK, ImageRef
from boda.errors import WHY, BodaError, explaining
from boda.evaluate.task import Row, Task
from boda.files import as_lines, write_lines, writing

SAMPLES_OF_A_LARGE_FILE, PIECE = 64, 1 << 12
ADVICE = "delete the folder or choose another --out"
Ask = Callable[[list[list[dict]], dict], Sequence[str | BodaError]]


@dataclass(frozen=True)
class Answerer:
    """A model as evaluation sees it; answers of two names or fingerprints never mix."""

    name: str
    fingerprint: str
    settings: dict  # the model's own generation settings, for the record
    # Gives an Ask, (conversations, decoding) -> one answer each, or the Encoder of one that is measured.
    open: Callable[[], Any]


def answerer(model: Any, trust_remote_code: bool = False) -> Answerer:
    """A model folder, hub id, (model, processor) pair or object with `answer`, as an Answerer. Raises BodaError: none of these."""
    if hasattr(model, "answer"):
        name = str(getattr(model, "name", type(model).__name__))
        return Answerer(name, "", {}, lambda: lambda conversations, decoding: model.answer(conversations))
    if isinstance(model, tuple) and len(model) == 2:
        name = str(getattr(getattr(model[0], "config", None), "_name_or_path", "") or type(model[0]).__name__)
        return Answerer(name, "", {}, lambda: _asker(*model))
    if not isinstance(model, (str, Path)):
        raise BodaError(
            f"{type(model).__name__} is no model to evaluate: give a folder or hub id, a (model, processor) pair, "
            "or an object with answer(conversations)"
        )
    from boda.models.checkpoints import load, locate, read_info

    @cache
    def open() -> Ask:
        loaded, processor = load(str(model), trust_remote_code=trust_remote_code)
        if hasattr(loaded, "get_text_features"):
            raise BodaError(
                f"'{model}' is a pair model: it compares pictures and texts and answers nothing; `boda eval --list` shows its tasks"
            )
        return _asker(loaded, processor)

    return Answerer(str(model), fingerprint(Path(locate(model))), read_info(model).get("generation", {}), open)


def _asker(model, processor) -> Ask:
    from boda.data.images import load_image
    from boda.models.generate import encode, generate, with_system

    def seen(message: dict) -> dict:
        read = [{**part, "image": load_image(part["image"])} if part["type"] == "image" else part for part in _parts(message)]
        return {**message, "content": read}

    saved = getattr(model, "boda_info", {}).get("generation", {})
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    def ask(conversations: list[list[dict]], decoding: dict) -> Sequence[str | BodaError]:
        """Answers. Decoding may say `within_context`: so many turns, this one the first, share the positions that are left."""
        asked = [[seen(message) for message in messages] for messages in conversations]
        decoding = dict(decoding)
        if "stop" in decoding:  # a task's stop strings come to the model's own
            decoding["stop"] = [*(saved.get("stop") or ()), *decoding["stop"]]
        turns = decoding.pop("within_context", 0)
        if not turns or context is None:
            return generate(model, processor, asked, **decoding)
        # Rounded down, so that conversations of about the same length are answered together and none depends on the others.
        step, rooms = max(1, context // 16), defaultdict(list)
        for number, messages in enumerate(asked):
            length = encode(model, processor, [with_system(messages, saved.get("system"))])["input_ids"].shape[1]
            rooms[min(decoding["max_new_tokens"], (context - length) // turns // step * step)].append(number)
        answers: dict[int, str | BodaError] = {}
        for room, numbers in rooms.items():
            if room <= 0:
                too_long = BodaError(f"the conversation is too long for a model of {context:,} positions")
                answers |= dict.fromkeys(numbers, too_long)
                continue
            told = generate(model, processor, [asked[number] for number in numbers], **{**decoding, "max_new_tokens": room})
            answers |= dict(zip(numbers, told))
        return [answers[number] for number in range(len(asked))]

    ask.loaded = model, processor  # type: ignore[attr-defined]  # for what is measured of the model itself
    return ask


def encoding(model: Any) -> Answerer:
    """A pair model (folder, hub id, (model, processor) or Encoder), which opens to an Encoder. Raises BodaError: none of these."""
    if isinstance(model, tuple):
        from boda.models.encoder import Encoder

        model = Encoder(model[0], model[1], type(model[0]).__name__)
    if hasattr(model, "texts") and hasattr(model, "images"):
        return Answerer(model.name, model.fingerprint, {}, lambda: model)
    if not isinstance(model, (str, Path)):
        kind = type(model).__name__
        raise BodaError(f"{kind} gives no vectors; this task measures a pair model: a folder, hub id, pair or Encoder")
    from boda.models.checkpoints import locate
    from boda.models.encoder import Encoder

    return Answerer(str(model), fingerprint(Path(locate(model))), {}, cache(lambda: Encoder.load(str(model))))


def fingerprint(folder: Path) -> str:
    """What a folder's files hold, in short: small files whole, pieces from all over large ones. Empty if it is no folder."""
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as stream:
            if size <= 4 * SAMPLES_OF_A_LARGE_FILE * PIECE:
                digest.update(stream.read())
                continue
            for number in range(SAMPLES_OF_A_LARGE_FILE):
                stream.seek(number * (size - PIECE) // (SAMPLES_OF_A_LARGE_FILE - 1))
                digest.update(stream.read(PIECE))
    return digest.hexdigest()[:16]


def _parts(message: dict) -> list[dict]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def answered(ask: Ask, task: Task, rows: Sequence[Row], blind: bool) -> list[dict]:
    """Records of one batch. A row that cannot be asked (a broken picture, a text too long) fails alone, not its batch.

    Of a conversation, all of the batch's first questions are asked, then the next ones of those that go on.
    """
    asked = [task.messages(row) for row in rows]
    answers: list[list[str]] = [[] for _ in rows]
    replies: list[str | BodaError] = [""] * len(rows)
    going = list(range(len(rows)))
    try:
        for turn in range(task.turns):
            for number in going if turn and task.follow else ():
                asked[number] = task.follow(rows[number], answers[number])  # type: ignore[misc]
            questions = [_without_pictures(asked[number]) if blind else asked[number] for number in going]
            told = _asked(ask, task, [rows[number] for number in going], questions, task.turns - turn)
            for number, reply in zip(going, told):
                replies[number] = reply
                answers[number] += [reply] if isinstance(reply, str) else []
            going = [number for number in going if isinstance(replies[number], str)]
    except BodaError as error:
        if len(rows) > 1:
            return [record for row in rows for record in answered(ask, task, [row], blind)]
        replies = [error]
    records = []
    for row, messages, reply, given in zip(rows, asked, replies, answers):
        shown = _as_text(_without_pictures(messages) if blind else messages)
        record: dict = {"task": task.name, "row": row.id, "prompt": shown, "images": _pictures_of(messages)}
        failure = {"score": None, "extracted": None, "error": str(reply)} if isinstance(reply, BodaError) else {}
        record |= {"raw": None if failure else reply, **({"answers": given} if task.follow else {})}
        record |= {**task.score(row, "" if failure else str(reply)), "failed": bool(failure)}
        records.append(record | failure)
    return records


def _asked(ask: Ask, task: Task, rows: Sequence[Row], questions: list[list[dict]], turns: int) -> list[str | BodaError]:
    """What the model says in the first of so many turns that are left, rows of the same decoding together."""
    alike: dict[str, list[int]] = defaultdict(list)
    decodings = [task.decoding | (task.decoding_of(row) if task.decoding_of else {}) for row in rows]
    for number, decoding in enumerate(decodings):
        decoding |= {"within_context": turns} if decoding.get("within_context") else {}
        alike[json.dumps(decoding)].append(number)
    found: dict[int, str | BodaError] = {}
    for numbers in alike.values():
        replies = ask([questions[number] for number in numbers], decodings[numbers[0]])
        if len(replies) != len(numbers) or not all(isinstance(reply, str | BodaError) for reply in replies):
            raise TypeError(f"the model was asked {len(numbers)} questions and gave {len(replies)} answers or no texts")
        found |= dict(zip(numbers, replies))
    return [found[number] for number in range(len(rows))]


def _without_pictures(messages: list[dict]) -> list[dict]:
    return [{**message, "content": [part for part in _parts(message) if part["type"] != "image"]} for message in messages]


def _as_text(messages: list[dict]) -> list[dict]:
    """The conversation for the record: role and words, `<image>` where a picture stands."""

    def said(part: dict) -> str:
        return IMAGE_MARK if part["type"] == "image" else part["text"]

    return [{"role": message["role"], "content": "".join(map(said, _parts(message)))} for message in messages]


def _pictures_of(messages: list[dict]) -> list[dict | None]:
    """Where the pictures of a conversation are, for the record; None for one that lies nowhere."""
    found: list[dict | None] = []
    for image in (part["image"] for message in messages for part in _parts(message) if part["type"] == "image"):
        place = ImageRef(str(image)) if isinstance(image, (str, Path)) else image
        is_kept = isinstance(place, ImageRef) and place.data is None
        found.append(json.loads(place.to_json()) if is_kept else None)
    return found


class AnswersFile:
    """`answers.jsonl`: a line an answer, on disk before the next batch is asked; with other names for a record, other results.

    The line that a killed run was writing goes, and so do failures, which are asked again, unless they are kept.
    """

    def __init__(self, path: Path, names: tuple[str, ...] = ("task", "row"), keeps_failures: bool = False):
        self.path, self.names = path, names
        self.records: dict[tuple[str, ...], dict] = {}
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                key = self._key(record)
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):  # no line break after it: torn
                    break
                raise BodaError(
                    f"{path}, line {number} is no answer; mend or delete the line, or choose another --out"
                ) from error
            if keeps_failures or not record["failed"]:
                self.records[key] = record
        if lines:
            write_lines(path, self.records.values())

    def _key(self, record: dict) -> tuple[str, ...]:
        return tuple(record[name] for name in self.names)

    def add(self, records: Sequence[dict]) -> None:
        """Appends whole lines and waits for the disk. Raises BodaError if it is full."""
        with (
            writing(self.path, "the same command goes on from the last answer"),
            self.path.open("a", encoding="utf-8") as stream,
        ):
            stream.write(as_lines(records))
            stream.flush()
            os.fsync(stream.fileno())
        self.records |= {self._key(record): record for record in records}


def read_answers(path: str | Path) -> list[dict]:
    """The records of an `answers.jsonl` (or of the folder it lies in). Raises BodaError if there is none."""
    path = file_of(path, "answers", "answers.jsonl", "an evaluation writes answers.jsonl into its --out folder")
    with explaining(f"{path} has a line that is no JSON ({WHY}); run the evaluation again, it mends the file", ValueError):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def file_of(path: str | Path, what: str, name: str, advice: str) -> Path:
    """A file, or the one of that name in a folder. Raises BodaError if there is none."""
    path = Path(path) / name if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise BodaError(f"no {what} at {path}: {advice}")
    return path
