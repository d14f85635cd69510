"""Messages as the OpenAI API and chat templates write them."""

from __future__ import annotations

from collections.abc import Iterable

from boda.data.sample import Sample
from boda.data.sources.common import Format, Row


def samples(row: Row) -> Iterable[Sample]:
    """One conversation; pictures stand in the parts themselves or, for bare marks, in `images`."""
    yield row.conversation("messages", row.pictures("images", "image"))


FORMAT = Format(
    looks_like='{"messages": [{"role": "user", "content": "<image>무엇인가요?"}, {"role": "assistant", ...}], "images": ["a.jpg"]}',
    recognises=lambda names: "messages" in names,
    samples=samples,
)
