"""LLaVA's JSON: conversations of human and gpt, with the names of their pictures."""

from __future__ import annotations

from collections.abc import Iterable

from boda.data.sample import Sample
from boda.data.sources.common import Format, Row


def samples(row: Row) -> Iterable[Sample]:
    """One conversation; `image` is a name, a list of names, or absent."""
    yield row.conversation("conversations", row.pictures("image", "images"))


FORMAT = Format(
    looks_like='{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\n뭐죠?"}, {"from": "gpt", ...}]}',
    recognises=lambda names: "conversations" in names and bool(names & {"image", "images"}),
    samples=samples,
)
