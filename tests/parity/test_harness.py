"""Korean text benchmarks against lm-eval itself: the same log-likelihoods, answers and scores, question by question."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import boda.evaluate
from boda.evaluate.answers import read_answers
from boda.evaluate.likelihood import fp32_head, harness_model, packing
from boda.models.checkpoints import load
from tests import tiny
from tests.harness_files import WORDS, write_kmmlu, write_kobest
from tests.support import answering, tiny_model

pytest.importorskip("lm_eval")
logging.getLogger("lm_eval").setLevel(logging.CRITICAL)


def requests():
    """Contexts with choices of one and of several tokens, some shared, one without a context, some with a space at their end."""
    from lm_eval.api.instance import Instance

    asked = [("", " 예")]
    for number, word in enumerate(WORDS):
        context = f"{word}에 관한 {'긴 ' * number}글. 질문: 무엇인가? 답:" + " " * (number % 2)
        asked += [(context, f" {choice}") for choice in ("A", "B", f"{word}이다.", f"{word}이 아니다.", "예", "예 그렇다")]
    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0, metadata=("t", n, 1))
        for n, pair in enumerate(asked)
    ]


def assert_same_as_stock(model, processor, max_length: int | None = None):
    from lm_eval.models.huggingface import HFLM

    tokenizer = getattr(processor, "tokenizer", processor)
    stock = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=4, max_length=max_length)
    expected = stock.loglikelihood(requests(), disable_tqdm=True)
    before = model.config.get_text_config()._attn_implementation
    with packing(model) as packs:
        assert packs
        ours = harness_model(model, processor, 4, packs)
        ours._max_length = max_length
        given = ours.loglikelihood(requests(), disable_tqdm=True)
    assert model.config.get_text_config()._attn_implementation == before
    assert len({round(value) for value, _ in expected}) > 10  # they differ, so that an order that is wrong shows
    for (value, greedy), (wanted, is_greedy) in zip(given, expected, strict=True):
        assert value == pytest.approx(wanted, abs=1e-4) and greedy == is_greedy


def test_log_likelihoods_are_those_of_the_stock_model(language_family):
    assert_same_as_stock(*load(tiny.language_folder(language_family), dtype=torch.float32))


def test_contexts_that_are_too_long_are_cut_where_the_stock_model_cuts_them():
    assert_same_as_stock(*load(tiny.language_folder("llama"), dtype=torch.float32), max_length=24)


@pytest.mark.parametrize("connector", ["mlp2x_gelu", "ldpv2"])  # LLaVA's class and Boda's
def test_a_vlm_reads_text_through_its_own_forward_pass(connector: str):
    assert_same_as_stock(*answering(tiny_model("llama", connector=connector)))


@torch.no_grad()
def test_a_model_that_cannot_be_packed_goes_the_stock_way():
    """Bloom's attention does not go through transformers' interface."""
    from transformers import BloomConfig, BloomForCausalLM

    tokenizer = load(tiny.language_folder("llama"))[1]
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=2, initializer_range=0.5)
    model = BloomForCausalLM(config).eval()
    with packing(model) as packs:
        assert not packs
        given = harness_model(model, tokenizer, 4, packs).loglikelihood(requests(), disable_tqdm=True)
    for request, (value, _) in zip(requests()[1:7], given[1:7]):
        context, choice = request.args
        ids = tokenizer(context.rstrip())["input_ids"]
        whole = tokenizer(context + choice)["input_ids"]
        logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        assert value == pytest.approx(sum(float(logprobs[n - 1, whole[n]]) for n in range(len(ids), len(whole))), abs=1e-3)


@torch.no_grad()
def test_choices_do_not_tie_because_weights_are_bf16(language_family):
    """The head is fp32 while likelihoods are computed, and its own again afterwards."""
    model, tokenizer = load(tiny.language_folder(language_family), dtype=torch.bfloat16)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    weight, is_tied = head.weight, head.weight is embeddings.weight
    ids = torch.arange(5, 29)[None]
    before = model(ids).logits
    with fp32_head(model):
        precise = model(ids).logits
        assert head.weight.dtype == torch.float32 and precise.dtype == torch.float32
    assert head.weight is weight and (head.weight is embeddings.weight) == is_tied
    assert torch.equal(model(ids).logits, before) and before.dtype == torch.bfloat16
    assert not torch.equal(precise.bfloat16().float(), precise)  # finer than bf16
    torch.testing.assert_close(precise, before.float(), rtol=0.02, atol=0.02 * float(before.abs().max()))
    with packing(model) as packs:
        found = harness_model(model, tokenizer, 4, packs).loglikelihood(requests(), disable_tqdm=True)
    for start in range(1, len(found), 6):  # the choices of a context
        assert len({value for value, _ in found[start : start + 6]}) == 6
    assert model.dtype == torch.bfloat16 and head.weight is weight


def stock_run(model_folder: Path, task: str, files: dict[str, Path], cache: Path, shots: int, limit: int | None):
    """lm-eval's own evaluation with its own HF model; only where the rows come from is said."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    family = Path(lm_eval.__file__).parent / "tasks" / task.split("_")[0]
    manager = TaskManager(include_path=str(family), include_defaults=False)
    data = {"dataset_path": "json", "dataset_name": None}
    data |= {"dataset_kwargs": {"data_files": {name: str(path) for name, path in files.items()}, "cache_dir": str(cache)}}
    loaded = manager.load([{"group": "g", "task": [{"task": task, **data}]}])
    for each in loaded["tasks"].values():
        each.set_config(key="num_fewshot", value=shots)
        each.set_fewshot_seed(seed=1234)
    model = HFLM(pretrained=str(model_folder), dtype="float32", device="cpu", batch_size=4)
    return lm_eval.evaluate(model, loaded, limit=limit, bootstrap_iters=0)


def compare(name: str, path: Path, shots: int, tmp_path: Path, files: dict[str, Path], limit: int | None = None) -> dict:
    folder = tiny.language_folder("llama")
    expected = stock_run(folder, name, files, tmp_path / "cache", shots, limit)
    model = load(folder, dtype=torch.float32)
    task = f"{name}:{path}:shots={shots}"
    result = boda.evaluate.run(model, [task], tmp_path / "out", limit=limit, quiet=True)[task]
    records = {record["row"]: record for record in read_answers(tmp_path / "out")}
    samples = expected["samples"][name]
    assert len(samples) == len(records) == result["n"] > 0
    for sample in samples:
        record = records[f"{name}/{sample['doc_id']}"]
        assert record["prompt"][0]["content"] == sample["arguments"][0][0]
        if "logprobs" in record:
            assert record["logprobs"] == pytest.approx([reply[0][0] for reply in sample["resps"]], abs=1e-4)
        else:
            assert record["raw"] == sample["resps"][0][0] and record["extracted"] == sample["filtered_resps"][0]
        for metric in sample["metrics"]:
            wanted = sample[metric]
            assert record["metrics"][metric] == (list(wanted) if isinstance(wanted, tuple) else wanted)
    for metric, scored in result["metrics"].items():
        assert scored["score"] == pytest.approx(expected["results"][name][f"{metric},none"], abs=1e-9)
        assert scored["low"] <= scored["score"] <= scored["high"]
    return result


@pytest.mark.parametrize("subset, shots", [("boolq", 0), ("copa", 2), ("hellaswag", 3), ("sentineg", 0), ("wic", 1)])
def test_kobest_is_scored_as_lm_eval_scores_it(subset: str, shots: int, tmp_path: Path):
    path, hub = write_kobest(tmp_path), tmp_path / "hub" / "kobest" / subset
    files = {"train": hub / "train.jsonl", "validation": hub / "train.jsonl", "test": hub / "test.jsonl"}
    result = compare(f"kobest_{subset}", path, shots, tmp_path, files)
    assert result["metric"] == "f1" and result["shots"] == shots
    assert result["metrics"].keys() == {"acc", "f1"} | ({"acc_norm"} if subset == "hellaswag" else set())
    assert result["chance"] == (0.25 if subset == "hellaswag" else 0.5)


@pytest.mark.parametrize("name, limit", [("kmmlu_law", None), ("kmmlu_direct_law", 3)])
def test_kmmlu_with_five_examples_is_scored_as_lm_eval_scores_it(name: str, limit: int | None, tmp_path: Path):
    path = write_kmmlu(tmp_path)
    files = {split: tmp_path / "hub" / "kmmlu" / f"{split}.jsonl" for split in ("dev", "test")}
    result = compare(name, path, 5, tmp_path, files, limit)
    assert result["metric"] == ("acc" if limit is None else "exact_match") and result["n"] == (limit or 10)
