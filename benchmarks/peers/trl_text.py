"""TRL's SFTTrainer with packing, or its DPOTrainer, on ids that Boda has rendered, set as TRL's documentation says is fastest.

`python benchmarks/peers/trl_text.py FOLDER text|dpo --batch-size B --micro-batch M --steps N` trains and prints one JSON object. Read in
TRL 1.16's source: packing is best-fit (`bfd`) and padding-free, documents kept apart by position ids; DPO pads (its padding_free is
switched off in this version) and takes the reference from the model with the adapter off; both run the head over every position on a
CPU; gradient checkpointing is on by default and slows: off here. Frozen weights are held in bf16, adapters in fp32 under autocast, as
on Boda's side.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
import torchvision_shim  # noqa: F401
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import peak_rss_mb

MAX_LENGTH, RANK, ALPHA, RATE, BETA = 1024, 16, 32, 1e-4, 0.1  # as in train_text_data.py


class Clock(TrainerCallback):
    """Starts after the warm-up steps."""

    def __init__(self, warmup: int):
        self.warmup, self.began, self.ended = warmup, (0.0, 0.0), (0.0, 0.0)

    def on_step_begin(self, args, state, control, **rest):
        if state.global_step == self.warmup:
            self.began = (time.perf_counter(), time.process_time())

    def on_step_end(self, args, state, control, **rest):
        self.ended = (time.perf_counter(), time.process_time())


class Counting:
    """A trainer that takes rows in their order and counts tokens after the warm-up."""

    warmup = 0

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, model, inputs, *arguments, **rest):
        if self.state.global_step >= self.warmup:
            if "labels" in inputs:
                trained, real = inputs["labels"] != -100, inputs["input_ids"].numel()
            else:
                trained, real = inputs["completion_mask"] > 0, int(inputs["attention_mask"].sum())
            self.counts["trained_tokens"] += int(trained.sum())
            self.counts["real_tokens"] += real
            self.counts["computed_tokens"] += inputs["input_ids"].numel()
        return super().compute_loss(model, inputs, *arguments, **rest)


class Text(Counting, SFTTrainer):
    pass


class Preference(Counting, DPOTrainer):
    def _prepare_dataset(self, dataset, *arguments, **rest):
        return dataset  # its rows are ids already


def main() -> None:
    parser = argparse.ArgumentParser(description="TRL's side of train_text")
    parser.add_argument("folder", type=Path)
    parser.add_argument("set", choices=("text", "dpo"))
    parser.add_argument("--batch-size", type=int, required=True, help="packed rows, or pairs, an optimizer step")
    parser.add_argument("--micro-batch", type=int, default=1, help="packed rows, or pairs, a forward pass")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--steps", type=int, required=True)
    chosen = parser.parse_args()

    rows = [json.loads(line) for line in (chosen.folder / f"{chosen.set}-ids.jsonl").read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(chosen.folder / "model")
    model = AutoModelForCausalLM.from_pretrained(chosen.folder / "model", dtype=torch.bfloat16)
    adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    clock = Clock(chosen.warmup)
    with tempfile.TemporaryDirectory() as out:
        common = dict(
            output_dir=out,
            max_steps=chosen.warmup + chosen.steps,
            per_device_train_batch_size=chosen.micro_batch,
            gradient_accumulation_steps=chosen.batch_size // chosen.micro_batch,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_length=MAX_LENGTH,
            bf16=True,
            gradient_checkpointing=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        if chosen.set == "text":
            configuration, kind = SFTConfig(packing=True, **common), Text
        else:
            configuration, kind = DPOConfig(beta=BETA, **common), Preference
        trainer = kind(
            model,
            args=configuration,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=adapter,
            callbacks=[clock],
        )
        trainer.warmup, trainer.counts = chosen.warmup, dict.fromkeys(("trained_tokens", "real_tokens", "computed_tokens"), 0)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    result = {
        **trainer.counts,
        "seconds": clock.ended[0] - clock.began[0],
        "cpu_seconds": clock.ended[1] - clock.began[1],
        "steps": chosen.steps,
        "losses": [entry["loss"] for entry in logged],
        "margins": [entry.get("rewards/margins", 0.0) for entry in logged],
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "peak_rss_mb": peak_rss_mb(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
