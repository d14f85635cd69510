"""Model cards in English and Korean, from what a run and the model's `boda.json` say; what they do not say is called not stated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from boda.evaluate.answers import ADVICE, fingerprint
from boda.evaluate.figures import Run, by_task, interval, markdown, percent, published_score, upstream_of
from boda.evaluate.words import words
from boda.files import read_json

PIPELINES = {"vlm": "image-text-to-text", "flamingo": "image-text-to-text", "clip": "zero-shot-image-classification"}
PIPELINES["language"] = "text-generation"
CLASSES = {"clip": "AutoModel", "language": "AutoModelForCausalLM"}  # others: the class that answers about pictures
LICENCES = (  # that the hub knows by name
    "apache-2.0 mit bsd-3-clause gpl-3.0 cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 "
    "llama3 llama3.1 llama3.2 gemma openrail"
).split()
PARTS = ("vision", "language", "tokenizer")
EVALUATION = ("task", "version", "score", "interval", "n", "failed", "upstream", "chance", "majority", "blind")


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
        f"model-card{end}.md": head + _card(called, folder, info, evaluated, blind, words("card", language))
        for language, end in (("en", ""), ("ko", ".ko"))
    }, ""


def _front_matter(called: str, info: dict, runs: Sequence[Run]) -> str:
    kind, licence = info.get("kind", ""), info.get("licence")
    told: dict = {"language": ["ko"], "library_name": "transformers"}
    if isinstance(licence, str):
        told |= {"license": licence.lower()} if licence.lower() in LICENCES else {"license": "other", "license_name": licence}
    told |= {"pipeline_tag": PIPELINES[kind]} if kind in PIPELINES else {}
    if bases := [part for _, part in _parts(info) if isinstance(part, str) and _is_hub_id(part)]:
        told["base_model"] = list(dict.fromkeys(bases))
    results = [
        {
            "task": {"type": PIPELINES.get(kind, "other")},
            "dataset": {"name": _public(task), "type": task.partition(":")[0], "revision": str(result.get("version", ""))},
            "metrics": list(_metrics(result)),
        }
        for task, pairs in by_task(runs).items()
        for _, result in pairs
        if result["score"] is not None
    ]
    told |= {"model-index": [{"name": called, "results": results}]} if results else {}
    return f"---\n{yaml.safe_dump(told, allow_unicode=True, sort_keys=False)}---\n"


def _metrics(result: dict) -> Iterator[dict]:
    about = f"Boda's rule (95 % interval {interval(result, ' to ')}), n {result['n']}"
    yield {"type": "score", "value": round(result["score"], 4), "name": about, "verified": False}
    if found := upstream_of(result):
        measure, count = found.get("measure", "score"), f", n {found['n']}" if found.get("n") is not None else ""
        name = f"published rule{f' {measure}' if 'measure' in found else ''}{count}"
        yield {"type": measure.lower().replace(" ", "_"), "value": round(found["score"], 4), "name": name, "verified": False}


def _parts(info: dict) -> Iterator[tuple[str, object]]:
    model = info.get("recipe", {}).get("model", {})
    yield from ((part, model[part]) for part in PARTS if model.get(part))


def _is_hub_id(part: str) -> bool:
    return part.count("/") == 1 and not part.startswith((".", "~", "/")) and not Path(part).exists()


def _card(called: str, folder: Path, info: dict, runs: Sequence[Run], blind: Sequence[Run], say: dict[str, str]) -> str:

    def part(title: str, *paragraphs: str) -> list[str]:
        return [f"## {say[title]}", *paragraphs]

    def told(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        if not rows:
            return say["unstated"]
        filled = [place for place in range(len(heads)) if any(row[place] != "-" for row in rows)]
        names = [say.get(heads[place], heads[place]) for place in filled]
        return markdown(names, [[row[place] for place in filled] for row in rows]).rstrip()

    parts = [[name, _part(value, say)] for name, value in _parts(info)]
    connector = info.get("connector") or info.get("recipe", {}).get("model", {}).get("connector")
    parts += [[say["connector"], str(connector)]] if connector else []
    data = [
        [
            f"{prefix}{each.get('stage', '')}",
            _place(each.get("path")),
            say["unstated"] if each.get("rows") is None else f"{each['rows']:,}",
            say["unstated"] if each.get("licence") in (None, "", "not stated") else each["licence"],
        ]
        for prefix, each in _data(info)
    ]
    stages = list(_stages(info, say))
    versions = ", ".join(f"{name} {value}" for name, value in info.get("versions", {}).items())
    licence = f"{say['licence']}: {info.get('licence') or say['unstated']}."
    paragraphs = [
        f"# {called}",
        say["about"].format(kind=info.get("kind") or say["unstated"]),
        *part("model", told(["part", "from"], parts), licence),
        *part("data", told(["stage", "source", "rows", "data_licence"], data)),
        *part("training", told(["stage", "objective", "trained", "steps", "batch", "rate", "loss"], stages)),
        *part("evaluation", say["evaluation_about"], told(EVALUATION, list(_evaluation(runs, blind, say)))),
        *part("untested", say["untested_about"].format(tasks=_untested(runs))),
        *part("loading", *_loading(called, folder, info.get("kind", ""), say)),
        *part("versions", versions or say["unstated"]),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _part(value: object, say: dict[str, str]) -> str:
    """What a part of the recipe is: a hub id or folder, a recipe that made it, or a config that started from nothing."""
    if isinstance(value, dict):
        if "recipe" in value:
            return say["made"].format(name=_place(value["recipe"]))
        if "model_type" in value:
            return say["scratch"].format(type=value["model_type"])
        return ", ".join(f"{name} {_place(each)}" for name, each in value.items() if each is not None)
    return _place(value)


def _place(path: object) -> str:
    """A hub id or a recipe's own words as they are; of a folder elsewhere on a machine only its name."""
    found = str("" if path is None else path)
    return re.split(r"[/\\]", found.rstrip("/\\"))[-1] if re.match(r"[./~\\]|[A-Za-z]:[/\\]", found) else found


def _public(task: str) -> str:
    """A task's name; of files elsewhere on a machine only their names."""
    return re.sub(r"(?<=[:=])[/~][^:]*/", "", task)


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


def _evaluation(runs: Sequence[Run], blind: Sequence[Run], say: dict[str, str]) -> Iterator[list[str]]:
    for task, pairs in by_task(runs).items():
        dark = next((run.tasks[task].get("score") for run in blind if task in run.tasks), None)
        for _, result in pairs:
            upstream, scored = upstream_of(result), result["score"] is not None
            published = f"{published_score(upstream, result)} ({upstream.get('rule') or say['unstated']})" if upstream else "-"
            cells = [_public(task), str(result.get("version") or say["unstated"]), percent(result["score"], result) or "-"]
            cells += [interval(result) if scored else "-", f"{result['n']:,}", f"{result['failed']:,}", published]
            yield [*cells, *(percent(other, result) or "-" for other in (result.get("chance"), result.get("majority"), dark))]


def _untested(runs: Sequence[Run]) -> str:
    from boda.evaluate.tasks import list_tasks

    done = {task.partition(":")[0] for run in runs for task in run.tasks}
    return ", ".join(name for name in list_tasks() if name not in done)


def _loading(called: str, folder: Path, kind: str, say: dict[str, str]) -> Iterator[str]:
    """Code for stock transformers, and the command."""
    remote = read_json(folder / "config.json", ADVICE).get("auto_map", {})
    cls = next((name for name in remote if name.startswith("AutoModel")), CLASSES.get(kind, "AutoModelForImageTextToText"))
    given = f'"{called}"{", trust_remote_code=True" if remote else ""}'
    reader, value = ("AutoTokenizer", "tokenizer") if kind == "language" else ("AutoProcessor", "processor")
    yield (
        f"```python\nfrom transformers import {cls}, {reader}\n\n"
        f"model = {cls}.from_pretrained({given})  # the folder, or its id on the hub\n"
        f"{value} = {reader}.from_pretrained({given})\n```"
    )
    if remote:
        yield say["code"]
    command = {"clip": f'boda classify {called} photo.jpg "고양이" "강아지"', "language": f'boda chat {called} "안녕하세요?"'}
    seeing = f'boda chat {called} --image photo.jpg "무엇이 보이나요?"'
    yield f"```bash\n{command.get(kind, seeing)}\n```"
