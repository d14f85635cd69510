"""Every shipped recipe runs: two steps of each stage with tiny backbones of the same families and small data of the same format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import boda
from boda.data.drawn.shapes import draw
from boda.errors import BodaError
from boda.models.generate import generate
from boda.recipe import load_recipe, recipe_names
from tests import tiny

# Which tiny family stands in for what a recipe names.
BACKBONES = {
    "openai/clip-vit-large-patch14-336": lambda: tiny.vision_folder("clip"),
    "google/siglip2-so400m-patch14-384": lambda: tiny.vision_folder("siglip"),
    "naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-0.5B": lambda: tiny.language_folder("llama"),
    "naver-hyperclovax/HyperCLOVAX-SEED-Text-Instruct-1.5B": lambda: tiny.language_folder("llama"),
    "maywell/Synatra-7B-v0.3-dpo": lambda: tiny.language_folder("synatra"),
}


def small_data(source: str | None, folder: Path) -> list[dict]:
    """A few rows of the same format."""
    if source == "llava":
        path = Path(tiny.llava_file(folder, 8, turns=(1, 2), text_only=0.25))
        return [{"source": "llava", "path": str(path), "images": str(path.parent / "images")}]
    if source == "alpaca":
        rows = [
            {"instruction": f"{number}에 하나를 더하면?", "input": "", "output": f"{number + 1}입니다."} for number in range(8)
        ]
        (folder / "alpaca.json").write_text(json.dumps(rows), encoding="utf-8")
        return [{"source": "alpaca", "path": str(folder / "alpaca.json")}]
    assert source == "messages", f"no small data for source {source}"
    return [{"source": "messages", "path": str(draw(folder, 4, 0, "drawn"))}]


def shrunk(name: str, folder: Path) -> dict:
    """Overrides that make a shipped recipe run on two cores in seconds and change nothing else."""
    recipe = load_recipe(name)
    changes: dict = {"precision": "fp32"}
    for part in ("vision", "language"):
        chosen = getattr(recipe.model, part)
        if isinstance(chosen, str):
            changes[f"model.{part}"] = str(BACKBONES[chosen]())
    for stage in recipe.stages:
        place = f"stages.{stage.name}"
        (folder / stage.name).mkdir()
        sources = dict.fromkeys(block.source for block in stage.data)
        changes[f"{place}.data"] = [row for source in sources for row in small_data(source, folder / stage.name)]
        changes[f"{place}.max_steps"] = 2
        changes[f"{place}.batch_size"] = 4
        changes[f"{place}.validation"] = None
    return changes


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_runs(name: str, tmp_path: Path):
    folder = boda.train(name, out=tmp_path / "run", overrides=shrunk(name, tmp_path), quiet=True)

    recipe = load_recipe(name)
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [(record["stage"], record["step"]) for record in records if "loss" in record]
    assert steps == [(stage.name, step) for stage in recipe.stages for step in (1, 2)]
    assert all(record["trained_tokens"] > 0 for record in records if "loss" in record)

    model, processor = boda.load(folder, dtype=None, device="cpu")
    question = [
        {
            "role": "user",
            "content": [{"type": "image", "image": tiny.random_picture(0)}, {"type": "text", "text": "무엇인가요?"}],
        }
    ]
    assert isinstance(generate(model, processor, [question], max_new_tokens=4)[0], str)
    assert json.loads((folder / "boda.json").read_text(encoding="utf-8"))["generation"] == recipe.generation.model_dump()


def test_new_tower_with_batch_normalisation_is_refused(tmp_path: Path):
    changes = shrunk("demo", tmp_path)
    changes["model.vision"] = {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"
    }  # fmt: skip
    with pytest.raises(BodaError, match="normalises by the batch"):
        boda.train("demo", out=tmp_path / "run", overrides=changes, quiet=True)
