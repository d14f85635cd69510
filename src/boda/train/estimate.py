"""What a stage will need, worked out before it runs: memory on each device, and time at a stated share of its peak."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import torch
from torch import nn

from boda.errors import BodaError
from boda.recipe import Stage
from boda.train.freeze import count_by_part, is_pair, language_of, picture_size, vision_of
from boda.train.objectives import MAX_LOGITS

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


@dataclass(frozen=True)
class Tower:
    """What a vision tower computes for one picture: vectors that each of its layers works on, by name, and those it gives."""

    positions: dict[str, int]
    features: int


def tower_of(model) -> Tower:
    """Found by running the tower's shapes without its numbers."""
    real = vision_of(model)
    assert real is not None
    size = picture_size(model)
    positions: dict[str, int] = {}

    def note(name: str):
        def hook(module, inputs, output):
            positions[name] = output.numel() // module.weight.shape[0]

        return hook

    with torch.device("meta"), torch.no_grad():
        shapes = type(real)(real.config).eval()
        for name, part in shapes.named_modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                part.register_forward_hook(note(name))
        states = shapes(torch.zeros(1, 3, size, size, dtype=shapes.dtype), output_hidden_states=True, return_dict=True)
    if is_pair(model):
        return Tower(positions, 1)
    layer = states.hidden_states[model.config.vision_feature_layer]
    return Tower(positions, layer.shape[2] * layer.shape[3] if layer.ndim == 4 else layer.shape[1])


def memory(model, stage: Stage, load: Load, frozen: torch.dtype, devices: int = 1) -> dict[str, float]:
    """GiB on each device by what takes it; an estimate, good to a third."""
    counts = count_by_part(model).values()
    every, trained = sum(count[0] for count in counts), sum(count[1] for count in counts)
    width = frozen.itemsize
    language = _kept(language_of(model), width)
    if stage.gradient_checkpointing:
        text = language_of(model).config
        layers = max(1, text.num_hidden_layers)
        language = language / layers + layers * width * text.hidden_size
    if is_pair(model):  # every picture of the step with every text
        logits = min(load.labels**2, MAX_LOGITS)
    else:
        logits = min(load.row_labels * model.get_output_embeddings().weight.shape[0], MAX_LOGITS)
    parts = {
        "frozen weights": (every - trained) * width,
        "trained weights": trained * 4,
        "gradients": trained * 4 * (2 if devices > 1 else 1),  # summed over devices in one flat copy
        "optimizer": trained * 8,
        "activations": load.row_tokens * language + load.row_pictures * _tower_kept(model, width),
        "logits": logits * (width + 4 + 4),
    }
    found = {name: number / GIB for name, number in parts.items()}
    return {**found, "total": sum(found.values())}


def _kept(module: nn.Module, width: int, positions: dict[str, int] | None = None) -> float:
    """Bytes that autograd keeps for a backward pass through the module, for a token, or for `positions` vectors in each layer.

    Outputs feed the next operation and are kept; inputs are kept where a matrix or its adapter is trained (factors measured with
    `saved_tensors_hooks` on Llama, Qwen3 and GPT-NeoX); RMS norms keep an fp32 copy, a gated MLP its product too.
    """
    from peft.tuners.lora import LoraLayer

    total = 0.0
    for name, part in module.named_modules():
        here = 1 if positions is None else positions.get(name, 0)
        if isinstance(part, LoraLayer):
            drops = any(isinstance(dropout, nn.Dropout) and dropout.p for dropout in part.lora_dropout.values())
            total += part.in_features * width * ((2.1 if width == 2 else 2) if drops else 1)
        elif isinstance(part, (nn.Linear, nn.Conv2d)) and ".lora_" not in name:
            outputs, inputs = part.weight.shape[0], part.weight.shape[1]
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
    found = tower_of(model)
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return _kept(tower, width, found.positions)
    matrices = dict(tower.named_modules())
    return max(count * sum(matrices[name].weight.shape[:2]) * width for name, count in found.positions.items())


def operations(model, stage: Stage, load: Load) -> float:
    """Floating-point operations of one step: 2 a weight and token forwards, 2 back to the input, 2 to the weight if trained.

    Attention's own products are left out: they are few at the lengths of a sample.
    """
    language = language_of(model)
    again = 2.0 if stage.gradient_checkpointing else 0.0
    if is_pair(model):  # all rows but one are computed twice
        again += 2 * (1 - load.row_tokens / load.tokens)
    learns = any(parameter.requires_grad for parameter in language.parameters())
    through = _matrices(language) * ((4 if learns or not is_pair(model) else 2) + again) + 2 * _matrices(language, trained=True)
    words = load.tokens * through
    if not is_pair(model):
        head = model.get_output_embeddings().weight
        words += load.labels * head.numel() * (4 + 2 * head.requires_grad)
    return words + load.pictures * _picture_operations(model, again if is_pair(model) else 0) if load.pictures else words


def _picture_operations(model, again: float = 0.0) -> float:
    """Of one picture's way through the tower and the connector."""
    tower, found = vision_of(model), tower_of(model)
    assert tower is not None
    is_trained = any(parameter.requires_grad for parameter in tower.parameters())
    picture = 0.0 if is_pair(model) else 6.0 * _matrices(model.model.multi_modal_projector) * found.features
    for name, part in tower.named_modules():
        if name in found.positions:
            picture += (
                found.positions[name] * part.weight.numel() * ((4 + again if is_trained else 2) + 2 * part.weight.requires_grad)
            )
    return picture


def _matrices(module: nn.Module, trained: bool = False) -> int:
    """Weights that are multiplied with every token: matrices, not tables or vectors."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return sum(
        parameter.numel()
        for parameter in module.parameters()
        if parameter.ndim >= 2 and id(parameter) not in tables and (parameter.requires_grad or not trained)
    )


def seconds(operations_a_step: float, steps: int, gpu: Gpu, devices: int) -> float:
    """Time of a stage at UTILISATION of the peak."""
    return operations_a_step * steps / (gpu.tflops * 1e12 * UTILISATION * devices)
