"""Names and their fixed translations, which every engine has to keep."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from boda.data.files import Place
from boda.data.rows import text_rows
from boda.errors import BadRow, BodaError


class Glossary:
    """source -> target, found in any case as whole words, the longer of two names first.

    Raises BodaError, naming the lines: an empty side, one name with two translations, names that translate each other in a circle. A
    name that is its own translation stays as it is.
    """

    def __init__(
        self, entries: Iterable[tuple[str, str]] = (), where: str = "the glossary", numbers: Iterable[int] = itertools.count(1)
    ):
        self.pairs: dict[str, str] = {}
        lines: dict[str, int] = {}
        names: list[str] = []
        for pair, line in zip(entries, numbers):
            source, target = (" ".join(unicodedata.normalize("NFC", side).split()) for side in pair)
            if not source or not target:
                raise BodaError(f"{where}, line {line}: {'target' if source else 'source'} is empty; fill it or drop the line")
            key = _key(source)
            if self.pairs.setdefault(key, target) != target:
                said = f"'{source}' is '{self.pairs[key]}' in line {lines[key]} and '{target}' in line {line}"
                raise BodaError(f"{where}: {said}; keep one of them")
            lines.setdefault(key, line)
            names.append(source)
        for start in self.pairs:  # translations, looked up as names again, must not come back to it
            walked = [start]
            while (name := _key(self.pairs[walked[-1]])) in self.pairs and name not in walked:
                walked.append(name)
            if name == start and len(walked) > 1:
                said = " -> ".join(f"'{each}' (line {lines[each]})" for each in walked)
                raise BodaError(f"{where}: a circle of names, {said} -> '{start}'; a name and its translation are no two names")
        said = json.dumps(sorted(self.pairs.items()), ensure_ascii=False)
        self.identity = hashlib.sha256(said.encode()).hexdigest()[:16] if self.pairs else ""
        self._names = _pattern(names)

    @classmethod
    def read(cls, path: str | Path) -> Glossary:
        """A CSV or TSV file whose first line is `source,target`, or JSON lines of {"source", "target"}."""
        place, entries, numbers = Place.of(path), [], []
        for number, row in text_rows(place):
            if isinstance(row, BadRow):
                raise row
            if not all(isinstance(row.get(side), str) for side in ("source", "target")):
                raise BodaError(f"{path}: a glossary has the columns source and target; there are {', '.join(map(str, row))}")
            entries.append((row["source"], row["target"]))
            numbers.append(int(number) + (2 if place.suffix in (".csv", ".tsv") else 1))
        return cls(entries, str(path), numbers)

    def find(self, text: str) -> Iterator[tuple[int, int, str]]:
        """(start, end, target) of every name in the text."""
        for match in self._names.finditer(text) if self._names else ():
            if target := self.pairs.get(_key(match[0])):
                yield *match.span(), target


def _key(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def _pattern(names: Iterable[str]) -> re.Pattern | None:
    """Any of the names; one in letters with cases or digits as whole words, in scripts without spaces anywhere."""
    found = [
        (r"(?<!\w)" if _is_spaced(name[0]) else "")
        + r"\s+".join(map(re.escape, name.split()))
        + (r"(?!\w)" if _is_spaced(name[-1]) else "")
        for name in sorted(names, key=lambda each: (-len(each), each))
    ]
    return re.compile("|".join(found), re.IGNORECASE) if found else None


def _is_spaced(letter: str) -> bool:
    return letter.isdigit() or (letter.isalpha() and ord(letter) < 0x2E80) or letter == "_"
