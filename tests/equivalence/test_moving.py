"""A step at 2e-5 moves every trained tensor, whatever the precision, and nothing else."""

from __future__ import annotations

import pytest
import torch

import boda
from boda.data.plan import generator
from boda.models.language import lora_layers
from boda.recipe import load_recipe
from boda.train import stages
from boda.train.build import build, get_tokenizer
from boda.train.freeze import open_parts
from tests import tiny
from tests.support import tiny_recipe

ALL = ["vision", "connector", "language"]
LORA = {"lora": {"rank": 4, "alpha": 8.0}}


def run(monkeypatch, folder, train, steps, precision, language="llama", vision="clip", connector="ldpv2", **stage):
    """(names of trained tensors, tensors before, live tensors after) of a run at 2e-5."""
    live = {}

    def spy(built, recipe, stage, trained, target, save=stages.save_stage):
        live.update(
            trained=list(trained), after={name: value.detach().clone() for name, value in built.model.named_parameters()}
        )
        save(built, recipe, stage, trained, target)

    monkeypatch.setattr(stages, "save_stage", spy)
    block = {"name": "only", "train": train, "learning_rate": 2e-5, "max_steps": steps, "batch_size": 6, **stage}
    recipe = tiny_recipe(folder, [block], {"n": 6, "text_only": 0.0}, language, connector, precision=precision)
    recipe["model"]["vision"] = str(tiny.vision_folder(vision))
    boda.train(recipe, folder / "run", quiet=True)
    loaded = load_recipe(folder / "run" / "recipe.yaml")
    start = build(loaded, get_tokenizer(loaded, None, iter(())), None, [], torch.device("cpu")).model
    if "language.lora" in train:
        open_parts(start, train, loaded.stages[0].lora, seed=stage_seed(loaded))
    return live["trained"], {name: value.detach() for name, value in start.named_parameters()}, live["after"]


def stage_seed(recipe) -> int:
    return int(generator(recipe.seed, "stage", recipe.stages[0].name).integers(2**31))


def moved(trained, before, after, precision) -> set[str]:
    """Trained tensors that differ from the start; everything else must be what it was, to the bit."""
    assert before.keys() == after.keys()
    half = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    sees = any("vision_tower" in name for name in trained)  # then the tower's unused layers are fp32 too
    found = set()
    for name, value in after.items():
        if name in trained:
            assert value.dtype == torch.float32
            if not torch.equal(value, before[name].float()):
                found.add(name)
                assert float((value - before[name].float()).abs().max()) < 1e-4
        else:
            dtype = torch.float32 if sees and "vision_tower" in name else half
            assert value.dtype == dtype and torch.equal(value, before[name].to(dtype)), name
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "parts",
    [
        ("llama", "clip", "ldpv2"),
        ("gpt_neox", "siglip", "mlp2x_gelu"),
        ("llama3", "vit", "linear"),
        ("gemma2", "dinov2_registers", "mlp2x_gelu"),
        ("exaone4", "convnext", "ldpv2"),
    ],
    ids=lambda parts: "-".join(parts),
)
def test_every_trained_tensor_moves_at_the_first_step(parts, precision, monkeypatch, tmp_path):
    language, vision, connector = parts
    trained, before, after = run(monkeypatch, tmp_path, ALL, 1, precision, language, vision, connector)
    assert moved(trained, before, after, precision) == set(trained)
    for part in ("vision_tower", "multi_modal_projector", "language_model.layers", "embed"):
        assert any(part in name for name in trained)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_moves_its_up_side_first(precision, monkeypatch, tmp_path):
    """B begins at zero, so A has no gradient until B has moved: everything has moved after two steps."""
    train = ["connector", "language.lora"]
    for steps in (1, 2):
        folder = tmp_path / str(steps)
        trained, before, after = run(monkeypatch, folder, train, steps, precision, "hyperclovax", **LORA)
        expected = {name for name in trained if steps == 2 or ".lora_A." not in name}
        assert moved(trained, before, after, precision) == expected
        assert {name.split(".lora_")[1][0] for name in trained if ".lora_" in name} == {"A", "B"}


@pytest.mark.parametrize("language,tables", [("llama", 1), ("llama3", 2)])
def test_embeddings_alone(language, tables, monkeypatch, tmp_path):
    trained, before, after = run(monkeypatch, tmp_path, ["language.embeddings"], 1, "bf16", language)
    assert len(trained) == tables and moved(trained, before, after, "bf16") == set(trained)


def test_learning_rates_of_parts(monkeypatch, tmp_path):
    """A part's own rate is how far Adam's first step takes it."""
    rates = {"learning_rates": {"connector": 2e-4, "language.lora": 5e-5}, "learning_rate": 1e-3, "schedule": "constant"}
    trained, before, after = run(
        monkeypatch, tmp_path, ["vision", "connector", "language.lora"], 1, "fp32", warmup_ratio=0.0, **LORA, **rates
    )
    for name in trained:
        rate = 5e-5 if ".lora_" in name else 2e-4 if "multi_modal_projector" in name else 1e-3
        farthest = float((after[name] - before[name]).abs().max())
        if ".lora_A." not in name and after[name].ndim > 1:  # a key's bias has no gradient but rounding
            assert farthest == pytest.approx(rate, rel=0.05), name


def test_adapters_sit_on_every_linear_layer_and_only_there(monkeypatch, tmp_path):
    trained, *_ = run(monkeypatch, tmp_path, ["language.lora"], 1, "fp32", **LORA)
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    model = build(recipe, get_tokenizer(recipe, None, iter(())), None, [], torch.device("cpu")).model
    linear = [name for name, module in model.model.language_model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == 14
    assert {name.split(".lora_")[0] for name in trained} == {f"model.language_model.{name}" for name in linear}
    assert not lora_layers(model)
