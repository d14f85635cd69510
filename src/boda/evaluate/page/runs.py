"""What else there is of runs: speed and memory, training curves, remarks, conditions."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial
from typing import Any

from boda.evaluate.figures import Run, percent
from boda.evaluate.page.charts import Bar, bars
from boda.evaluate.page.parts import NOTHING, Say, cell, number, plain, row, said, table, text, words_head
from boda.evaluate.sheets import curve_bytes


def speed(runs: Sequence[Run], say: Say) -> str:
    """All that was measured in time: when, how fast, with how much memory."""
    answered = []
    for run in runs:
        for task in run.tasks:
            found = run.results.get("speed", {}).get(task, {})
            started = (run.results.get("started") or "").replace("T", " ")[:16]
            cells = [text(started and f"{started} UTC") or NOTHING, _seconds(found.get("seconds"), say)]
            cells += [number(found.get(name)) for name in ("answers_per_second", "tokens_per_second")]
            answered.append(
                row(f"{said(run.name, say)}<small>{said(task, say)}</small>", *cells, _bytes(found.get("peak_bytes")))
            )
    made = [f'<p class="about">{text(say["speed_about"])}</p>']
    if answered:
        head = [text(say[name]) for name in ("run", "started", "answering", "answers_rate", "tokens_rate", "peak_bytes")]
        made.append(table(head, [answered]))
    made += [_bench(run, say) for run in runs if run.bench]
    return "".join(made) if len(made) > 1 else ""


def _bench(run: Run, say: Say) -> str:
    bench = run.bench
    said_as = {name: number for name in ("batch", "prompt_tokens", "new_tokens", "images", "texts_per_second")}
    said_as |= {f"{name}_per_second": number for name in ("decode_tokens", "seed_tokens", "images")}
    said_as |= {"first_token_seconds": partial(_seconds, say=say), "peak_bytes": _bytes, "bandwidth_share": _share}
    columns = [name for name in said_as if any(found.get(name) is not None for found in bench["rows"])]
    head = [text(say[name]) for name in columns]
    rows, drawn = [], []
    for found in bench["rows"]:
        rows.append(row(*(said_as[name](found.get(name)) for name in columns)))
        if found.get("bandwidth_share") is not None:
            told = [
                f"{say[word]} {found[name]}"
                for word, name in (("batch", "batch"), ("tokens", "prompt_tokens"))
                if found.get(name) is not None
            ]
            drawn.append(Bar(", ".join(told), _share(found["bandwidth_share"]), found["bandwidth_share"]))
    facts = {name: bench[name] for name in ("device", "dtype", "threads", "date") if bench.get(name) is not None}
    about = [said(plain(facts), say)]
    about += [text(f"{bench['bandwidth'] / 1e9:,.1f} GB/s")] if bench.get("bandwidth") else []
    chart = bars(drawn, (0.0, 1.0), say["bandwidth_share"]) if drawn else ""
    figure = f'<figure class="chart"><figcaption><h3>{text(say["bandwidth_share"])}</h3></figcaption>{chart}</figure>'
    meant = "".join(f"<dt>{text(name)}</dt><dd>{said(words, say)}</dd>" for name, words in bench.get("definitions", {}).items())
    terms = f'<details><summary>{text(say["definitions"])}</summary><dl class="plain">{meant}</dl></details>' if meant else ""
    title = f"<h3>{said(bench.get('model') or run.name, say)}</h3>"
    return f'{title}<p class="rule">{" · ".join(about)}</p>{table(head, [rows])}{figure if chart else ""}{terms}'


def _seconds(value: float | None, say: Say) -> str:
    if value is None:
        return NOTHING
    return text(say["seconds"].format(n=value) if value >= 1 else f"{1000 * value:,.0f} ms")


def _share(value: float | None) -> str:
    return percent(value) or NOTHING


def _bytes(value: float | None) -> str:
    return NOTHING if value is None else f"{value / 2**30:,.2f} GiB" if value >= 2**30 else f"{value / 2**20:,.0f} MiB"


def curves(runs: Sequence[Run], say: Say) -> str:
    made = []
    for run in runs:
        if run.log:
            address = f"data:image/png;base64,{base64.b64encode(curve_bytes(run.folder)).decode()}"
            picture = f'<img class="curve" alt="{text(say["curve_of"].format(name=run.name))}" src="{address}">'
            made.append(f"<figure><figcaption><h3>{said(run.name, say)}</h3></figcaption>{picture}</figure>")
    return "".join(made)


def remarks(runs: Sequence[Run], say: Say) -> str:
    items = []
    for run in runs:
        for task, result in run.tasks.items():
            told = [*result.get("remarks", []), *([say["unread"].format(n=result["unread"])] if result.get("unread") else [])]
            items += [f"<li>{said(f'{run.name}, {task}: {line}', say)}</li>" for line in told]
    return f'<ul class="lines">{"".join(items)}</ul>' if items else ""


def conditions(runs: Sequence[Run], say: Say) -> str:
    made = []
    names = ("version", "decoding", "system", "image_limit", "limit", "judge")
    for run in runs:
        if not run.results:
            continue
        rows = []
        for task in run.tasks:
            told = run.conditions(task)
            rows.append(row(said(task, say), *(cell(_told(told.get(name, ...), say), "words") for name in names)))
        facts = {say["model"]: run.results.get("model"), say["fingerprint"]: run.results.get("fingerprint") or say["unknown"]}
        facts[say["settings"]] = plain(run.results.get("settings")) or say["none"]
        listed = "".join(f"<dt>{text(name)}</dt><dd>{said(value, say)}</dd>" for name, value in facts.items())
        shown = table([text(say["task"]), *(words_head(say[name]) for name in names)], [rows])
        made.append(f'<details><summary>{said(run.name, say)}</summary><dl class="plain">{listed}</dl>{shown}</details>')
    return "".join(made)


def _told(value: Any, say: Say) -> str:
    return text(say["unknown"]) if value is ... else said(plain(value) or say["none"], say)
