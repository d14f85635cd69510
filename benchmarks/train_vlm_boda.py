"""Boda's side of `train_vlm`: the same model folder and rows as the peer's, through the training loop that `boda train` runs.

`python benchmarks/train_vlm_boda.py MODEL DATA.jsonl --steps N` trains and prints one JSON object. `--without LEVER` turns one of
Boda's levers off: packing (a sample a forward pass), sharing (every question computes its own picture), labels (logits at every
position), segments (one dense mask a row instead of attention within segments).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoProcessor, LlavaForConditionalGeneration

from boda.data.images import ImageSpec
from boda.data.plan import Plan
from boda.data.prepared import prepare
from boda.data.render import Renderer
from boda.data.sources import read
from boda.models import attention
from boda.recipe import Lora, Stage
from boda.train import loop, objectives
from boda.train.build import PixelLoader
from boda.train.freeze import cast, embedding_names, open_parts, part_of, set_modes

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import peak_rss_mb

LEVERS = ("packing", "sharing", "labels", "segments")
WITHOUT: dict = {"packing": False, "sharing": "separate"}


def full_logits_loss(model, batch: dict) -> torch.Tensor:
    """The loss as it is without the label lever: logits everywhere, most of them for nothing."""
    hidden = model.model(
        **{key: batch.get(key) for key in ("input_ids", "pixel_values", "position_ids", "cu_seq_lens", "prefix")},
        use_cache=False,
    ).last_hidden_state[0]
    targets = torch.full((hidden.shape[0],), -100, device=hidden.device)
    targets[batch["label_positions"]] = batch["labels"]
    return F.cross_entropy(model.lm_head(hidden).float(), targets, ignore_index=-100, reduction="sum")


def shorten(model) -> None:
    """Drops the tower's last layer, whose output nothing reads at layer -2: `boda train` builds towers that way."""
    tower, depth = model.model.vision_tower, model.config.vision_config.num_hidden_layers
    layers = next(module for module in tower.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == depth)
    assert model.config.vision_feature_layer == -2
    del layers[-1]
    model.config.vision_config.num_hidden_layers -= 1
    model.config.vision_feature_layer = -1


def dense_layout(self, window):
    """All segments of a row in one block with one mask."""
    if not hasattr(self, "dense"):
        length = len(self.segment)
        self.dense = [attention.Block(0, length, 0, self.rule(slice(0, length), slice(0, length), window))]
    return self.dense


def main() -> None:
    parser = argparse.ArgumentParser(description="Boda's side of train_vlm")
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, required=True, help="optimizer steps measured")
    parser.add_argument("--warmup", type=int, default=2, help="optimizer steps before the clock starts")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--row-length", type=int, default=2048)
    parser.add_argument("--train", default="connector", help="parts trained in full (comma)")
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--lora-alpha", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--without", default="", choices=("", *LEVERS))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    processor = AutoProcessor.from_pretrained(chosen.model)
    model = LlavaForConditionalGeneration.from_pretrained(chosen.model, dtype=torch.float32)
    trained_parts = [part for part in chosen.train.split(",") if part]
    lora = Lora(rank=chosen.lora_rank, alpha=chosen.lora_alpha) if chosen.lora_rank else None
    stage = Stage(
        name="measure",
        train=[*trained_parts, *(["language.lora"] if lora else [])],
        lora=lora,
        data=[{"source": "messages", "path": str(chosen.data)}],
        max_steps=chosen.warmup + chosen.steps,
        batch_size=chosen.batch_size,
        learning_rate=chosen.learning_rate,
        schedule="constant",
        max_length=2048,
        row_length=chosen.row_length,
        packing=WITHOUT.get(chosen.without, True),
        save_steps=10**9,
    )
    shorten(model)
    trained = open_parts(model, stage.train, stage.lora, chosen.seed)
    cast(model, torch.bfloat16)
    model.model.language_model.set_attn_implementation(attention.ATTENTION_NAME)
    objective = objectives.OBJECTIVES["language"]
    if chosen.without == "labels":
        objective = objectives.Objective(
            lambda *given: objectives.Measured(full_logits_loss(*given), given[1]["labels"].numel())
        )
    if chosen.without == "segments":
        attention.Layout.blocks_for = dense_layout

    config = model.config.vision_config
    tokens = (config.image_size // config.patch_size) ** 2
    renderer = Renderer(processor.tokenizer, processor.tokenizer.chat_template or processor.chat_template, tokens, 2048)
    clock = {"seconds": [], "records": []}
    with tempfile.TemporaryDirectory() as folder:
        rows = (chosen.warmup + chosen.steps) * chosen.batch_size
        start = partial(read, chosen.data, "messages", limit=rows)
        data = prepare([(start, 1.0)], renderer, Path(folder) / "data", "benchmark", lambda bad: sys.exit(str(bad)))
        embeddings = embedding_names(model)

        def log(record: dict) -> None:
            clock["seconds"].append(time.perf_counter())
            clock["records"].append(record)

        job = loop.Job(
            stage=stage,
            seed=chosen.seed,
            model=model,
            trained=trained,
            part_of=lambda name: part_of(name, embeddings),
            data=data,
            plan=Plan(chosen.seed, chosen.batch_size, np.asarray(data.sources), [1.0], np.asarray(data.groups)),
            load_pixels=PixelLoader(ImageSpec.from_processor(processor.image_processor)),
            folder=Path(folder),
            device=torch.device("cpu"),
            autocast=torch.bfloat16,
            log=log,
            quiet=True,
            workers=chosen.workers,
            set_modes=lambda: set_modes(model, trained),
            objective=objective,
        )
        loop.run(job)
    seconds = clock["seconds"][-1] - clock["seconds"][chosen.warmup - 1]
    measured = clock["records"][chosen.warmup :]
    labels = sum(record["trained_tokens"] for record in measured)
    result = {
        "trained_tokens": labels,
        "computed_tokens": sum(record["tokens"] for record in measured),
        "steps": len(measured),
        "seconds": seconds,
        "trained_tokens_per_second": labels / seconds,
        "trained_parameters": sum(parameter.numel() for parameter in trained.values()),
        "peak_rss_mb": peak_rss_mb(),
        "losses": [record["loss"] for record in clock["records"]],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
