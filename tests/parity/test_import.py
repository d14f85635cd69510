"""`boda import`: a tiny LLaVA written by hand in each layout gives, imported, the logits that its parts give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, MistralConfig, MistralForCausalLM
from typer.testing import CliRunner

import boda
from boda.cli import app
from boda.train.importing import import_checkpoint
from tests import tiny
from tests.llava_layouts import Llava, llava_config, write_adapter, write_projector, write_transformers, write_whole


def ask(folder: Path, picture: Image.Image):
    """The imported model in fp32 and its inputs for a question about the picture."""
    model, processor = boda.load(folder, device="cpu", dtype=torch.float32)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "무엇인가요?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    return model, processor, inputs


@torch.no_grad()
def assert_same(folder: Path, llava: Llava) -> None:
    """Same logits as the parts, on a text and on a picture."""
    model, processor, seen = ask(folder, tiny.random_picture(3))
    image_id = model.config.image_token_index
    assert int((seen["input_ids"] == image_id).sum()) == llava.tokens
    for inputs in (seen, processor.tokenizer("경복궁은 어디에 있나요?", return_tensors="pt")):
        pixels = inputs.get("pixel_values")
        expected = llava.logits(inputs["input_ids"], image_id, pixels)
        given = model(**inputs).logits[..., : expected.shape[-1]]
        torch.testing.assert_close(given, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def said(folder: Path) -> dict:
    return json.loads((folder / "boda.json").read_text(encoding="utf-8"))["imported"]


@pytest.mark.parametrize("prefix", ["model.", "", "base_model.model.model."])
def test_projector(prefix, tmp_path):
    llava = Llava()
    source = write_projector(llava, tmp_path / "pretrain", prefix)
    out = import_checkpoint(
        source / "mm_projector.bin", tmp_path / "out", vision=str(llava.vision_folder), language=str(llava.language_folder)
    )
    assert_same(out, llava)
    assert (said(out)["layout"], said(out)["chat_template"]) == ("LLaVA projector", "plain")


@pytest.mark.parametrize("connector", ["linear", "mlp2x_gelu", "ldpnetv2"])
def test_projector_with_its_config_beside_it(connector, tmp_path):
    """Tower, language model and kind are what config.json says; without it the kind shows in the keys."""
    llava = Llava(connector)
    config = llava_config(llava, _name_or_path=str(llava.language_folder))
    out = import_checkpoint(write_projector(llava, tmp_path / "a", config=config), tmp_path / "out")
    assert_same(out, llava)
    bare = write_projector(llava, tmp_path / "b")
    parts = {"vision": str(llava.vision_folder), "language": str(llava.language_folder)}
    assert_same(import_checkpoint(bare, tmp_path / "out2", **parts), llava)


def test_adapter(tmp_path):
    llava = Llava()
    source = write_adapter(llava, tmp_path / "llava-v1.5-lora", str(llava.language_folder))
    out = import_checkpoint(source, tmp_path / "out")
    assert_same(out, llava)
    assert said(out)["layout"] == "LLaVA adapter"


def test_adapter_on_a_named_base_and_on_a_whole_llava(tmp_path):
    llava = Llava()
    source = write_adapter(llava, tmp_path / "lora", "/home/trainer/vicuna", safe=False)
    assert_same(import_checkpoint(source, tmp_path / "out", language=str(llava.language_folder), template="vicuna"), llava)

    llava = Llava()
    llava.language["model.norm.weight"] += 0.5  # so that it is not the language model that the tokenizer came from
    whole = write_whole(llava, tmp_path / "whole")
    source = write_adapter(llava, tmp_path / "second", str(whole))
    assert_same(import_checkpoint(source, tmp_path / "out2", template="vicuna"), llava)


# model_type, connector, shards, safetensors, tower inside
WHOLE = {
    "one file": ("llava_llama", "mlp2x_gelu", 1, False, False),
    "sharded, with its tower": ("llava_llama", "mlp2x_gelu", 3, False, True),
    "safetensors": ("llava_llama", "linear", 2, True, False),
    "first LLaVA": ("llava", "linear", 1, False, True),
    "MobileVLM": ("mobilevlm", "ldpnetv2", 1, True, True),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole(name, tmp_path):
    model_type, connector, shards, safe, inside = WHOLE[name]
    llava = Llava(connector)
    if inside:  # a tower that was trained along, other than the one that is named
        llava.vision = {key: value * 1.1 for key, value in llava.vision.items()}
    source = write_whole(llava, tmp_path / "llava-v1.5-tiny", model_type, shards, safe, inside)
    out = import_checkpoint(source, tmp_path / "out")
    assert_same(out, llava)
    assert said(out) == {
        "source": str(source),
        "layout": "LLaVA",
        "vision": str(llava.vision_folder),
        "language": "in the checkpoint",
        "image_fit": "crop",
        "chat_template": "vicuna",
        "chat_template_why": "'v1' in the name llava-v1.5-tiny",
    }


def test_another_language_model(tmp_path):
    """`llava_mistral`: what follows `llava_` is the language model's own type."""
    folder = tmp_path / "base"
    config = MistralConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=720,
        initializer_range=0.15, bos_token_id=1, eos_token_id=2, sliding_window=None,
    )  # fmt: skip
    torch.manual_seed(0)
    MistralForCausalLM(config).save_pretrained(folder)
    tiny.llama2_tokenizer().save_pretrained(folder)
    llava = Llava(language_folder=folder)
    out = import_checkpoint(write_whole(llava, tmp_path / "finetuned", "llava_mistral"), tmp_path / "out")
    assert_same(out, llava)
    assert said(out)["chat_template_why"] == "'mistral' in the name llava_mistral"
    assert boda.load(out, device="cpu")[0].config.text_config.model_type == "mistral"


@pytest.mark.parametrize("language", ["llama2", "llama", "gpt_neox"])
@pytest.mark.parametrize("new", [False, True], ids=["before 4.52", "after"])
def test_transformers(language, new, tmp_path):
    """Both generations of keys, with an own and a tied head and where the parts have other names."""
    llava = Llava(language=language)
    if new and language == "gpt_neox":
        llava.language = {  # as transformers names them: the head is the LLaVA's own
            {"embed_out.weight": "lm_head.weight"}.get(key, key.replace("gpt_neox.", "model.")): value
            for key, value in llava.language.items()
        }
    source = write_transformers(llava, tmp_path / "source", new)
    llava = Llava(language=language)
    out = import_checkpoint(source, tmp_path / "out")
    assert_same(out, llava)
    assert said(out)["chat_template_why"] == "the checkpoint's own"
    _, processor, inputs = ask(out, tiny.random_picture(3))
    text = processor.tokenizer.decode(inputs["input_ids"][0]).replace("<image>", "")
    assert text.endswith("무엇인가요? ASSISTANT:") and "USER: \n" in text


def test_what_boda_writes_is_what_it_imports(tmp_path):
    """A stock folder of Boda's own, keys as this transformers saves them, imports as itself."""
    llava = Llava("linear")
    first = import_checkpoint(write_whole(llava, tmp_path / "llava-v1.5"), tmp_path / "first")
    second = import_checkpoint(first, tmp_path / "second")
    assert said(second)["layout"] == "transformers' LLaVA"
    assert_same(second, llava)
    for name in ("generation_config.json", "chat_template.jinja"):
        assert (second / name).read_text(encoding="utf-8") == (first / name).read_text(encoding="utf-8")


def test_stock_transformers_loads_it(tmp_path):
    llava = Llava()
    out = import_checkpoint(write_whole(llava, tmp_path / "llava-v1.5", vision=True), tmp_path / "out")
    model, processor = AutoModelForImageTextToText.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert type(model).__name__ == "LlavaForConditionalGeneration" and model.dtype == torch.float32
    assert model.config.vision_config.num_hidden_layers == 2  # of 3: the last is not used
    assert model.generation_config.eos_token_id == [processor.tokenizer.eos_token_id]
    result = CliRunner().invoke(app, ["chat", str(out), "max_new_tokens=3", "안녕", "--json"])
    assert result.exit_code == 0 and "answer" in json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_type_of_the_language_model_is_kept(dtype, tmp_path):
    """Half stays half, bit by bit; what is in fp32 beside it is cast."""
    llava = Llava()
    llava.language = {key: value.to(dtype) for key, value in llava.language.items()}
    out = import_checkpoint(write_whole(llava, tmp_path / "llava-v1.5"), tmp_path / "out")
    model, _ = boda.load(out, device="cpu", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    given = model.state_dict()
    assert torch.equal(
        given["model.language_model.layers.1.mlp.up_proj.weight"], llava.language["model.layers.1.mlp.up_proj.weight"]
    )
    assert torch.equal(given["model.multi_modal_projector.linear_1.weight"], llava.connector["first.weight"].to(dtype))


def test_pictures_are_padded_as_llava_does(tmp_path):
    """image_aspect_ratio: pad puts a picture into a square of the mean colour before CLIP's processor sees it."""
    llava = Llava()
    out = import_checkpoint(write_whole(llava, tmp_path / "llava-v1.5", image_aspect_ratio="pad"), tmp_path / "out")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8))
    square = Image.new("RGB", (90, 90), (122, 116, 104))
    square.paste(picture, (0, 25))
    given = ask(out, picture)[2]["pixel_values"]
    crop = import_checkpoint(write_whole(llava, tmp_path / "llava-v1.5-crop"), tmp_path / "out2")
    torch.testing.assert_close(given, ask(crop, square)[2]["pixel_values"])
    assert (said(out)["image_fit"], said(crop)["image_fit"]) == ("pad", "crop")
    assert_same(out, llava)


def test_marks_around_pictures(tmp_path):
    """mm_use_im_start_end: two more tokens, whose embeddings the projector's file holds, on both sides of every picture."""
    llava = Llava()
    config = llava_config(llava, mm_use_im_start_end=True)
    source = write_projector(llava, tmp_path / "llava-v1-pretrain", config=config)
    rows = torch.randn(2, 48)
    torch.save(llava.projector("model.") | {"model.embed_tokens.weight": rows}, source / "mm_projector.bin")
    out = import_checkpoint(source, tmp_path / "out", language=str(llava.language_folder), template="vicuna")
    model, processor, inputs = ask(out, tiny.random_picture(0))
    ids = inputs["input_ids"][0].tolist()
    places = [index for index, token in enumerate(ids) if token == model.config.image_token_index]
    around = processor.tokenizer.convert_ids_to_tokens([ids[places[0] - 1], ids[places[-1] + 1]])
    assert around == ["<im_start>", "<im_end>"] and len(places) == llava.tokens
    table = model.get_input_embeddings().weight
    assert torch.equal(table[processor.tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"])], rows)


NAMED = {
    "llava-v1.5-7b": ("llama2", "vicuna", "'v1' in the name llava-v1.5-7b"),
    "llava-llama-2-13b-chat": ("llama2", "llama-2", "'llama-2' in the name llava-llama-2-13b-chat"),
    "llava-mistral-7b": ("llama2", "mistral", "'mistral' in the name llava-mistral-7b"),
    "KoLLaVA-v1.5-Synatra-7b": ("synatra", "kollava", "'synatra' in the name KoLLaVA-v1.5-Synatra-7b"),
    "finetuned": ("llama", "own", "the language model's own, as no name tells a conversation of LLaVA's"),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_template_is_told_from_the_name(name, tmp_path):
    language, template, why = NAMED[name]
    source = write_whole(Llava(language=language), tmp_path / name, "llava")
    result = CliRunner().invoke(app, ["import", str(source), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and f"chat template: {template} ({why})" in result.stdout


def test_the_user_has_the_last_word_on_the_template(tmp_path):
    source = write_whole(Llava(), tmp_path / "llava-v1.5")
    (tmp_path / "mine.jinja").write_text("{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}")
    for template in ("question-answer", str(tmp_path / "mine.jinja")):
        out = tmp_path / f"out-{len(template)}"
        result = CliRunner().invoke(app, ["import", str(source), "--out", str(out), "--template", template, "--json"])
        told = json.loads(result.stdout.splitlines()[-1])
        assert (told["chat_template"], told["chat_template_why"]) == (template, "said by --template")
        written = (out / "chat_template.jinja").read_text(encoding="utf-8")
        assert ("### 질문" if template == "question-answer" else "message['content'] + eos_token") in written
