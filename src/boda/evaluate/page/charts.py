"""Bar charts as SVG within a page: widths in percent, so that letters keep their size on any screen."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from boda.evaluate.page.parts import Say, said

SHORT, FULL = 22, 40  # columns that a label may take beside its value, Hangul two each: in a narrow chart, in a wide one
HEIGHTS = {"model": 42, "upstream": 42, "baseline": 29}


class Bar(NamedTuple):
    """A labelled score; `shown` is how it is written, `kind` one of HEIGHTS."""

    label: str
    shown: str
    value: float
    low: float | None = None
    high: float | None = None
    kind: str = "model"


def chart(title: str, rows: Sequence[Bar], ends: tuple[float, float], say: Say) -> str:
    """Bars below their title; nothing of no rows."""
    caption = f"<figcaption><h3>{said(title, say)}</h3></figcaption>"
    return f'<figure class="chart">{caption}{bars(rows, ends, title)}</figure>' if rows else ""


def bars(rows: Sequence[Bar], ends: tuple[float, float], title: str) -> str:
    """Horizontal bars from the lower of the `ends` of the axis, 95 % intervals as whiskers, labels above their bars."""
    low, high = _shown_ends(rows, *ends)

    def at(value: float) -> str:
        return f"{100 * min(1.0, max(0.0, (value - low) / (high - low))):.2f}%"

    ticks = [low + (high - low) * quarter / 4 for quarter in range(5)]
    height = sum(HEIGHTS[row.kind] for row in rows)
    drawn = [f'<line class="grid" x1="{at(tick)}" x2="{at(tick)}" y1="0" y2="{height + 4}"/>' for tick in ticks]
    top = 0
    for row in rows:
        small, faint = (5, " faint") if row.kind == "baseline" else (12, "")
        bar, middle = f'y="{top + 19}" height="{small}" rx="2"', top + 19 + small / 2
        drawn.append(
            f"{_label(row.label, top + 13, faint)}"
            f'<text y="{top + 13}" x="100%" text-anchor="end" class="value{faint}">{html.escape(row.shown)}</text>'
            f'<rect class="track" width="100%" {bar}/><rect class="{row.kind}" width="{at(row.value)}" {bar}/>'
        )
        if row.low is not None and row.high is not None:
            left, right = at(row.low), at(row.high)
            whisker = [(left, right, middle, middle), *((end, end, middle - 4, middle + 4) for end in (left, right))]
            for style in ("halo", "whisker"):
                drawn += [f'<line class="{style}" x1="{a}" x2="{b}" y1="{y}" y2="{z}"/>' for a, b, y, z in whisker]
        top += HEIGHTS[row.kind]
    anchors = ["start", "middle", "middle", "middle", "end"]
    drawn += [
        f'<text class="faint" x="{at(tick)}" y="{height + 19}" text-anchor="{anchor}">{_tick(tick, ends)}</text>'
        for tick, anchor in zip(ticks, anchors)
    ]
    told = html.escape(f"{title}: " + "; ".join(f"{row.label} {row.shown}" for row in rows))
    return f'<svg role="img" aria-label="{told}" height="{height + 24}">{"".join(drawn)}</svg>'


def _shown_ends(rows: Sequence[Bar], low: float, high: float) -> tuple[float, float]:
    """The whole axis of a share; of another scale the tenth, fifth, half or whole that holds everything."""
    if (low, high) == (0.0, 1.0):
        return low, high
    most = max(value for row in rows for value in (row.value, row.high) if value is not None)
    return low, next((end for part in (0.1, 0.2, 0.5) if (end := low + (high - low) * part) >= most), high)


def _tick(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.0%}" if ends == (0.0, 1.0) else f"{value:.3g}"


def _label(label: str, y: int, faint: str) -> str:
    """A label; a long one twice, of which the page's style shows the one that fits."""
    widths = {"": SHORT} if fitting(label, SHORT) == label else {" short": SHORT, " full": FULL}
    return "".join(
        f'<text y="{y}" class="label{name}{faint}"><title>{html.escape(label)}</title>{html.escape(fitting(label, most))}</text>'
        for name, most in widths.items()
    )


def fitting(label: str, most: int) -> str:
    """A label in so many columns, its middle left out where it is longer."""
    widths = [2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in label]
    if sum(widths) <= most:
        return label
    head = sum(end <= most // 2 for end in accumulate(widths))
    tail = sum(end < most - most // 2 for end in accumulate(reversed(widths)))
    return f"{label[:head]}…{label[-tail:]}"
