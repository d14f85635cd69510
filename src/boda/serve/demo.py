"""`boda demo`: draws pictures, trains a small model on them before your eyes, and shows what it answers. No download."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from boda import evaluate
from boda.data.drawn.shapes import draw
from boda.evaluate.report import contact_sheet
from boda.train.stages import train

TRAIN_PICTURES, TEST_PICTURES = 3000, 100


def cache_folder() -> Path:
    """Where demo runs are kept: BODA_CACHE or ~/.cache/boda."""
    return Path(os.environ.get("BODA_CACHE") or Path.home() / ".cache" / "boda")


def run_demo(say: Callable[[str], None], steps: int | None = None) -> dict:
    """Draws, trains, evaluates; a second run finds everything done. Returns {model, tasks, sheet}."""
    folder = cache_folder() / "demo"
    drawn = folder / "drawn"
    if not (drawn / "test.jsonl").is_file():
        say(f"drawing {TRAIN_PICTURES} pictures with 5 questions each ...")
        draw(drawn, TRAIN_PICTURES, 0, "train")
        draw(drawn, TEST_PICTURES, 1, "test")
    overrides = {"stages.see.max_steps": steps} if steps else {}
    run = folder / (f"run-{steps}" if steps else "run")
    say("training a model of 0.5 million parameters from nothing ...")
    model = train("demo", out=run, overrides=overrides, data_dir=drawn)
    say("asking it about pictures it has not seen ...")
    scores = evaluate.run(model, tasks=["questions:test.jsonl"], out=run / "eval", data_dir=drawn)
    sheet = contact_sheet(run / "eval", run / "answers.png")
    say(f"model: {model}\nanswers as a picture: {sheet}")
    say(f"ask it yourself: boda chat {model} --image {drawn}/test/00000.png '무슨 모양인가요?'")
    return {"model": str(model), "tasks": scores, "sheet": str(sheet)}
