"""A language model trained alone: packed = every text alone through the stock forward pass; documents lose nothing; N processes = 1."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import boda
from boda.data.render import Renderer
from boda.data.sample import Message, Part, Sample, Source
from boda.data.sources import read
from boda.errors import BadRow, BodaError
from boda.models.assemble import assemble, load_tokenizer
from boda.recipe import ModelSpec, template_text
from boda.train import objectives
from boda.train.preparation import split
from tests import tiny
from tests.support import (
    ask,
    assert_same_run,
    assert_same_step,
    batches_of,
    language_recipe,
    opened,
    oracle_step,
    prepared,
    renderer_for,
    rows_of,
    step,
    tiny_model,
    tiny_recipe,
)

MAX_LENGTH = 60


def document(text: str) -> Sample:
    return Sample((Message("assistant", (Part("text", text),)),))


def texts() -> list[Sample]:
    """Documents shorter and longer than MAX_LENGTH, and conversations."""
    lines = tiny.korean_lines()
    return [
        document(lines[0]),
        document(" ".join(lines[:5])),
        ask("안녕하세요?", "네, 안녕하세요."),
        document(" ".join(lines[5:8])),
        document("끝"),
        ask("색은?", "빨강", "왜요?", "사과라서요."),
    ]


@pytest.fixture(scope="module", params=["llama", "gpt_neox_tied", "hyperclovax", "gemma2", "qwen3"])
def alone(request, tmp_path_factory):
    """(assembled language model, prepared texts) of families whose heads are plain, tied, scaled and capped."""
    folder = str(tiny.language_folder(request.param))
    assembled = assemble(ModelSpec(kind="language", language=folder), load_tokenizer(folder))
    assert assembled.model.config.model_type == request.param.removesuffix("_tied")
    data = prepared(texts(), renderer_for(assembled, max_length=MAX_LENGTH), tmp_path_factory.mktemp("texts"))
    assert len(data) > len(texts())
    return assembled, data


@pytest.mark.parametrize("train", [["language"], ["language.lora"]], ids=["all", "lora"])
def test_packing_changes_no_gradient(alone, train, monkeypatch):
    """... nor does taking the logits of a long row in parts."""
    assembled, data = alone
    trained = opened(assembled, train)
    attention = "eager" if assembled.model.config.model_type == "gemma2" else "sdpa"
    expected = oracle_step(assembled, data, None, trained, attention)
    for row_length, packing, number in ((MAX_LENGTH, False, len(data)), (10_000, True, 1), (120, True, None)):
        rows = rows_of(data, row_length, packing=packing)
        assert len(rows) == number if number else 1 < len(rows) < len(data)
        assert_same_step(step(assembled.model, batches_of(data, rows, None), trained), expected)
    monkeypatch.setattr(objectives, "MAX_LOGITS", 7 * assembled.model.config.vocab_size)
    monkeypatch.setattr(objectives, "HELD_LOGITS", 5 * assembled.model.config.vocab_size)
    assert_same_step(step(assembled.model, batches_of(data, rows_of(data, 10_000), None), trained), expected)


@given(st.integers(2, 60), st.integers(1, 12), st.sampled_from(["llama", "gpt_neox", "exaone4"]))
def test_a_long_document_is_several_samples_that_lose_nothing(most, number, family):
    """Each begins with the last token of the one before; every token but the first of all is trained, once."""
    tokenizer = load_tokenizer(str(tiny.language_folder(family)))
    text = " ".join(tiny.korean_lines()[:number])
    pieces = Renderer(tokenizer, template_text("chatml"), 0, most).render_all(document(text))
    ids = np.concatenate([pieces[0].input_ids, *(piece.input_ids[1:] for piece in pieces[1:])]).tolist()
    assert ids == [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    for before, piece in zip(pieces, pieces[1:]):
        assert len(before.input_ids) == most and piece.input_ids[0] == before.input_ids[-1]
    for piece in pieces:
        assert 2 <= len(piece.input_ids) <= most and piece.trained.tolist() == [False] + [True] * (len(piece.input_ids) - 1)
        assert not piece.truncated and not piece.images


@pytest.mark.parametrize("template", ["chatml", "question-answer", "plain"])
def test_a_document_has_no_template(template):
    """... nor a system text, in a model with sight neither."""
    assembled = tiny_model("llama")
    tokenizer = assembled.tokenizer
    renderer = Renderer(tokenizer, template_text(template), assembled.num_image_tokens, 512, system="친절하게 답하세요.")
    (rendered,) = renderer.render_all(document("  한글은 1443년에.\n"))
    assert rendered.input_ids.tolist() == [*tokenizer("  한글은 1443년에.\n").input_ids, tokenizer.eos_token_id]


def test_documents_that_cannot_be_rendered():
    tokenizer = load_tokenizer(str(tiny.language_folder("llama")))
    with pytest.raises(BadRow, match="max_length is 1, and a text is learnt from two tokens"):
        Renderer(tokenizer, template_text("plain"), 0, 1).render_all(document("가"))
    tokenizer.eos_token = None
    with pytest.raises(BodaError, match="no end-of-text token"):
        Renderer(tokenizer, template_text("plain"), 0, 9).render_all(document("가"))


def reading(folder: Path) -> dict:
    recipe = language_recipe(folder)
    recipe["stages"][0] |= {"max_steps": 5, "validation": 0.1, "eval_steps": 2}
    return recipe


def test_two_processes_are_one(tmp_path):
    boda.train(reading(tmp_path), tmp_path / "one", quiet=True)
    boda.train(reading(tmp_path), tmp_path / "two", quiet=True, processes=2)
    assert_same_run(tmp_path / "two", tmp_path / "one")


@pytest.mark.long
def test_two_processes_are_one_with_a_part_that_is_trained_first(tmp_path):
    (tmp_path / "lm.yaml").write_text(yaml.safe_dump(reading(tmp_path), allow_unicode=True), encoding="utf-8")
    seeing = tiny_recipe(tmp_path / "seeing", [{"name": "align", "train": ["connector"], "max_steps": 2}], {"n": 8})
    seeing["model"]["language"] = {"recipe": str(tmp_path / "lm.yaml")}
    boda.train(seeing, tmp_path / "one", quiet=True)
    boda.train(seeing, tmp_path / "two", quiet=True, processes=2)
    for part in (".", "parts/lm"):
        assert_same_run(tmp_path / "two" / part, tmp_path / "one" / part)


def test_what_one_row_gives_stays_on_one_side_of_a_split(tmp_path):
    """A translation that is trained on in one order must not be validated in the other, nor a document on its own next piece."""
    lines = tiny.korean_lines()
    pairs = [{"ko": line, "en": f"English {number}"} for number, line in enumerate(lines[:12])]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(pairs), encoding="utf-8")
    folder = str(tiny.language_folder("llama"))
    assembled = assemble(ModelSpec(kind="language", language=folder), load_tokenizer(folder))
    samples = [*read(path), *(replace(sample, source=Source("texts", number)) for number, sample in enumerate(texts()))]
    data = prepared(samples, renderer_for(assembled, max_length=MAX_LENGTH), tmp_path)
    assert len(set(data.names)) < len(data) - 12
    for seed in range(8):
        kept, held = ({data.name(index) for index in side} for side in split(data, 0.3, seed))
        assert kept and held and not kept & held
