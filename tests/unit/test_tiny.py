"""The tiny checkpoints load as published ones do and have the properties that other tests lean on."""

from __future__ import annotations

import json
import socket

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.17 exports it with torchvision only

from tests import tiny, tiny_build

TALK = [
    {"role": "user", "content": "몇 개입니까?"},
    {"role": "assistant", "content": "<think>\n세어 보자.\n</think>\n\n두 개입니다."},
    {"role": "user", "content": "무슨 색인가요? 🎨"},
    {"role": "assistant", "content": "빨강입니다."},
]


def load_language(family: str):
    folder = tiny.language_folder(family)
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    problems = {key: value for key, value in report.items() if value}
    return model.eval(), AutoTokenizer.from_pretrained(folder), problems


def folder_size(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*"))


@torch.no_grad()
def test_language_family(language_family):
    """Loads with nothing missing, fits in 1 MB, answers with spread-out logits, has the claimed ties, rows and head."""
    model, tokenizer, problems = load_language(language_family)
    assert not problems
    assert folder_size(tiny.language_folder(language_family)) < 1_000_000

    inputs = tokenizer("빨간 사과가 하얀 접시 위에 있습니다.", return_tensors="pt")
    output = model(**inputs, output_hidden_states=True)
    assert torch.isfinite(output.logits).all() and output.logits.std() > 0.1

    rows, columns = model.get_input_embeddings().weight.shape
    assert output.logits.shape == (1, inputs["input_ids"].shape[1], rows) and columns == 48
    extra = rows - len(tokenizer)
    expected = {"gpt_neox": extra == 77, "gpt_neox_tied": extra == 77, "llama3": extra == 0}
    assert expected.get(language_family, extra > 0)

    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == (language_family in tiny.TIED_FAMILIES)

    plain = model.get_output_embeddings()(output.hidden_states[-1])
    scaled = not torch.allclose(plain, output.logits, atol=1e-5)
    assert scaled == (language_family in tiny.SCALED_HEAD_FAMILIES)


def test_tokenizers_keep_text_and_specials(language_family):
    tokenizer = AutoTokenizer.from_pretrained(tiny.language_folder(language_family))
    for line in tiny.korean_lines():
        ids = tokenizer(line, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == line
        assert len(ids) < len(line.encode())  # merges were learned
    for token in tokenizer.get_added_vocab():
        assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1
    assert (tokenizer.pad_token is None) == (language_family == "llama3")


def test_generation_stops_where_a_turn_ends():
    stops = {"llama3": "<|eot_id|>", "hyperclovax": "<|endofturn|>", "qwen3": "<|im_end|>", "gemma2": "<end_of_turn>"}
    for family, token in stops.items():
        model, tokenizer, _ = load_language(family)
        assert tokenizer.convert_tokens_to_ids(token) in model.generation_config.eos_token_id


def test_chat_templates():
    """The quirks that rendering has to survive are there."""

    def text(family, messages, **rest):
        tokenizer = AutoTokenizer.from_pretrained(tiny.language_folder(family))
        return tokenizer.apply_chat_template(messages, tokenize=False, **rest)

    ask = TALK[:1]
    assert text("llama", [{"role": "system", "content": "도우미"}, *ask], add_generation_prompt=True) == (
        "<|im_start|>tool_list\n<|im_end|>\n<|im_start|>system\n도우미<|im_end|>\n"
        "<|im_start|>user\n몇 개입니까?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text("hyperclovax", TALK).startswith("<|im_start|>tool_list\n<|im_end|>\n<|im_start|>system\n<|im_end|>\n")
    assert text("hyperclovax", TALK).endswith("빨강입니다.<|im_end|><|endofturn|>\n")
    assert text("llama3", ask, add_generation_prompt=True) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n몇 개입니까?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert text("qwen3", TALK) == (
        "<|im_start|>user\n몇 개입니까?<|im_end|>\n<|im_start|>assistant\n두 개입니다.<|im_end|>\n"
        "<|im_start|>user\n무슨 색인가요? 🎨<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n빨강입니다.<|im_end|>\n"
    )
    assert text("qwen3", ask, add_generation_prompt=True).endswith("<|im_start|>assistant\n")
    assert text("qwen3", ask, add_generation_prompt=True, enable_thinking=False).endswith("<think>\n\n</think>\n\n")
    assert text("exaone4", TALK).count("<think>\n\n</think>\n\n") == 2
    with pytest.raises(Exception, match="System role not supported"):
        text("gemma2", [{"role": "system", "content": "도우미"}, *ask])
    for family in tiny.LANGUAGE_FAMILIES:
        has_template = AutoTokenizer.from_pretrained(tiny.language_folder(family)).chat_template is not None
        assert has_template == (family in tiny.CHAT_FAMILIES)


def test_plain_text_gets_a_bos_only_where_published_ones_do():
    for family in tiny.LANGUAGE_FAMILIES:
        tokenizer = AutoTokenizer.from_pretrained(tiny.language_folder(family))
        first = tokenizer("안녕하세요")["input_ids"][0]
        assert (first == tokenizer.bos_token_id) == (family in ("llama3", "gemma2"))


def test_shapes_that_break_shortcuts():
    llama = load_language("llama")[0].config
    assert llama.head_dim != llama.hidden_size // llama.num_attention_heads
    assert llama.num_key_value_heads < llama.num_attention_heads
    assert llama.rope_parameters["rope_theta"] == 1e8
    assert llama.bos_token_id == llama.eos_token_id == llama.pad_token_id
    assert load_language("gpt_neox")[0].config.rope_parameters["partial_rotary_factor"] == 0.5
    hyperclovax = load_language("hyperclovax")[0].config
    assert 1 not in (hyperclovax.embedding_multiplier, hyperclovax.logits_scaling, hyperclovax.residual_multiplier)
    assert hyperclovax.attention_multiplier != hyperclovax.head_dim**-0.5


@torch.no_grad()
def test_vision_family(vision_family):
    """The picture becomes the grid that VISION_SHAPES says, through the folder's own processor."""
    folder = tiny.vision_folder(vision_family)
    assert folder_size(folder) < 1_000_000
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert all(key.startswith("pooler.") for key in report["missing_keys"])
    side, (rows, columns), before = tiny.VISION_SHAPES[vision_family]

    pixels = AutoImageProcessor.from_pretrained(folder)(
        [tiny.random_picture(1), tiny.random_picture(2, (90, 61))], return_tensors="pt"
    )["pixel_values"]
    assert pixels.shape == (2, 3, side, side)
    states = getattr(model, "vision_model", model).eval()(pixel_values=pixels).last_hidden_state
    if states.ndim == 4:
        assert states.shape[2:] == (rows, columns)
    else:
        assert states.shape[1] == before + rows * columns
    assert torch.isfinite(states).all() and (states[0] - states[1]).abs().mean() > 0.05


def test_what_vision_checkpoints_hold():
    def architecture(family):
        return json.loads((tiny.vision_folder(family) / "config.json").read_text())["architectures"]

    assert architecture("clip") == ["CLIPModel"] and architecture("clip_vision") == ["CLIPVisionModel"]
    assert architecture("vit") == ["ViTForImageClassification"]
    assert architecture("convnext") == ["ConvNextForImageClassification"]
    assert json.loads((tiny.vision_folder("dinov2_registers") / "config.json").read_text())["num_register_tokens"] == 4


@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.no_grad()
def test_two_towers(family):
    """Full checkpoints score texts against pictures, whatever else is in the batch."""
    folder = tiny.vision_folder(family)
    processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    pictures = [tiny.random_picture(1), tiny.random_picture(2)]

    def scores(texts):
        return model(**processor(text=texts, images=pictures, padding="max_length", return_tensors="pt")).logits_per_image

    both = scores(["빨간 사과", "파란 원이 노란 네모의 왼쪽에 있습니다."])
    assert both.shape == (2, 2) and both.std() > 1e-3
    torch.testing.assert_close(scores(["빨간 사과"]), both[:, :1])


@torch.no_grad()
def test_roberta():
    """Klue's arrangement: BERT's tokenizer and names, RoBERTa's ids, no pooler stored."""
    folder = tiny.text_folder("roberta")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(tokenizer).__name__ == "BertTokenizer"
    assert set(report["missing_keys"]) == {"pooler.dense.weight", "pooler.dense.bias"}
    assert (tokenizer.cls_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id) == (0, 1, 2)
    assert len(tokenizer) == model.config.vocab_size

    batch = tokenizer(["빨간 사과가 있습니다.", "파란 원"], padding=True, return_tensors="pt")
    assert batch["input_ids"][:, 0].tolist() == [0, 0] and batch["input_ids"][1, -1] == 1
    assert tokenizer.unk_token_id not in batch["input_ids"]
    states = model.eval()(**batch).last_hidden_state
    alone = model(**tokenizer(["파란 원"], return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(states[1, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-4)


def test_building_is_reproducible_and_leaves_the_generator_alone(tmp_path, monkeypatch):
    kept = {family: (tiny.language_folder(family) / "model.safetensors").read_bytes() for family in ("llama", "llama3")}
    monkeypatch.setattr(tiny_build, "tiny_root", lambda: tmp_path)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    for family, weights in kept.items():
        rebuilt = tiny.language_folder(family)
        assert rebuilt.parent == tmp_path and (rebuilt / "model.safetensors").read_bytes() == weights
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama", "llama3"]  # nothing half-written left


def test_pictures(tmp_path):
    assert tiny.random_picture(3).tobytes() == tiny.random_picture(3).tobytes() != tiny.random_picture(4).tobytes()
    assert tiny.random_picture(0, (31, 17)).size == (31, 17)
    paths = tiny.save_pictures(tmp_path / "deep" / "images", 5)
    assert [path.name for path in paths][::4] == ["picture_00000.png", "picture_00004.png"]
    assert len({Image.open(path).size for path in paths}) > 1


def test_llava_file(tmp_path):
    path = tiny.llava_file(tmp_path, 8, turns=(1, 3), text_only=0.25, pictures=3)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert len(rows) == 8 and len({row["id"] for row in rows}) == 8
    assert sum("image" not in row for row in rows) == 2
    for index, row in enumerate(rows):
        assert len(row["conversations"]) == (2, 6)[index % 2]
        assert [said["from"] for said in row["conversations"][:2]] == ["human", "gpt"]
        marks = sum(said["value"].count("<image>") for said in row["conversations"])
        assert marks == ("image" in row)
        if "image" in row:
            assert (path.parent / "images" / row["image"]).is_file()
    assert len({row["image"] for row in rows if "image" in row}) <= 3
    assert rows == tiny.llava_rows(8, (1, 3), 0.25, 3) != tiny.llava_rows(8, (1, 3), 0.25, 3, seed=1)


def test_no_network():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as outward, pytest.raises(OSError, match="no network"):
        outward.settimeout(1)
        outward.connect(("192.0.2.1", 80))
