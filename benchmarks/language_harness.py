"""Korean text benchmarks: `mini` on local files of KoBEST, CLIcK and KMMLU by `boda eval`, and by stock lm-eval on the same rows.

    python benchmarks/language_harness.py DATA [--limit N]     # DATA holds kobest, click and lm_eval_kmmlu

Prints, for each benchmark, the score with its interval beside chance and CPU seconds of both, how far their log-likelihoods are
apart in fp32, and the same with the weights in bf16, measured against fp32; then time and memory with 100,000 words.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import boda.evaluate
from boda.evaluate.answers import read_answers
from boda.evaluate.harness_data import local_rows
from boda.models.checkpoints import load

BENCHMARKS = {"kobest": "kobest", "click": "click", "kmmlu": "lm_eval_kmmlu"}


def stock_tasks(name: str, rows_of: Path, folder: Path):
    """lm-eval's own tasks; only where their rows come from is said."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(Path(lm_eval.__file__).parent / "tasks" / name), include_defaults=False)
    index = manager.task_index

    def leaves(each: str) -> list[str]:
        entry = index[each]
        below = {"GROUP": lambda: entry.cfg["task"], "TAG": lambda: sorted(entry.tags)}.get(entry.kind.name, lambda: [])()
        return [leaf for child in below for leaf in leaves(child)] or [each]

    subsets = {leaf: index[leaf].cfg.get("dataset_name") or "default" for leaf in leaves(name)}
    children = []
    for subset, splits in local_rows(name, str(rows_of), None, list(dict.fromkeys(subsets.values()))).items():
        files = {}
        for split in ("train", "validation", "dev", "test"):
            rows = splits.get(split) or next(iter(splits.values()))  # examples are not drawn here
            files[split] = folder / subset / f"{split}.jsonl"
            files[split].parent.mkdir(parents=True, exist_ok=True)
            files[split].write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        where = {"data_files": {split: str(path) for split, path in files.items()}, "cache_dir": str(folder / "cache")}
        data = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": where}
        children += [{"task": leaf, **data} for leaf, own in subsets.items() if own == subset]
    return manager.load([{"group": name, "task": children}])


def stock(model, processor, tasks, limit: int | None, **options) -> tuple[dict, dict[str, list[float]]]:
    """(lm-eval's results, log-likelihoods of each question) by its HF model."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    for task in tasks["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234)
    wrapped = HFLM(pretrained=model, tokenizer=processor.tokenizer, backend="causal", batch_size=16, **options)
    found = lm_eval.evaluate(wrapped, tasks, limit=limit, bootstrap_iters=0)
    values = {
        f"{name}/{sample['doc_id']}": [reply[0][0] for reply in sample["resps"]]
        for name, samples in found["samples"].items()
        for sample in samples
    }
    return found["results"], values


def apart(given: dict[str, list[float]], wanted: dict[str, list[float]]) -> tuple[float, float, float]:
    """(largest, mean) difference, and the share of questions whose likeliest choice is another."""
    assert given.keys() == wanted.keys()
    differences = [abs(a - b) for row in wanted for a, b in zip(given[row], wanted[row], strict=True)]
    other = [given[row].index(max(given[row])) != wanted[row].index(max(wanted[row])) for row in wanted]
    return max(differences), sum(differences) / len(differences), sum(other) / len(other)


def clocked(work):
    start = time.process_time()
    return work(), time.process_time() - start


def compare(name: str, data: Path, limit: int | None, scratch: Path) -> None:
    whole, half = (load("mini", device="cpu", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    entry = f"{name}:{data / BENCHMARKS[name]}"

    def ours(model, label: str):
        folder = scratch / f"{name}-{label}"
        result = boda.evaluate.run(model, [entry], folder, limit=limit, quiet=True)[entry]
        return result, {record["row"]: record["logprobs"] for record in read_answers(folder)}

    (result, given), seconds = clocked(lambda: ours(whole, "fp32"))
    tasks = stock_tasks(name, data / BENCHMARKS[name], scratch / name)
    (results, wanted), stock_seconds = clocked(lambda: stock(*whole, tasks, limit))
    metric = f"{result['metric']},none"
    for subset, part in {name: result, **result["groups"].get("group", {}), **result["groups"]["subset"]}.items():
        said = results.get(subset, {}).get(metric)
        same = f"{said:.2%}" if isinstance(said, float) else "-"
        interval = f"{part['low']:.1%} - {part['high']:.1%}"
        accuracy = f"{part['metrics']['acc']['score']:.1%}"
        print(f"| {subset} | {part['n']:,} | {part['score']:.2%} | {interval} | {accuracy} | {part['chance']:.1%} | {same} |")
    largest, mean, other = apart(given, wanted)
    print(f"{name}: {result['remarks']} CPU seconds {seconds:.0f}, stock {stock_seconds:.0f}")
    print(f"{name} fp32: apart {largest:.1e} at most, {mean:.1e} on average, {other:.2%} of answers differ")
    for label, run in (
        ("ours", lambda: ours(half, "bf16")),
        ("stock", lambda: stock(*half, tasks, limit)),
        ("stock, softmax_dtype=float32", lambda: stock(*half, tasks, limit, softmax_dtype="float32")),
    ):
        (_, values), seconds = clocked(run)
        tied = sum(len(set(row)) < len(row) for row in values.values()) / len(values)
        largest, mean, other = apart(values, wanted)
        told = f"{mean:.1e} from fp32 on average, {other:.2%} of answers differ, {tied:.2%} of questions with equal choices"
        print(f"{name} bf16, {label}: {told}, {seconds:.0f} s", flush=True)


def large_vocabulary(which: str, data: Path) -> None:
    """Time and peak memory of 40 questions of HellaSwag with a model of 100,000 words; in a process of its own."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    processor = load("mini", device="cpu")[1]
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "head_dim": 64}
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(vocab_size=100_000, num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=2048, **sizes)
    ).eval()
    with tempfile.TemporaryDirectory() as folder:
        if which == "stock":
            tasks = stock_tasks("kobest", data / "kobest", Path(folder))
            tasks = {"tasks": {"kobest_hellaswag": tasks["tasks"]["kobest_hellaswag"]}}
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            _, seconds = clocked(lambda: stock(model, processor, tasks, 40))
        else:
            task = boda.evaluate.make_task(f"kobest_hellaswag:{data / 'kobest'}")
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            _, seconds = clocked(lambda: boda.evaluate.run((model, processor), [task], folder, limit=40, quiet=True))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(f"100,000 words, {which}: {seconds:.0f} CPU seconds, {grown:.1f} GiB more at its peak", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--large", choices=("ours", "stock"))
    given = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)
    if given.large:
        large_vocabulary(given.large, given.data)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name in BENCHMARKS:
            compare(name, given.data, given.limit, Path(scratch))
    for which in ("ours", "stock"):
        subprocess.run([sys.executable, __file__, str(given.data), "--large", which], check=True)


if __name__ == "__main__":
    main()
