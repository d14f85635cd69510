"""Pictures of runs: a sheet of pictures with answers, the worst answers, a curve of a training run."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from boda.data.sample import IMAGE_MARK, ImageRef
from boda.errors import BodaError
from boda.evaluate.answers import file_of, read_answers
from boda.files import read_lines

RIGHT, WRONG, FAILED = "#1a7f37", "#c62828", "#8a6d00"
LETTERS = 300  # more than a cell has room for: laying out an endless answer takes as long


def contact_sheet(answers: str | Path, out_png: str | Path, columns: int = 5, rows: int = 6) -> Path:
    """Draws answers as a PNG: picture, question, answer and reference, framed green where right and red where wrong.

    `answers` is an `answers.jsonl` or the folder it lies in. Cells are drawn by chance, the same each time, as many from each kind of
    question. Raises BodaError: no answers to show, or no font with Hangul.
    """
    from boda.data.sheet import draw_sheet  # here and below: Pillow and matplotlib, which only pictures need

    if columns < 1 or rows < 1:
        raise BodaError(f"a sheet of {columns} columns and {rows} rows has no cell; both are at least 1")
    records = read_answers(answers)
    if not records:
        raise BodaError(f"{answers} has no answers to show")
    chosen = spread(records, columns * rows)
    scored = [record["score"] for record in records if record["score"] is not None]
    graded = {
        record["task"] for record in records if record["score"] not in (None, 0, 1)
    }  # marks, which are no shares of right
    share = f", {sum(scored) / len(scored):.1%} right" if scored and not graded else ""
    cells = [_cell(record, record["task"] in graded) for record in chosen]
    return draw_sheet(cells, out_png, f"{len(chosen)} of {len(records):,} answers{share}", columns)


def spread(records: list[dict], number: int) -> list[dict]:
    """By chance as many records of each task, and within a task as many of each kind of question, so that none fills the sheet."""
    tasks: dict[str, dict[tuple, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        tags = record.get("tags", {})
        tasks[record["task"]][(tags["set"],) if "set" in tags else tuple(sorted(tags.items()))].append(record)
    in_turn, rng = [], random.Random(0)
    for kinds in tasks.values():
        if len(kinds) > sum(map(len, kinds.values())) // 2:  # tags that tell single rows apart are no kinds
            kinds = {(): [record for pile in kinds.values() for record in pile]}
        # By their names, whatever the order they were answered in.
        piles = [sorted(pile, key=lambda record: str(record["row"])) for _, pile in sorted(kinds.items())]
        in_turn.append(_in_turn([rng.sample(pile, len(pile)) for pile in piles]))
    chosen, order = _in_turn(in_turn)[:number], list(tasks)
    return sorted(chosen, key=lambda record: (order.index(record["task"]), sorted(record.get("tags", {}).items())))


def _in_turn(piles: list[list[dict]]) -> list[dict]:
    """One of each pile, then the next of each, until all are empty."""
    return [pile[place] for place in range(max(map(len, piles))) for pile in piles if place < len(pile)]


def worst(records: Sequence[dict], number: int, best: float = 1.0) -> list[dict]:
    """At most so many of the records that scored lowest, below `best`, spread over the kinds of questions; failed ones are a third of
    them at most."""
    low = [record for record in records if not record["failed"] and record["score"] is not None and record["score"] < best]
    failed = [record for record in records if record["failed"]]
    failed = failed[: max(number // 3, number - len(low))]
    number -= len(failed)
    if number and len(low) > number:  # those that scored as badly as the last one shown have the same chance to be shown
        limit = sorted(record["score"] for record in low)[number - 1]
        low = [record for record in low if record["score"] <= limit]
    chosen = spread(low, number) if low and number else []
    return sorted(chosen, key=lambda record: record["score"]) + failed


def question_of(record: dict) -> str:
    """The last thing asked, in words."""
    return record["prompt"][-1]["content"].replace(IMAGE_MARK, "").strip() if record["prompt"] else ""


def _cell(record: dict, is_graded: bool):
    from boda.data.sheet import FAINT, INK, Cell

    answered = INK if is_graded else {None: INK, 1: RIGHT}.get(record["score"], WRONG)  # None: a judge scores it
    colour = FAILED if record["failed"] else answered
    answer = record.get("error", "") if record["failed"] else (record["raw"] or "").strip() or "(empty)"
    texts = [(question_of(record), INK, 3), (f"답: {answer}", colour, 3)]
    if (is_graded or record["score"] != 1) and record.get("gold"):
        texts.append((f"정답: {record['gold']}", FAINT, 2))
    texts = [(text[:LETTERS], ink, most) for text, ink, most in texts]
    return Cell([place and ImageRef(**place) for place in record.get("images") or []], texts, colour)


def curve(run_folder: str | Path, out_png: str | Path) -> Path:
    """The `log.jsonl` of a training run as a picture: loss, validation loss and any accuracy over the steps of all stages."""
    from boda.data.sheet import saved

    return saved(_curve(run_folder), out_png)


def curve_bytes(run_folder: str | Path) -> bytes:
    """The same picture as a PNG in memory."""
    stream = BytesIO()
    _curve(run_folder).savefig(stream)
    return stream.getvalue()


def _curve(run_folder: str | Path):
    path = file_of(run_folder, "log", "log.jsonl", "a training run writes log.jsonl into its --out folder")
    series, borders = _series(path)
    if "loss" not in series:
        raise BodaError(f"{path} has no record with a loss")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    steps, losses = zip(*series.pop("loss"))
    smoothed = _smoothed(losses)
    axes.plot(steps, losses, color="#9db7d5", linewidth=0.7, label="loss of a step")
    axes.plot(steps, smoothed, color="#1f4e8c", linewidth=1.8, label="loss, smoothed")
    right = axes.twinx()
    for name, points in series.items():
        side, colour, marker = (right, "#2b8a3e", "s") if "accuracy" in name else (axes, "#c0561a", "o")
        label = name.replace("_", " ")
        side.plot(*zip(*points), color=colour, marker=marker, markersize=3, linewidth=1.2, label=label)
    right.set_ylim(0, 1)
    right.set_ylabel("accuracy")
    axes.legend(handles=[*axes.get_lines(), *right.get_lines()], loc="upper right")
    if not right.get_lines():
        right.remove()
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per trained token)")
    # Steep at first: what happens later would be a flat line if the first steps set the scale.
    axes.set_ylim(0, 1.15 * max(smoothed[len(smoothed) // 50 :]))
    axes.grid(alpha=0.25)
    place: dict = {"xycoords": ("data", "axes fraction"), "xytext": (4, -12), "textcoords": "offset points"}
    for stage, start in borders.items():
        if start > 0:
            axes.axvline(start, color="#888888", linewidth=0.8, linestyle="--")
        axes.annotate(stage, (start, 1), color="#555555", **place)
    return figure


def _series(log: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, int]]:
    """{quantity: (step counted over all stages, value)}, and where each stage begins."""
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    borders: dict[str, int] = {}
    reached = 0
    for record in read_lines(log):
        step = borders.setdefault(record.get("stage", ""), reached) + record["step"]
        reached = max(reached, step)
        for name, value in record.items():
            if ("loss" in name or "accuracy" in name) and isinstance(value, (int, float)):
                series[name].append((step, float(value)))
    return series, borders


def _smoothed(values: Sequence[float], share: float = 0.02) -> list[float]:
    """Running mean with a memory of a fiftieth of the run, unbiased at its start."""
    keep = 1 - 1 / max(1.0, len(values) * share)
    mean = weight = 0.0
    result = []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result
