"""Boards on the page: tables with ranks, rows that need no model, and figures that others published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from boda.evaluate.figures import Run, percent, published_score, upstream_of
from boda.evaluate.page.parts import Say, cell, row, said, score_cells, table, text, words_head
from boda.evaluate.page.values import NOTHING, number, plain


def boards(runs: Sequence[Run], say: Say) -> str:
    """All boards among the runs."""
    return "".join(_board(run.board, say) for run in runs if run.board)


def _board(board: dict, say: Say) -> str:
    made = []
    for found in board.get("tables", []):
        rows = found["rows"]
        has = {name: any(each.get(name) for each in rows) for name in ("overlap", "flag")}
        has["upstream"] = any(upstream_of(each) for each in rows)
        head = [text(name) for name in (say["model"], say["rank"], say["score"], say["interval"], "n", say["failed"])]
        head += [text(say["published_rule"])] if has["upstream"] else []
        head += [words_head(say[name]) for name in ("overlap", "flag") if has[name]]
        made.append(f"<h3>{said(found['task'], say)}</h3>")
        asked = {say.get(name, name): plain(value) or say["none"] for name, value in (found.get("conditions") or {}).items()}
        about = [found.get("note"), " · ".join(f"{name}: {value}" for name, value in asked.items())]
        made += [f'<p class="rule">{said(line, say)}</p>' for line in about if line]
        made += [f'<p class="flag">{said(found["flag"], say)}</p>'] if found.get("flag") else []
        made.append(table(head, [[_row(each, has, say) for each in rows]]))
        if found.get("differences"):
            made.append(f'<ul class="lines">{"".join(f"<li>{said(line, say)}</li>" for line in found["differences"])}</ul>')
    if published := board.get("published"):
        apart = "".join(_published(found, say) for found in published)
        made.append(f'<div class="apart"><h3>{text(say["published"])}</h3><p>{text(say["published_about"])}</p>{apart}</div>')
    return "".join(made)


def _row(each: dict, has: dict[str, bool], say: Say) -> str:
    rank = "–".join(map(str, dict.fromkeys(each["rank"]))) if each.get("rank") else ""
    cells = [rank, *score_cells(each)]
    if has["upstream"]:
        found = upstream_of(each)
        cells.append(text(published_score(found, each)) if found else NOTHING)
    if has["overlap"]:
        cells.append(cell(_overlap(each.get("overlap"), say), "words wide"))
    if has["flag"]:
        cells.append(cell(said(each.get("flag") or "", say), "words wide flag"))
    name = {"model": "{name}"}.get(each["kind"], say[each["kind"]]).format(name=each["name"])
    return row(said(name, say), *cells, style="" if each["kind"] == "model" else "muted")


def _overlap(found: dict | None, say: Say) -> str:
    if not found:
        return ""
    if "unknown" in found:
        return f"{text(say['unknown'])}<small>{said(found['unknown'], say)}</small>"
    shares = {name: percent(found.get(name)) or NOTHING for name in ("images", "questions")}
    return text(say["overlap_told"].format(**shares, checked=f"{found.get('checked') or 0:,}"))


def _published(found: dict, say: Say) -> str:
    about = {say["source"]: found.get("source"), say["judge"]: found.get("judge"), "": found.get("note")}
    told = " · ".join(f"{text(name)}{': ' if name else ''}{said(plain(value), say)}" for name, value in about.items() if value)
    columns = list(dict.fromkeys(name for each in found["rows"] for name in each if name != "name"))
    rows = [
        row(said(each["name"], say), *(_figure(each.get(name), say) for name in columns), style="muted")
        for each in found["rows"]
    ]
    title = f"<h4>{said(found.get('title') or found.get('task', ''), say)}</h4>"
    return f'{title}{table([text(say["model"]), *(text(say.get(name, name)) for name in columns)], [rows])}<p class="rule">{told}</p>'


def _figure(value: Any, say: Say) -> str:
    return number(value) if value is None or isinstance(value, int | float) else said(plain(value), say)
