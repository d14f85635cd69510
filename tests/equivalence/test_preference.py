"""DPO on packed pairs that share prompt and pictures = every answer alone through the stock forward pass = TRL; and as a stage."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import boda
from boda.data.plan import Plan
from boda.data.render import PreferenceRenderer
from boda.errors import BadRow, BodaError
from boda.models.assemble import assemble, load_tokenizer
from boda.models.attention import ATTENTION_NAME
from boda.recipe import Lora, ModelSpec, Stage
from boda.train import loop
from boda.train.freeze import language_of
from boda.train.preference import adapter_off, answer_log_probabilities, preference_objective
from tests import tiny
from tests.support import (
    Pixels,
    ask,
    assert_same_run,
    assert_same_step,
    batches_of,
    language_recipe,
    opened,
    prepared,
    records,
    rows_of,
    sample_inputs,
    template_for,
    tiny_model,
    trained_tensors,
    validations,
)

BETA = 0.3


def pair(*turns: str, rejected: str, images: tuple[int, ...] = ()):
    return replace(ask(*turns, images=images), rejected=rejected)


def text_pairs() -> list:
    return [
        pair("수도는 어디인가요?", "서울입니다.", rejected="부산이라고 생각합니다."),
        pair("수도는 어디인가요?", "서울특별시", rejected="모릅니다."),  # the same prompt once more
        pair("안녕?", "안녕하세요.", "더 길게 말해 주세요.", "안녕하세요, 만나서 반갑습니다.", rejected="싫어요."),
        pair("1 더하기 1은?", "2", rejected="3입니다. 아마도 그럴 것입니다."),
    ]


def picture_pairs() -> list:
    return [
        *text_pairs()[:2],
        pair("<image>\n무슨 색인가요?", "빨강", rejected="파란색으로 보입니다.", images=(1,)),
        pair("<image>\n<image>\n두 그림의 차이는?", "개수가 다릅니다.", rejected="같습니다.", images=(2, 3)),
        pair("<image>\n몇 개?", "세 개", "<image>\n이것은요?", "두 개입니다.", rejected="없음", images=(4, 1)),
    ]


class Case:
    """Prepared pairs of a tiny model, its objective, and what the plain computation gives."""

    def __init__(self, folder, assembled, samples, train):
        self.assembled, self.model = assembled, assembled.model
        self.pixels = Pixels(assembled) if assembled.image_size else None
        lora = Lora(rank=4, alpha=8.0) if "language.lora" in train else None
        self.trained = opened(assembled, train, lora)
        renderer = PreferenceRenderer(assembled.tokenizer, template_for(assembled.tokenizer), assembled.num_image_tokens)
        self.data = prepared(samples, renderer, folder)
        stage = Stage(name="s", objective="preference", train=train, data=[{"path": "p"}], batch_size=4, learning_rate=1e-3,
                      lora=lora, beta=BETA, row_length=10_000)  # fmt: skip
        plan = Plan(0, 4, np.zeros(len(self.data) // 2, int), [1.0])
        self.job = loop.Job(stage, 0, self.model, self.trained, lambda name: "language", self.data, plan, self.pixels, folder,
                            torch.device("cpu"), None, lambda record: None, quiet=True)  # fmt: skip
        language_of(self.model).set_attn_implementation(ATTENTION_NAME)
        self.objective = preference_objective(self.job, self.data, "here")
        if "language" in train:  # as after some steps: away from where the stage began
            torch.manual_seed(1)
            with torch.no_grad():
                for parameter in self.trained.values():
                    parameter += torch.randn_like(parameter) * 0.05 * parameter.std()

    def plain(self, attention: str) -> torch.Tensor:
        """(N,) log-probabilities of answers, each alone, from all logits."""
        language_of(self.model).set_attn_implementation(attention)
        found = []
        for index in range(len(self.data)):
            inputs = sample_inputs(self.assembled, self.data, index, self.pixels)
            labels = inputs.pop("labels")[0, 1:]
            said = self.model(**inputs, use_cache=False).logits[0, :-1].log_softmax(-1)
            found.append(sum(said[place, token] for place, token in enumerate(labels) if token >= 0))
        return torch.stack(found)

    def result(self, loss: torch.Tensor) -> dict:
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        return {"loss": loss.detach(), **{name: p.grad.clone() for name, p in self.trained.items() if p.grad is not None}}

    def step(self, packing=True, share=True, row_length=10_000) -> tuple[dict, torch.Tensor]:
        language_of(self.model).set_attn_implementation(ATTENTION_NAME)
        rows = rows_of(self.data, row_length, packing=packing, share=share)
        found = [self.objective.measure(self.model, batch) for batch in batches_of(self.data, rows, self.pixels)]
        pairs = sum(each.number for each in found)
        return self.result(sum(each.loss for each in found) / pairs), sum(torch.stack(each.others) for each in found) / pairs


def plain_dpo(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    chosen, rejected = (policy - reference)[0::2], (policy - reference)[1::2]
    return -F.logsigmoid(BETA * (chosen - rejected))


def text_case(folder, family: str, train: list[str]) -> Case:
    source = str(tiny.language_folder(family))
    return Case(folder, assemble(ModelSpec(kind="language", language=source), load_tokenizer(source)), text_pairs(), train)


@pytest.mark.parametrize("family", ["llama", "gpt_neox_tied", "hyperclovax", "gemma2", "qwen3"])
def test_packed_pairs_are_every_answer_alone(family, tmp_path):
    case, attention = text_case(tmp_path, family, ["language.lora"]), "eager" if family == "gemma2" else "sdpa"
    with torch.no_grad(), adapter_off(case.model):
        reference = case.plain(attention)
    policy = case.plain(attention)
    assert float((policy - reference).detach().abs().max()) > 0.1
    losses = plain_dpo(policy, reference)
    expected = case.result(losses.mean())
    for way in ({}, {"share": False}, {"packing": False}, {"row_length": 40}):
        given, (accuracy, margin) = case.step(**way)
        assert_same_step(given, expected)
        assert accuracy == (losses < math.log(2)).double().mean()
        assert margin == pytest.approx(float((policy - reference).detach().view(-1, 2).diff().mean()) * -BETA, rel=1e-4)


@pytest.mark.parametrize("train", [["connector", "language.lora"], ["language", "connector"]], ids=["lora", "all"])
def test_pairs_on_pictures_and_what_is_stored_of_the_start(train, tmp_path):
    """Several pictures in a prompt, and in later turns; the reference is then computed before the first step and kept."""
    case = Case(tmp_path, tiny_model("llama"), picture_pairs(), train)
    stored = np.load(next(tmp_path.glob("reference-*.npy")))
    if train[0] == "connector":  # nothing has moved but the adapter, which `opened` made different from nothing
        policy = case.plain("sdpa")
        assert np.allclose(stored, policy.detach(), atol=1e-4)
    policy = case.plain("sdpa")
    expected = case.result(plain_dpo(policy, torch.from_numpy(stored)).mean())
    for way in ({}, {"share": False}, {"packing": False}):
        assert_same_step(case.step(**way)[0], expected)
    rows = rows_of(case.data, 10_000)
    (batch,) = batches_of(case.data, rows, case.pixels)
    images = sum(len(sample.images) for sample in picture_pairs())
    assert len(batch["pixel_values"]) == images  # once for both answers


def test_shared_prompts_are_computed_once(tmp_path):
    data = text_case(tmp_path, "llama", ["language.lora"]).data
    lengths, shared = data.lengths[:], data.shared[:]
    (unit, *_), *rest = [row.units for row in rows_of(data, 10_000)]
    assert not rest and any(len(each.samples) == 4 for each in (unit, *_))  # the two pairs of one prompt
    apart = sum(row.length for row in rows_of(data, 10_000, share=False))
    assert apart == lengths.sum() and apart - sum(row.length for row in rows_of(data, 10_000)) == shared[::2].sum() + shared[0]


@pytest.mark.parametrize("family", ["llama3", "qwen3"])
def test_loss_is_trl_s(family, tmp_path):
    """The same ids through TRL's DPOTrainer: loss, accuracy and margin."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    case = text_case(tmp_path / "ours", family, ["language.lora"])
    source = str(tiny.language_folder(family))
    peer = AutoModelForCausalLM.from_pretrained(source)
    if len(case.assembled.tokenizer) > peer.get_input_embeddings().num_embeddings:
        peer.resize_token_embeddings(len(case.assembled.tokenizer))
    arguments = trl.DPOConfig(str(tmp_path / "trl"), beta=BETA, use_cpu=True, report_to=[], bf16=False, gradient_checkpointing=False,
                              per_device_train_batch_size=4, disable_tqdm=True)  # fmt: skip
    rows = Dataset.from_list([{"prompt": "가", "chosen": "나", "rejected": "다"}] * 4)
    trainer = trl.DPOTrainer(peer, args=arguments, train_dataset=rows, processing_class=case.assembled.tokenizer,
                             peft_config=LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))  # fmt: skip
    theirs = dict(trainer.model.named_parameters())
    with torch.no_grad():  # the same adapter, away from zero
        for name, parameter in case.trained.items():
            theirs[f"base_model.model.{name.replace('.default', '')}".replace(".weight", ".default.weight")].copy_(parameter)
    samples = [case.data.row(index) for index in [*range(0, len(case.data), 2), *range(1, len(case.data), 2)]]
    longest = max(len(each.input_ids) for each in samples)
    inputs = {
        name: torch.zeros(len(samples), longest, dtype=torch.long)
        for name in ("input_ids", "attention_mask", "completion_mask")
    }
    for place, each in enumerate(samples):
        size = len(each.input_ids)
        inputs["input_ids"][place, :size] = torch.from_numpy(each.input_ids.astype(np.int64))
        inputs["attention_mask"][place, :size] = 1
        inputs["completion_mask"][place, :size] = torch.from_numpy(each.trained.astype(np.int64))
    trainer.model.eval()
    with torch.no_grad():
        expected = float(trainer.compute_loss(trainer.model, inputs))
    given, (accuracy, margin) = case.step()
    assert float(given["loss"]) == pytest.approx(expected, rel=1e-4) and abs(expected - math.log(2)) > 1e-3
    logged = {name: float(np.mean(values)) for name, values in trainer._metrics["eval"].items()}
    assert float(margin) == pytest.approx(logged["rewards/margins"], rel=1e-3)
    assert float(accuracy) == pytest.approx(logged["rewards/accuracies"])


# ---------------------------------------------------------------- as a stage


def preferring(folder, train=("language.lora",), **rest) -> dict:
    """A recipe that reads, then prefers."""
    recipe = language_recipe(folder)
    lines = tiny.korean_lines()
    rows = [
        {"prompt": f"{n % 7}번 문장은?", "chosen": lines[n % 7], "rejected": lines[(n + 3) % 11] + " 끝"} for n in range(24)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    prefer = {"name": "prefer", "objective": "preference", "train": list(train), "data": [{"path": str(path)}], "max_steps": 6}
    prefer |= {
        "batch_size": 8,
        "learning_rate": 1e-2 if "language.lora" in train else 3e-3,
        "max_length": 128,
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
    }
    if "language.lora" not in train:
        prefer["lora"] = None
    recipe["stages"] = [recipe["stages"][0] | {"max_steps": 6}, prefer | rest]
    return recipe


def preference_records(run) -> list[dict]:
    return [record for record in records(run) if record["stage"] == "prefer"]


@pytest.mark.parametrize("train", [["language.lora"], ["language"]], ids=["lora", "all"])
def test_a_stage_prefers(train, tmp_path):
    """It begins at ln 2, where nothing is preferred yet, and goes down; both kinds of reference."""
    folder = boda.train(preferring(tmp_path, train, validation=0.2, eval_steps=3), tmp_path / "run", quiet=True)
    steps = preference_records(tmp_path / "run")
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5) and steps[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert steps[-1]["loss"] < 0.6 and steps[-1]["accuracy"] > 0.8 and steps[-1]["margin"] > 0
    assert all(record["trained_tokens"] > 8 * 4 for record in steps)
    checked = [record for record in validations(tmp_path / "run") if record["stage"] == "prefer"]
    assert len(checked) == 2 and checked[-1]["validation_accuracy"] >= 0.5 and checked[-1]["answers"]
    assert checked[-1]["validation_margin"] > 0
    kept = list((tmp_path / "run" / "stages" / "prefer").glob("reference-*.npy"))
    assert len(kept) == (train == ["language"])
    model, _ = boda.load(folder)
    assert model.boda_info["stages"]["prefer"]["steps"] == 6


@pytest.mark.parametrize("train", [["language.lora"], ["language"]], ids=["lora", "all"])
def test_two_processes_are_one(train, tmp_path):
    recipe = preferring(tmp_path, train, max_steps=3, validation=0.2)
    recipe["stages"][1]["lora"] = recipe["stages"][1]["lora"] and {"rank": 4, "alpha": 8}
    boda.train(recipe, tmp_path / "one", quiet=True)
    boda.train(recipe, tmp_path / "two", quiet=True, processes=2)
    assert_same_run(tmp_path / "two", tmp_path / "one")
    for ours, theirs in zip(preference_records(tmp_path / "two"), preference_records(tmp_path / "one"), strict=True):
        assert ours["accuracy"] == theirs["accuracy"] and ours["margin"] == pytest.approx(theirs["margin"], abs=1e-4)


def test_stopped_and_gone_on_is_the_same(tmp_path, monkeypatch):
    recipe = preferring(tmp_path, ["language"], save_steps=2)
    boda.train(recipe, tmp_path / "whole", quiet=True)
    wanted, steps = loop.row_step, iter(range(100))

    def interrupted(*arguments):
        if next(steps) == 9:  # the fourth step of the second stage
            raise KeyboardInterrupt
        return wanted(*arguments)

    monkeypatch.setattr(loop, "row_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        boda.train(recipe, tmp_path / "halves", quiet=True)
    monkeypatch.undo()
    boda.train(recipe, tmp_path / "halves", quiet=True)
    given, expected = trained_tensors(tmp_path / "halves"), trained_tensors(tmp_path / "whole")
    assert given.keys() == expected.keys() and all(torch.equal(given[name], expected[name]) for name in expected)


def test_pairs_that_are_none(tmp_path):
    tokenizer = load_tokenizer(str(tiny.language_folder("llama")))
    renderer = PreferenceRenderer(tokenizer, tokenizer.chat_template, 0)
    with pytest.raises(BadRow, match="the row has no rejected one; objective: language takes it"):
        renderer.render_all(ask("수도는?", "서울"))
    with pytest.raises(BadRow, match="chosen and rejected are one answer"):
        renderer.render_all(pair("수도는?", "서울", rejected=" 서울 "))
    asked = pair("수도는?", "서울에는 사람이 많이 삽니다.", rejected="서울에는 사람이 많이 없습니다.")
    prompt, (chosen, rejected) = renderer.prompt_ids(asked), renderer.render_all(asked)
    assert chosen.prefix == rejected.prefix == len(prompt) - 1 and chosen.trained.argmax() == len(prompt)
    renderer.max_length = len(prompt)
    with pytest.raises(BadRow, match=f"max_length is {renderer.max_length}, so no word of the answer fits"):
        renderer.render_all(asked)
    longer = pair(
        "안녕?", "네.", "수도는?", "서울입니다.", rejected="부산입니다."
    )  # an earlier answer fits, the last one does not
    renderer.max_length = len(renderer.prompt_ids(longer))
    with pytest.raises(BadRow, match=f"no word of the answer fits into max_length {renderer.max_length}"):
        renderer.render_all(longer)
    renderer.max_length = len(prompt) + 2
    with pytest.raises(BadRow, match=f"the same tokens within max_length {renderer.max_length}.*or raise it"):
        renderer.render_all(asked)


def test_a_prompt_that_depends_on_its_answer():
    """As in templates that take reasoning out of an answer and put it in front."""
    tokenizer = load_tokenizer(str(tiny.language_folder("llama")))
    template = "{%- for m in messages -%}{{ m.role + ('!' if '싫' in messages[-1].content else '') + '\n' }}"
    template += "{%- if m.role == 'assistant' -%}{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    template += "{%- else -%}{{ m.content + '\n' }}{%- endif -%}{%- endfor -%}"
    with pytest.raises(BadRow, match="writes the prompt in another way for each of the two answers"):
        PreferenceRenderer(tokenizer, template, 0).render_all(pair("안녕?", "안녕하세요.", rejected="싫어요."))


def test_rows_without_a_rejected_answer_stop_the_stage(tmp_path):
    recipe = preferring(tmp_path)
    recipe["stages"][1]["data"] = recipe["stages"][0]["data"][1:]
    with pytest.raises(BodaError, match=r"(?s)16 of 16 rows cannot be used.*a pair of answers is needed"):
        boda.train(recipe, tmp_path / "run", quiet=True)


def test_log_probabilities_of_an_answer_are_its_own(tmp_path):
    """... whatever stands beside it in the row."""
    case = text_case(tmp_path, "qwen3", ["language.lora"])
    (batch,) = batches_of(case.data, rows_of(case.data, 10_000), None)
    together = answer_log_probabilities(case.model, batch)
    alone = [answer_log_probabilities(case.model, each) for each in batches_of(case.data, rows_of(case.data, 1), None)]
    order = [int(batch["sample_ids"][segment]) for segment in range(len(batch["sample_ids"]))]
    assert len(together) == len(case.data) and len(set(order)) <= len(order)
    assert torch.allclose(together.sort().values, torch.cat(alone).sort().values, atol=1e-5)
