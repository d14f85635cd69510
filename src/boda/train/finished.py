"""The end of a run: the complete model folder, what it says of itself, and merging on demand."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

import boda
from boda.data.drawn.samples import LICENCE as DRAWN_LICENCE
from boda.data.prepared import PreparedData
from boda.errors import BodaError
from boda.files import read_lines
from boda.models.checkpoints import read_info
from boda.models.loading import config_from
from boda.models.quantised import BYTES
from boda.recipe import Recipe, Stage, load_recipe
from boda.train.build import attach_stage, build, finish, get_tokenizer, part_source


def write_model(recipe: Recipe, stages: list[Stage], run: Path, folder: Path, device) -> Path:
    """Writes the model of a run's stages, the last one's adapter put on unmerged, so that merging is seen to change nothing."""
    if recipe.precision in BYTES:
        check_room_for_merging(recipe, run, stages[-1])
    built = build(recipe, get_tokenizer(recipe, run, iter(())), run, stages[:-1], device, merging=True)
    attach_stage(built, stages[-1], run / "stages" / stages[-1].name / "model")
    return finish(built, recipe, folder, run_info(recipe, run))


def check_room_for_merging(recipe: Recipe, run: Path, last: Stage) -> None:
    """Raises BodaError where a language model trained beside matrices of few bits has no room here with all of them.

    Merging on a device that is too small would end in the operating system's killing the process.
    """
    language = part_source(recipe, "language", run)
    assert language is not None
    config = config_from(language, "language")
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    needed = 2.2 * size  # bf16, and a layer's sums in fp32
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    if needed > free:
        adapter, out = run / "stages" / last.name / "model", run / "model"
        raise BodaError(
            f"training is done, its adapter is in {adapter}; writing the merged model takes {needed / 2**30:.0f} GiB of memory and "
            f"{free / 2**30:.0f} are free. Copy {run} to a larger machine and run: boda merge {run} --out {out}"
        )


def last_records(run: Path) -> dict[str, dict]:
    """The last training record of each stage."""
    return {record["stage"]: record for record in read_lines(run / "log.jsonl") if "loss" in record}


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
    return {
        "kind": recipe.model.kind,
        "parts": {part: read_info(str(part_source(recipe, part, out))) for part in recipe.model.recipes},
        "recipe": json.loads(recipe.model_dump_json()),
        "versions": versions(),
        "commit": _commit(),
        "data": data,
        "stages": {name: {"steps": record["step"], "loss": record["loss"]} for name, record in last_records(out).items()},
    }


def versions() -> dict[str, str]:
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
    last = last_records(run)
    return {
        "model": str(folder),
        "stages": list(last),
        "steps": sum(record["step"] for record in last.values()),
        "loss": [None, *(record["loss"] for record in last.values())][-1],
    }


def merge(run: str | Path, out: str | Path, stage: str | None = None) -> tuple[Path, float]:
    """Writes a run's stages, up to `stage`, as one complete model folder; with it the largest relative change of the logits.

    Raises BodaError where there is no run, a stage is not finished, or merging changed the model.
    """
    run = Path(run)
    if not (run / "recipe.yaml").is_file():
        raise BodaError(f"{run} is no run of `boda train`: it has no recipe.yaml")
    recipe = load_recipe(run / "recipe.yaml")
    done = {s.name: s for s in recipe.stages if (run / "stages" / s.name / "model" / "stage.json").is_file()}
    if stage is not None and recipe.stage(stage).name not in done:
        raise BodaError(f"stage '{stage}' of {run} is not finished; `boda train` with the same --out goes on with it")
    if not done:
        raise BodaError(f"no stage of {run} is finished yet")
    count = list(done).index(stage) + 1 if stage else len(done)
    folder = write_model(recipe, list(done.values())[:count], run, Path(out), torch.device("cpu"))
    return folder, read_info(folder).get("merge", {}).get("largest_relative_difference", 0.0)
