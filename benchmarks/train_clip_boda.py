"""Boda's side of `train_clip`: the recipe's stage through the training loop that `boda train` runs.

`python benchmarks/train_clip_boda.py FOLDER CAPTIONS.jsonl --batch-size B --steps N` trains and prints one JSON object. In place of
reading and scaling pictures, pixels are taken from `pictures.npy`, in the order of the file; the run ends before its checkpoint
is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from boda.data.plan import Plan
from boda.data.sample import ImageRef
from boda.data.sources import BadRows
from boda.recipe import load_recipe
from boda.train import loop
from boda.train.build import build, get_tokenizer, opened
from boda.train.preparation import prepare_stage
from boda.train.stages import make_job

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import peak_rss_mb
from train_clip_data import read_pictures, recipe


class InOrder(Plan):
    """Every epoch in the order of the file, so that all sides have the same pairs in a step."""

    def _order(self, epoch: int) -> np.ndarray:
        return np.arange(self.epoch_size())


@dataclass
class Pixels:
    """Picture `17.png` -> row 17 of `pictures.npy`."""

    folder: Path

    def __call__(self, ref: ImageRef) -> np.ndarray:
        return read_pictures(self.folder)[int(Path(ref.path).stem)]


class Done(Exception):
    """The last step has been taken."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Boda's side of train_clip")
    parser.add_argument("folder", type=Path)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--warmup", type=int, default=1, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, required=True, help="steps measured")
    parser.add_argument("--row-length", type=int, default=0, help="another row length than the recipe's")
    parser.add_argument("--profile", type=Path, help="where a profile of the measured steps goes")
    chosen = parser.parse_args()

    total, device = chosen.warmup + chosen.steps, torch.device("cpu")
    other = {"stages.pair.row_length": chosen.row_length} if chosen.row_length else {}
    made = load_recipe(recipe(chosen.folder, chosen.captions, chosen.batch_size, total), other)
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
        job.plan = InOrder(made.seed, stage.batch_size, np.asarray(data.sources), data.weights)
        job.load_pixels, job.log, job.quiet = Pixels(chosen.folder), log, True
        try:
            loop.run(job)
        except Done:
            peak = peak_rss_mb()
    if profiler:
        profiler.stop()
        chosen.profile.write_text(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40), encoding="utf-8")
    result = {
        "step_seconds": np.diff(ends[chosen.warmup - 1 :]).tolist(),
        "cpu_seconds": np.diff(spent[chosen.warmup - 1 :]).tolist(),
        "tokens": [record["tokens"] for record in records],
        "losses": [record["loss"] for record in records],
        "first_gradient_norm": records[0]["grad_norm"],
        "trained_parameters": sum(parameter.numel() for parameter in trained.values()),
        "peak_mb": peak,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
