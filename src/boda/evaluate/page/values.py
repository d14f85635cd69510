"""How values are written on the page; nothing here is HTML."""

from __future__ import annotations

import json
from typing import Any

from boda.evaluate.figures import percent

NOTHING = "–"


def span(result: dict) -> str:
    """The bounds of a score, with one sign for both."""
    if result.get("low") is None or result.get("high") is None:
        return ""
    return f"{percent(result['low'], result).rstrip('%')}–{percent(result['high'], result)}"


def number(value: Any) -> str:
    return NOTHING if value is None else f"{value:,.4g}" if isinstance(value, int | float) else str(value)


def plain(value: Any) -> str:
    """A value of a condition in words: mappings as `name value, name value`."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(each) or 'none'}" for name, each in value.items())
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " / ".join(value)
    return "" if value in (None, "", []) else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def moment(stamp: str | None) -> str:
    return f"{stamp[:16].replace('T', ' ')} UTC" if stamp else ""


def seconds(value: float | None, say: dict[str, str]) -> str:
    if value is None:
        return NOTHING
    return say["seconds"].format(n=value) if value >= 1 else f"{1000 * value:,.0f} ms"


def share(value: float | None) -> str:
    return percent(value) or NOTHING


def memory(value: float | None) -> str:
    return NOTHING if value is None else f"{value / 2**30:,.2f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"
