"""The end of a run: the complete model folder, what it says of itself, and merging on demand."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

import boda
from boda.data.drawn.samples import LICENCE as DRAWN_LICENCE
from boda.data.prepared import PreparedData
from boda.errors import BodaError
from boda.models.checkpoints import read_info
from boda.recipe import Recipe, load_recipe
from boda.train.build import attach_stage, build, finish, get_tokenizer, language_source


def finish_run(recipe: Recipe, out: Path, device) -> Path:
    """Writes `out`/model from the trained stages."""
    tokenizer = get_tokenizer(recipe, out, iter(()))
    built = build(recipe, tokenizer, out, recipe.stages[:-1], device)
    last = recipe.stages[-1]
    attach_stage(built, last, out / "stages" / last.name / "model")
    return finish(built, recipe, out / "model", run_info(recipe, out))


def run_info(recipe: Recipe, out: Path) -> dict:
    """What `boda.json` says of a run: recipe, versions, commit, data with counts, last losses."""
    data = []
    for stage in recipe.stages:
        folder = out / "stages" / stage.name / "data"
        if not folder.is_dir():
            continue
        counts = np.bincount(PreparedData.open(folder).sources, minlength=len(stage.data))
        for block, count in zip(stage.data, counts):
            licence = block.licence or (DRAWN_LICENCE if block.source == "drawn" else "not stated")
            data.append({"stage": stage.name, "path": block.path, "rows": int(count), "licence": licence})
    last: dict[str, dict] = {}
    log = out / "log.jsonl"
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        record = json.loads(line)
        if "loss" in record:
            last[record["stage"]] = {"steps": record["step"], "loss": record["loss"]}
    language = language_source(recipe, out) if recipe.model.language_recipe else None
    return {
        "kind": recipe.model.kind,
        "parts": {"language": read_info(language)} if isinstance(language, str) else {},
        "recipe": json.loads(recipe.model_dump_json()),
        "versions": versions(),
        "commit": _commit(),
        "data": data,
        "stages": last,
    }


def versions() -> dict[str, str]:
    import transformers

    return {
        "boda": boda.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _commit() -> str | None:
    """The commit of Boda's own source, where it runs from a checkout."""
    try:
        command = ["git", "-C", str(Path(boda.__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def summary(folder: Path) -> dict:
    """What `boda train --json` says of a finished folder: {model, stages, steps, loss}."""
    run = folder.parents[2] if folder.parent.parent.name == "stages" else folder.parent
    last: dict[str, dict] = {}
    for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "loss" in record:
            last[record["stage"]] = record
    final = list(last.values())[-1] if last else {}
    return {
        "model": str(folder),
        "stages": list(last),
        "steps": sum(record["step"] for record in last.values()),
        "loss": final.get("loss"),
    }


def merge(run: str | Path, out: str | Path, stage: str | None = None) -> tuple[Path, float]:
    """Writes a run's stages, up to `stage`, as one complete model folder.

    The last stage's adapter is put on unmerged first, so that merging is seen to change nothing: returns the folder and the
    largest relative difference of the logits.

    Raises:
        BodaError: no run there, a stage that is not finished, or a merge that changed the model.
    """
    run = Path(run)
    if not (run / "recipe.yaml").is_file():
        raise BodaError(f"{run} is no run of `boda train`: it has no recipe.yaml")
    recipe = load_recipe(run / "recipe.yaml")
    done = [s for s in recipe.stages if (run / "stages" / s.name / "model" / "stage.json").is_file()]
    if stage is not None:
        recipe.stage(stage)
        if stage not in [s.name for s in done]:
            raise BodaError(f"stage '{stage}' of {run} is not finished; `boda train` with the same --out goes on with it")
        done = done[: [s.name for s in done].index(stage) + 1]
    if not done:
        raise BodaError(f"no stage of {run} is finished yet")
    built = build(recipe, get_tokenizer(recipe, run, iter(())), run, done[:-1], torch.device("cpu"))
    attach_stage(built, done[-1], run / "stages" / done[-1].name / "model")
    folder = finish(built, recipe, Path(out), run_info(recipe, run))
    return folder, json.loads((folder / "boda.json").read_text(encoding="utf-8")).get("merge", {}).get(
        "largest_relative_difference", 0.0
    )
