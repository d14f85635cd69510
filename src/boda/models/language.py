"""Causal language models: low-rank adapters put in, saved, and merged exactly.

LoRA (https://arxiv.org/abs/2106.09685) through PEFT, injected in place, so the model keeps its class and names.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from boda.errors import WHY, BodaError, explaining
from boda.files import read_json, write_json
from boda.models.loading import seeded

ADAPTER = "default"
MADE_BY_THE_RECIPE = "made by the recipe"  # said of an adapter's base that lies in no folder of its own


def lora_targets(language_model: nn.Module, wanted: list[str] | None) -> list[str]:
    """Names of the layers to adapt: every linear layer of the language model (its head is not part of it), or those asked for."""
    from peft.tuners.lora import LoraLayer

    adapted = [
        f"{name}." for name, module in language_model.named_modules() if isinstance(module, LoraLayer)
    ]  # by earlier stages
    every = [name for name, module in language_model.named_modules() if isinstance(module, (nn.Linear, LoraLayer))]
    linear = [name for name in every if not name.startswith(tuple(adapted)) and ".cross_attention." not in name]
    if not linear:
        kind = language_model.config.model_type
        raise BodaError(f"language.lora: a '{kind}' model has no linear layer for an adapter to sit on; train language instead")
    if wanted is None:
        return linear
    last = {name: name.rsplit(".", 1)[-1] for name in linear}
    if missing := [name for name in wanted if name not in {*last, *last.values()}]:
        there = ", ".join(sorted(set(last.values())))
        raise BodaError(f"lora.targets: the language model has no linear layer named {', '.join(missing)}; it has {there}")
    return [name for name in linear if name in wanted or last[name] in wanted]


def add_lora(language_model: nn.Module, rank: int, alpha: float, dropout: float, targets: list[str] | None, seed: int) -> None:
    """Puts a fresh adapter on a language model; it changes nothing until it is trained (B is zero)."""
    from peft import LoraConfig

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=lora_targets(language_model, targets), bias="none"
    )
    with seeded(seed), explaining(f"lora.targets: {WHY}", ValueError):  # PEFT knows layers that an adapter must not sit on
        _inject(config, language_model, ADAPTER)


def _inject(config, language_model: nn.Module, adapter: str) -> None:
    """Puts an adapter in and switches on all that a layer has: those of earlier stages, too, where they could not be merged."""
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # which is meant
        inject_adapter_in_model(config, language_model, adapter_name=adapter)
    for layer in language_model.modules():
        if isinstance(layer, LoraLayer):
            layer._active_adapter = list(layer.lora_A)  # PEFT leaves only the last one on


def lora_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layers with an adapter that is being trained, by name."""
    from peft.tuners.lora import LoraLayer

    return {
        name: module for name, module in model.named_modules() if isinstance(module, LoraLayer) and ADAPTER in module.lora_A
    }


@torch.no_grad()
def merge_lora(model: nn.Module) -> nn.Module:
    """Adds every adapter to the matrix it adapts, in fp32, then casts to the matrix's type; the adapters are gone. In place."""
    for name, layer in lora_layers(model).items():
        base = layer.get_base_layer()
        delta = layer.lora_B[ADAPTER].weight.float() @ layer.lora_A[ADAPTER].weight.float() * layer.scaling[ADAPTER]
        base.weight.data = (base.weight.float() + delta).to(base.weight.dtype)
        model.set_submodule(name, base)
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def save_adapter(model: nn.Module, folder: Path, base: str) -> None:
    """Writes the adapter in PEFT's own layout (adapter_config.json, adapter_model.safetensors), names as in the whole model."""
    layers = lora_layers(model)
    first = next(iter(layers.values()))
    tensors = {
        f"base_model.model.{name}.{side}.weight": getattr(layer, side)[ADAPTER].weight.detach().float().cpu()
        for name, layer in layers.items()
        for side in ("lora_A", "lora_B")
    }
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": first.r[ADAPTER],
        "lora_alpha": first.lora_alpha[ADAPTER],
        "lora_dropout": getattr(first.lora_dropout[ADAPTER], "p", 0.0),
        "target_modules": sorted(layers),
        "bias": "none",
        "inference_mode": True,
    }
    write_json(folder / "adapter_config.json", config)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def apply_adapter(model: nn.Module, folder: Path) -> None:
    """Merges a saved adapter into a model without one: fp32 sum, then the matrix's type. Raises BodaError on a misfit."""
    config, layers = _read_adapter(model, folder)
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    for layer, down, up in layers.values():
        weight = layer.weight
        weight.data = (weight.float() + up.to(weight.device) @ down.to(weight.device) * scale).to(weight.dtype)


@torch.no_grad()
def stack_adapter(model: nn.Module, language_model: nn.Module, folder: Path, stage: str) -> None:
    """Puts a saved adapter beside matrices that nothing can be merged into (8 or 4 bits), closed, under a stage's name.

    `language_model`: the part of the model that adapters sit on. Raises BodaError on a misfit.
    """
    from peft import LoraConfig

    config, layers = _read_adapter(model, folder)
    names = {id(module): name for name, module in language_model.named_modules()}
    targets = [names[id(layer)] for layer, _, _ in layers.values()]
    kind = LoraConfig(r=config["r"], lora_alpha=config["lora_alpha"], target_modules=targets, bias="none")
    adapter = f"stage-{stage}"
    _inject(kind, language_model, adapter)
    for target, (_, down, up) in zip(targets, layers.values()):
        layer = language_model.get_submodule(target)
        layer.lora_A[adapter].weight.copy_(down)
        layer.lora_B[adapter].weight.copy_(up)
        layer.cast_input_dtype_enabled = False
    language_model.requires_grad_(False)


def _read_adapter(model: nn.Module, folder: Path) -> tuple[dict, dict[str, tuple[nn.Module, torch.Tensor, torch.Tensor]]]:
    """(config, name -> layer, A (r, inputs), B (outputs, r)) of a saved adapter, Boda's or PEFT's. Raises BodaError where a layer does
    not fit, or it holds what is no plain LoRA."""
    config, path = read_json(folder / "adapter_config.json"), folder / "adapter_model.safetensors"
    if not path.is_file():
        raise BodaError(f"{folder} has no adapter_model.safetensors; older adapters (.bin) can be saved anew with PEFT")
    tensors, suffix = load_file(path), ".lora_A.weight"
    names = sorted(key.removeprefix("base_model.model.").removesuffix(suffix) for key in tensors if key.endswith(suffix))
    if not names or len(tensors) != 2 * len(names) or config.get("alpha_pattern") or config.get("rank_pattern"):
        other = next((key for key in tensors if ".lora_A." not in key and ".lora_B." not in key), "ranks that differ by layer")
        raise BodaError(f"the adapter in {folder} is no plain LoRA ({other}); merge it with PEFT first")
    modules, found = dict(model.named_modules()), {}
    for name in names:
        down, up = (tensors[f"base_model.model.{name}.{side}.weight"] for side in ("lora_A", "lora_B"))
        layer = modules.get(name)
        shape = (getattr(layer, "out_features", 0), getattr(layer, "in_features", 0))
        if shape != (up.shape[0], down.shape[1]):
            has = f"that layer is {shape[0]} x {shape[1]}" if layer is not None else "there is no such layer"
            raise BodaError(
                f"the adapter in {folder} does not fit the model at '{name}': it was made for {up.shape[0]} x {down.shape[1]}, and "
                f"{has}; take the base it was trained on ({config.get('base_model_name_or_path')})"
            )
        found[name] = (layer, down, up)
    return config, found
