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
from boda.errors import BodaError

SAMPLES_OF_A_LARGE_FILE, PIECE = 64, 1 << 12
Ask = Callable[[list[list[dict]], dict], Sequence[str]]


@dataclass(frozen=True)
class Answerer:
    """A model as evaluation sees it.

    Args:
        identity: name and fingerprint: answers of two models never mix.
        ask: (conversations, decoding) -> one answer each.
        settings: the model's own generation settings, for the record.
        open: loads the model, before it is first asked (gives the Encoder of one that is measured instead). What it raises ends
            the run; what `ask` raises fails a question.
    """

    identity: dict[str, str]
    ask: Ask
    settings: dict
    open: Callable[[], Any] = lambda: None


def answerer(model: Any, trust_remote_code: bool = False) -> Answerer:
    """Anything that answers, as an Answerer.

    Args:
        model: a model folder or hub id; a (model, processor) pair as `boda.load` gives; or an object whose
            `answer(conversations)` gives a text for each.

    Raises:
        BodaError: none of these.
    """
    if hasattr(model, "answer"):
        name = str(getattr(model, "name", type(model).__name__))
        return Answerer({"model": name, "fingerprint": ""}, lambda conversations, decoding: model.answer(conversations), {})
    if isinstance(model, (str, Path)):
        return _from_name(str(model), trust_remote_code)
    if isinstance(model, tuple) and len(model) == 2:
        name = str(getattr(getattr(model[0], "config", None), "_name_or_path", "") or type(model[0]).__name__)
        return Answerer({"model": name, "fingerprint": ""}, _asker(*model), {})
    raise BodaError(
        f"{type(model).__name__} is no model to evaluate: give a folder or hub id, a (model, processor) pair, "
        "or an object with answer(conversations)"
    )


def _from_name(name: str, trust_remote_code: bool) -> Answerer:
    from boda.models.checkpoints import load, locate, read_info

    loaded: list[Ask] = []

    def open() -> None:
        if not loaded:
            model, processor = load(name, trust_remote_code=trust_remote_code)
            if hasattr(model, "get_text_features"):
                raise BodaError(
                    f"'{name}' is a pair model: it compares pictures and texts and answers nothing; `boda eval --list` shows its tasks"
                )
            loaded.append(_asker(model, processor))

    def ask(conversations: list[list[dict]], decoding: dict) -> Sequence[str]:
        return loaded[0](conversations, decoding)

    settings = read_info(name).get("generation", {})
    return Answerer({"model": name, "fingerprint": fingerprint(Path(locate(name)))}, ask, settings, open)


def encoding(model: Any) -> Answerer:
    """A pair model (folder, hub id, (model, processor) or Encoder), which opens to an Encoder. Raises BodaError: none of these."""
    if hasattr(model, "texts") and hasattr(model, "images"):
        return Answerer({"model": model.name, "fingerprint": model.fingerprint}, lambda *_: [], {}, lambda: model)
    if not isinstance(model, (str, Path, tuple)):
        kind = type(model).__name__
        raise BodaError(f"{kind} gives no vectors; this task measures a pair model: a folder, hub id, pair or Encoder")
    from boda.models.checkpoints import locate
    from boda.models.encoder import Encoder

    if isinstance(model, tuple):
        return encoding(Encoder(model[0], model[1], type(model[0]).__name__))
    identity = {"model": str(model), "fingerprint": fingerprint(Path(locate(model)))}
    return Answerer(identity, lambda *_: [], {}, cache(lambda: Encoder.load(str(model))))


def _asker(model, processor) -> Ask:
    from boda.models.generate import generate

    def ask(conversations: list[list[dict]], decoding: dict) -> list[str]:
        return generate(model, processor, [[seen(message) for message in messages] for messages in conversations], **decoding)

    return ask


def seen(message: dict) -> dict:
    """The message with its pictures read, as generation takes them."""
    from boda.data.images import load_image

    if isinstance(message["content"], str):
        return message
    parts = [
        {"type": "image", "image": load_image(part["image"])} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


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


def without_pictures(messages: list[dict]) -> list[dict]:
    """The same conversation for a blind model."""
    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [part for part in message["content"] if part["type"] != "image"]}
        for message in messages
    ]


def as_text(messages: list[dict]) -> list[dict]:
    """The conversation for the record: role and words, `<image>` where a picture stands."""

    def words(content) -> str:
        if isinstance(content, str):
            return content
        return "".join(IMAGE_MARK if part["type"] == "image" else part["text"] for part in content)

    return [{"role": message["role"], "content": words(message["content"])} for message in messages]


def pictures_of(messages: list[dict]) -> list[dict | None]:
    """Where the pictures of a conversation are, for the record; None for one that lies nowhere."""
    found: list[dict | None] = []
    for message in messages:
        for part in [] if isinstance(message["content"], str) else message["content"]:
            if part["type"] == "image":
                image = part["image"]
                if isinstance(image, (str, Path)):
                    image = ImageRef(str(image))
                kept = isinstance(image, ImageRef) and image.data is None
                found.append(json.loads(image.to_json()) if kept else None)
    return found


class AnswersFile:
    """`answers.jsonl`: a line an answer, on disk before the next batch is asked."""

    def __init__(self, path: Path):
        self.path = path
        self.records: dict[tuple[str, str], dict] = {}
        if path.is_file():
            self._recover()

    def _recover(self) -> None:
        """Reads what is there. The line a killed run was writing goes, and so do failures: they are asked again."""
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        kept = []
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                key = (record["task"], record["row"])
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines) - 1:  # no line break after it: torn
                    break
                raise BodaError(
                    f"{self.path}, line {number + 1} is no answer; mend or delete the line, or choose another --out"
                ) from error
            if not record["failed"]:
                kept.append(line)
                self.records[key] = record
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        partial.replace(self.path)

    def add(self, records: Sequence[dict]) -> None:
        """Appends whole lines and waits for the disk. Raises BodaError if it is full."""
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise BodaError(f"could not write {self.path}: {error}; the same command goes on from the last answer") from error
        for record in records:
            self.records[record["task"], record["row"]] = record


def read_answers(path: str | Path) -> list[dict]:
    """The records of an `answers.jsonl` (or of the folder it lies in). Raises BodaError if there is none."""
    path = Path(path)
    path = path / "answers.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise BodaError(f"no answers at {path}: an evaluation writes answers.jsonl into its --out folder")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise BodaError(f"{path}, line {number + 1} is no JSON; run the evaluation again, it mends the file") from error
    return records
