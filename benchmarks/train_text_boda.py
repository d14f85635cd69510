"""Boda's side of `train_text`: a recipe's stage through the training loop that `boda train` runs.

`python benchmarks/train_text_boda.py FOLDER text|dpo --batch-size B --steps N` trains and prints one JSON object; the run ends
before its checkpoint is written.
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

from boda.data.sources import BadRows
from boda.recipe import load_recipe
from boda.train import loop
from boda.train.build import build, get_tokenizer, opened
from boda.train.preparation import prepare_stage
from boda.train.stages import make_job, objective_of

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import peak_rss_mb
from train_clip_boda import Done, InOrder
from train_text_data import recipe


def main() -> None:
    parser = argparse.ArgumentParser(description="Boda's side of train_text")
    parser.add_argument("folder", type=Path)
    parser.add_argument("set", choices=("text", "dpo"))
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--warmup", type=int, default=1, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, required=True, help="steps measured")
    parser.add_argument("--row-length", type=int, default=0)
    parser.add_argument("--profile", type=Path, help="where a profile of the measured steps goes")
    chosen = parser.parse_args()

    total, device = chosen.warmup + chosen.steps, torch.device("cpu")
    made = load_recipe(recipe(chosen.folder, chosen.set, chosen.batch_size, total, chosen.row_length))
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
        trained = opened(built, stage, made.seed)
        data = prepare_stage(made, stage, built, Path(folder), None, BadRows(), True)
        job = make_job(made, stage, built, trained, data, Path(folder), device, made.seed)
        job.objective = objective_of(made, job, data)
        job.plan = InOrder(made.seed, stage.batch_size, np.asarray(data.sources[:: data.width]), data.weights)
        job.log, job.quiet = log, True
        try:
            loop.run(job)
        except Done:
            peak = peak_rss_mb()
    if profiler:
        profiler.stop()
        chosen.profile.write_text(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40), encoding="utf-8")
    measured = records[chosen.warmup :]
    seconds, cpu = ends[-1] - ends[chosen.warmup - 1], spent[-1] - spent[chosen.warmup - 1]
    result = {
        "trained_tokens": sum(record["trained_tokens"] for record in measured),
        "computed_tokens": sum(record["tokens"] for record in measured),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "steps": len(measured),
        "losses": [record["loss"] for record in records],
        "margins": [record.get("margin", 0.0) for record in records],
        "trained_parameters": sum(parameter.numel() for parameter in trained.values()),
        "peak_rss_mb": peak,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
