"""Phrases that several messages about recipes share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def nearest(name: str, known: Iterable[str]) -> str:
    """'did you mean X?', or everything there is when nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"


def no_stage(name: str, names: list[str]) -> str:
    """That a stage is not there, with those that are."""
    return f"no stage is called '{name}'; stages are {', '.join(names)}"


def shown(value: Any) -> str:
    """A value as the recipe's writer knows it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return f"'{value[:60]}…'" if len(value) > 60 else f"'{value}'"
    return str(value)
