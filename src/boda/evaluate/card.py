"""Model cards in English and Korean, from what a run and the model's `boda.json` say; what they do not say is called not stated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from boda.evaluate.answers import ADVICE, fingerprint
from boda.evaluate.figures import Run, interval, markdown, percent, published_score, upstream_of
from boda.files import read_json

PIPELINES = {"vlm": "image-text-to-text", "flamingo": "image-text-to-text", "clip": "zero-shot-image-classification"}
PIPELINES["language"] = "text-generation"
CLASSES = {"clip": "AutoModel", "language": "AutoModelForCausalLM"}  # others: the class that answers about pictures
PARTS = ("vision", "language", "tokenizer")

WORDS: dict[str, tuple[str, str]] = {
    "about": ("Made with Boda from the recipe below. Kind: {kind}.", "아래 레시피로 Boda가 만든 모델입니다. 종류: {kind}."),
    "unstated": ("not stated", "밝히지 않음"),
    "model": ("Model", "구성"),
    "part": ("Part", "부분"),
    "from": ("From", "출처"),
    "connector": ("connector", "커넥터"),
    "scratch": ("trained from scratch ({type})", "처음부터 학습 ({type})"),
    "made": ("made by the recipe {name}", "레시피 {name}(으)로 만듦"),
    "licence": ("Licence of the model", "모델의 라이선스"),
    "data": ("Training data", "학습 자료"),
    "stage": ("Stage", "단계"),
    "source": ("Source", "자료"),
    "rows": ("Samples", "표본"),
    "data_licence": ("Licence", "라이선스"),
    "training": ("Training", "학습"),
    "objective": ("Objective", "목적"),
    "trained": ("Trained parts", "학습한 부분"),
    "steps": ("Steps", "스텝"),
    "batch": ("Batch", "배치"),
    "rate": ("Learning rate", "학습률"),
    "loss": ("Last loss", "마지막 손실"),
    "evaluation": ("Evaluation", "평가"),
    "evaluation_about": (
        "Mean over the answered questions with a 95 % bootstrap interval over pictures; failed questions are counted, not scored.",
        "답을 얻은 문항의 평균과, 사진을 다시 뽑아 얻은 95 % 부트스트랩 구간입니다. 실패한 문항은 세기만 하고 채점하지 않습니다.",
    ),
    "task": ("Task", "과제"),
    "version": ("Version", "판"),
    "score": ("Score (Boda)", "점수 (Boda)"),
    "interval": ("95 % interval", "95 % 구간"),
    "failed": ("Failed", "실패"),
    "upstream": ("Published rule", "발표된 규칙"),
    "chance": ("Chance", "무작위"),
    "majority": ("Majority answer", "가장 흔한 답"),
    "blind": ("Blind", "그림 없이"),
    "untested": ("What it was not tested on", "시험하지 않은 것"),
    "untested_about": (
        "Nothing beyond the table above is recorded in this run: no statement is made about other uses, other languages, safety or bias. "
        "Tasks of Boda that were not run: {tasks}.",
        "이 실행에는 위 표 밖의 기록이 없습니다. 다른 용도, 다른 언어, 안전, 편향에 대해서는 아무것도 말하지 않습니다. "
        "돌리지 않은 Boda 과제: {tasks}.",
    ),
    "loading": ("How to load it", "불러오기"),
    "code": (
        "The folder brings its own model code, which runs only with `trust_remote_code=True`.",
        "폴더에 모델 코드가 들어 있고, `trust_remote_code=True`일 때만 실행됩니다.",
    ),
    "versions": ("Versions", "버전"),
}


def model_cards(runs: Sequence[Run]) -> tuple[dict[str, str], str]:
    """{file name: card} in both languages, of runs of one model folder; or none, and why."""
    evaluated = [run for run in runs if run.results and not run.is_blind]
    if not evaluated:
        return {}, "" if not any(run.results for run in runs) else "every evaluation is blind"
    models = {(run.results.get("model"), run.results.get("fingerprint")) for run in evaluated}
    if len(models) > 1:
        return {}, f"the runs are of {len(models)} models, and a card is of one"
    ((name, print_of),) = models
    from boda.models.loading import locate

    folder = Path(locate(str(name)))
    info = read_json(folder / "boda.json", ADVICE) if (folder / "boda.json").is_file() else {}
    if not info:
        return {}, f"'{name}' is no folder here with a boda.json, which says what a model is made of"
    if fingerprint(folder) != print_of:
        return {}, f"'{name}' holds another model than the one that answered"
    blind = [run for run in runs if run.is_blind and run.results.get("fingerprint") == print_of]
    # A run's folder `model` is called after the run.
    called = folder.resolve().parent.name if folder.name == "model" else folder.name
    head = _front_matter(called, info, evaluated)
    return {
        f"model-card{end}.md": head + _card(called, folder, info, evaluated, blind, place)
        for place, end in enumerate(("", ".ko"))
    }, ""


def _front_matter(called: str, info: dict, runs: Sequence[Run]) -> str:
    kind = info.get("kind", "")
    told: dict = {"language": ["ko"], "library_name": "transformers"}
    told |= {"license": info["licence"]} if isinstance(info.get("licence"), str) else {}
    told |= {"pipeline_tag": PIPELINES[kind]} if kind in PIPELINES else {}
    if bases := [part for _, part in _parts(info) if isinstance(part, str) and _is_hub_id(part)]:
        told["base_model"] = list(dict.fromkeys(bases))
    results = [
        {
            "task": {"type": PIPELINES.get(kind, "other")},
            "dataset": {"name": _public(task), "type": task.partition(":")[0], "revision": str(result.get("version", ""))},
            "metrics": [
                {
                    "type": "score",
                    "value": round(value, 4),
                    "name": f"{rule}{f', n {n}' if n is not None else ''}",
                    "verified": False,
                }
                for rule, value, n in _values(result)
            ],
        }
        for run in runs
        for task, result in run.tasks.items()
        if result["score"] is not None
    ]
    told |= {"model-index": [{"name": called, "results": results}]} if results else {}
    return f"---\n{yaml.safe_dump(told, allow_unicode=True, sort_keys=False)}---\n"


def _values(result: dict) -> Iterator[tuple[str, float, int | None]]:
    yield f"Boda's rule (95 % interval {interval(result, ' to ')})", result["score"], result["n"]
    if found := upstream_of(result):
        yield " ".join(["published rule", *([found["measure"]] if "measure" in found else [])]), found["score"], found.get("n")


def _parts(info: dict) -> Iterator[tuple[str, object]]:
    model = info.get("recipe", {}).get("model", {})
    yield from ((part, model[part]) for part in PARTS if model.get(part))


def _is_hub_id(part: str) -> bool:
    return part.count("/") == 1 and not part.startswith((".", "~", "/")) and not Path(part).exists()


def _card(called: str, folder: Path, info: dict, runs: Sequence[Run], blind: Sequence[Run], place: int) -> str:
    say = {name: both[place] for name, both in WORDS.items()}
    unstated = f"{say['unstated']}\n"
    told = [f"# {called}", "", say["about"].format(kind=info.get("kind") or say["unstated"]), "", f"## {say['model']}", ""]
    parts = [[part, _part(value, say)] for part, value in _parts(info)]
    connector = info.get("connector") or info.get("recipe", {}).get("model", {}).get("connector")
    parts += [[say["connector"], str(connector)]] if connector else []
    told += [markdown([say["part"], say["from"]], parts) if parts else unstated]
    told += [f"{say['licence']}: {info.get('licence') or say['unstated']}.", "", f"## {say['data']}", ""]
    data = [
        [
            f"{prefix}{each.get('stage', '')}",
            _place(each.get("path")),
            _count(each.get("rows"), say),
            each.get("licence") or say["unstated"],
        ]
        for prefix, each in _data(info)
    ]
    data = [[*line[:3], say["unstated"] if line[3] == "not stated" else line[3]] for line in data]
    heads = [say[name] for name in ("stage", "source", "rows", "data_licence")]
    told += [markdown(heads, data) if data else unstated, f"## {say['training']}", ""]
    heads = [say[name] for name in ("stage", "objective", "trained", "steps", "batch", "rate", "loss")]
    stages = list(_stages(info, say))
    told += [
        markdown(heads, stages) if stages else unstated,
        f"## {say['evaluation']}",
        "",
        say["evaluation_about"],
        "",
    ]
    told += [
        _evaluation(runs, blind, say),
        f"## {say['untested']}",
        "",
        say["untested_about"].format(tasks=_untested(runs)),
        "",
    ]
    told += [f"## {say['loading']}", "", *_loading(called, folder, info.get("kind", ""), say)]
    versions = ", ".join(f"{name} {value}" for name, value in info.get("versions", {}).items())
    return "\n".join([*told, f"## {say['versions']}", "", versions or say["unstated"], ""])


def _part(value: object, say: dict[str, str]) -> str:
    """What a part of the recipe is: a hub id or folder, a recipe that made it, or a config that started from nothing."""
    if isinstance(value, dict):
        if "recipe" in value:
            return say["made"].format(name=value["recipe"])
        if "model_type" in value:
            return say["scratch"].format(type=value["model_type"])
        return ", ".join(f"{name} {each}" for name, each in value.items() if each is not None)
    return _place(value)


def _place(path: object) -> str:
    """A hub id or a recipe's own words as they are; of a folder elsewhere on a machine only its name."""
    found = str(path or "")
    return Path(found).name if Path(found).is_absolute() else found


def _public(task: str) -> str:
    """A task's name; of files elsewhere on a machine only their names."""
    return re.sub(r"(?<=[:=])[/~][^:]*/", "", task)


def _count(rows: int | None, say: dict[str, str]) -> str:
    return say["unstated"] if rows is None else f"{rows:,}"


def _data(info: dict, prefix: str = "") -> Iterator[tuple[str, dict]]:
    """What it learnt from, its parts' own training first."""
    for part, made in info.get("parts", {}).items():
        yield from _data(made, f"{prefix}{part}: ")
    yield from ((prefix, each) for each in info.get("data", []))


def _stages(info: dict, say: dict[str, str], prefix: str = "") -> Iterator[list[str]]:
    for part, made in info.get("parts", {}).items():
        yield from _stages(made, say, f"{prefix}{part}: ")
    done = info.get("stages", {})
    for stage in info.get("recipe", {}).get("stages", []):
        last = done.get(stage["name"], {})
        steps = f"{last['steps']:,}" if "steps" in last else say["unstated"]
        loss = f"{last['loss']:.3f}" if "loss" in last else say["unstated"]
        told = [stage.get("objective") or say["unstated"], ", ".join(stage.get("train") or []) or say["unstated"], steps]
        told += [str(stage.get(name, say["unstated"])) for name in ("batch_size", "learning_rate")]
        yield [f"{prefix}{stage['name']}", *told, loss]


def _evaluation(runs: Sequence[Run], blind: Sequence[Run], say: dict[str, str]) -> str:
    rows = []
    for run in runs:
        for task, result in run.tasks.items():
            upstream, dark = upstream_of(result), next((each.tasks[task] for each in blind if task in each.tasks), {})
            score = "-" if result["score"] is None else percent(result["score"], result)
            between = "-" if result["score"] is None else interval(result)
            published = f"{published_score(upstream, result)} ({upstream.get('rule') or say['unstated']})" if upstream else "-"
            cells = [_public(task), str(result.get("version") or say["unstated"]), score, between]
            cells += [f"{result['n']:,}", f"{result['failed']:,}", published]
            others = [result.get("chance"), result.get("majority"), dark.get("score")]
            rows.append([*cells, *(percent(other, result) or "-" for other in others)])
    heads = [say["task"], say["version"], say["score"], say["interval"], "n", say["failed"]]
    return markdown([*heads, *(say[name] for name in ("upstream", "chance", "majority", "blind"))], rows)


def _untested(runs: Sequence[Run]) -> str:
    from boda.evaluate.tasks import list_tasks

    done = {task.partition(":")[0] for run in runs for task in run.tasks}
    return ", ".join(name for name in list_tasks() if name not in done)


def _loading(called: str, folder: Path, kind: str, say: dict[str, str]) -> Iterator[str]:
    """Code for stock transformers, and the command."""
    remote = read_json(folder / "config.json", ADVICE).get("auto_map", {})
    cls = next((name for name in remote if name.startswith("AutoModel")), CLASSES.get(kind, "AutoModelForImageTextToText"))
    trust = ", trust_remote_code=True" if remote else ""
    reader = "AutoTokenizer" if kind == "language" else "AutoProcessor"
    yield from (["```python", f"from transformers import {cls}, {reader}", ""])
    yield f'model = {cls}.from_pretrained("{called}"{trust})  # the folder, or its id on the hub'
    yield from [f'processor = {reader}.from_pretrained("{called}"{trust})', "```", "", *([say["code"], ""] if remote else [])]
    command = {"clip": f'boda classify {called} photo.jpg "고양이" "강아지"', "language": f'boda chat {called} "안녕하세요?"'}
    yield from ["```bash", command.get(kind, f'boda chat {called} --image photo.jpg "무엇이 보이나요?"'), "```", ""]
