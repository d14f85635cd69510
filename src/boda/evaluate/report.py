"""What people look at: a sheet of pictures with answers, a table of runs, a curve of a training run."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from boda.data.sample import IMAGE_MARK, ImageRef
from boda.errors import BodaError
from boda.evaluate.answers import read_answers
from boda.evaluate.fonts import korean_font

PICTURE, MARGIN, FRAME, LINE = 208, 12, 4, 22
TEXT_SIZE = 17
MOST_LINES = {"question": 3, "answer": 3, "gold": 2}
TABLE_NOTE = (
    "Score with 95 % bootstrap interval over pictures. *majority*: always the most frequent answer of these questions. "
    "*by words alone*: for each question its most frequent answer in training."
)
RIGHT, WRONG, FAILED, INK, FAINT = "#1a7f37", "#c62828", "#8a6d00", "#1f2328", "#6b7280"


def contact_sheet(
    answers: str | Path,
    out_png: str | Path,
    columns: int = 5,
    rows: int = 6,
    only: Literal["right", "wrong"] | None = None,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
) -> Path:
    """Draws answers as a PNG: picture, question, answer and reference, framed green where right and red where wrong.

    Args:
        answers: an `answers.jsonl`, or the folder it lies in.
        columns: cells beside each other.
        rows: at most so many lines of cells. Answers are drawn at random from the seed, as many from each kind of question.
        only: right or wrong answers alone.
        tasks: of these tasks alone.

    Raises:
        BodaError: no answers to show, or no font with Hangul.
    """
    from PIL import Image, ImageDraw, ImageFont

    if columns < 1 or rows < 1:
        raise BodaError(f"a sheet of {columns} columns and {rows} rows has no cell; both are at least 1")
    wanted = {"right": (1.0,), "wrong": (0.0,)}.get(only or "")
    records = [
        record
        for record in read_answers(answers)
        if (tasks is None or record["task"] in tasks) and (wanted is None or record["score"] in wanted)
    ]
    if not records:
        raise BodaError(f"{answers} has no {only + ' ' if only else ''}answers to show")
    chosen = _spread(records, columns * rows, random.Random(seed))
    font = ImageFont.truetype(korean_font(), TEXT_SIZE)
    width = PICTURE + 2 * FRAME
    cells = [_cell(record, font, width) for record in chosen]
    lines = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in line) for line in lines]
    columns = min(columns, len(cells))
    sheet = Image.new(
        "RGB", (columns * (width + MARGIN) + MARGIN, sum(heights) + MARGIN * (len(lines) + 1) + LINE + MARGIN), "white"
    )
    scored = [record["score"] for record in records if record["score"] is not None]
    share = f", {sum(scored) / len(scored):.1%} right" if scored and wanted is None else ""
    ImageDraw.Draw(sheet).text(
        (MARGIN, MARGIN),
        _fitting(f"{len(chosen)} of {len(records):,} answers{share}", font, sheet.width - 2 * MARGIN),
        INK,
        font,
    )
    top = 2 * MARGIN + LINE
    for line, height in zip(lines, heights):
        for column, cell in enumerate(line):
            sheet.paste(cell, (MARGIN + column * (width + MARGIN), top))
        top += height + MARGIN
    out_png = Path(out_png)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out_png)
    return out_png


def _spread(records: list[dict], number: int, rng: random.Random) -> list[dict]:
    """As many records of each task, and within a task as many of each kind of question, so that none fills the sheet."""
    tasks: dict[str, dict[tuple, list[dict]]] = {}
    for record in records:
        tags = record.get("tags", {})
        kind = (tags["set"],) if "set" in tags else tuple(sorted(tags.items()))
        tasks.setdefault(record["task"], {}).setdefault(kind, []).append(record)
    in_turn = []
    for kinds in tasks.values():
        if len(kinds) > sum(map(len, kinds.values())) // 2:  # tags that tell single rows apart are no kinds
            kinds = {(): [record for pile in kinds.values() for record in pile]}
        in_turn.append(_in_turn([rng.sample(pile, len(pile)) for _, pile in sorted(kinds.items())]))
    chosen = _in_turn(in_turn)[:number]
    return sorted(chosen, key=lambda record: (list(tasks).index(record["task"]), sorted(record.get("tags", {}).items())))


def _in_turn(piles: list[list[dict]]) -> list[dict]:
    """One of each pile, then the next of each, until all are empty."""
    longest = max(map(len, piles))
    return [pile[place] for place in range(longest) for pile in piles if place < len(pile)]


def _cell(record: dict, font, width: int):
    from PIL import Image, ImageDraw

    colour = FAILED if record["failed"] else RIGHT if record["score"] == 1 else WRONG
    question = record["prompt"][-1]["content"].replace(IMAGE_MARK, "").strip() if record["prompt"] else ""
    answer = record["error"] if record["failed"] else record["raw"].strip() or "(empty)"
    texts = [(line, INK) for line in wrapped(question, font, width, MOST_LINES["question"])]
    texts += [(line, colour) for line in wrapped(f"답: {answer}", font, width, MOST_LINES["answer"])]
    if record["score"] != 1 and record.get("gold"):
        texts += [(line, FAINT) for line in wrapped(f"정답: {record['gold']}", font, width, MOST_LINES["gold"])]
    cell = Image.new("RGB", (width, PICTURE + 2 * FRAME + 6 + LINE * len(texts)), "white")
    draw = ImageDraw.Draw(cell)
    draw.rectangle((0, 0, width - 1, PICTURE + 2 * FRAME - 1), outline=colour, width=FRAME)
    _draw_pictures(cell, draw, record.get("images") or [], font)
    for number, (line, ink) in enumerate(texts):
        draw.text((0, PICTURE + 2 * FRAME + 6 + number * LINE), line, ink, font)
    return cell


def _draw_pictures(cell, draw, places: list, font) -> None:
    """The question's pictures side by side in the frame; words where there is none or it cannot be read."""
    from PIL import Image

    from boda.data.images import load_image

    each = PICTURE // max(1, len(places))
    for number, place in enumerate(places or [None]):
        left = FRAME + number * each
        try:
            if place is None:
                raise BodaError("(not kept)" if places else "(no picture)")
            picture = load_image(ImageRef(**place))
        except BodaError as error:
            for line_number, line in enumerate(wrapped(str(error), font, each - 16, 6)):
                draw.text((left + 8, FRAME + 8 + line_number * LINE), line, FAINT, font)
            continue
        scale = min(each / picture.width, PICTURE / picture.height)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.NEAREST if scale > 3 else Image.Resampling.LANCZOS)
        cell.paste(picture, (left + (each - size[0]) // 2, FRAME + (PICTURE - size[1]) // 2))


def wrapped(text: str, font, width: int, most_lines: int) -> list[str]:
    """Text in lines that fit the width: broken at spaces where possible, inside words where not, cut with … at the end."""
    lines, line = [], ""
    for word in " ".join(text.split()).split(" "):
        if line and font.getlength(f"{line} {word}") <= width:
            line = f"{line} {word}"
            continue
        if line:
            lines.append(line)
        line = ""
        for character in word:
            if line and font.getlength(line + character) > width:
                lines.append(line)
                line = ""
            line += character
    lines.append(line)
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], _fitting(" ".join(lines[most_lines - 1 :]), font, width)]
    return lines


def _fitting(text: str, font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def markdown_table(runs: dict[str, str | Path] | Sequence[str | Path], groups: bool = True) -> str:
    """Runs side by side as a Markdown table: a line a task and group, a column a run, baselines at the end.

    Args:
        runs: evaluation folders (or their results.json), by the name to show; without names, the folder's name.
        groups: whether the tasks' groups get lines of their own.
    """
    if not runs:
        raise BodaError("no run to make a table of")
    named = runs if isinstance(runs, dict) else _distinct_names([Path(run) for run in runs])
    results = {name: read_results(run)["tasks"] for name, run in named.items()}
    lines: dict[tuple[str, ...], dict[str, dict]] = {}
    for name, tasks in results.items():
        for task, result in tasks.items():
            lines.setdefault((task,), {})[name] = result
            for tag, values in result.get("groups", {}).items() if groups else ():
                if tag != "answer":
                    for value, group in values.items():
                        lines.setdefault((task, tag, value), {})[name] = group
    # Lines of one task stand together even where runs have different groups.
    order = {key: number for number, key in enumerate(lines)}
    tasks_in_order = {key[0]: number for key, number in reversed(order.items())}
    by_words = any("train_majority_by_question" in found for line in lines.values() for found in line.values())
    table = [["task", "n", *named, "majority", *(["by words alone"] if by_words else [])]]
    for key in sorted(lines, key=lambda key: (tasks_in_order[key[0]], order[key])):
        found = lines[key]
        first = next(iter(found.values()))
        label = f"**{key[0]}**" if len(key) == 1 else f"&nbsp;&nbsp;{key[1]}: {key[2]}"
        cells = [_score(found.get(name)) for name in named]
        shares = [f"{first['majority']:.1%}" if "majority" in first else ""]
        if by_words:
            value = first.get("train_majority_by_question")
            shares.append("" if value is None else f"{value:.1%}")
        table.append([label, f"{first['n']:,}", *cells, *shares])
    head, *body = [[cell.replace("|", "\\|") for cell in line] for line in table]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *body]) + "\n"


def _score(result: dict | None) -> str:
    if result is None or result["score"] is None:
        return "-" if result is None else f"- ({result['failed']} failed)"
    failed = f", {result['failed']} failed" if result["failed"] else ""
    return f"{result['score']:.1%} ({result['low']:.1%} - {result['high']:.1%}{failed})"


def read_results(run: str | Path) -> dict:
    """The results of an evaluation folder. Raises BodaError if it has none."""
    path = Path(run)
    path = path / "results.json" if path.is_dir() else path
    if not path.is_file():
        raise BodaError(f"no results at {path}: it is written when an evaluation ends; run it (again) with --out {path.parent}")
    return json.loads(path.read_text(encoding="utf-8"))


def write_report(runs: Sequence[str | Path], out: str | Path | None = None) -> list[Path]:
    """Everything that can be shown of some runs: a table of the evaluations, a sheet of each one's answers, a curve of each training.

    Args:
        runs: folders that `boda eval` or `boda train` wrote.
        out: folder for the files; None: the first run's own.

    Raises:
        BodaError: a folder that is neither kind of run.
    """
    if not runs:
        raise BodaError("no run to report on")
    folders = [Path(run) for run in runs]
    for folder in folders:
        if not (folder / "results.json").is_file() and not (folder / "log.jsonl").is_file():
            raise BodaError(f"{folder} holds neither results.json (boda eval) nor log.jsonl (boda train)")
    out = Path(out) if out is not None else folders[0]
    names = _distinct_names(folders)
    evaluated = {name: folder for name, folder in names.items() if (folder / "results.json").is_file()}
    written: list[Path] = []
    text = ["# Report", ""]
    if evaluated:
        text += [markdown_table({name: folder for name, folder in evaluated.items()}), TABLE_NOTE, ""]
    for name, folder in names.items():
        file_name = name.replace("/", "-")
        if name in evaluated:
            written.append(contact_sheet(folder, out / f"{file_name}-answers.png"))
        if (folder / "log.jsonl").is_file():
            written.append(curve(folder, out / f"{file_name}-curve.png"))
    text += [f"![{path.stem}]({path.name})\n" for path in written]
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text("\n".join(text), encoding="utf-8")
    return [out / "report.md", *written]


def _distinct_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Each folder by as many of its last names as tell it from the others."""
    for depth in range(1, max(len(folder.absolute().parts) for folder in folders) + 1):
        names = {"/".join(folder.absolute().parts[-depth:]): folder for folder in folders}
        if len(names) == len(folders):
            return names
    raise BodaError(f"a run is named twice: {', '.join(map(str, folders))}")


def curve(run_folder: str | Path, out_png: str | Path) -> Path:
    """The `log.jsonl` of a training run as a picture: loss, validation loss and any accuracy over the steps of all stages.

    Raises:
        BodaError: no log, or no loss in it.
    """
    path = Path(run_folder)
    path = path / "log.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise BodaError(f"no log at {path}: a training run writes log.jsonl into its --out folder")
    records = _log_records(path)
    if not any(isinstance(record.get("loss"), (int, float)) for record in records):
        raise BodaError(f"{path} has no record with a loss")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series, borders = _series(records)
    accuracies = {name: points for name, points in series.items() if "accuracy" in name}
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps, losses = zip(*series["loss"])
    axes.plot(steps, losses, color="#9db7d5", linewidth=0.7, label="loss of a step")
    smoothed = _smoothed(losses)
    axes.plot(steps, smoothed, color="#1f4e8c", linewidth=1.8, label="loss, smoothed")
    for name, points in series.items():
        if name != "loss" and name not in accuracies:
            axes.plot(*zip(*points), color="#c0561a", marker="o", markersize=3, linewidth=1.2, label=name.replace("_", " "))
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per trained token)")
    # Steep at first: what happens later would be a flat line if the first steps set the scale.
    axes.set_ylim(0, 1.15 * max(smoothed[len(smoothed) // 50 :]))
    axes.grid(alpha=0.25)
    handles = list(axes.get_legend_handles_labels())
    if accuracies:
        right = axes.twinx()
        for name, points in accuracies.items():
            right.plot(*zip(*points), color="#2b8a3e", marker="s", markersize=3, linewidth=1.2, label=name.replace("_", " "))
        right.set_ylim(0, 1)
        right.set_ylabel("accuracy")
        handles = [first + second for first, second in zip(handles, right.get_legend_handles_labels())]
    for stage, start in borders:
        if start > 0:
            axes.axvline(start, color="#888888", linewidth=0.8, linestyle="--")
        axes.annotate(
            stage, (start, 1), xycoords=("data", "axes fraction"), xytext=(4, -12), textcoords="offset points", color="#555555"
        )
    axes.legend(*handles, loc="upper right")
    out_png = Path(out_png)
    out_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out_png, dpi=120)
    return out_png


def _log_records(path: Path) -> list[dict]:
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:  # the line a running or killed training is writing
            continue
    return [record for record in records if isinstance(record, dict) and isinstance(record.get("step"), int)]


def _series(records: list[dict]) -> tuple[dict[str, list[tuple[int, float]]], list[tuple[str, int]]]:
    """{quantity: (step counted over all stages, value)}, and where each stage begins."""
    series: dict[str, list[tuple[int, float]]] = {}
    borders: list[tuple[str, int]] = []
    start = reached = 0
    for record in records:
        stage = str(record.get("stage", ""))
        if not borders or borders[-1][0] != stage:
            start = reached
            borders.append((stage, start))
        reached = max(reached, start + record["step"])
        for name, value in record.items():
            if ("loss" in name or "accuracy" in name) and isinstance(value, (int, float)):
                series.setdefault(name, []).append((start + record["step"], float(value)))
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
