"""Scores on the page: models by tasks, charts, the published rule beside Boda's, groups."""

from __future__ import annotations

from collections.abc import Sequence

from boda.evaluate.figures import BASELINES, Run, axis, by_task, percent, published_score, unlike, upstream_of
from boda.evaluate.page.charts import Bar, bars
from boda.evaluate.page.parts import NOTHING, Say, cell, number, row, run_head, said, score_cells, span, table, text


def scores(runs: Sequence[Run], say: Say) -> str:
    seeing = [run for run in runs if run.results and not run.is_blind]
    blind = [run for run in runs if run.results and run.is_blind]
    bodies, charts, several = [], [], False
    for task, found in by_task([*seeing, *blind]).items():
        shown = [(run, found[run.name]) for run in seeing if run.name in found]
        apart = unlike([run for run, _ in shown], task)
        chips = {} if apart else _chips([(run.name, result) for run, result in shown], say)
        several = several or bool(chips)
        first = next(iter(found.values()))
        notes = [text(first["note"])] if first.get("note") else []
        notes += [text(say["scale"].format(low=axis(first)[0], high=axis(first)[1]))] if first.get("scale") else []
        notes += [text(say["unlike"].format(names=", ".join(say.get(name, name) for name in apart)))] if apart else []
        rows = [
            f'<tr class="task"><th scope="rowgroup" colspan="5">{said(task, say)}<small>{" · ".join(notes)}</small></th></tr>'
        ]
        rows += [row(said(run.name, say) + chips.get(run.name, ""), *score_cells(result)) for run, result in shown]
        drawn = [
            Bar(run.name, percent(result["score"], result), result["score"], result["low"], result["high"])
            for run, result in shown
            if result["score"] is not None
        ]
        for run in blind:
            if result := found.get(run.name):
                name = say["blind"].format(name=run.name)
                rows.append(row(said(name, say), *score_cells(result), style="muted"))
                if result["score"] is not None:
                    drawn.append(Bar(name, percent(result["score"], result), result["score"], kind="baseline"))
        for key in BASELINES:
            value = next((result[key] for result in found.values() if result.get(key) is not None), None)
            if value is not None:
                rows.append(row(text(say[key]), cell(percent(value, first), "score"), "", "", "", style="muted"))
                drawn.append(Bar(say[key], percent(value, first), value, kind="baseline"))
        bodies.append(rows)
        if drawn:
            charts.append(
                f'<figure class="chart"><figcaption><h3>{said(task, say)}</h3></figcaption>{bars(drawn, axis(first), task)}</figure>'
            )
    if not bodies:
        return ""
    head = [text(say[name]) for name in ("model", "score", "interval")] + ["n", text(say["failed"])]
    about = f"{text(say['scores_about'])} {text(say['overlap_about']) if several else ''}"
    return (
        f'<p class="about">{about}</p>{_matrix(seeing, say)}{table(head, bodies)}'
        f'<p class="about">{text(say["charts_about"])}</p><div class="charts">{"".join(charts)}</div>'
    )


def _chips(found: Sequence[tuple[str, dict]], say: Say) -> dict[str, str]:
    """For each of several models of a task: whether it scored highest, or its interval overlaps that of the highest."""
    scored = [(name, result) for name, result in found if result["score"] is not None]
    if len(scored) < 2:
        return {}
    best, top = max(scored, key=lambda pair: pair[1]["score"])
    near = [name for name, result in scored if name != best and result["high"] >= top["low"]]
    chips = {best: f' <span class="chip best">{text(say["tied" if near else "best"])}</span>'}
    return chips | {name: f' <span class="chip">{text(say["overlaps"])}</span>' for name in near}


def _matrix(runs: Sequence[Run], say: Say) -> str:
    """Scores alone, models by tasks, where there are several of both."""
    tasks = by_task(runs)
    if len(runs) < 2 or len(tasks) < 2:
        return ""
    rows = []
    for task, found in tasks.items():
        cells = []
        for run in runs:
            result = found.get(run.name) or {}
            score = NOTHING if result.get("score") is None else percent(result["score"], result)
            between = f"<small>{span(result)}</small>" if result.get("low") is not None else ""
            cells.append(cell(score + between, "score"))
        rows.append(row(said(task, say), *cells))
    return table([text(say["task"]), *(run_head(run.name, say) for run in runs)], [rows])


def upstream(runs: Sequence[Run], say: Say) -> str:
    bodies, charts = [], []
    for task, found in by_task(run for run in runs if run.results).items():
        both = {name: (result, upstream) for name, result in found.items() if (upstream := upstream_of(result))}
        if not both:
            continue
        first = next(iter(both.values()))
        rule = first[1].get("rule", "")
        rows = [f'<tr class="task"><th scope="rowgroup" colspan="4">{said(task, say)}<small>{text(rule)}</small></th></tr>']
        drawn = []
        for name, (result, published) in both.items():
            is_blind = next(run for run in runs if run.name == name).is_blind
            score, other = result["score"], published_score(published, result)
            apart = score is None or "measure" in published  # a figure of another kind: no difference, no bar beside it
            change = NOTHING if apart else _points(published["score"] - score, result, say)
            count = f"<small>n {published['n']:,}</small>" if published.get("n") is not None else ""
            own = NOTHING if score is None else f"{percent(score, result)}<small>n {result['n']:,}</small>"
            named = said(say["blind"].format(name=name) if is_blind else name, say)
            rows.append(
                row(named, cell(own, "score"), cell(text(other) + count, "score"), change, style="muted" if is_blind else "")
            )
            if not is_blind and not apart:
                drawn.append(Bar(name, f"Boda {percent(score, result)}", score, result["low"], result["high"]))
                drawn.append(Bar("", f"{say['published_rule']} {other}", published["score"], kind="upstream"))
        bodies.append(rows)
        if drawn:
            chart = bars(drawn, axis(first[0]), task)
            charts.append(f'<figure class="chart"><figcaption><h3>{said(task, say)}</h3></figcaption>{chart}</figure>')
    if not bodies:
        return ""
    head = [text(say["model"]), "Boda", text(say["published_rule"]), text(say["difference"])]
    charts_made = f'<div class="charts">{"".join(charts)}</div>'
    return f'<p class="about">{text(say["upstream_about"])}</p>{table(head, bodies)}{charts_made}'


def _points(change: float, result: dict, say: Say) -> str:
    shown = f"{change:+.2f}" if result.get("scale") else f"{100 * change:+.1f} {say['points']}"
    return shown.replace("-", "−")


def groups(runs: Sequence[Run], say: Say) -> str:
    made = []
    evaluated = [run for run in runs if run.results]
    for task, found in by_task(evaluated).items():
        named = [run for run in evaluated if run.name in found]
        heads = [run_head(say["blind"].format(name=run.name) if run.is_blind else run.name, say) for run in named]
        tables = []
        metrics = dict.fromkeys(name for result in found.values() for name in result.get("metrics", {}))
        if metrics:
            rows = [
                row(text(name), *(number(found[run.name].get("metrics", {}).get(name)) for run in named)) for name in metrics
            ]
            tokenizer = next((result["tokenizer"] for result in found.values() if result.get("tokenizer")), "")
            caption = text(say["metrics"]) + (f", {text(say['tokenizer'].format(name=tokenizer))}" if tokenizer else "")
            tables.append(table([text(say["metric"]), *heads], [rows], caption))
        tags = dict.fromkeys(tag for result in found.values() for tag in result.get("groups", {}) if tag != "answer")
        columns = [text(say["score"]), text(say["interval"]), "n", text(say["failed"])] if len(named) == 1 else heads
        bodies = []
        for tag in tags:
            bodies.append([f'<tr class="task"><th scope="rowgroup" colspan="{1 + len(columns)}">{said(tag, say)}</th></tr>'])
            values = dict.fromkeys(value for result in found.values() for value in result.get("groups", {}).get(tag, {}))
            for value in values:
                there = [found[run.name].get("groups", {}).get(tag, {}).get(value) or {} for run in named]
                cells = score_cells(there[0]) if len(named) == 1 else [_score_cell(result) for result in there]
                bodies[-1].append(row(said(value, say), *cells))
        tables += [table([text(say["group"]), *columns], bodies)] if bodies else []
        if tables:
            made.append(f"<details><summary>{said(task, say)}</summary>{''.join(tables)}</details>")
    return "".join(made)


def _score_cell(result: dict) -> str:
    if result.get("score") is None:
        return NOTHING
    return cell(f"{percent(result['score'], result)}<small>{span(result)}<br>n {result['n']:,}</small>", "score")
