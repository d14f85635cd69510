"""Freezing: everything is closed, then opened by part name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from boda.errors import BodaError
from boda.models.language import ADAPTER, add_lora, lora_layers
from boda.models.pairing import image_vectors, text_vectors
from boda.models.quantised import weights_in

# Where each part's parameters live in the model, by name; the language model has all others.
PARTS = {
    "vision": ("model.vision_tower.", "vision_model.", "visual_projection."),
    "connector": ("model.multi_modal_projector.",),
    "resampler": ("model.resampler.",),
    "text": ("text_model.", "text_projection."),
    "logit_scale": ("logit_scale", "logit_bias"),
    "language": ("",),
}


def is_pair(model: nn.Module) -> bool:
    """Whether it compares pictures with texts and answers nothing."""
    return hasattr(model, "vision_model") and hasattr(model, "text_model")


def vision_of(model: nn.Module) -> nn.Module | None:
    """The vision tower; None in a language model."""
    return model.vision_model if is_pair(model) else getattr(getattr(model, "model", None), "vision_tower", None)


def language_of(model: nn.Module) -> nn.Module:
    """The language model without its head: a part of a VLM, or the body of a model that is nothing else; a pair's text tower."""
    if is_pair(model):
        return model.text_model
    return model.base_model if vision_of(model) is None else model.model.language_model


def adaptable(model: nn.Module) -> dict[str, nn.Module]:
    """Parts that are adapters, and what each sits on."""
    if is_pair(model):
        return {"vision.lora": model.vision_model, "text.lora": model.text_model}
    return {"language.lora": language_of(model)}


def part_of(name: str, embedding_names: set[str], train: Sequence[str] = ()) -> str:
    """The part that a parameter belongs to: the name learning rates and the table of parameters use. `train`: the parts that a stage
    trains, after which what is trained of the language model's tables and layers is called."""
    if ".cross_attention." in name:
        return "cross_attention"
    part = next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))
    if ".lora_" in name:
        return f"{part}.lora"
    if name in embedding_names:
        return "language.tokens" if "language.tokens" in train else "language.embeddings"
    return "language.ends" if "language.ends" in train and part == "language" else part


def embedding_names(model: nn.Module) -> set[str]:
    """Names of the input table and, where it is its own, the output matrix; a pair's belong to its text tower."""
    if is_pair(model):
        return set()
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in tables}


def decoder_layers(language: nn.Module) -> nn.ModuleList:
    """The layers of a language model, in order. Raises BodaError where they are not found as its config counts them."""
    count = getattr(language.config, "num_hidden_layers", 0)
    for child in language.children():
        if isinstance(child, nn.ModuleList) and len(child) == count:
            return child
    raise BodaError(f"train: language.ends: a '{language.config.model_type}' model shows no list of its {count} layers")


def leave_out_middle(language: nn.Module) -> list[nn.Module]:
    """Makes every layer between the first and the last hand on what it is given, and returns these two (ELO, arXiv 2601.03648).

    The model then is, from embeddings to head, the one of just these two, under the names of the whole. Raises BodaError where there
    is nothing between.
    """
    layers = decoder_layers(language)
    if len(layers) < 3:
        raise BodaError(
            f"train: language.ends: the model has {len(layers)} layers, so none lies between its ends; train language"
        )
    width = 0  # of what a layer gives: hidden states alone, or first in a tuple

    def see(layer, inputs, output) -> None:
        nonlocal width
        width = len(output) if isinstance(output, tuple) else 0

    def hand_on(hidden_states, *args, **kwargs):  # what an older layer gives besides is caches and weights that nobody asks for
        return (hidden_states, *[None] * (width - 1)) if width else hidden_states

    layers[0].register_forward_hook(see)
    for layer in list(layers)[1:-1]:
        layer.forward = hand_on  # type: ignore[method-assign]
        layer.is_left_out = True  # type: ignore[assignment]
    return [layers[0], layers[-1]]


def left_out(module: nn.Module) -> set[int]:
    """Identities of the modules and parameters in layers that `leave_out_middle` took out of the forward pass."""
    layers = [layer for layer in module.modules() if getattr(layer, "is_left_out", False)]
    return {id(part) for layer in layers for part in (*layer.modules(), *layer.parameters())}


def _keep_rows(table: nn.Parameter, tokens: Sequence[int]) -> None:
    """Lets only these rows of a table learn: the gradients of all others are zero, and AdamW then leaves them as they are."""
    learns = torch.zeros(len(table), 1, dtype=torch.bool)
    learns[list(tokens)] = True
    table.rows_trained = len(tokens)
    table.register_hook(lambda gradient: gradient * learns.to(gradient.device))


def open_parts(model: nn.Module, train: list[str], lora, seed: int, tokens: Sequence[int] = ()) -> dict[str, nn.Parameter]:
    """Closes the whole model, opens the parts named, and returns what is trained by name.

    `lora` is the recipe's block, where an adapter is among them; `tokens` are those whose rows `language.tokens` trains. Raises
    BodaError for a part that the model does not have.
    """
    for number, (part, module) in enumerate(adaptable(model).items()):
        if part in train:
            add_lora(module, lora.rank, lora.alpha, lora.dropout, lora.targets, seed + number)
    model.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    embeddings, tower = embedding_names(model), vision_of(model)
    sees = "vision" in train and tower is not None
    if sees and any(int(module.num_batches_tracked or 0) == 0 for module in batch_norms(tower)):
        raise BodaError(
            "train: the vision tower is new and normalises by the batch, which does not go with packed rows; take a tower with "
            "layer or group normalisation (convnext, vit, clip_vision_model, bit), or a trained one"
        )
    unused = _unused(model) if sees or is_pair(model) else set()
    table = model.get_input_embeddings().weight if "language.tokens" in train else None
    ends: set[int] = set()
    if "language.ends" in train:
        ends = {id(parameter) for layer in leave_out_middle(language_of(model)) for parameter in layer.parameters()}
    trained, missing = {}, set(train)
    for name, parameter in model.named_parameters():
        # A model's tables are part of `language`; `language.embeddings` opens them alone.
        part = part_of(name, embeddings)
        opened = {part, "language"} if part == "language.embeddings" else {part}
        opened |= {"language.tokens"} if parameter is table else set()
        opened |= {"language.ends"} if id(parameter) in ends else set()
        if opened & set(train) and name not in unused and not _is_fixed(model, name):
            if not parameter.is_floating_point():
                raise BodaError(
                    f"train: '{name}' is kept in 8 or 4 bits and cannot be trained; train language.lora, or take the language model "
                    "unquantised (precision: auto)"
                )
            trained[name] = parameter.requires_grad_(True)
            missing -= opened
            if parameter is table:
                _keep_rows(parameter, tokens)
    if missing:
        there = sorted({*count_by_part(model), *adaptable(model)})
        raise BodaError(f"train: the model has no part '{min(missing, key=train.index)}'; it has {', '.join(there)}")
    return trained


def _is_fixed(model: nn.Module, name: str) -> bool:
    """Whether a parameter only fills a place in the stock class (the identity behind a `linear` connector), or is of an adapter that
    an earlier stage trained."""
    if ".lora_" in name:
        return f".{ADAPTER}." not in name
    if not name.startswith("model.multi_modal_projector.linear_2."):
        return False
    return model.config.projector_hidden_act == "linear" and hasattr(model.model.multi_modal_projector, "act")


def _unused(model: nn.Module) -> set[str]:
    """Parameters of a closed VLM's tower that its chosen layer does not depend on (pooler, last norm), or of a pair's towers that
    its vectors do not: found by one backward pass."""
    tower, size = vision_of(model), picture_size(model)
    assert tower is not None
    towers = PARTS["vision"] + PARTS["text"] if is_pair(model) else PARTS["vision"]
    named = {name: parameter.requires_grad_() for name, parameter in model.named_parameters() if name.startswith(towers)}
    for each in (tower, language_of(model)) if is_pair(model) else (tower,):
        if len({parameter.dtype for parameter in each.parameters()}) > 1:  # what an earlier stage trained is fp32, the rest not
            each.float()
    pixels = next(tower.parameters()).new_zeros(1, 3, size, size)
    with torch.enable_grad():
        if is_pair(model):
            ids = torch.arange(4, 8, device=pixels.device)[None] % model.text_model.config.vocab_size
            texts = text_vectors(model, ids, torch.tensor([0, 4], dtype=torch.int32, device=pixels.device))
            target = image_vectors(model, pixels).float().sum() + texts.float().sum()
        else:
            states = tower(pixels, output_hidden_states=True, return_dict=True)
            target = states.hidden_states[model.config.vision_feature_layer].float().sum()
        gradients = torch.autograd.grad(target, list(named.values()), allow_unused=True)
    model.requires_grad_(False)
    return {name for name, gradient in zip(named, gradients) if gradient is None}


def picture_size(model: nn.Module) -> int:
    """Side of the pictures that the model's tower was made for."""
    config = model.config.vision_config
    return config.image_size if isinstance(config.image_size, int) else config.image_size[0]


def cast(model: nn.Module, frozen: torch.dtype) -> None:
    """Frozen floating parameters and buffers take the given type, trained ones fp32; single numbers (a scale) stay exact."""
    # What a trained tower computes beside the chosen layer (its last norm) sees fp32 features, and runs in no other type.
    beside: set[int] = set()
    for tower in (vision_of(model), language_of(model) if is_pair(model) else None):
        named = dict(tower.named_parameters()) if tower is not None else {}
        if any(parameter.requires_grad for name, parameter in named.items() if ".lora_" not in name):
            beside |= set(map(id, named.values()))
    for parameter in model.parameters():
        if parameter.is_floating_point():
            exact = parameter.requires_grad or id(parameter) in beside or parameter.ndim == 0
            parameter.data = parameter.data.to(torch.float32 if exact else frozen)


def set_modes(model: nn.Module, trained: dict[str, nn.Parameter]) -> None:
    """Dropout is on in modules that are trained, off everywhere else."""
    model.eval()
    for layer in lora_layers(model).values():
        layer.train()
    tables = embedding_names(model)
    parts = {part_of(name, tables) for name in trained if ".lora_" not in name}
    if "language" in parts:
        language_of(model).train()
    for name, module in model.named_modules():
        if any(f"{name}." in PARTS.get(part, ()) for part in parts):
            module.train()
    for module in (model if is_pair(model) else language_of(model)).modules():
        if getattr(module, "gradient_checkpointing", False):
            # transformers computes twice only then; the modules inside, dropout among them, stay as they are
            module.training = True
    for module in batch_norms(model):
        module.eval()


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Layers that normalise by the batch. They keep the statistics they came with: a row is no batch of independent pictures, and
    statistics taken from rows would change with the packing."""
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def count_by_part(model: nn.Module) -> dict[str, dict[str, int]]:
    """part -> its `parameters`, and how many of them are `trained`."""
    embeddings = embedding_names(model)
    counts: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        count = counts.setdefault(part_of(name, embeddings), {"parameters": 0, "trained": 0})
        count["parameters"] += weights_in(parameter)
        rows = getattr(parameter, "rows_trained", 0)
        count["trained"] += (rows * parameter.shape[1] if rows else parameter.numel()) * parameter.requires_grad
    return dict(sorted(counts.items()))
