"""A vision tower taken from another recipe's pair model: by the recipe, and by the folder it left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import boda
from boda.errors import BodaError
from boda.models.assemble import load_tower
from boda.recipe import load_recipe
from boda.train.inspect import inspect
from tests.pair_recipes import pair_recipe
from tests.support import records, tiny_recipe

CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4}


@pytest.fixture(scope="module", params=["clip", "convnext"])
def folder(request, tmp_path_factory) -> Path:
    """A folder with `pair.yaml` and `vlm.yaml`, whose tower is the first's, and the finished run of the second."""
    folder = tmp_path_factory.mktemp(request.param)
    change = {} if request.param == "clip" else {"vision": CONVNEXT, "image_size": 32}
    pair = pair_recipe(folder / "pair", [{"name": "pair", "train": ["vision", "text"], "max_steps": 2}], **change)
    (folder / "pair.yaml").write_text(yaml.safe_dump(pair, allow_unicode=True), encoding="utf-8")
    seeing = tiny_recipe(
        folder / "seeing", [{"name": "align", "train": ["connector"], "max_steps": 1}], {"n": 8}, connector="linear"
    )
    seeing["model"] |= {"vision": {"recipe": "pair.yaml"}, "vision_layer": -1}
    (folder / "vlm.yaml").write_text(yaml.safe_dump(seeing, allow_unicode=True), encoding="utf-8")
    boda.train(folder / "vlm.yaml", folder / "run", quiet=True)
    return folder


def test_its_tower_is_the_other_recipes(folder):
    """Every weight of it, and it is said where it is from."""
    model, pair = folder / "run" / "model", folder / "run" / "parts" / "pair" / "model"
    used = boda.load(model, dtype=torch.float32)[0].model.vision_tower.state_dict()
    made = boda.load(pair, dtype=torch.float32)[0].vision_model.state_dict()
    assert len(used) > 5 and set(used) <= set(made)
    assert all(torch.equal(value, made[name]) for name, value in used.items())
    info = json.loads((model / "boda.json").read_text(encoding="utf-8"))
    assert info["parts"]["vision"]["kind"] == "clip" and info["recipe"]["model"]["vision"] == {"recipe": "pair.yaml"}
    assert len(records(folder / "run" / "parts" / "pair")) == 2


@torch.no_grad()
def test_a_folder_of_a_pair_is_a_tower(folder):
    """Its features are those of the tower inside the pair, as pictures come to it there."""
    pair = folder / "run" / "parts" / "pair" / "model"
    model, _ = boda.load(pair, dtype=torch.float32)
    tower = load_tower(str(pair), layer=-1)
    pixels = torch.randn(2, 3, tower.image_size, tower.image_size, generator=torch.Generator().manual_seed(0))
    ours = tower.module.float()(pixels, output_hidden_states=True).hidden_states[-1]
    theirs = model.vision_model(pixels, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert tower.image_processor is not None


def test_inspect_builds_the_tower_untrained_and_says_so(folder):
    report = inspect(folder / "vlm.yaml")
    assert report.values["language"].startswith("vision as recipe pair.yaml begins it, untrained")
    tower = boda.load(folder / "run" / "model")[0].model.vision_tower
    assert report.values["parts"]["vision"]["parameters"] == sum(parameter.numel() for parameter in tower.parameters())


def test_what_makes_no_tower_is_refused(folder, tmp_path):
    seeing = yaml.safe_load((folder / "vlm.yaml").read_text(encoding="utf-8"))
    seeing["model"]["vision"] = {"recipe": "mini-lm"}
    with pytest.raises(BodaError, match=r"model\.vision\.recipe: mini-lm makes a language; a recipe of kind: clip is needed"):
        boda.train(seeing, tmp_path / "run", quiet=True)
    seeing["model"]["vision"] = {"recipe": "mini-clip", "image_size": 9}
    with pytest.raises(BodaError, match="names a recipe of kind: clip; it takes no other keys"):
        load_recipe(seeing)


def test_a_tower_in_half_precision_is_trained_by_two_stages(folder, tmp_path):
    """What the first stage trained is fp32, what it did not (a last norm, a pooler) as it was; the second begins with both."""
    model, processor = boda.load(folder / "run" / "parts" / "pair" / "model", dtype=torch.bfloat16)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "half")
    seeing = yaml.safe_load((folder / "vlm.yaml").read_text(encoding="utf-8"))
    stages = [{"train": ["vision", "connector"]}, {"name": "again"}]
    seeing["stages"] = [seeing["stages"][0] | stages[0], stages[1]]
    seeing["model"]["vision"] = str(tmp_path / "half")
    boda.train(seeing, tmp_path / "run", quiet=True)
    assert [record["stage"] for record in records(tmp_path / "run")] == ["align", "again"]
