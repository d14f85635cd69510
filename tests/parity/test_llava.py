"""From random weights: our model against transformers' own LLaVA, its parts put together by hand, and LDPv2 written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoModelForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from boda.models.connectors import CONNECTORS, Ldpv2
from boda.recipe import schema
from boda.train.objectives import language_loss
from tests import tiny
from tests.support import (
    Pixels,
    ask,
    batches_of,
    mixed_samples,
    opened,
    prepared,
    renderer_for,
    rows_of,
    sample_inputs,
    tiny_model,
)

EVERYTHING = ["vision", "connector", "language"]


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def close(given: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    given, expected = given.detach(), expected.detach()
    torch.testing.assert_close(given, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("language", ["llama", "llama3", "qwen3"])
def test_mlp2x_gelu_is_transformers_llava(language, tmp_path):
    """The whole tower with `vision_feature_layer=-2` in a LLaVA of transformers' making: same logits, loss and gradients."""
    assembled = tiny_model(language, "clip", "mlp2x_gelu")
    data = prepared(mixed_samples(), renderer_for(assembled), tmp_path)
    config = LlavaConfig(
        vision_config=AutoModel.from_pretrained(tiny.vision_folder("clip")).config.vision_config,
        text_config=assembled.model.config.text_config,
        image_token_index=assembled.model.config.image_token_index,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=language in tiny.TIED_FAMILIES,
    )
    torch.manual_seed(0)
    theirs = LlavaForConditionalGeneration(config).eval()
    ours = dict(assembled.model.named_parameters())
    with torch.no_grad():  # theirs is random, ours takes its weights
        for name, parameter in theirs.named_parameters():
            if name in ours:
                ours[name].copy_(parameter)
    assert len(ours) < len(list(theirs.named_parameters()))  # a layer that is never used is not there
    opened(assembled, EVERYTHING)
    pixels = Pixels(assembled)
    for index in range(len(data)):
        inputs = sample_inputs(assembled, data, index, pixels)
        given, expected = assembled.model(**inputs), theirs(**inputs)
        close(given.logits, expected.logits)
        close(given.loss, expected.loss)
        given.loss.backward()
        expected.loss.backward()
    found, wanted = gradients(assembled.model), gradients(theirs)
    assert found.keys() == wanted.keys() and len(found) > 40
    for name, gradient in wanted.items():
        close(found[name], gradient)


@pytest.mark.parametrize("language,vision", [("llama", "clip"), ("gpt_neox", "siglip")])
def test_linear_is_one_matrix_between_two_models(language, vision, tmp_path):
    """Features times a matrix, put where the image tokens are: written out around the tower and the language model."""
    assembled = tiny_model(language, vision, "linear")
    data = prepared([ask("<image>\n무엇인가요? <image>", "빨간 사과입니다.", images=(1, 2))], renderer_for(assembled), tmp_path)
    opened(assembled, EVERYTHING)
    inputs = sample_inputs(assembled, data, 0, Pixels(assembled))
    given = assembled.model(**inputs)
    given.loss.backward()
    projector = assembled.model.model.multi_modal_projector.linear_1
    weight = projector.weight.detach().clone().requires_grad_()
    bias = projector.bias.detach().clone().requires_grad_()
    tower = AutoModel.from_pretrained(tiny.vision_folder(vision)).vision_model.eval()
    alone = AutoModelForCausalLM.from_pretrained(tiny.language_folder(language)).eval()
    features = tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1 if vision == "clip" else 0 :]
    vectors = (features @ weight.T + bias).flatten(0, 1)
    ids = inputs["input_ids"][0]
    is_image = ids == data.image_id
    embeds = torch.zeros(len(ids), vectors.shape[1]).index_put((is_image,), vectors)
    embeds = embeds.index_put((~is_image,), alone.get_input_embeddings()(ids[~is_image]))
    logits = alone(inputs_embeds=embeds[None]).logits
    close(given.logits, logits)
    loss = F.cross_entropy(logits[0, :-1], inputs["labels"][0, 1:])
    close(given.loss, loss, 1e-5)
    loss.backward()
    close(projector.weight.grad, weight.grad)
    close(projector.bias.grad, bias.grad)
    found = gradients(assembled.model)
    for name, gradient in gradients(tower).items():
        if f"model.vision_tower.{name}" in found:
            close(found[f"model.vision_tower.{name}"], gradient)


def test_loss_is_transformers_loss(tmp_path):
    """The sum over a row's labels is transformers' mean with -100 labels times their number."""
    assembled = tiny_model("llama3", connector="ldpv2")
    data = prepared(mixed_samples(), renderer_for(assembled), tmp_path)
    pixels = Pixels(assembled)
    for batch in batches_of(data, rows_of(data, 1, packing=False), pixels):
        inputs = sample_inputs(assembled, data, int(batch["sample_ids"][0]), pixels)
        with torch.no_grad():
            close(language_loss(assembled.model, batch) / batch["labels"].numel(), assembled.model(**inputs).loss, 1e-6)


def test_a_large_vocabulary_goes_through_in_parts(tmp_path, monkeypatch):
    """Logits of a few labels at a time: the same loss and gradients."""
    import boda.train.objectives as objectives

    assembled = tiny_model("gemma2", connector="mlp2x_gelu")
    opened(assembled, ["connector", "language"])
    data = prepared(mixed_samples(), renderer_for(assembled), tmp_path)
    (batch,) = batches_of(data, rows_of(data, 10_000), Pixels(assembled))
    assembled.model.model.language_model.set_attn_implementation("boda")
    results = []
    for most in (objectives.MAX_LOGITS, 7 * assembled.model.lm_head.weight.shape[0]):
        monkeypatch.setattr(objectives, "MAX_LOGITS", most)
        assembled.model.zero_grad()
        loss = language_loss(assembled.model, batch)
        loss.backward()
        results.append((loss.detach(), gradients(assembled.model)))
    (whole, expected), (parts, found) = results
    close(parts, whole, 1e-6)
    for name, gradient in expected.items():
        close(found[name], gradient, 1e-5)


def plain_ldpv2(features: torch.Tensor, weights: dict[str, torch.Tensor], grid: tuple[int, int]) -> torch.Tensor:
    """LDPv2 of MobileVLM V2 in arithmetic: (B, N, D_vision) -> (B, M, D_language)."""
    hidden = features @ weights["mlp.mlp.0.weight"].T + weights["mlp.mlp.0.bias"]
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    hidden = hidden @ weights["mlp.mlp.2.weight"].T + weights["mlp.mlp.2.bias"]
    (height, width), size = grid, hidden.shape[-1]
    plane = hidden.unflatten(1, grid)  # (B, H, W, D)
    half = (height + 1) // 2, (width + 1) // 2
    rows = []
    for row in range(half[0]):
        for column in range(half[1]):
            top, bottom = row * height // half[0], -(-(row + 1) * height // half[0])
            left, right = column * width // half[1], -(-(column + 1) * width // half[1])
            rows.append(plane[:, top:bottom, left:right].mean(dim=(1, 2)))
    small = torch.stack(rows, dim=1).unflatten(1, half)  # (B, H/2, W/2, D)
    around = torch.nn.functional.pad(small, (0, 0, 1, 1, 1, 1))
    kernel = weights["peg.peg.0.weight"][:, 0]  # (D, 3, 3)
    assert kernel.shape == (size, 3, 3)
    mixed = small + weights["peg.peg.0.bias"]
    for down in range(3):
        for across in range(3):
            mixed = mixed + around[:, down : down + half[0], across : across + half[1]] * kernel[:, down, across]
    return mixed.flatten(1, 2)


@pytest.mark.parametrize("grid,tokens", [((24, 24), 144), ((4, 4), 4), ((27, 27), 196), ((3, 5), 6), ((1, 2), 1)])
def test_ldpv2_is_its_formula(grid, tokens):
    torch.manual_seed(0)
    connector = Ldpv2(6, 8, grid)
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in connector.named_parameters()}
    features = torch.randn(2, grid[0] * grid[1], 6, requires_grad=True)
    same = features.detach().clone().requires_grad_()
    given, expected = connector(features), plain_ldpv2(same, weights, grid)
    assert given.shape == expected.shape == (2, tokens, 8) and Ldpv2.num_tokens(grid) == tokens
    close(given, expected, 1e-6)
    probe = torch.randn_like(given)
    (given * probe).sum().backward()
    (expected * probe).sum().backward()
    close(features.grad, same.grad, 1e-5)
    for name, parameter in connector.named_parameters():
        close(parameter.grad, weights[name].grad, 1e-5)


def test_recipes_know_the_connectors():
    assert set(CONNECTORS) == set(schema.CONNECTORS)


@pytest.mark.parametrize("name", CONNECTORS)
def test_plain_connectors_are_their_formulas(name):
    torch.manual_seed(0)
    connector = CONNECTORS[name](6, 8, (4, 4))
    features = torch.randn(2, 16, 6)
    weights = dict(connector.named_parameters())
    if name == "linear":
        expected = features @ weights["linear_1.weight"].T + weights["linear_1.bias"]
    elif name == "mlp2x_gelu":
        hidden = F.gelu(features @ weights["linear_1.weight"].T + weights["linear_1.bias"])
        expected = hidden @ weights["linear_2.weight"].T + weights["linear_2.bias"]
    elif name == "placed_mlp":
        with torch.no_grad():
            connector.norm.weight.normal_()
            connector.norm.bias.normal_()
        middle, spread = features.mean(-1, keepdim=True), features.var(-1, unbiased=False, keepdim=True)
        even = (features - middle) / (spread + 1e-5).sqrt() * weights["norm.weight"] + weights["norm.bias"]
        hidden = F.gelu((even + weights["place"]) @ weights["linear_1.weight"].T + weights["linear_1.bias"])
        expected = hidden @ weights["linear_2.weight"].T + weights["linear_2.bias"]
    else:
        expected = plain_ldpv2(features, weights, (4, 4))
    close(connector(features), expected, 1e-6)
    assert connector(features).shape[1] == connector.num_tokens((4, 4))
