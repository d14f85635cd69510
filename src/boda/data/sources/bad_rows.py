"""What was wrong with a data set: rows that could not be used, counted and listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from boda.errors import BadRow, BodaError


class BadRows:
    """Collects rows that cannot be used while a data set is read.

    Attributes: rows, the bad ones; seen, how many rows were read, good and bad; formats, the formats they were read as; example,
    the first row as it was read.
    """

    def __init__(self) -> None:
        self.rows: list[BadRow] = []
        self.seen = 0
        self.formats: dict[str, None] = {}
        self.example: dict[str, Any] = {}

    def add(self, row: BadRow) -> None:
        self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def write(self, path: str | Path) -> Path:
        """All of them as JSON lines: {where, row, field, why}."""
        lines = (json.dumps(row.as_dict(), ensure_ascii=False) for row in self.rows)
        text = "".join(line + "\n" for line in lines)
        Path(path).write_text(text, encoding="utf-8", errors="backslashreplace")
        return Path(path)

    def check(self, max_fraction: float, listed_in: str | Path = "bad_rows.jsonl") -> None:
        """Raises BodaError naming the first three if more than this share of the rows is bad."""
        share = len(self.rows) / max(self.seen, len(self.rows), 1)
        if share <= max_fraction:
            return
        first = "".join(f"\n  {row}" for row in self.rows[:3])
        raise BodaError(
            f"{len(self.rows)} of {max(self.seen, len(self.rows))} rows cannot be used ({share:.1%}; max_bad_rows allows "
            f"{max_fraction:.1%}); the first:{first}\nAll are listed in {listed_in}. Mend or remove them, or raise max_bad_rows."
        )
