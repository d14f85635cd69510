"""Any data set that `boda.data.sources` reads -> LLaVA's JSON, rows of messages, Parquet or tar shards, which it reads back equal."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from boda.data.sample import IMAGE_MARK, ImageRef, Message, Part, Sample, split_marks
from boda.data.shards import write_shards
from boda.data.sources import BadRows
from boda.data.sources.common import PICTURES
from boda.data.survey import FirstBad
from boda.errors import WHY, BadRow, BodaError, explaining
from boda.files import as_lines, whole_folder
from boda.terminal import Progress, clear_line

TARGETS = ("llava", "messages", "parquet", "webdataset")
TALK, PAIR, TEXT = "a conversation", "a preference pair", "a text for itself"  # what a sample is, and then all of its set
_BATCH, _ROW_GROUP = 2_000, 100  # rows of a row group without and with pictures: small ones are read in any order
ADVICE = "free some space and run the same command again"  # on a full disk
_SPEAKERS = {"user": "human", "assistant": "gpt"}


def convert(
    start: Callable[[BadRows], Iterable[Sample]],
    to: str,
    out: str | Path,
    *,
    images: str | Path | None = None,
    copy_images: bool = False,
    per_shard: int | None = None,
    max_bad_rows: float = 0.01,
    quiet: bool = True,
) -> dict[str, Any]:
    """Writes samples into a new folder, in constant memory; the folder is whole or not there.

    Args:
        start: begins to read the samples, given where bad rows go.
        to: one of TARGETS.
        images: the folder that rows name pictures from, where these are files; None = `out`.
        copy_images: whether such files are copied into `out`, as pictures inside archives and Parquet files always are.
        per_shard: rows of a file of Parquet or shards; None = 10,000.
        max_bad_rows: the share of rows that may be left out because they cannot be used, or `to` cannot hold them.

    Returns {folder, to, samples, rows, bad, joined, images}: `joined` samples had texts side by side in one message, which `llava`
    holds as one; `images` is what the rows' pictures are named from ("" = the folder itself).

    Raises BodaError: no such target, `out` is not empty, too many bad rows (listed in OUT.bad_rows.jsonl), none that is good, or
    the disk is full.
    """
    out = Path(os.path.abspath(out))
    if to not in TARGETS:
        raise BodaError(f"--to {to} is no format that is written; there are {', '.join(TARGETS)}")
    if per_shard and to in ("llava", "messages"):
        raise BodaError(f"--per-shard is for parquet and webdataset; {to} is one file")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BodaError(f"{out} is there already; choose another folder, or remove it first")
    listed = out.with_name(f"{out.name}.bad_rows.jsonl")
    progress = Progress(lambda seen: f"{seen.done:,} samples, {seen.rate:,.0f} a second", quiet=quiet)
    try:
        with whole_folder(out, advice=ADVICE) as folder:
            with listed.open("w", encoding="utf-8", errors="backslashreplace") as stream:
                bad = FirstBad(stream)
                rows = _Rows(to, out, folder, images, copy_images)
                _write(to, _made(start(bad), rows, bad, progress), folder, per_shard or 10_000)
            clear_line()
            bad.check(max_bad_rows, listed)
            if not rows.count:
                raise BodaError(f"no row could be written to {out}{f'; why is listed in {listed}' if len(bad) else ''}")
    finally:
        if listed.is_file() and not listed.stat().st_size:
            listed.unlink()
    done = {"folder": str(out), "to": to, "samples": rows.count, "rows": bad.seen, "bad": len(bad), "joined": rows.joined}
    return done | {"images": str(rows.base) if rows.named and rows.base != out else ""}


def single_turns(sample: Sample) -> Iterator[Sample]:
    """Each question with its answer as a sample of its own, earlier pictures in front; pairs and texts are left as they are."""
    has_system = sample.messages[0].role == "system"
    system, turns = sample.messages[:has_system], sample.messages[has_system:]
    if sample.rejected is not None or sample.is_document:
        yield sample
        return
    before = seen = sum(message.num_images for message in system)
    for question, answer in zip(turns[::2], turns[1::2]):
        asked = replace(question, content=(*[Part("image")] * (seen - before), *question.content))
        seen += question.num_images
        yield replace(sample, messages=(*system, asked, answer), images=sample.images[:seen])


def _made(samples: Iterable[Sample], rows: _Rows, bad: BadRows, progress: Progress) -> Iterator[Any]:
    """Rows of the samples that can be written; the others are bad rows."""
    for number, sample in enumerate(samples, 1):
        progress.update(number)
        try:
            row = rows.row(sample)
        except BodaError as error:
            bad.add(error if isinstance(error, BadRow) else sample.bad("images", str(error)))
        else:
            yield row


class _Rows:
    """Samples -> rows of one target; the first sample says what all of them are."""

    def __init__(self, to: str, out: Path, folder: Path, images: str | Path | None, copies: bool):
        self.to, self.out, self.folder, self.copies = to, out, folder, copies
        self.base = Path(os.path.abspath(images)) if images and os.path.isdir(images) and not copies else out
        self.kind, self.count, self.joined, self.named = "", 0, 0, False
        self.name = lru_cache(maxsize=64)(self._name)  # rows that share a picture stand side by side

    def row(self, sample: Sample) -> Any:
        """What is written of a sample. Raises BodaError: the target cannot hold it, or a picture cannot be read."""
        kind = TEXT if sample.is_document else PAIR if sample.rejected is not None else TALK
        self._check(sample, kind)
        row = sample if self.to == "webdataset" else self._columns(sample, kind)
        self.kind, self.count = kind, self.count + 1
        return row

    def _columns(self, sample: Sample, kind: str) -> dict[str, Any]:
        row: dict[str, Any] = {"id": f"{self.count:09d}"}
        if kind == TEXT:
            row["text"] = sample.messages[0].text
        elif self.to == "llava":
            names = [self.name(image) for image in sample.images]
            row["image"] = names[0] if len(names) == 1 else names
            said = [(_SPEAKERS.get(message.role, message.role), self._marked(sample, message)) for message in sample.messages]
            row["conversations"] = [{"from": who, "value": value} for who, value in said]
            pairs = [pair for message in sample.messages for pair in itertools.pairwise(message.content)]
            self.joined += any(one.type == other.type == "text" for one, other in pairs)
        elif self.to == "messages":
            row["messages"] = [{"role": message.role, "content": _content(message)} for message in sample.messages]
            row["images"] = [self.name(image) for image in sample.images]
        else:
            row["messages"] = [message.as_dict() for message in sample.messages]
            row["images"] = [{"bytes": image.read(), "path": _file_name(image)} for image in sample.images]
        source = f"{sample.source.dataset}, row {sample.source.row}"
        row |= {"tags": dict(sample.tags), "licence": sample.source.licence, "source": source}
        row |= {"rejected": sample.rejected} if kind == PAIR else {}
        if self.to == "parquet":  # an object's fields would be the same in all rows
            return row | {"tags": [{"name": name, "value": value} for name, value in sample.tags]}
        return {name: value for name, value in row.items() if value}

    def _check(self, sample: Sample, kind: str) -> None:
        others = "--to messages and parquet do"
        if kind != TALK and self.to in ("llava", "webdataset"):
            raise sample.bad("messages", f"{self.to} cannot hold {kind}; {others}")
        if kind == TEXT and sample.images:
            raise sample.bad("images", "a text with pictures in it is held by no format that is written")
        if self.to == "webdataset" and len(sample.images) != 1:
            count = len(sample.images) or "none"
            raise sample.bad("images", f"a key of a shard holds one picture, the row has {count}; {others}")
        if self.kind and kind != self.kind:
            raise sample.bad("messages", f"this is {kind}, and the first row is {self.kind}: write them into sets of their own")

    def _marked(self, sample: Sample, message: Message) -> str:
        """The message as one text; each mark has the line break that belongs to it, so that those of the text stay."""
        said = ""
        for part in message.content:
            said += "\n" * said.endswith("\n" if part.type == "image" else IMAGE_MARK)
            said += IMAGE_MARK if part.type == "image" else part.text
        back, is_json = Message(message.role, split_marks(said)), said.startswith("[{") and '"type"' in said
        if is_json or (back.text, back.num_images) != (message.text, message.num_images):
            raise sample.bad(
                "messages", "llava holds text, and would read this as marks or parts; --to messages and parquet hold it"
            )
        return said

    def _name(self, image: ImageRef) -> str:
        """How a row names a picture: a file from the folder of pictures, anything else by its copy."""
        path, self.named = image.path, True
        if image != ImageRef(path) or self.copies:
            path = str(self.out / self._copy(image))
        path = os.path.abspath(path)
        if path.startswith(f"{self.base}{os.sep}"):
            return path[len(str(self.base)) + 1 :]
        folder, name = os.path.split(path)  # where a folder is a link, `..` leads from what it stands for
        return os.path.relpath(os.path.join(os.path.realpath(folder), name), os.path.realpath(self.base))

    def _copy(self, image: ImageRef) -> str:
        """images/HASH.jpg, written unless it is there: equal pictures are one file."""
        data = image.read()
        suffix = Path(_file_name(image) or "").suffix.lower()
        if suffix not in PICTURES:
            with explaining(f"{image} is no picture that can be read ({WHY})", OSError), Image.open(io.BytesIO(data)) as opened:
                suffix = f".{str(opened.format).lower()}"
        name = f"images/{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
        if not (self.folder / name).exists():
            (self.folder / "images").mkdir(exist_ok=True)
            (self.folder / name).write_bytes(data)
        return name


def _content(message: Message) -> str | list[dict]:
    """A text where it is nothing but one; else its parts, pictures as bare marks for the row's `images`."""
    if len(message.content) == 1 and message.content[0].type == "text" and not message.text.startswith("[{"):
        return message.text
    return message.as_dict()["content"]


def _file_name(image: ImageRef) -> str | None:
    return None if image.row >= 0 else os.path.basename(image.member or image.path) or None


def _write(to: str, rows: Iterator[Any], folder: Path, per_shard: int) -> None:
    if to == "webdataset":
        write_shards(rows, folder, per_shard, ADVICE)
    elif to == "parquet":
        _write_parquet(rows, folder, per_shard)
    else:
        with (folder / ("data.json" if to == "llava" else "data.jsonl")).open("w", encoding="utf-8") as stream:
            if to == "messages":
                stream.writelines(as_lines([row]) for row in rows)
                return
            before = "[\n"
            for row in rows:
                stream.write(before + json.dumps(row, ensure_ascii=False))
                before = ",\n"
            stream.write("\n]\n")


def _write_parquet(rows: Iterator[dict], folder: Path, per_shard: int) -> None:
    """00000.parquet, ... with the notes by which the `datasets` library shows `images` as pictures."""
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    parts = pyarrow.list_(pyarrow.struct({"type": text, "text": text}))
    turns = pyarrow.list_(pyarrow.struct({"role": text, "content": parts}))
    pictures = pyarrow.list_(pyarrow.struct({"bytes": pyarrow.binary(), "path": text}))
    for number in itertools.count():
        shard: Iterator[dict] = itertools.islice(rows, per_shard)
        if (first := next(shard, None)) is None:
            return
        said = {"text": text} if "text" in first else {"messages": turns, "images": pictures}
        tags = pyarrow.list_(pyarrow.struct({"name": text, "value": text}))
        columns = {"id": text, **said, "rejected": text, "tags": tags, "licence": text, "source": text}
        if "rejected" not in first:
            del columns["rejected"]
        notes = {"info": {"features": {name: _feature(type_) for name, type_ in columns.items()}}}
        schema = pyarrow.schema(columns, metadata={"huggingface": json.dumps(notes)})
        with pyarrow.parquet.ParquetWriter(folder / f"{number:05d}.parquet", schema, compression="zstd") as file:
            shard = itertools.chain([first], shard)
            while group := list(itertools.islice(shard, _ROW_GROUP)):
                if not any(row.get("images") for row in group):
                    group += itertools.islice(shard, _BATCH - _ROW_GROUP)
                file.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def _feature(type_: Any) -> Any:
    """A column as the `datasets` library describes it."""
    import pyarrow.types as types

    if types.is_list(type_):
        return [_feature(type_.value_type)]
    if types.is_struct(type_):
        names = [field.name for field in type_]
        return {"_type": "Image"} if "bytes" in names else {field.name: _feature(field.type) for field in type_}
    return {"dtype": str(type_), "_type": "Value"}
