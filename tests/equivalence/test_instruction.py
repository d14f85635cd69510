"""Instruction tuning of a language model: the saved folder is asked as it was trained, and the loss of all tokens is what it says."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import boda
from boda.data.render import Renderer, expand_images, tokenizer_template, with_beginning
from boda.data.sample import Message, Part, Sample
from boda.models.assemble import assemble, load_tokenizer
from boda.models.generate import encode
from boda.recipe import ModelSpec, template_text
from boda.serve import chat
from boda.train.inspect import inspect
from tests import tiny
from tests.equivalence.test_render import NEEDED, SHIPPED, SPOKEN
from tests.support import (
    Pixels,
    ask,
    assert_same_step,
    batches_of,
    language_recipe,
    mixed_samples,
    opened,
    prepared,
    records,
    rows_of,
    step,
    tiny_model,
    tiny_recipe,
    validations,
)

FAMILIES = (*tiny.LANGUAGE_FAMILIES, "llama2", "synatra")


@cache
def pair(family: str, template: str):
    """(renderer, tokenizer that went through a folder), as a language model's run makes them."""
    tokenizer = load_tokenizer(str(tiny.language_folder(family)))
    text = with_beginning(template_text(template), tokenizer)
    renderer = Renderer(tokenizer, text, 0)
    own, tokenizer.chat_template = tokenizer.chat_template, tokenizer_template(text)
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        stored = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = own
    return renderer, stored


def combinations() -> list[tuple[str, str]]:
    known = {family: load_tokenizer(str(tiny.language_folder(family))).get_vocab() for family in FAMILIES}
    return [(f, t) for f in FAMILIES for t in SHIPPED if all(token in known[f] for token in NEEDED.get(t, []))]


class _Nowhere:
    """All that `encode` wants of a model."""

    device = torch.device("cpu")

    def forward(self, input_ids, attention_mask):
        raise AssertionError("nothing is computed here")


@st.composite
def conversations(draw) -> Sample:
    """One to three turns; some questions are an instruction and its input."""
    messages = []
    for _ in range(draw(st.integers(1, 3))):
        asked = [Part("text", draw(SPOKEN)), *[Part("text", "\n\n" + draw(SPOKEN))] * draw(st.booleans())]
        messages += [Message("user", tuple(asked)), Message("assistant", (Part("text", draw(SPOKEN)),))]
    return Sample(tuple(messages))


@pytest.mark.parametrize("family,template", combinations())
@settings(max_examples=6)
@given(sample=conversations())
def test_a_folder_is_asked_as_it_was_trained(family, template, sample):
    """Contents in parts where the stored template takes them, else as the strings that `boda` makes of them."""
    renderer, stored = pair(family, template)
    messages = [message.as_dict() for message in sample.messages[:-1]]
    (given,) = encode(_Nowhere(), stored, [messages])["input_ids"].tolist()
    assert renderer.prompt_ids(sample).tolist() == given
    if "boda.messages" in stored.chat_template:
        asked = stored.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        assert asked["input_ids"] == given


# ---------------------------------------------------------------- the loss of all tokens


def written_out(assembled, data, pixels, trained) -> dict[str, torch.Tensor]:
    """Stock forward passes with labels = input ids, pictures' tokens and padding aside, as KULLM's train_on_inputs has them."""
    assembled.model.zero_grad(set_to_none=True)
    assembled.model.set_attn_implementation("sdpa")
    losses, total = torch.zeros(()), 0
    for index in range(len(data)):
        row = data.row(index)
        ids = torch.from_numpy(expand_images(row.input_ids, data.image_id, data.num_image_tokens)).long()
        labels = torch.where(ids == data.image_id, -100, ids)
        more = {"pixel_values": torch.from_numpy(np.stack([pixels(image) for image in row.images]))} if row.images else {}
        logits = assembled.model(input_ids=ids[None], **more, use_cache=False).logits[0]
        losses = losses + F.cross_entropy(logits[:-1], labels[1:], reduction="sum")
        total += int((labels[1:] >= 0).sum())
    (losses / total).backward()
    gradients = {name: p.grad.clone() if p.grad is not None else torch.zeros_like(p) for name, p in trained.items()}
    return {"loss": losses.detach() / total, **gradients}


@pytest.mark.parametrize("sees", [False, True], ids=["text", "pictures"])
def test_all_tokens_is_labels_equal_to_input_ids(sees, tmp_path):
    folder = str(tiny.language_folder("gpt_neox"))
    alone = ModelSpec(kind="language", language=folder)
    assembled = tiny_model("gpt_neox") if sees else assemble(alone, load_tokenizer(folder))
    renderer = Renderer(assembled.tokenizer, template_text("kullm"), assembled.num_image_tokens, 512, train_inputs=True)
    words = [ask("수도는?", "서울."), ask("색은?", "빨강", "왜?", "사과라서요."), ask("가" * 30, "나")]
    samples = mixed_samples() if sees else words
    data = prepared(samples, renderer, tmp_path)
    pixels = Pixels(assembled) if sees else None
    assert not data.prefix[:].any()  # every text is trained, so none is shared
    trained = opened(assembled, ["language"])
    expected = written_out(assembled, data, pixels, trained)
    for row_length, packing in ((512, False), (10_000, True)):
        batches = batches_of(data, rows_of(data, row_length, packing=packing), pixels)
        assert_same_step(step(assembled.model, batches, trained), expected)
    (end,) = renderer.end_ids()  # an answer's end is what it was
    for sample, index in zip(samples, range(len(data))):
        row, alone = data.row(index), Renderer(assembled.tokenizer, template_text("kullm"), assembled.num_image_tokens)
        start = len(alone.prompt_ids(sample))
        assert row.answer == (start, len(row.input_ids)) and row.input_ids[-1] == end == assembled.tokenizer.eos_token_id
        assert row.input_ids.tolist() == alone.render(sample).input_ids.tolist()
        assert row.trained[1:].sum() == (row.input_ids[1:] != data.image_id).sum() and not row.trained[0]


@given(st.integers(2, 80))
def test_a_sample_that_is_cut_keeps_its_answers_place(most):
    tokenizer = load_tokenizer(str(tiny.language_folder("gpt_neox")))
    whole = Renderer(tokenizer, template_text("koalpaca"), 0, train_inputs=True).render(ask("수도는?", "서울입니다."))
    cut = Renderer(tokenizer, template_text("koalpaca"), 0, most, train_inputs=True).render(ask("수도는?", "서울입니다."))
    start, end = whole.answer
    assert cut.answer == (min(start, most), min(end, most)) and cut.truncated == (len(whole.input_ids) > most)
    assert cut.trained.tolist() == [False] + [True] * (len(cut.input_ids) - 1)


# ---------------------------------------------------------------- a whole run


def rows_file(folder: Path) -> Path:
    rows = [{"instruction": "옮겨 주세요.", "instances": [{"input": f"사과 {n}", "output": f"apple {n}"}]} for n in range(24)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kullm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "kullm.jsonl"


def recipe(folder: Path, family: str, template: str, objective: str = "language") -> dict:
    made = language_recipe(folder)
    tune = made["stages"][0] | {"name": "tune", "objective": objective, "max_steps": 3, "max_length": 256, "validation": 0.25}
    tune |= {"data": [{"source": "kullm", "path": str(rows_file(folder))}], "learning_rate": 1e-3}
    made["model"] = {"kind": "language", "language": str(tiny.language_folder(family)), "chat_template": template}
    return made | {"stages": [tune]}


@pytest.mark.parametrize("family", ["gpt_neox", "gemma2"])
def test_an_instruction_and_its_input_all_the_way(family, tmp_path, monkeypatch):
    """Trained, saved, asked through transformers, and asked through `boda chat --context`: the same ids."""
    model = boda.train(recipe(tmp_path, family, "kullm"), tmp_path / "run", quiet=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    asked = [{"role": "user", "content": [{"type": "text", "text": text} for text in ("옮겨 주세요.", "\n\n사과 3")]}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert "### 명령어:\n옮겨 주세요.\n\n### 입력:\n사과 3\n\n### 응답:\n" in text
    wanted = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert (wanted[0] == tokenizer.bos_token_id) == (family == "gemma2")
    seen = []
    monkeypatch.setattr(chat, "stream", lambda model, processor, messages, **_: (seen.append(messages), iter(["네"]))[1])
    monkeypatch.setattr(chat.contextlib, "closing", chat.contextlib.nullcontext)
    chat.Conversation(str(model), [], context="사과 3").ask("옮겨 주세요.", echo=False)
    assert encode(_Nowhere(), tokenizer, seen)["input_ids"].tolist() == [wanted]
    chat.Conversation(str(model), []).ask("수도는?", echo=False)
    asked = [{"role": "user", "content": "수도는?"}]
    plain = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert encode(_Nowhere(), tokenizer, seen[-1:])["input_ids"].tolist() == [plain] and "입력" not in tokenizer.decode(plain)


def test_a_run_on_all_tokens(tmp_path):
    """Trial answers begin where answers do, another objective prepares the data anew, and `inspect` colours what is asked."""
    answers_only, all_tokens = (recipe(tmp_path, "gpt_neox", "kullm", name) for name in ("language", "all_tokens"))
    boda.train(answers_only, tmp_path / "one", quiet=True)
    boda.train(all_tokens, tmp_path / "two", quiet=True)
    one, two = (validations(tmp_path / name)[-1]["answers"] for name in ("one", "two"))
    assert [(each["question"], each["expected"]) for each in one] == [(each["question"], each["expected"]) for each in two]
    assert all(each["expected"].startswith("apple") and each["question"].endswith("### 응답:") for each in two)
    fewer, more = (records(tmp_path / name)[0]["trained_tokens"] for name in ("one", "two"))
    assert more > 3 * fewer
    headers = [json.loads((tmp_path / name / "stages/tune/data/header.json").read_text())["key"] for name in ("one", "two")]
    assert headers[0] != headers[1]
    shown = [inspect(each, samples=1).values for each in (all_tokens, answers_only)]
    (coloured,), (other,) = (values["samples"] for values in shown)
    assert [[(end["token"], end["share"]) for end in values["stop_tokens"]] for values in shown] == [
        [("<|endoftext|>", 1.0)]
    ] * 2
    assert coloured["trained_tokens"] == coloured["tokens"] - 1 and "⟦apple 0<|endoftext|>⟧" in other["text"]
    assert coloured["text"].count("⟦") == 1 and "### 명령어:" in coloured["text"].split("⟦")[1]
    line_break_last = inspect(recipe(tmp_path, "llama", "chatml", "all_tokens"), samples=1).values
    assert [end["token"] for end in line_break_last["stop_tokens"]] == ["<|im_end|>"]
    assert line_break_last["samples"][0]["text"].endswith("<|im_end|>\n⟧")
    seeing = tiny_recipe(tmp_path / "seeing", [{"name": "align", "train": ["connector"], "objective": "all_tokens"}], {"n": 8})
    boda.train(seeing, tmp_path / "three", quiet=True)
