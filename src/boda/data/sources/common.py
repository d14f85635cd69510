"""What the sources share: a row with its place and pictures, and how its fields become a Sample."""

from __future__ import annotations

import contextlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from boda.data.files import Place, archive_index
from boda.data.rows import Rows, text_rows
from boda.data.sample import IMAGE_MARK, ImageRef, Message, Part, Role, Sample, Source, image_from_uri, printable, split_marks
from boda.data.templates import Template, as_text, is_empty
from boda.errors import BadRow, BodaError, LeftOut
from boda.files import as_lines

_template = lru_cache(Template)
SPEAKERS: dict[str, Role] = {"human": "user", "user": "user", "system": "system"}
SPEAKERS |= dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "gemini", "claude", "model"), "assistant")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


@dataclass
class Options:
    """How one data set is read: the arguments of `boda.data.sources.read`, opened."""

    place: Place
    images: Place | None = None
    columns: dict[str, str] = field(default_factory=dict)
    question: Template | None = None
    answer: Template | None = None
    keep: dict[str, list[str]] = field(default_factory=dict)
    licence: str = ""
    probe: bool = True
    trainable: bool = True
    probed: dict[str, None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The file as errors call it."""
        return str(self.place)

    @cached_property
    def base(self) -> Place:
        """The folder that pictures are named from."""
        return self.images or (self.place if self.place.is_folder else self.place.parent)

    @property
    def templates(self) -> list[Template]:
        """Every template in use, among them columns written as one: `{image: "img/{id}.png"}`."""
        written = [_template(value) for value in self.columns.values() if "{" in value]
        return [*written, *(template for template in (self.question, self.answer) if template)]

    def picture(self, value: str | bytes) -> ImageRef:
        """The picture a row holds or names: a `data:` address, absolute, in `images`, or beside the data file.

        Raises BodaError: it cannot be used.
        """
        if isinstance(value, bytes) or value.startswith("data:"):
            ref = ImageRef(data=value) if isinstance(value, bytes) else image_from_uri(value)
            self.check(ref)
            return ref
        if "://" in value:
            raise BodaError(f"pictures on the web are not fetched: download {value[:80]} and give its path")
        place = self._place(value)
        ref = ImageRef(place.path, place.member)
        try:
            if self.probe:
                self.check(ref)
        except BodaError as error:
            if "no picture at" not in str(error):
                raise
            hint = f"it is looked for in {self.base}; `images:` names another folder, zip or tar"
            raise BodaError(f"{error}; {hint}") from error
        return ref

    def _place(self, name: str) -> Place:
        place = Place.of(name) if os.path.isabs(name) else self.base.child(name)
        if place.member:  # an archive may hold all in one folder of its own: `images/1.jpg` in `images.zip`
            index = archive_index(place.path)
            inner = f"{next(iter(index), '').partition('/')[0]}/{place.member}"
            return Place(place.path, inner) if place.member not in index and inner in index else place
        if name.isascii() or os.path.exists(place.path):
            return place
        forms = (unicodedata.normalize(form, place.path) for form in ("NFC", "NFD"))  # macOS writes Hangul decomposed
        return next((Place(form) for form in forms if os.path.exists(form)), place)

    def check(self, ref: ImageRef) -> None:
        """Reads the picture's header, once for each of the last pictures. Raises BodaError if it cannot be used."""
        from boda.data.images import probe_image

        if ref.key not in self.probed:
            probe_image(ref)
            self.probed[ref.key] = None
            if len(self.probed) > 50_000:
                del self.probed[next(iter(self.probed))]


@dataclass
class Row:
    """One row of a data set on its way to become samples."""

    number: int | str
    cells: dict[str, Any]
    options: Options

    def bad(self, field_name: str, why: str) -> BadRow:
        return BadRow(self.options.name, self.number, field_name, why)

    def get(self, name: str, *others: str) -> Any:
        """The cell of our field `name`: the column given for it, else the first of these names there is; None if it is empty."""
        column = self.options.columns.get(name)
        if column is None:
            return next((self.cells[each] for each in (name, *others) if not is_empty(self.cells.get(each))), None)
        if "{" in column:
            return self.fill(_template(column), name)
        cell = self._cell(column, name)
        return None if is_empty(cell) else cell

    def _cell(self, column: str, field_name: str) -> Any:
        if column not in self.cells:
            raise self.bad(field_name, f"no column '{column}'; the row has {self.names()}")
        return self.cells[column]

    def need(self, name: str, *others: str) -> Any:
        """As `get`, but an empty cell is an error that names the columns there are."""
        value = self.get(name, *others)
        if value is None:
            column = self.options.columns.get(name)
            if column is None and not {name, *others} & set(self.cells):
                raise self.bad(
                    name, f"no {' or '.join([name, *others])}; the row has {self.names()}: `columns:` says which is meant"
                )
            raise self.bad(name, f"'{column or name}' is empty")
        return value

    def names(self) -> str:
        return ", ".join(map(str, self.cells)) or "no columns"

    def is_kept(self) -> bool:
        """Whether the row has the values that `where:` asks for. Raises BadRow if it lacks the column."""
        return all(as_text(self._cell(column, "where")) in values for column, values in self.options.keep.items())

    @property
    def id(self) -> str:
        """What wordings are chosen by: the row's own id, else its number."""
        given = self.cells.get(self.options.columns.get("id", "id"))
        return str(self.number if is_empty(given) else given)

    def fill(self, template: Template, field_name: str) -> str:
        try:
            return template.fill(self.cells, self.id)
        except BodaError as error:
            raise self.bad(field_name, str(error)) from error

    def text(self, value: Any, field_name: str) -> str:
        """`value` if it is text; else BadRow."""
        if not isinstance(value, str):
            raise self.bad(field_name, f"text is needed; this is {kind_of(value)}: {printable(str(value))}")
        return value

    def picture(self, value: Any, field_name: str = "image") -> ImageRef:
        """The picture a cell stands for: a path, a `data:` address, {path} or {url} or {bytes}, or an ImageRef."""
        if isinstance(value, ImageRef):
            return value
        if isinstance(value, dict):
            value = next((value[key] for key in ("bytes", "path", "url", "image") if not is_empty(value.get(key))), None)
        if not isinstance(value, bytes) and not (isinstance(value, str) and value.strip()):
            raise self.bad(field_name, f"a picture's path is needed; this is {kind_of(value)}")
        try:
            return self.options.picture(value)
        except BodaError as error:
            raise self.bad(field_name, str(error)) from error

    def pictures(self, name: str = "image", *others: str) -> list[ImageRef]:
        """The pictures of a cell that holds none, one or a list."""
        value = self.get(name, *others)
        values = [] if value is None else value if isinstance(value, list) else [value]
        return [self.picture(item, name if len(values) == 1 else f"{name}[{index}]") for index, item in enumerate(values)]

    def sample(self, messages: Iterable[Message], images: Iterable[ImageRef] = (), rejected: str | None = None) -> Sample:
        """The finished sample. Raises BadRow if turns and pictures make no conversation to learn from."""
        tags = self.cells.get("tags")
        if isinstance(tags, list) and all(isinstance(tag, dict) and {"name", "value"} <= set(tag) for tag in tags):
            # Of Parquet, where the fields of an object would be the same in all rows.
            tags = {tag["name"]: tag["value"] for tag in tags}
        if not (tags is None or isinstance(tags, dict)):
            raise self.bad("tags", f"an object of labels is needed; this is {kind_of(tags)}")
        licence = self.options.licence or as_text(self.get("licence", "license", "LICENSE") or "")
        source = Source(self.options.name, self.number, licence)
        labels = tuple((str(key), as_text(value)) for key, value in (tags or {}).items())
        made = Sample(tuple(messages), tuple(images), rejected=rejected, source=source, tags=labels)
        return made.check_trainable() if self.options.trainable else made

    def system(self) -> list[Message]:
        """The system message that stands beside the turns, if there is one."""
        text = self.get("system")
        return [] if text is None else [Message("system", split_marks(self.text(text, "system")))]

    def conversation(self, name: str, images: list[ImageRef], tidy: Callable[[list[Message]], list[Message]] = list) -> Sample:
        """The turns in column `name` as a sample."""
        messages, pictures = self.turns(self.need(name), name, images)
        if not any(message.role == "user" for message in messages):
            raise self.bad(name, "no user turn, so nothing is asked; a text that nobody asks for is format 'text'")
        return self.sample(tidy(messages), pictures)

    def turns(self, turns: Any, name: str, images: list[ImageRef]) -> tuple[list[Message], list[ImageRef]]:
        """Turns {from, value} or {role, content}, content being text or parts -> messages, the system text beside them in front,
        and their pictures. <image> marks stand for `images`, in order, unless a part names its own."""
        if not isinstance(turns, list):
            raise self.bad(name, f"a list of turns is needed; this is {kind_of(turns)}")
        messages, used, waiting = [], [], list(images)
        for index, turn in enumerate(turns):
            place = f"{name}[{index}]"
            keys = turn if isinstance(turn, dict) else {}
            who, what = ("from", "value") if "from" in keys and "value" in keys else ("role", "content")
            if who not in keys or what not in keys:
                has = f"has {', '.join(map(str, keys))}" if keys else f"is {kind_of(turn)}"
                raise self.bad(place, f"a turn has `from` and `value`, or `role` and `content`; this {has}")
            speaker = turn[who]
            if str(speaker) not in SPEAKERS:
                raise self.bad(place, f"unknown speaker {speaker!r}; speakers are {', '.join(SPEAKERS)}")
            parts: list[Part] = []
            for part, own in self._parts(turn[what], place):
                parts.append(part)
                if part.type == "image" and (own or waiting):
                    used.append(own or waiting.pop(0))
            messages.append(Message(SPEAKERS[speaker], tuple(parts)))
        return self.system() + messages if messages else [], [*used, *waiting]

    def _parts(self, content: Any, place: str) -> Iterable[tuple[Part, ImageRef | None]]:
        """A message's parts, those of pictures with the picture they name, if they do."""
        if isinstance(content, str) and content.startswith("[{") and '"type"' in content:  # parts written as JSON text
            with contextlib.suppress(ValueError):
                content = json.loads(content)
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise self.bad(place, f"text or a list of parts is needed; this is {kind_of(content)}")
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text":
                for piece in split_marks(self.text(part.get("text"), place)):
                    yield piece, None
            elif kind in ("image", "image_url"):
                own = next((part[key] for key in ("image", "path", "url", "image_url") if not is_empty(part.get(key))), None)
                yield Part("image"), None if own is None else self.picture(own, place)
            else:
                raise self.bad(place, f"a part has type text, image or image_url; this is {printable(str(part))}")

    def asked(self, question: str, answer: str | None, images: list[ImageRef]) -> Sample:
        """One question and its answer; pictures come first unless the question says where with <image>."""
        turns = [Message("user", marked(images, question))]
        if answer is not None:
            turns.append(Message("assistant", split_marks(answer)))
        return self.sample(turns, images)


def marked(images: list[ImageRef], *texts: str) -> tuple[Part, ...]:
    """A text part for each text; pictures come first unless a text says where with <image>."""
    marks = [] if any(IMAGE_MARK in text for text in texts) else [Part("image")] * len(images)
    return (*marks, *(part for text in texts for part in split_marks(text)))


def kind_of(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}
    return "empty" if is_empty(value) else names.get(type(value), type(value).__name__)


def table_samples(row: Row) -> Iterable[Sample]:
    """A row of a table -> its question and answer: from templates, else from the columns `question` and `answer`."""
    options, answer = row.options, None
    question = row.fill(options.question, "question") if options.question else as_text(row.need("question"))
    if options.answer:
        answer = row.fill(options.answer, "answer")
    elif options.trainable or row.get("answer") is not None:
        answer = as_text(row.need("answer"))
    images = row.pictures("image", "images")
    if "image" in options.columns and not images:
        raise row.bad("image", "no picture is named; fill the cell, or drop the row")
    yield row.asked(question, answer, images)


def file_rows(options: Options) -> Rows:
    """Rows of a text file; templates are checked against a table's first row."""
    table = options.place.suffix in (".csv", ".tsv")
    for number, row in text_rows(options.place):
        if table and isinstance(row, dict):
            check_columns(options, row)
            table = False
        yield number, row


def check_columns(options: Options, names: Iterable[str]) -> None:
    """Raises BodaError naming the columns there are if templates or `columns:` ask for others."""
    names = list(names)
    for template in options.templates:
        template.check(names, options.name)
    for ours, theirs in options.columns.items():
        if "{" not in theirs and theirs not in names:
            raise BodaError(f"{options.name}: `columns: {{{ours}: {theirs}}}` names no column; there are {', '.join(names)}")


@dataclass(frozen=True)
class Format:
    """What a row looks like, how it becomes samples, the columns that tell it (one of each set), and how rows are read."""

    looks_like: str
    samples: Callable[[Row], Iterable[Sample]]
    columns: tuple[set[str], ...] = ()
    rows: Callable[[Options], Rows] = file_rows

    def recognises(self, names: set[str]) -> bool:
        return bool(self.columns) and all(names & each for each in self.columns)


@dataclass
class BadRows:
    """Rows that cannot be used, collected while a data set is read."""

    rows: list[BadRow] = field(default_factory=list)
    seen: int = 0  # rows that were read, good and bad
    formats: dict[str, None] = field(default_factory=dict)  # that they were read as
    example: dict[str, Any] = field(default_factory=dict)  # the first row as it was read
    left_out: Counter[str] = field(default_factory=Counter)  # sound rows that a rule of their format leaves out, by rule

    def add(self, row: BadRow) -> None:
        if isinstance(row, LeftOut):
            self.left_out[row.why] += 1
        else:
            self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def write(self, path: str | Path) -> Path:
        """All of them as JSON lines: {where, row, field, why}."""
        Path(path).write_text(as_lines(row.as_dict() for row in self.rows), encoding="utf-8", errors="backslashreplace")
        return Path(path)

    def check(self, max_fraction: float, listed_in: str | Path = "bad_rows.jsonl") -> None:
        """Raises BodaError naming the first three if more than this share of the rows is bad."""
        bad, seen = len(self), max(self.seen, len(self), 1)
        if bad / seen > max_fraction:
            first = "".join(f"\n  {row}" for row in self.rows[:3])
            raise BodaError(
                f"{bad} of {seen} rows cannot be used ({bad / seen:.1%}; max_bad_rows allows {max_fraction:.1%}); the first:"
                f"{first}\n{f'All are listed in {listed_in}' if listed_in else 'boda data check lists all'}. Mend or remove them, or raise "
                "max_bad_rows."
            )


class NoBadRows(BadRows):
    """The first bad row is raised."""

    def add(self, row: BadRow) -> None:
        raise row
