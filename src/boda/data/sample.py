"""Sample, Message, ImageRef: the one currency between data sources and everything else.

Every on-disk format becomes Samples in `boda.data.sources` and nowhere else.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from boda.data.files import read_member, read_part
from boda.data.parquet import read_cell
from boda.errors import WHY, BadRow, BodaError, explaining

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
IMAGE_MARK = "<image>"
IN_JSON = ".json#/"  # in the name of a picture that is a text in a json: behind it the keys and numbers that lead there


@dataclass(frozen=True)
class ImageRef:
    """Where a picture is; nothing is read before `read()`."""

    path: str = ""  # the picture's file, or the archive or Parquet file that holds it
    member: str = ""  # its name inside a zip or tar; `a.json#/b/0`: the base64 text at this place of the json
    row: int = -1  # its row inside a Parquet file
    column: str = ""  # the image column there (`images[1]`: the second of a list)
    data: bytes | None = field(default=None, repr=False)  # the bytes themselves, of pictures that come from a request
    drawn: str = ""  # the name of a picture that Boda draws itself, anew each time (`boda.data.drawn.samples.picture`)
    offset: int = -1  # where it begins in a tar shard, so that no list of the shard's members is needed
    size: int = 0  # and its bytes there

    def read(self) -> bytes:
        """The encoded picture. Raises BodaError naming the place if it is not there."""
        try:
            if self.data is not None:
                return self.data
            if self.drawn:
                return image_from_pil(self.picture()).read()
            if self.row >= 0:
                return read_cell(self.path, self.row, self.column)
            if self.offset >= 0:
                data, (_, mark, place) = read_part(self.path, self.offset, self.size), self.member.partition(IN_JSON)
                return _from_json(data, place) if mark else data
            if self.member:
                return read_member(self.path, self.member)
            return Path(self.path).read_bytes()
        except (OSError, KeyError, IndexError) as error:
            reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
            raise BodaError(f"no picture at {self}{reason}") from error

    def picture(self):
        """The PIL image of a drawn picture, without a way through bytes."""
        from boda.data.drawn.samples import picture

        return picture(self.drawn)

    @property
    def key(self) -> str:
        """Identity of the picture: equal keys mean the same picture."""
        if self.data is not None:
            return "sha256:" + hashlib.sha256(self.data).hexdigest()
        return str(self)

    def to_json(self) -> str:
        """One line that `from_json` turns back; a picture held in memory is written out whole."""
        kept = {each.name: value for each in fields(self) if (value := getattr(self, each.name)) != each.default}
        if self.data is not None:
            kept["data"] = base64.b64encode(self.data).decode()
        return json.dumps(kept, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> ImageRef:
        values = json.loads(line)
        if "data" in values:
            values["data"] = base64.b64decode(values["data"])
        return cls(**values)

    def __str__(self) -> str:
        if self.data is not None:
            return f"{len(self.data)} bytes in memory"
        if self.drawn:
            return f"drawn {self.drawn}"
        if self.row >= 0:
            return f"{self.path}[{self.row}].{self.column}"
        return f"{self.path}!{self.member}" if self.member else self.path


@dataclass(frozen=True)
class Part:
    """A piece of a message: some text, or the place of the sample's next picture."""

    type: Literal["text", "image"]
    text: str = ""


@dataclass(frozen=True)
class Message:
    """One turn: who speaks, and texts and pictures in the order they are said."""

    role: Role
    content: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The words alone."""
        return "".join(part.text for part in self.content)

    @property
    def num_images(self) -> int:
        return sum(part.type == "image" for part in self.content)

    def as_dict(self) -> dict:
        """The message as `apply_chat_template` takes it, pictures as bare marks."""
        parts = [{"type": "image"} if part.type == "image" else {"type": "text", "text": part.text} for part in self.content]
        return {"role": self.role, "content": parts}


@dataclass(frozen=True)
class Source:
    """Where a sample came from."""

    dataset: str = ""
    row: int | str = -1
    licence: str = ""


@dataclass(frozen=True)
class Sample:
    """A conversation with its pictures: what every model here learns from.

    Raises BadRow: the numbers of image parts and pictures differ, or the turns make no conversation.
    """

    messages: tuple[Message, ...]  # system (at most one, first), then user and assistant turns
    images: tuple[ImageRef, ...] = ()  # in the order of the image parts of the messages
    rejected: str | None = None  # the losing last answer, for preference training
    source: Source = Source()
    tags: tuple[tuple[str, str], ...] = ()  # free labels that evaluation groups by (question type, split)

    def __post_init__(self):
        marks, pictures = sum(message.num_images for message in self.messages), len(self.images)
        if marks != pictures:
            why = f"the conversation has {marks} {IMAGE_MARK} mark{'s' * (marks != 1)} and the row names {pictures} "
            raise self.bad("images", f"{why}picture{'s' * (pictures != 1)}; write one {IMAGE_MARK} where each belongs")
        if not self.messages:
            raise self.bad("messages", "the conversation is empty")
        for index, message in enumerate(self.messages):
            if message.role not in ROLES:
                raise self.bad("messages", f"unknown role '{message.role}'; roles are {', '.join(ROLES)}")
            if message.role == "system" and index > 0:
                raise self.bad("messages", "a system message may only come first")
            for part in message.content:
                if part.type == "text" and IMAGE_MARK in part.text:
                    raise self.bad("messages", f"the text itself contains {IMAGE_MARK}, which stands for a picture; remove it")
                if not _is_unicode(part.text):
                    raise self.bad("messages", f"bytes that are no UTF-8, or half a character, in: {printable(part.text)}")
        if self.rejected is not None and (IMAGE_MARK in self.rejected or not _is_unicode(self.rejected)):
            raise self.bad("rejected", f"{IMAGE_MARK}, or bytes that are no UTF-8, in: {printable(self.rejected)}")

    def bad(self, field_name: str, why: str) -> BadRow:
        """The error that names this sample."""
        return BadRow(self.source.dataset, self.source.row, field_name, why)

    @property
    def is_document(self) -> bool:
        """Whether it is a text for itself, maybe with pictures in it, no answer to anything: one message, the assistant's."""
        return len(self.messages) == 1 and self.messages[0].role == "assistant"

    def check_trainable(self) -> Sample:
        """The sample itself if its last turn is an assistant's that says something, or it is a document; else BadRow."""
        roles = [message.role for message in self.messages]
        if "assistant" not in roles:
            raise self.bad("messages", "no assistant turn, so nothing to learn; add an answer or drop the row")
        if roles[-1] != "assistant":
            raise self.bad("messages", f"the conversation ends on the {roles[-1]}; the last turn must be the assistant's")
        turns = [role for role in roles if role != "system"]
        if not self.is_document and (turns[0] != "user" or any(first == second for first, second in zip(turns, turns[1:]))):
            raise self.bad("messages", f"turns must alternate user, assistant, ...; they are {', '.join(turns)}")
        for message in self.messages:
            if message.role == "assistant" and message.num_images and not self.is_document:
                raise self.bad("images", "an assistant turn holds a picture; answers are words: move it to the question")
            if message.role == "assistant" and not message.text.strip():
                raise self.bad("messages", "an assistant turn is empty")
            if message.role == "user" and not message.text.strip() and not message.num_images:
                raise self.bad("messages", "a user turn is empty: it has neither text nor picture")
        rejected = None if self.rejected is None else self.rejected.strip()
        if rejected == "":
            raise self.bad("rejected", "the rejected answer is empty")
        if rejected == self.messages[-1].text.strip():
            raise self.bad("rejected", "chosen and rejected are one answer, so there is nothing to prefer; drop the row")
        return self


def printable(text: str, most: int = 60) -> str:
    """The beginning of a text as it can be printed, bytes that were no UTF-8 as `\\xNN`."""
    shown = repr(text if len(text) <= most else text[:most] + "...")
    return shown.replace("\\udc", "\\x")


def conversation(*turns: tuple[Role, str], images: tuple[ImageRef, ...] = (), **rest) -> Sample:
    """A Sample from (role, text) pairs; `<image>` in a text is the place of the next picture."""
    return Sample(tuple(Message(role, split_marks(text)) for role, text in turns), images, **rest)


def base64_bytes(text: str) -> bytes:
    """What a base64 text stands for, also one that was printed as Python's bytes (b'...'). Raises BodaError if it is none."""
    with explaining(f"no base64 ({WHY})", ValueError, TypeError, AttributeError):
        return base64.b64decode(text.removeprefix("b'").removesuffix("'"), validate=True)


def _from_json(data: bytes, place: str) -> bytes:
    with explaining(f"no picture at {place} of the json ({WHY})", ValueError, TypeError):
        value = json.loads(data)
        for step in place.split("/"):
            value = value[int(step) if isinstance(value, list) else step]
        return base64_bytes(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
        return True
    except UnicodeEncodeError:  # lone surrogates, which no tokenizer takes
        return False


def split_marks(text: str) -> tuple[Part, ...]:
    """Text with `<image>` marks -> parts. A single line break beside a mark belongs to the mark and goes with it."""
    if IMAGE_MARK not in text:
        return (Part("text", text),) if text else ()
    text = text.replace(f"\n{IMAGE_MARK}", IMAGE_MARK).replace(f"{IMAGE_MARK}\n", IMAGE_MARK)
    pieces = re.split(f"({IMAGE_MARK})", text)
    return tuple(Part("image") if piece == IMAGE_MARK else Part("text", piece) for piece in pieces if piece)


def image_from_pil(image) -> ImageRef:
    """An ImageRef that holds a PIL image in memory (as PNG)."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return ImageRef(data=buffer.getvalue())


def image_from_uri(uri: str) -> ImageRef:
    """An ImageRef that holds the picture of a `data:image/...;base64,...` address. Raises BodaError if it is broken."""
    head, comma, body = uri.partition(",")
    with explaining(f"a data: address that cannot be read ({WHY}): {uri[:40]}...", ValueError):
        if not (comma and head.startswith("data:") and head.endswith(";base64")):
            raise ValueError("it must begin data:image/png;base64,")
        return ImageRef(data=base64.b64decode(body, validate=True))
