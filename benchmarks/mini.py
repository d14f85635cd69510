"""The shipped model `mini`: how it was trained and what it answers, written to `benchmarks/mini.md`.

    python benchmarks/mini.py [--run runs/mini-vlm] [--ship]

Trains `mini-vlm` in the run's folder, or goes on with it, asks fresh drawn questions seeing and blind, and writes the report with
curve, contact sheet and thirty answers. `--ship` puts the finished model into the package as `mini` first. What people write
under the report's last heading is kept when it is made again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import ROOT, commit, relative
from real import about_machine, answers_table, kept_reading, line, minutes_of, parameters, steps_and_minutes

READ = "## Thirty answers, read"
GOALS = {
    **{f"{kind}, pair seen": 0.95 for kind in ("colour", "shape", "position", "existence", "count")},
    **{f"{kind}, pair never seen together": 0.80 for kind in ("colour", "shape", "position", "existence", "object")},
    "word, font seen": 0.90,
    "word, font held out": 0.60,
}


def drawing_speed() -> str:
    """Pictures with their words a second on one core: scenes, and written words."""
    from boda.data.drawn.samples import read

    found = []
    for name, count in (("questions", 1500), ("descriptions", 3000), ("words", 1500)):
        began = time.process_time()
        pictures = {sample.images[0].drawn: sample.images[0] for sample in read(name, count, seed=5)}
        for image in pictures.values():
            image.picture()
        found.append(f"{name} {len(pictures) / (time.process_time() - began):,.0f}")
    return "Pictures drawn a second on one core, all their sentences made: " + ", ".join(found) + "."


PARTS = ("mini-clip", "mini-lm")


def ship(run: Path) -> Path:
    """The finished model, and the pair model that its tower is from, as the package carries them. Returns the first."""
    from boda.models.checkpoints import SHIPPED

    for name, model in (("mini", run / "model"), ("mini-clip", run / "parts/mini-clip/model")):
        shutil.rmtree(SHIPPED[name], ignore_errors=True)
        shutil.copytree(model, SHIPPED[name])
        for path in SHIPPED[name].iterdir():
            path.chmod(0o644)
    return SHIPPED["mini"]


def stages(run: Path) -> list[str]:
    """A line for every stage: steps, samples, minutes, loss at its end."""
    logs = [*((part, run / f"parts/{part}/log.jsonl") for part in PARTS), ("mini-vlm", run / "log.jsonl")]
    lines = [
        "| recipe | stage | steps | minutes | loss at the end | validation loss |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for recipe, path in logs:
        records = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
        for stage in dict.fromkeys(record["stage"] for record in records):
            mine = [record for record in records if record["stage"] == stage]
            steps = [record for record in mine if "loss" in record]
            held = [record["validation_loss"] for record in mine if "validation_loss" in record]
            last = steps[-50:]
            loss = sum(record["loss"] for record in last) / len(last)
            lines.append(
                f"| `{recipe}` | {stage} | {len(steps):,} | {minutes_of(steps):.0f} | {loss:.3f} | {f'{held[-1]:.3f}' if held else '-'} |"
            )
    return lines


def table(seeing: dict, blind: dict) -> list[str]:
    lines = [
        "| questions | n | score (95 %) | blind | majority | by words alone | goal |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, found in seeing["groups"]["set"].items():
        goal = GOALS.get(name)
        reached = "" if goal is None else f"{goal:.0%}: " + ("reached" if found["score"] >= goal else "**missed**")
        lines.append(line(name, found, blind["groups"]["set"].get(name), reached))
    lines.append(line("all", seeing, blind))
    return lines


def by_objects(answers: Path) -> list[str]:
    """Scores with one object in the picture and with several: seeing it, and finding it among others."""
    from boda.evaluate.answers import read_answers

    found: dict[str, tuple[list[float], list[float]]] = {}
    for record in read_answers(answers):
        if not record["failed"] and record["tags"]["type"] != "word":
            found.setdefault(record["tags"]["type"], ([], []))[record["tags"].get("layout") != "one"].append(record["score"])
    lines = ["| kind | one object | several |", "| --- | ---: | ---: |"]
    for kind, scores in sorted(found.items()):
        shares = [f"{sum(each) / len(each):.0%} of {len(each)}" if each else "-" for each in scores]
        lines.append(f"| {kind} | {shares[0]} | {shares[1]} |")
    return lines


def thirty(answers: Path) -> list[str]:
    """Thirty answers drawn at random, to be read."""
    from boda.evaluate.answers import read_answers

    records = [record for record in read_answers(answers) if not record["failed"]]
    return answers_table("kind", [(record["tags"]["type"], record) for record in random.Random(1).sample(records, 30)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs/mini-vlm", help="the folder of the training run")
    parser.add_argument("--ship", action="store_true", help="put the finished model into the package")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="where the report goes")
    chosen = parser.parse_args()
    import boda
    import boda.evaluate
    from boda.evaluate.report import contact_sheet, curve

    model = boda.train("mini-vlm", out=chosen.run)
    if chosen.ship:
        model = ship(chosen.run)
    results = {
        way: boda.evaluate.run(model, ["drawn"], chosen.run / f"eval-{way}", blind=way == "blind", batch_size=64)["drawn"]
        for way in ("seeing", "blind")
    }
    out = chosen.out
    curve(chosen.run, out / "mini-curve.png")
    contact_sheet(chosen.run / "eval-seeing", out / "mini-answers.png", columns=6, rows=6)
    parts = parameters(model)
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file()) / 1e6
    spent = [steps_and_minutes(path / "log.jsonl") for path in (chosen.run, *(chosen.run / "parts" / part for part in PARTS))]
    steps, minutes = map(sum, zip(*spent))
    seed = json.loads((model / "boda.json").read_text(encoding="utf-8"))["recipe"]["seed"]
    path = out / "mini.md"
    read = kept_reading(path, READ)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        "# mini: the model that comes with Boda", "",
        f"{date}, commit `{commit()}`, `boda train mini-vlm` (seed {seed}), report: `python benchmarks/mini.py`", "",
        about_machine(), "",
        f"{sum(parts.values()):,} parameters ({', '.join(f'{name} {count:,}' for name, count in parts.items())}), {size:.1f} MB in "
        f"all. {steps:,} steps that took {minutes:.0f} minutes, image tower and language model included, validation and preparation aside. "
        + drawing_speed(), "",
        "## Fresh questions", "", *table(results["seeing"], results["blind"]), "",
        "Every question has a picture of its own, from a seed that no recipe trains on. 95 % bootstrap interval over pictures. *blind*: "
        "the same model without the picture. *majority*: always the most frequent answer of these very questions. *by words alone*: "
        "for each wording its most frequent answer in training.", "", *results["seeing"].get("remarks", []), "",
        "### One object, or several", "", *by_objects(chosen.run / "eval-seeing"), "",
        "## Training", "", *stages(chosen.run), "", "![loss over steps](mini-curve.png)", "",
        "## Answers", "", "![pictures with answers, right in green, wrong in red](mini-answers.png)", "",
        *thirty(chosen.run / "eval-seeing"), "",
    ]  # fmt: skip
    path.write_text(relative("\n".join(lines)) + (f"\n{read}\n" if read else ""), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
