"""`boda demo`: trains a small model on pictures that Boda draws before your eyes, and sets it beside the one it ships."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from boda import evaluate
from boda.evaluate.report import contact_sheet
from boda.evaluate.strip import sparkline, strip
from boda.models.checkpoints import SHIPPED
from boda.train.stages import train

TASK = "drawn:number=12"
COLUMNS = {"score": "this run", "shipped": "shipped mini", "majority": "always the most frequent"}


def cache_folder() -> Path:
    """Where demo runs are kept: BODA_CACHE or ~/.cache/boda."""
    return Path(os.environ.get("BODA_CACHE") or Path.home() / ".cache" / "boda")


class Show:
    """A logger that shows learning: the loss as a line of blocks, trial answers beside the right ones, and a growing strip."""

    def __init__(self, picture: Path, say: Callable[[str], None]):
        self.picture, self.say = picture, say
        self.stage = ""
        self.losses: list[float] = []
        self.answered: list[dict] = []

    def log(self, record: dict) -> None:
        if record["stage"] != self.stage:
            self.stage, self.losses, self.answered = record["stage"], [], []
        if "loss" in record:
            self.losses.append(record["loss"])
        if record.get("answers"):
            self.answered.append(record)
            strip(self.answered, self.picture.with_stem(f"{self.picture.stem}-{self.stage}"))
            lines = [f"  {self.stage}, step {record['step']}   loss {sparkline(self.losses)} {record['validation_loss']:.3f}"]
            for answer in record["answers"]:
                right = answer["answer"] == answer["expected"]
                lines.append(f"    {'✓' if right else '✗'} {answer['answer']}" + ("" if right else f"   ({answer['expected']})"))
            self.say("\n".join(lines))


def run_demo(say: Callable[[str], None], steps: int | None = None) -> dict:
    """Trains, evaluates, compares; a second run finds everything done. Returns {model, tasks, shipped, sheet}."""
    folder = cache_folder() / "demo"
    run = folder / (f"run-{steps}" if steps else "run")
    say(f"training a small Korean vision-language model on pictures that Boda draws; everything is kept in {run}")
    model = train("demo", out=run, overrides={"stages.*.max_steps": steps} if steps else {}, loggers=[Show(run / "strip.png", say)])
    say("asking it, and the model that comes with Boda, about pictures neither has seen ...")
    scores = evaluate.run(model, tasks=[TASK], out=run / "eval", quiet=True)
    shipped = evaluate.run("mini", tasks=[TASK], out=folder / "eval-mini", quiet=True)
    table(scores[TASK], shipped[TASK])
    sheet = contact_sheet(run / "eval", run / "answers.png")
    best = contact_sheet(folder / "eval-mini", folder / "answers-mini.png")
    say(f"model      {model}\nas it learned  {', '.join(str(path) for path in sorted(run.glob('strip-*.png')))}")
    say(f"its answers    {sheet}\nof the shipped {best}")
    say(f"ask it yourself: boda data draw pictures --count 8, then boda chat {SHIPPED_NAME} --image pictures/images/0.png '무엇이 보이나요?'")
    return {"model": str(model), "tasks": scores, "shipped": shipped, "sheet": str(sheet)}


SHIPPED_NAME = next(iter(SHIPPED))


def table(scores: dict, shipped: dict) -> None:
    """Both models' scores by set of questions, with what the most frequent answer alone would score."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="right answers on pictures never seen", title_justify="left")
    shown.add_column("questions")
    for name in ("n", *COLUMNS.values()):
        shown.add_column(name, justify="right")
    groups, others = scores["groups"]["set"], shipped["groups"]["set"]
    for name, group in [*groups.items(), ("all", scores)]:
        other = shipped if name == "all" else others[name]
        values = (group["score"], other["score"], group["majority"])
        shown.add_row(name, str(group["n"]), *(f"{value:.0%}" for value in values), style="bold" if name == "all" else "")
    console = Console()
    (console if console.is_terminal else Console(width=110)).print(shown)
