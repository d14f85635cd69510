"""`boda import` of OpenFlamingo's and OpenFlaminKO's files: the folder's logits are those of the published arithmetic."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel
from typer.testing import CliRunner

import boda
from boda.cli import app
from boda.train.importing import import_checkpoint
from tests import tiny
from tests.faults.test_bad_imports import Code
from tests.flamingo_layouts import Flamingo, open_clip_tokens, open_clip_tower
from tests.llava_layouts import write_json
from tests.tiny_build import save_weights


def bring(flamingo: Flamingo, folder: Path, **options) -> Path:
    """The folder that the command makes of a checkpoint."""
    source = flamingo.write(folder / "checkpoint.pt", options.pop("training", False), **options)
    parts = {"vision": str(flamingo.vision_folder), "language": str(flamingo.language_folder)}
    return import_checkpoint(source, folder / "out", **parts)


def said(folder: Path, name: str = "boda.json") -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def pixels(number: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(number, 3, 56, 56, generator=torch.Generator().manual_seed(seed))


def ids_with(flamingo: Flamingo, *pictures: int, length: int = 14) -> torch.Tensor:
    """(1, L) ids of words, with pictures at these places and the end of a chunk before every one but the first."""
    ids = torch.randint(5, 500, (1, length), generator=torch.Generator().manual_seed(length + len(pictures)))
    ids[0, list(pictures)] = flamingo.tokenizer.convert_tokens_to_ids("<image>")
    ids[0, [place - 1 for place in pictures[1:]]] = flamingo.tokenizer.convert_tokens_to_ids("<|endofchunk|>")
    return ids


# What is asked: where each row's pictures stand.
ASKED = {
    "one picture": [(0,)], "several": [(0, 4, 9)], "none": [()], "text before the first": [(5, 8)],
    "two rows": [(0, 6), (3, 10)], "two rows, one blind": [(2, 7), ()],
}  # fmt: skip


@torch.no_grad()
def assert_same(folder: Path, flamingo: Flamingo) -> None:
    model, processor = boda.load(folder, device="cpu", dtype=torch.float32)
    more = int(flamingo.tokenizer.pad_token == flamingo.tokenizer.eos_token)  # a pad token that ends no answer
    assert len(processor.tokenizer) - len(flamingo.tokenizer) == more
    for text in ("<image>해당 이미지는 고양이입니다.<|endofchunk|><image>해당", "<|sep|> 그림 없이"):
        assert processor.tokenizer(text).input_ids == flamingo.tokenizer(text).input_ids
    for name, rows in ASKED.items():
        ids = torch.cat([ids_with(flamingo, *places) for places in rows])
        seen = [pixels(len(places), seed) for seed, places in enumerate(rows)]
        most = max(map(len, seen))
        padded = [torch.cat([row, torch.zeros(most - len(row), 3, 56, 56)]) for row in seen] if most else None
        expected = flamingo.logits(ids, padded)
        given = model(input_ids=ids, pixel_values=torch.cat(seen) if most else None).logits
        assert given.shape[-1] - expected.shape[-1] == more
        torch.testing.assert_close(
            given[..., : expected.shape[-1]], expected, rtol=0, atol=1e-5 * float(expected.abs().max()), msg=name
        )
    # The pictures are seen, each by what follows it: the comparison says something.
    ids = ids_with(flamingo, 0, 6)
    change = flamingo.logits(ids, [pixels(2)]) - flamingo.logits(ids, [torch.cat([pixels(1), pixels(1, seed=9)])])
    assert float(change[0, :6].abs().max()) < 1e-5 < 1e-2 < float(change[0, 6:].abs().max())


# language, project, every, heads, head_dim; how the file is written
CHECKPOINTS = {
    "released": (("gpt_neox", "OpenFlaminKO"), {}),
    "from training": (("gpt_neox", "OpenFlaminKO"), {"prefix": "module.", "training": True}),
    "two tokens": (("gpt_neox", "OpenFlamingo"), {"prefix": "module."}),
    "no pad token": (("llama3", "OpenFlamingo", 2), {}),
    "no pad token, six tokens": (("llama3", "OpenFlaminKO"), {}),
    "tied, other heads": (("llama", "OpenFlamingo", 1, 8, 12), {}),
    "layers of the language model": (("gpt_neox", "OpenFlaminKO", 2), {"decoder": True}),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_published_arithmetic(name, tmp_path):
    """Both layouts of the file; tables shrunk and grown; either set of tokens; trained layers of the language model."""
    given, how = CHECKPOINTS[name]
    flamingo = Flamingo(*given)
    if how.get("decoder"):
        with torch.no_grad():
            for parameter in flamingo.model.get_submodule("gpt_neox.layers").parameters():
                parameter *= 1.1
    out = bring(flamingo, tmp_path, **how)
    assert_same(out, flamingo)
    imported = said(out)["imported"]
    assert (imported["layout"], imported["chat_template"]) == ("OpenFlamingo", "flamingo")
    heads = "8 heads of 12 (8 as published, as 64 does not divide 96)" if "heads" in name else "2 heads of 64 (as published)"
    number, rows = 2 if given[1] == "OpenFlamingo" else 6, len(flamingo.tokenizer)
    assert imported["notes"] == [f"attention: {heads}", f"tokens: the {number} of {given[1]}, told from {rows} rows"]
    config = said(out, "config.json")
    told = [config[key] for key in ("depth", "num_latents", "heads", "head_dim", "every")]
    assert told == [2, 5, flamingo.heads, flamingo.head_dim, given[2] if len(given) > 2 else 1]


def test_half_a_language_model_keeps_the_numbers_of_the_checkpoint(tmp_path):
    """Polyglot-Ko is published in fp16 and the checkpoint in fp32; the folder has the wider type, so nothing is rounded."""
    flamingo, folder = Flamingo(), tmp_path / "half"
    shutil.copytree(flamingo.language_folder, folder)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    with torch.no_grad():
        for parameter in flamingo.model.parameters():
            if len(parameter) != len(flamingo.tokenizer):  # its tables are in the checkpoint
                parameter.copy_(parameter.half())
    flamingo.language_folder = folder
    out = bring(flamingo, tmp_path)
    assert said(out, "config.json")["dtype"] == "float32"
    assert_same(out, flamingo)


@torch.no_grad()
def test_what_the_folder_answers(tmp_path):
    """OpenFlaminKO's example: its prompt, three beams, twenty tokens; it ends on the end of a chunk or of the text."""
    flamingo = Flamingo()
    out = bring(flamingo, tmp_path)
    model, processor = boda.load(out, device="cpu", dtype=torch.float32)
    picture = {"type": "image", "image": tiny.random_picture(1)}
    messages = [
        {"role": "user", "content": [picture]},
        {"role": "assistant", "content": [{"type": "text", "text": "해당 이미지는 욕실 세면대입니다."}]},
        {"role": "user", "content": [picture, {"type": "text", "text": "해당 이미지는"}]},
    ]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template(messages, **options)
    prompt = "<image>해당 이미지는 욕실 세면대입니다.<|endofchunk|><image>해당 이미지는"
    assert inputs["input_ids"].tolist() == [flamingo.tokenizer(prompt).input_ids]
    settings = model.generation_config
    ends = flamingo.tokenizer.convert_tokens_to_ids(["<|endofchunk|>", flamingo.tokenizer.eos_token])
    assert (settings.num_beams, settings.max_new_tokens, settings.eos_token_id) == (3, 20, sorted(ends))
    assert settings.pad_token_id == processor.tokenizer.pad_token_id not in ends
    assert model.generate(**inputs).shape[1] <= inputs["input_ids"].shape[1] + 20
    ids = model.generate(**inputs, num_beams=1, do_sample=False, max_new_tokens=5)
    logits = flamingo.logits(ids, [inputs["pixel_values"]])
    start = inputs["input_ids"].shape[1]
    assert ids[0, start:].tolist() == logits[0, start - 1 : -1].argmax(-1).tolist()
    result = CliRunner().invoke(app, ["chat", str(out), "max_new_tokens=3", "안녕", "--json"])
    assert result.exit_code == 0 and "answer" in json.loads(result.stdout.splitlines()[-1])
    assert said(out)["kind"] == "flamingo" and said(out)["generation"]["beams"] == 3


# ---------------------------------------------------------------- towers of open_clip


def open_clip_case(folder: Path, activation: str, beside: dict | None) -> tuple[Flamingo, dict]:
    """A flamingo with a tower of one head of 64 (or of what is written `beside`, two of 32), and open_clip's tensors of it."""
    heads = 2 if beside else 1
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=heads, image_size=56, patch_size=14,
        projection_dim=24, initializer_factor=2.0, hidden_act=activation, dtype="float32",
    )  # fmt: skip
    torch.manual_seed(1)
    save_weights(CLIPVisionModel(config), folder / "tower")
    if beside:
        write_json(folder / "open_clip_config.json", beside)
    return Flamingo(vision_folder=folder / "tower"), open_clip_tower(folder / "tower")


JSON = {
    "model_cfg": {"embed_dim": 24, "vision_cfg": {"width": 64, "head_width": 32, "layers": 2}},
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "interpolation": "bicubic"},
}
TOWERS = {
    "OpenAI's": ("quick_gelu", None, "quick_gelu, heads of 64 (as OpenAI's weights; no open_clip_config.json says otherwise)"),
    "a config beside": ("gelu", JSON, "gelu, heads of 32 (open_clip_config.json)"),
    "a config that says quick": (
        "quick_gelu",
        JSON | {"model_cfg": JSON["model_cfg"] | {"quick_gelu": True}},
        "quick_gelu, heads of 32 (open_clip_config.json)",
    ),
}


@pytest.mark.parametrize("place", ["a file of its own", "in the checkpoint"])
@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_a_tower_of_open_clip(name, place, tmp_path):
    activation, beside, note = TOWERS[name]
    flamingo, tower = open_clip_case(tmp_path, activation, beside)
    if place == "in the checkpoint":
        source, vision = flamingo.write(tmp_path / "checkpoint.pt", vision=tower), None
    else:
        source, vision = flamingo.write(tmp_path / "run" / "checkpoint.pt"), tmp_path / "open_clip_pytorch_model.bin"
        text = {"token_embedding.weight": torch.ones(9, 24), "logit_scale": torch.tensor(1.0)}
        whole = {f"module.visual.{key}": value for key, value in tower.items()}
        torch.save({"epoch": 1, "name": "run", "state_dict": whole | text}, vision)
    arguments = ["import", str(source), "--out", str(tmp_path / "out"), "--language", str(flamingo.language_folder)]
    result = CliRunner().invoke(app, arguments + (["--vision", str(vision)] if vision else []))
    assert result.exit_code == 0, result.output
    assert f"vision tower: activation {note}" in result.stdout
    assert_same(tmp_path / "out", flamingo)
    model, processor = boda.load(tmp_path / "out", device="cpu", dtype=torch.float32)
    expected = open_clip_tokens(tower, pixels(2), 2 if beside else 1, activation == "quick_gelu")
    torch.testing.assert_close(model.get_image_features(pixels(2)).last_hidden_state, expected, rtol=0, atol=1e-5)
    assert processor.image_processor.image_mean == pytest.approx(
        [0.5, 0.4, 0.3] if beside else [0.48145466, 0.4578275, 0.40821073]
    )


def test_a_tower_inside_wins_over_the_one_that_is_named(tmp_path):
    flamingo = Flamingo()
    named = flamingo.vision_folder
    tower = {key: value * 1.1 for key, value in open_clip_tower(named).items()}
    folder = tmp_path / "tower"
    flamingo.tower.config.save_pretrained(folder)
    with torch.no_grad():
        for parameter in flamingo.tower.parameters():
            parameter *= 1.1
    out = bring(flamingo, tmp_path, vision=tower)
    assert_same(out, flamingo)


# ---------------------------------------------------------------- what cannot be imported


def changed(path: Path, drop: str = "\0", **add) -> Path:
    weights = {key: value for key, value in Flamingo().state_dict().items() if drop not in key}
    torch.save(weights | {key.replace("__", "."): value for key, value in add.items()}, path)
    return path


def rows(path: Path, number: int) -> Path:
    tables = ("lang_encoder.gpt_neox.embed_in.weight", "lang_encoder.embed_out.weight")
    torch.save(Flamingo().state_dict() | {name: torch.zeros(number, 48) for name in tables}, path)
    return path


def with_code(path: Path) -> Path:
    path.write_bytes(pickle.dumps({"perceiver.latents": Code()}, protocol=2))
    return path


def wider(path: Path) -> Path:
    flamingo = Flamingo()
    flamingo.perceiver["latents"] = torch.zeros(5, 64)
    return flamingo.write(path)


# What makes the file, options in place of the tiny parts, and part of what is said.
WRONG = {
    "no language model": (changed, {"--language": None}, "{path} holds no language model; --language names the one"),
    "no tower": (changed, {"--vision": None}, "{path} holds no vision model; --vision names the one it was trained with"),
    "a connector": (changed, {"--connector": "linear"}, "--connector has no use here"),
    "another vocabulary": (
        lambda path: rows(path, 700), {},
        "the checkpoint has 700 rows in its table of tokens, and the tokenizer would have 520 with OpenFlaminKO's 6 tokens and 517 "
        "with OpenFlamingo's 2 tokens",
    ),
    "no table": (lambda path: changed(path, "embed_in"), {}, "weight of 520 rows, and gpt_neox.embed_in.weight and"),
    "another language model": (
        changed, {"--language": str(tiny.language_folder("llama3"))}, "has none of them, and model.embed_tokens.weight and lm_head"
    ),
    "no perceiver": (lambda path: changed(path, "perceiver"), {}, "{path} has no perceiver.* and gated_cross_attn_layer.*"),
    "half a perceiver": (
        lambda path: changed(path, "layers.1.1"), {}, "the checkpoint lacks resampler.layers.1.1.0.bias, resampler.layers.1.1.0.weight"
    ),
    "frames": (
        lambda path: changed(path, perceiver__frame_embs=torch.zeros(2, 32)), {},
        "the checkpoint has resampler.frame_embs, which no such resampler and cross-attention has",
    ),
    "another language model's keys": (
        lambda path: changed(path, lang_encoder__gpt_neox__wpe__weight=torch.zeros(2, 48)), {},
        "the checkpoint has gpt_neox.wpe.weight, which no such language model has",
    ),
    "another tower": (wider, {}, "the resampler takes vectors of 64 numbers and {vision} has 32: it was trained with another"),
    "a tower that is no transformer": (
        lambda path: changed(path, vision_encoder__trunk__stem__weight=torch.zeros(2)), {"--vision": None},
        "the tower in {path} has no conv1.weight; of open_clip's, plain vision transformers can be imported",
    ),
    "code": (with_code, {}, "{path} cannot be read as tensors by name: it is damaged, or it holds objects that only running its code"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_checkpoint_that_cannot_be_imported(name, tmp_path, capfd):
    make, options, words = WRONG[name]
    source, given = make(tmp_path / "checkpoint.pt"), Flamingo()
    options = {"--vision": str(given.vision_folder), "--language": str(given.language_folder)} | options
    arguments = [word for option, value in options.items() if value for word in (option, value)]
    result = CliRunner().invoke(app, ["import", str(source), "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 1
    message = " ".join(result.stderr.split())
    assert words.format(path=source, vision=given.vision_folder) in message, message
    assert not (tmp_path / "out").exists() and "code of the checkpoint ran" not in capfd.readouterr().out
