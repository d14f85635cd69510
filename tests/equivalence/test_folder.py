"""A model folder: loads where Boda is not, answers the same, keeps its ties, and says what ends an answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import boda
from boda.models.generate import generate
from boda.recipe import load_recipe
from boda.train.build import attach_stage, build, get_tokenizer
from tests import tiny
from tests.support import tiny_recipe

# language, connector, vision, stock class
MODELS = {
    "stock, tied": ("llama", "mlp2x_gelu", "clip", True),
    "stock, one matrix": ("gpt_neox", "linear", "siglip", True),
    "stock, bf16": ("llama3", "mlp2x_gelu", "vit", True),
    "ldpv2": ("llama", "ldpv2", "clip", False),
    "a plane of features": ("qwen3", "mlp2x_gelu", "convnext", False),
    "places": ("qwen3", "placed_mlp", "convnext", False),
    "registers": ("exaone4", "linear", "dinov2_registers", False),
    "a scaled head": ("hyperclovax", "mlp2x_gelu", "clip", False),
    "capped, tied": ("gemma2", "mlp2x_gelu", "clip_vision", False),
    "tied under another name": ("gpt_neox_tied", "mlp2x_gelu", "clip", False),
}
STAGE = {"name": "align", "train": ["connector"], "max_steps": 1, "batch_size": 4}
EXPECTED_ENDS = {"llama": "<|im_end|>", "gpt_neox": "<|endoftext|>", "hyperclovax": "<|im_end|>", "qwen3": "<|im_end|>"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """name -> finished folder of a run of one step."""
    found = {}
    for number, (name, (language, connector, vision, _)) in enumerate(MODELS.items()):
        place = tmp_path_factory.mktemp(f"model{number}")
        recipe = tiny_recipe(place, [STAGE], {"n": 6}, language, connector, precision="bf16" if "bf16" in name else "fp32")
        recipe["model"]["vision"] = str(tiny.vision_folder(vision))
        found[name] = boda.train(recipe, place / "run", quiet=True)
    return found


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    tiny.random_picture(7).save(path)
    return path


@pytest.fixture(scope="module")
def elsewhere(folders, picture, tmp_path_factory):
    """name -> what the folder gives in a process where `import boda` fails."""
    place = tmp_path_factory.mktemp("elsewhere")
    environment = {**os.environ, "HF_MODULES_CACHE": str(place / "modules"), "PYTHONPATH": ""}
    program = Path(__file__).parent / "load_without_boda.py"
    source = str(Path(boda.__file__).parents[1])
    command = [sys.executable, "-I", str(program), source, str(picture), str(place / "found.pt"), *map(str, folders.values())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(place / "found.pt")
    return {name: found[str(folder)] for name, folder in folders.items()}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_folder_loads_without_boda(name, folders, elsewhere, picture):
    language, _, _, is_stock = MODELS[name]
    there = elsewhere[name]
    assert there["class"] == ("LlavaForConditionalGeneration" if is_stock else "BodaForConditionalGeneration")
    assert there["module"].startswith("transformers." if is_stock else "transformers_modules.")
    assert there["tied"] == (language in tiny.TIED_FAMILIES)
    model, processor = boda.load(folders[name], dtype=torch.float32)
    from PIL import Image

    content = [{"type": "image", "image": Image.open(picture)}, {"type": "text", "text": "이것은 무엇인가요?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert torch.equal(inputs["input_ids"][0], there["input_ids"])
    assert torch.equal(model(**inputs).logits[0], there["logits"])
    assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False)[0], there["answer"])
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == there["tied"]


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_loaded_is_what_was_trained(name, folders, picture):
    """boda.load gives the model that the run's last step left."""
    run = folders[name].parent
    recipe = load_recipe(run / "recipe.yaml")
    built = build(recipe, get_tokenizer(recipe, run, iter(())), run, [], torch.device("cpu"))
    attach_stage(built, recipe.stages[0], run / "stages" / "align" / "model")
    model, processor = boda.load(folders[name], dtype=torch.float32)
    given, expected = model.state_dict(), built.model.state_dict()
    assert given.keys() == expected.keys()
    for key, tensor in expected.items():
        written = tensor.bfloat16().float() if "bf16" in name else tensor
        assert torch.equal(given[key], written), key
    before, after = built.assembled.tokenizer.get_vocab(), processor.tokenizer.get_vocab()
    assert before.items() <= after.items() and set(after) - set(before) <= {"<pad>"}


@pytest.mark.parametrize("name", MODELS)
def test_what_a_folder_says(name, folders):
    folder = folders[name]
    language, connector, _, is_stock = MODELS[name]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert "boda" not in list(values_of(config))  # the attention that trains is no attention to load with
    assert not any("attn_implementation" in key for key in keys_of(config))
    assert ("auto_map" in config) != is_stock and (folder / "vlm.py").exists() != is_stock
    assert config["dtype"] == ("bfloat16" if "bf16" in name else "float32")
    with safe_open(folder / "model.safetensors", "pt") as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118  (no mapping)
        assert kinds == {"BF16" if "bf16" in name else "F32"}
        rows = config["text_config"]["vocab_size"]
        tables = [key for key in file.keys() if file.get_slice(key).get_shape()[0] == rows and "bias" not in key]  # noqa: SIM118
        assert len(tables) == (1 if language in tiny.TIED_FAMILIES else 2)
    generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert generation["pad_token_id"] == tokenizer.pad_token_id not in generation["eos_token_id"]
    assert max(len(tokenizer), tokenizer.pad_token_id + 1) <= rows
    if language in EXPECTED_ENDS:
        assert tokenizer.convert_ids_to_tokens(generation["eos_token_id"]) == [EXPECTED_ENDS[language]]
    info = json.loads((folder / "boda.json").read_text(encoding="utf-8"))
    assert info["kind"] == "vlm" and info["connector"] == connector and info["data"][0]["rows"] == 6
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert "{% generation %}" not in template and "{%- generation" not in template


def values_of(config):
    for value in config.values():
        yield from values_of(value) if isinstance(value, dict) else [value] if not isinstance(value, list) else []


def keys_of(config):
    for key, value in config.items():
        yield key
        if isinstance(value, dict):
            yield from keys_of(value)


def test_a_pad_token_that_is_new_has_a_row(tmp_path):
    """A model whose pad token ends its answers gets one of its own; where its table is full, with a row."""
    full = tmp_path / "full"
    language = AutoModelForCausalLM.from_pretrained(tiny.language_folder("granite"))
    tokenizer = AutoTokenizer.from_pretrained(tiny.language_folder("granite"))
    language.resize_token_embeddings(len(tokenizer))
    language.save_pretrained(full)
    tokenizer.save_pretrained(full)
    recipe = tiny_recipe(tmp_path, [STAGE], {"n": 6})
    recipe["model"]["language"] = str(full)
    model, processor = boda.load(boda.train(recipe, tmp_path / "run", quiet=True), dtype=torch.float32)
    pad, ends = processor.tokenizer.pad_token_id, model.generation_config.eos_token_id
    assert pad not in ends and pad < model.get_input_embeddings().weight.shape[0] == model.lm_head.weight.shape[0]
    questions = [[{"role": "user", "content": text}] for text in ("네?", "오늘은 무슨 날인가요? 알려 주세요.")]
    answers = generate(model, processor, questions, max_new_tokens=6)
    assert answers == [generate(model, processor, [question], max_new_tokens=6)[0] for question in questions]
