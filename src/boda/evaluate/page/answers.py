"""The worst answers on the page, with their pictures."""

from __future__ import annotations

import base64
import random
from collections import defaultdict
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from boda.data.sample import ImageRef
from boda.errors import BodaError
from boda.evaluate.answers import read_answers
from boda.evaluate.figures import Run, axis, upstream_of
from boda.evaluate.page.parts import Say, plain, said, text
from boda.evaluate.sheets import question_of, spread, worst

EACH, ALL = 6, 150  # answers of a task of a run, and of the page
PICTURES, SIDE, QUALITY = 3, 256, 80  # pictures of an answer, pixels of their longer side, JPEG
LETTERS = 500  # of a text; the rest is in answers.jsonl


def worst_answers(runs: Sequence[Run], say: Say) -> str:
    """A few answers that scored lowest, of each task of each run that saw the pictures."""
    seeing = [run for run in runs if run.results and not run.is_blind and (run.folder / "answers.jsonl").is_file()]
    each = max(1, min(EACH, ALL // max(1, sum(len(run.tasks) for run in seeing))))
    made = []
    for run in seeing:
        records = defaultdict(list)
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
                some = spread(apart, -(-each // 2), random.Random(0))
                made.append(f"<h4>{text(say['apart'])}</h4>{_cards(some, result, say)}")
    return f'<p class="about">{text(say["worst_about"])}</p>{"".join(made)}' if made else ""


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
    return [
        record | ({} if record["score"] is not None else {"score": means.get((record["task"], record["row"]))})
        for record in records
    ]


def _card(record: dict, result: dict, say: Say) -> str:
    is_failed, (lowest, highest) = record["failed"], axis(result)
    kind = "failed" if is_failed else "wrong" if record["score"] < highest else "right"
    mark = say[kind] if is_failed or record["score"] in (lowest, highest) else f"{say['score']} {record['score']:.3g}"
    shown: list[tuple[str, Any, str]] = []
    if is_failed:
        shown.append((say["reason"], record.get("error") or say["unknown"], "failed"))
    else:
        shown.append((say["answer"], (record["raw"] or "").strip() or say["empty"], kind))
    if record.get("gold") not in (None, "", []):
        shown.append((say["reference"], plain(record["gold"]), "right"))
    if not is_failed and record.get("extracted") not in (None, "", record["raw"]):
        shown.append((say["read_as"], plain(record["extracted"]), ""))
    if record.get("upstream") is not None:
        shown.append((say["published_rule"], f"{record['upstream']:.3g}", ""))
    facts = "".join(
        f"<dt>{text(name)}</dt><dd{f' class={chr(34)}{style}{chr(34)}' if style else ''}>{_cut(value, say)}</dd>"
        for name, value, style in shown
    )
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
