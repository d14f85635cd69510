"""Korean text benchmarks by lm-eval (EleutherAI's harness): its prompts, targets and metrics, our model, files or the hub.

lm-eval is imported inside functions only: it is an extra, and takes seconds.
"""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from boda.errors import WHY, BodaError, explaining
from boda.evaluate.harness_data import Splits, local_rows
from boda.evaluate.metrics.intervals import bootstrap
from boda.evaluate.task import Measured, Row, read_options, version_of
from boda.recipe.words import nearest

FAMILIES = {
    "click": "click[:PATH][:shots=N]: CLIcK, culture and language, 4 choices; click_lang, click_cul_law, ... (lm-eval)",
    "haerae": "haerae[:PATH][:shots=N]: HAE-RAE, 5 choices; haerae_history, ... (lm-eval)",
    "kmmlu": "kmmlu[:PATH][:shots=N]: KMMLU, 4 choices; kmmlu_law, kmmlu_hard, kmmlu_direct, kmmlu_cot_hard, ... (lm-eval)",
    "kobest": "kobest[:PATH][:shots=N]: KoBEST, 2 to 4 choices, macro F1; kobest_boolq, ... (lm-eval)",
}
# What a score is: the first of these that lm-eval's task has; only KoBEST's have macro F1, its own metric.
METRICS = ("f1", "acc_norm", "acc", "exact_match")
NAMES = {"f1": "macro F1", "acc": "accuracy", "acc_norm": "accuracy, choices by log-likelihood a character"}
SEED = 1234  # of the examples that lm-eval draws
BATCHES = 16  # of questions between two times that records are written
RESAMPLES = 2000


def family_of(name: str) -> str | None:
    """The benchmark that a task's name belongs to: kmmlu_hard_law -> kmmlu."""
    return name if name in FAMILIES else next((each for each in FAMILIES if name.startswith(f"{each}_")), None)


def harness_task(name: str, option: str = "", data_dir: str | Path | None = None) -> Measured:
    """A benchmark, or a part of one by lm-eval's name: `kobest_boolq:PATH:shots=5`; without PATH lm-eval takes it from the hub.

    Its `measure` takes what an Answerer opens to, rows and how many questions make a batch.
    Raises BodaError: lm-eval is missing, no such part, the files lack something, or the hub cannot be reached.
    """
    family = family_of(name)
    assert family is not None
    path, given = read_options(name, option, "shots")
    shots = given.get("shots")
    if shots is not None and not shots.isdecimal():
        raise BodaError(f"{name}: shots={shots} is no number of examples")
    with explaining(f"{name} needs lm-eval: pip install 'boda[eval]'", ModuleNotFoundError), _quiet():
        import lm_eval.tasks
        from lm_eval import __version__ as harness_version

        folder = Path(lm_eval.tasks.__file__).parent / family
        index = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False).task_index
    if name not in index:
        raise BodaError(f"lm-eval {harness_version} has no task '{name}'; {nearest(name, sorted(index))}")
    leaves = _leaves(index, name)
    configs = {leaf: _config(index[leaf].yaml_path, shots) for leaf in leaves}
    if path:
        splits = _found(family, name, path, data_dir, configs)
        tasks = {}
        for leaf, config in configs.items():
            with explaining(f"{leaf}: no question in {path} belongs to it; ask for the parts that are there", IndexError):
                tasks[leaf] = _task(config, HubLike(leaf, splits[_subset(config)], config, path))
    else:
        where = f"give files on this disk: --tasks {name}:PATH (docs/text-benchmarks.md says what they look like)"
        with explaining(f"{name}: its data could not be had from the hub ({WHY}); {where}", Exception):
            tasks = {leaf: _task(config) for leaf, config in configs.items()}
    docs = {leaf: list(task.task_docs) for leaf, task in tasks.items()}
    first = next(iter(tasks.values()))
    examples = int(first.config.num_fewshot or 0)
    for leaf, task in tasks.items():
        there = len(task.sampler.df) - (task.config.fewshot_split == task.config.test_split)
        if examples > there and not (task.config.fewshot_config.samples):
            raise BodaError(f"{leaf}: {examples} examples are asked for and there are {there} to draw from; say shots={there}")
    metric = next(each for each in METRICS if each in first._metric_fn_list)
    facts = {"lm_eval": harness_version, "task_version": first.VERSION, "shots": examples, "metric": metric}
    note = f"{NAMES.get(metric, metric)}; lm-eval {harness_version}, version {first.VERSION}, {examples}-shot, no chat template"
    note += "; a limit takes the first rows of each subset"

    def load(limit: int | None) -> list[Row]:
        return [Row(f"{leaf}/{number}", (leaf, number)) for leaf in docs for number in range(len(docs[leaf][:limit]))]

    measure = partial(_measure, name, tasks, leaves, metric)
    summarise = partial(_summarise, facts, len(leaves) > 1)
    version = version_of(f"{first.VERSION}-{examples}shot", [harness_version, *docs, *docs.values()])
    decoding = dict(first.config.generation_kwargs or {})
    return Measured(f"{name}:{option}".rstrip(":"), version, load, measure, summarise, note, decoding)


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval and datasets report on both streams; what they say is no part of our output."""
    from boda.models.loading import quiet_loading

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with quiet_loading(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def _leaves(index: dict, name: str) -> dict[str, str]:
    """{lm-eval's task: the group below `name` that it belongs to, or ''}, in lm-eval's order."""
    entry = index[name]
    below = entry.cfg["task"] if entry.kind.name == "GROUP" else sorted(entry.tags) if entry.kind.name == "TAG" else []
    if not below:
        return {name: ""}
    groups = {child: child if index[child].kind.name == "GROUP" else "" for child in below}
    return {leaf: group for child, group in groups.items() for leaf in _leaves(index, child)}


def _config(yaml_path: Path, shots: str | None) -> dict:
    """A task as its file says, but for the number of examples, and for metrics that would be fetched and never called."""
    from lm_eval.tasks._yaml_loader import load_yaml

    config = {key: value for key, value in load_yaml(yaml_path).items() if key not in ("tag", "group", "task_list")}
    config["metric_list"] = [{**metric, "hf_evaluate": False} for metric in config["metric_list"]]
    config["num_fewshot"] = int(shots) if shots is not None else config.get("num_fewshot", 0)
    return config


def _subset(config: dict) -> str:
    return config.get("dataset_name") or "default"


def _found(family: str, name: str, path: str, data_dir: str | Path | None, configs: dict[str, dict]) -> Splits:
    """The rows of local files. Raises BodaError: a subset is not there."""
    subsets = {leaf: _subset(config) for leaf, config in configs.items()}
    splits = local_rows(family, path, data_dir, list(dict.fromkeys(subsets.values())))
    if missing := {leaf: subset for leaf, subset in subsets.items() if subset not in splits}:
        there = [leaf for leaf in subsets if leaf not in missing]
        some = ", ".join(list(missing.values())[:5]) + (", ..." if len(missing) > 5 else "")
        raise BodaError(
            f"{name}: {path} has no file of {len(missing)} of its {len(subsets)} subsets ({some}); "
            f"ask for those it has: --tasks {','.join(f'{leaf}:{path}' for leaf in there[:3])}"
        )
    return splits


class HubLike(dict):
    """{split: Dataset} as the hub gives it. A split that is not there is empty where nothing needs its rows, else a BodaError."""

    def __init__(self, leaf: str, rows: dict[str, list[dict]], config: dict, path: str):
        from datasets import Dataset

        super().__init__({split: Dataset.from_list(some) for split, some in rows.items()})
        self.leaf, self.config, self.path, self.empty = leaf, config, path, Dataset.from_list([])

    def __missing__(self, split: str):
        is_test, shots, subset = split == self.config["test_split"], self.config["num_fewshot"], _subset(self.config)
        if not is_test and not shots:
            return self.empty
        why = "its questions are" if is_test else f"the {shots} examples before each question are"
        word, advice = "dev" if split == "validation" else split, "" if is_test else ", or say shots=0"
        raise BodaError(
            f"{self.leaf}: {why} in the split '{split}', and {self.path} has no file of it; put it there as "
            f"{subset}/{word}.tsv or {subset}-{word}.csv{advice}"
        )


@_quiet()
def _task(config: dict, rows: dict | None = None):
    from lm_eval.api.task import ConfigurableTask

    local = {} if rows is None else {"custom_dataset": lambda **_: rows}
    return ConfigurableTask(config=config | local)


def _measure(name, tasks: dict, leaves: dict, metric: str, ask: Any, rows: Sequence[Row], size: int) -> Iterator[dict]:
    loaded: tuple[Any, Any] | None = getattr(ask, "loaded", None)
    if loaded is None:
        raise BodaError(f"{name} compares log-likelihoods: it needs a model folder, a hub id or a (model, processor) pair")
    from boda.evaluate.likelihood import harness_model, packing

    with packing(loaded[0]) as packs:
        with _quiet():
            lm = harness_model(*loaded, size, packs)
        for leaf, some in groupby(rows, lambda row: row.value[0]):
            task, numbers = tasks[leaf], [row.value[1] for row in some]
            with _quiet():
                task.set_fewshot_seed(SEED)  # examples are drawn question by question, so all of them are built
                task.build_all_requests(limit=max(numbers) + 1)
            requests = {number: [*asked] for number, asked in groupby(task.instances, lambda request: request.doc_id)}
            for start in range(0, len(numbers), BATCHES * size):
                block = numbers[start : start + BATCHES * size]
                asked = [request for number in block for request in requests[number]]
                with _quiet():
                    with explaining(f"{leaf} cannot be asked of this model: {WHY}", AssertionError):
                        replies = getattr(lm, asked[0].request_type)(asked, disable_tqdm=True)
                    for request, reply in zip(asked, replies, strict=True):
                        request.resps.append(reply)
                    task._instances = asked
                    task.apply_filters()
                for number in block:
                    yield _record(lm, task, leaf, leaves[leaf], metric, number, requests[number])


def _record(lm, task, leaf: str, group: str, metric: str, number: int, asked: list) -> dict:
    """What is kept of a question: as other tasks do, and the choices with their log-likelihoods, and every metric."""
    doc, key = asked[0].doc, next(iter(asked[0].filtered_resps))
    results = [request.filtered_resps[key] for request in asked]
    found = task.process_results(doc, results).items()
    metrics = {name: [*map(int, value)] if isinstance(value, tuple) else float(value) for name, value in found}
    gold, prompt = task.doc_to_target(doc), asked[0].args[0]
    record: dict = {"row": f"{leaf}/{number}", "prompt": [{"role": "user", "content": prompt}], "images": []}
    if asked[0].request_type == "loglikelihood":
        choices, scores = task.doc_to_choice(doc), [result[0] for result in results]
        lengths = [len(choice) if metric == "acc_norm" else 1 for choice in choices]
        picked = choices[int(np.argmax(np.array(scores) / lengths))]
        record |= {"raw": picked, "extracted": picked, "gold": choices[gold] if isinstance(gold, int) else gold}
        record |= {"choices": choices, "logprobs": scores}
        longest, room = prompt + max((request.args[1] for request in asked), key=len), lm.max_length + 1
    else:
        record |= {"raw": asked[0].resps[0], "extracted": str(results[0]), "gold": str(gold)}
        longest, room = prompt, lm.max_length - asked[0].args[1].get("max_gen_toks", lm.max_gen_toks)
    cut = max(0, len(lm.tok_encode(longest)) - room)
    score = metrics["acc"] if isinstance(metrics[metric], list) else metrics[metric]
    tags = {"group": group, "subset": leaf} if group else {"subset": leaf}
    return record | {"metrics": metrics, "score": score, "tags": tags, "cut": cut, "failed": False}


def _summarise(facts: dict, has_parts: bool, records: list[dict]) -> dict:
    groups: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for record in records if has_parts else ():
        for tag, value in record["tags"].items():
            groups[tag][value].append(record)
    parts = {tag: {value: _summary(some, facts["metric"]) for value, some in group.items()} for tag, group in groups.items()}
    cut = sum(record["cut"] > 0 for record in records)
    said = f"{cut} of {len(records)} prompts were longer than the model can read and lost their beginning, as in lm-eval"
    return {**_summary(records, facts["metric"]), **facts, "groups": parts, "remarks": [said] if cut else []}


def _summary(records: list[dict], metric: str) -> dict:
    """`score n failed low high` by the main metric, the same of every metric, and what guessing would score."""
    by_metric: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for name, value in record["metrics"].items():
            by_metric[name][record["tags"]["subset"]].append(value)
    metrics = {name: _scored(list(subsets.values())) for name, subsets in by_metric.items()}
    chance = {"chance": float(np.mean([1 / len(record["choices"]) for record in records]))} if "choices" in records[0] else {}
    return {**metrics[metric], "n": len(records), "failed": 0, **chance, "metrics": metrics}


def _scored(subsets: list[list]) -> dict:
    """Score and 95 % interval over the questions of some subsets, each by its size, as lm-eval's groups are."""
    if isinstance(subsets[0][0], list):
        score, drawn = macro_f1([np.array(pairs) for pairs in subsets])
        low, high = np.quantile(drawn, [0.025, 0.975])
    else:
        values = [value for some in subsets for value in some]
        score, (low, high) = sum(values) / len(values), bootstrap(values)
    return {"score": float(score), "low": float(low), "high": float(high)}


def macro_f1(subsets: Sequence[np.ndarray]) -> tuple[float, np.ndarray]:
    """(gold, picked) pairs (N, 2) of subsets -> macro F1, weighted by size, and the same of RESAMPLES bootstrap samples.

    As scikit-learn's `f1_score(average="macro")`: the mean over the classes that are either gold or picked.
    """
    rng = np.random.default_rng(0)
    score, drawn, total = 0.0, np.zeros(RESAMPLES), sum(map(len, subsets))
    for pairs in subsets:
        classes = int(pairs.max()) + 1
        counts = np.bincount(pairs @ [classes, 1], minlength=classes**2)
        # Drawing questions with replacement draws the counts of a confusion matrix.
        tables = np.vstack([counts, rng.multinomial(len(pairs), counts / len(pairs), RESAMPLES)])
        tables = tables.reshape(-1, classes, classes)  # (1 + RESAMPLES, gold, picked)
        right, any_of = np.diagonal(tables, axis1=1, axis2=2), tables.sum(1) + tables.sum(2)
        values = (2 * right / np.maximum(any_of, 1)).sum(1) / (any_of > 0).sum(1)
        score, drawn = score + values[0] * len(pairs) / total, drawn + values[1:] * len(pairs) / total
    return score, drawn
