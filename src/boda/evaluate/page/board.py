"""Boards on the page: tables with ranks, rows that need no model, and figures that others published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from boda.evaluate.figures import Run, percent, published_score, upstream_of
from boda.evaluate.page.parts import NOTHING, Say, cell, number, plain, row, said, score_cells, table, text, words_head


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
        body = [_row(each, has, say) for each in rows]
        told = [f"<h3>{said(found['task'], say)}</h3>"]
        told += [f'<p class="rule">{said(found["note"], say)}</p>'] if found.get("note") else []
        told += (
            [f'<p class="rule">{text(say["conditions_of"])}: {said(conditions, say)}</p>']
            if (conditions := plain(found.get("conditions")))
            else []
        )
        told += [f'<p><span class="chip flag">{said(found["flag"], say)}</span></p>'] if found.get("flag") else []
        told.append(table(head, [body]))
        if found.get("differences"):
            told.append(f'<ul class="lines">{"".join(f"<li>{said(line, say)}</li>" for line in found["differences"])}</ul>')
        made += told
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
        cells.append(cell(f'<span class="chip flag">{said(each["flag"], say)}</span>' if each.get("flag") else "", "words"))
    name = {"blind": say["blind"].format(name=each["name"])}.get(each["kind"], each["name"])
    name = say[each["kind"]] if each["kind"] in ("chance", "majority") else name
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
