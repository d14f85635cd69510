"""Every shipped recipe runs: two steps of each stage with tiny backbones of the same families and small data of the same format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import boda
from boda.errors import BodaError
from boda.models.generate import generate
from boda.recipe import load_recipe, recipe_names
from tests import tiny
from tests.small_recipes import shrunk
from tests.support import records


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_runs(name: str, tmp_path: Path):
    folder = boda.train(name, out=tmp_path / "run", overrides=shrunk(name, tmp_path), quiet=True)

    recipe = load_recipe(name)
    steps = [(record["stage"], record["step"]) for record in records(tmp_path / "run")]
    assert steps == [(stage.name, step) for stage in recipe.stages for step in (1, 2)]
    assert all(record["trained_tokens"] > 0 for record in records(tmp_path / "run"))
    info = json.loads((folder / "boda.json").read_text(encoding="utf-8"))
    assert info["kind"] == recipe.model.kind
    assert recipe.model.kind == "clip" or info["generation"] == recipe.generation.model_dump()
    drawn = [block.source == "drawn" for stage in recipe.stages for block in stage.data]
    assert not all(drawn) or {block["licence"] for block in info["data"]} == {"Apache-2.0 (drawn by Boda)"}
    config = (folder / "config.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in config and str(tiny.tiny_root()) not in config  # where its parts lay is nobody's business
    for part, maker in recipe.model.recipes.items():
        stages = [stage.name for stage in load_recipe(maker).stages]
        trained = records(tmp_path / "run" / "parts" / maker)
        assert [(record["stage"], record["step"]) for record in trained] == [
            (stage, step) for stage in stages for step in (1, 2)
        ]
        assert list(info["parts"][part]["stages"]) == stages

    model, processor = boda.load(folder, dtype=None, device="cpu")
    if recipe.model.kind == "clip":
        inputs = processor(text=["사과", "배"], images=[tiny.random_picture(0)], return_tensors="pt", padding=True)
        logits = model(**inputs.to(model.dtype)).logits_per_image
        assert logits.shape == (1, 2) and logits.isfinite().all()
        return
    content = [{"type": "text", "text": "무엇인가요?"}]
    if recipe.model.kind != "language":
        content.insert(0, {"type": "image", "image": tiny.random_picture(0)})
    assert isinstance(generate(model, processor, [[{"role": "user", "content": content}]], max_new_tokens=4)[0], str)


def test_new_tower_with_batch_normalisation_is_refused(tmp_path: Path):
    changes = shrunk("mini-vlm", tmp_path)
    changes["model.language"] = str(tiny.language_folder("llama"))
    changes["model.vision"] = {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"
    }  # fmt: skip
    with pytest.raises(BodaError, match="normalises by the batch"):
        boda.train("mini-vlm", out=tmp_path / "run", overrides=changes, quiet=True)
