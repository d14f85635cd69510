"""Pair models: which class comes of which towers, what is new in them, and what the Encoder gives and refuses."""

from __future__ import annotations

import math
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, VisionTextDualEncoderModel

import boda
from boda.data.images import ImageSpec
from boda.errors import BodaError
from boda.models.assemble import load_tokenizer
from boda.models.dual_encoder import BodaDualEncoderModel
from boda.models.encoder import Encoder, pool_alone
from boda.models.pairing import assemble_pair, image_vectors, packs_texts, similarity, write_pair
from boda.models.vocabulary import train_tokenizer
from boda.recipe import ModelSpec
from boda.serve.chat import Conversation
from boda.train.freeze import open_parts, picture_size
from tests import tiny

SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
CAUSAL = {"qwen3": {"num_key_value_heads": 1, "head_dim": 16}}
RESNET = dict(model_type="resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
TEXTS = ["고양이", "소파 위에 고양이 두 마리가 누워 있습니다.", "자동차가 달린다"]


def made(vision="clip", text=None, contrast="softmax", seed=0, **rest):
    """A pair model; `text` is a model_type built from a config, with a tokenizer trained on the spot, or None: klue's kind."""
    vision = vision if isinstance(vision, dict) else str(tiny.vision_folder(vision))
    if text is None:
        language = str(tiny.text_folder())
        tokenizer = load_tokenizer(language)
    else:
        language = {"model_type": text, **SMALL, "max_position_embeddings": 64, **CAUSAL.get(text, {})}
        tokenizer = train_tokenizer(tiny.korean_lines(), 400)
    spec = ModelSpec(kind="clip", vision=vision, language=language, contrast=contrast, **{"projection_dim": 20, **rest})
    return assemble_pair(spec, tokenizer, seed)


def written(assembled, folder):
    spec = ImageSpec(size=assembled.image_size)
    if assembled.image_processor is not None:
        spec = ImageSpec.from_processor(assembled.image_processor)
    return write_pair(assembled, spec, folder, {"kind": "clip"})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return Encoder.load(written(made(), tmp_path_factory.mktemp("pair") / "model"), device="cpu", dtype=torch.float32)


CLASSES = [  # vision, text, contrast, whether transformers' own class holds it, poolings
    *((vision, None, "softmax", True, None) for vision in tiny.VISION_FAMILIES),
    (RESNET, "bert", "softmax", False, ("pooler", "pooler")),
    ("convnext", "modernbert", "softmax", False, ("pooler", "mean")),
    ("siglip", "xlm-roberta", "sigmoid", False, ("pooler", "pooler")),
    ("clip", "qwen3", "softmax", False, ("pooler", "last")),
    ("vit", "electra", "sigmoid", False, ("pooler", "mean")),
    ({"model_type": "vit_mae", **SMALL, "image_size": 32, "patch_size": 8, "mask_ratio": 0.0}, "bert", "softmax", False,
     ("mean", "pooler")),
]  # fmt: skip


def test_a_tower_whose_config_knows_no_picture_size_can_be_trained():
    bit = dict(model_type="bit", embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], num_groups=4)
    model = made(bit, "electra", image_size=40).model
    assert picture_size(model) == 40
    trained = open_parts(model, ["vision", "text", "logit_scale"], None, 0)
    assert any(name.startswith("vision_model.encoder") for name in trained)


@pytest.mark.parametrize("vision, text, contrast, is_stock, poolings", CLASSES)
@torch.no_grad()
def test_towers_make_a_model_that_survives_saving(vision, text, contrast, is_stock, poolings, tmp_path):
    assembled = made(vision, text, contrast, image_size=32 if isinstance(vision, dict) else None)
    model = assembled.model
    assert type(model) is (VisionTextDualEncoderModel if is_stock else BodaDualEncoderModel)
    assert is_stock or (model.config.vision_pooling, model.config.text_pooling) == poolings
    folder = written(assembled, tmp_path / "model")
    loaded, processor = boda.load(folder, device="cpu", dtype=torch.float32)
    assert type(loaded) is type(model)
    pictures = [tiny.random_picture(seed) for seed in range(2)]
    inputs = processor(text=TEXTS, images=pictures, padding=True, return_tensors="pt")
    given = model(**inputs).logits_per_image
    assert given.shape == (2, 3) and given.std() > 0
    torch.testing.assert_close(loaded(**inputs).logits_per_image, given, rtol=0, atol=1e-5)
    text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
    torch.testing.assert_close(similarity(model, image_vectors(model, inputs["pixel_values"]), text), given, rtol=0, atol=1e-4)
    encoder = Encoder(loaded, processor)
    probabilities = encoder.probabilities(encoder.images(pictures), encoder.texts(TEXTS))
    expected = given.sigmoid() if contrast == "sigmoid" else given.softmax(-1)
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-5)


@torch.no_grad()
def test_a_siglip_tower_keeps_the_vectors_it_was_trained_to_compare():
    """Locked (LiT), it has nothing else: a random projection before it would never learn."""
    model = made("siglip", contrast="sigmoid", projection_dim=32).model
    pixels = torch.rand(2, 3, *[model.config.vision_config.image_size] * 2)
    torch.testing.assert_close(image_vectors(model, pixels), model.vision_model(pixels).pooler_output)
    assert not torch.equal(made("clip", projection_dim=32).model.visual_projection.weight, torch.eye(32))


def test_what_is_new_comes_from_the_seed():
    first, again, other = made(seed=1).model, made(seed=1).model, made(seed=2).model
    for name in ("visual_projection.weight", "text_projection.weight", "text_model.pooler.dense.weight"):
        parameters = [dict(model.named_parameters())[name] for model in (first, again, other)]
        assert torch.equal(parameters[0], parameters[1]) and not torch.equal(parameters[0], parameters[2])
    assert first.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert made(logit_scale=1.0).model.logit_scale.item() == 1.0
    sigmoid = made(contrast="sigmoid").model
    assert (sigmoid.logit_scale.item(), sigmoid.logit_bias.item()) == (pytest.approx(math.log(10)), -10.0)


def test_clips_own_projection_is_taken_where_it_fits():
    own = AutoModel.from_pretrained(tiny.vision_folder("clip")).visual_projection.weight
    assert torch.equal(made(projection_dim=24).model.visual_projection.weight, own)
    assert made(projection_dim=20).model.visual_projection.weight.shape == (20, 32)


def test_a_tokenizer_made_on_the_spot_marks_where_texts_begin_and_end(tmp_path):
    assembled = made(text="bert")
    ids = assembled.tokenizer("고양이")["input_ids"]
    assert assembled.tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == ["<|im_start|>", "<|im_end|>"]
    assert boda.load(written(assembled, tmp_path / "m"), device="cpu")[1].tokenizer("고양이")["input_ids"] == ids
    klue = made().tokenizer
    assert klue.convert_ids_to_tokens(klue("말")["input_ids"])[0] == "[CLS]"


def test_no_text_encoder_is_said():
    for kind in ("vit", "t5"):
        with pytest.raises(BodaError, match=f"a {kind} model is no text encoder"):
            made(text=kind)


# ---------------------------------------------------------------- Encoder


@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.no_grad()
def test_a_ready_model(family):
    """Vectors as transformers' own processor and model give them; SigLIP reads its padding."""
    folder = tiny.vision_folder(family)
    encoder = Encoder.load(folder, device="cpu", dtype=torch.float32)
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    pictures = [tiny.random_picture(seed) for seed in range(3)]
    padding = {"padding": "max_length", "max_length": 64} if family == "siglip" else {"padding": True}
    inputs = processor(text=TEXTS, images=pictures, return_tensors="pt", **padding)
    if family == "siglip":
        inputs.pop("attention_mask")  # trained without one
    outputs = model(**inputs)
    np.testing.assert_allclose(encoder.texts(TEXTS), outputs.text_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.images(iter(pictures), batch=2), outputs.image_embeds.numpy(), atol=1e-5)
    logits = outputs.logits_per_image
    expected = logits.sigmoid() if family == "siglip" else logits.softmax(-1)
    np.testing.assert_allclose(
        encoder.probabilities(encoder.images(pictures), encoder.texts(TEXTS)), expected.numpy(), atol=1e-5
    )
    assert encoder.dim == outputs.text_embeds.shape[1]
    with pytest.raises(BodaError, match="one that compares pictures with texts"):
        Encoder.load(tiny.language_folder("llama"))
    with pytest.raises(BodaError, match="compares pictures with texts and answers nothing"):
        Conversation(str(folder), [])


def test_texts_keep_their_order_in_any_batch(encoder):
    every = [*TEXTS, *tiny.korean_lines()[:5]]
    vectors = encoder.texts(every, batch=3)
    assert vectors.dtype == np.float32 and vectors.shape == (8, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for text, vector in zip(every, vectors):
        np.testing.assert_allclose(encoder.texts([text])[0], vector, atol=1e-5)
    assert encoder.texts([]).shape == (0, encoder.dim) and encoder.images([]).shape == (0, encoder.dim)


def test_texts_that_are_no_texts_or_too_long(encoder):
    np.testing.assert_array_equal(encoder.texts([unicodedata.normalize("NFD", "경복궁")]), encoder.texts(["경복궁"]))
    with pytest.raises(BodaError, match="text 2 of 2 is empty"):
        encoder.texts(["말", " \n"])
    long = "궁궐 " * 200
    with pytest.warns(UserWarning, match=f"1 of 2 texts are longer than {encoder.max_length} tokens"):
        encoder.texts([long, "짧다"])
    encoder.texts([long])  # said once
    assert encoder.cut == 2


def test_a_fingerprint_is_of_the_weights(tmp_path):
    assembled = made()
    folder = written(assembled, tmp_path / "model")
    marks = {Encoder.load(folder, device="cpu", dtype=dtype).fingerprint for dtype in (torch.float32, torch.bfloat16)}
    with torch.no_grad():
        assembled.model.text_projection.weight.mul_(1.01)
    other = written(assembled, tmp_path / "other")
    assert len(marks) == 1 and Encoder.load(other, device="cpu").fingerprint not in marks


@pytest.mark.parametrize("family", tiny.VISION_FAMILIES)
@torch.inference_mode()
def test_patches(family, tmp_path):
    """A grid of unit vectors; and pooling alone what the tower pools gives the tower's own vector."""
    encoder = Encoder.load(written(made(family), tmp_path / "model"), device="cpu", dtype=torch.float32)
    _, grid, _ = tiny.VISION_SHAPES[family]
    picture = tiny.random_picture(3)
    patches = encoder.patches(picture)
    assert patches.shape == (*grid, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(patches, axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(encoder.images([picture]), encoder.images([picture]))  # attention is set back
    tower, pixels = encoder.model.vision_model, encoder._pixels([picture])["pixel_values"]
    outputs = tower(pixels)
    states = outputs.last_hidden_state
    if family == "convnext":  # what is painted at one place moves what is said of that place alone
        painted = picture.copy()
        painted.paste((255, 0, 0), (0, 0, picture.width // grid[1] // 2, picture.height // grid[0] // 2))
        moved = np.abs(encoder.patches(painted) - patches).max(-1)
        assert moved.argmax() == 0 and moved[0, 0] > 1e-4
        return
    if family == "siglip":  # attention over equal features gives that of one of them
        first = states[:, :1]
        torch.testing.assert_close(pool_alone(tower, first), tower.head(first.expand(-1, 5, -1)), rtol=0, atol=1e-5)
        return
    alone = pool_alone(tower, states[:, :1])
    torch.testing.assert_close(alone, outputs.pooler_output, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_patch_shows_its_own_place():
    """With one layer, that looks at itself only, what is painted on one patch moves the vector of that patch and no other."""
    clip = {"model_type": "clip_vision_model", **SMALL, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8}
    assembled = made(clip, image_size=32)
    processor = SimpleNamespace(tokenizer=assembled.tokenizer, image_processor=ImageSpec(32).to_processor())
    encoder = Encoder(assembled.model, processor)
    picture = tiny.random_picture(1, (32, 32))
    painted = picture.copy()
    painted.paste((255, 0, 0), (16, 8, 24, 16))  # row 1, column 2
    moved = np.abs(encoder.patches(painted) - encoder.patches(picture)).max(-1)
    assert moved[1, 2] > 1e-3 and (moved > 1e-6).sum() == 1


def test_which_towers_read_packed_rows():
    assert all(packs_texts(made(text=kind).model) for kind in (None, "bert", "xlm-roberta", "modernbert", "electra", "qwen3"))
    assert not packs_texts(made(text="deberta-v2").model)
