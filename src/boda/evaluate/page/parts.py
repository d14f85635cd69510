"""What the page is put together from: words made harmless, rows, cells, tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from boda.evaluate.figures import Run, percent
from boda.evaluate.page.values import NOTHING, span
from boda.terminal import harmless

Say = dict[str, str]
HANGUL = re.compile("[ᄀ-ᇿ㄰-㆏가-힣]")


def text(words: Any) -> str:
    """Words as HTML: nothing in them is markup, nothing unprintable is left in them."""
    return html.escape(harmless(str(words)).encode("utf-8", "replace").decode())


def said(words: Any, say: Say) -> str:
    """Words that may be Korean on a page that is not, marked so for who reads it aloud."""
    found = text(words)
    return f'<span lang="ko">{found}</span>' if say["lang"] != "ko" and HANGUL.search(found) else found


def called(run: Run, say: Say) -> str:
    """A run's name, which says so if it is blind."""
    return say["blind"].format(name=run.name) if run.is_blind else run.name


def table(head: Sequence[str], bodies: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table in a box of its own that scrolls sideways; `bodies` hold whole rows."""
    top = "".join(name if name.startswith("<th") else f'<th scope="col">{name}</th>' for name in head)
    inner = "".join(f"<tbody>{''.join(rows)}</tbody>" for rows in bodies)
    title = f"<caption>{caption}</caption>" if caption else ""
    return f'<div class="box" tabindex="0"><table>{title}<thead><tr>{top}</tr></thead>{inner}</table></div>'


def row(first: str, *cells: str, style: str = "") -> str:
    """A row; a cell that begins with `<td` stands as it is, as a head that begins with `<th` does."""
    rest = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="{style}"><th scope="row">{first}</th>{rest}</tr>'


def group_row(name: str, columns: int, say: Say, note: str = "") -> str:
    """The row above those of a task or tag."""
    return f'<tr class="task"><th scope="rowgroup" colspan="{columns}">{said(name, say)}<small>{note}</small></th></tr>'


def words_head(name: str) -> str:
    """The head of a column of words, which begin at its left."""
    return f'<th scope="col" class="words">{text(name)}</th>'


def cell(content: str, style: str) -> str:
    return f'<td class="{style}">{content}</td>'


def run_head(name: str, say: Say) -> str:
    """The name of a run above its column."""
    return f'<span class="run">{said(name, say)}</span>'


def folded(title: str, content: str, is_open: bool = False) -> str:
    return f"<details{' open' if is_open else ''}><summary>{title}</summary>{content}</details>"


def terms(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and what they are, both as HTML."""
    return f'<dl class="plain">{"".join(f"<dt>{name}</dt><dd>{what}</dd>" for name, what in pairs)}</dl>'


def score_cells(result: dict) -> list[str]:
    """Score, interval, n and what failed, as cells."""
    counts = (NOTHING if result.get(key) is None else f"{result[key]:,}" for key in ("n", "failed"))
    return [cell(percent(result.get("score"), result) or NOTHING, "score"), span(result) or NOTHING, *counts]
