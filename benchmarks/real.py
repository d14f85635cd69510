"""A small model from scratch on real pictures, from the raw data to `benchmarks/real.md`.

    python benchmarks/real.py [--data DIR] [--work runs/real] [key=value ...]

Converts the data (`real_data.py`), trains `recipes/mini-vlm-real.yaml`, evaluates it on held-out files seeing and blind, and
writes the report with the curve and a contact sheet. Everything is resumed: stop it and start it again. `key=value` changes
the recipe, e.g. `stages.see.max_steps=500`. What people write under the report's last heading is kept when it is made again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import real_data
from common import ROOT, commit, machine, relative, versions

from boda.errors import BodaError

RECIPE = ROOT / "benchmarks/recipes/mini-vlm-real.yaml"
PHOTO_QUESTIONS = ["이것은 무엇인가요?", "이 사진에는 무엇이 있나요?", "사진 속 대상은 무엇인가요?"]
READ = "## Fifty answers, read"
# What each file measures: title, test file, training file (for the baselines), what was held out.
SETS = {
    "flags, new countries": ("flags/test.jsonl", "flags/train.jsonl", "countries whose flag was never trained on"),
    "flags, memory": (
        "flags/recall.jsonl",
        "flags/train.jsonl",
        "trained flags, asked in a wording not used for that fact of that flag",
    ),
    "emoji": ("emoji/test.jsonl", "emoji/train.jsonl", "the data set's own test drawings"),
    "NLVR boxes": ("nlvr/test.jsonl", "nlvr/train.jsonl", "NLVR's test set; trained on its development set"),
    "CIFAR-10 photos": ("cifar10/test.parquet", "cifar10/train.parquet", "CIFAR-10's test photos"),
}


def convert(data: Path, out: Path) -> None:
    """Converts once; again when a converter has changed."""
    sources = sorted(Path(__file__).parent.glob("real_*.py"))
    made = {path.name: path.read_text(encoding="utf-8") for path in sources}
    mark = out / "made.json"
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == made:
        return
    shutil.rmtree(out, ignore_errors=True)
    real_data.convert(data, out)
    mark.write_text(json.dumps(made), encoding="utf-8")


def train(work: Path, overrides: list[str]) -> Path:
    """The finished model."""
    import boda

    return boda.train(RECIPE, out=work / "run", data_dir=work / "data", overrides=overrides)


def steps_and_minutes(log: Path) -> tuple[int, float]:
    """Steps of a run and the minutes they took, without preparation and validation; stops and new starts do not count."""
    records = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines()]
    steps = [record for record in records if "loss" in record]
    return len(steps), minutes_of(steps)


def minutes_of(steps: list[dict]) -> float:
    """What steps of a log took."""
    return sum(record["tokens"] / record["tokens_per_second"] for record in steps) / 60


def evaluate(model: Path, work: Path, limit: int | None) -> dict[str, dict[str, dict]]:
    """{"seeing" | "blind": {set: result}}."""
    import boda.evaluate
    from boda.evaluate.tasks.questions import questions

    def task(name: str):
        test, trained, _ = SETS[name]
        options = {"question": PHOTO_QUESTIONS, "answer": "{label_ko}"} if test.endswith(".parquet") else {}
        return questions(test, train=trained, data_dir=work / "data", name=name, max_new_tokens=24, **options)

    tasks = [task(name) for name in SETS]
    return {
        way: boda.evaluate.run(model, tasks, work / f"eval-{way}", limit=limit, blind=way == "blind", batch_size=128)
        for way in ("seeing", "blind")
    }


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def line(label: str, seeing: dict, blind: dict | None, last: str = "") -> str:
    interval = "" if seeing["low"] is None else f" ({percent(seeing['low'])} - {percent(seeing['high'])})"
    cells = [
        label, f"{seeing['n']:,}", f"**{percent(seeing['score'])}**{interval}", percent(blind["score"] if blind else None),
        percent(seeing.get("majority")), percent(seeing.get("train_majority_by_question")), last,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def tables(results: dict[str, dict[str, dict]]) -> list[str]:
    """The summary, then every kind of question."""
    seeing, blind = results["seeing"], results["blind"]
    head = ["n", "score (95 %)", "blind", "majority", "by words alone"]
    lines = [
        "| held-out set | " + " | ".join([*head, "what was held out"]) + " |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [line(name, seeing[name], blind[name], held_out) for name, (_, _, held_out) in SETS.items()]
    lines += [
        "",
        "95 % bootstrap interval over pictures. *blind*: the same model and questions without the picture. *majority*: always the",
        "most frequent answer of these very questions. *by words alone*: for each question its most frequent answer in training.",
    ]
    for name in SETS:
        key = "type" if "type" in seeing[name]["groups"] else "answer"
        groups, blind_groups = seeing[name]["groups"].get(key, {}), blind[name]["groups"].get(key, {})
        label = "question" if key == "type" else "answer"
        lines += ["", f"### {name}", "", f"| {label} | " + " | ".join([*head, ""]) + " |", "| --- |" + " ---: |" * 5 + " --- |"]
        lines += [
            line(f"`{group}`" if key == "type" else group, found, blind_groups.get(group)) for group, found in groups.items()
        ]
    return lines


def fifty(work: Path) -> list[str]:
    """Fifty answers, ten of each set, as a table to read."""
    from boda.evaluate.answers import read_answers

    chosen = []
    records = read_answers(work / "eval-seeing")
    for name in SETS:
        found = [record for record in records if record["task"] == name and not record["failed"]]
        chosen += [(name, record) for record in random.Random(0).sample(found, min(10, len(found)))]
    return answers_table("set", chosen)


def answers_table(first: str, answers: list[tuple[str, dict]]) -> list[str]:
    """Answers to read, a line each; `first` is the heading of the names before them."""
    lines = [f"| {first} | question | answer | reference | |", "| --- | --- | --- | --- | --- |"]
    for name, record in answers:
        question = record["prompt"][-1]["content"].removeprefix("<image>").strip()
        cells = (name, question, record["raw"], record["gold"], "right" if record["score"] else "**wrong**")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def kept_reading(path: Path, heading: str) -> str:
    """What people wrote under a report's last heading, to be kept when it is made again."""
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    return old[old.index(heading) :].rstrip() if heading in old else ""


def about_machine() -> str:
    """Machine and libraries in one line."""
    facts = machine()
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB; {libraries}."


def report(work: Path, results: dict, command: str, out: Path) -> Path:
    """`real.md`, `real-curve.png` and `real-answers.png` in `out`."""
    from boda.evaluate.report import contact_sheet, curve

    curve(work / "run", out / "real-curve.png")
    contact_sheet(work / "eval-seeing", out / "real-answers.png", columns=6, rows=6)
    parts = parameters(work / "run/model")
    steps, minutes = steps_and_minutes(work / "run/log.jsonl")
    path = out / "real.md"
    read = kept_reading(path, READ)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    lines = [
        "# A small model from scratch on real pictures", "",
        f"{date}, commit `{commit()}`, `{command}`", "",
        about_machine(), "",
        f"{sum(parts.values()):,} parameters ({', '.join(f'{name} {count:,}' for name, count in parts.items())}), {steps:,} steps "
        f"that took {minutes:.0f} minutes. Recipe: [mini-vlm-real.yaml](recipes/mini-vlm-real.yaml); how the questions are made: "
        "[real_data.py](real_data.py).", "",
        "## Held-out questions", "", *tables(results), "",
        "## Training", "", "![loss over steps](real-curve.png)", "",
        "## Answers", "", "![pictures with answers, right in green, wrong in red](real-answers.png)", "", *fifty(work), "",
    ]  # fmt: skip
    path.write_text(relative("\n".join(lines)) + (f"\n{read}\n" if read else ""), encoding="utf-8")
    return path


def parameters(model: Path) -> dict[str, int]:
    """Parameters of a saved model by part, from the headers of its files."""
    from safetensors import safe_open

    names = {
        "vision_tower": "vision",
        "multi_modal_projector": "connector",
        "language_model": "language",
        "lm_head": "language",
    }
    counts: dict[str, int] = {}
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            for key in tensors.keys():  # noqa: SIM118  (safe_open is no mapping)
                part = next((name for mark, name in names.items() if mark in key), "other")
                size = 1
                for side in tensors.get_slice(key).get_shape():
                    size *= side
                counts[part] = counts.get(part, 0) + size
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the recipe")
    parser.add_argument("--data", help="the folder with the real data (BODA_DATA, else ../shared/data)")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/real", help="where data, run and answers go")
    parser.add_argument("--limit", type=int, help="at most so many questions of each set")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="where the report goes")
    chosen = parser.parse_args()
    data = real_data.data_folder(chosen.data)
    os.environ["BODA_DATA"] = str(data)  # CIFAR-10's files are read where they are
    convert(data, chosen.work / "data")
    model = train(chosen.work, chosen.overrides)
    results = evaluate(model, chosen.work, chosen.limit)
    command = " ".join(["python benchmarks/real.py", *chosen.overrides, *([f"--limit {chosen.limit}"] if chosen.limit else [])])
    print(report(chosen.work, results, command, chosen.out))


if __name__ == "__main__":
    try:
        main()
    except BodaError as error:
        raise SystemExit(str(error)) from None
