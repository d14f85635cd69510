"""A language model trained alone, and as the part of another recipe: what the folders are, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import boda
from boda.cli import app
from boda.errors import BodaError
from boda.recipe import load_recipe
from boda.train.finished import merge
from boda.train.inspect import inspect
from tests import tiny
from tests.support import language_recipe, records, tiny_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with `lm.yaml` and `vlm.yaml`, whose language model is the first's, and the finished run of the second."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "lm.yaml").write_text(yaml.safe_dump(language_recipe(folder), allow_unicode=True), encoding="utf-8")
    seeing = tiny_recipe(folder / "seeing", [{"name": "align", "train": ["connector", "language"], "max_steps": 2}], {"n": 8})
    seeing["model"]["language"] = {"recipe": "lm.yaml"}
    (folder / "vlm.yaml").write_text(yaml.safe_dump(seeing, allow_unicode=True), encoding="utf-8")
    boda.train(folder / "vlm.yaml", folder / "run", quiet=True)
    return folder


@pytest.fixture(scope="module")
def model(folder) -> Path:
    """The finished language model."""
    return folder / "run" / "parts" / "lm" / "model"


def boda_command(*words: str):
    return CliRunner().invoke(app, list(words))


def test_the_loss_falls(model):
    losses = [record["loss"] for record in records(model.parent) if record["stage"] == "read"]
    assert len(losses) == 24 and sum(losses[-4:]) < 0.8 * sum(losses[:4])


@torch.no_grad()
def test_stock_transformers_loads_it(model):
    language, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    assert type(language).__name__ == "LlamaForCausalLM" and "generation %}" not in tokenizer.chat_template
    text = tokenizer.apply_chat_template([{"role": "user", "content": "네?"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n네?<|im_end|>\n<|im_start|>assistant\n"
    ends = tokenizer.convert_ids_to_tokens(language.generation_config.eos_token_id)
    assert ends == ["<|endoftext|>", "<|im_end|>"] and language.generation_config.pad_token_id == tokenizer.pad_token_id
    info = json.loads((model / "boda.json").read_text(encoding="utf-8"))
    assert info["kind"] == "language" and info["data"][0]["rows"] > 40 and info["merge"]["largest_relative_difference"] < 1e-3
    # What it saw is likelier than the same words in no order.
    first = tokenizer(tiny.korean_lines()[0], return_tensors="pt").input_ids
    loss = lambda ids: float(language(input_ids=ids, labels=ids).loss)  # noqa: E731
    assert loss(first) < loss(first.flip(1))


def test_chat_and_eval_without_pictures(model, folder, tmp_path):
    answered = boda_command("--json", "chat", str(model), "네?")
    assert answered.exit_code == 0 and set(json.loads(answered.stdout.splitlines()[-1])) == {"answer"}
    picture = tmp_path / "picture.png"
    tiny.random_picture(0).save(picture)
    refused = boda_command("chat", str(model), "--image", str(picture), "무엇인가요?")
    assert refused.exit_code == 1 and "is a language model and sees no pictures" in refused.output
    asked = [{"messages": [{"role": "user", "content": "네?"}, {"role": "assistant", "content": "네."}]}] * 2
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    scored = boda_command(
        "--json", "eval", str(model), "--tasks", f"questions:{tmp_path / 'asked.jsonl'}", "--out", str(tmp_path / "eval")
    )
    assert scored.exit_code == 0, scored.output
    (score,) = json.loads(scored.stdout.splitlines()[-1])["tasks"].values()
    assert score["n"] == 2 and score["failed"] == 0


def test_merge_writes_it_again(model, tmp_path):
    written, difference = merge(model.parent, tmp_path / "again")
    assert difference < 1e-4
    assert (written / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_a_picture_is_no_row_for_it(folder, tmp_path):
    recipe = language_recipe(tmp_path)
    path = tiny.llava_file(tmp_path, 4, text_only=0.0)
    recipe["stages"][0]["data"] = [{"path": str(path), "images": str(tmp_path / "images")}]
    with pytest.raises(BodaError, match="the row has a picture and the model takes none"):
        boda.train(recipe, tmp_path / "run", quiet=True)


def test_its_model_is_the_other_recipes_part(folder, model):
    """The vision-language model has its tokenizer, begins from its weights, and says where it is from."""
    seeing, processor = boda.load(folder / "run" / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()
    info = json.loads((folder / "run" / "model" / "boda.json").read_text(encoding="utf-8"))
    assert info["recipe"]["model"]["language"] == {"recipe": "lm.yaml"}
    assert info["parts"]["language"]["kind"] == "language" and info["parts"]["language"]["data"][0]["rows"] > 40
    before, after = AutoModelForCausalLM.from_pretrained(model).state_dict(), seeing.state_dict()
    apart = [
        float((after[f"model.language_{name}"] - value).abs().max()) for name, value in before.items() if name[:6] == "model."
    ]
    assert len(apart) > 10 and 0 < max(apart) < 0.01  # two steps from it


def test_a_second_call_trains_nothing_and_merge_finds_the_part(folder, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.is_file()}
    boda.train(folder / "vlm.yaml", folder / "run", quiet=True, processes=2)
    assert {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.is_file()} == before
    written, _ = merge(folder / "run", tmp_path / "again")
    assert (written / "model.safetensors").read_bytes() == (folder / "run/model/model.safetensors").read_bytes()


def test_a_part_whose_recipe_changed_is_not_used(folder, tmp_path):
    (tmp_path / "seeing").symlink_to(folder / "seeing")
    changed = yaml.safe_load((folder / "lm.yaml").read_text(encoding="utf-8"))
    changed["stages"][0]["learning_rate"] = 5e-3
    (tmp_path / "lm.yaml").write_text(yaml.safe_dump(changed, allow_unicode=True), encoding="utf-8")
    (tmp_path / "vlm.yaml").write_text((folder / "vlm.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(BodaError, match=r"parts/lm holds a run of another recipe.*\n.*stages.read.learning_rate"):
        boda.train(tmp_path / "vlm.yaml", folder / "run", quiet=True)


def test_inspect_builds_the_part_untrained_and_says_so(folder):
    report = inspect(folder / "vlm.yaml")
    assert "lm.yaml" in report.values["language"] and "untrained" in report.values["language"]
    assert report.values["template"]["name"] == "chatml"
    vocabulary = len(AutoTokenizer.from_pretrained(folder / "run" / "parts" / "lm" / "model"))
    assert report.values["parts"]["language.embeddings"]["parameters"] == vocabulary * 32
    alone = inspect(folder / "lm.yaml", stage="talk")
    assert alone.values["language"] is None and alone.values["parts"]["language.lora"]["trained"] > 0
    assert {token["token"] for token in alone.values["stop_tokens"]} == {"<|endoftext|>", "<|im_end|>"}
    assert alone.values["memory"]["total"] > 0 and alone.values["time"]["teraflop_a_step"] > 0


ROUND = "model.language.recipe goes round in a circle: self.yaml -> self.yaml"
ERRORS = {
    "unknown name": ({"recipe": "mini-lmm"}, "model.language.recipe: no recipe is called 'mini-lmm'"),
    "no such file": ({"recipe": "nowhere.yaml"}, "model.language.recipe: no recipe file at .*nowhere.yaml"),
    "another kind": (
        {"recipe": "vlm.yaml"},
        "model.language.recipe: vlm.yaml makes a vlm; a recipe of kind: language is needed",
    ),
    "itself": ({"recipe": "self.yaml"}, ROUND),
    "keys beside it": ({"recipe": "lm.yaml", "hidden_size": 8}, r"model.language: \{recipe: NAME\} .* takes no other keys"),
}


@pytest.mark.parametrize("language,words", ERRORS.values(), ids=ERRORS)
def test_recipes_that_cannot_be_a_part(folder, tmp_path, language, words):
    itself = language_recipe(tmp_path)
    itself["model"] = {"kind": "language", "language": {"recipe": "self.yaml"}}
    (folder / "self.yaml").write_text(yaml.safe_dump(itself, allow_unicode=True), encoding="utf-8")
    recipe = yaml.safe_load((folder / "vlm.yaml").read_text(encoding="utf-8"))
    recipe["model"]["language"] = language
    (folder / "other.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    for call in (lambda: boda.train(folder / "other.yaml", tmp_path / "run"), lambda: inspect(folder / "other.yaml")):
        with pytest.raises(BodaError, match=words):
            call()
    assert not (tmp_path / "run").exists()


def test_a_config_in_place_of_a_part_takes_its_place_whole(folder):
    changed = {
        "base": str(folder / "vlm.yaml"),
        "model": {"language": {"model_type": "llama"}, "tokenizer": {"vocab_size": 300}},
    }
    assert load_recipe(changed).model.language == {"model_type": "llama"}
    with pytest.raises(BodaError, match=r"model.tokenizer: the model of lm.yaml has its own; .* tokenizer: null"):
        load_recipe(folder / "vlm.yaml", {"model.tokenizer.vocab_size": 300})
