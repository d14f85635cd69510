"""Which strings of a row are translated, which parts of them, and how these are put back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boda.data.sources import FORMATS
from boda.data.sources.common import SPEAKERS
from boda.errors import BodaError


def _said(name: str) -> tuple[str, ...]:
    """A text, a turn, or turns whose content is text or parts."""
    turns = (f"{name}{each}" for each in (".content", "[].value", "[].content", "[].content[].text"))
    return (name, *turns)


_PAIR = [
    path
    for name in ("prompt", "question", "messages", "conversations", "chosen", "rejected", "rejected_response")
    for path in _said(name)
]
_ALPACA = ("instruction", "input", "output", "system", "history[][]")
# What is translated of each format's rows. `[]`: of every item of a list.
FIELDS: dict[str, tuple[str, ...]] = {
    "mmc4": ("text_list[]",),
    "preference": (*_PAIR, "instruction", "input", "system"),
    "llava": (*_said("conversations")[2:], "system"),
    "sharegpt": (*_said("conversations")[2:], "system"),
    "messages": (*_said("messages")[2:], "system"),
    "kullm": (*_ALPACA, "instances[].input", "instances[].output", "prompt", "response"),
    "koalpaca": _ALPACA,
    "alpaca": _ALPACA,
    "captions": ("caption", "captions[]", "text"),
    "csv": ("question", "answer"),
    "text": ("text",),
    # The text beside a picture, and where its json says the same or tells a conversation.
    "webdataset": ("txt", "caption", "text_list[]", *_said("messages")[2:], *_said("conversations")[2:]),
}
_MOST_WORDS = 8  # of a row's columns, in a message


def fields_for(row: Mapping[str, Any], where: str, format: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The format of a row by its columns, and its fields. Raises BodaError if it is none that is known."""
    names = set(row)
    told = format or ("mmc4" if "text_list" in names else None)
    told = told or next((name for name in FIELDS if name in FORMATS and FORMATS[name].recognises(names)), None)
    told = told or ("captions" if names & {"caption", "captions"} else None)
    if told not in FIELDS:
        what = f"unknown format '{format}'" if format else f"what is to be translated of {where} cannot be told"
        has = ", ".join(map(str, list(row)[:_MOST_WORDS]))
        raise BodaError(f"{what}; --fields names it (the rows have {has}), or --format, one of {', '.join(FIELDS)}")
    return told, FIELDS[told]


@dataclass
class Slot:
    """One string of a row: where it is, as a path and in the row's own objects, and what it says."""

    where: str
    parent: Any
    key: str | int
    text: str


def find(row: dict, fields: Sequence[str]) -> Iterator[Slot]:
    """The strings that the fields name, in their order; each once."""
    seen: set[str] = set()
    for field in fields:
        names = [field] if field in row else re.findall(r"\[\]|[^.\[\]]+", field)
        for slot in _walk(row, names[0], names[1:], names[0]) if names and names[0] in row else ():
            if slot.where not in seen:
                seen.add(slot.where)
                yield slot


def _walk(parent: Any, key: str | int, names: Sequence[str], where: str) -> Iterator[Slot]:
    value = parent[key]
    if not names:
        if isinstance(value, str):
            yield Slot(where, parent, key, value)
    elif names[0] == "[]" and isinstance(value, list):
        for index in range(len(value)):
            yield from _walk(value, index, names[1:], f"{where}[{index}]")
    elif isinstance(value, dict) and names[0] in value and _is_speech(value, names[0]):
        yield from _walk(value, names[0], names[1:], f"{where}.{names[0]}")


def _is_speech(turn: dict, name: str) -> bool:
    """Whether what is said in a turn is people's language: what tools are told and answer is none."""
    speaker = turn.get("from", turn.get("role")) if name in ("value", "content") else None
    return speaker is None or str(speaker) in SPEAKERS


_LINES = re.compile("(\r\n|\n|\r)")
_EDGES = re.compile(r"((?:\s|<image>)*+)(|.*?\S)((?:\s|<image>)*+)", re.DOTALL)  # each space is looked at once
_FENCE = re.compile(r"\s*(?:```+(?!.*`)|~~~)")  # ```code``` opens none


class Text:
    """A string cut into what is translated, its units, and what is copied.

    A unit is a line without the white space and `<image>` marks around it. Copied are lines without letters, fenced code, and
    lines that are Korean already (half of the letters are Hangul).
    """

    def __init__(self, text: str):
        self.pieces: list[str] = []
        self.places: list[int] = []  # of the units among the pieces
        fence = ""
        for line in _LINES.split(text):
            mark = _FENCE.match(line)
            if mark and fence in ("", kind := mark[0].lstrip()[:3]):
                fence = "" if fence else kind
            before, core, after = _EDGES.fullmatch(line).groups()  # type: ignore[union-attr]
            if mark or fence or not is_foreign(core):
                self.pieces.append(line)
            else:
                self.places.append(len(self.pieces) + 1)
                self.pieces += [before, core, after]

    @property
    def units(self) -> list[str]:
        return [self.pieces[place] for place in self.places]

    def filled(self, translations: Sequence[str]) -> str:
        """The string with its units' translations, in their order."""
        pieces = list(self.pieces)
        for place, translation in zip(self.places, translations, strict=True):
            pieces[place] = translation
        return "".join(pieces)


def is_foreign(text: str) -> bool:
    """Whether a text has letters, and fewer than half of them Hangul."""
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum("가" <= letter <= "힣" or "ㄱ" <= letter <= "ㅣ" for letter in letters) < len(letters)
