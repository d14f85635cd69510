"""The models that come with Boda: small and safe files, made by the shipped recipes, that answer with and without Boda."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

import boda
import boda.evaluate
from boda.cli import app
from boda.data.drawn.canvas import paint
from boda.data.drawn.samples import read, scene_facts
from boda.data.drawn.sentences import noun_phrase
from boda.evaluate.tasks.questions import of_samples
from boda.models.loading import SHIPPED
from boda.recipe import load_recipe, recipe_difference
from tests import equivalence

MADE_BY = {"mini": "mini-vlm", "mini-clip": "mini-clip"}
MOST_BYTES = 12_000_000  # all of them together
KINDS_OF_FILES = {".safetensors", ".json", ".jinja", ".py", ".txt", ".md"}
PATHS = re.compile(rb"/(work|tmp|root|home|Users|mnt)\b")
IDLE = (".save_steps", ".eval_steps", ".workers")  # knobs that weights do not depend on
ONE_OBJECT = {"layout": "one", "kind": "colour"}


@pytest.fixture(scope="module", params=SHIPPED)
def name(request) -> str:
    if not SHIPPED[request.param].is_dir():
        pytest.skip(f"no weights at {SHIPPED[request.param]}")
    return request.param


@pytest.fixture(scope="module")
def folder(name) -> Path:
    return SHIPPED[name]


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A drawn scene of one object."""
    path = tmp_path_factory.mktemp("picture") / "scene.png"
    next(read("questions", 1, 77, ONE_OBJECT)).images[0].picture().save(path)
    return path


def test_every_name_has_its_weights_and_its_recipe():
    assert set(SHIPPED) == set(MADE_BY)
    every = [path for folder in SHIPPED.values() for path in folder.rglob("*") if "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in every if path.is_file()) <= MOST_BYTES


def test_files_are_small_and_nothing_in_them_runs_when_read(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.suffix for path in files} <= KINDS_OF_FILES, "weights are safetensors; a pickle could run code"
    assert [path.name for path in files if path.suffix == ".safetensors"] == ["model.safetensors"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"BF16"}  # noqa: SIM118  (no mapping)


def test_no_file_tells_where_it_was_made(folder):
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            if path.suffix == ".safetensors":
                content = content[: 8 + int.from_bytes(content[:8], "little")]  # its header
            found = PATHS.search(content)
            assert found is None, f"{path.name}: {content[max(0, found.start() - 60) : found.end() + 60]!r}"


def test_it_was_made_by_the_shipped_recipe_alone(name, folder):
    """Recipe, seed and steps in `boda.json` are those of the recipe as it is shipped, and so of its parts."""
    left = [(json.loads((folder / "boda.json").read_text(encoding="utf-8")), load_recipe(MADE_BY[name]))]
    while left:
        info, recipe = left.pop()
        lines = recipe_difference(load_recipe(info["recipe"]), recipe)
        assert [line for line in lines if not line.partition(": ")[0].endswith(IDLE)] == []
        assert info["recipe"]["seed"] == recipe.seed and info["kind"] == recipe.model.kind
        assert {stage: said["steps"] for stage, said in info["stages"].items()} == {s.name: s.max_steps for s in recipe.stages}
        assert info["data"] and all(block["rows"] > 0 for block in info["data"])
        left += [(info["parts"][part], load_recipe(maker)) for part, maker in recipe.model.recipes.items()]


@torch.no_grad()
def test_stock_transformers_answers_as_boda_does(picture, tmp_path):
    name, folder = "mini", SHIPPED["mini"]
    program = Path(equivalence.__file__).parent / "load_without_boda.py"
    source = str(Path(boda.__file__).parents[1])
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    command = [sys.executable, "-I", str(program), source, str(picture), str(tmp_path / "found.pt"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    there = torch.load(tmp_path / "found.pt")[str(folder)]
    assert there["class"] == "BodaForConditionalGeneration" and there["module"].startswith("transformers_modules.")

    from PIL import Image

    model, processor = boda.load(name, dtype=torch.float32, device="cpu")
    content = [{"type": "image", "image": Image.open(picture)}, {"type": "text", "text": "이것은 무엇인가요?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert torch.equal(inputs["input_ids"][0], there["input_ids"])
    assert torch.allclose(model(**inputs).logits[0], there["logits"], atol=1e-4)
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False)[0], there["answer"])


def test_chat_answers_in_korean(picture):
    done = CliRunner().invoke(app, ["--json", "chat", "mini", "--image", str(picture), "무슨 색인가요?"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout.splitlines()[-1])["answer"]
    assert re.fullmatch(r"[가-힣][가-힣 .,!?'\"]+", answer), answer


def test_it_sees_colours(tmp_path):
    """A floor that no guess reaches: forty single objects in a dozen colours. The figures are in benchmarks/mini.md."""
    samples = list(islice(read("questions", 200, 77, ONE_OBJECT), 40))
    assert len(samples) == 40 and len({sample.messages[1].text for sample in samples}) > 8
    found = boda.evaluate.run("mini", [of_samples(samples, lambda: [], "colours")], tmp_path / "eval", quiet=True)["colours"]
    assert found["n"] == 40 and found["majority"] < 0.3 and found["score"] >= 0.85


def test_the_pair_model_reads_words_and_finds_objects(tmp_path):
    """Floors that no guess reaches: of two hundred words the one that is written, of nine places the one where an object lies."""
    found = boda.evaluate.run("mini-clip", ["drawn-pairs"], tmp_path / "eval", quiet=True)["drawn-pairs"]["groups"]
    assert found["word, font seen"]["top-1"]["score"] >= 0.88 and found["word, font held out"]["top-1"]["score"] >= 0.6
    assert found["tile, pair never seen together"]["heat map"]["score"] >= 0.8


def test_a_picture_is_classified(tmp_path):
    facts = next(scene_facts("one", "seen", 77, number) for number in range(9))
    paint(facts).save(tmp_path / "scene.png")
    right = noun_phrase(facts["objects"][0], full=False)
    labels = [right, *(name for name in ("빨간색 별", "파란색 네모", "초록색 세모") if name != right)]
    done = CliRunner().invoke(
        app, ["--json", "classify", "mini-clip", str(tmp_path / "scene.png"), *labels, "--template", "{}"]
    )
    assert done.exit_code == 0, done.output
    scores = json.loads(done.stdout.splitlines()[-1])["scores"]
    assert max(scores, key=scores.get) == right and scores[right] > 0.6
