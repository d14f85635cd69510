"""Whole contrastive runs: rows, processes and interruptions change nothing; stages hand over; the folder is what was trained."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import boda
from boda.models.pairing import image_vectors, pooled
from boda.recipe import load_recipe
from boda.train.build import attach_stage, build, get_tokenizer
from boda.train.inspect import inspect
from boda.train.stages import train
from tests import tiny
from tests.pair_recipes import pair_recipe
from tests.support import assert_same_run, records, trained_tensors, validations

STAGES = [  # each says all of what it trains: a whole pair, a locked image tower, adapters on both
    {"name": "both", "train": ["vision", "text", "logit_scale"], "validation": 0.25, "eval_steps": 2, "save_steps": 2}
    | {"learning_rate": 1e-4},
    {"name": "lit", "train": ["text", "logit_scale"], "max_steps": 2, "validation": None},
    {"name": "adapt", "train": ["vision.lora", "text.lora"], "lora": {"rank": 2, "alpha": 4}, "max_steps": 2},
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return pair_recipe(tmp_path_factory.mktemp("data"), STAGES, dropout=0.0, contrast="sigmoid")


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    """The run that all others must equal: one process, steps of several rows, no dropout."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(recipe, out, quiet=True)
    return out


def test_the_log_tells_how_it_goes(run):
    assert [record["trained_tokens"] for record in records(run)][:2] == [10, 8]  # pairs; three quarters of 24 are an epoch
    for record in validations(run):
        assert 0 <= record["image_to_text_r1"] <= 1 and 0 <= record["text_to_image_r1"] <= 1
    assert [record["step"] for record in validations(run)] == [2, 4]


def test_one_row_a_step_is_several(recipe, run, tmp_path):
    train(recipe, tmp_path / "run", quiet=True, overrides={"stages.*.row_length": 4096})
    assert_same_run(tmp_path / "run", run, 1e-3)  # a key's bias has no gradient but rounding errors: whole steps to Adam


def test_two_processes_are_one(recipe, run, tmp_path):
    """All of both processes' pairs are told apart, and the scale's gradient counts once."""
    train(recipe, tmp_path / "run", processes=2, quiet=True)
    assert_same_run(tmp_path / "run", run, 1e-3)  # a key's bias has no gradient but rounding errors: whole steps to Adam


def test_resumed_is_uninterrupted(recipe, run, tmp_path):
    """Bit for bit, from a checkpoint in the middle of the first stage."""
    shutil.copytree(run, tmp_path / "run")
    for gone in ("model", "stages/both/model", "stages/both/checkpoints/step-4", "stages/lit", "stages/adapt"):
        shutil.rmtree(tmp_path / "run" / gone)
    train(recipe, tmp_path / "run", quiet=True)
    given, expected = trained_tensors(tmp_path / "run"), trained_tensors(run)
    assert given.keys() == expected.keys() and all(torch.equal(given[name], expected[name]) for name in expected)


def test_each_stage_trains_what_it_names(run):
    tensors = trained_tensors(run)
    parts = {name.split("/")[0]: set() for name in tensors}
    for name in tensors:
        stage, _, rest = name.partition("/")
        parts[stage].add(rest.rpartition("/")[2].removeprefix("base_model.model.").split(".")[0])
    towers = {"vision_model", "visual_projection", "text_model", "text_projection"}
    assert parts["both"] == towers | {"logit_scale", "logit_bias"}
    assert parts["lit"] == {"text_model", "text_projection", "logit_scale", "logit_bias"}
    assert parts["adapt"] == {"vision_model", "text_model"} and all(".lora_" in n for n in tensors if n.startswith("adapt/"))


@torch.no_grad()
def test_the_folder_is_what_was_trained(run):
    """... adapters merged: the live model with its adapters on sees as the loaded folder does."""
    loaded = load_recipe(run / "recipe.yaml")
    built = build(loaded, get_tokenizer(loaded, run, iter(())), run, loaded.stages[:2], torch.device("cpu"))
    attach_stage(built, loaded.stages[2], run / "stages" / "adapt" / "model")
    model, processor = boda.load(run / "model", device="cpu", dtype=torch.float32)
    inputs = processor(text=["빨간 사과", "하늘을 나는 새"], images=[tiny.random_picture(5)], return_tensors="pt", padding=True)
    seen = image_vectors(built.model, inputs["pixel_values"])
    torch.testing.assert_close(pooled(model.get_image_features(inputs["pixel_values"])), seen, rtol=1e-4, atol=1e-5)
    words = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    read = pooled(built.model.get_text_features(**words))
    torch.testing.assert_close(pooled(model.get_text_features(**words)), read, rtol=1e-4, atol=1e-5)
    last = load_file(run / "stages" / "lit" / "model" / "trained.safetensors")
    assert torch.equal(model.logit_bias, last["logit_bias"]) and torch.equal(model.logit_scale, last["logit_scale"])
    info = json.loads((run / "model" / "boda.json").read_text(encoding="utf-8"))
    assert info["kind"] == "clip" and info["merge"]["largest_relative_difference"] < 1e-4


def test_inspect_says_what_a_step_has(recipe):
    report = inspect(recipe, stage="lit")
    values = report.values
    assert values["rows"]["pairs_a_step"] == 10 and values["rows"]["saved_from_padding"] > 0
    assert values["parts"]["vision"]["trained"] == 0 and values["parts"]["text"]["trained"] > 0
    assert values["samples"][0]["text"].startswith("[그림] ⟦") and values["samples"][0]["text"].endswith("⟧")
    assert values["memory"]["total"] > 0 and values["time"]["teraflop_a_step"] > 0
    report.show()
