"""Freezing: everything is closed, then opened by part name."""

from __future__ import annotations

import torch
from torch import nn

from boda.errors import BodaError
from boda.models.language import add_lora, lora_layers

# Where each part's parameters live in the model, by name; the language model has all others.
PARTS = {"vision": "model.vision_tower.", "connector": "model.multi_modal_projector.", "language": ""}


def vision_of(model: nn.Module) -> nn.Module | None:
    """The vision tower; None in a language model."""
    return getattr(getattr(model, "model", None), "vision_tower", None)


def language_of(model: nn.Module) -> nn.Module:
    """The language model without its head: a part of a VLM, or the body of a model that is nothing else."""
    return model.base_model if vision_of(model) is None else model.model.language_model


def language_prefix(model: nn.Module) -> str:
    """What the names of the language model's parameters begin with in the whole model."""
    body = language_of(model)
    return next(name for name, module in model.named_modules() if module is body) + "."


def part_of(name: str, embedding_names: set[str]) -> str:
    """The part that a parameter belongs to: the name learning rates and the table of parameters use."""
    if ".lora_" in name:
        return "language.lora"
    if name in embedding_names:
        return "language.embeddings"
    return next(part for part, prefix in PARTS.items() if name.startswith(prefix))


def embedding_names(model: nn.Module) -> set[str]:
    """Names of the input table and, where it is its own, the output matrix."""
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in tables}


def open_parts(model: nn.Module, train: list[str], lora, seed: int) -> dict[str, nn.Parameter]:
    """Closes the whole model, opens the parts named, and returns what is trained by name.

    Args:
        train: part names. lora: the recipe's block, where `language.lora` is among them. seed: for new adapters.

    Raises:
        BodaError: a part that the model does not have.
    """
    if "language.lora" in train:
        add_lora(language_of(model), lora.rank, lora.alpha, lora.dropout, lora.targets, seed)
    model.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    embeddings = embedding_names(model)
    unused = set()
    if "vision" in train and vision_of(model) is not None:
        _refuse_new_batch_norms(model.model.vision_tower)
        unused = _unused_of_tower(model)
    for name, parameter in model.named_parameters():
        part = part_of(name, embeddings)
        # A model's tables are part of `language`; `language.embeddings` opens them alone.
        opened = part in train or (part == "language.embeddings" and "language" in train)
        if opened and name not in unused and not _is_fixed(model, name):
            parameter.requires_grad_(True)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for part in train:
        has = any(part_of(name, embeddings) == part or (part == "language" and name in embeddings) for name in trained)
        if not has:
            there = [*count_by_part(model), "language.lora"]
            raise BodaError(f"train: the model has no part '{part}'; it has {', '.join(sorted(set(there)))}")
    return trained


def _is_fixed(model: nn.Module, name: str) -> bool:
    """Whether a parameter only fills a place in the stock class: the identity behind a `linear` connector."""
    is_linear = getattr(model.config, "projector_hidden_act", "") == "linear" and hasattr(
        model.model.multi_modal_projector, "act"
    )
    return is_linear and name.startswith("model.multi_modal_projector.linear_2.")


def _unused_of_tower(model: nn.Module) -> set[str]:
    """Parameters of the tower that its chosen layer does not depend on (pooler, last norm): found by one backward pass."""
    tower = model.model.vision_tower
    named = dict(tower.named_parameters(prefix="model.vision_tower"))
    before = {name: parameter.requires_grad for name, parameter in named.items()}
    tower.requires_grad_(True)
    size = picture_size(model)
    device, dtype = next(tower.parameters()).device, next(tower.parameters()).dtype
    with torch.enable_grad():
        states = tower(torch.zeros(1, 3, size, size, device=device, dtype=dtype), output_hidden_states=True, return_dict=True)
        target = states.hidden_states[model.config.vision_feature_layer].float().sum()
        gradients = torch.autograd.grad(target, list(named.values()), allow_unused=True)
    for name, parameter in named.items():
        parameter.requires_grad_(before[name])
    return {name for name, gradient in zip(named, gradients) if gradient is None}


def picture_size(model: nn.Module) -> int:
    """Side of the pictures that the model's tower was made for."""
    config = model.config.vision_config
    return config.image_size if isinstance(config.image_size, int) else config.image_size[0]


def cast(model: nn.Module, frozen: torch.dtype) -> None:
    """Frozen floating parameters and buffers take the given type, trained ones fp32."""
    vision = vision_of(model)
    tower = [] if vision is None else list(vision.parameters())
    # What a trained tower computes beside the chosen layer (its last norm) sees fp32 features, and runs in no other type.
    beside = {id(parameter) for parameter in tower} if any(parameter.requires_grad for parameter in tower) else set()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad or id(parameter) in beside else frozen)


def set_modes(model: nn.Module, trained: dict[str, nn.Parameter]) -> None:
    """Dropout is on in modules that are trained, off everywhere else."""
    model.eval()
    for layer in lora_layers(model).values():
        layer.train()
    for part in {part_of(name, set()) for name in trained if ".lora_" not in name}:
        (language_of(model) if part == "language" else model.get_submodule(PARTS[part].rstrip("."))).train()
    for module in language_of(model).modules():
        if getattr(module, "gradient_checkpointing", False):
            # transformers computes twice only then; the modules inside, dropout among them, stay as they are
            module.training = True
    for module in batch_norms(model):
        module.eval()


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Layers that normalise by the batch. They keep the statistics they came with: a row is no batch of independent pictures, and
    statistics taken from rows would change with the packing."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def _refuse_new_batch_norms(tower: nn.Module) -> None:
    if any(int(module.num_batches_tracked or 0) == 0 for module in batch_norms(tower)):
        raise BodaError(
            "train: the vision tower is new and normalises by the batch, which does not go with packed rows; take a tower with "
            "layer or group normalisation (convnext, vit, clip_vision_model, bit), or a trained one"
        )


def count_by_part(model: nn.Module) -> dict[str, tuple[int, int]]:
    """part -> (parameters, trained parameters)."""
    embeddings = embedding_names(model)
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part = part_of(name, embeddings)
        every, trained = counts.get(part, (0, 0))
        counts[part] = (every + parameter.numel(), trained + parameter.numel() * parameter.requires_grad)
    return counts
