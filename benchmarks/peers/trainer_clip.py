"""transformers' Trainer on the model of `train_clip`, set as its example `run_clip.py` (contrastive-image-text) sets it.

`python benchmarks/peers/trainer_clip.py FOLDER CAPTIONS.jsonl --batch-size B --steps N --pad-to 128` trains and prints one JSON
object. From the example: captions tokenised beforehand and padded to `max_seq_length` (128), its collator with `return_loss`. Of
the Trainer's own defaults the optimizer (fused AdamW) and gradient clipping at 1 stay.
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
from transformers import AutoTokenizer, Trainer, TrainerCallback, TrainingArguments, VisionTextDualEncoderModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import train_clip_data as clip
from common import peak_rss_mb


class Pairs(torch.utils.data.Dataset):
    """Pixels and padded captions in the order of the file."""

    def __init__(self, folder: Path, captions: Path, pad_to: int):
        tokenizer = AutoTokenizer.from_pretrained(folder / "pair")
        self.texts = tokenizer(clip.read_captions(captions), max_length=pad_to, padding="max_length", truncation=True)
        self.pictures = clip.read_pictures(folder)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, number: int) -> dict:
        return {
            "pixel_values": torch.from_numpy(self.pictures[number].copy()),
            "input_ids": self.texts["input_ids"][number],
            "attention_mask": self.texts["attention_mask"][number],
        }


def collate(examples: list[dict]) -> dict:
    """As the example does it."""
    ids, mask = (torch.tensor([example[name] for example in examples]) for name in ("input_ids", "attention_mask"))
    pixels = torch.stack([example["pixel_values"] for example in examples])
    return {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask, "return_loss": True}


class InOrderTrainer(Trainer):
    """Takes the pairs in their order, so that all sides have the same in a step."""

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Clock(TrainerCallback):
    """When each step was over."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.spent: list[float] = []

    def on_step_end(self, args, state, control, **rest):
        self.ends.append(time.perf_counter())
        self.spent.append(time.process_time())


def main() -> None:
    parser = argparse.ArgumentParser(description="The Trainer's side of train_clip")
    parser.add_argument("folder", type=Path)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--warmup", type=int, default=1, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, required=True, help="steps measured")
    parser.add_argument("--pad-to", type=int, default=128)
    chosen = parser.parse_args()

    model = VisionTextDualEncoderModel.from_pretrained(chosen.folder / "pair", dtype=torch.float32)
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        settings = TrainingArguments(
            output_dir=out,
            max_steps=chosen.warmup + chosen.steps,
            per_device_train_batch_size=chosen.batch_size,
            learning_rate=clip.LEARNING_RATE,
            weight_decay=clip.WEIGHT_DECAY,
            adam_beta1=clip.BETAS[0],
            adam_beta2=clip.BETAS[1],
            adam_epsilon=clip.EPSILON,
            max_grad_norm=clip.MAX_NORM,
            lr_scheduler_type="constant",
            bf16=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        pairs = Pairs(chosen.folder, chosen.captions, chosen.pad_to)
        trainer = InOrderTrainer(model, settings, data_collator=collate, train_dataset=pairs, callbacks=[clock])
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    measured, spent = clock.ends[chosen.warmup - 1 :], clock.spent[chosen.warmup - 1 :]
    result = {
        "step_seconds": [end - start for start, end in zip(measured, measured[1:])],
        "cpu_seconds": [end - start for start, end in zip(spent, spent[1:])],
        "tokens": [chosen.batch_size * chosen.pad_to] * len(clock.ends),
        "losses": [entry["loss"] for entry in logged],
        "first_gradient_norm": float(logged[0]["grad_norm"]),
        "trained_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak_mb": peak_rss_mb(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
