"""The small Flamingo `mini-flamingo`: how it was trained, and what it answers, written to `benchmarks/flamingo.md`.

    python benchmarks/flamingo.py [--run runs/mini-flamingo] [--number 200]

Trains the recipe in the run's folder, or goes on with it, and asks fresh drawn documents: about the latest of several pictures; and with
more and more demonstrations, tasks and names that training never had. What people write under the report's last heading is kept when it
is made again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import ROOT, commit, relative
from real import about_machine, kept_reading, minutes_of

READ = "## Twenty documents, read"
TITLES = {
    "latest": "asked about the latest picture",
    "task": "a task never trained, shown and not named",
    "marks": "one attribute between words never trained, new in every document",
    "names": "names never trained, new in every document",
}
GOALS = {"latest": 0.9}


def stages(run: Path) -> list[str]:
    """A line for every stage: what learns, steps, minutes, loss at its end."""
    from boda.recipe import load_recipe

    records = [json.loads(text) for text in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [
        "| stage | trains | steps | minutes | loss at the end | validation loss |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for stage in load_recipe(run / "recipe.yaml").stages:
        mine = [record for record in records if record["stage"] == stage.name]
        steps = [record for record in mine if "loss" in record]
        held = [record["validation_loss"] for record in mine if "validation_loss" in record]
        loss = sum(record["loss"] for record in steps[-50:]) / len(steps[-50:])
        minutes, trains = minutes_of(steps), ", ".join(stage.train)
        lines.append(
            f"| {stage.name} | {trains} | {len(steps):,} | {minutes:.0f} | {loss:.3f} | {held[-1] if held else 0:.3f} |"
        )
    return lines


def table(groups: dict[str, dict[str, dict]]) -> list[str]:
    """A line for every type and number of shots."""
    lines = [
        "| documents | shots | n | score (95 %) | most frequent answer | copying | named before | of an earlier picture |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]

    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.1%}"

    for kind, of in groups.items():
        for shots, found in of.items():
            score = f"**{found['score']:.1%}** ({found['low']:.1%} - {found['high']:.1%})"
            rest = (percent(found.get(name)) for name in ("majority", "copying", "known", "earlier"))
            cells = [TITLES[kind], shots.split()[0], str(found["n"]), score, *rest]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def curve(groups: dict[str, dict[str, dict]], out: Path) -> None:
    """Accuracy by shots, with the 95 % interval; dashed: the share that could know."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 5), constrained_layout=True)
    for kind in ("task", "marks", "names"):
        of = groups[kind]
        x = range(len(of))
        (drawn,) = axes.plot(x, [100 * found["score"] for found in of.values()], marker="o", label=TITLES[kind])
        low, high = ([100 * found[end] for found in of.values()] for end in ("low", "high"))
        axes.fill_between(x, low, high, alpha=0.15, color=drawn.get_color())
        if kind == "names":
            known = [100 * found["known"] for found in of.values()]
            axes.plot(x, known, linestyle="--", color=drawn.get_color(), label="... whose name was shown before")
        axes.set_xticks(list(x), [shots.split()[0] for shots in of])
    axes.set(xlabel="demonstrations", ylabel="right answers, %", ylim=(0, 102))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small")
    figure.savefig(out, dpi=130)


def examples(folder: Path, many: int) -> list[str]:
    """So many answers by chance, with what was shown before."""
    records = [json.loads(text) for text in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = random.Random(0).sample([record for record in records if record["shots"] in (2, 4)], many)
    lines = ["| type | shown before, and asked | answer | right answer |", "| --- | --- | --- | --- |"]
    for record in sorted(chosen, key=lambda record: record["type"]):
        said = []
        for message in record["prompt"]:
            parts = (
                message["content"] if isinstance(message["content"], list) else [{"type": "text", "text": message["content"]}]
            )
            text = "".join("▣" if part["type"] == "image" else part["text"] for part in parts)
            said.append(text if message["role"] == "user" else f"→ {text} /")
        mark = "" if record["score"] else " ✗"
        lines.append(f"| {record['type']} | {' '.join(said)} | {record['raw']}{mark} | {record['gold']} |".replace("\n", " "))
    return lines


def report(run: Path, result: dict, evaluated: Path, command: str) -> Path:
    from boda.evaluate.report import curve as loss_curve

    out, groups = ROOT / "benchmarks", result["groups"]
    curve(groups, out / "flamingo-shots.png")
    loss_curve(run, out / "flamingo-curve.png")
    path = out / "flamingo.md"
    read = kept_reading(path, READ)
    lowest = min(found["score"] for found in groups["latest"].values())
    met = "reached" if lowest >= GOALS["latest"] else "missed"
    scores = {
        kind: " → ".join(f"{found['score']:.0%}" for found in groups[kind].values()) for kind in ("task", "marks", "names")
    }
    rises = ", ".join(f"{kind} {score}" for kind, score in scores.items())
    lines = [
        "# mini-flamingo: a small Flamingo on drawn documents",
        "",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, commit `{commit()}`, `boda train mini-flamingo` (seed 0), "
        f"report: `{command}`",
        "",
        about_machine(),
        "",
        "The training step beside the published design: [train_flamingo.md](train_flamingo.md). Reading pictures from shards: "
        "[flamingo_stream.md](flamingo_stream.md).",
        "",
        "## Training",
        "",
        *stages(run),
        "",
        "![losses](flamingo-curve.png)",
        "",
        "## Fresh documents",
        "",
        *table(groups),
        "",
        f"Asked about the latest picture: {lowest:.1%} at least, goal 90 %: {met}. By number of shots: {rises}.",
        "",
        "Documents from a seed that no recipe trains on. The same last picture at every number of shots; more shots add earlier pictures. "
        "`latest`: the right answer is right for none of the earlier pictures. `task`: one attribute said in one form; the pairs of "
        "attribute and form are never trained, and an answer must have the form that was shown. `marks`: one attribute between "
        "made-up words, all of which the answer must have. `names`: two to four values of colour "
        "or shape bear made-up names that no training document has and that another document gives others; *named before*: of how "
        "many last pictures the value's name stood before, so that it can be known. *Copying*: what the most frequent answer shown "
        "before would score.",
        "",
        "![accuracy by demonstrations](flamingo-shots.png)",
        "",
        READ,
        "",
    ]
    body = read.removeprefix(READ).strip() if read else "\n".join(examples(evaluated, 20))
    path.write_text(relative("\n".join(lines) + body + "\n"), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/mini-flamingo"))
    parser.add_argument("--number", type=int, default=200, help="last pictures of each type")
    parser.add_argument("--recipe", default="mini-flamingo")
    chosen = parser.parse_args()

    import boda
    import boda.evaluate

    model = boda.train(chosen.recipe, out=chosen.run)
    evaluated, task = chosen.run / f"evaluated-{chosen.number}", f"drawn-shots:number={chosen.number}"
    result = boda.evaluate.run(str(model), [task], evaluated)[task]
    print(report(chosen.run, result, evaluated, f"python benchmarks/flamingo.py --number {chosen.number}"))


if __name__ == "__main__":
    main()
