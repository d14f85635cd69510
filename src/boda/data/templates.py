"""Question and answer templates: `이 {label_ko:은는} 무엇인가요?` filled from the columns of a row."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import string
from collections.abc import Iterable, Mapping
from typing import Any

from boda.data.korean import is_particle, with_particle
from boda.errors import WHY, BodaError, explaining


class EmptyCell(BodaError):
    """A template asks for a column that the row has nothing in."""


class Template:
    """One template, or a list of wordings of which each row uses one.

    Which wording a row uses depends on the row's id and the list alone, so neither order nor other rows matter.
    `{column}`, `{column[key]}` and `{column:은는}` (a particle, see boda.data.korean) or any format spec of Python.
    """

    def __init__(self, wordings: str | Iterable[str]):
        self.wordings = [wordings] if isinstance(wordings, str) else list(wordings)
        if not self.wordings or not all(isinstance(wording, str) for wording in self.wordings):
            raise BodaError(f"a template is a text or a list of texts, not {wordings!r}")
        self.columns = sorted({name for wording in self.wordings for name in _columns(wording)})
        self._key = json.dumps(self.wordings, ensure_ascii=False)

    def check(self, names: Iterable[str], where: str) -> None:
        """Raises BodaError naming the columns there are if a template asks for another."""
        names = list(names)
        if missing := [column for column in self.columns if column not in names]:
            raise BodaError(f"{where}: a template asks for column '{missing[0]}'; there are {', '.join(names)}")

    def fill(self, row: Mapping[str, Any], row_id: int | str) -> str:
        """The row's wording with its columns filled in. Raises EmptyCell for a missing or empty cell."""
        wording = self.wordings[0]
        if len(self.wordings) > 1:
            digest = hashlib.blake2b(f"{row_id}\0{self._key}".encode(), digest_size=8).digest()
            wording = self.wordings[int.from_bytes(digest, "big") % len(self.wordings)]
        return _FORMATTER.vformat(wording, (), row)


def is_empty(value: Any) -> bool:
    """Whether a cell says nothing: null, NaN, white space, an empty list."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value)) or value in ([], {})


def as_text(value: Any) -> str:
    """A cell as it reads in a sentence: lists joined by commas, whole numbers without a point."""
    if isinstance(value, (list, tuple)):
        return ", ".join(as_text(item) for item in value)
    if isinstance(value, dict):
        return as_text(list(value.values()))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


class _Formatter(string.Formatter):
    def get_value(self, key, args, kwargs):
        if key not in kwargs:
            raise EmptyCell(f"column '{key}' is not in this row, which has {', '.join(map(str, kwargs))}")
        if is_empty(kwargs[key]):
            raise EmptyCell(f"column '{key}' is empty; fill it, drop the row, or leave it out of the template")
        return kwargs[key]

    def get_field(self, field_name, args, kwargs):
        # A column's own name may hold dots or brackets; otherwise brackets look inside the cell. Attributes are not reached.
        if field_name in kwargs or "[" not in field_name:
            return self.get_value(field_name, args, kwargs), field_name
        column, _, keys = field_name.removesuffix("]").partition("[")
        value = self.get_value(column, args, kwargs)
        for key in keys.split("]["):
            try:
                value = value[int(key) if isinstance(value, (list, str)) else key]
            except (KeyError, IndexError, ValueError, TypeError):
                raise EmptyCell(f"column '{column}' has no [{key}]") from None
        if is_empty(value):
            raise EmptyCell(f"column '{column}' is empty at [{keys}]")
        return value, column

    def format_field(self, value, format_spec):
        if is_particle(format_spec):
            return with_particle(as_text(value), format_spec)
        if not format_spec:
            return as_text(value)
        try:
            return format(value, format_spec)
        except (ValueError, TypeError) as error:
            with contextlib.suppress(ValueError, TypeError):  # a table of text holds its numbers as text
                return format(float(value) if "." in value else int(value), format_spec)
            raise BodaError(f"'{value}' cannot be written as '{{:{format_spec}}}' ({error})") from error


_FORMATTER = _Formatter()


def _columns(wording: str) -> list[str]:
    with explaining(f"template '{wording}': {WHY}; a brace that means itself is doubled: {{{{", ValueError):
        fields = [(name, conversion) for _, name, _, conversion in string.Formatter().parse(wording) if name is not None]
    for name, conversion in fields:
        if not name or name.isdigit() or conversion:
            raise BodaError(f"template '{wording}': write a column's name between the braces, as in {{answer}}")
    return [name.partition("[")[0] for name, _ in fields]
