"""Sample, Message, ImageRef: the one currency between data sources and everything else.

Every on-disk format becomes Samples in `boda.data.sources` and nowhere else.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from boda.errors import BadRow, BodaError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
IMAGE_MARK = "<image>"


@dataclass(frozen=True)
class ImageRef:
    """Where a picture is; nothing is read before `read()`.

    Args:
        path: the picture's file, or the archive or Parquet file that holds it.
        member: its name inside a zip or tar.
        row: its row inside a Parquet file, with `column` naming the image column.
        data: the bytes themselves, for pictures that come from a request rather than a file.
    """

    path: str = ""
    member: str = ""
    row: int = -1
    column: str = ""
    data: bytes | None = field(default=None, repr=False)

    def read(self) -> bytes:
        """The encoded picture. Raises BodaError naming the place if it is not there."""
        try:
            if self.data is not None:
                return self.data
            if self.row >= 0:
                return _read_parquet_cell(self.path, self.row, self.column)
            if self.member:
                return _read_member(self.path, self.member)
            return Path(self.path).read_bytes()
        except (FileNotFoundError, KeyError, IsADirectoryError, NotADirectoryError) as error:
            raise BodaError(f"no picture at {self}") from error

    @property
    def key(self) -> str:
        """Identity of the picture: equal keys mean the same picture."""
        if self.data is not None:
            return "sha256:" + hashlib.sha256(self.data).hexdigest()
        return str(self)

    def to_json(self) -> str:
        """One line that `from_json` turns back; bytes held in memory cannot be stored by reference."""
        if self.data is not None:
            raise BodaError("a picture held in memory has no place to refer to; write it to a file first")
        values = {"path": self.path, "member": self.member, "column": self.column}
        kept = {name: value for name, value in values.items() if value}
        if self.row >= 0:
            kept["row"] = self.row  # type: ignore[assignment]
        return json.dumps(kept, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> ImageRef:
        return cls(**json.loads(line))

    def __str__(self) -> str:
        if self.data is not None:
            return f"{len(self.data)} bytes in memory"
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

    Args:
        messages: system (at most one, first), then user and assistant turns.
        images: pictures in the order of the image parts of the messages.
        rejected: the losing last answer, for preference training.
        source: data set, row and licence.
        tags: free labels that evaluation groups by (question type, split).

    Raises:
        BadRow: the numbers of image parts and pictures differ, or the turns make no conversation.
    """

    messages: tuple[Message, ...]
    images: tuple[ImageRef, ...] = ()
    rejected: str | None = None
    source: Source = Source()
    tags: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        marks = sum(message.num_images for message in self.messages)
        if marks != len(self.images):
            raise self.bad(
                "images",
                f"the conversation has {marks} {IMAGE_MARK} {'mark' if marks == 1 else 'marks'} and the row names "
                f"{len(self.images)} {'picture' if len(self.images) == 1 else 'pictures'}; the two must agree",
            )
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

    def bad(self, field_name: str, why: str) -> BadRow:
        """The error that names this sample."""
        return BadRow(self.source.dataset, self.source.row, field_name, why)

    def check_trainable(self) -> Sample:
        """The sample itself if its last turn is an assistant's that says something; else BadRow."""
        roles = [message.role for message in self.messages]
        if "assistant" not in roles:
            raise self.bad("messages", "no assistant turn, so nothing to learn; add an answer or drop the row")
        if roles[-1] != "assistant":
            raise self.bad("messages", f"the conversation ends on the {roles[-1]}; the last turn must be the assistant's")
        turns = [role for role in roles if role != "system"]
        if turns[0] != "user" or any(first == second for first, second in zip(turns, turns[1:])):
            raise self.bad("messages", f"turns must alternate user, assistant, ...; they are {', '.join(turns)}")
        for message in self.messages:
            if message.role == "assistant" and not message.text.strip():
                raise self.bad("messages", "an assistant turn is empty")
        return self


def conversation(*turns: tuple[Role, str], images: tuple[ImageRef, ...] = (), **rest) -> Sample:
    """A Sample from (role, text) pairs; `<image>` in a text is the place of the next picture."""
    return Sample(tuple(Message(role, split_marks(text)) for role, text in turns), images, **rest)


def split_marks(text: str) -> tuple[Part, ...]:
    """Text with `<image>` marks -> parts. A single line break beside a mark belongs to the mark and goes with it."""
    pieces = text.split(IMAGE_MARK)
    parts: list[Part] = []
    for index, piece in enumerate(pieces):
        if index > 0:
            parts.append(Part("image"))
            piece = piece.removeprefix("\n")
        if index < len(pieces) - 1:
            piece = piece.removesuffix("\n")
        if piece:
            parts.append(Part("text", piece))
    return tuple(parts)


@lru_cache(maxsize=16)
def _open_archive(path: str) -> tuple[zipfile.ZipFile | tarfile.TarFile, dict[str, tarfile.TarInfo] | None]:
    if zipfile.is_zipfile(path):
        return zipfile.ZipFile(path), None
    tar = tarfile.open(path)
    return tar, {info.name: info for info in tar.getmembers()}


def _read_member(path: str, member: str) -> bytes:
    archive, infos = _open_archive(path)
    if isinstance(archive, zipfile.ZipFile):
        return archive.read(member)
    stream = archive.extractfile((infos or {})[member])
    if stream is None:
        raise KeyError(member)
    return stream.read()


@lru_cache(maxsize=64)
def _row_group(path: str, group: int, column: str) -> list:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, memory_map=True).read_row_group(group, columns=[column])[column].to_pylist()


@lru_cache(maxsize=64)
def _row_group_starts(path: str) -> tuple[int, ...]:
    import pyarrow.parquet

    metadata = pyarrow.parquet.ParquetFile(path).metadata
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return tuple(starts)


def _read_parquet_cell(path: str, row: int, column: str) -> bytes:
    import bisect

    starts = _row_group_starts(path)
    if not 0 <= row < starts[-1]:
        raise KeyError(row)
    group = bisect.bisect_right(starts, row) - 1
    cell = _row_group(path, group, column)[row - starts[group]]
    if isinstance(cell, dict):  # the `datasets` Image feature: {bytes, path}
        if cell.get("bytes") is not None:
            return cell["bytes"]
        return (Path(path).parent / str(cell.get("path"))).read_bytes()
    if isinstance(cell, bytes):
        return cell
    raise BodaError(f"{path}, row {row}: column '{column}' holds {type(cell).__name__}, not a picture")


def image_from_pil(image) -> ImageRef:
    """An ImageRef that holds a PIL image in memory (as PNG)."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return ImageRef(data=buffer.getvalue())
