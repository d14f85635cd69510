"""Language models in 8 and 4 bits: trained beside, stage after stage, merged into the whole one; and those that come quantised."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import boda
from boda.errors import BodaError
from boda.models import quantised
from boda.models.assemble import assemble, load_tokenizer
from boda.models.language import ADAPTER, lora_layers
from boda.recipe import Lora, ModelSpec, load_recipe
from boda.train import build as building
from boda.train import finished
from boda.train.freeze import count_by_part, open_parts
from tests import tiny
from tests.support import (
    ask,
    assert_same_step,
    batches_of,
    language_recipe,
    oracle_step,
    prepared,
    records,
    renderer_for,
    rows_of,
    step,
    tiny_recipe,
)

bitsandbytes = pytest.importorskip("bitsandbytes")


@cache
def wide_folder(family: str) -> str:
    """A tiny model of that family with rows of 64 numbers and more, as bitsandbytes wants them on a CPU."""
    source = tiny.language_folder(family)
    folder = Path(tempfile.mkdtemp()) / family
    shutil.copytree(source, folder)
    config = AutoConfig.from_pretrained(source)
    config.hidden_size, config.intermediate_size, config.head_dim, config.initializer_range = 64, 128, 16, 0.1
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def assembled(precision: str, family: str = "llama3", dtype=torch.float32):
    folder = wide_folder(family)
    bits = quantised.loading_options(precision, torch.device("cpu"), dtype)
    return assemble(ModelSpec(kind="language", language=folder), load_tokenizer(folder), quantised=bits)


@pytest.mark.parametrize("precision, most", [("int8", 0.05), ("nf4", 0.35)])
def test_matrices_in_few_bits_are_near_the_whole_ones(precision, most):
    small, whole = assembled(precision).model, assembled("auto").model
    kinds = {type(module).__name__ for module in small.base_model.modules() if isinstance(module, torch.nn.Linear)}
    assert kinds == {"Linear8bitLt" if precision == "int8" else "Linear4bit"}
    assert small.lm_head.weight.dtype == small.get_input_embeddings().weight.dtype == torch.float32
    sizes = [{part: counts["parameters"] for part, counts in count_by_part(each).items()} for each in (small, whole)]
    assert sizes[0] == sizes[1]
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        given, expected = small(ids).logits, whole(ids).logits
    assert 0 < float((given - expected).norm() / expected.norm()) < most


@pytest.mark.parametrize("precision", ["int8", "nf4"])
@pytest.mark.parametrize("family", ["llama3", "gpt_neox"])
def test_packing_changes_no_gradient(precision, family, tmp_path):
    made = assembled(precision, family)
    trained = open_parts(made.model, ["language.lora"], Lora(rank=4, alpha=8.0), seed=0)
    torch.manual_seed(0)
    for layer in lora_layers(made.model).values():
        torch.nn.init.normal_(layer.lora_B[ADAPTER].weight, std=0.1)
    made.model.eval()
    data = prepared([ask("안녕?", "안녕하세요."), ask("색은?", "빨강", "왜요?", "사과라서요.")], renderer_for(made), tmp_path)
    expected = oracle_step(made, data, None, trained)
    given = step(made.model, batches_of(data, rows_of(data, 1000), None), trained)
    assert_same_step(given, expected, 1e-5 if precision == "nf4" else 1e-2)  # int8 products are of fp16 inputs


def qlora(folder, precision: str, **rest) -> dict:
    """Two stages with adapters on a tiny model."""
    recipe = language_recipe(folder, precision=precision)
    data = recipe["stages"][0]["data"]
    first = {"name": "read", "train": ["language.lora"], "lora": {"rank": 4, "alpha": 8}, "data": data, "batch_size": 8}
    first |= {"learning_rate": 1e-2, "max_length": 64, "max_steps": 3}
    second = {"name": "talk", "lora": {"rank": 2, "alpha": 4, "targets": ["q_proj", "v_proj"]}}
    model = {"kind": "language", "language": wide_folder("llama3")}
    return recipe | {"model": model, "stages": [first, second]} | rest


def whole_after(run, stages: int) -> dict[str, torch.Tensor]:
    """What the unquantised model becomes with the run's adapters added, plainly."""
    state = dict(assembled("auto").model.named_parameters())
    found = {name: value.detach().clone() for name, value in state.items()}
    for name in ("read", "talk")[:stages]:
        folder = run / "stages" / name / "model" / "adapter"
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")
        for target in config["target_modules"]:
            down, up = (tensors[f"base_model.model.{target}.{side}.weight"] for side in ("lora_A", "lora_B"))
            found[f"{target}.weight"] += up @ down * config["lora_alpha"] / config["r"]
    return found


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_stages_stack_their_adapters_and_the_whole_model_gets_them(precision, tmp_path, monkeypatch):
    """The second stage starts where the first ended, on the same few bits; the finished model has ordinary matrices."""
    monkeypatch.setattr(building, "best_dtype", lambda *_: torch.float32)
    recipe = load_recipe(qlora(tmp_path, precision))
    folder = boda.train(recipe, tmp_path / "run", quiet=True)
    losses = [record["loss"] for record in records(tmp_path / "run")]
    assert len(losses) == 6 and losses[3] < losses[0] - 0.05
    tokenizer = building.get_tokenizer(recipe, tmp_path / "run", iter(()))
    second = building.build(recipe, tokenizer, tmp_path / "run", recipe.stages[:1], torch.device("cpu"))
    first = building.build(recipe, tokenizer, tmp_path / "run", [], torch.device("cpu"))
    building.attach_stage(first, recipe.stages[0], tmp_path / "run" / "stages" / "read" / "model")
    opened = building.opened(second, recipe.stages[1], seed=0)
    assert opened and all(f".{ADAPTER}." in name for name in opened)  # those of the first stage stay as they are
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():  # a fresh adapter changes nothing
        stacked, unmerged = second.model(ids).logits, first.model(ids).logits
    assert torch.allclose(stacked, unmerged, atol=1e-5 if precision == "nf4" else 2e-2 * float(unmerged.abs().max()))
    model, _ = boda.load(folder, device="cpu", dtype=torch.float32)
    assert not quantised.is_quantised(model)
    expected = whole_after(tmp_path / "run", 2)
    for name, value in model.named_parameters():
        assert torch.allclose(value, expected[name], atol=1e-2 * float(expected[name].abs().max())), name  # the folder is bf16


def test_a_picture_model_on_four_bits(tmp_path):
    stages = [
        {"name": "align", "train": ["connector"], "max_steps": 2},
        {"name": "tune", "train": ["connector", "language.lora"], "lora": {"rank": 2, "alpha": 4}},
    ]
    recipe = tiny_recipe(tmp_path, stages, connector="mlp2x_gelu", precision="nf4")
    recipe["model"]["language"] = wide_folder("llama3")
    folder = boda.train(recipe, tmp_path / "run", quiet=True)
    assert len(records(tmp_path / "run")) == 4
    model, _ = boda.load(folder)
    assert type(model).__name__ == "LlavaForConditionalGeneration" and not quantised.is_quantised(model)


@pytest.mark.parametrize("precision", ["nf4", "bf16"])
def test_more_pieces_and_tables_trained_beside_an_adapter(precision, tmp_path):
    """Tables stay ordinary numbers, so they take new rows and can be trained beside the adapter on few bits, too."""
    recipe = qlora(tmp_path, precision)
    recipe["model"]["tokenizer"] = {"base": "language", "vocab_size": 560}
    recipe["stages"] = [recipe["stages"][0] | {"train": ["language.lora", "language.embeddings"]}]
    model, tokenizer = boda.load(boda.train(recipe, tmp_path / "run", quiet=True))
    assert len(tokenizer) >= 560 and model.get_input_embeddings().num_embeddings >= 560 and not quantised.is_quantised(model)


def test_a_run_goes_on_bit_for_bit(tmp_path):
    whole = qlora(tmp_path, "nf4")
    boda.train(whole, tmp_path / "one", quiet=True)
    boda.train(whole, tmp_path / "two", stage="read", quiet=True)
    boda.train(whole, tmp_path / "two", quiet=True)
    for name in ("read", "talk"):
        one, two = (
            load_file(tmp_path / run / "stages" / name / "model/adapter/adapter_model.safetensors") for run in ("one", "two")
        )
        assert all(torch.equal(one[key], two[key]) for key in one)


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize("train", ["language", "language.ends"])
def test_few_bits_are_not_trained(train, tmp_path):
    recipe = qlora(tmp_path, "nf4")
    recipe["stages"][1] |= {"train": [train], "lora": None}
    with pytest.raises(BodaError, match=f"talk.train: {train}: precision: nf4 keeps .* in few bits.* train language.lora"):
        load_recipe(recipe)


def test_from_nothing_there_are_no_bits_to_save(tmp_path):
    recipe = qlora(tmp_path, "int8", model=language_recipe(tmp_path)["model"])
    with pytest.raises(BodaError, match="made from nothing, so there is nothing to keep in 8 or 4 bits"):
        boda.train(recipe, tmp_path / "run", quiet=True)


def test_rows_that_bitsandbytes_gets_wrong_on_a_cpu_are_refused(tmp_path):
    recipe = qlora(tmp_path, "nf4")
    recipe["model"]["language"] = str(tiny.language_folder("llama3"))
    with pytest.raises(BodaError, match="matrices of 48 columns cannot be kept in 4 bits on a CPU"):
        boda.train(recipe, tmp_path / "run", quiet=True)


def test_bitsandbytes_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BodaError, match=r"precision: nf4 needs bitsandbytes.*pip install 'boda\[train\]'.*precision: auto"):
        boda.train(qlora(tmp_path, "nf4"), tmp_path / "run", quiet=True)
    with pytest.raises(BodaError, match="bitsandbytes knows no mps devices"):
        monkeypatch.undo()
        quantised.loading_options("nf4", torch.device("mps"), torch.float16)


def test_no_room_for_merging_is_said_and_the_adapter_kept(tmp_path, monkeypatch):
    recipe = qlora(tmp_path, "nf4")
    real = finished.os.sysconf
    monkeypatch.setattr(finished.os, "sysconf", lambda name: 1 if name == "SC_AVPHYS_PAGES" else real(name))
    with pytest.raises(BodaError, match=r"training is done, its adapter is in .*talk/model; writing .* boda merge"):
        boda.train(recipe, tmp_path / "run", quiet=True)
    monkeypatch.undo()
    folder, _ = finished.merge(tmp_path / "run", tmp_path / "merged")
    assert not quantised.is_quantised(boda.load(folder)[0])


def test_an_adapter_for_another_base(tmp_path):
    run = tmp_path / "run"
    boda.train(qlora(tmp_path, "fp32"), run, stage="read", quiet=True)
    other = assembled("auto", "gpt_neox").model
    adapter = run / "stages" / "read" / "model" / "adapter"
    with pytest.raises(
        BodaError, match=r"does not fit the model at 'model.layers.0.*it was made for .* take the base it was trained"
    ):
        building.apply_adapter(other, adapter)


def test_an_adapter_is_a_model(tmp_path):
    """Its folder names the base: as Boda writes it, and as PEFT does."""
    from peft import LoraConfig, get_peft_model

    run = tmp_path / "run"
    folder = boda.train(qlora(tmp_path, "fp32"), run, stage="read", quiet=True)
    model, _ = boda.load(folder / "adapter", device="cpu", dtype=torch.float32)
    expected = whole_after(run, 1)
    assert all(torch.allclose(value, expected[name][: len(value)], atol=1e-5) for name, value in model.named_parameters())
    source = wide_folder("llama3")
    peer = get_peft_model(
        AutoModelForCausalLM.from_pretrained(source), LoraConfig(r=2, target_modules=["q_proj"], use_rslora=True)
    )
    torch.nn.init.normal_(peer.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"].weight)
    peer.save_pretrained(tmp_path / "peft")
    model, tokenizer = boda.load(tmp_path / "peft", device="cpu", dtype=torch.float32)
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, peer.eval()(ids).logits, atol=1e-4) and tokenizer.eos_token
    settings = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    for change, why in (
        ({"rank_pattern": {"q_proj": 4}}, "no plain LoRA"),
        ({"base_model_name_or_path": None}, "boda merge writes"),
    ):
        (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(settings | change))
        with pytest.raises(BodaError, match=why):
            boda.load(tmp_path / "peft")


# ---------------------------------------------------------------- models that come quantised


def test_a_model_that_comes_in_four_bits(tmp_path):
    """It loads, answers to training with an adapter, and is made whole to be merged."""
    folder = tmp_path / "small"
    made = assembled("nf4")
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    model, _ = boda.load(folder, device="cpu")
    assert quantised.is_quantised(model)
    recipe = qlora(tmp_path, "fp32")
    recipe["model"]["language"] = str(folder)
    finished_model, _ = boda.load(boda.train(recipe, tmp_path / "run", quiet=True))
    assert not quantised.is_quantised(finished_model)
    recipe["stages"] = [recipe["stages"][0] | {"train": ["language"], "lora": None}]
    with pytest.raises(BodaError, match=r"kept in 8 or 4 bits and cannot be trained; train language\.lora"):
        boda.train(recipe, tmp_path / "other", quiet=True)


@pytest.mark.parametrize(
    "method, package", [("awq", "gptqmodel"), ("gptq", "optimum|gptqmodel"), ("compressed-tensors", "compressed")]
)
def test_a_package_that_is_missing_is_named(method, package, tmp_path):
    folder = tmp_path / method
    shutil.copytree(tiny.language_folder("llama3"), folder)
    config = json.loads((folder / "config.json").read_text())
    settings = {
        "quant_method": method,
        "bits": 4,
        "group_size": 16,
        "desc_act": False,
        "format": "gptq" if method == "gptq" else "gemm",
    }
    if method == "compressed-tensors":
        settings = {"quant_method": method, "format": "pack-quantized"}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    with pytest.raises(BodaError, match=rf"(?i)'.*{method}' has a config but cannot be loaded: .*({package})"):
        boda.load(folder, device="cpu")


def gguf_file(path, family: str = "llama3") -> None:
    """A tiny model as llama.cpp keeps it: its names, its order of rotary pairs."""
    gguf = pytest.importorskip("gguf")
    source = wide_folder(family)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), load_tokenizer(source)
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([token for token, _ in vocabulary])
    special = set(tokenizer.added_tokens_decoder)
    writer.add_token_types([3 if number in special else 1 for _, number in vocabulary])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for name, value in model.state_dict().items():
        stem = name.removesuffix(".weight")
        short = next(short for long, short in names.items() if stem.endswith(long))
        block = f"blk.{stem.split('.')[2]}." if ".layers." in stem else ""
        if short in ("attn_q", "attn_k"):  # halves in turn
            heads = config.num_attention_heads if short == "attn_q" else config.num_key_value_heads
            value = value.reshape(heads, 2, config.head_dim // 2, -1).transpose(1, 2).reshape(value.shape)
        writer.add_tensor(f"{block}{short}.weight", value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file(tmp_path):
    path = tmp_path / "tiny.gguf"
    gguf_file(path)
    model, tokenizer = boda.load(path, device="cpu", dtype=torch.float32)
    whole = assembled("auto")
    text = "서울은 대한민국의 수도입니다."
    ids = whole.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    assert tokenizer(text, add_special_tokens=False).input_ids == ids[0].tolist()
    with torch.no_grad():
        expected = whole.model.eval()(ids).logits[..., : model.config.vocab_size]  # but for the pad token's row
        assert torch.allclose(model(ids).logits, expected, atol=1e-4)
    recipe = qlora(tmp_path, "fp32")
    recipe["model"]["language"] = str(path)
    recipe["model"]["chat_template"] = "question-answer"
    boda.train(recipe, tmp_path / "run", quiet=True)
    assert len(records(tmp_path / "run")) == 6
