"""Instruction tuning with a tokenizer, a template or rows that do not fit: one clear error each, before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import boda
from boda.data.render import Renderer
from boda.errors import BodaError
from boda.models.assemble import load_tokenizer
from boda.models.generate import generate
from boda.recipe import template_text
from tests import tiny
from tests.support import ask

UNMARKED = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
OPEN = (
    "{% for message in messages %}{{ message.role }}: {% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
    "{% endgeneration %}{{ eos_token }}{% else %}{{ message.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def recipe(folder: Path, template: str, language: Path | None = None, rows: list[dict] | None = None) -> dict:
    rows = rows or [{"instruction": f"{n}에 하나를 더하면?", "input": "", "output": f"{n + 1}"} for n in range(8)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    if template.startswith("{"):
        (folder / "own.jinja").write_text(template, encoding="utf-8")
        template = str(folder / "own.jinja")
    model = {"kind": "language", "language": str(language or tiny.language_folder("gpt_neox")), "chat_template": template}
    stage = {"name": "tune", "train": ["language.lora"], "lora": {"rank": 2, "alpha": 4}, "batch_size": 4, "max_steps": 1}
    stage |= {"learning_rate": 1e-3, "data": [{"source": "kullm", "path": str(folder / "rows.json")}]}
    return {"precision": "fp32", "model": model, "stages": [stage], "generation": {"max_new_tokens": 4}}


def refused(made: dict, folder: Path) -> str:
    with pytest.raises(BodaError) as caught:
        boda.train(made, folder / "run", quiet=True)
    assert not (folder / "run/model").exists() and not (folder / "run/stages/tune/model").exists()
    return str(caught.value)


def without(folder: Path, *names: str, family: str) -> Path:
    """A tiny language model whose tokenizer lacks some of its special tokens."""
    shutil.copytree(tiny.language_folder(family), folder / "lacking")
    tokenizer = AutoTokenizer.from_pretrained(folder / "lacking")
    for name in names:
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(folder / "lacking")
    assert all(getattr(load_tokenizer(str(folder / "lacking")), name) is None for name in names)
    return folder / "lacking"


def test_a_template_whose_answers_cannot_be_found(tmp_path):
    said = refused(recipe(tmp_path, UNMARKED), tmp_path)
    assert "does not show which text is the answer" in said and "{% generation %} marks" in said


def test_an_end_token_outside_of_what_is_trained(tmp_path):
    """The model would never learn to stop."""
    assert "closes an answer without an end token" in refused(recipe(tmp_path, OPEN), tmp_path)


@pytest.mark.parametrize("template", ["kullm", "koalpaca", "kullm-sft", "question-answer"])
def test_a_tokenizer_without_an_end_token(template, tmp_path):
    lacking = without(tmp_path, "eos_token", family="gpt_neox")
    said = refused(recipe(tmp_path, template, lacking), tmp_path)
    assert "the tokenizer has no eos_token: take another tokenizer or chat_template" in said


def test_a_template_of_another_tokenizer(tmp_path):
    said = refused(recipe(tmp_path, "llama-3"), tmp_path)
    assert "<|eot_id|>" in said and "choose a chat_template made for this tokenizer" in said


def test_neither_end_nor_pad_token_is_needed_by_a_template_that_has_its_own(tmp_path):
    """Llama's family of the tests has ChatML's tokens; the finished model pads with one that ends nothing."""
    lacking = without(tmp_path, "eos_token", "pad_token", family="llama")
    model, tokenizer = boda.load(boda.train(recipe(tmp_path, "chatml", lacking), tmp_path / "run", quiet=True), device="cpu")
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    assert tokenizer.pad_token == "<pad>" and tokenizer.pad_token_id not in ends and "<|im_end|>" in tokenizer.decode(ends)
    questions = [[{"role": "user", "content": text}] for text in ("네?", "오늘은 무슨 날인가요? 알려 주세요.")]
    assert generate(model, tokenizer, questions) == [generate(model, tokenizer, [question])[0] for question in questions]


def test_rows_that_say_nothing(tmp_path):
    rows = [{"instruction": "가", "input": "", "output": ""}, {"instruction": "", "instances": []}, {}]
    said = refused(recipe(tmp_path, "kullm", rows=rows), tmp_path)
    assert "3 of 3 rows cannot be used" in said and "'output' is empty" in said
    listed = (tmp_path / "run/stages/tune/bad_rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["field"] for line in listed] == ["output", "instances", "instruction"]


def test_a_row_that_says_the_special_tokens_itself():
    """Words that look like the end of an answer do not end what is trained."""
    tokenizer = load_tokenizer(str(tiny.language_folder("gpt_neox")))
    renderer = Renderer(tokenizer, template_text("kullm"), 0)
    row = renderer.render(ask("끝은?", "<|endoftext|> 입니다.\n\n### 응답:\n하나"))
    assert tokenizer.decode(row.input_ids[row.trained]).endswith("### 응답:\n하나<|endoftext|>")
    assert row.trained.tolist() == sorted(row.trained.tolist())  # one run, to the end
