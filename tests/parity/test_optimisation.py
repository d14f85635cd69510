"""Schedules and optimizer steps against transformers' schedules and AdamW written out."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

import boda
from boda.data.plan import Plan
from boda.data.prepared import PreparedData
from boda.recipe import load_recipe
from boda.train.build import PixelLoader, build, get_tokenizer, image_spec
from boda.train.freeze import open_parts
from boda.train.loop import learning_rate_at
from tests.support import records, sample_loss, tiny_recipe, trained_tensors

THEIRS = {
    "cosine": get_cosine_schedule_with_warmup,
    "linear": get_linear_schedule_with_warmup,
    "constant": lambda optimizer, warmup, total: get_constant_schedule_with_warmup(optimizer, warmup),
}


@pytest.mark.parametrize("schedule", THEIRS)
@pytest.mark.parametrize("total,ratio", [(100, 0.03), (100, 0.0), (7, 0.5), (1, 0.03), (1000, 1.0)])
def test_schedules_are_transformers_one_step_on(schedule, total, ratio):
    """transformers' first step has rate 0 and moves nothing; ours begins where theirs has its second."""
    stage = SimpleNamespace(schedule=schedule, warmup_ratio=ratio)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = THEIRS[schedule](optimizer, math.ceil(ratio * total) + 1, total + 1)
    rates = []
    for number in range(total):
        optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0])
        assert learning_rate_at(number, total, stage) == pytest.approx(rates[-1], abs=1e-12)
    assert min(rates) > 0 and max(rates) <= 1
    if math.ceil(ratio * total) < total:
        assert max(rates) == 1.0


STAGE = {
    "name": "align",
    "train": ["connector", "language"],
    "learning_rate": 1e-3,
    "learning_rates": {"connector": 3e-3},
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "max_steps": 5,
    "batch_size": 5,
    "warmup_ratio": 0.4,
}


def test_steps_are_adamw_written_out(tmp_path):
    """A run of packed rows ends where a plain loop over single samples ends: clip, decay, bias correction, rates of parts."""
    recipe = tiny_recipe(tmp_path, [STAGE], {"n": 17})
    run = boda.train(recipe, tmp_path / "run", quiet=True).parent
    loaded = load_recipe(run / "recipe.yaml")
    stage = loaded.stages[0]
    built = build(loaded, get_tokenizer(loaded, run, iter(())), None, [], torch.device("cpu"))
    data = PreparedData.open(run / "stages" / "align" / "data")
    plan = Plan(loaded.seed, stage.batch_size, np.asarray(data.sources), data.weights, np.asarray(data.groups))
    pixels = PixelLoader(image_spec(built, stage.image_fit))
    trained = open_parts(built.model, stage.train, None, seed=0)
    built.model.eval()
    start = {name: parameter.detach().clone() for name, parameter in trained.items()}
    first = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    second = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    for number in range(stage.max_steps):
        samples = plan.step(*divmod(number, plan.steps_per_epoch()))
        count = int(data.targets[samples].sum())
        built.model.zero_grad(set_to_none=True)
        losses = [sample_loss(built.assembled, data, int(index), pixels) for index in samples]
        (sum(losses) / count).backward()
        gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained.items()}  # words alone
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
        record = records(run)[number]
        assert record["loss"] == pytest.approx(float(sum(losses).detach()) / count, rel=1e-5)
        assert record["grad_norm"] == pytest.approx(norm, rel=1e-4)
        assert record["trained_tokens"] == count and record["tokens"] <= int(data.lengths[samples].sum())
        assert norm > stage.max_grad_norm  # or clipping is not tried
        factor = {0: 1 / 3, 1: 2 / 3}.get(number, 0.5 * (1 + math.cos(math.pi * (number - 2) / 3)))
        assert record["learning_rate"] == pytest.approx(1e-3 * factor)
        with torch.no_grad():
            for name, parameter in trained.items():
                rate = factor * (3e-3 if "projector" in name else 1e-3)
                gradient = gradients[name] * (stage.max_grad_norm / (norm + 1e-6))
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                mean, square = first[name] / (1 - 0.9 ** (number + 1)), second[name] / (1 - 0.999 ** (number + 1))
                if parameter.ndim > 1:  # biases and norms do not decay
                    parameter.mul_(1 - rate * stage.weight_decay)
                parameter.sub_(rate * mean / (square.sqrt() + 1e-8))
    found = trained_tensors(run)
    assert {name.rpartition("/")[2] for name in found} == set(trained)
    for key, tensor in found.items():
        name = key.rpartition("/")[2]
        gone = float((trained[name].detach() - start[name]).norm())
        assert float((tensor - trained[name].detach()).norm()) < 2e-3 * gone, name
