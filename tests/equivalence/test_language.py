"""A VLM asked without a picture is its language model, and a tower cut short is the whole one's earlier layer."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, LlavaForConditionalGeneration

from boda.models.assemble import load_tower
from boda.models.attention import ATTENTION_NAME
from boda.models.vlm import BodaForConditionalGeneration
from tests import tiny
from tests.support import tiny_model


@torch.no_grad()
def test_without_a_picture_it_is_its_language_model(language_family):
    """Logits of a padded batch, to the bit: scaled and capped heads, multipliers, ties and grown vocabularies included."""
    assembled = tiny_model(language_family, connector="mlp2x_gelu")
    alone = AutoModelForCausalLM.from_pretrained(tiny.language_folder(language_family)).eval()
    rows = alone.get_input_embeddings().weight.shape[0]
    ids = torch.randint(
        5, min(rows, assembled.model.config.image_token_index) - 5, (3, 40), generator=torch.Generator().manual_seed(0)
    )
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    expected = alone(input_ids=ids, attention_mask=mask).logits
    given = assembled.model(input_ids=ids, attention_mask=mask).logits
    seen = mask.bool()
    assert torch.equal(given[seen][:, :rows], expected[seen])
    # Words that were added are never likelier than all that were there.
    assert (given[seen][:, rows:] <= expected[seen].max(dim=-1, keepdim=True).values + 1e-4).all()
    # The attention that a model has while it is trained gives the same, and the same answers.
    language = assembled.model.model.language_model
    language.set_attn_implementation("eager" if language_family == "gemma2" else "sdpa")  # SDPA refuses Gemma 2's capped scores
    expected, said = assembled.model(input_ids=ids, attention_mask=mask).logits, answers(assembled.model, ids, mask)
    language.set_attn_implementation(ATTENTION_NAME)
    torch.testing.assert_close(
        assembled.model(input_ids=ids, attention_mask=mask).logits[seen], expected[seen], rtol=0, atol=1e-5
    )
    assert torch.equal(answers(assembled.model, ids, mask), said)


def answers(model, ids, mask):
    return model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0
    )


STOCK = {"llama", "llama3", "exaone4", "qwen3", "gpt_neox"}


def test_the_stock_class_is_used_where_it_gives_the_same(language_family):
    """A head that scales or caps its logits, or is tied under another name, never goes through the stock class."""
    for connector in ("linear", "mlp2x_gelu", "ldpv2"):
        model = tiny_model(language_family, connector=connector).model
        is_stock = connector != "ldpv2" and language_family in STOCK
        assert type(model) is (LlavaForConditionalGeneration if is_stock else BodaForConditionalGeneration)
        tied = model.lm_head.weight is model.get_input_embeddings().weight
        assert tied == (language_family in tiny.TIED_FAMILIES)


DINO = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "patch_size": 14,
}


@torch.no_grad()
@pytest.mark.parametrize("family", ["clip", "clip_vision", "siglip", "vit", "dinov2", "dinov2_registers"])
@pytest.mark.parametrize("layer", [-1, -2])
def test_a_tower_has_only_the_layers_that_are_used(family, layer, tmp_path):
    """`vision_layer: -2` is one layer fewer and the last of what is left, to the bit."""
    folder = tmp_path
    if family == "dinov2":
        load_tower({**DINO, "initializer_range": 0.15}, -1, image_size=56).module.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_bytes(
            (tiny.vision_folder("dinov2_registers") / "preprocessor_config.json").read_bytes()
        )
    else:
        folder = tiny.vision_folder(family)
    tower = load_tower(str(folder), layer)
    whole = AutoModel.from_pretrained(folder).eval()
    whole = getattr(whole, "vision_model", whole)
    pixels = torch.randn(2, 3, tower.image_size, tower.image_size, generator=torch.Generator().manual_seed(0))
    expected = whole(pixels, output_hidden_states=True).hidden_states[layer]
    given = tower.module(pixels, output_hidden_states=True).hidden_states[tower.layer]
    assert torch.equal(given, expected) and expected.std() > 0.01
    assert expected.shape[1] == tower.prefix_tokens + tower.grid[0] * tower.grid[1]
    count = lambda module: sum(parameter.numel() for parameter in module.parameters())  # noqa: E731
    depth = whole.config.num_hidden_layers
    assert tower.module.config.num_hidden_layers == depth + 1 + layer
    assert count(tower.module) < count(whole) or layer == -1
