"""Scores on the page: models by tasks, charts, the published rule beside Boda's, groups."""

from __future__ import annotations

from collections.abc import Sequence

from boda.evaluate.figures import BASELINES, Run, axis, by_task, percent, published_score, unlike, upstream_of
from boda.evaluate.page.charts import Bar, chart
from boda.evaluate.page.parts import Say, called, cell, folded, group_row, row, run_head, said, score_cells, table, text
from boda.evaluate.page.values import NOTHING, number, span

Pairs = Sequence[tuple[Run, dict]]


def scores(runs: Sequence[Run], say: Say) -> str:
    seeing = [run for run in runs if not run.is_blind]
    bodies, charts, several = [], [], False
    for task, pairs in by_task([*seeing, *(run for run in runs if run.is_blind)]).items():
        first = pairs[0][1]
        apart = unlike([run for run, _ in pairs if not run.is_blind], task)
        chips = {} if apart else _chips([pair for pair in pairs if not pair[0].is_blind], say)
        several = several or bool(chips)
        notes = [first["note"]] if first.get("note") else []
        notes += [say["scale"].format(low=axis(first)[0], high=axis(first)[1])] if first.get("scale") else []
        notes += [say["unlike"].format(names=", ".join(say.get(name, name) for name in apart))] if apart else []
        rows, drawn = [group_row(task, 5, say, text(" · ".join(notes)))], []
        for run, result in pairs:
            name, score, style = called(run, say), result["score"], "muted" if run.is_blind else ""
            rows.append(row(said(name, say) + chips.get(run.name, ""), *score_cells(result), style=style))
            if score is not None:
                whisker = (None, None, "baseline") if run.is_blind else (result["low"], result["high"])
                drawn.append(Bar(name, percent(score, result), score, *whisker))
        for key in BASELINES:
            value = next((result[key] for _, result in pairs if result.get(key) is not None), None)
            if value is not None:
                rows.append(row(text(say[key]), cell(percent(value, first), "score"), "", "", "", style="muted"))
                drawn.append(Bar(say[key], percent(value, first), value, kind="baseline"))
        bodies.append(rows)
        charts.append(chart(task, drawn, axis(first), say))
    if not bodies:
        return ""
    head = [text(say[name]) for name in ("model", "score", "interval")] + ["n", text(say["failed"])]
    about = f"{text(say['scores_about'])} {text(say['overlap_about']) if several else ''}"
    return (
        f'<p class="about">{about}</p>{_matrix(seeing, say)}{table(head, bodies)}'
        f'<p class="about">{text(say["charts_about"])}</p><div class="charts">{"".join(charts)}</div>'
    )


def _chips(pairs: Pairs, say: Say) -> dict[str, str]:
    """For each of several models of a task: whether it scored highest, or its interval overlaps that of the highest."""
    scored = [(run.name, result) for run, result in pairs if result["score"] is not None]
    if len(scored) < 2:
        return {}
    best, top = max(scored, key=lambda pair: pair[1]["score"])
    near = [name for name, result in scored if name != best and result["high"] >= top["low"]]
    chips = {best: f' <span class="chip best">{text(say["tied" if near else "best"])}</span>'}
    return chips | {name: f' <span class="chip">{text(say["overlaps"])}</span>' for name in near}


def _matrix(runs: Sequence[Run], say: Say) -> str:
    """Scores alone, models by tasks, where several models have several tasks and share one."""
    tasks = by_task(runs)
    if len(tasks) < 2 or all(len(pairs) < 2 for pairs in tasks.values()):
        return ""
    named = [run for run in runs if run.tasks]
    rows = [row(said(task, say), *(_score_cell(run.tasks.get(task, {})) for run in named)) for task in tasks]
    return table([text(say["task"]), *(run_head(run.name, say) for run in named)], [rows])


def _score_cell(result: dict, counted: bool = False) -> str:
    """A score above its interval, and above how many it is the mean of."""
    told = [span(result), f"n {result['n']:,}" if counted and "n" in result else ""]
    below = ", ".join(f"<span>{each}</span>" for each in told if each)
    return cell(f"{percent(result.get('score'), result) or NOTHING}<small>{below}</small>", "score")


def upstream(runs: Sequence[Run], say: Say) -> str:
    bodies, charts = [], []
    for task, pairs in by_task(runs).items():
        both = [(run, result, published) for run, result in pairs if (published := upstream_of(result))]
        if not both:
            continue
        rows, drawn = [group_row(task, 4, say, text(both[0][2].get("rule", "")))], []
        for run, result, published in both:
            score, other = result["score"], published_score(published, result)
            apart = score is None or "measure" in published  # a figure of another kind: no difference, no bar beside it
            change = NOTHING if apart else _points(published["score"] - score, result, say)
            count = f"<small>n {published['n']:,}</small>" if published.get("n") is not None else ""
            own = f"{percent(score, result) or NOTHING}<small>n {result['n']:,}</small>"
            cells = [cell(own, "score"), cell(text(other) + count, "score"), change]
            rows.append(row(said(called(run, say), say), *cells, style="muted" if run.is_blind else ""))
            if not run.is_blind and not apart:
                drawn.append(Bar(run.name, f"Boda {percent(score, result)}", score, result["low"], result["high"]))
                drawn.append(Bar("", f"{say['published_rule']} {other}", published["score"], kind="upstream"))
        bodies.append(rows)
        charts.append(chart(task, drawn, axis(both[0][1]), say))
    if not bodies:
        return ""
    head = [text(say["model"]), "Boda", text(say["published_rule"]), text(say["difference"])]
    return f'<p class="about">{text(say["upstream_about"])}</p>{table(head, bodies)}<div class="charts">{"".join(charts)}</div>'


def _points(change: float, result: dict, say: Say) -> str:
    shown = f"{change:+.2f}" if result.get("scale") else f"{100 * change:+.1f} {say['points']}"
    return shown.replace("-", "−")


def groups(runs: Sequence[Run], say: Say) -> str:
    made = []
    for task, pairs in by_task(runs).items():
        results = [result for _, result in pairs]
        heads = [run_head(called(run, say), say) for run, _ in pairs]
        tables = []
        metrics = dict.fromkeys(name for result in results for name in result.get("metrics", {}))
        if metrics:
            rows = [row(text(name), *(text(number(each.get("metrics", {}).get(name))) for each in results)) for name in metrics]
            tokenizer = next((result["tokenizer"] for result in results if result.get("tokenizer")), "")
            caption = text(say["metrics"]) + (f", {text(say['tokenizer'].format(name=tokenizer))}" if tokenizer else "")
            tables.append(table([text(say["metric"]), *heads], [rows], caption))
        alone = [text(say["score"]), text(say["interval"]), "n", text(say["failed"])]
        columns = heads if len(pairs) > 1 else alone
        bodies = []
        for tag in dict.fromkeys(tag for result in results for tag in result.get("groups", {}) if tag != "answer"):
            there = [result.get("groups", {}).get(tag, {}) for result in results]
            bodies.append([group_row(tag, 1 + len(columns), say)])
            for value in dict.fromkeys(value for values in there for value in values):
                several = [_score_cell(values.get(value, {}), counted=True) for values in there]
                cells = several if len(pairs) > 1 else score_cells(there[0][value])
                bodies[-1].append(row(said(value, say), *cells))
        tables += [table([text(say["group"]), *columns], bodies)] if bodies else []
        made += [folded(said(task, say), "".join(tables))] if tables else []
    return "".join(made)
