"""The worst answers on the page, with their pictures."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from boda.data.sample import ImageRef
from boda.errors import BodaError
from boda.evaluate.answers import read_answers
from boda.evaluate.figures import Run, axis, upstream_of
from boda.evaluate.page.parts import Say, folded, said, text
from boda.evaluate.page.values import plain
from boda.evaluate.sheets import question_of, spread, worst

EACH, ALL = 6, 150  # answers of a task of a run, and of the page
OPEN = 3  # runs; the answers of more are folded
PICTURES, SIDE, QUALITY = 3, 256, 80  # pictures of an answer, pixels of their longer side, JPEG
LETTERS = 500  # of a text; the rest is in answers.jsonl


def worst_answers(runs: Sequence[Run], say: Say) -> str:
    """A few answers that scored lowest, of each task of each run that saw the pictures; of many runs folded."""
    seeing = [run for run in runs if run.has_answers and not run.is_blind]
    each = max(1, min(EACH, ALL // max(1, sum(len(run.tasks) for run in seeing))))
    folds = []
    for run in seeing:
        records, made = defaultdict(list), []
        for record in _judged(run):
            records[record["task"]].append(record)
        for task, result in run.tasks.items():
            there = sorted(records[task], key=lambda record: str(record["row"]))
            chosen = worst(there, each, axis(result)[1])
            apart = [record for record in there if record not in chosen and _differs(record)]
            if "measure" in (upstream_of(result) or {}):  # by what is no score of the same kind
                apart = []
            if chosen or apart:
                made.append(f"<h3>{said(f'{run.name} · {task}', say)}</h3>{_cards(chosen, result, say)}")
            if apart:
                some = spread(apart, -(-each // 2))
                made.append(f"<h4>{text(say['apart'])}</h4>{_cards(some, result, say)}")
        if made:
            folds.append("".join(made) if len(seeing) <= OPEN else folded(said(run.name, say), "".join(made)))
    return f'<p class="about">{text(say["worst_about"])}</p>{"".join(folds)}' if folds else ""


def _differs(record: dict) -> bool:
    """Whether the published rule gives the answer another score."""
    return None not in (record["score"], published := record.get("upstream")) and record["score"] != published


def _cards(records: Sequence[dict], result: dict, say: Say) -> str:
    return f'<div class="answers">{"".join(_card(record, result, say) for record in records)}</div>' if records else ""


def _judged(run: Run) -> list[dict]:
    """The answers; one that a judge scores has the mean of its judgements."""
    records, marks = read_answers(run.folder), defaultdict(list)
    if (run.folder / "judgements.jsonl").is_file():
        for judgement in read_answers(run.folder / "judgements.jsonl"):
            if not judgement["failed"] and judgement.get("score") is not None:
                marks[judgement["task"], judgement["row"]].append(judgement["score"])
    means = {key: sum(found) / len(found) for key, found in marks.items()}
    for record in records:
        if record["score"] is None:
            record["score"] = means.get((record["task"], record["row"]))
    return records


def _card(record: dict, result: dict, say: Say) -> str:
    is_failed, (lowest, highest) = record["failed"], axis(result)
    kind = "failed" if is_failed else {lowest: "wrong", highest: "right"}.get(record["score"], "")
    mark = say[kind] if kind else f"{say['score']} {record['score']:.3g}"
    raw = (record["raw"] or "").strip()
    told = record.get("error") or say["unknown"] if is_failed else raw or say["empty"]
    shown: list[tuple[str, Any, str]] = [("reason" if is_failed else "answer", told, kind)]
    if record.get("gold") not in (None, "", []):
        shown.append(("reference", plain(record["gold"]), "right"))
    if not is_failed and (read := plain(record.get("extracted"))) not in ("", raw, raw.rstrip(".")):
        shown.append(("read_as", read, ""))
    if record.get("upstream") is not None:
        shown.append(("published_rule", f"{record['upstream']:.3g}", ""))
    facts = "".join(f'<dt>{text(say[name])}</dt><dd class="{style}">{_cut(value, say)}</dd>' for name, value, style in shown)
    question = f"<p>{_cut(question_of(record), say)}</p>"
    chip = f'<p><span class="chip {kind}">{text(mark)}</span></p>'
    return (
        f'<article class="answer">{_pictures(record, say)}<div class="words">{chip}{question}<dl>{facts}</dl></div></article>'
    )


def _cut(words: Any, say: Say) -> str:
    words = str(words)
    return said(words if len(words) <= LETTERS else words[:LETTERS] + "…", say)


def _pictures(record: dict, say: Say) -> str:
    places = record.get("images") or []
    shown = []
    for place in places[:PICTURES]:
        try:
            what = f'<img alt="{text(say["picture_of"].format(row=record["row"]))}" src="{_thumbnail(place)}">'
        except BodaError as error:
            what = f"<span>{_cut(error, say)}</span>"
        shown.append(what if place else f"<span>{text(say['not_kept'])}</span>")
    if not shown:
        return ""
    more = f"<span>+{len(places) - PICTURES}</span>" if len(places) > PICTURES else ""
    return f'<div class="pictures">{"".join(shown)}{more}</div>'


def _thumbnail(place: dict | None) -> str:
    """A picture as a `data:` address, at most SIDE pixels; empty for one that was not kept. Raises BodaError: not to be read."""
    from boda.data.images import load_image

    if place is None:
        return ""
    picture, stream = load_image(ImageRef(**place)), BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(stream, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
