"""KoCLIP's two published layouts: the PyTorch port loads as it is, the Flax original is imported; both give the plain maths' logits."""

from __future__ import annotations

import json
import math
import shutil
from io import BytesIO
from urllib.request import urlopen

import msgpack
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoModel, CLIPVisionConfig, RobertaConfig, VisionTextDualEncoderModel, ViTConfig
from typer.testing import CliRunner

import boda
from boda.cli import app
from boda.errors import BodaError
from boda.models.encoder import Encoder
from boda.models.pairing import similarity, text_positions, text_vectors
from boda.train.importing import import_checkpoint
from tests import tiny

HEADS, LAYERS, WIDTH, PATCH, SIZE, DIM = 2, 2, 32, 14, 56, 24
TEXT = ["소파 위에 고양이", "자동차", "경복궁은 서울의 중심에 있는 궁궐입니다."]
SIZES = dict(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=48)


# ---------------------------------------------------------------- the maths, from the names of the published PyTorch port


def attention(x, query, key, value, out, keep=None):
    """(B, T, D) through four (weight, bias) pairs; keep (B, T): which keys are real."""
    split = lambda pair: F.linear(x, *pair).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731
    scores = split(query) @ split(key).transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None, None, :], -torch.inf)
    return F.linear((scores.softmax(-1) @ split(value)).transpose(1, 2).flatten(2), *out)


class Plain:
    """The whole model as formulas over a dict of tensors."""

    def __init__(self, weights):
        self.weights = weights

    def two(self, name):
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def norm(self, x, name, eps=1e-5):
        return F.layer_norm(x, (WIDTH,), *self.two(name), eps)

    def roberta(self, ids, keep, first):
        e = "text_model.embeddings."
        positions = torch.where(keep, keep.long().cumsum(1) - 1 + first, 1)
        x = self.weights[e + "word_embeddings.weight"][ids] + self.weights[e + "position_embeddings.weight"][positions]
        x = self.norm(x + self.weights[e + "token_type_embeddings.weight"][0], e + "LayerNorm")
        for number in range(LAYERS):
            a = f"text_model.encoder.layer.{number}."
            parts = [self.two(f"{a}attention.{name}") for name in ("self.query", "self.key", "self.value", "output.dense")]
            x = self.norm(x + attention(x, *parts, keep), a + "attention.output.LayerNorm")
            inner = F.gelu(F.linear(x, *self.two(a + "intermediate.dense")))
            x = self.norm(x + F.linear(inner, *self.two(a + "output.dense")), a + "output.LayerNorm")
        return torch.tanh(F.linear(x[:, 0], *self.two("text_model.pooler.dense")))

    def clip(self, pixels):
        v = "vision_model.vision_model."
        patches = F.conv2d(pixels, self.weights[v + "embeddings.patch_embedding.weight"], stride=PATCH).flatten(2).mT
        first = self.weights[v + "embeddings.class_embedding"].expand(len(pixels), 1, -1)
        x = torch.cat([first, patches], 1) + self.weights[v + "embeddings.position_embedding.weight"]
        x = self.norm(x, v + "pre_layrnorm")
        for number in range(LAYERS):
            a = f"{v}encoder.layers.{number}."
            parts = [self.two(f"{a}self_attn.{name}_proj") for name in ("q", "k", "v", "out")]
            x = x + attention(self.norm(x, a + "layer_norm1"), *parts)
            inner = F.linear(self.norm(x, a + "layer_norm2"), *self.two(a + "mlp.fc1"))
            x = x + F.linear(inner * torch.sigmoid(1.702 * inner), *self.two(a + "mlp.fc2"))
        return self.norm(x[:, 0], v + "post_layernorm")

    def vit(self, pixels):
        v, two = "vision_model.", self.two
        patches = F.conv2d(pixels, *two(v + "embeddings.patch_embeddings.projection"), stride=PATCH).flatten(2).mT
        first = self.weights[v + "embeddings.cls_token"].expand(len(pixels), 1, -1)
        x = torch.cat([first, patches], 1) + self.weights[v + "embeddings.position_embeddings"]
        for number in range(LAYERS):
            a = f"{v}encoder.layer.{number}."
            names = ("attention.query", "attention.key", "attention.value", "output.dense")
            parts = [two(f"{a}attention.{name}") for name in names]
            x = x + attention(self.norm(x, a + "layernorm_before", 1e-12), *parts)
            inner = F.gelu(F.linear(self.norm(x, a + "layernorm_after", 1e-12), *two(a + "intermediate.dense")))
            x = x + F.linear(inner, *two(a + "output.dense"))
        return torch.tanh(F.linear(self.norm(x, v + "layernorm", 1e-12)[:, 0], *two(v + "pooler.dense")))

    def logits(self, pixels, ids, keep, first):
        vision = self.clip if "vision_model.vision_model.post_layernorm.bias" in self.weights else self.vit
        image = F.normalize(vision(pixels) @ self.weights["visual_projection.weight"].T, dim=-1)
        text = F.normalize(self.roberta(ids, keep, first) @ self.weights["text_projection.weight"].T, dim=-1)
        return image @ text.T * self.weights["logit_scale"].exp()


# ---------------------------------------------------------------- random checkpoints


def shapes(vision: str, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of the port by name, written down from the published checkpoints."""
    found: dict[str, tuple[int, ...]] = {"logit_scale": (), "visual_projection.weight": (DIM, WIDTH)}
    found["text_projection.weight"] = (DIM, WIDTH)
    squares, wide = [], []

    def norms(*names):
        for name in names:
            found[f"{name}.weight"] = found[f"{name}.bias"] = (WIDTH,)

    for number in range(LAYERS):
        a = f"text_model.encoder.layer.{number}."
        squares += [f"{a}attention.{name}" for name in ("self.query", "self.key", "self.value", "output.dense")]
        wide += [(a + "intermediate.dense", a + "output.dense")]
        norms(a + "attention.output.LayerNorm", a + "output.LayerNorm")
    squares += ["text_model.pooler.dense"]
    norms("text_model.embeddings.LayerNorm")
    for name, rows in (("word", vocabulary), ("position", 66), ("token_type", 1)):
        found[f"text_model.embeddings.{name}_embeddings.weight"] = (rows, WIDTH)
    tokens = (SIZE // PATCH) ** 2 + 1
    if vision == "clip":
        v = "vision_model.vision_model."
        found[v + "embeddings.class_embedding"] = (WIDTH,)
        found[v + "embeddings.patch_embedding.weight"] = (WIDTH, 3, PATCH, PATCH)
        found[v + "embeddings.position_embedding.weight"] = (tokens, WIDTH)
        norms(v + "pre_layrnorm", v + "post_layernorm")
        for number in range(LAYERS):
            a = f"{v}encoder.layers.{number}."
            squares += [f"{a}self_attn.{name}_proj" for name in "q k v out".split()]
            wide += [(a + "mlp.fc1", a + "mlp.fc2")]
            norms(a + "layer_norm1", a + "layer_norm2")
    else:
        v = "vision_model."
        found[v + "embeddings.cls_token"] = (1, 1, WIDTH)
        found[v + "embeddings.position_embeddings"] = (1, tokens, WIDTH)
        found[v + "embeddings.patch_embeddings.projection.weight"] = (WIDTH, 3, PATCH, PATCH)
        found[v + "embeddings.patch_embeddings.projection.bias"] = (WIDTH,)
        norms(v + "layernorm")
        squares += [v + "pooler.dense"]
        for number in range(LAYERS):
            a = f"{v}encoder.layer.{number}."
            squares += [f"{a}attention.{name}" for name in ("attention.query", "attention.key", "attention.value")]
            squares += [a + "attention.output.dense"]
            wide += [(a + "intermediate.dense", a + "output.dense")]
            norms(a + "layernorm_before", a + "layernorm_after")
    for name in squares:
        found |= {f"{name}.weight": (WIDTH, WIDTH), f"{name}.bias": (WIDTH,)}
    for up, down in wide:
        found |= {f"{up}.weight": (48, WIDTH), f"{up}.bias": (48,), f"{down}.weight": (WIDTH, 48), f"{down}.bias": (WIDTH,)}
    return found


def random_weights(vision: str, vocabulary: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    found = {}
    for name, shape in shapes(vision, vocabulary).items():
        is_norm = name.endswith("weight") and "norm" in name.lower() and len(shape) == 1
        found[name] = torch.randn(shape, generator=generator) * 0.2 + float(is_norm)
    return found


def configs(vision: str, vocabulary: int) -> dict[str, dict]:
    """The two configs as an old transformers wrote them."""
    common = {"transformers_version": "4.8.2", "torch_dtype": None, "num_beams": 1}
    text = RobertaConfig(**SIZES, vocab_size=vocabulary, max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5)
    kind = CLIPVisionConfig if vision == "clip" else ViTConfig
    image = kind(**SIZES, image_size=SIZE, patch_size=PATCH)
    return {"text_config": text.to_dict() | common, "vision_config": image.to_dict() | common}


def write_port(folder, weights, vocabulary, **more):
    """The layout of koclip/koclip-base-pt: pytorch_model.bin, and the files of klue's tokenizer."""
    shutil.copytree(tiny.text_folder(), folder, ignore=shutil.ignore_patterns("model*", "config.json"))
    torch.save(weights, folder / "pytorch_model.bin")
    config = {"model_type": "vision-text-dual-encoder", "architectures": ["VisionTextDualEncoderModel"]}
    config |= {"projection_dim": DIM, "logit_scale_init_value": 2.6592, **configs("clip", vocabulary), **more}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    preprocessor = {"crop_size": SIZE, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3}
    preprocessor |= {"feature_extractor_type": "CLIPFeatureExtractor", "size": SIZE}
    preprocessor |= {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return folder


def flax_bytes(weights) -> bytes:
    """The same tensors as flax.serialization.msgpack_serialize writes a tree of them."""
    tree: dict = {}
    for name, tensor in weights.items():
        *path, leaf = name.split(".")
        array = tensor.numpy()
        if leaf == "weight" and "norm" in path[-1].lower():
            leaf = "scale"
        elif (leaf == "weight" and path[-1].endswith("embeddings")) or path[-1:] == ["position_embedding"]:
            leaf = "embedding"
        elif leaf == "weight" and array.ndim == 4:
            leaf, array = "kernel", np.moveaxis(array, (0, 1, 2, 3), (3, 2, 0, 1))
        elif leaf == "weight":
            leaf, array = "kernel", array.T
        place = tree
        for step in path:
            place = place.setdefault(step, {})
        packed = msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
        place[leaf] = msgpack.ExtType(1, packed)
    return msgpack.packb(tree)


def write_flax(folder, vision, weights, vocabulary, **more):
    folder.mkdir(parents=True)
    (folder / "flax_model.msgpack").write_bytes(flax_bytes(weights))
    config = {"model_type": "hybrid-clip", "architectures": ["HybridCLIP"], "projection_dim": DIM, "seed": 42}
    (folder / "config.json").write_text(json.dumps(config | configs(vision, vocabulary) | more), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def vocabulary():
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(tiny.text_folder()))


def asked(processor):
    pictures = [tiny.random_picture(seed) for seed in range(2)]
    return processor(text=TEXT, images=pictures, padding=True, return_tensors="pt")


def close(given, expected):
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


# ---------------------------------------------------------------- tests


@torch.no_grad()
def test_the_port_loads_as_it_is(tmp_path, vocabulary):
    weights = random_weights("clip", vocabulary)
    folder = write_port(tmp_path / "koclip-base-pt", weights, vocabulary)
    model, processor = boda.load(folder, device="cpu", dtype=torch.float32)
    assert type(model) is VisionTextDualEncoderModel
    inputs = asked(processor)
    expected = Plain(weights).logits(inputs["pixel_values"], inputs["input_ids"], inputs["attention_mask"].bool(), 2)
    assert expected.std() > 1e-3
    close(model(**inputs).logits_per_image, expected)
    close(VisionTextDualEncoderModel.from_pretrained(folder)(**inputs).logits_per_image, expected)


@torch.no_grad()
@pytest.mark.parametrize("where", ["config.json", "boda.json"])
def test_positions_counted_from_zero(where, tmp_path, vocabulary):
    """`text_position_offset: 0` = every text read with position_ids arange(n), padded or packed; and it survives saving."""
    weights = random_weights("clip", vocabulary)
    more = {"text_position_offset": 0}
    folder = write_port(tmp_path / "port", weights, vocabulary, **(more if where == "config.json" else {}))
    if where == "boda.json":
        (folder / where).write_text(json.dumps(more), encoding="utf-8")
    model, processor = boda.load(folder, device="cpu", dtype=torch.float32)
    inputs = asked(processor)
    keep = inputs["attention_mask"].bool()
    expected = Plain(weights).logits(inputs["pixel_values"], inputs["input_ids"], keep, 0)
    assert (expected - Plain(weights).logits(inputs["pixel_values"], inputs["input_ids"], keep, 2)).abs().max() > 1e-2
    close(model(**inputs).logits_per_image, expected)
    stock = VisionTextDualEncoderModel.from_pretrained(folder)
    counted = torch.arange(keep.shape[1]).expand(keep.shape)
    close(stock(**inputs, position_ids=counted).logits_per_image, expected)
    lengths = keep.sum(1)
    row, borders = inputs["input_ids"][keep][None], F.pad(lengths.cumsum(0), (1, 0)).int()
    texts = text_vectors(model, row, borders, text_positions(model, lengths.tolist()))
    image = model.get_image_features(inputs["pixel_values"]).pooler_output
    close(similarity(model, image, texts), expected)
    model.save_pretrained(tmp_path / "again")
    close(AutoModel.from_pretrained(tmp_path / "again")(**inputs).logits_per_image, expected)


@torch.no_grad()
@pytest.mark.parametrize("vision", ["clip", "vit"])
def test_flax_import(vision, tmp_path, vocabulary):
    weights = random_weights(vision, vocabulary)
    source = write_flax(tmp_path / "koclip", vision, weights, vocabulary)
    out = import_checkpoint(source, tmp_path / "out", language=str(tiny.text_folder()))
    inputs = asked(boda.load(out, device="cpu", dtype=torch.float32)[1])
    expected = Plain(weights).logits(inputs["pixel_values"], inputs["input_ids"], inputs["attention_mask"].bool(), 0)
    assert expected.std() > 1e-3
    close(VisionTextDualEncoderModel.from_pretrained(out)(**inputs).logits_per_image, expected)
    info = json.loads((out / "boda.json").read_text(encoding="utf-8"))
    assert info["kind"] == "clip" and info["imported"]["layout"] == "KoCLIP in Flax"
    size = boda.load(out, device="cpu", dtype=torch.float32)[1].image_processor
    assert (list(size.image_mean), dict(size.crop_size)) == (
        [0.48145466, 0.4578275, 0.40821073],
        {"height": SIZE, "width": SIZE},
    )


@pytest.mark.online
def test_the_published_port_gives_its_published_numbers():
    """KoCLIP's notebook: two cats on a sofa, COCO val2017 39769."""
    with urlopen("http://images.cocodataset.org/val2017/000000039769.jpg") as answer:
        picture = Image.open(BytesIO(answer.read()))
    encoder = Encoder.load("koclip/koclip-base-pt", device="cpu", dtype=torch.float32)
    texts = encoder.texts(["소파 위에 고양이", "강아지와 강아지 주인", "쳇바퀴를 달리는 햄스터", "자동차"])
    given = encoder.probabilities(encoder.images([picture]), texts)[0]
    np.testing.assert_allclose(given, [0.8447, 0.0036, 0.0459, 0.1057], atol=2e-3)


def test_flax_command(tmp_path, vocabulary):
    source = write_flax(tmp_path / "koclip", "clip", random_weights("clip", vocabulary), vocabulary)
    command = ["--json", "import", str(source), "--language", str(tiny.text_folder()), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["tokenizer"] == str(tiny.text_folder())


def test_flax_imports_that_are_refused(tmp_path, vocabulary):
    weights, language = random_weights("clip", vocabulary), str(tiny.text_folder())
    cut = {name: tensor for name, tensor in weights.items() if name != "text_model.pooler.dense.bias"}
    other = weights | {"visual_projection.weight": torch.zeros(DIM, WIDTH + 1)}
    strange = weights | {"audio_model.weight": torch.zeros(2, 2)}
    for number, (given, message) in enumerate(
        [(cut, "lacks pooler.dense.bias"), (other, "visual_projection"), (strange, "belongs to no part")]
    ):
        with pytest.raises(BodaError, match=message):
            import_checkpoint(
                write_flax(tmp_path / f"{number}", "clip", given, vocabulary), tmp_path / "out", language=language
            )
    source = write_flax(tmp_path / "whole", "clip", weights, vocabulary)
    with pytest.raises(BodaError, match="name its text tower; --language"):
        import_checkpoint(source, tmp_path / "out")
    with pytest.raises(BodaError, match="--vision has no use"):
        import_checkpoint(source, tmp_path / "out", vision="x", language=language)
    (source / "flax_model.msgpack").write_bytes((source / "flax_model.msgpack").read_bytes()[:1000])
    with pytest.raises(BodaError, match="cannot be read as Flax's tensors"):
        import_checkpoint(source, tmp_path / "out", language=language)
    (source / "config.json").write_text('{"model_type": "bart"}', encoding="utf-8")
    with pytest.raises(BodaError, match="none of the layouts that can be imported"):
        import_checkpoint(source, tmp_path / "out", language=language)
    assert not (tmp_path / "out").exists()
