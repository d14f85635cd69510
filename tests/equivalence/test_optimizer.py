"""Muon takes the matrices inside layers, AdamW all else, and each does what torch's own does."""

from __future__ import annotations

import copy

import torch

from boda.recipe import Stage
from boda.train.freeze import embedding_names, part_of
from boda.train.optimizer import Muon, build_optimizer
from tests.support import tiny_model

STAGE = {
    "name": "align",
    "train": ["vision", "connector", "language"],
    "data": [{"path": "none.json"}],
    "batch_size": 2,
    "learning_rate": 1e-3,
    "learning_rates": {"language": 3e-3},
    "weight_decay": 0.1,
}
INSIDE = ("_proj.weight", "fc1.weight", "fc2.weight", "linear_1.weight", "linear_2.weight")


def stage(**changes) -> Stage:
    return Stage.model_validate(STAGE | changes)


def optimizer_of(model, **changes):
    embeddings = embedding_names(model)
    optimizer = build_optimizer(stage(**changes), model, dict(model.named_parameters()), lambda name: part_of(name, embeddings))
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"]
    return optimizer


def fill_gradients(model) -> None:
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def test_each_tensor_is_in_one_group_with_its_own_rate():
    model = tiny_model().model.float()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = optimizer_of(model, optimizer="muon")
    assert isinstance(optimizer, Muon)
    muon = optimizer.parts[0]
    given = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    assert sorted(given) == sorted(names.values())
    inside = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert inside == {name for name in names.values() if name.endswith(INSIDE) and "patch" not in name}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            is_language = names[id(parameter)].startswith("model.language_model") or "lm_head" in names[id(parameter)]
            assert group["base_rate"] == (3e-3 if is_language else 1e-3), names[id(parameter)]
            assert group["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)


def test_a_step_is_torchs_own():
    model = tiny_model().model.float()
    twin = copy.deepcopy(model)
    fill_gradients(model)
    optimizer_of(model, optimizer="muon").step()
    fill_gradients(twin)
    for name, parameter in twin.named_parameters():
        rate = 3e-3 if name.startswith("model.language_model") or "lm_head" in name else 1e-3
        decay = 0.1 if parameter.ndim >= 2 else 0.0
        if name.endswith(INSIDE) and "patch" not in name:
            torch.optim.Muon([parameter], lr=rate, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw").step()
        else:
            torch.optim.AdamW([parameter], lr=rate, betas=(0.9, 0.95), weight_decay=decay).step()
    for (name, given), expected in zip(model.named_parameters(), twin.parameters()):
        assert torch.equal(given, expected), name


def test_its_state_goes_on_where_it_was():
    model = tiny_model().model.float()
    first = optimizer_of(model, optimizer="muon")
    fill_gradients(model)
    first.step()
    twin = copy.deepcopy(model)
    second = optimizer_of(twin, optimizer="muon")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for each, optimizer in ((model, first), (twin, second)):
        fill_gradients(each)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))


def test_adamw_takes_everything():
    model = tiny_model().model.float()
    optimizer = optimizer_of(model)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
