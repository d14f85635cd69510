"""open_clip on the model of `train_clip`: its own model, loss and `train_one_epoch`.

`python benchmarks/peers/open_clip_step.py FOLDER CAPTIONS.jsonl --batch-size B --steps N --pad-to 77` trains and prints one JSON
object. Read in open_clip 3.3's source:

- texts are padded to the tower's context length, 77 where a model's configuration says nothing else, for Hugging Face text towers
  too (`HFTokenizer`); the text tower is given the padding's mask;
- `--precision amp_bf16` is autocast to bf16 over fp32 weights, no scaler; AdamW as `open_clip_train.main` builds it;
- a Hugging Face text tower is made from its config without weights by `hf_model_pretrained: false`; pooler and projection are
  chosen by `hf_pooler_type` and `hf_proj_type`: here those of the other sides, so that all three models are the same function.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision_shim  # noqa: F401 (first)
from open_clip import ClipLoss, add_model_config, create_model
from open_clip_train.train import train_one_epoch
from safetensors.torch import load_file
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import train_clip_data as clip
from common import peak_rss_mb

NAME = "benchmark-roberta-ViT-B-32"


def make_model(folder: Path) -> torch.nn.Module:
    """open_clip's `CustomTextCLIP` of the benchmark's towers, with the weights of `pair/`."""
    vision = {"image_size": clip.IMAGE_SIZE, "layers": 12, "width": 768, "patch_size": 32}
    text = {"hf_model_name": str(folder / "text"), "hf_model_pretrained": False}
    text |= {"hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"}
    with tempfile.TemporaryDirectory() as configs:
        content = {"embed_dim": 512, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
        (Path(configs) / f"{NAME}.json").write_text(json.dumps(content))
        add_model_config(configs)
        model = create_model(NAME, precision="amp_bf16", pretrained_text=False, output_dict=True)
    given = translated(load_file(folder / "pair" / "model.safetensors"))
    missing, unknown = model.load_state_dict(given, strict=False)
    assert not unknown and all(name.endswith(("position_ids", "token_type_ids")) for name in missing), (missing, unknown)
    return model


def translated(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of a `VisionTextDualEncoderModel` of CLIP's image tower by their names in open_clip."""
    prefix = next(name for name in tensors if name.endswith("embeddings.class_embedding")).removesuffix(
        "embeddings.class_embedding"
    )
    tower = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    found = {
        "class_embedding": tower.pop("embeddings.class_embedding"),
        "positional_embedding": tower.pop("embeddings.position_embedding.weight"),
        "conv1.weight": tower.pop("embeddings.patch_embedding.weight"),
        "proj": tensors["visual_projection.weight"].T,
    }
    parts = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    for name, tensor in tower.items():
        if name.startswith("encoder.layers."):
            number, _, rest = name.removeprefix("encoder.layers.").partition(".")
            part, _, kind = rest.rpartition(".")
            block = f"transformer.resblocks.{number}"
            if part == "self_attn.q_proj":
                three = [tower[name.replace("q_proj", which)] for which in ("q_proj", "k_proj", "v_proj")]
                found[f"{block}.attn.in_proj_{kind}"] = torch.cat(three)
            elif part in parts:
                found[f"{block}.{parts[part]}.{kind}"] = tensor
        else:
            found[name.replace("pre_layrnorm", "ln_pre").replace("post_layernorm", "ln_post")] = tensor
    found = {f"visual.{name}": tensor for name, tensor in found.items()}
    text = {f"text.transformer.{n.removeprefix('text_model.')}": t for n, t in tensors.items() if n.startswith("text_model.")}
    rest = {"text.proj.weight": tensors["text_projection.weight"], "logit_scale": tensors["logit_scale"]}
    return found | text | rest


def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """As `open_clip_train.main` makes it: no decay on vectors."""
    free, decayed = [], []
    for name, parameter in model.named_parameters():
        is_free = parameter.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
        (free if is_free else decayed).append(parameter)
    groups = [{"params": free, "weight_decay": 0.0}, {"params": decayed, "weight_decay": clip.WEIGHT_DECAY}]
    return torch.optim.AdamW(groups, lr=clip.LEARNING_RATE, betas=clip.BETAS, eps=clip.EPSILON)


class Loader:
    """What `train_one_epoch` needs of a loader; notes when each batch is asked for, which is when the step before is over."""

    def __init__(self, folder: Path, texts: torch.Tensor, batch_size: int, batches: int):
        self.pictures, self.texts, self.batch_size = clip.read_pictures(folder), texts, batch_size
        self.num_batches, self.num_samples = batches, batches * batch_size
        self.asked: list[float] = []
        self.spent: list[float] = []

    def note(self) -> None:
        self.asked.append(time.perf_counter())
        self.spent.append(time.process_time())

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, self.num_samples, self.batch_size):
            self.note()
            chosen = range(start, start + self.batch_size)
            pixels = torch.stack([torch.from_numpy(self.pictures[number].copy()) for number in chosen])
            yield pixels, self.texts[chosen.start : chosen.stop]
        self.note()


class Data(Namespace):
    """open_clip's DataInfo, as far as it is used."""

    def set_epoch(self, epoch: int) -> None:
        """One epoch in the order of the file."""


class Losses:
    """Stands where a TensorBoard writer would."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if name == "train/loss":
            self.values.append(value)


def main() -> None:
    parser = argparse.ArgumentParser(description="open_clip's side of train_clip")
    parser.add_argument("folder", type=Path)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--warmup", type=int, default=1, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, required=True, help="steps measured")
    parser.add_argument("--pad-to", type=int, default=77)
    chosen = parser.parse_args()

    model = make_model(chosen.folder)
    tokenizer = AutoTokenizer.from_pretrained(chosen.folder / "text")
    padding = {"max_length": chosen.pad_to, "padding": "max_length", "truncation": True}  # HFTokenizer's own call
    texts = tokenizer(clip.read_captions(chosen.captions), return_tensors="pt", **padding).input_ids
    loader = Loader(chosen.folder, texts, chosen.batch_size, chosen.warmup + chosen.steps)
    settings = Namespace(
        device="cpu",
        precision="amp_bf16",
        distill=False,
        accum_freq=1,
        skip_scheduler=True,
        grad_clip_norm=clip.MAX_NORM,
        horovod=False,
        batch_size=chosen.batch_size,
        world_size=1,
        rank=0,
        local_rank=0,
        log_local=False,
        log_every_n_steps=1,
        wandb=False,
    )
    writer, optimizer = Losses(), make_optimizer(model)
    norms: list[float] = []

    def measure(optimizer, *_) -> None:
        """The gradient's norm in the first step, which is not timed; it is below the bound, so clipping leaves it."""
        if not norms:
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))

    optimizer.register_step_pre_hook(measure)
    train_one_epoch(
        model,
        {"train": Data(dataloader=loader)},
        ClipLoss(),
        0,
        optimizer,
        None,
        None,
        None,
        settings,
        tb_writer=writer,
    )
    measured, spent = loader.asked[chosen.warmup :], loader.spent[chosen.warmup :]
    result = {
        "step_seconds": [end - start for start, end in zip(measured, measured[1:])],
        "cpu_seconds": [end - start for start, end in zip(spent, spent[1:])],
        "tokens": [chosen.batch_size * chosen.pad_to] * loader.num_batches,
        "losses": writer.values,
        "first_gradient_norm": norms[0],
        "trained_parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.grad is not None),
        "peak_mb": peak_rss_mb(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
