"""The file every answer goes to as it comes, and whoever gives the answers."""

from __future__ import annotations

import hashlib
import json
import os
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
Ask = Callable[[list[list[dict]], dict], Sequence[str]]


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
    from boda.models.generate import generate

    def seen(message: dict) -> dict:
        read = [{**part, "image": load_image(part["image"])} if part["type"] == "image" else part for part in _parts(message)]
        return {**message, "content": read}

    def ask(conversations: list[list[dict]], decoding: dict) -> list[str]:
        return generate(model, processor, [[seen(message) for message in messages] for messages in conversations], **decoding)

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
    """Records of one batch. A row that cannot be asked (a broken picture, a text too long) fails alone, not its batch."""
    asked = [task.messages(row) for row in rows]
    seen = [_without_pictures(messages) if blind else messages for messages in asked]
    try:
        replies: Sequence[str | BodaError] = ask(seen, task.decoding)
    except BodaError as error:
        if len(rows) > 1:
            return [record for row in rows for record in answered(ask, task, [row], blind)]
        replies = [error]
    if len(replies) != len(rows) or not all(isinstance(reply, str | BodaError) for reply in replies):
        raise TypeError(f"the model was asked {len(rows)} questions and gave {len(replies)} answers or no texts")
    records = []
    for row, messages, shown, reply in zip(rows, asked, seen, replies):
        record: dict = {"task": task.name, "row": row.id, "prompt": _as_text(shown), "images": _pictures_of(messages)}
        failure = {"score": None, "extracted": None, "error": str(reply)} if isinstance(reply, BodaError) else {}
        record |= {"raw": None if failure else reply, **task.score(row, "" if failure else str(reply)), "failed": bool(failure)}
        records.append(record | failure)
    return records


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
    """`answers.jsonl`: a line an answer, on disk before the next batch is asked.

    The line that a killed run was writing goes, and so do failures: they are asked again.
    """

    def __init__(self, path: Path):
        self.path = path
        self.records: dict[tuple[str, str], dict] = {}
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                key = (record["task"], record["row"])
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):  # no line break after it: torn
                    break
                raise BodaError(
                    f"{path}, line {number} is no answer; mend or delete the line, or choose another --out"
                ) from error
            if not record["failed"]:
                self.records[key] = record
        if lines:
            write_lines(path, self.records.values())

    def add(self, records: Sequence[dict]) -> None:
        """Appends whole lines and waits for the disk. Raises BodaError if it is full."""
        with (
            writing(self.path, "the same command goes on from the last answer"),
            self.path.open("a", encoding="utf-8") as stream,
        ):
            stream.write(as_lines(records))
            stream.flush()
            os.fsync(stream.fileno())
        self.records |= {(record["task"], record["row"]): record for record in records}


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
