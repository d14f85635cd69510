"""A Flamingo: new it is its language model; batched, cached, packed, recomputed, compiled and saved it is one and the same model."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import boda
from boda.data.images import ImageSpec
from boda.data.interleaved import FlamingoRenderer
from boda.data.render import processor_template
from boda.data.sample import conversation
from boda.errors import BodaError
from boda.models.assemble import END_OF_CHUNK, Assembled, assemble, load_tokenizer
from boda.models.attention import ATTENTION_NAME
from boda.models.flamingo import GatedCrossAttention
from boda.models.generate import encode, generate
from boda.models.vocabulary import IMAGE_TOKEN
from boda.recipe import ModelSpec, Stage, template_text
from boda.train.build import write_vlm
from boda.train.freeze import cast, embedding_names, language_of, open_parts, part_of, set_modes
from boda.train.objectives import language_loss
from boda.train.optimizer import build_optimizer
from tests import tiny
from tests.support import (
    Pixels,
    answering,
    assert_same_step,
    batches_of,
    mixed_samples,
    oracle_step,
    picture,
    prepared,
    rows_of,
    step,
)

FAMILIES = ("gpt_neox", "llama", "hyperclovax", "qwen3")
TRAINED = ["resampler", "cross_attention", "language.tokens"]
TEMPLATE = template_text("flamingo")
SETTINGS = {"depth": 2, "num_latents": 5, "heads": 2, "head_dim": 16}


def new(family: str, **settings) -> Assembled:
    folder = str(tiny.language_folder(family))
    spec = ModelSpec(
        kind="flamingo",
        vision=str(tiny.vision_folder("clip_vision")),
        vision_layer=-1,
        language=folder,
        connector=SETTINGS | settings,
    )
    return assemble(spec, load_tokenizer(folder))


@torch.no_grad()
def looking(family: str, **settings) -> Assembled:
    """One that sees: its gates are open, and its matrices large enough that a wrong picture shows."""
    assembled = new(family, **settings)
    for number, block in enumerate(blocks_of(assembled.model)):
        block.attn_gate.fill_(0.8 + 0.1 * number)
        block.ff_gate.fill_(-0.4)
        block.attn.to_out.weight.mul_(4)
    return assembled


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parts_of_different_types_go_together(dtype, tmp_path):
    """As published: a tower in fp32, a language model in half precision; looked at as it is, and opened for training."""
    folder = tiny.language_folder("gpt_neox")
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(folder))
    spec = ModelSpec(
        kind="flamingo",
        vision=str(tiny.vision_folder("clip_vision")),
        vision_layer=-1,
        language=str(tmp_path),
        connector=SETTINGS,
    )
    assembled = assemble(spec, tokenizer)
    assert assembled.model.model.language_model.dtype == dtype
    data = prepared(mixed_samples()[:3], FlamingoRenderer(tokenizer, TEMPLATE, 1), tmp_path)
    batches = batches_of(data, rows_of(data, 400), Pixels(assembled))
    language_of(assembled.model).set_attn_implementation(ATTENTION_NAME)
    trained = open_parts(assembled.model, TRAINED, None, 0, tokens_of(assembled))
    cast(assembled.model, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        sum(language_loss(assembled.model, batch) for batch in batches).backward()
    assert all(parameter.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in trained.values())


def blocks_of(model) -> list[GatedCrossAttention]:
    return [module for module in model.modules() if isinstance(module, GatedCrossAttention)]


def tokens_of(assembled: Assembled) -> list[int]:
    return assembled.tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, END_OF_CHUNK])


def opened(assembled: Assembled) -> dict[str, torch.nn.Parameter]:
    trained = open_parts(assembled.model, TRAINED, None, 0, tokens_of(assembled))
    assembled.model.eval()
    return trained


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 3, 56, 56, generator=torch.Generator().manual_seed(seed))


def ids_with(assembled: Assembled, *places: int, length: int = 12, seed: int = 0) -> torch.Tensor:
    """(1, L) ids of words with pictures at these places."""
    ids = torch.randint(5, 500, (1, length), generator=torch.Generator().manual_seed(seed))
    ids[0, list(places)] = tokens_of(assembled)[0]
    return ids


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def seeing(family):
    return looking(family, every=2 if family == "qwen3" else 1)


# ---------------------------------------------------------------- what it is


@torch.no_grad()
def test_a_new_one_is_its_language_model(family):
    """To the last bit, with pictures and without; one with open gates is not."""
    assembled = new(family)
    language = AutoModelForCausalLM.from_pretrained(tiny.language_folder(family)).eval()
    ids = ids_with(assembled, 2, 7)
    expected = language(input_ids=ids).logits
    for given in ({}, {"pixel_values": pixels(2)}):
        seen = ids if given else ids.masked_fill(ids == tokens_of(assembled)[0], 9)
        wanted = expected if given else language(input_ids=seen).logits
        logits = assembled.model(input_ids=seen, **given).logits[..., : wanted.shape[-1]]
        assert float((logits - wanted).abs().max()) == 0.0
    changed = looking(family).model(input_ids=ids, pixel_values=pixels(2)).logits[..., : expected.shape[-1]]
    assert float((changed - expected).abs().max()) > 0.1


@torch.no_grad()
def test_a_token_sees_the_latest_picture_only(seeing):
    """Another picture changes what follows it up to the next one, where no layer carries it on, and nothing before it."""
    model, ids = seeing.model, ids_with(seeing, 3, 8)
    first, second = pixels(1), pixels(1, seed=1)
    before = model(input_ids=ids, pixel_values=torch.cat([first, second])).logits
    other = model(input_ids=ids, pixel_values=torch.cat([pixels(1, seed=2), second])).logits
    change = (other - before).abs().amax(dim=(0, 2))
    assert float(change[:3].max()) < 1e-5 < 1e-3 < float(change[3:8].min())
    # One attention alone: tokens before all pictures get nothing, and those behind the second nothing of the first.
    seen = []
    hook = blocks_of(model)[0].attn.register_forward_hook(lambda module, given, found: seen.append(found))
    model(input_ids=ids, pixel_values=torch.cat([first, second]))
    model(input_ids=ids, pixel_values=torch.cat([pixels(1, seed=2), second]))
    hook.remove()
    assert float(seen[0][:, :3].abs().max()) == 0.0
    change = (seen[1] - seen[0]).abs().amax(dim=(0, 2))
    assert float(change[8:].max()) < 1e-5 < 1e-3 < float(change[3:8].min())


@torch.no_grad()
def test_frames(seeing):
    """A picture of one frame is a picture; of a film the resampler sees the features of all frames one after another."""
    model = seeing.model.model
    one = model.get_image_features(pixels(2)).pooler_output
    torch.testing.assert_close(model.get_image_features(pixels(2)[:, None]).pooler_output, one, rtol=0, atol=1e-5)
    film = pixels(2, 3)
    given = model.get_image_features(film)
    assert given.last_hidden_state.shape[:2] == (2, 3) and given.pooler_output.shape == one.shape
    features = torch.cat([model.get_image_features(film[:, frame]).last_hidden_state for frame in range(3)], dim=1)
    torch.testing.assert_close(given.pooler_output, model.resampler(features), rtol=0, atol=1e-5)
    ids = ids_with(seeing, 1, 6)
    logits = seeing.model(input_ids=ids, pixel_values=film).logits
    assert float((logits - seeing.model(input_ids=ids, pixel_values=film[:, 0]).logits).abs().max()) > 1e-3


def test_numbers_that_differ(seeing):
    for call in (seeing.model.forward, seeing.model.generate):
        with pytest.raises(ValueError, match="3 pictures for 2 image tokens"):
            call(input_ids=ids_with(seeing, 0, 4), pixel_values=pixels(3))


# Language models that no block reaches, and what is said.
BLIND = {
    "layers that lie deeper": (
        "opt",
        {"ffn_dim": 64, "word_embed_proj_dim": 48},
        "a 'opt' model shows no list of its 2 layers",
    ),
    "no attention": ("mamba", {}, "a mamba model hands its layers no pictures"),
}


@pytest.mark.parametrize("name", BLIND)
def test_a_language_model_that_cannot_see(name):
    kind, config, words = BLIND[name]
    config = {"model_type": kind, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4} | config
    tower = str(tiny.vision_folder("clip_vision"))
    spec = ModelSpec(kind="flamingo", vision=tower, vision_layer=-1, language=config, connector=SETTINGS)
    with pytest.raises(BodaError, match=f"model.language: {words}"):
        assemble(spec, load_tokenizer(str(tiny.language_folder("gpt_neox"))))


# ---------------------------------------------------------------- answers


def turn(role: str, *content) -> dict:
    """A turn of texts and pictures (numbers: their seeds)."""
    parts = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": tiny.random_picture(part)}
        for part in content
    ]
    return {"role": role, "content": parts}


SHOWN = [turn("user", 1, "해당 이미지는"), turn("assistant", "욕실 세면대입니다.")]  # a demonstration before the question
CONVERSATIONS = [
    [turn("user", 2, "무엇인가요?")],
    [turn("user", "안녕하세요?")],
    [*SHOWN, turn("user", 3, "해당 이미지는")],
    [turn("user", "두 그림을", 4, "비교해서 아주 자세하게 설명해 주세요.", 5, "색과 모양과 개수를 모두 말해 주세요.")],
    [*SHOWN, *SHOWN, turn("user", 6, "해당 이미지는")],
]


@pytest.fixture(scope="module")
def able(seeing):
    return answering(copy.copy(seeing), TEMPLATE)


@torch.no_grad()
def test_batched_is_single(able):
    """Logits of rows with none, one, two and three pictures in a padded batch, and their answers with one beam and with three."""
    model, processor = able
    batch = encode(model, processor, CONVERSATIONS)
    together = model(**batch).logits
    for row, asked in enumerate(CONVERSATIONS):
        alone = model(**encode(model, processor, [asked])).logits[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, rtol=0, atol=1e-5 * float(alone.abs().max()))
    for beams in (1, 3):
        options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}
        single = [answer_ids(model, encode(model, processor, [asked]), options)[0] for asked in CONVERSATIONS]
        assert answer_ids(model, batch, options) == single
        assert len(set(map(tuple, single))) > 3
        texts = [generate(model, processor, [asked], max_new_tokens=8, beams=beams)[0] for asked in CONVERSATIONS]
        assert generate(model, processor, CONVERSATIONS, max_new_tokens=8, beams=beams) == texts


def answer_ids(model, inputs: dict, options: dict) -> list[list[int]]:
    return model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :].tolist()


@torch.no_grad()
def test_cached_is_full(able):
    """Every step of a cached answer has the logits of a whole forward pass over what is there by then."""
    model, processor = able
    inputs = encode(model, processor, CONVERSATIONS)
    options = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False, "max_new_tokens": 6}
    given = model.generate(**inputs, **options, num_beams=1)
    length = inputs["input_ids"].shape[1]
    mask = torch.cat(
        [inputs["attention_mask"], torch.ones(len(CONVERSATIONS), given.sequences.shape[1] - length).long()], dim=1
    )
    whole = model(input_ids=given.sequences, attention_mask=mask, pixel_values=inputs["pixel_values"], use_cache=False).logits
    for number, logits in enumerate(given.logits):
        expected = whole[:, length + number - 1]
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    # Beams: the best one's score is what a whole pass gives it.
    options |= {"num_beams": 3, "output_scores": True, "length_penalty": 1.0, "eos_token_id": [-1]}
    asked = encode(model, processor, CONVERSATIONS[2:3])
    found = model.generate(**asked, **options)
    length = asked["input_ids"].shape[1]
    logits = model(input_ids=found.sequences, pixel_values=asked["pixel_values"], use_cache=False).logits.log_softmax(-1)
    said = logits[0, length - 1 : -1].gather(1, found.sequences[0, length:, None])
    assert float(found.sequences_scores[0]) == pytest.approx(float(said.mean()), abs=1e-4)


# ---------------------------------------------------------------- training


def documents() -> list:
    """Texts with pictures in them, and questions about one picture and after demonstrations."""
    texts = (
        "<image>빨간 사과가 하나 있습니다. 그 옆에<image>파란 공이 있습니다.",
        "먼저 보세요.<image>고양이 두 마리<image>강아지 한 마리",
    )
    return [
        *mixed_samples(),
        *(
            conversation(("assistant", text), images=(picture(number), picture(number + 1)))
            for number, text in enumerate(texts, 3)
        ),
    ]


class Case:
    """A Flamingo with its parts open, samples prepared for it, and what each of them gives alone through a plain forward pass."""

    def __init__(self, assembled: Assembled, folder: Path):
        self.assembled, self.pixels = assembled, Pixels(assembled)
        self.trained = opened(assembled)
        self.data = prepared(documents(), FlamingoRenderer(assembled.tokenizer, TEMPLATE, 1), folder)
        self.expected = oracle_step(assembled, self.data, self.pixels, self.trained)

    def step(self, row_length: int = 10_000, packing: bool = True, share: bool = True):
        rows = rows_of(self.data, row_length, packing=packing, share=share)
        batches = batches_of(self.data, rows, self.pixels)
        return batches, step(self.assembled.model, batches, self.trained)


@pytest.fixture(scope="module")
def case(family, tmp_path_factory):
    return Case(looking(family, every=2 if family == "qwen3" else 1), tmp_path_factory.mktemp(family))


def test_packed_is_separate(case):
    """Losses and gradients of resampler, cross-attention and the two rows: a sample a row, all in one, pictures shared."""
    longest = int(case.data.lengths[:].max())
    ways = [dict(row_length=longest, packing=False), dict(share=False), dict(), dict(row_length=2 * longest)]
    for way in ways:
        _, given = case.step(**way)
        assert_same_step(given, case.expected)
    assert any((batch["prefix"] >= 0).any() for batch in case.step()[0])
    parts = {name: value for name, value in case.expected.items() if name != "loss"}
    assert {part_of(name, embedding_names(case.assembled.model), TRAINED) for name in parts} == set(TRAINED)
    for name, gradient in parts.items():
        if "attn_gate" in name or "resampler.latents" in name or name in embedding_names(case.assembled.model):
            assert float(gradient.abs().max()) > 1e-4, name
    rows = (
        next(parts[name] for name in embedding_names(case.assembled.model) if name in parts).abs().amax(dim=1).nonzero()[:, 0]
    )
    assert sorted(rows.tolist()) == sorted(tokens_of(case.assembled))


def test_recomputed_is_kept(case):
    """Gradient checkpointing computes blocks twice and changes nothing."""
    model, calls = case.assembled.model, []
    language = model.model.language_model

    def switch(word: str):  # transformers renamed it after 5.17
        return getattr(language, f"activation_checkpointing_{word}", None) or getattr(
            language, f"gradient_checkpointing_{word}"
        )

    hooks = [block.attn.register_forward_hook(lambda *_: calls.append(1)) for block in blocks_of(model)]
    try:
        batches, _ = case.step()
        once = len(calls)
        switch("enable")({"use_reentrant": False})
        set_modes(model, case.trained)
        _, given = case.step()
        assert once == len(blocks_of(model)) * len(batches) and len(calls) == 3 * once
    finally:
        for hook in hooks:
            hook.remove()
        switch("disable")()
        model.eval()
    assert_same_step(given, case.expected)


def stage(**changes) -> Stage:
    values = {"name": "align", "train": TRAINED, "data": [{"path": "none.json"}], "batch_size": 2, "learning_rate": 1e-2}
    return Stage.model_validate(values | {"weight_decay": 0.1} | changes)


def test_only_what_is_open_moves(family, tmp_path):
    """Weight decay is on the matrices of the cross-attention, and after steps with it all other rows and parts are as they were, bit
    by bit."""
    case = Case(looking(family), tmp_path)
    model, tables = case.assembled.model, embedding_names(case.assembled.model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(stage(), model, case.trained, lambda name: part_of(name, tables, TRAINED))
    names = {id(parameter): name for name, parameter in case.trained.items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            is_decayed = ".cross_attention." in names[id(parameter)] and parameter.ndim >= 2
            assert group["weight_decay"] == (0.1 if is_decayed else 0.0), names[id(parameter)]
    for _ in range(3):
        case.step()
        optimizer.step()
    table = next(name for name in tables if name in case.trained)
    others = torch.ones(len(before[table]), dtype=torch.bool)
    others[tokens_of(case.assembled)] = False
    for name, value in model.state_dict().items():
        is_tied = value.data_ptr() == case.trained[table].data_ptr()
        if name == table or is_tied:
            assert torch.equal(value[others], before[name][others])
            assert bool((value[~others] != before[name][~others]).any(dim=1).all())
        else:
            assert torch.equal(value, before[name]) == (name not in case.trained), name


def test_compiled_is_eager():
    """The language model with its blocks is one graph, and gives logits and gradients of the plain one."""
    assembled = looking("gpt_neox")
    opened(assembled)
    model, ids = assembled.model, ids_with(assembled, 1, 6, length=16)
    found = {}
    plain = model.model.language_model
    for name in ("plain", "compiled"):
        model.zero_grad(set_to_none=True)
        if name == "compiled":
            model.model.language_model = torch.compile(plain, backend="aot_eager", fullgraph=True)
        logits = model(input_ids=ids, pixel_values=pixels(2), use_cache=False).logits
        logits.square().mean().backward()
        gradients = {each: p.grad.clone() for each, p in plain.named_parameters() if p.grad is not None}
        found[name] = {"logits": logits.detach(), **gradients, "latents": model.model.resampler.latents.grad.clone()}
    assert found["plain"].keys() == found["compiled"].keys()
    for name, expected in found["plain"].items():
        limit = 1e-5 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found["compiled"][name], expected, rtol=0, atol=limit, msg=name)


# ---------------------------------------------------------------- a folder


def test_a_folder_loads_without_boda(tmp_path):
    """With a tied and an untied table, in a process where `import boda` fails: same ids, logits and answer."""
    folders, image = {}, tmp_path / "picture.png"
    tiny.random_picture(7).save(image)
    for family in ("gpt_neox", "qwen3"):
        assembled = looking(family)
        spec = ImageSpec.from_processor(assembled.image_processor)
        ends = [tokens_of(assembled)[1], assembled.tokenizer.eos_token_id]
        settings = {"beams": 1, "max_new_tokens": 8}
        folders[family] = write_vlm(
            assembled, processor_template(TEMPLATE), spec, ends, settings, tmp_path / family, {"kind": "flamingo"}
        )
    program = Path(__file__).parent / "load_without_boda.py"
    command = [sys.executable, "-I", str(program), str(Path(boda.__file__).parents[1]), str(image), str(tmp_path / "found.pt")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""}
    done = subprocess.run(
        command + list(map(str, folders.values())), env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt")
    for family, folder in folders.items():
        there = found[str(folder)]
        assert there["class"] == "BodaFlamingoForConditionalGeneration" and there["module"].startswith("transformers_modules.")
        assert there["tied"] == (family == "qwen3")
        model, processor = boda.load(folder, device="cpu", dtype=torch.float32)
        inputs = encode(model, processor, [[turn("user", 7, "이것은 무엇인가요?")]])
        assert torch.equal(inputs["input_ids"][0], there["input_ids"])
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits[0], there["logits"])
        assert torch.equal(model.generate(**inputs, max_new_tokens=6, do_sample=False)[0], there["answer"])
