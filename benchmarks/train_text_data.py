"""Inputs of `train_text`: real Korean questions and pairs of answers as ids, and a language model with random weights.

A folder of it holds `model/` (with its tokenizer), `text.jsonl` and `dpo.jsonl` in the forms that Boda's sources read, and the same
as ids for the peer: `text-ids.jsonl` {input_ids, labels}, `dpo-ids.jsonl` {prompt_ids, chosen_ids, rejected_ids}.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from boda.data.sources import BadRows
from boda.models.vocabulary import train_tokenizer
from boda.recipe import load_recipe, template_text
from boda.train.build import build, get_tokenizer
from boda.train.preparation import prepare_stage

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY, MAX_LENGTH, RANK, ALPHA, RATE, BETA = 16_000, 1024, 16, 32, 1e-4, 0.1
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}


def recipe(folder: Path, name: str, batch_size: int, steps: int, row_length: int = 0) -> dict[str, Any]:
    """Boda's recipe for one set: an adapter on every matrix."""
    stage = {
        "name": name,
        "objective": {"text": "language", "dpo": "preference"}[name],
        "train": ["language.lora"],
        "lora": {"rank": RANK, "alpha": ALPHA},
        "data": [{"source": {"text": "messages", "dpo": "preference"}[name], "path": str(folder / f"{name}.jsonl")}],
        "max_steps": steps,
        "batch_size": batch_size,
        "beta": BETA,
        "learning_rate": RATE,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "max_length": MAX_LENGTH,
        "row_length": row_length or MAX_LENGTH * (2 if name == "dpo" else 1),
        "save_steps": 10**9,
    }
    return {"model": {"kind": "language", "language": str(folder / "model")}, "stages": [stage], "precision": "bf16"}


def data_folder() -> Path:
    """Where the Korean sets lie. Exits with a word where they do not."""
    place = Path(os.environ.get("BODA_DATA", ROOT.parent / "shared" / "data"))
    if not (place / "logickor_pairs").is_dir():
        raise SystemExit(f"no logickor_pairs/pairs.jsonl in {place}; BODA_DATA names the folder that holds it")
    return place


def write(folder: Path, questions: int, pairs: int) -> None:
    """Everything; a third of the questions has a long answer, the rest are everyday talk of a sentence."""
    place = data_folder()
    with (place / "songys_chatbot" / "ChatbotData.csv").open(encoding="utf-8") as stream:
        short = [(row["Q"], row["A"]) for row in itertools.islice(csv.DictReader(stream), questions)]
    lines = [json.loads(line) for line in (place / "logickor_pairs" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    order = np.random.default_rng(0).permutation(len(lines))
    lines = [lines[index] for index in order if lines[index]["chosen"].strip() != lines[index]["rejected"].strip()]
    asked = [(line["prompt"], line["chosen"]) for line in lines]
    mixed = [asked[number] if number % 3 == 0 else short[number] for number in range(questions)]
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in mixed]
    _write(folder / "text.jsonl", [{"messages": each} for each in turns])
    _write(folder / "dpo.jsonl", [{name: line[name] for name in ("prompt", "chosen", "rejected")} for line in lines[:pairs]])
    tokenizer = train_tokenizer((text for line in lines[:600] for text in (line["prompt"], line["chosen"])), VOCABULARY)
    tokenizer.chat_template = template_text("chatml")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(**SHAPE, vocab_size=VOCABULARY + 64, tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id)
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name in ("text", "dpo"):
        _write_ids(folder, name)


def _write_ids(folder: Path, name: str) -> None:
    made = load_recipe(recipe(folder, name, 1, 1))
    built = build(made, get_tokenizer(made, None, iter(())), None, [], torch.device("cpu"))
    data = prepare_stage(made, made.stages[0], built, folder / f"prepared-{name}", None, BadRows(), True)
    rows = []
    if name == "text":
        for index in range(len(data)):
            row = data.row(index)
            rows.append({"input_ids": row.input_ids.tolist(), "labels": np.where(row.trained, row.input_ids, -100).tolist()})
    else:
        for index in range(0, len(data), 2):
            chosen, rejected = data.row(index), data.row(index + 1)
            cut = chosen.prefix + 1
            answers = {"chosen_ids": chosen.input_ids[cut:].tolist(), "rejected_ids": rejected.input_ids[cut:].tolist()}
            rows.append({"prompt_ids": chosen.input_ids[:cut].tolist(), **answers})
    _write(folder / f"{name}-ids.jsonl", rows)


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
