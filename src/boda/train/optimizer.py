"""The optimizer of a stage: AdamW, or Muon for the matrices inside layers and AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from boda.recipe import Stage

UNDECAYED = ("resampler", "language.tokens")


class Muon:
    """Muon (https://kellerjordan.github.io/posts/muon/) and AdamW taking their steps together.

    Muon makes the update of a matrix orthogonal, so that weak directions learn as fast as strong ones; it is scaled as
    AdamW's are (https://arxiv.org/abs/2502.16982), so that one learning rate fits both. Tables, vectors and convolutions are
    no such matrices and stay with AdamW.
    """

    def __init__(self, matrices: list[dict], others: list[dict], **settings):
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(torch.optim.Muon(matrices, lr=settings["lr"], momentum=0.95, adjust_lr_fn="match_rms_adamw"))
        if others:
            self.parts.append(torch.optim.AdamW(others, **settings))

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict) -> None:
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)


def build_optimizer(
    stage: Stage, model: nn.Module, trained: dict[str, nn.Parameter], part_of: Callable[[str], str]
) -> torch.optim.Optimizer | Muon:
    """A group for each part, and for tensors that weight decay leaves alone: vectors (biases and norms), and, as OpenFlamingo has it,
    a resampler and the rows of single tokens."""
    inside = _matrices(model) if stage.optimizer == "muon" else set()
    groups: dict[tuple[str, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        part = part_of(name)
        decays = parameter.ndim >= 2 and part not in UNDECAYED
        groups.setdefault((part, decays, id(parameter) in inside), []).append(parameter)
    rates = {"language.lora": stage.learning_rate, **stage.learning_rates}

    def settings(wanted: bool) -> list[dict]:
        return [
            {
                "params": parameters,
                "base_rate": rates.get(part, rates.get(part.split(".")[0], stage.learning_rate)),
                "weight_decay": stage.weight_decay if decays else 0.0,
            }
            for (part, decays, is_inside), parameters in groups.items()
            if is_inside == wanted
        ]

    common = {"lr": stage.learning_rate, "betas": (0.9, 0.999), "eps": 1e-8}
    if stage.optimizer == "muon":
        return Muon(settings(True), settings(False), **(common | {"betas": (0.9, 0.95)}))
    return torch.optim.AdamW(settings(False), fused=True, **common)  # one pass over the memory, not ten


def _matrices(model: nn.Module) -> set[int]:
    """The weights of linear layers, heads that name words aside."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linear = (module for module in model.modules() if isinstance(module, nn.Linear) and module is not head)
    return {id(module.weight) for module in linear}
