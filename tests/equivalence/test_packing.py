"""Packed = unpacked = shared pictures = every sample alone through stock SDPA: loss and gradients, fp32."""

from __future__ import annotations

import pytest
import torch

import boda
from boda.data.pack import step_rows
from boda.errors import BodaError
from boda.models.assemble import load_language
from boda.models.attention import ATTENTION_NAME, keeps_segments_apart
from boda.train.freeze import open_parts
from tests import tiny
from tests.support import (
    Pixels,
    ask,
    assert_same_step,
    batches_of,
    language_variant,
    mixed_samples,
    opened,
    oracle_step,
    picture,
    prepared,
    renderer_for,
    rows_of,
    sample_inputs,
    step,
    tiny_model,
    tiny_recipe,
)

WINDOW = 12  # shorter than most samples, so that it is felt inside a sample and across a shared picture
CASES = {
    "llama": dict(language="llama", connector="ldpv2", train=["vision", "connector", "language"]),
    "llama3": dict(language="llama3", connector="mlp2x_gelu", train=["connector", "language.lora"]),
    "gpt_neox": dict(language="gpt_neox", connector="linear", train=["connector", "language"]),
    "hyperclovax": dict(language="hyperclovax", connector="ldpv2", train=["connector", "language.lora"]),
    "exaone4": dict(
        language="exaone4",
        connector="mlp2x_gelu",
        train=["connector", "language"],
        change={"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gemma2": dict(
        language="gemma2", connector="mlp2x_gelu", train=["connector", "language"], change={"sliding_window": WINDOW}
    ),
}


class Case:
    """A model with parts open, samples prepared for it, and what the stock forward pass says of them one by one."""

    def __init__(self, folder, language, connector, train, change=None):
        source = language_variant(folder, language, **change) if change else language
        self.assembled = tiny_model(source, connector=connector)
        self.pixels = Pixels(self.assembled)
        self.trained = opened(self.assembled, train)
        self.data = prepared(mixed_samples(), renderer_for(self.assembled), folder)
        # Gemma 2 caps its attention scores, which stock SDPA refuses to do.
        self.expected = oracle_step(
            self.assembled, self.data, self.pixels, self.trained, "eager" if language == "gemma2" else "sdpa"
        )

    def step(self, row_length, packing=True, share=True):
        rows = rows_of(self.data, row_length, packing=packing, share=share)
        return rows, step(self.assembled.model, batches_of(self.data, rows, self.pixels), self.trained)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    return Case(tmp_path_factory.mktemp(request.param), **CASES[request.param])


@pytest.mark.parametrize("way", ["unpacked", "packed", "shared", "short rows"])
def test_packing_changes_no_gradient(case, way):
    longest = int(case.data.lengths[:].max())
    options = {
        "unpacked": dict(row_length=longest, packing=False),
        "packed": dict(row_length=10_000, share=False),
        "shared": dict(row_length=10_000),
        "short rows": dict(row_length=2 * longest),
    }[way]
    rows, given = case.step(**options)
    number = {"unpacked": len(case.data), "packed": 1, "shared": 1}.get(way)
    assert len(rows) == number if number else 1 < len(rows) < len(case.data)
    if way == "shared":  # the picture that four samples begin with is there once
        assert sum(row.length for row in rows) < int(case.data.lengths[:].sum()) - 2 * case.data.num_image_tokens
    assert_same_step(given, case.expected)


def test_one_row_of_stock_sdpa_with_restarting_positions(tmp_path):
    """transformers' own way to keep samples of one row apart gives what ours gives."""
    case = Case(tmp_path, "llama", "mlp2x_gelu", ["connector", "language"])
    parts = [sample_inputs(case.assembled, case.data, index, case.pixels) for index in range(len(case.data))]
    ids = torch.cat([part["input_ids"] for part in parts], dim=1)
    positions = torch.cat([torch.arange(part["input_ids"].shape[1]) for part in parts])[None]
    labels = torch.cat([part["labels"] for part in parts], dim=1)
    pixels = torch.cat([part["pixel_values"] for part in parts if "pixel_values" in part])
    model = case.assembled.model
    model.zero_grad(set_to_none=True)
    model.model.language_model.set_attn_implementation("sdpa")
    logits = model(input_ids=ids, position_ids=positions, pixel_values=pixels, use_cache=False).logits[0]
    targets = labels[0, 1:].where(positions[0, 1:] > 0, -100)
    loss = torch.nn.functional.cross_entropy(logits[:-1], targets)
    loss.backward()
    given = {"loss": loss.detach(), **{name: parameter.grad for name, parameter in case.trained.items()}}
    assert_same_step(given, case.expected)
    _, packed = case.step(row_length=10_000)
    assert_same_step(packed, given)


def test_several_epochs_of_one_sample_in_a_step(tmp_path):
    """A weight above 1 puts a sample into a step twice; it then counts twice, sharing pictures or not."""
    assembled = tiny_model()
    pixels = Pixels(assembled)
    trained = open_parts(assembled.model, ["connector"], None, seed=0)
    samples = [ask("<image>\n무엇인가요?", "사과", images=(1,)), ask("<image>\n색은?", "빨강과 노랑", images=(1,))]
    data = prepared([*samples, samples[0]], renderer_for(assembled), tmp_path)
    expected = oracle_step(assembled, data, pixels, trained)
    for share in (False, True):
        rows = step_rows(data, [0, 1, 0], 10_000, 1, True, share)[0]
        batches = batches_of(data, rows, pixels)
        assert len(batches[0]["prefix"]) == (4 if share else 3)  # the shared picture is a segment of its own
        assert_same_step(step(assembled.model, batches, trained), expected)


def test_pictures_of_one_row_stay_in_order(tmp_path):
    """`pixel_values` come in the order of their image tokens, and `image_segment` names the segments that hold them."""
    assembled = tiny_model(connector="ldpv2")
    pixels = Pixels(assembled)
    data = prepared(mixed_samples(), renderer_for(assembled), tmp_path)
    (batch,) = batches_of(data, rows_of(data, 10_000), pixels)
    places = (batch["input_ids"][0] == data.image_id).nonzero().flatten()
    assert len(places) == len(batch["pixel_values"]) * data.num_image_tokens
    segment_of_token = torch.searchsorted(batch["cu_seq_lens"].long(), places, right=True) - 1
    assert torch.equal(segment_of_token, batch["image_segment"].long().repeat_interleave(data.num_image_tokens))
    known = {seed: torch.from_numpy(pixels(picture(seed))) for seed in range(1, 7)}
    for segment, values in zip(batch["image_segment"].tolist(), batch["pixel_values"]):
        assert any(torch.equal(values, pixel) for pixel in known.values()), segment


SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4}
FRESH = {  # as transformers initialises them: weak weights, so that what is seen shows little
    "llama": ({**SMALL, "num_key_value_heads": 2}, True),
    "opt": ({**SMALL, "ffn_dim": 96, "word_embed_proj_dim": 48, "max_position_embeddings": 64}, True),
    "qwen3_moe": (
        {
            **SMALL,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
        },
        True,
    ),
    "mistral": ({**SMALL, "num_key_value_heads": 2, "sliding_window": 3}, True),
    "bloom": ({"hidden_size": 48, "n_layer": 2, "n_head": 4}, False),  # attention of its own
    "lfm2": ({**SMALL, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}, False),  # looks back along the row
    "mamba": ({"hidden_size": 48, "num_hidden_layers": 2}, False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", FRESH)
def test_models_whose_rows_leak_are_told(kind, dtype):
    values, keeps = FRESH[kind]
    language, _ = load_language({"model_type": kind, **values}, vocab_size=512)
    language.base_model.set_attn_implementation(ATTENTION_NAME)
    assert keeps_segments_apart(language.base_model.to(dtype)) == keeps


def test_every_family_keeps_segments_apart(language_family):
    language = tiny_model(language_family).model.model.language_model
    language.set_attn_implementation(ATTENTION_NAME)
    assert keeps_segments_apart(language)
    language.set_attn_implementation("eager")  # knows no segments
    assert not keeps_segments_apart(language)


def test_a_model_whose_rows_leak_trains_unpacked_only(tmp_path):
    stage = {"name": "align", "train": ["connector"], "max_steps": 1}
    recipe = tiny_recipe(tmp_path, [stage], {"n": 4})
    recipe["model"] |= {
        "language": {"model_type": "bloom", **FRESH["bloom"][0]},
        "tokenizer": str(tiny.language_folder("llama")),
    }
    with pytest.raises(BodaError, match=r"'bloom'.*packing: false"):
        boda.train(recipe, tmp_path / "run", quiet=True)
    boda.train(recipe, tmp_path / "other", quiet=True, overrides={"stages.align.packing": False})


@pytest.mark.parametrize("length", [100, 500])
def test_trained_norms_on_queries_and_keys_go_with_autocast(length):
    """They give fp32 queries and keys beside bf16 values, in rows of short segments and of long ones."""
    model = tiny_model("qwen3").model.model.language_model.float()
    model.set_attn_implementation(ATTENTION_NAME)
    ids, places = torch.arange(2 * length)[None] % 90, torch.arange(length).repeat(2)[None]
    row = {"cu_seq_lens": torch.tensor([0, length, 2 * length], dtype=torch.int32), "prefix": torch.tensor([-1, -1])}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        given = model(input_ids=ids, position_ids=places, use_cache=False, **row).last_hidden_state[0]
    expected = torch.cat([model(input_ids=part).last_hidden_state[0] for part in ids.split(length, dim=1)])
    assert (given - expected).abs().max() < 0.05 * expected.abs().max()
