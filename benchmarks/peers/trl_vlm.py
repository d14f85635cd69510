"""TRL's SFTTrainer on a LLaVA folder, set as its documentation says is fastest for vision on a CPU.

`python benchmarks/peers/trl_vlm.py MODEL DATA.jsonl --steps N` trains and prints one JSON object. Read in TRL 1.16's source:

- packing and padding_free are refused with images, so batches are padded; grouping by length keeps the padding small;
- max_length=None, because truncation cuts image tokens;
- assistant_only_loss=True takes the labels from the generation marks of the chat template;
- on a CPU its LM head goes over every position, not only the trained ones (`_use_triton` decides);
- gradient checkpointing is on by default and slows: off here. bf16 autocast is on by default: kept.

Frozen weights are held in bf16, since autocast would otherwise convert them again at every use; trained ones in fp32.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision_shim  # noqa: F401
from datasets import Dataset, Features, Image, List, Value
from peft import LoraConfig
from transformers import AutoProcessor, LlavaForConditionalGeneration, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTConfig, SFTTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import peak_rss_mb

IMAGE_MARK = "<image>"
PARTS = {
    "vision": "model.vision_tower",
    "connector": "model.multi_modal_projector",
    "language": ("model.language_model", "lm_head"),
}
LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def parts_of(text: str) -> list[dict]:
    """Text with image marks -> the parts that chat templates take."""
    found: list[dict] = []
    for index, piece in enumerate(text.split(IMAGE_MARK)):
        if index:
            found.append({"type": "image", "text": None})
        piece = piece.removeprefix("\n") if index else piece
        if piece:
            found.append({"type": "text", "text": piece})
    return found


def load_data(path: Path, rows: int, processor) -> Dataset:
    """The first rows of a set with their lengths in tokens; pictures are opened when a batch asks for them."""
    lines = path.read_text(encoding="utf-8").splitlines()[:rows]
    if len(lines) < rows:
        sys.exit(f"{path} has {len(lines)} rows; {rows} are needed")
    records: dict[str, list] = {"messages": [], "images": [], "length": []}
    side = processor.image_processor.crop_size
    tokens_per_image = (side["height"] // processor.patch_size) * (side["width"] // processor.patch_size)
    for line in lines:
        row = json.loads(line)
        messages = [{"role": message["role"], "content": parts_of(message["content"])} for message in row["messages"]]
        text = processor.tokenizer.apply_chat_template(messages, tokenize=False)
        records["messages"].append(messages)
        records["images"].append([str(path.parent / name) for name in row["images"]])
        records["length"].append(len(processor.tokenizer(text)["input_ids"]) + len(row["images"]) * (tokens_per_image - 1))
    part = {"type": Value("string"), "text": Value("string")}
    features = {
        "messages": List({"role": Value("string"), "content": List(part)}),
        "images": List(Image()),
        "length": Value("int64"),
    }
    return Dataset.from_dict(records, features=Features(features))


class InOrder(torch.utils.data.Sampler):
    """Indices in the order given."""

    def __init__(self, indices: list[int]):
        self.indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class Clock(TrainerCallback):
    """Starts after the warm-up steps."""

    def __init__(self, warmup: int):
        self.warmup, self.began, self.seconds = warmup, 0.0, 0.0
        self.cpu_began, self.cpu_seconds = 0.0, 0.0

    def on_step_begin(self, args, state, control, **rest):
        if state.global_step == self.warmup:
            self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def on_step_end(self, args, state, control, **rest):
        self.seconds, self.cpu_seconds = time.perf_counter() - self.began, time.process_time() - self.cpu_began


class CountingTrainer(SFTTrainer):
    """SFTTrainer that counts tokens and takes its warm-up batches from rows of their own.

    Length grouping sorts an epoch from long to short, so warm-up steps taken from it would drop the dearest batches from the
    measurement; with rows of their own, the measured steps are a whole epoch in the order that group_by_length gives.
    """

    def __init__(self, *arguments, warmup: int, **rest):
        self.warmup = warmup
        self.counts = {"trained_tokens": 0, "real_tokens": 0, "total_tokens_with_padding": 0, "images": 0}
        super().__init__(*arguments, **rest)

    def _get_train_sampler(self, train_dataset=None):
        lengths = list(self.train_dataset["length"])  # the argument has lost the column, as one the model does not read
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        order = list(range(len(lengths)))
        random.Random(self.args.seed).shuffle(order)
        warm, measured = order[: self.warmup * batch], order[self.warmup * batch :]
        generator = torch.Generator().manual_seed(self.args.seed)
        grouped = get_length_grouped_indices([lengths[index] for index in measured], batch, generator=generator)
        return InOrder(warm + [measured[index] for index in grouped])

    def compute_loss(self, model, inputs, *arguments, **rest):
        if self.state.global_step >= self.warmup:
            self.counts["trained_tokens"] += int((inputs["labels"][:, 1:] != -100).sum())
            self.counts["real_tokens"] += int(inputs["attention_mask"].sum())
            self.counts["total_tokens_with_padding"] += inputs["input_ids"].numel()
            self.counts["images"] += len(inputs["pixel_values"]) if inputs.get("pixel_values") is not None else 0
        return super().compute_loss(model, inputs, *arguments, **rest)


def load_model(folder: Path, trained: list[str], lora_rank: int, frozen: torch.dtype) -> LlavaForConditionalGeneration:
    """The model with everything but the trained parts frozen."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(name.startswith(PARTS[part]) for part in trained))
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(frozen)
    if lora_rank and any(part != "connector" for part in trained):
        sys.exit("with --lora-rank only the connector can be trained in full")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="TRL's side of train_vlm")
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, required=True, help="optimizer steps measured")
    parser.add_argument("--warmup", type=int, default=2, help="optimizer steps before the clock starts")
    parser.add_argument("--batch-size", type=int, default=16, help="samples an optimizer step")
    parser.add_argument("--micro-batch", type=int, default=4, help="samples a forward pass")
    parser.add_argument("--train", default="connector", help="parts trained in full: connector, language, vision (comma)")
    parser.add_argument("--lora-rank", type=int, default=0, help="LoRA on the language model's linear layers; 0 = none")
    parser.add_argument("--lora-alpha", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--frozen", default="bfloat16", choices=("bfloat16", "float32"), help="in what frozen weights are held")
    parser.add_argument("--workers", type=int, default=1, help="processes that prepare batches")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    trained = [part for part in chosen.train.split(",") if part]
    if unknown := [part for part in trained if part not in PARTS]:
        sys.exit(f"unknown part '{unknown[0]}'; parts are {', '.join(PARTS)}")
    if chosen.batch_size % chosen.micro_batch:
        sys.exit("--batch-size must be a multiple of --micro-batch")

    processor = AutoProcessor.from_pretrained(chosen.model)
    data = load_data(chosen.data, (chosen.warmup + chosen.steps) * chosen.batch_size, processor)
    model = load_model(chosen.model, trained, chosen.lora_rank, getattr(torch, chosen.frozen))
    adapter = None
    if chosen.lora_rank:
        adapter = LoraConfig(
            r=chosen.lora_rank,
            lora_alpha=chosen.lora_alpha,
            target_modules=LORA_TARGETS,
            modules_to_save=["multi_modal_projector"] if trained else None,
        )
    clock = Clock(chosen.warmup)
    with tempfile.TemporaryDirectory() as out:
        configuration = SFTConfig(
            output_dir=out,
            max_steps=chosen.warmup + chosen.steps,
            per_device_train_batch_size=chosen.micro_batch,
            gradient_accumulation_steps=chosen.batch_size // chosen.micro_batch,
            learning_rate=chosen.learning_rate,
            lr_scheduler_type="constant",
            max_length=None,
            assistant_only_loss=True,
            bf16=True,
            gradient_checkpointing=False,
            train_sampling_strategy="group_by_length",
            dataloader_num_workers=chosen.workers,
            dataloader_prefetch_factor=4 if chosen.workers else None,
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=chosen.seed,
        )
        trainer = CountingTrainer(
            model,
            configuration,
            train_dataset=data,
            processing_class=processor,
            peft_config=adapter,
            callbacks=[clock],
            warmup=chosen.warmup,
        )
        trainer.train()
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    assert all(parameter.dtype == torch.float32 for parameter in parameters)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = {
        **trainer.counts,
        "steps": chosen.steps,
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "trained_tokens_per_second": trainer.counts["trained_tokens"] / clock.seconds,
        "real_tokens_per_second": trainer.counts["real_tokens"] / clock.seconds,
        "trained_parameters": sum(parameter.numel() for parameter in parameters),
        "peak_rss_mb": peak_rss_mb(),
        "losses": losses,
    }
    if torch.cuda.is_available():
        result["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps(result))


if __name__ == "__main__":
    main()
