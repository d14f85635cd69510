"""Boda's side of `train_flamingo`: the recipe's stage through the training loop that `boda train` runs.

`python benchmarks/train_flamingo_boda.py FOLDER captions|documents --steps N` trains and prints one JSON object. `--without packing`
computes one sample a forward pass, `--without labels` logits at every token.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from boda.data.sources import BadRows
from boda.recipe import load_recipe
from boda.train import loop, objectives
from boda.train.build import build, get_tokenizer, opened
from boda.train.preparation import prepare_stage
from boda.train.stages import make_job

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import peak_rss_mb
from train_clip_boda import Done, InOrder
from train_flamingo_data import SETS, recipe
from train_vlm_boda import full_logits_loss


def main() -> None:
    parser = argparse.ArgumentParser(description="Boda's side of train_flamingo")
    parser.add_argument("folder", type=Path)
    parser.add_argument("set", choices=tuple(SETS))
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--without", default="", choices=("", "packing", "labels"))
    parser.add_argument("--profile", type=Path, help="where a profile of the measured steps goes")
    chosen = parser.parse_args()

    total, device = chosen.warmup + chosen.steps, torch.device("cpu")
    said = recipe(chosen.folder, chosen.set, total)
    said["stages"][0]["packing"] = chosen.without != "packing"
    made = load_recipe(said)
    stage, ends, spent, records = made.stages[0], [], [], []
    profiler = torch.profiler.profile() if chosen.profile else None

    def log(record: dict) -> None:
        ends.append(time.perf_counter())
        spent.append(time.process_time())
        records.append(record)
        if profiler and len(ends) == chosen.warmup:
            profiler.start()
        if len(ends) == total:
            raise Done

    with tempfile.TemporaryDirectory() as folder:
        built = build(made, get_tokenizer(made, None, iter(())), None, [], device)
        built.model.load_state_dict(load_file(chosen.folder / "weights.safetensors"))
        trained = opened(built, stage, made.seed)
        data = prepare_stage(made, stage, built, Path(folder), None, BadRows(), True)
        job = make_job(made, stage, built, trained, data, Path(folder), device, made.seed)
        job.plan = InOrder(made.seed, stage.batch_size, np.asarray(data.sources), data.weights)
        job.log, job.quiet = log, True
        if chosen.without == "labels":
            job.objective = objectives.Objective(
                lambda *given: objectives.Measured(full_logits_loss(*given), given[1]["labels"].numel())
            )
        try:
            loop.run(job)
        except Done:
            peak = peak_rss_mb()
    if profiler:
        profiler.stop()
        chosen.profile.write_text(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40), encoding="utf-8")
    result = {
        "samples": chosen.steps * stage.batch_size,
        "trained_tokens": sum(record["trained_tokens"] for record in records[chosen.warmup :]),
        "seconds": ends[-1] - ends[chosen.warmup - 1],
        "cpu_seconds": spent[-1] - spent[chosen.warmup - 1],
        "losses": [record["loss"] for record in records],
        "trained_parameters": sum(parameter.numel() for parameter in trained.values()),
        "peak_rss_mb": peak,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
