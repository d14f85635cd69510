"""What else there is of runs: speed and memory, training curves, remarks, conditions."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from boda.evaluate.figures import Run, by_task
from boda.evaluate.judge import cost
from boda.evaluate.page.charts import Bar, chart
from boda.evaluate.page.parts import Say, called, cell, folded, row, run_head, said, table, terms, text, words_head
from boda.evaluate.page.values import NOTHING, memory, moment, number, plain, seconds, share
from boda.evaluate.sheets import curve_bytes

MANY = 12  # rows of times; more are folded
CONDITIONS = ("version", "decoding", "system", "image_limit", "limit", "judge")


def speed(runs: Sequence[Run], say: Say) -> str:
    """All that differs from run to run: when, how fast, with how much memory, and what a judge has cost."""
    rows = []
    for run in runs:
        for task in run.tasks:
            found = run.results.get("speed", {}).get(task, {})
            cells = [text(moment(run.results.get("started"))) or NOTHING, seconds(found.get("seconds"), say)]
            cells += [number(found.get(name)) for name in ("answers_per_second", "tokens_per_second")]
            name = f"{said(called(run, say), say)}<small>{said(task, say)}</small>"
            rows.append(row(name, *cells, memory(found.get("peak_bytes"))))
    made = [_bench(run, say) for run in runs if run.bench]
    if rows:
        head = [text(say[name]) for name in ("run", "started", "answering", "answers_rate", "tokens_rate", "peak_bytes")]
        shown = table(head, [rows])
        made.insert(0, shown if len(rows) <= MANY else folded(f"{text(say['run'])} ({len(rows)})", shown))
    costs = [f"{task}: {told}" for run in runs for task, result in run.tasks.items() if (told := cost(result))]
    made.insert(1, _listed(costs, say))
    return f'<p class="about">{text(say["speed_about"])}</p>{"".join(made)}' if any(made) else ""


def _bench(run: Run, say: Say) -> str:
    bench = run.bench
    said_as = dict.fromkeys(("batch", "prompt_tokens", "new_tokens", "images"), number)
    said_as |= {"first_token_seconds": partial(seconds, say=say)}
    said_as |= dict.fromkeys((f"{name}_per_second" for name in ("decode_tokens", "seed_tokens", "images", "texts")), number)
    said_as |= {"peak_bytes": memory, "bandwidth_share": share}
    columns = [name for name in said_as if any(found.get(name) is not None for found in bench["rows"])]
    rows = [row(*(said_as[name](found.get(name)) for name in columns)) for found in bench["rows"]]
    drawn = [
        Bar(f"{say['batch']} {found['batch']}", share(reached), reached)
        for found in bench["rows"]
        if (reached := found.get("bandwidth_share")) is not None
    ]
    facts = {name: bench.get(name) for name in ("device", "dtype", "threads", "bandwidth", "date")}
    facts |= {"bandwidth": facts["bandwidth"] and f"{facts['bandwidth'] / 1e9:,.1f} GB/s", "date": moment(facts["date"])}
    about = " · ".join(f"{text(say[name])} {said(value, say)}" for name, value in facts.items() if value)
    title = bench.get("model") or run.name
    made = [f"<h3>{said(say['random'].format(name=title) if bench.get('shape') else title, say)}</h3>"]
    made += [f'<p class="rule">{about}</p>', table([run_head(say[name], say) for name in columns], [rows]) if rows else ""]
    made += [f'<p class="rule">{said(say["left_out"].format(**each), say)}</p>' for each in bench.get("left_out", [])]
    made.append(chart(say["bandwidth_share"], drawn, (0.0, 1.0), say))
    if meant := bench.get("definitions"):
        made.append(folded(text(say["definitions"]), terms((text(name), said(words, say)) for name, words in meant.items())))
    return "".join(made)


def curves(runs: Sequence[Run], say: Say) -> str:
    made = []
    for run in runs:
        if run.log:
            address = f"data:image/png;base64,{base64.b64encode(curve_bytes(run.folder)).decode()}"
            picture = f'<img class="curve" alt="{text(say["curve_of"].format(name=run.name))}" src="{address}">'
            made.append(f"<figure><figcaption><h3>{said(run.name, say)}</h3></figcaption>{picture}</figure>")
    return "".join(made)


def remarks(runs: Sequence[Run], say: Say) -> str:
    """What tasks say of their results, with the runs of which they say it."""
    whose: dict[tuple[str, str], list[str]] = defaultdict(list)
    for task, pairs in by_task(runs).items():
        for run, result in pairs:
            unread = [say["unread"].format(n=result["unread"])] if result.get("unread") else []
            for line in [*result.get("remarks", []), *unread]:
                whose[task, line].append(called(run, say))
    told = [f"{task}: {line} · {', '.join(names)}" for (task, line), names in whose.items()]
    return _listed(told, say)


def _listed(lines: Sequence[str], say: Say) -> str:
    items = "".join(f"<li>{said(line, say)}</li>" for line in lines)
    return f'<ul class="lines">{items}</ul>' if items else ""


def conditions(runs: Sequence[Run], say: Say) -> str:
    """How each run was asked: what holds for all its tasks as a list, what tells them apart as a table."""
    made = []
    for run in runs:
        told = {task: run.conditions(task) for task in run.tasks}
        if not told:
            continue
        shown = {task: [_told(each.get(name, ...), say) for name in CONDITIONS] for task, each in told.items()}
        columns = list(zip(*shown.values()))
        apart = [place for place, values in enumerate(columns) if len(set(values)) > 1]
        facts = {"model": run.results.get("model"), "fingerprint": run.results.get("fingerprint") or say["unknown"]}
        facts["settings"] = plain(run.results.get("settings")) or say["none"]
        listed = [(text(say[name]), said(value, say)) for name, value in facts.items()]
        listed += [(text(say[name]), columns[place][0]) for place, name in enumerate(CONDITIONS) if place not in apart]
        head = [text(say["task"]), *(words_head(say[CONDITIONS[place]]) for place in apart)]
        rows = [row(said(task, say), *(cell(values[place], "words") for place in apart)) for task, values in shown.items()]
        made.append(folded(said(called(run, say), say), terms(listed) + (table(head, [rows]) if apart else "")))
    return "".join(made)


def _told(value: Any, say: Say) -> str:
    return text(say["unknown"]) if value is ... else said(plain(value) or say["none"], say)
