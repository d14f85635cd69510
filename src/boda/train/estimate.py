"""What a stage will need, worked out before it runs: memory on each device, and time at a stated share of its peak."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from boda.errors import BodaError
from boda.models.quantised import BYTES, weights_in
from boda.recipe import Stage
from boda.train.freeze import count_by_part, is_pair, language_of, left_out, picture_size, vision_of
from boda.train.objectives import HELD_LOGITS, MAX_LOGITS

UTILISATION = 0.4  # share of a device's matrix peak that training is taken to reach
RUNTIME = 1.0  # GiB that CUDA's context and kernels take
GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A device: GiB that a program can have, dense TFLOP/s in its half precision (sums in fp32), and that precision."""

    memory: float
    tflops: float
    dtype: torch.dtype = torch.bfloat16


# Peaks from NVIDIA's data sheets, without sparsity; memory as the driver reports it.
GPUS = {
    "t4-16g": Gpu(14.6, 65, torch.float16),
    "rtx3090-24g": Gpu(23.6, 71),
    "rtx4090-24g": Gpu(23.5, 165),
    "l40s-48g": Gpu(44.4, 362),
    "a100-40g": Gpu(39.4, 312),
    "a100-80g": Gpu(79.2, 312),
    "h100-80g": Gpu(79.1, 989),
    "h200-141g": Gpu(139.8, 989),
}


def find_gpu(name: str) -> Gpu:
    """The device of that name. Raises BodaError with those there are."""
    if name not in GPUS:
        near = difflib.get_close_matches(name.lower(), GPUS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise BodaError(f"--gpu: no figures for '{name}'; {hint}There are {', '.join(GPUS)}")
    return GPUS[name]


@dataclass(frozen=True)
class Load:
    """An optimizer step of a stage on all devices together, on average, and its largest row."""

    tokens: float
    labels: float
    pictures: float
    row_tokens: int
    row_labels: int
    row_pictures: int


def tower_of(model) -> tuple[dict[str, int], int]:
    """What the vision tower computes for a picture: vectors each of its layers works on, by name, and how many it gives.

    Found by running the tower's shapes without its numbers.
    """
    real = vision_of(model)
    assert real is not None
    positions: dict[str, int] = {}

    def note(name: str, module, inputs, output) -> None:
        positions[name] = output.numel() // module.weight.shape[0]

    with torch.device("meta"), torch.no_grad():
        shapes = type(real)(real.config).eval()
        for name, part in shapes.named_modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                part.register_forward_hook(partial(note, name))
        pixels = torch.zeros(1, 3, picture_size(model), picture_size(model), dtype=shapes.dtype)
        states = shapes(pixels, output_hidden_states=True, return_dict=True)
    if is_pair(model):
        return positions, 1
    layer = states.hidden_states[model.config.vision_feature_layer]
    return positions, layer.shape[2] * layer.shape[3] if layer.ndim == 4 else layer.shape[1]


def memory(model, stage: Stage, load: Load, frozen: torch.dtype, devices: int = 1, precision: str = "auto") -> dict[str, float]:
    """GiB on each device by what takes it; an estimate, good to a third."""
    every = sum(counts["parameters"] for counts in count_by_part(model).values())
    trained = sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )  # of a table all, for a few rows
    width = frozen.itemsize
    language = _kept(language_of(model), width)
    if stage.gradient_checkpointing:
        text = language_of(model).config
        layers = max(1, text.num_hidden_layers)
        language = language / layers + layers * width * text.hidden_size
    if is_pair(model):  # every picture of the step with every text
        logits = min(load.labels**2, MAX_LOGITS)
    else:
        head = model.get_output_embeddings().weight
        logits = min(load.row_labels * head.shape[0], MAX_LOGITS if head.requires_grad else HELD_LOGITS)
    parts = {
        "frozen weights": (every - trained) * width - _saved_by_bits(model, width, precision),
        "trained weights": trained * 4,
        "gradients": trained * 4 * (2 if devices > 1 else 1),  # summed over devices in one flat copy
        "optimizer": trained * 8,
        "activations": load.row_tokens * language + load.row_pictures * _tower_kept(model, width),
        "logits": logits * (width + 4 + 4),
    }
    found = {name: number / GIB for name, number in parts.items()}
    return {**found, "total": sum(found.values())}


def _saved_by_bits(model, width: int, precision: str) -> float:
    """Bytes that the language model's matrices need less in 8 or 4 bits."""
    if precision not in BYTES:
        return 0.0
    language = language_of(model)
    return (_matrices(language) - _matrices(language, trained=True)) * (width - BYTES[precision])


def _kept(module: nn.Module, width: int, positions: dict[str, int] | None = None) -> float:
    """Bytes that autograd keeps for a backward pass through the module, for a token, or for `positions` vectors in each layer.

    Outputs feed the next operation and are kept; inputs are kept where a matrix or its adapter is trained (factors measured with
    `saved_tensors_hooks` on Llama, Qwen3 and GPT-NeoX); RMS norms keep an fp32 copy, a gated MLP its product too.
    """
    from peft.tuners.lora import LoraLayer

    total, unused = 0.0, left_out(module)
    for name, part in module.named_modules():
        if id(part) in unused:
            continue
        here = 1 if positions is None else positions.get(name, 0)
        if isinstance(part, LoraLayer):
            drops = any(isinstance(dropout, nn.Dropout) and dropout.p for dropout in part.lora_dropout.values())
            total += part.in_features * width * ((2.1 if width == 2 else 2) if drops else 1)
        elif isinstance(part, (nn.Linear, nn.Conv2d)) and ".lora_" not in name:
            shape = (part.out_features, part.in_features) if isinstance(part, nn.Linear) else part.weight.shape
            outputs, inputs = shape[0], shape[1]
            total += here * outputs * width
            if part.weight.requires_grad:
                total += here * inputs * (5.7 if width == 2 else 4)
            if "gate" in name.removesuffix(".base_layer").rsplit(".", 1)[-1]:
                total += here * outputs * width
        elif positions is None and "RMSNorm" in type(part).__name__:
            total += part.weight.numel() * 4
        elif positions is None and isinstance(part, nn.LayerNorm):
            total += part.weight.numel() * width
    return total


def _tower_kept(model, width: int) -> float:
    """Bytes for each picture of a row: all layers' where the tower is trained, else the largest layer's while it runs."""
    tower = vision_of(model)
    if tower is None:
        return 0.0
    positions, _ = tower_of(model)
    if _learns(tower):
        return _kept(tower, width, positions)
    matrices = dict(tower.named_modules())
    if (resampler := getattr(getattr(model, "model", None), "resampler", None)) is not None and _learns(resampler):
        return _kept(resampler, width, _latent_positions(model))
    return max(count * sum(matrices[name].weight.shape[:2]) * width for name, count in positions.items())


def _latent_positions(model) -> dict[str, int]:
    """Vectors that each matrix of a resampler works on for one picture."""
    latents, (_, features) = model.config.num_latents, tower_of(model)
    names = (name for name, part in model.model.resampler.named_modules() if isinstance(part, nn.Linear))
    return {name: latents + features * name.endswith("to_kv") for name in names}


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def operations(model, stage: Stage, load: Load) -> float:
    """Floating-point operations of one step: 2 a weight and token forwards, 2 back to the input, 2 to the weight if trained.

    Attention's own products are left out: they are few at the lengths of a sample.
    """
    language, pair = language_of(model), is_pair(model)
    again = 2.0 if stage.gradient_checkpointing else 0.0
    if pair:  # all rows but one are computed twice
        again += 2 * (1 - load.row_tokens / load.tokens)
    back = 2 if _learns(language) or not pair else 0
    found = load.tokens * (_matrices(language) * (2 + back + again) + 2 * _matrices(language, trained=True))
    if not pair:
        head = model.get_output_embeddings().weight
        found += load.labels * head.numel() * (4 + 2 * head.requires_grad)
    if load.pictures:
        found += load.pictures * _picture_operations(model, again if pair else 0.0)
    return found


def _picture_operations(model, again: float) -> float:
    """Of one picture's way through the tower and the connector."""
    tower, (positions, features) = vision_of(model), tower_of(model)
    assert tower is not None
    through = 4 + again if _learns(tower) else 2
    layers = {name: part.weight for name, part in tower.named_modules() if name in positions}
    found = sum(positions[name] * w.numel() * (through + 2 * w.requires_grad) for name, w in layers.items())
    if is_pair(model):
        return found
    if not hasattr(model.model, "resampler"):
        return found + 6.0 * _matrices(model.model.multi_modal_projector) * features
    # Latents go through all of a resampler, the features beside them to its keys and values; these then to each layer's.
    latents, blocks = model.config.num_latents, model.model.blocks()
    again = sum(part.to_kv.weight.numel() for part in model.model.resampler.modules() if hasattr(part, "to_kv"))
    seen = sum(block.attn.to_kv.weight.numel() for block in blocks)
    return found + 6.0 * ((_matrices(model.model.resampler) + seen) * latents + again * features)


def _matrices(module: nn.Module, trained: bool = False) -> int:
    """Weights that are multiplied with every token: matrices, not tables or vectors."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)} | left_out(module)
    return sum(
        weights_in(parameter)
        for parameter in module.parameters()
        if parameter.ndim >= 2 and id(parameter) not in tables and (parameter.requires_grad or not trained)
    )
