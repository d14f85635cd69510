"""Instruction tuning at the smallest: a mini-lm tuned on the songys chatbot, into `benchmarks/language_chat.md`.

    OMP_NUM_THREADS=2 python benchmarks/language_chat.py [--data DIR] [--work runs/language-chat] [key=value ...]

Splits the questions (one in twenty is held out, with every row that asks the same), trains `recipes/language-chat.yaml`, takes the
loss of the held-out answers before and after tuning through the stock forward pass, asks twenty held-out questions, and shows what
is trained of real rows under two prompts. Everything is resumed: stop it and start it again. What people write under the report's
heading "## Twenty answers, read" is kept when it is made again.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import ROOT, commit, relative
from real import about_machine, kept_reading, minutes_of, parameters

RECIPE = ROOT / "benchmarks/recipes/language-chat.yaml"
READ = "## Twenty answers, read"
NUM_ANSWERS = 20


def split(source: Path, out: Path) -> dict[str, int]:
    """train.csv and held.csv: a twentieth of the questions, chosen by their letters; how many rows each has."""
    with source.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    out.mkdir(parents=True, exist_ok=True)
    parts = {"train": [row for row in rows if not _is_held(row["Q"])], "held": [row for row in rows if _is_held(row["Q"])]}
    for name, chosen in parts.items():
        with (out / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(chosen)
    answers = {row["A"] for row in parts["train"]}
    known = sum(row["A"] in answers for row in parts["held"])
    return {name: len(chosen) for name, chosen in parts.items()} | {"known": known, "answers": len(answers)}


def _is_held(question: str) -> bool:
    return hashlib.sha256(question.strip().encode()).digest()[0] % 20 == 0


def held_rows(work: Path) -> list[dict]:
    with (work / "data/held.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def held_losses(work: Path) -> dict[str, float]:
    """Mean loss of the held-out answers' tokens before and after tuning, each row alone through transformers' forward pass."""
    import torch
    from safetensors.torch import load_file

    import boda
    from boda.data.render import Renderer
    from boda.data.sample import conversation
    from boda.recipe import template_text

    model, tokenizer = boda.load(work / "run/model", device="cpu", dtype=torch.float32)
    renderer = Renderer(tokenizer, template_text("koalpaca"), 0, 128)
    rows = [renderer.render(conversation(("user", row["Q"]), ("assistant", row["A"]))) for row in held_rows(work)]
    losses = {}
    for name, stage in (("before", "text"), ("after", "chat")):
        model.load_state_dict(load_file(work / f"run/stages/{stage}/model/trained.safetensors"), strict=False)
        total, count = 0.0, 0
        with torch.no_grad():
            for row in rows:
                ids, trained = torch.from_numpy(row.input_ids).long(), torch.from_numpy(row.trained)
                logits = model(input_ids=ids[None]).logits[0, :-1].float()
                total += float(torch.nn.functional.cross_entropy(logits[trained[1:]], ids[trained], reduction="sum"))
                count += int(trained.sum())
        losses[name] = total / count
    return losses | {"tokens": count}


def answers(work: Path) -> list[dict[str, str]]:
    """Twenty held-out questions, spread over the file, with what the model says and what the row says."""
    import boda
    from boda.models.generate import generate

    rows = held_rows(work)
    chosen = rows[:: len(rows) // NUM_ANSWERS][:NUM_ANSWERS]
    model, processor = boda.load(work / "run/model", device="cpu")
    said = generate(model, processor, [[{"role": "user", "content": row["Q"]}] for row in chosen])
    return [{"question": row["Q"], "answer": answer, "expected": row["A"]} for row, answer in zip(chosen, said)]


def curve(log: Path) -> list[str]:
    """Training and held-out loss along the tuning, as a table."""
    records = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines()]
    records = [record for record in records if record["stage"] == "chat"]
    steps, epochs = ({r["step"]: r[name] for r in records if name in r} for name in ("loss", "epoch"))
    held = {r["step"]: r["validation_loss"] for r in records if "validation_loss" in r}
    lines = ["| step | epoch | training loss (mean of 50 steps) | held-out loss |", "| ---: | ---: | ---: | ---: |"]
    for step, loss in sorted(held.items()):
        recent = [steps[number] for number in range(max(1, step - 49), step + 1)]
        lines.append(f"| {step} | {epochs[step]:.1f} | {sum(recent) / len(recent):.3f} | {loss:.3f} |")
    return lines


def labels(data: Path, work: Path) -> list[str]:
    """What `boda inspect` shows of two real rows under each prompt, trained tokens between ⟦ and ⟧."""
    from boda.train.inspect import inspect

    lines = []
    chosen = [
        ("kullm", "language", "kullm", data / "kullm_v2/data/user_oriented_instructions_eval.jsonl", {}),
        ("kullm", "all_tokens", "kullm", data / "kullm_v2/data/user_oriented_instructions_eval.jsonl", {}),
        ("koalpaca", "language", "csv", work / "data/train.csv", {"columns": {"question": "Q", "answer": "A"}}),
    ]
    for template, objective, source, path, more in chosen:
        recipe = {
            "model": {"kind": "language", "language": str(work / "run/model"), "chat_template": template},
            "stages": [
                {"name": "tune", "objective": objective, "train": ["language"], "batch_size": 4, "learning_rate": 1e-4}
                | {"max_length": 512, "data": [{"source": source, "path": str(path), "limit": 6, **more}]}
            ],
        }
        report = inspect(_loaded(recipe), samples=6)
        shown = sorted(report.values["samples"], key=lambda sample: sample["tokens"])[:1]
        for sample in shown:
            count = f"{sample['trained_tokens']} of {sample['tokens']} tokens trained"
            lines += [f"`{template}`, `objective: {objective}`, {count}:", ""]
            lines += ["```", *sample["text"].rstrip().split("\n"), "```", ""]
    return lines


def _loaded(recipe: dict):
    from boda.recipe import Recipe

    return Recipe.model_validate(recipe)


def report(work: Path, data: Path, counts: dict[str, int], out: Path) -> Path:
    losses, log = held_losses(work), work / "run/log.jsonl"
    records = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines() if '"loss"' in text]
    minutes = {name: minutes_of([record for record in records if record["stage"] == name]) for name in ("text", "chat")}
    steps = Counter(record["stage"] for record in records)
    path = out / "language_chat.md"
    said = answers(work)
    table = ["| question | answer | the row's answer |", "| --- | --- | --- |"]
    table += [f"| {row['question']} | {row['answer']} | {row['expected']} |" for row in said]
    reading = kept_reading(path, READ)
    lines = [
        "# A chatting model of two million parameters",
        "",
        f"{datetime.date.today():%Y-%m-%d}, commit `{commit()}`, `python benchmarks/language_chat.py`",
        "",
        about_machine(),
        "",
        f"{sum(parameters(work / 'run/model').values()):,} parameters. `mini-lm` with {steps['text']} steps on text that Boda writes "
        f"itself ({minutes['text']:.1f} minutes), then {steps['chat']} steps ({minutes['chat']:.1f} minutes) on "
        f"{counts['train']:,} of the songys chatbot's pairs in KoAlpaca's prompt; {counts['held']} are held out by their question. "
        f"Of their answers {counts['known']} ({counts['known'] / counts['held']:.0%}) are also an answer to some other question in "
        "training: for those, choosing well is enough.",
        "",
        f"Loss a token of the held-out answers ({losses['tokens']:,} tokens): **{losses['before']:.3f}** before tuning, "
        f"**{losses['after']:.3f}** after.",
        "",
        *curve(log),
        "",
        "Held-out loss while training: of the first 512 rows. Minutes are those of a machine that others used, too.",
        "",
        "## Twenty held-out questions",
        "",
        *table,
        "",
        "## What is trained, of real rows",
        "",
        "What stands between ⟦ and ⟧ is trained (`boda inspect`; on a terminal it is green).",
        "",
        *labels(data, work),
        reading or f"{READ}\n\nNot read yet.\n",
    ]
    path.write_text(relative("\n".join(lines)), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/language-chat")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    chosen = parser.parse_args()
    import boda

    counts = split(chosen.data / "songys_chatbot/ChatbotData.csv", chosen.work / "data")
    boda.train(RECIPE, out=chosen.work / "run", data_dir=chosen.work / "data", overrides=chosen.overrides)
    print(report(chosen.work, chosen.data, counts, chosen.out))


if __name__ == "__main__":
    main()
