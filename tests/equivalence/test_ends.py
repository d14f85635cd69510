"""ELO: a stage that trains `language.ends` is the training of a model of just the first and the last layer, under the whole's names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import boda
from boda.errors import BodaError
from boda.models.assemble import assemble, load_tokenizer
from boda.models.attention import ATTENTION_NAME, keeps_segments_apart
from boda.models.loading import config_from
from boda.recipe import ModelSpec, Stage, load_recipe
from boda.train import estimate
from boda.train.freeze import decoder_layers, language_of, leave_out_middle, left_out, open_parts
from boda.train.inspect import inspect
from tests import tiny
from tests.support import language_recipe, records, tiny_recipe, trained_tensors, validations

FAMILIES = [*tiny.LANGUAGE_FAMILIES, "synatra"]
LAYERS = 5
# Layers of a kind that is its own, first and last: what a left-out layer would be given must not matter.
TYPES = {
    "gemma2": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
    "exaone4": ["sliding_attention"] * 3 + ["full_attention"] * 2,
}


def model_of(family: str, layers: int, types: list[str] | None):
    """A model of a family with so many layers, from nothing."""
    from transformers import AutoModelForCausalLM

    folder = tiny.language_folder(family)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    values = {key: value for key, value in values.items() if key not in ("layer_types", "dtype", "architectures")}
    values |= {"num_hidden_layers": layers}
    if types is not None:
        values |= {"layer_types": types, "sliding_window": 8}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_from(values, "language")).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_short_forward_is_a_model_of_two_layers(family):
    types = TYPES.get(family)
    whole = model_of(family, LAYERS, types)
    short = model_of(family, 2, types and [types[0], types[-1]])
    inside = next(name for name, module in whole.named_modules() if module is decoder_layers(whole.base_model))
    given = whole.state_dict()
    kept = {name: value for name, value in given.items() if not name.startswith(f"{inside}.")}
    for number, place in ((0, 0), (1, LAYERS - 1)):
        prefix = f"{inside}.{place}."
        kept |= {name.replace(prefix, f"{inside}.{number}."): value for name, value in given.items() if name.startswith(prefix)}
    short.load_state_dict(kept)
    ids = torch.randint(3, 400, (2, 11), generator=torch.Generator().manual_seed(1))
    full = whole(input_ids=ids).logits
    names = list(dict(whole.named_parameters()))
    leave_out_middle(whole.base_model)
    found, expected = (model(input_ids=ids, use_cache=False).logits for model in (whole, short))
    assert torch.equal(found, expected) and not torch.allclose(found, full, atol=1e-2)
    assert list(dict(whole.named_parameters())) == names
    whole.base_model.set_attn_implementation(ATTENTION_NAME)
    assert keeps_segments_apart(language_of(whole))


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2", "hyperclovax"])
@pytest.mark.parametrize("train", [["language.ends"], ["language.ends", "language.embeddings"]], ids=["ends", "with tables"])
def test_gradients_reach_the_ends_alone(family, train):
    """... checkpointed or not."""
    model = model_of(family, LAYERS, TYPES.get(family))
    trained = open_parts(model, train, None, 0)
    layers = decoder_layers(model.base_model)
    ends = {id(parameter) for layer in (layers[0], layers[-1]) for parameter in layer.parameters()}
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    wanted = ends | (tables if len(train) > 1 else set())
    assert {id(parameter) for parameter in trained.values()} == wanted
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == wanted
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            model.train()
            model.base_model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        model(input_ids=torch.arange(3, 12)[None], use_cache=False).logits.square().mean().backward()
        assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in trained.values())
        found.append([parameter.grad.clone() for parameter in trained.values()])
    assert all(torch.equal(*pair) for pair in zip(*found))


def test_layers_that_give_tuples():
    """As layers of some families, and of code that comes with a model, do."""

    class Layer(torch.nn.Linear):
        def forward(self, hidden_states, flag=None):
            return super().forward(hidden_states), None

    class Body(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = type("Config", (), {"num_hidden_layers": 4, "model_type": "own"})
            self.blocks = torch.nn.ModuleList(Layer(3, 3) for _ in range(4))

        def forward(self, states):
            for block in self.blocks:
                states, _ = block(states, flag=1)
            return states

    body, states = Body(), torch.randn(1, 5, 3)
    leave_out_middle(body)
    assert torch.equal(body(states), body.blocks[3](body.blocks[0](states)[0])[0])
    body.config.num_hidden_layers = 7
    with pytest.raises(BodaError, match="shows no list of its 7 layers"):
        decoder_layers(body)


def deep_recipe(folder: Path, **rest) -> dict:
    """Ends, then all layers, of a tiny model of five."""
    recipe = language_recipe(folder)
    recipe["model"]["language"] |= {"num_hidden_layers": LAYERS, "tie_word_embeddings": False}
    first = recipe["stages"][0] | {"name": "ends", "train": ["language.ends"], "max_steps": 6, "save_steps": 2, **rest}
    return recipe | {"stages": [first, {"name": "align", "train": ["language"], "max_steps": 2, "learning_rate": 1e-3}]}


def whole_weights(recipe: dict, run: Path) -> dict[str, torch.Tensor]:
    """What the recipe's model begins as."""
    spec = ModelSpec(**load_recipe(recipe).model.model_dump() | {"tokenizer": None})
    built = assemble(spec, load_tokenizer(str(run / "tokenizer")), load_recipe(recipe).seed)
    return {name: parameter.detach() for name, parameter in built.model.named_parameters()}


def test_a_run_moves_the_ends_and_goes_on_with_every_layer(tmp_path):
    recipe = deep_recipe(tmp_path)
    run = tmp_path / "run"
    boda.train(recipe, run, quiet=True)
    start = whole_weights(recipe, run)
    moved = load_file(run / "stages" / "ends" / "model" / "trained.safetensors")
    assert {name.split("layers.")[1].partition(".")[0] for name in moved} == {"0", str(LAYERS - 1)}
    assert all(not torch.equal(tensor, start[name]) for name, tensor in moved.items() if tensor.ndim > 1)
    after = load_file(run / "stages" / "align" / "model" / "trained.safetensors")
    assert after.keys() == start.keys()
    for name, tensor in after.items():  # each where its stage found it, but for two steps of 1e-3
        assert 0 < float((tensor - moved.get(name, start[name])).abs().max()) < 5e-3 or tensor.ndim == 1
    losses = {stage: [record["loss"] for record in records(run) if record["stage"] == stage] for stage in ("ends", "align")}
    assert losses["ends"][-1] < losses["ends"][0]
    assert losses["align"][0] != pytest.approx(losses["ends"][-1], abs=1e-3)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    recipe = deep_recipe(tmp_path, gradient_checkpointing=True)
    boda.train(recipe, tmp_path / "whole", quiet=True)

    class Stop:
        def log(self, record):
            if record["stage"] == "ends" and record["step"] == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        boda.train(recipe, tmp_path / "stopped", quiet=True, loggers=[Stop()])
    boda.train(recipe, tmp_path / "stopped", quiet=True)
    wanted, found = trained_tensors(tmp_path / "whole"), trained_tensors(tmp_path / "stopped")
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_validation_gives_a_loss_and_no_answers(tmp_path):
    recipe = deep_recipe(tmp_path, validation=0.2, eval_steps=3)
    boda.train(recipe, tmp_path / "run", quiet=True)
    ends, align = ([each for each in validations(tmp_path / "run") if each["stage"] == stage] for stage in ("ends", "align"))
    assert [each["answers"] for each in ends] == [[], []] and all(each["answers"] for each in align)


def test_in_a_model_with_sight(tmp_path):
    stages = [{"name": "ends", "train": ["connector", "language.ends"], "max_steps": 2}]
    recipe = tiny_recipe(tmp_path, stages, {"n": 8}, connector="mlp2x_gelu")
    config = json.loads((tiny.language_folder("llama3") / "config.json").read_text(encoding="utf-8"))
    keep = ("model_type", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    recipe["model"]["language"] = {key: config[key] for key in keep} | {"num_hidden_layers": 4}
    recipe["model"]["tokenizer"] = str(tiny.language_folder("llama3"))
    boda.train(recipe, tmp_path / "seeing", quiet=True)
    moved = load_file(tmp_path / "seeing" / "stages" / "ends" / "model" / "trained.safetensors")
    layers = {name.split("layers.")[1].partition(".")[0] for name in moved if "language_model.layers" in name}
    assert layers == {"0", "3"} and any("projector" in name for name in moved)


def test_rates_and_estimates_know_the_ends(tmp_path):
    recipe = deep_recipe(tmp_path, train=["language.ends", "language.embeddings"], learning_rates={"language.embeddings": 1e-9})
    boda.train(recipe, tmp_path / "run", stage="ends", quiet=True)
    start = whole_weights(recipe, tmp_path / "run")
    for name, tensor in load_file(tmp_path / "run" / "stages" / "ends" / "model" / "trained.safetensors").items():
        change = float((tensor - start[name]).abs().max())
        assert change < 1e-7 if "layers" not in name else change > 1e-3
    recipe["stages"][0]["learning_rates"] = {"language.ends": 1e-9}
    boda.train(recipe, tmp_path / "other", stage="ends", quiet=True)
    for name, tensor in load_file(tmp_path / "other" / "stages" / "ends" / "model" / "trained.safetensors").items():
        change = float((tensor - start[name]).abs().max())
        assert change < 1e-7 if "layers" in name else change > 1e-3
    shown = {stage: inspect(recipe, stage=stage).values for stage in ("ends", "align")}
    assert shown["ends"]["time"]["teraflop_a_step"] < 0.6 * shown["align"]["time"]["teraflop_a_step"]
    assert shown["ends"]["memory"]["activations"] < 0.6 * shown["align"]["memory"]["activations"]


def test_what_is_left_out_is_not_counted():
    model = model_of("llama", LAYERS, None)
    open_parts(model, ["language.ends"], None, 0)
    layer = sum(parameter.numel() for parameter in decoder_layers(model.base_model)[0].parameters() if parameter.ndim > 1)
    assert estimate._matrices(model.base_model) == 2 * layer
    assert len(left_out(model)) > 3 * 9


@pytest.mark.parametrize("other", ["language", "language.lora"])
def test_ends_beside_the_whole_contradict_each_other(other):
    block = {"name": "a", "train": ["language.ends", other], "data": [{"path": "a"}], "batch_size": 1, "learning_rate": 1e-3}
    with pytest.raises(ValueError, match=f"leaves the layers between the ends out of the stage, and {other} trains them"):
        Stage(**block | ({"lora": {"rank": 2, "alpha": 2.0}} if other.endswith("lora") else {}))


def test_a_model_of_two_layers_has_nothing_between(tmp_path):
    recipe = deep_recipe(tmp_path)
    recipe["model"]["language"]["num_hidden_layers"] = 2
    with pytest.raises(BodaError, match="the model has 2 layers, so none lies between its ends"):
        boda.train(recipe, tmp_path / "run", quiet=True)
