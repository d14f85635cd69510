"""`boda demo`: trains a small model on pictures that Boda draws before your eyes, and sets it beside the one it ships."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from boda import evaluate
from boda.errors import BodaError
from boda.evaluate.answers import fingerprint
from boda.evaluate.sheets import contact_sheet
from boda.evaluate.strip import sparkline, strip
from boda.files import cache_folder, read_lines
from boda.models.loading import SHIPPED, locate
from boda.recipe import Recipe, load_recipe, part_recipes
from boda.terminal import clear_line, console, harmless
from boda.train.stages import train

RECIPE: str | Path = "demo"
TASK = "drawn:number=12"
SHIPPED_NAME = "mini"


class Show:
    """A logger that shows learning: the loss as a line of blocks, trial answers beside the right ones, and a growing strip."""

    def __init__(self, run: Path, say: Callable[[str], None]):
        self.run, self.say = run, say

    def log(self, record: dict) -> None:
        if not record.get("answers"):
            return
        # What the run has written, not what was heard here: after a stop and a second start the strip goes on growing.
        records = [each for each in read_lines(self.run / "log.jsonl") if each["stage"] == record["stage"]]
        strip(records, self.run / f"strip-{record['stage']}.png")
        losses = sparkline([each["loss"] for each in records if "loss" in each])
        shown = [f"  {record['stage']}, step {record['step']}   loss {losses} {record['validation_loss']:.3f}"]
        for answer in record["answers"]:
            right = answer["answer"] == answer["expected"]
            said = harmless(" ".join(answer["answer"].split()))
            shown.append(f"    {'✓' if right else '✗'} {said}" + ("" if right else f"   ({answer['expected']})"))
        clear_line()  # that the progress renews
        self.say("\n".join(shown))


def run_demo(say: Callable[[str], None], steps: int | None = None, quiet: bool = False) -> dict:
    """Trains, evaluates, compares; a second run finds everything done. Returns {model, tasks, shipped, sheet}.

    `steps`: of each stage, the language model's own included; None: the recipe's. `quiet`: nothing but the table. Raises
    BodaError: nothing can be written there, or the weights that come with Boda are missing.
    """
    folder = cache_folder() / "demo"
    if not (SHIPPED[SHIPPED_NAME] / "config.json").is_file():
        raise BodaError(
            f"the model '{SHIPPED_NAME}' that comes with Boda is not at {SHIPPED[SHIPPED_NAME]}; install Boda again"
        )
    recipe = shortened(load_recipe(RECIPE), steps, folder) if steps else load_recipe(RECIPE)
    run = folder / f"run-{key_of(recipe)}"
    say(f"training a small Korean vision-language model on pictures that Boda draws; everything is kept in {run}")
    model = train(recipe, out=run, loggers=[Show(run, say)], quiet=quiet)
    say("asking it, and the model that comes with Boda, about pictures neither has seen ...")
    scores, answers = asked(model, run)
    shipped, best = asked(SHIPPED_NAME, folder)
    table(scores, shipped)
    sheet = contact_sheet(answers, run / "answers.png")
    best_sheet = contact_sheet(best, run / f"answers-{SHIPPED_NAME}.png")
    say(f"model          {model}\nas it learned  {', '.join(str(run / f'strip-{stage.name}.png') for stage in recipe.stages)}")
    say(f"its answers    {sheet}\nof the shipped {best_sheet}\nask it yourself: boda data draw pictures --count 8")
    say(f"                 boda chat {SHIPPED_NAME} --image pictures/images/000000.png '그림을 설명해 주세요.'")
    return {"model": str(model), "tasks": {TASK: scores}, "shipped": {TASK: shipped}, "sheet": str(sheet)}


def shortened(recipe: Recipe, steps: int, folder: Path) -> Recipe:
    """The recipe with so many steps a stage. Those of its parts become files in `folder`: overrides end at a recipe."""
    changes: dict = {"stages.*.max_steps": steps}
    for part, (name, maker) in part_recipes(recipe).items():
        path = folder / f"{name}-{steps}.yaml"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(load_recipe(maker, {"stages.*.max_steps": steps}).to_yaml(), encoding="utf-8")
        except OSError as error:
            raise BodaError(f"cannot write to {folder}: {error.strerror}; BODA_CACHE names another folder") from error
        changes[f"model.{part}"] = {"recipe": str(path)}
    return load_recipe(recipe, changes)


def key_of(recipe: Recipe) -> str:
    """Tells runs of different recipes apart, so that another version of Boda finds no run in its way."""
    said = [each.to_yaml() for each in (recipe, *(maker for _, maker in part_recipes(recipe).values()))]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:8]


def asked(model: str | Path, folder: Path) -> tuple[dict, Path]:
    """A model's scores, and the folder in `folder` with its answers: another for other weights or other questions."""
    task = evaluate.make_task(TASK)
    out = folder / f"eval-{fingerprint(Path(locate(model)))}-{task.version.rpartition('-')[2][:8]}"
    return evaluate.run(model, tasks=[task], out=out, quiet=True)[TASK], out


def table(scores: dict, shipped: dict) -> None:
    """Both models' scores by set of questions, with what the most frequent answer alone would score."""
    shown = Table(title="right answers on pictures never seen", title_justify="left")
    shown.add_column("questions")
    for name in ("n", "this run", f"shipped {SHIPPED_NAME}", "always the most frequent"):
        shown.add_column(name, justify="right")
    ours, theirs = ({**each["groups"].get("set", {}), "all": each} for each in (scores, shipped))
    for name, group in ours.items():
        shares = (group["score"], theirs.get(name, {}).get("score"), group.get("majority"))
        cells = ["-" if share is None else f"{share:.0%}" for share in shares]
        shown.add_row(name, str(group["n"]), *cells, style="bold" if name == "all" else "")
    console().print(shown)
